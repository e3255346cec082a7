"""Videos of episodes: what the camera saw, what the policy imagined, and what then really happened.

An episode is filmed after it is over: the simulator is deterministic, so running its actions again is the episode
itself. The evaluation therefore pays for pictures only of the few episodes that are shown, and can choose them by how
they ended. Where the simulator is not (RLBench), the film brings its pictures along.
"""

import os
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..files import atomic_path
from .episodes import Episode
from .rollout import Film


PANEL = 192  # pixels of each picture in a video
EVERY = 2  # environment steps per frame of video
FPS = 20  # with EVERY = 2 and 80 steps a second: half the real speed
HOLD = 16  # frames that the end is held
GAP, HEADER, FOOTER = 8, 34, 26  # pixels

_BACK, _INK, _SOFT = (24, 27, 33), (236, 239, 244), (152, 162, 179)
_GOOD, _BAD = (76, 195, 138), (239, 122, 112)


def save_film(film: Film, path: str | os.PathLike) -> None:
    """Keeps a film for later (npz, whole or not at all)."""
    arrays = {"actions": film.actions, "plan_steps": film.plan_steps, "success": np.asarray(film.success)}
    for name in ("imagined", "frames"):
        if getattr(film, name) is not None:
            arrays[name] = getattr(film, name)
    episode = film.episode
    arrays["episode"] = np.asarray([episode.task, str(episode.seed), episode.instruction, episode.perturbation or ""])
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, **arrays)


def load_film(path: str | os.PathLike) -> Film:
    """Reads what `save_film` wrote."""
    try:
        with np.load(path, allow_pickle=False) as data:
            task, seed, instruction, perturbation = data["episode"].tolist()
            return Film(
                episode=Episode(task, int(seed), instruction, perturbation or None),
                success=bool(data["success"]),
                actions=data["actions"],
                plan_steps=data["plan_steps"],
                imagined=data["imagined"] if "imagined" in data else None,
                frames=data["frames"] if "frames" in data else None,
            )
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: not the film of an episode ({error}); delete it") from error


def compose(film: Film, frames: np.ndarray, ahead: int, every: int = EVERY) -> np.ndarray:
    """Sets the pictures of an episode side by side, with captions.

    Left, the camera, moving. If the policy imagines: in the middle, what its present plan imagined for `ahead` steps
    after that plan was made, and on the right what the camera really saw then, both held until the next plan. The
    right picture is brought to the imagined one's number of pixels first, or the comparison would be unfair to the
    imagination.

    Args:
        film: The episode.
        frames: uint8 (N, S, S, 3) of it, frame i after i * `every` steps, the last one at the end.
        ahead: Steps from a plan to what it imagines.
        every: Steps between two frames; ticks where the film holds its own frames.

    Returns:
        uint8 (N + HOLD, height, width, 3), both even.
    """
    from PIL import Image

    end = len(film.actions) if film.frames is None else every * (len(frames) - 1)
    panels = 1 if film.imagined is None else 3
    side = PANEL if panels == 3 else 288
    width, height = panels * side + (panels + 1) * GAP, HEADER + side + FOOTER
    canvas, draw = _canvas(width, height)
    tag, colour = ("success", _GOOD) if film.success else ("failure", _BAD)
    tag_width = draw.textlength(tag, font=_font(14))
    draw.text((width - GAP - 2 - tag_width, HEADER // 2), tag, fill=colour, font=_font(14), anchor="lm")
    sentence = _shorten(f"“{film.episode.instruction}”", width - tag_width - 4 * GAP, draw)
    draw.text((GAP + 2, HEADER // 2), sentence, fill=_INK, font=_font(14), anchor="lm")

    def show(panel: int, picture: np.ndarray) -> None:
        image = Image.fromarray(picture)
        if image.size != (side, side):
            image = image.resize((side, side), Image.Resampling.BICUBIC)
        canvas.paste(image, (GAP + panel * (side + GAP), HEADER))

    def caption(panel: int, text: str, fill=_SOFT) -> None:
        x, y = GAP + panel * (side + GAP), HEADER + side
        draw.rectangle((x, y, x + side, height), fill=_BACK)
        draw.text((x + 2, y + FOOTER // 2), text, fill=fill, font=_font(12), anchor="lm")

    out, shown = [], None
    for index, frame in enumerate(frames):
        step = min(index * every, end)
        show(0, frame)
        caption(0, f"camera, step {step}")
        plan = int(np.searchsorted(film.plan_steps, step, side="right")) - 1
        if panels == 3 and plan != shown:
            shown = plan
            then = min(int(film.plan_steps[plan]) + ahead, end)
            pixels = film.imagined[plan].shape[0]
            real = Image.fromarray(frames[min(-(-then // every), len(frames) - 1)])
            show(1, film.imagined[plan])
            show(2, np.asarray(real.resize((pixels, pixels), Image.Resampling.BOX)))
            caption(1, f"imagined for step {int(film.plan_steps[plan]) + ahead}")
            caption(2, f"what came, step {then}")
        out.append(np.asarray(canvas).copy())
    x = GAP
    draw.rectangle((x, HEADER, x + side - 1, HEADER + side - 1), outline=colour, width=3)
    out += [np.asarray(canvas).copy()] * HOLD
    return np.stack(out)


def write_video(path: str | os.PathLike, frames: np.ndarray) -> Path:
    """Writes composed frames as an H.264 mp4 that browsers play."""
    from ..data.video import encode_video

    return encode_video(path, frames, FPS, crf=24, gop=250, pix_fmt="yuv420p")


def _canvas(width: int, height: int):
    from PIL import Image, ImageDraw

    canvas = Image.new("RGB", (width + width % 2, height + height % 2), _BACK)
    return canvas, ImageDraw.Draw(canvas)


def _font(size: int):
    from PIL import ImageFont

    return ImageFont.load_default(size=size)


def _shorten(text: str, width: float, draw) -> str:
    if draw.textlength(text, font=_font(14)) <= width:
        return text
    while len(text) > 2 and draw.textlength(text + "…”", font=_font(14)) > width:
        text = text[:-1]
    return text.rstrip() + "…”"
