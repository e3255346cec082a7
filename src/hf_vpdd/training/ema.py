"""Exponential moving average of the trainable weights, swapped in for evaluation and saving."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch


class Ema:
    """`shadow = decay * shadow + (1 - decay) * weight`, float32.

    With a warm-up, so that short runs are not dominated by the initial weights: the decay is at most (1 + n) /
    (10 + n) after n updates. Or, as the official code does (every 10 steps, start 2000), with a hard copy of the
    weights until step `start`, and the full decay from there.

    Of a weight that is cut into slices (FSDP2, ZeRO 3), each process averages its own; `ShardedModel` gathers them.

    Args:
        every: steps between two updates. start: until this step the average is a copy; 0: warm-up instead.
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter], decay: float, every: int = 1, start: int = 0):
        self.parameters = [p for p in parameters if p.requires_grad]
        self.decay, self.every, self.start = decay, every, start
        self.updates = 0
        self.shadow = [_here(p).clone().float() for p in self.parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Step number `step`, counted from 1, has been taken."""
        if step % self.every:
            return
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        if self.start:
            decay = self.decay if step >= self.start else 0.0
        weights = [_here(p) for p in self.parameters]
        if any(w.dtype != torch.float32 for w in weights):
            weights = [w.float() for w in weights]
        torch._foreach_lerp_(self.shadow, weights, 1.0 - decay)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """The parameters hold the average inside the block and are exactly what they were after it."""
        kept = [p.detach().clone() for p in self.parameters]
        with torch.no_grad():
            for p, s in zip(self.parameters, self.shadow, strict=True):
                p.copy_(s)
        try:
            yield
        finally:
            with torch.no_grad():
                for p, k in zip(self.parameters, kept, strict=True):
                    p.copy_(k)

    def state_dict(self) -> dict:
        return {"updates": self.updates, "shadow": self.shadow}

    def load_state_dict(self, state: dict) -> None:
        if len(state["shadow"]) != len(self.shadow):
            raise ValueError(f"the average has {len(state['shadow'])} tensors, the model trains {len(self.shadow)}")
        self.updates = int(state["updates"])
        for mine, saved in zip(self.shadow, state["shadow"], strict=True):
            mine.copy_(saved)


def _here(parameter: torch.nn.Parameter) -> torch.Tensor:
    """The weight, or of a sliced one what this process holds."""
    if hasattr(parameter, "ds_tensor"):  # DeepSpeed's ZeRO 3
        return parameter.ds_tensor.detach()
    detached = parameter.detach()
    return detached.to_local() if hasattr(detached, "to_local") else detached
