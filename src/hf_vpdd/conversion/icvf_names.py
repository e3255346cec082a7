"""What every array of official ICVF parameters (Flax) is called here (VPTR.md; spec vptr.md §1).

Names as `encoder/block1/unit01/conv1/kernel` or `vf/phi/layers_0/kernel`; without an encoder the heads stand at the
top. Dense kernels are (in, out), convolutions (h, w, in, out); two heads share the leading axis of everything in `vf`.
"""

import re
from collections.abc import Iterable, Mapping

import numpy as np
import torch


_HEADS = {"phi": "phi", "psi": "psi", "T": "intent"}
_MAPS = {"matrix_a": "state_map", "matrix_b": "goal_map"}


def rename_icvf(name: str, last_layer: int | None = None) -> str | None:
    """Our name for an official one, None if no rule knows it. `last_layer`: index of the monolithic output layer."""
    if match := re.fullmatch(r"encoder/root_block/conv_root/kernel", name):
        return "model.encoder.bit.embedder.convolution.weight"
    if match := re.fullmatch(r"encoder/norm-pre-head/(scale|bias)", name):
        return f"model.encoder.bit.norm.{_leaf(match[1])}"
    if match := re.fullmatch(r"encoder/block(\d+)/unit(\d+)/(conv|gn)(\d|_proj)/(kernel|scale|bias)", name):
        place = f"model.encoder.bit.encoder.stages.{int(match[1]) - 1}.layers.{int(match[2]) - 1}"
        part = "downsample.conv" if match[4] == "_proj" else f"{'norm' if match[3] == 'gn' else 'conv'}{match[4]}"
        return f"{place}.{part}.{_leaf(match[5])}"
    if match := re.fullmatch(r"encoder/stack_blocks_(\d+)/Conv_(\d+)/(kernel|bias)", name):
        index = int(match[2])
        part = "conv" if index == 0 else f"blocks.{(index - 1) // 2}.{(index - 1) % 2}"
        return f"model.encoder.stacks.{match[1]}.{part}.{_leaf(match[3])}"
    name = name.removeprefix("vf/")
    if match := re.fullmatch(r"(phi|psi|T|net)/(?:layers|Dense)_(\d+)/(kernel|bias)", name):
        if match[1] == "net" and int(match[2]) == last_layer:
            return f"value_heads.net.out.{_leaf(match[3])}"
        return f"value_heads.{_HEADS.get(match[1], 'net')}.layers.{match[2]}.{_leaf(match[3])}"
    if match := re.fullmatch(r"(phi|psi|T|net)/LayerNorm_(\d+)/(scale|bias)", name):
        return f"value_heads.{_HEADS.get(match[1], 'net')}.norms.{match[2]}.{_leaf(match[3])}"
    if match := re.fullmatch(r"(matrix_a|matrix_b)/(kernel|bias)", name):
        return f"value_heads.{_MAPS[match[1]]}.{_leaf(match[2])}"
    return None


def _leaf(theirs: str) -> str:
    return "bias" if theirs == "bias" else "weight"


def convert_icvf(arrays: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Official parameters under our names and in our layout: a state_dict of [`VPTRForValuePrediction`].

    Raises:
        ValueError: a name that no rule knows.
    """
    last = _last_layer(arrays)
    converted, unknown = {}, []
    for name, array in arrays.items():
        ours = rename_icvf(name, last)
        if ours is None:
            unknown.append(name)
            continue
        tensor = torch.from_numpy(np.array(array))  # a copy: arrays of files are read only
        if name.endswith("/kernel"):
            tensor = tensor.permute(3, 2, 0, 1) if ours.startswith("model.encoder.") else tensor.transpose(-1, -2)
        elif ours.startswith("model.encoder."):
            tensor = tensor.flatten()
        converted[ours] = tensor.contiguous()
    if unknown:
        raise ValueError(f"{len(unknown)} arrays are unknown, {unknown[:3]} ...: are these ICVF parameters?")
    return converted


def _last_layer(names: Iterable[str]) -> int | None:
    found = [int(match[1]) for name in names if (match := re.search(r"(?:^|/)net/(?:layers|Dense)_(\d+)/", name))]
    return max(found) if found else None
