"""One picture that shows what is in a dataset: a row of frames per task."""

import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ..files import atomic_path
from .lerobot import LeRobotDataset


_MARGIN, _LABEL = 6, 16  # pixels
_BACKGROUND, _INK = (255, 255, 255), (20, 20, 20)


def write_contact_sheet(
    dataset: LeRobotDataset,
    path: str | os.PathLike,
    camera: str,
    max_tasks: int = 10,
    frames_per_row: int = 6,
    tile: int = 128,
) -> Path:
    """Writes a PNG: for each of up to `max_tasks` tasks, frames of its first episode at even distances in time.

    Args:
        dataset: What to show.
        path: The PNG.
        camera: One of `dataset.cameras`.
        max_tasks: More tasks are thinned out evenly.
        frames_per_row: The first and the last frame of the episode among them.
        tile: Height of a frame on the sheet in pixels; small frames are enlarged without smoothing.
    """
    first_of_task: dict[str, int] = {}
    for episode, task in enumerate(dataset.episodes.task):
        first_of_task.setdefault(task, episode)
    rows = list(first_of_task.items())
    if len(rows) > max_tasks:
        rows = [rows[i] for i in np.round(np.linspace(0, len(rows) - 1, max_tasks)).astype(int)]
    strips = []
    for task, episode in rows:
        length = int(dataset.episodes.length[episode])
        moments = np.round(np.linspace(0, length - 1, frames_per_row)).astype(int)
        images = [dataset.frames(camera, episode, int(moment), 1)[0] for moment in moments]
        seconds = (length - 1) / dataset.fps
        strips.append((f"{task}   (episode {episode}, {length} frames, {seconds:.2f} s)", images))
    height, width = strips[0][1][0].shape[:2]
    size = (round(tile * width / height), tile)
    method = Image.Resampling.NEAREST if height <= tile else Image.Resampling.BILINEAR
    sheet = Image.new(
        "RGB",
        (_MARGIN + frames_per_row * (size[0] + _MARGIN), len(strips) * (tile + _LABEL + _MARGIN) + _MARGIN),
        _BACKGROUND,
    )
    draw = ImageDraw.Draw(sheet)
    for row, (label, images) in enumerate(strips):
        top = _MARGIN + row * (tile + _LABEL + _MARGIN)
        # Pillow's built-in font draws Latin letters only; others become question marks instead of an error.
        draw.text((_MARGIN, top), label.encode("latin-1", "replace").decode("latin-1"), _INK)
        for column, image in enumerate(images):
            picture = Image.fromarray(image).resize(size, method)
            sheet.paste(picture, (_MARGIN + column * (size[0] + _MARGIN), top + _LABEL))
    with atomic_path(path) as temporary:
        sheet.save(temporary)
    return Path(path)
