"""Reads Bridge V2 in the two forms that its own scripts make of the raw trajectories: numpy and TFRecord.

    dataset = BridgeArraysDataset("bridgedata_numpy")        # .../TASK/NN/train/out.npy and .../val/out.npy
    dataset = BridgeArraysDataset("bridgedata_tf", split="train")    # .../out.tfrecord

An `out.npy` is a pickled list of trajectories, pictures squashed to 128 by 128; it is read without running anything.
An `out.tfrecord` holds the same as tensors, of one camera.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from .bridge import BridgeDataset
from .safe_pickle import read_object_list_npy
from .source_dataset import SKIP_HINT, SourceDataset, choose_cameras, natural
from .tfrecord import find_records, read_record, read_tensors


NAMES = ("out.npy", "out.tfrecord")
SPLITS = ("train", "val")
_CAMERA = re.compile(r"images\d+")


def is_bridge_arrays(root: str | os.PathLike) -> bool:
    """Whether there are files of Bridge's scripts: `out.npy` or `out.tfrecord`."""
    return next(_files(Path(root).expanduser()), None) is not None


class BridgeArraysDataset(SourceDataset):
    """Trajectories of `out.npy` or `out.tfrecord` files; each is an episode.

    Features: as `BridgeDataset`'s. Bridge's script has taken care of the lagging camera and of the last observation;
    numbers are as recorded. The instruction is the trajectory's own, where it has one (`language`), else the task that
    the folders name. Files are read whole: training is faster on the converted dataset.

    Args:
        root: A file, or a folder that holds such files at any depth (up to seven levels).
        cameras: Which, in this order; those of the first trajectory if not given.
        split: "train" or "val"; both if not given.
        progress: Show bars while much is read.
        skip_bad: Leave out files and trajectories that cannot be used, instead of refusing all.

    Raises:
        InputError: No such files, files of both forms, or one that is damaged; file, trajectory and key are named.
    """

    version = "Bridge V2 arrays"
    robot_type, fps, column_names = BridgeDataset.robot_type, BridgeDataset.fps, BridgeDataset.column_names

    def __init__(
        self,
        root: str | os.PathLike,
        cameras: list[str] | None = None,
        split: str | None = None,
        progress: bool = True,
        skip_bad: bool = False,
    ):
        root, self.progress, self.split = Path(root).expanduser(), progress, split
        if split not in (None, *SPLITS):
            raise InputError(f"split must be train or val, got {split!r}")
        if not root.exists():
            raise InputError(f"{root} does not exist; give an out.npy or out.tfrecord, or a folder of them")
        files = [path for path in _files(root) if split is None or root.is_file() or path.parent.name == split]
        files = sorted(set(files), key=lambda path: natural(str(path)))
        if not files:
            raise InputError(
                f"{root} holds no {' or '.join(NAMES)} of Bridge V2{f' in folders called {split}' if split else ''}"
            )
        if len({path.suffix for path in files}) > 1:
            raise InputError(f"{root} holds .npy and .tfrecord files: they may be the same trajectories; name one")
        self.root, self._held, self._last = root, None, None
        names, broken = [], []
        for path in files:
            name = "" if path == root else path.relative_to(root).as_posix()
            try:
                names += [f"{name}:{number}" for number in range(len(self._contents(path)))]
            except InputError as error:
                if not skip_bad:
                    raise InputError(f"{error}; {SKIP_HINT}") from error
                broken.append({"episode": name, "reason": str(error)})
        if not names:
            raise InputError(broken[0]["reason"] if broken else f"the files of {root} hold no trajectories")
        self.found = names
        present, reason = [], ""
        for name in names:  # the first that is whole says which cameras there are
            try:
                present = sorted(self._trajectory(name)["cameras"], key=natural)
                break
            except InputError as error:
                reason = reason or str(error)
                if not skip_bad:
                    raise InputError(f"{error}; {SKIP_HINT}") from error
        if not present:
            raise InputError(reason or f"{root}: the trajectories have no pictures")
        self.open_episodes(root, names, choose_cameras(cameras, present, root), skip_bad)
        self.skipped[:0] = broken

    def __getstate__(self) -> dict:
        # A whole file of pictures does not travel to other processes.
        return self.__dict__ | {"_held": None, "_last": None}

    @property
    def cache_root(self) -> Path:
        """Where caches made from this dataset may lie: a file has no inside."""
        return self.root if self.root.is_dir() else self.root.parent

    def plan(self) -> dict[str, Any]:
        return {"split": self.split}

    def inspect(self, name: str) -> tuple[int, str]:
        trajectory = self._trajectory(name)
        path, _ = self._place(name)
        return len(trajectory["action"]), trajectory["sentence"] or _named_task(path)

    def read_numbers(self, episode: int) -> dict[str, np.ndarray]:
        trajectory = self._trajectory(self.episode_names[episode])
        return {"observation.state": trajectory["state"], "action": trajectory["action"]}

    def read_pictures(self, camera: str, episode: int, first: int, count: int) -> np.ndarray:
        trajectory = self._trajectory(self.episode_names[episode])
        if camera not in trajectory["cameras"]:
            raise InputError(
                f"{self.where(episode)}: no pictures {camera}; this trajectory has {sorted(trajectory['cameras'])}"
            )
        return _pictures(self.where(episode), camera, trajectory["cameras"][camera][first : first + count])

    def files(self, episode: int) -> list[Path]:
        return [self._place(self.episode_names[episode])[0]]

    def where(self, episode: int) -> str:
        return self._where(self.episode_names[episode])

    def note(self, episode: int) -> dict[str, Any]:
        path, number = self._place(self.episode_names[episode])
        file = path.name if path == self.root else path.relative_to(self.root).as_posix()
        return {"file": file, "trajectory": number, "task": _named_task(path)}

    def _where(self, name: str) -> str:
        path, number = self._place(name)
        return f"{path}: trajectory {number}"

    def _place(self, name: str) -> tuple[Path, int]:
        file, number = name.rsplit(":", 1)
        return (self.root / file if file else self.root), int(number)

    def _contents(self, path: Path) -> list:
        """The trajectories of a file, that of the last call is kept; of TFRecords their places."""
        if self._held is None or self._held[0] != path:
            self._held = None  # two files need not fit into memory
            self._held = path, find_records(path) if path.suffix == ".tfrecord" else read_object_list_npy(path)
        return self._held[1]

    def _trajectory(self, name: str) -> dict[str, Any]:
        """{"state" (T, 7), "action" (T, 7), "sentence", "cameras": {name: T pictures}}, lengths agreeing."""
        if self._last is not None and self._last[0] == name:
            return self._last[1]
        path, number = self._place(name)
        contents = self._contents(path)
        where = self._where(name)
        if number >= len(contents):
            raise InputError(f"{where} is gone: the file has {len(contents)} now; open it again")
        if path.suffix == ".tfrecord":
            trajectory = _of_tensors(read_tensors(read_record(path, *contents[number]), where), where)
        else:
            trajectory = _of_dictionary(contents[number], where)
        self._last = name, trajectory
        return trajectory


def _of_dictionary(trajectory: Any, where: str) -> dict[str, Any]:
    if not isinstance(trajectory, dict) or not {"observations", "actions"} <= set(trajectory):
        found = sorted(map(str, trajectory)) if isinstance(trajectory, dict) else type(trajectory).__name__
        raise InputError(f"{where}: expected a dictionary with observations and actions, found {found}")
    steps = trajectory["observations"]
    whole = isinstance(steps, list) and steps and all(isinstance(step, dict) and "state" in step for step in steps)
    if not whole:
        raise InputError(f"{where}: observations: expected a list of dictionaries with the key state, found others")
    names = [key for key in steps[0] if isinstance(key, str) and _CAMERA.fullmatch(key)]
    lacking = next((f"{n} of step {t}" for t, step in enumerate(steps) for n in names if n not in step), None)
    if lacking is not None:
        raise InputError(f"{where}: observations: {lacking} is missing")
    spoken = trajectory.get("language")
    spoken = next((line for line in spoken if isinstance(line, str)), "") if isinstance(spoken, list) else spoken
    return {
        "state": _matrix(where, "state", [step["state"] for step in steps], len(steps)),
        "action": _matrix(where, "actions", trajectory["actions"], len(steps)),
        "sentence": spoken.strip() if isinstance(spoken, str) else "",
        "cameras": {name: [step[name] for step in steps] for name in names},
    }


def _of_tensors(tensors: dict[str, np.ndarray], where: str) -> dict[str, Any]:
    keys = ["observations/state", "actions"]
    missing = [key for key in keys if key not in tensors]
    if missing:
        raise InputError(f"{where}: expected the features {keys}, found {sorted(tensors)}")
    state, action = (tensors[key] for key in keys)
    found = {key.removeprefix("observations/"): value for key, value in tensors.items() if not key.startswith("next_")}
    cameras = {name: value for name, value in found.items() if _CAMERA.fullmatch(name)}
    for name, pictures in cameras.items():
        if pictures.ndim != 4 or len(pictures) != len(action):
            raise InputError(f"{where}: {name}: expected {len(action)} pictures (H, W, 3), found {pictures.shape}")
    rows = len(action) if action.ndim else 0
    numbers = {"state": _matrix(where, "state", state, rows), "action": _matrix(where, "actions", action, rows)}
    return {**numbers, "sentence": "", "cameras": cameras}


def _matrix(where: str, key: str, value: Any, rows: int) -> np.ndarray:
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: {key}: expected {rows} rows of 7 numbers, found others: {error}") from error
    if array.shape != (rows, 7):
        raise InputError(f"{where}: {key}: expected shape {(rows, 7)}, found {array.shape}")
    return array


def _pictures(where: str, camera: str, steps: Any) -> np.ndarray:
    try:
        pictures = np.stack([np.asarray(step) for step in steps])
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: {camera}: expected pictures of one size, found others: {error}") from error
    return pictures


def _files(root: Path) -> Iterator[Path]:
    if root.is_file():
        if root.suffix == ".tfrecord" or root.name == "out.npy":
            yield root
        return
    for depth in range(7):  # from the shallow to the deep, as in `bridge`
        for name in NAMES:
            yield from root.glob("*/" * depth + name)


def _named_task(path: Path) -> str:
    """The TASK of TASK/NN/train/out.npy."""
    return path.resolve().parent.parent.parent.name.replace("_", " ").strip() or "unnamed task"
