"""Channels-last weights: with them bf16 convolutions on the CPU are fast, without them slower than float32."""

import torch
from torch import nn


def to_channels_last(model: nn.Module) -> nn.Module:
    """In place, 2-D convolutions only; `Module.to(memory_format=...)` refuses models that have 3-D ones too."""
    for parameter in model.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return model
