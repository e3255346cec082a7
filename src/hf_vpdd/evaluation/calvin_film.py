"""Videos of chains: all cameras side by side, what was said, and how far it came."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .calvin_play import ChainFilm
from .videos import _BACK, _BAD, _GOOD, _INK, _SOFT, FOOTER, GAP, HEADER, HOLD, _canvas, _font, _shorten


SIDE = 288  # pixels of each picture
FPS = 15  # with a frame every 4 steps of 1/30 s: twice the real speed


def save_video(folder: Path, result: Mapping[str, Any], film: ChainFilm) -> Path:
    """Writes `chain-0012-2-of-5.mp4`, whole or not at all."""
    from ..data.video import encode_video

    path = folder / f"chain-{result['chain']:04d}-{result['done']}-of-{len(result['tasks'])}.mp4"
    folder.mkdir(parents=True, exist_ok=True)
    return encode_video(path, compose_chain(result, film), FPS, crf=26, gop=250, pix_fmt="yuv420p")


def list_videos(folder: Path) -> list[Path]:
    """Finished videos, those of failures first."""
    paths = folder.glob("chain-*-of-*.mp4") if folder.is_dir() else ()
    return sorted(paths, key=lambda path: (video_is_success(path), path.name))


def video_is_success(path: Path) -> bool:
    """Whether all five tasks were done."""
    done, _, wanted = path.stem.split("-")[2:]
    return done == wanted


def compose_chain(result: Mapping[str, Any], film: ChainFilm) -> np.ndarray:
    """The frames of the video: uint8 (N + HOLD, height, width, 3), both even."""
    cameras = list(film.frames[0])
    width = len(cameras) * (SIDE + GAP) + GAP
    height = HEADER + SIDE + FOOTER
    count, success = len(result["tasks"]), result["done"] == len(result["tasks"])
    colour = _GOOD if success else _BAD
    canvas, draw = _canvas(width, height)
    out = []
    for images, (subtask, step) in zip(film.frames, film.captions):
        draw.rectangle((0, 0, width, height), fill=_BACK)
        tag = f"{subtask + 1} of {count}"
        room = draw.textlength(tag, font=_font(14))
        draw.text((width - GAP - 2 - room, HEADER // 2), tag, fill=_SOFT, font=_font(14), anchor="lm")
        sentence = _shorten(f"“{film.sentences[subtask]}”", width - room - 4 * GAP, draw)
        draw.text((GAP + 2, HEADER // 2), sentence, fill=_INK, font=_font(14), anchor="lm")
        for index, camera in enumerate(cameras):
            x = GAP + index * (SIDE + GAP)
            canvas.paste(_square(images[camera]), (x, HEADER))
            text = f"{camera} camera, step {step}" if index == 0 else f"{camera} camera"
            draw.text((x + 2, HEADER + SIDE + FOOTER // 2), text, fill=_SOFT, font=_font(12), anchor="lm")
        out.append(np.asarray(canvas).copy())
    draw.rectangle((GAP, HEADER, GAP + SIDE - 1, HEADER + SIDE - 1), outline=colour, width=3)
    told = f"{result['done']} of {count} in a row"
    room = draw.textlength(told, font=_font(14))
    draw.text((width - GAP - 2 - room, HEADER + SIDE + FOOTER // 2), told, fill=colour, font=_font(14), anchor="lm")
    out += [np.asarray(canvas).copy()] * HOLD
    return np.stack(out)


def _square(picture: np.ndarray):
    from PIL import Image

    return Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
