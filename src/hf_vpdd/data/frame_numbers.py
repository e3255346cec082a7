"""States, actions and keyframes of all frames of a dataset, as a `FrameStore` holds them."""

from pathlib import Path

import numpy as np

from ..errors import InputError
from ..files import atomic_path
from .keyframes import find_keyframes
from .lerobot import LeRobotDataset


def read_numbers(dataset: LeRobotDataset) -> dict[str, np.ndarray]:
    """state, action float32 (N, D) and keyframe bool (N,) of all frames, those that the dataset has.

    Raises:
        InputError: A number is NaN or infinite.
    """
    names = {
        "observation.state": "state",
        "action": "action",
        "keyframe": "keyframe",
        "observation.joint_velocities": "velocities",
    }
    present = [key for key in names if key in dataset.features]
    arrays = {}
    for key, value in dataset.columns(present).items():
        value = value.astype(np.float32).reshape(len(value), -1)
        bad = np.flatnonzero(~np.isfinite(value).all(axis=1))
        if len(bad):
            row = int(bad[0])
            episode = int(np.searchsorted(dataset.episodes.start, row, side="right")) - 1
            raise InputError(
                f"{dataset.root}: {key} is NaN or infinite in {len(bad)} frames, first in episode {episode}, "
                f"frame {row - dataset.episodes.start[episode]}: {value[row].tolist()}; remove the episode or record "
                "it again"
            )
        arrays[names[key]] = value
    velocities = arrays.pop("velocities", None)
    if "keyframe" in arrays:
        arrays["keyframe"] = arrays["keyframe"][:, 0] > 0
    elif velocities is not None and "action" in arrays:
        arrays["keyframe"] = np.zeros(len(velocities), bool)
        for start, length in zip(dataset.episodes.start, dataset.episodes.length):
            rows = slice(start, start + length)
            found = find_keyframes(arrays["action"][rows, -1] > 0.5, velocities[rows])
            arrays["keyframe"][start + found] = True
    return arrays


def remembered_numbers(dataset: LeRobotDataset, cache_dir: Path) -> dict[str, np.ndarray]:
    """`read_numbers`, kept beside the frames' caches: of some formats it takes minutes."""
    path = cache_dir / f"numbers-{dataset.fingerprint[:16]}.npz"
    if not path.is_file():
        arrays = read_numbers(dataset)
        try:
            with atomic_path(path) as temporary:
                np.savez(temporary, **arrays)
        except OSError:
            pass  # a read-only disk: read again next time
        return arrays
    with np.load(path) as numbers:
        return dict(numbers)
