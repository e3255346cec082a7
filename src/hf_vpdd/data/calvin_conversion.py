"""CALVIN folders for `convert_dataset`: every annotated window becomes an episode of a LeRobot dataset."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..files import file_sha256
from .calvin import FPS, ROBOT_TYPE, CalvinDataset
from .conversion import Conversion, convert_dataset


_ACTIONS = ("action", "calvin.actions")


class CalvinSource:
    """See `conversion.Source`. Episodes go by their place in the annotation file.

    Args:
        dataset: What to convert.
        per_task: Only the first so many windows of each of the 34 tasks (the paper's tenth of the data: 66).
        actions: False leaves the actions out: captioned video.
    """

    name = "calvin"
    fps = FPS
    robot_type = ROBOT_TYPE

    def __init__(self, dataset: CalvinDataset, per_task: int | None = None, actions: bool = True):
        if per_task is not None and per_task < 1:
            raise InputError(f"per_task must be at least 1, got {per_task}")
        if per_task is not None and not all(dataset.annotations.task):
            raise InputError(
                f"{dataset.annotations_file}: key language.task is missing: expected a task's name for each window to "
                "choose some of each task by, found none"
            )
        self.dataset, self.per_task, self.actions = dataset, per_task, actions
        self.skipped = dataset.skipped
        self._annotations_sha256 = file_sha256(dataset.annotations_file)
        self._episode = {int(window): episode for episode, window in enumerate(dataset.windows)}

    def plan(self) -> dict[str, Any]:
        # Not the frames' files: they may be repaired half-way, each episode's fingerprint sees to that.
        return {
            "split": self.dataset.root.name,
            "annotations_sha256": self._annotations_sha256,
            "per_task": self.per_task,
            "actions": self.actions,
        }

    def keys(self) -> list[int]:
        taken: dict[str, int] = {}
        keys = []
        for window, task in zip(self.dataset.windows.tolist(), self.dataset.annotations.task):
            taken[task] = taken.get(task, 0) + 1
            if self.per_task is None or taken[task] <= self.per_task:
                keys.append(window)
        return keys

    def fingerprint(self, key: int) -> str:
        return self.dataset.episode_fingerprint(self._episode[key])

    def read(self, key: int) -> dict[str, np.ndarray | str]:
        episode = self.dataset.episode(self._episode[key])
        return {name: value for name, value in episode.items() if self.actions or name not in _ACTIONS}

    def note(self, key: int) -> dict[str, Any]:
        episode, notes = self._episode[key], self.dataset.annotations
        first, last = int(notes.first[episode]), int(notes.last[episode])
        return {"window": key, "task": notes.task[episode], "first_frame": first, "last_frame": last}

    def features(self) -> dict[str, dict]:
        return {
            name: {"names": feature["names"]}
            for name, feature in self.dataset.features.items()
            if feature["dtype"] != "image" and feature["names"] and (self.actions or name not in _ACTIONS)
        }


def convert_calvin(
    folder: str | os.PathLike,
    out: str | os.PathLike,
    split: str | None = None,
    per_task: int | None = None,
    actions: bool = True,
    skip_bad: bool = False,
    **options: Any,
) -> Conversion:
    """A CALVIN folder as a LeRobot v3.0 dataset.

    Args:
        folder: `task_X_Y`, or one of its splits.
        out: The folder to write.
        split: "training" or "validation", where `folder` holds both.
        per_task, actions: See `CalvinSource`.
        skip_bad: Leave out windows with gaps or broken files, and say which.
        options: `workers`, `crf`, `pix_fmt`, `progress` of `convert_dataset`.
    """
    if Path(out).resolve() == Path(folder).expanduser().resolve():
        raise InputError(f"OUT is the CALVIN folder itself: {out}; name another folder")
    dataset = CalvinDataset(folder, split, progress=options.get("progress", True), skip_bad=skip_bad)
    return convert_dataset(CalvinSource(dataset, per_task, actions), out, skip_bad=skip_bad, **options)
