"""Camera frames -> what the network sees: square crop, bilinear resize, [-0.5, 0.5] (VPDD §4.1). No torchvision."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from transformers.image_processing_base import BatchFeature, ImageProcessingMixin  # noqa: F401 (see below)
from transformers.image_processing_utils import BaseImageProcessor

from ...errors import InputError


# ImageProcessingMixin is imported for diffusers: it recognises a component of a foreign module by the base class found
# in that module's namespace.


class VPDDImageProcessorPil(BaseImageProcessor):
    """Crops the largest centred square, resizes it, scales to [-0.5, 0.5].

    "Pil" is how transformers marks image processors that do without torchvision; saved type: `VPDDImageProcessor`.

    Args:
        size: Side of the square that comes out, in pixels, or {"height": S, "width": S}.
        do_center_crop: Crop the centred square first. False: an image that is not square is an error.
        antialias: Low-pass before shrinking, as PIL does. The official code does without.
    """

    model_input_names = ["pixel_values"]

    def __init__(self, size: int | dict = 96, do_center_crop: bool = True, antialias: bool = True, **kwargs):
        kwargs.pop("image_processor_type", None)
        super().__init__(**kwargs)
        sides = {size} if isinstance(size, int) else set(dict(size).values())
        side = sides.pop() if len(sides) == 1 else 0
        if not isinstance(side, int) or side < 1:
            raise InputError(f"size: expected one positive side in pixels for a square image, got {size!r}.")
        self.size = {"height": side, "width": side}
        self.do_center_crop = do_center_crop
        self.antialias = antialias

    @property
    def side(self) -> int:
        """Side of the square that comes out, in pixels."""
        return self.size["height"]

    def preprocess(self, images, return_tensors: str | None = "pt", **kwargs) -> BatchFeature:
        """One image or a list of them -> `pixel_values` float32 (N, 3, S, S) in [-0.5, 0.5].

        Args:
            images: PIL image, uint8 array (H,W,3) or (N,H,W,3), uint8 tensor ((3,H,W) too), or a list of these.
            return_tensors: "pt" or "np".

        Raises:
            InputError: An image has the wrong dtype or shape.
        """
        if kwargs:
            raise InputError(f"image processor: unknown argument {sorted(kwargs)[0]!r}.")
        pixels = self.to_pixels(self.frames_to_uint8(images))
        return BatchFeature({"pixel_values": pixels}, tensor_type=return_tensors)

    def frames_to_uint8(self, frames, name: str = "image") -> torch.Tensor:
        """Frames of any accepted kind -> uint8 (N, 3, S, S), cropped and resized.

        Args:
            frames: One frame, a stack of frames, or a list of frames (which may differ in size).
            name: What the error messages call the input.
        """
        if isinstance(frames, (list, tuple)):
            if not frames:
                raise InputError(f"{name}: the list of frames is empty; give at least one image.")
            return torch.cat([self._one(frame, f"{name}, frame {i}") for i, frame in enumerate(frames)])
        return self._one(frames, name)

    def to_pixels(self, frames: torch.Tensor) -> torch.Tensor:
        """uint8 of any shape -> float32 in [-0.5, 0.5], same shape and device."""
        return frames.float().div_(255).sub_(0.5)

    def _one(self, frame, name: str) -> torch.Tensor:
        """One frame or one stack of equal frames -> uint8 (N, 3, S, S)."""
        if isinstance(frame, Image.Image):
            frame = np.asarray(frame.convert("RGB"))
        if isinstance(frame, np.ndarray):
            _check_frame(frame.shape, frame.dtype, frame.dtype == np.uint8, frame.shape[-1:] == (3,), name)
            # copy=True only where torch needs it: negative strides (flipped views) and read-only arrays
            usable = frame.flags.writeable and all(stride >= 0 for stride in frame.strides)
            frame = torch.from_numpy(frame if usable else frame.copy()).movedim(-1, -3)
        elif isinstance(frame, torch.Tensor):
            last = frame.shape[-1:] == (3,)
            first = not last and frame.ndim >= 3 and frame.shape[-3] == 3
            _check_frame(frame.shape, frame.dtype, frame.dtype == torch.uint8, last or first, name)
            frame = frame if first else frame.movedim(-1, -3)
        else:
            raise InputError(
                f"{name}: expected a uint8 array (H, W, 3), a PIL image or a torch tensor, got {type(frame).__name__}."
            )
        if frame.ndim == 3:
            frame = frame[None]
        return self._crop_and_resize(frame, name)

    def _crop_and_resize(self, frames: torch.Tensor, name: str) -> torch.Tensor:
        height, width = frames.shape[-2:]
        side = min(height, width)
        if height != width:
            if not self.do_center_crop:
                raise InputError(
                    f"{name}: {height}x{width} is not square and this processor does not crop (do_center_crop=False)."
                )
            top, left = (height - side) // 2, (width - side) // 2
            frames = frames[..., top : top + side, left : left + side]
        if side == self.side:
            return frames.contiguous()
        if frames.device.type == "cpu":  # the byte kernel exists on the CPU only; it is also the fast one there
            return F.interpolate(
                frames.contiguous(), size=(self.side, self.side), mode="bilinear", antialias=self.antialias
            )
        resized = F.interpolate(frames.float(), size=(self.side, self.side), mode="bilinear", antialias=self.antialias)
        return resized.round_().clamp_(0, 255).to(torch.uint8)


def _check_frame(shape: Sequence[int], dtype, is_bytes: bool, has_colour: bool, name: str) -> None:
    if not has_colour or len(shape) not in (3, 4) or 0 in shape:
        raise InputError(f"{name}: expected an RGB image (height, width, 3) or a stack of them, got {tuple(shape)}.")
    if not is_bytes:
        raise InputError(
            f"{name}: expected dtype uint8 with values 0..255, got {dtype}. "
            "Convert it, e.g. (image * 255).round().astype('uint8') for floats in [0, 1]."
        )
