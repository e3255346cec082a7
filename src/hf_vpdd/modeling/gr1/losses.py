"""The three losses of GR-1 (spec §3), each a mean over what is valid."""

import torch
from torch.nn import functional as F


def masked_mean(values: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """Mean of `values` where `keep` (same shape, bool) is set; 0 where nothing is."""
    keep = keep.to(values.dtype)
    return (values * keep).sum() / keep.sum().clamp(min=1)


def arm_loss(predicted: torch.Tensor, target: torch.Tensor, keep: torch.BoolTensor) -> torch.Tensor:
    """Smooth L1 (beta 1). predicted, target (B, T, chunk, A); keep (B, T, chunk)."""
    return masked_mean(F.smooth_l1_loss(predicted.float(), target.float(), reduction="none").mean(-1), keep)


def gripper_loss(logits: torch.Tensor, opened: torch.Tensor, keep: torch.BoolTensor) -> torch.Tensor:
    """Binary cross-entropy. logits, opened (B, T, chunk), opened in [0, 1]; keep likewise."""
    error = F.binary_cross_entropy_with_logits(logits.float(), opened.float(), reduction="none")
    return masked_mean(error, keep)


def video_losses(patches: torch.Tensor, targets: torch.Tensor, keep: torch.BoolTensor) -> torch.Tensor:
    """Mean squared error of each view, (V,). patches, targets (B, V, T, P, D); keep (B, T)."""
    error = (patches.float() - targets.float()).square().mean((-2, -1))  # (B, V, T)
    keep = keep[:, None].to(error.dtype)
    return (error * keep).sum((0, 2)) / keep.sum().clamp(min=1)
