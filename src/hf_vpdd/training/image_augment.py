"""Random crops and colours of camera frames (spec vptr.md §1.5, §2.5): whole batches at once, on any device."""

from itertools import permutations

import torch


def random_crop(frames: torch.Tensor, padding: int, generator: torch.Generator | None, together: int = 1):
    """Shifts every image by up to `padding` pixels; what comes in at the edge repeats it.

    Args:
        frames: uint8 (or float) (N, H, W, 3). together: so many consecutive images share a shift. 0 padding: as it is.
    """
    if not padding:
        return frames
    number, height, width = frames.shape[:3]
    source = frames.device if generator is None else generator.device
    draws = torch.randint(-padding, padding + 1, (number // together, 2), generator=generator, device=source)
    shift = draws.to(frames.device).repeat_interleave(together, 0)
    rows = (torch.arange(height, device=frames.device) + shift[:, :1]).clamp_(0, height - 1)
    columns = (torch.arange(width, device=frames.device) + shift[:, 1:]).clamp_(0, width - 1)
    each = torch.arange(number, device=frames.device)[:, None, None]
    return frames[each, rows[:, :, None], columns[:, None, :]]


def jitter_colors(
    pixels: torch.Tensor, strengths: list[float], probability: float, generator: torch.Generator | None
) -> torch.Tensor:
    """Random brightness, contrast, saturation and hue, in an order of each image's own, then back to 256 levels.

    Args:
        pixels: float (N, 3, H, W) in [0, 1].
        strengths: brightness b, contrast c, saturation s: factors in [1 - x, 1 + x]; hue h: turned by +-h of a circle.
        probability: share of the images that are changed at all.

    Every one of the 24 orders is taken by the same share of the batch, which images is left to chance: so all shapes
    are known in advance, and a GPU does not have to be asked.
    """
    if not probability or not any(strengths):
        return pixels
    number, device = len(pixels), pixels.device
    source = device if generator is None else generator.device
    draws = torch.rand((number, 6), generator=generator, device=source).to(device)
    factors = 2 * draws[:, :4] - 1
    chosen = draws[:, 4] < probability
    orders = list(permutations(range(4)))
    turns = draws[:, 5].argsort().tensor_split(min(len(orders), number))
    orders = orders[:: len(orders) // len(turns)]  # fewer images than orders: some of these, spread out
    changed = torch.empty_like(pixels)
    for rows, order in zip(turns, orders):
        part, amount = pixels[rows], factors[rows]
        for operation in order:
            part = _OPERATIONS[operation](part, strengths[operation] * amount[:, operation, None, None, None])
        changed[rows] = part
    changed = (changed * 255).round_().div_(255)
    return torch.where(chosen[:, None, None, None], changed, pixels)


def _brightness(pixels: torch.Tensor, amount: torch.Tensor) -> torch.Tensor:
    return (pixels * (1 + amount)).clamp_(0, 1)


def _contrast(pixels: torch.Tensor, amount: torch.Tensor) -> torch.Tensor:
    mean = pixels.mean((-3, -2, -1), keepdim=True)
    return ((pixels - mean) * (1 + amount) + mean).clamp_(0, 1)


def _saturation(pixels: torch.Tensor, amount: torch.Tensor) -> torch.Tensor:
    grey = (pixels * pixels.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    return ((pixels - grey) * (1 + amount) + grey).clamp_(0, 1)


def _hue(pixels: torch.Tensor, amount: torch.Tensor) -> torch.Tensor:
    """Turns the hue by `amount` of a circle: through HSV, value and saturation stay."""
    red, green, blue = pixels.unbind(1)
    value, low = pixels.amax(1), pixels.amin(1)
    chroma = value - low
    safe = torch.where(chroma == 0, 1.0, chroma)
    hue = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    hue = hue + 6 * amount[:, 0]
    # each channel of a fully saturated colour is a trapezoid of the hue
    offsets = pixels.new_tensor([5.0, 3.0, 1.0])[:, None, None]
    place = torch.remainder(offsets + hue[:, None], 6)
    return value[:, None] - chroma[:, None] * torch.minimum(place, 4 - place).clamp_(0, 1)


_OPERATIONS = (_brightness, _contrast, _saturation, _hue)
