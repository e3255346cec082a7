"""Draws from categorical distributions, in float64: float32 noise sharpens masked diffusion (arXiv 2409.02908)."""

from __future__ import annotations

import numpy as np
import torch

from ..errors import InputError


def uniform(shape, generator=None, device=None) -> torch.Tensor:
    """Noise in [0, 1), float64. A generator on the CPU serves any device, as in diffusers' `randn_tensor`; a list of
    generators gives each sample of the batch its own."""
    device = torch.device(device or "cpu")
    if isinstance(generator, (list, tuple)):
        if len(generator) != shape[0]:
            raise InputError(f"generator: {len(generator)} of them for a batch of {shape[0]}; give one per sample.")
        return torch.cat([uniform((1, *shape[1:]), g, device) for g in generator])
    source = device if generator is None else generator.device
    if source.type != device.type and source.type != "cpu":
        raise InputError(f"generator: it is on {source}, the tensors on {device}; make it on {device} or the CPU.")
    return torch.rand(shape, generator=generator, device=source, dtype=torch.float64).to(device)


def truncate(probs: torch.Tensor, mass: float) -> torch.Tensor:
    """VPDD's "top0.88r": keep a class if the likelier ones hold less than `mass`; classes equally likely share their
    fate, so that the result does not hang on the sort. probs (..., K) float32, summing to one -> renormalised.
    """
    kept = nucleus(probs, mass)
    return kept / kept.sum(-1, keepdim=True)


def nucleus(probs: torch.Tensor, mass: float) -> torch.Tensor:
    """`truncate` before it is renormalised: what `draw` takes as well."""
    if probs.is_cpu and not torch.compiler.is_compiling():
        ranked = torch.from_numpy(np.sort(probs.detach().numpy(), axis=-1))  # torch's CPU sort takes 20 times as long
    else:
        ranked = probs.detach().sort(dim=-1).values
    cdf = ranked.cumsum(-1, dtype=torch.float64)
    dropped = torch.searchsorted(cdf, (cdf[..., -1:] - mass).clamp(min=-1.0), right=True)
    return probs * (probs >= ranked.gather(-1, dropped))  # half the time of torch.where on a CPU


def draw(probs: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """One class per position, int64 (...), by inverting the CDF. probs (..., K) >= 0, u float64 (...) in [0, 1)."""
    cdf = probs.cumsum(-1, dtype=torch.float64)
    total = cdf[..., -1:]
    # u * total may round up to total; staying below it never draws a class of probability zero
    target = torch.minimum(u.unsqueeze(-1) * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cdf, target, right=True).squeeze(-1)
