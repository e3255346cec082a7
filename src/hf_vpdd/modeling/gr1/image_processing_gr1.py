"""Camera frames -> what GR-1 sees: bicubic resize *of the numbers, without antialias*, ImageNet's mean and deviation.

The released network was trained on torchvision 0.13's `Resize` of tensors (spec §2). Newer torchvision, PIL and the
usual image processors smooth before they shrink, and some cut to [0, 1]: off by up to 0.34 in what the network sees.
"""

from collections.abc import Sequence

import torch
from torch.nn import functional as F
from transformers.image_processing_base import ImageProcessingMixin  # noqa: F401 (diffusers looks for it here)

from ...errors import InputError
from ..vpdd.image_processing_vpdd import VPDDImageProcessorPil


IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class GR1ImageProcessorPil(VPDDImageProcessorPil):
    """Resizes square frames, bicubic (a = -0.75) without antialias, not cut to [0, 1]; then (x - mean) / std.

    "Pil" is how transformers marks image processors that do without torchvision; saved type: `GR1ImageProcessor`.

    Args:
        size: Side of the square that comes out, in pixels, or {"height": S, "width": S}.
        do_center_crop: Crop the centred square first. False, as officially: an image that is not square is an error.
        image_mean, image_std: Per colour, of pixels in [0, 1].
    """

    def __init__(
        self,
        size: int | dict = 224,
        do_center_crop: bool = False,
        image_mean: Sequence[float] = IMAGENET_MEAN,
        image_std: Sequence[float] = IMAGENET_STD,
        **kwargs,
    ):
        kwargs.pop("antialias", None)
        super().__init__(size=size, do_center_crop=do_center_crop, antialias=False, **kwargs)
        if len(image_mean) != 3 or len(image_std) != 3 or min(image_std) <= 0:
            raise InputError(f"image_mean, image_std: expected 3 numbers each, got {image_mean} and {image_std}.")
        self.image_mean = [float(value) for value in image_mean]
        self.image_std = [float(value) for value in image_std]

    def to_pixels(self, frames: torch.Tensor) -> torch.Tensor:
        """uint8 (..., 3, H, W) of any size -> float32 (..., 3, S, S), resized and normalised, on the same device."""
        pixels = frames.flatten(0, -4).float().div_(255) if frames.ndim > 3 else frames[None].float().div_(255)
        if pixels.shape[-2:] != (self.side, self.side):
            pixels = F.interpolate(
                pixels, size=(self.side, self.side), mode="bicubic", align_corners=False, antialias=False
            )
        mean, std = (pixels.new_tensor(value)[:, None, None] for value in (self.image_mean, self.image_std))
        return pixels.sub_(mean).div_(std).view(*frames.shape[:-2], self.side, self.side)

    def to_bytes(self, pixels: torch.Tensor) -> torch.Tensor:
        """The other way, without the resize: (..., 3, H, W) -> uint8 (..., H, W, 3), cut to 0..255."""
        mean, std = (pixels.new_tensor(value)[:, None, None] for value in (self.image_mean, self.image_std))
        levels = (pixels.float() * std + mean).mul_(255).round_().clamp_(0, 255)
        return levels.to(torch.uint8).movedim(-3, -1).contiguous()

    def frames_to_uint8(self, frames, name: str = "image") -> torch.Tensor:
        """Frames of any accepted kind -> uint8 (N, 3, H, W), cropped; all of one size, as `to_pixels` resizes them.

        Raises:
            InputError: A frame that is none, or frames of several sizes.
        """
        if isinstance(frames, (list, tuple)) and frames:
            frames = [self._one(frame, f"{name}, frame {i}") for i, frame in enumerate(frames)]
            for i, frame in enumerate(frames):
                if frame.shape[-2:] != frames[0].shape[-2:]:
                    side, other = frames[0].shape[-1], frame.shape[-1]
                    raise InputError(
                        f"{name}, frame {i}: expected {side}x{side} pixels as frame 0 has, got {other}x{other}; a "
                        "camera's frames are of one size."
                    )
            return torch.cat(frames)
        return super().frames_to_uint8(frames, name)

    def _crop_and_resize(self, frames: torch.Tensor, name: str) -> torch.Tensor:
        """Only the crop: resized bytes would be rounded, so `to_pixels` resizes."""
        height, width = frames.shape[-2:]
        if height == width:
            return frames
        if not self.do_center_crop:
            raise InputError(
                f"{name}: {height}x{width} is not square and this processor does not crop (do_center_crop=False)."
            )
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        return frames[..., top : top + side, left : left + side]
