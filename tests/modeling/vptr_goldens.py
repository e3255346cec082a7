"""The goldens of V-PTR: official Flax parameters poured into our networks."""

import os
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from hf_vpdd.conversion.icvf_names import convert_icvf, rename_icvf
from hf_vpdd.modeling.vptr import VPTRConfig, VPTRForValuePrediction
from hf_vpdd.modeling.vptr.value_heads import build_value_heads


GOLDENS = Path(os.environ.get("HF_VPDD_GOLDENS", Path(__file__).resolve().parents[3] / "shared" / "goldens"))


def load(name: str):
    path = GOLDENS / name
    if not path.exists():
        pytest.skip(f"the goldens are not here: {path}")
    return np.load(path, allow_pickle=False)


class ValueNetwork(torch.nn.Module):
    """Value heads on plain vectors: what `icvf_loss` needs of a model, for goldens without an encoder."""

    def __init__(self, config: VPTRConfig, size: int):
        super().__init__()
        self.value_heads = build_value_heads(config, size)

    def encode(self, vectors: torch.Tensor) -> torch.Tensor:
        return vectors


def tensors(data, prefix: str) -> dict[str, np.ndarray]:
    return {key[len(prefix) :]: data[key] for key in data.files if key.startswith(prefix)}


def value_network(data, case: str, group: str = "params") -> torch.nn.Module:
    """The network of one case, with the parameters of one group."""
    weights = convert_icvf(tensors(data, f"{case}/{group}/"))
    config = VPTRConfig.tiny(
        image_size=32, impala_widths=[4, 8, 8], impala_blocks=1, value_hidden_sizes=[24, 20], num_value_heads=2,
        value_layer_norm="layernorm" in case, value_head="monolithic" if case == "monolithic" else "multilinear",
    )  # fmt: skip
    network = VPTRForValuePrediction(config) if case.startswith("impala") else ValueNetwork(config, 7)
    network.load_state_dict(weights)
    return network


def recipe(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A leaf of the full-size encoder, by VPTR.md's recipe."""
    value = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    leaf = name.rsplit("/", 1)[-1]
    if leaf == "kernel":
        fan = np.prod(shape[:-1]) if name.startswith("encoder/") else shape[-2]
        return value / np.float32(np.sqrt(fan))
    return 1 + np.float32(0.1) * value if leaf == "scale" else np.float32(0.1) * value


def shape_of(text: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", text))


def observation(array: np.ndarray) -> torch.Tensor:
    """Vectors as they are; uint8 NHWC images as the processor hands them on."""
    if array.dtype == np.uint8:
        return torch.from_numpy(array).permute(0, 3, 1, 2).float() / 255
    return torch.from_numpy(array)


__all__ = ["GOLDENS", "load", "observation", "recipe", "rename_icvf", "shape_of", "tensors", "value_network"]
