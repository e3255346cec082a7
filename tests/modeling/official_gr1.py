"""The official GR-1 under recipe weights: manifests, state_dicts and windows, as the golden data defines them."""

import functools
import gzip
import json
import zlib

import numpy as np
import pytest
import torch

from hf_vpdd.conversion.gr1_names import convert_tensors, rename, snapshot_table
from hf_vpdd.modeling.gr1 import GR1Config, GR1ForRobotPolicy
from hf_vpdd.modeling.gr1.image_processing_gr1 import GR1ImageProcessorPil

from .official import FIXTURES, GOLDENS


CAMERAS = (("static", 8), ("wrist", 7))  # name and how many times the stored picture is enlarged


def config_of(model: str, **overrides) -> GR1Config:
    """`GR1Config` of "gr1_full" (the defaults) or "gr1_tiny"."""
    if model == "gr1_full":
        return GR1Config(**overrides)
    described = manifests()["gr1_tiny"]
    config, mae, clip = described["config"], described["towers"]["mae"], described["towers"]["clip"]
    vision = {
        "hidden_size": mae["embed_dim"],
        "num_hidden_layers": mae["depth"],
        "num_attention_heads": mae["num_heads"],
        "intermediate_size": mae["mlp_ratio"] * mae["embed_dim"],
        "layer_norm_eps": mae["norm_eps"],
    }
    text = {
        "vocab_size": clip["vocab_size"],
        "hidden_size": clip["transformer_width"],
        "intermediate_size": 4 * clip["transformer_width"],
        "num_hidden_layers": clip["transformer_layers"],
        "num_attention_heads": clip["transformer_heads"],
        "max_position_embeddings": clip["context_length"],
        "projection_dim": clip["embed_dim"],
        "bos_token_id": 510,
        "eos_token_id": 511,
        "pad_token_id": 0,
    }
    sizes = {
        "history_frames": config["seq_len"],
        "hidden_size": config["embed_dim"],
        "trunk_layers": config["n_layer"],
        "trunk_heads": config["n_head"],
        "trunk_ff_size": 4 * config["embed_dim"],
        "num_latents": config["resampler_num_latents"],
        "resampler_layers": config["resampler_depth"],
        "resampler_heads": config["resampler_heads"],
        "resampler_head_dim": config["resampler_dim_head"],
        "resampler_ff_size": 4 * config["img_feat_dim"],
        "decoder_ff_size": 4 * config["embed_dim"],
    }
    return GR1Config(**{"vision_config": vision, "text_config": text, **sizes, **overrides})


@functools.cache
def manifests() -> dict:
    return json.loads(gzip.decompress((FIXTURES / "gr1_official_manifests.json.gz").read_bytes()))


@functools.cache
def manifest(model: str) -> dict[str, dict]:
    """official name -> {shape, and of the tiny model the recipe}, in official order."""
    return {entry["name"]: entry for entry in manifests()[model]["tensors"]}


def recipe_tensor(entry: dict, arrays) -> torch.Tensor:
    """The value of one tensor, checked against its checksum."""
    if entry["kind"] == "recipe":
        generator = np.random.default_rng([0, zlib.crc32(entry["source"].encode())])
        value = generator.standard_normal(entry["shape"]).astype(np.float32)
        value = np.abs(value) if entry["abs"] else value
        value = value * np.float32(entry["scale"]) + np.float32(entry["offset"])
    elif entry["fixed"] == "const":
        value = np.full(entry["shape"], entry["value"], entry["dtype"])
    elif entry["fixed"] == "tril":
        value = np.tril(np.ones(entry["shape"], entry["dtype"]))
    else:
        value = arrays[entry["npz_key"]]
    assert zlib.crc32(np.ascontiguousarray(value).tobytes()) == entry["crc32"], entry["name"]
    return torch.from_numpy(value)


class Reference:
    """Expected arrays of the official code, for one model: "gr1_tiny" (ships with the tests, thinned), or from the
    golden folder."""

    def __init__(self, model: str, thinned: bool = False):
        self.model = model
        if not thinned and not GOLDENS.is_dir():
            pytest.skip(f"the whole golden set is not at {GOLDENS}: set HF_VPDD_GOLDENS to its folder")
        self.arrays = dict(np.load(FIXTURES / "gr1_official_tiny.npz" if thinned else GOLDENS / f"{model}.npz"))
        if model == "gr1_tiny":
            self.tensors = list(manifest(model).values())
        else:
            self.tensors = json.loads((GOLDENS / f"{model}_keys.json").read_text())["tensors"]

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    def __getitem__(self, name: str) -> torch.Tensor:
        return torch.from_numpy(self.arrays[name])

    def state(self) -> dict[str, torch.Tensor]:
        """The official state_dict; tensors without effect are empty."""
        return {
            entry["name"]: torch.empty(0) if entry.get("unused") else recipe_tensor(entry, self.arrays)
            for entry in self.tensors
        }

    def network(self) -> GR1ForRobotPolicy:
        """Ours with the official weights put through the renaming; eval mode."""
        config, state = config_of(self.model), self.state()
        renaming = rename(state, snapshot_table(config, state))
        assert not renaming.problems()
        weights = convert_tensors(state, renaming.kept)
        network, info = GR1ForRobotPolicy.from_pretrained(
            None, config=config, state_dict=weights, output_loading_info=True
        )
        assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        return network.eval()

    def frames(self, case: str) -> dict[str, torch.Tensor]:
        """Preprocessed frames of "window" or "short": camera -> (frames, 3, 224, 224)."""
        processor, frames = GR1ImageProcessorPil(), {}
        for camera, times in CAMERAS:
            small = self[f"{case}/{camera}_lowres"]
            frames[camera] = processor(small.repeat_interleave(times, 1).repeat_interleave(times, 2))["pixel_values"]
        return frames

    def states(self, case: str) -> torch.Tensor:
        """(frames, 7) in network units: arm, then the gripper as 0 or 1."""
        gripper = (self[f"{case}/gripper"].float() + 1) / 2
        return torch.cat((self[f"{case}/arm"].float(), gripper[:, None]), dim=1)
