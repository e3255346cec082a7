"""The official networks under recipe weights: manifests, checkpoints and inputs, as the golden data defines them."""

import functools
import gzip
import json
import os
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPTextConfig

from hf_vpdd.conversion.vpdd import convert_vpdd
from hf_vpdd.conversion.vpdd_names import rename_policy, rename_vqvae
from hf_vpdd.modeling.vpdd import VPDDConfig, VPDDForRobotPolicy, VPDDForVideoPrediction
from hf_vpdd.modeling.vqvae import VPDDVQVAE, VPDDVQVAEConfig
from tests.conversion.official_layout import Sizes, save_policy, save_tokenizer, schedule


FIXTURES = Path(__file__).parents[1] / "fixtures"
GOLDENS = Path(os.environ.get("HF_VPDD_GOLDENS", Path(__file__).parents[3] / "shared" / "goldens"))

# Instructions come as vectors in these checks; CLIP's real tower would cost 38 M idle parameters.
STUB_TOWER = CLIPTextConfig(
    vocab_size=4,
    hidden_size=8,
    intermediate_size=8,
    num_hidden_layers=1,
    num_attention_heads=1,
    max_position_embeddings=4,
    projection_dim=1024,
    pad_token_id=0,
    bos_token_id=2,
    eos_token_id=3,
)


def official(model: str, text_config=STUB_TOWER):
    """(class, configuration, renaming function) of one of the four manifests."""
    if model == "vqvae":
        return VPDDVQVAE, VPDDVQVAEConfig(), rename_vqvae
    if model == "pretrain_meta":
        return VPDDForVideoPrediction, VPDDConfig.metaworld(text_config=text_config), rename_policy
    if model == "finetune_meta":
        return VPDDForRobotPolicy, VPDDConfig.metaworld(text_config=text_config), rename_policy
    return VPDDForRobotPolicy, VPDDConfig.rlbench(released=True, text_config=text_config), rename_policy


@functools.cache
def manifest(model: str) -> dict[str, dict]:
    """official name -> {shape, dtype, recipe or fixed value, crc32}, in official order."""
    everything = json.loads(gzip.decompress((FIXTURES / "vpdd_official_manifests.json.gz").read_bytes()))[model]
    defaults = {"abs": False, "dtype": "float32", "kind": "recipe", "seed": everything["weight_seed"]}
    return {t["name"]: {**defaults, "source": t["name"], **t} for t in everything["tensors"]}


def recipe_tensor(entry: dict) -> torch.Tensor:
    """The value of one tensor, checked against its checksum."""
    if entry["kind"] == "recipe":
        generator = np.random.default_rng([entry["seed"], zlib.crc32(entry["source"].encode())])
        value = generator.standard_normal(entry["shape"]).astype(np.float32)
        value = np.abs(value) if entry["abs"] else value
        value = value * np.float32(entry["scale"]) + np.float32(entry["offset"])
    elif entry["fixed"] == "tril":
        value = np.tril(np.ones(entry["shape"], entry["dtype"]))
    else:
        value = np.full(entry["shape"], entry["value"], entry["dtype"])
    assert zlib.crc32(np.ascontiguousarray(value).tobytes()) == entry["crc32"], entry["name"]
    return torch.from_numpy(value)


@functools.cache
def _vqvae_state() -> dict[str, torch.Tensor]:
    return {name: recipe_tensor(entry) for name, entry in manifest("vqvae").items()}


def official_state(model: str) -> dict[str, torch.Tensor]:
    """The complete official state_dict under recipe weights; its noise schedule is the one in the golden folder, or
    computed where that is absent."""
    if model == "vqvae":
        return _vqvae_state()
    diffusion = GOLDENS / "vpdd_diffusion.npz"
    stored = np.load(diffusion) if diffusion.is_file() else None
    buffers = schedule(Sizes(bins=360 if model == "finetune_rlbench" else 48))
    state = {}
    for name, entry in manifest(model).items():
        nested = name.split(".vqvae.")[-1]
        if nested in _vqvae_state():
            state[name] = _vqvae_state()[nested]  # the same tensor in both places: torch.save writes it once
        elif entry.get("fixed") != "npz":
            state[name] = recipe_tensor(entry)
        elif stored is None:
            state[name] = buffers[name]
        else:
            state[name] = torch.from_numpy(stored[entry["npz_key"]])
            assert zlib.crc32(stored[entry["npz_key"]].tobytes()) == entry["crc32"], name
    return state


def official_file(model: str, folder: Path) -> Path:
    """That state_dict as the official trainers save it."""
    if model == "vqvae":
        sizes = {"embedding_dim": 256, "n_hiddens": 256, "n_res_layers": 6, "resolution": 96}
        return save_tokenizer(folder / "last.ckpt", official_state(model), **sizes)
    return save_policy(folder / "state.pt", official_state(model))


def convert(model: str):
    """The official file of `model`, converted and loaded as a user would: (network in eval mode, report)."""
    option = "vqvae" if model == "vqvae" else "policy"
    # not tmp_path: pytest would keep the hundreds of megabytes
    with tempfile.TemporaryDirectory() as folder:
        report = convert_vpdd(Path(folder, "converted"), **{option: official_file(model, Path(folder))})
        network = official(model)[0].from_pretrained(report.out)
    assert not network.training
    return network, report


def build(model: str):
    """The network alone."""
    return convert(model)[0]


def clip(name: str, batch: int, frames: int) -> torch.Tensor:
    """The pixels of one tokenizer case, (B, 3, T, 96, 96) in [-0.5, 0.5]."""
    generator = np.random.default_rng([0, zlib.crc32(f"input/{name}".encode())])
    coarse = generator.random((batch, 3, frames, 12, 12), dtype=np.float32)
    fine = generator.random((batch, 3, frames, 96, 96), dtype=np.float32)
    half = np.float32(0.5)
    return torch.from_numpy(half * coarse.repeat(8, axis=-2).repeat(8, axis=-1) + half * fine - half)


def rlbench_images() -> torch.Tensor:
    """(3, 4, 3, 128, 128) in [-0.5, 0.5]."""
    generator = np.random.default_rng([0, zlib.crc32(b"input/rlbench/imgs")])
    return torch.from_numpy(generator.random((3, 4, 3, 128, 128), dtype=np.float32) - np.float32(0.5))


class Reference:
    """Expected arrays of the official code: the whole golden set, or the thinned sample that ships with the tests."""

    def __init__(self, source: str):
        if source == "slice":
            self._files = [np.load(FIXTURES / "vpdd_official_slice.npz")]
        elif GOLDENS.is_dir():
            self._files = [np.load(GOLDENS / f"vpdd_{name}.npz") for name in ("vqvae", "denoisers")]
        else:
            pytest.skip(f"the whole golden set is not at {GOLDENS}: set HF_VPDD_GOLDENS to its folder")

    def __contains__(self, name: str) -> bool:
        return any(name in file for file in self._files)

    def __getitem__(self, name: str) -> torch.Tensor:
        array = next(file[name] for file in self._files if name in file)
        return torch.from_numpy(array.astype(np.int64) if array.dtype == np.int16 else array)

    def stride(self, name: str) -> int:
        return int(self[f"stride/{name}"]) if f"stride/{name}" in self else 1
