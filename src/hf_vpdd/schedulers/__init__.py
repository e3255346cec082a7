"""Discrete diffusion: corrupting tokens, the training loss, and the way back."""

from .scheduling_mask_and_replace import (
    MaskAndReplaceLoss,
    MaskAndReplaceScheduler,
    MaskAndReplaceSchedulerOutput,
)


__all__ = ["MaskAndReplaceLoss", "MaskAndReplaceScheduler", "MaskAndReplaceSchedulerOutput"]
