"""Sizes of an official ICVF network, read off the shapes of its arrays."""

import re
from collections.abc import Mapping

import numpy as np

from ..errors import InputError
from ..modeling.vptr.configuration_vptr import OFFICIAL_BIT, VPTRConfig


def icvf_config(arrays: Mapping[str, np.ndarray], image_size: int | None = None) -> VPTRConfig:
    """The configuration of a network with these arrays (official names, see `icvf_names`).

    Args:
        image_size: of the frames, where shapes do not tell it (encoders that pool) or not surely (odd sizes).

    Raises:
        InputError: no encoder, or one of a kind that is not known.
    """
    heads = _head_fields(arrays)
    features = heads.pop("_features")
    if any(name.startswith("encoder/root_block/") for name in arrays):
        encoder = {"encoder": "bit", "bit_config": _bit_sizes(arrays), "image_size": image_size or 224}
    elif any(name.startswith("encoder/stack_blocks_") for name in arrays):
        encoder = {"encoder": "impala", **_impala_fields(arrays, features, image_size)}
    else:
        found = sorted({"/".join(name.split("/")[:2]) for name in arrays})[:4]
        raise InputError(
            f"no visual encoder is among these arrays (there are {', '.join(found)}): ICVF networks on states are no "
            "use to V-PTR; ResNetV2 and IMPALA encoders are read"
        )
    config = VPTRConfig(**encoder, **heads)
    if config.feature_size != features:
        raise InputError(
            f"the heads read {features} features, a {config.encoder} encoder of {config.image_size} px gives "
            f"{config.feature_size}: give the right --image-size"
        )
    return config


def _head_fields(arrays: Mapping[str, np.ndarray]) -> dict:
    kind = "multilinear" if _layers(arrays, "phi") else "monolithic"
    layers = _layers(arrays, "phi" if kind == "multilinear" else "net")
    if not layers:
        raise InputError("no value heads are among these arrays (phi, psi, T; or net): are these ICVF parameters?")
    first, widths = layers[0], [layer.shape[-1] for layer in layers]
    return {
        "value_head": kind,
        "value_hidden_sizes": widths if kind == "multilinear" else widths[:-1],
        "value_layer_norm": any("/LayerNorm_" in name for name in arrays),
        "num_value_heads": first.shape[0],
        "_features": first.shape[1] // (1 if kind == "multilinear" else 3),
    }


def _layers(arrays: Mapping[str, np.ndarray], part: str) -> list[np.ndarray]:
    found = {}
    for name, array in arrays.items():
        if match := re.fullmatch(rf"(?:vf/)?{part}/(?:layers|Dense)_(\d+)/kernel", name):
            found[int(match[1])] = array
    return [found[index] for index in sorted(found)]


def _bit_sizes(arrays: Mapping[str, np.ndarray]) -> dict:
    widths: dict[int, int] = {}
    depths: dict[int, int] = {}
    for name, array in arrays.items():
        if match := re.fullmatch(r"encoder/block(\d+)/unit(\d+)/conv3/kernel", name):
            block, unit = int(match[1]), int(match[2])
            widths[block], depths[block] = int(array.shape[-1]), max(depths.get(block, 0), unit)
    sizes = {"hidden_sizes": [widths[b] for b in sorted(widths)], "depths": [depths[b] for b in sorted(depths)]}
    root = int(arrays["encoder/root_block/conv_root/kernel"].shape[-1])
    return {**OFFICIAL_BIT, **sizes, "embedding_size": root}


def _impala_fields(arrays: Mapping[str, np.ndarray], features: int, image_size: int | None) -> dict:
    widths: dict[int, int] = {}
    convolutions: dict[int, int] = {}
    for name, array in arrays.items():
        if match := re.fullmatch(r"encoder/stack_blocks_(\d+)/Conv_(\d+)/kernel", name):
            stack = int(match[1])
            widths[stack] = int(array.shape[-1])
            convolutions[stack] = max(convolutions.get(stack, 0), int(match[2]) + 1)
    sizes = [widths[stack] for stack in sorted(widths)]
    side = round((features / sizes[-1]) ** 0.5)
    return {
        "impala_widths": sizes,
        "impala_blocks": (convolutions[0] - 1) // 2,
        "image_size": image_size or side * 2 ** len(sizes),
    }
