"""Starts CALVIN for a moment: does it run here, how fast, and what does it look like?"""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..files import atomic_path


STEPS = 20


@dataclass(frozen=True)
class Trial:
    """start: seconds until the simulator answered; looking, blind: steps a second with and without pictures."""

    start: float
    looking: float
    blind: float
    picture: Path

    def __str__(self) -> str:
        return (
            f"started in {self.start:.1f} s; {self.looking:.1f} steps/s with the pictures of both cameras, "
            f"{self.blind:.0f} without; a picture: {self.picture}"
        )


def try_out(renderer: str, picture: Path, steps: int = STEPS) -> Trial:
    """Starts the simulator, moves the arm for a moment, and writes both cameras' last pictures side by side.

    Raises:
        InputError: It cannot be started; the message says why.
        CalvinServerError: It died.
    """
    from PIL import Image

    from .calvin import CalvinEnv

    start = time.perf_counter()
    env = CalvinEnv(renderer=renderer)
    try:
        started = time.perf_counter() - start
        env.reset(seed=0)
        speeds = []
        for render in (False, True):
            start = time.perf_counter()
            for _ in range(steps):
                env.step(np.array([0.0, 0.2, -0.5, 0.0, 0.0, 0.0, 1.0]), render=render)
            speeds.append(steps / (time.perf_counter() - start))
        images = env.render_images()
    finally:
        env.close()
    high = max(image.shape[0] for image in images.values())
    columns = [np.pad(image, ((0, high - image.shape[0]), (0, 0), (0, 0))) for image in images.values()]
    with atomic_path(picture) as temporary:
        Image.fromarray(np.concatenate(columns, axis=1)).save(temporary)
    return Trial(started, speeds[1], speeds[0], picture)
