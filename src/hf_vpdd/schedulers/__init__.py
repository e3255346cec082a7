"""Discrete diffusion: corrupting tokens, the training loss, and several ways back, exchangeable on the same weights.

sampler = build_sampler("confidence", scheduler.config)     # or ConfidenceScheduler.from_config(scheduler.config)
"""

from ..errors import InputError
from .scheduling_confidence import ConfidenceScheduler
from .scheduling_entropy_bound import EntropyBoundScheduler
from .scheduling_halton import HaltonScheduler
from .scheduling_mask_and_replace import (
    MaskAndReplaceLoss,
    MaskAndReplaceScheduler,
    MaskAndReplaceSchedulerOutput,
)


SAMPLERS: dict[str, type[MaskAndReplaceScheduler]] = {
    "ancestral": MaskAndReplaceScheduler,
    "confidence": ConfidenceScheduler,
    "entropy_bound": EntropyBoundScheduler,
    "halton": HaltonScheduler,
}


def build_sampler(name: str, config) -> MaskAndReplaceScheduler:
    """The sampler of that name for the diffusion of `config` (another scheduler's, or a dictionary).

    Raises:
        InputError: There is none of that name.
    """
    check_sampler(name)
    return SAMPLERS[name].from_config(config)


def check_sampler(name: str | None) -> None:
    """Raises an `InputError` that lists the samplers, unless `name` is one of them or None."""
    if name is not None and name not in SAMPLERS:
        raise InputError(f"sampler: {name!r} is none of {', '.join(SAMPLERS)}.")


__all__ = [
    "SAMPLERS",
    "ConfidenceScheduler",
    "EntropyBoundScheduler",
    "HaltonScheduler",
    "MaskAndReplaceLoss",
    "MaskAndReplaceScheduler",
    "MaskAndReplaceSchedulerOutput",
    "build_sampler",
    "check_sampler",
]
