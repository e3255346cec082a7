"""Camera frames -> what V-PTR sees: square crop, bilinear resize, [0, 1]; no mean is subtracted (spec §1.6)."""

import torch
from transformers.image_processing_base import ImageProcessingMixin  # noqa: F401 (diffusers looks for it here)

from ..vpdd.image_processing_vpdd import VPDDImageProcessorPil


class VPTRImageProcessorPil(VPDDImageProcessorPil):
    """Crops the largest centred square, resizes it, divides by 255.

    Args:
        size: Side of the square that comes out, in pixels, or {"height": S, "width": S}.
        do_center_crop, antialias: As in `VPDDImageProcessorPil`.
    """

    def __init__(self, size: int | dict = 224, do_center_crop: bool = True, antialias: bool = True, **kwargs):
        super().__init__(size=size, do_center_crop=do_center_crop, antialias=antialias, **kwargs)

    def to_pixels(self, frames: torch.Tensor) -> torch.Tensor:
        """uint8 of any shape -> float32 in [0, 1], same shape and device."""
        return frames.float().div_(255)


__all__ = ["VPTRImageProcessorPil"]
