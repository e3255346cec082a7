"""Short videos of held-out episodes during training: what is seen, what the model makes of it, what came."""

from collections.abc import Callable

import numpy as np

from ..pictures import side_by_side
from .common import spread


FRAMES = 16  # of one video, evenly spread over its episode
AT_A_TIME = 8  # of them in one batch of the model


def episode_videos(
    store, held_out: list[int], number: int, columns: Callable[[np.ndarray], list[np.ndarray]], name: str
) -> dict[str, np.ndarray]:
    """`name-0`, `name-1`, ... -> uint8 (T, H, W, 3), one for each of `number` episodes spread over `held_out`.

    Args:
        columns: positions in the store -> what to show side by side, uint8 (T, H, W, 3) each; [] if there is nothing.
    """
    videos = {}
    for index, episode in enumerate(spread(np.asarray(held_out, np.int64), number) if number and held_out else ()):
        rows = np.arange(store.episode_from[episode], store.episode_to[episode])
        positions = spread(rows, FRAMES)
        parts = [columns(positions[first : first + AT_A_TIME]) for first in range(0, len(positions), AT_A_TIME)]
        parts = [part for part in parts if part]
        if parts:
            strips = [np.concatenate(column) for column in zip(*parts, strict=True)]
            height = strips[0].shape[1]
            videos[f"{name}-{index}"] = side_by_side(strips, scale=max(1, round(128 / height)))
    return videos
