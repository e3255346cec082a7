"""Readers of other formats for `convert_dataset`: one episode there is one of the LeRobot dataset."""

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from .conversion import Conversion, convert_dataset
from .source_dataset import SourceDataset


class DatasetSource:
    """See `conversion.Source`. Episodes go by their places among all that were found.

    Args:
        dataset: What to convert.
        name: Of the format, as in `--from`.
        actions: False leaves the actions (and keyframes, which come from them) out: captioned video.
    """

    def __init__(self, dataset: SourceDataset, name: str, actions: bool = True):
        self.dataset, self.name, self.actions = dataset, name, actions
        self.fps, self.robot_type, self.skipped = dataset.fps, dataset.robot_type, dataset.skipped
        self._episode = {int(number): episode for episode, number in enumerate(dataset.numbers)}

    def plan(self) -> dict[str, Any]:
        # Names, not contents: a broken file may be repaired half-way, each episode's fingerprint sees to that.
        listing = hashlib.sha256("\0".join(self.dataset.found).encode()).hexdigest()
        own = {"episodes_sha256": listing, "cameras": self.dataset.cameras, "actions": self.actions}
        return own | self.dataset.plan()

    def keys(self) -> list[int]:
        return self.dataset.numbers.tolist()

    def fingerprint(self, key: int) -> str:
        return self.dataset.episode_fingerprint(self._episode[key])

    def read(self, key: int) -> dict[str, np.ndarray | str]:
        episode = self.dataset.episode(self._episode[key])
        return {name: value for name, value in episode.items() if self._is_kept(name)}

    def note(self, key: int) -> dict[str, Any]:
        return self.dataset.note(self._episode[key])

    def features(self) -> dict[str, dict]:
        return {
            name: {"names": feature["names"]}
            for name, feature in self.dataset.features.items()
            if feature["dtype"] != "image" and feature["names"] and self._is_kept(name)
        }

    def _is_kept(self, name: str) -> bool:
        return self.actions or name not in ("action", "keyframe")


def convert_source(
    dataset: SourceDataset, name: str, out: str | os.PathLike, actions: bool = True, **options: Any
) -> Conversion:
    """A dataset of another format as a LeRobot v3.0 dataset.

    Args:
        dataset: Opened with or without `skip_bad`, which `options` must say, too.
        name: Of the format.
        out: The folder to write.
        actions: See `DatasetSource`.
        options: `workers`, `crf`, `pix_fmt`, `skip_bad`, `progress` of `convert_dataset`.
    """
    target, root = Path(out).resolve(), dataset.root.expanduser().resolve()
    if target == root or (root.is_dir() and root in target.parents):
        raise InputError(f"OUT lies in the dataset that is read: {out}; name another folder")
    return convert_dataset(DatasetSource(dataset, name, actions), out, **options)
