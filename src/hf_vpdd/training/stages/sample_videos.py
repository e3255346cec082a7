"""Short videos of held-out episodes during training: what is seen, what the model makes of it, what came."""

from collections.abc import Callable

import numpy as np

from ..pictures import side_by_side
from .common import spread


FRAMES = 16  # of one video, evenly spread over its episode


def episode_videos(
    store, held_out: list[int], number: int, columns: Callable[[np.ndarray], list[np.ndarray]], name: str
) -> dict[str, np.ndarray]:
    """`name-0`, `name-1`, ... -> uint8 (T, H, W, 3), one for each of `number` episodes spread over `held_out`.

    Args:
        columns: positions in the store -> what to show side by side, uint8 (T, H, W, 3) each.
    """
    videos = {}
    for index, episode in enumerate(spread(np.asarray(held_out, np.int64), number) if number and held_out else ()):
        rows = np.arange(store.episode_from[episode], store.episode_to[episode])
        strips = columns(spread(rows, FRAMES))
        if len(strips[0]):
            height = strips[0].shape[1]
            videos[f"{name}-{index}"] = side_by_side(strips, scale=max(1, round(128 / height)))
    return videos
