"""Pictures of values: the curve of a clip toward its goal, the same running beside the frames, and where it looks."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont


SIDE = 224  # pixels of each picture
GAP, HEADER, FOOTER, CHART = 8, 30, 24, 380
HOLD = 12  # frames that the end is held
SHOWN = 6  # frames on the still

_BACK, _INK, _SOFT, _GRID = (24, 27, 33), (236, 239, 244), (152, 162, 179), (52, 58, 70)
_CURVE, _HEADS, _PIXELS, _NOW = (255, 178, 66), (132, 110, 70), (96, 140, 190), (239, 122, 112)
# black over violet and orange to light yellow: dark where nothing is, readable by the colour-blind
_HEAT = np.array([[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]], np.float32)


@dataclass
class ValueClip:
    """What there is to show.

    Args:
        frames: uint8 (T, S, S, 3), as the model sees them. values: (E, T), every head by itself.
        heat: (T, S, S) in [0, 1], where the value looks. pixels: (T,), the curve of the pixel distance.
        goal: what the values are toward, for the caption.
        goal_frame: its number, if it is a frame of the clip. every: steps between the numbers of two frames shown.
    """

    frames: np.ndarray
    values: np.ndarray
    heat: np.ndarray
    pixels: np.ndarray
    goal: str
    goal_frame: int | None = None
    every: int = 1


def overlay(frames: np.ndarray, heat: np.ndarray, strength: float = 0.65) -> np.ndarray:
    """Heat (T, S, S) in [0, 1] over grey frames uint8 (T, S, S, 3), -> uint8."""
    place = heat.clip(0, 1)[..., None] * (len(_HEAT) - 1)
    colours = np.stack([np.interp(place[..., 0], np.arange(len(_HEAT)), _HEAT[:, c]) for c in range(3)], -1)
    grey = frames.mean(-1, keepdims=True).repeat(3, -1)
    return np.round(grey * (1 - strength) + colours * strength).clip(0, 255).astype(np.uint8)


def chart(clip: ValueClip, width: int, height: int, upto: int | None = None, marks=()) -> Image.Image:
    """The curve as a picture.

    Args:
        upto: only to this frame, with a dot there; the scale is that of the whole curve. marks: frames to mark.
    """
    image = Image.new("RGB", (width, height), _BACK)
    draw = ImageDraw.Draw(image)
    mean, total = clip.values.mean(0), len(clip.frames)
    left, right, top, bottom = 52, width - 14, 30, height - 34
    low, high = float(clip.values.min()), float(clip.values.max())
    high = low + 1e-6 if high <= low else high
    ticks = _ticks(low, high)
    low, high = min(low, ticks[0]), max(high, ticks[-1])

    def x(frame: float) -> float:
        return left + (right - left) * frame / max(total - 1, 1)

    def y(value: float) -> float:
        return bottom - (bottom - top) * (value - low) / (high - low)

    for tick in ticks:
        draw.line((left, y(tick), right, y(tick)), fill=_GRID)
        draw.text((left - 6, y(tick)), f"{tick:g}", fill=_SOFT, font=_font(11), anchor="rm")
    for frame in sorted({0, (total - 1) // 2, total - 1}):
        draw.text((x(frame), bottom + 5), str(frame * clip.every), fill=_SOFT, font=_font(11), anchor="mt")
    draw.text(((left + right) / 2, height - 3), "frame", fill=_SOFT, font=_font(11), anchor="mb")
    for frame in marks:
        draw.line((x(frame), top, x(frame), bottom), fill=_GRID)
    if clip.goal_frame is not None:
        place = x(clip.goal_frame / clip.every)
        draw.line((place, top, place, bottom), fill=_SOFT)
        side = 4 if place < (left + right) / 2 else -4
        draw.text((place + side, bottom - 4), "goal", fill=_SOFT, font=_font(11), anchor="lb" if side > 0 else "rb")
    end = total if upto is None else upto + 1
    # the pixels have no unit in common with values: only their shape is drawn, on the range of the curve
    spread = np.ptp(clip.pixels) or 1.0
    shape = float(mean.min()) + (clip.pixels - clip.pixels.min()) / spread * float(np.ptp(mean))
    curves = [(shape, _PIXELS, 1), *((head, _HEADS, 1) for head in clip.values), (mean, _CURVE, 3)]
    for values, colour, thickness in curves:
        points = [(x(i), y(float(v))) for i, v in enumerate(values[:end])]
        if len(points) > 1:
            draw.line(points, fill=colour, width=thickness, joint="curve")
    if upto is not None:
        centre = x(upto), y(float(mean[upto]))
        draw.ellipse((centre[0] - 5, centre[1] - 5, centre[0] + 5, centre[1] + 5), fill=_NOW)
        words = f"{mean[upto]:.2f}"
        draw.text((centre[0] - 8, centre[1] - 8), words, fill=_INK, font=_font(12), anchor="rb")
    legend = left + 6
    for words, colour in (("value", _CURVE), ("heads", _HEADS), ("pixel distance (shape)", _PIXELS)):
        if words == "heads" and len(clip.values) == 1:
            continue
        draw.line((legend, top - 16, legend + 14, top - 16), fill=colour, width=3)
        draw.text((legend + 18, top - 16), words, fill=_SOFT, font=_font(11), anchor="lm")
        legend += 28 + draw.textlength(words, font=_font(11))
    return image


def still(clip: ValueClip, title: str) -> np.ndarray:
    """One picture: frames, where the value looks in them, and the curve with those frames marked."""
    shown = np.unique(np.round(np.linspace(0, len(clip.frames) - 1, SHOWN)).astype(int))
    side = SIDE * 3 // 4
    width = len(shown) * (side + GAP) + GAP
    height = HEADER + 2 * (side + GAP) + FOOTER + CHART * 3 // 4
    canvas = Image.new("RGB", (width, height), _BACK)
    draw = ImageDraw.Draw(canvas)
    draw.text((GAP + 2, HEADER // 2), _shorten(f"{title}   toward {clip.goal}", width - 20, draw), fill=_INK,
              font=_font(14), anchor="lm")  # fmt: skip
    hot = overlay(clip.frames[shown], clip.heat[shown])
    for column, frame in enumerate(shown):
        left = GAP + column * (side + GAP)
        canvas.paste(_picture(clip.frames[frame], side), (left, HEADER))
        canvas.paste(_picture(hot[column], side), (left, HEADER + side + GAP))
        words = f"frame {frame * clip.every}: {clip.values[:, frame].mean():.2f}"
        draw.text((left + 2, HEADER + 2 * (side + GAP) + 4), words, fill=_SOFT, font=_font(12), anchor="lt")
    canvas.paste(chart(clip, width, CHART * 3 // 4, marks=shown), (0, height - CHART * 3 // 4))
    return np.asarray(canvas).copy()


def film(clip: ValueClip, title: str) -> np.ndarray:
    """The curve running beside the frames: uint8 (T + HOLD, height, width, 3), both even."""
    width, height = 2 * (SIDE + GAP) + CHART + GAP, HEADER + SIDE + FOOTER
    canvas = Image.new("RGB", (width + width % 2, height + height % 2), _BACK)
    draw = ImageDraw.Draw(canvas)
    words = _shorten(f"{title}   toward {clip.goal}", width - 20, draw)
    draw.text((GAP + 2, HEADER // 2), words, fill=_INK, font=_font(14), anchor="lm")
    for column, words in enumerate(("what the model sees", "where the value looks")):
        place = (GAP + column * (SIDE + GAP) + 2, HEADER + SIDE + FOOTER // 2)
        draw.text(place, words, fill=_SOFT, font=_font(12), anchor="lm")
    hot, out = overlay(clip.frames, clip.heat), []
    for index, frame in enumerate(clip.frames):
        canvas.paste(_picture(frame, SIDE), (GAP, HEADER))
        canvas.paste(_picture(hot[index], SIDE), (2 * GAP + SIDE, HEADER))
        canvas.paste(chart(clip, CHART, SIDE + FOOTER, upto=index), (2 * (SIDE + GAP) + GAP, HEADER))
        out.append(np.asarray(canvas).copy())
    return np.stack(out + [out[-1]] * HOLD)


def _picture(frame: np.ndarray, side: int) -> Image.Image:
    return Image.fromarray(frame).resize((side, side), Image.Resampling.BICUBIC)


def _ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers within [low, high]."""
    step = 10.0 ** np.floor(np.log10(high - low))
    for part in (1, 0.5, 0.25, 0.2, 0.1):
        found = np.arange(np.ceil(low / (step * part)), np.floor(high / (step * part)) + 1) * step * part
        if len(found) >= 3:
            return [float(round(value, 10)) for value in found[:: max(1, len(found) // 5)]]
    return [low, high]


def _font(size: int):
    return ImageFont.load_default(size=size)


def _shorten(text: str, width: float, draw) -> str:
    if draw.textlength(text, font=_font(14)) <= width:
        return text
    while len(text) > 2 and draw.textlength(text + "…", font=_font(14)) > width:
        text = text[:-1]
    return text.rstrip() + "…"
