"""Target networks: slow copies that the trainer owns. They are checkpointed with it and never exported."""

import copy

import torch
from torch import nn


def make_target(online: nn.Module) -> nn.Module:
    """A frozen copy in evaluation mode."""
    return copy.deepcopy(online).requires_grad_(False).eval()


@torch.no_grad()
def update_target(target: nn.Module, online: nn.Module, rate: float) -> None:
    """target <- rate * online + (1 - rate) * target; `rate=1` copies. Buffers are copied."""
    pairs = [
        (slow.data, fast.detach().to(slow.dtype))
        for slow, fast in zip(target.parameters(), online.parameters(), strict=True)
    ]
    if pairs:
        torch._foreach_lerp_([slow for slow, _ in pairs], [fast for _, fast in pairs], rate)
    for slow, fast in zip(target.buffers(), online.buffers(), strict=True):
        slow.copy_(fast)
