"""What the samplers that only ever unmask share: which positions to reveal, and at which timesteps.

They differ in *which* masked positions go first. How many are left masked is the same for all but the entropy bound:
the share gamma_bar of the timestep that comes next, so the t that the network is told always fits what it sees, in
every modality of a joint chain alike.
"""

from __future__ import annotations

import torch

from ..errors import InputError


def reveal(
    sample: torch.Tensor, x_0: torch.Tensor, score: torch.Tensor, count: torch.Tensor, mask: int
) -> torch.Tensor:
    """Puts x_0 at the `count` masked positions of highest `score`; ties go to the earlier position.

    sample, x_0 int64 (B, L), score (B, L), count int64 (B, 1); a visible token never changes.
    """
    hidden = sample == mask
    order = score.masked_fill(~hidden, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    return torch.where(hidden & (ranks(order) < count), x_0, sample)


def ranks(order: torch.Tensor) -> torch.Tensor:
    """The place of every position in `order` (..., L), which lists positions, first to last."""
    places = torch.arange(order.shape[-1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(-1, order, places)


def how_many(sample: torch.Tensor, share: torch.Tensor, mask: int) -> torch.Tensor:
    """How many of the masked positions to reveal so that floor(share * L) stay masked: int64 (B, 1)."""
    stay = (share * sample.shape[-1] + 1e-9).floor().long()
    return ((sample == mask).sum(-1, keepdim=True) - stay).clamp(min=0)


def cosine_timesteps(gammas: torch.Tensor, steps: int) -> list[int]:
    """MaskGIT's cosine schedule: before step i, cos(pi/2 * i/n) of the tokens are masked. The timesteps whose
    gamma_bar is nearest to that, falling strictly. gammas (T,) rises with t."""
    top = len(gammas)
    if not 1 <= steps <= top:
        raise InputError(f"num_inference_steps is {steps}; it must lie in 1..{top}.")
    shares = torch.cos(torch.arange(steps, dtype=torch.float64) / steps * (torch.pi / 2))
    nearest = (shares[:, None] - gammas).abs().argmin(-1).tolist()
    nearest[0], timesteps = top - 1, []  # a plan begins with everything masked
    for i, t in enumerate(nearest):
        timesteps.append(max(steps - 1 - i, min([t, *[last - 1 for last in timesteps[-1:]]])))
    return timesteps
