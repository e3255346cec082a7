"""Reads Bridge V2 as it is distributed: raw trajectories, a JPEG a frame and pickles beside them.

    dataset = BridgeDataset("bridgedata_raw")        # or any folder below, down to one traj_groupN
    dataset.episode(0, images=False)["action"]       # (T, 7)
    dataset.frames("images0", 0, 10, 4)              # uint8 (4, 480, 640, 3)

Layout: `INSTITUTE/KITCHEN/TASK/NN/2022-01-01_00-00-00/raw/traj_groupK/trajM/` with `obs_dict.pkl`, `policy_out.pkl`,
`images0/im_0.jpg, ...`, and `lang.txt` where someone has described it. Its numpy and TFRecord forms: `bridge_arrays`.
Exports to LeRobot need none of this: they are opened as any LeRobot dataset.
"""

import os
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from .safe_pickle import read_pickle
from .source_dataset import SourceDataset, choose_cameras, natural, numbered_files, stack_pictures


FPS = 5
OBSERVATIONS, ACTIONS, SENTENCE = "obs_dict.pkl", "policy_out.pkl", "lang.txt"
# Before this day the camera lagged one step behind the arm (see Bridge's own conversion to numpy).
_NO_LAG_SINCE = datetime(2021, 7, 23)

_TRAJECTORY, _CAMERA = re.compile(r"traj(\d+)"), re.compile(r"images(\d+)")
_PICTURE = re.compile(r"im_(\d+)\.(?:jpg|jpeg|png)")
POSE = ["x", "y", "z", "roll", "pitch", "yaw", "gripper"]


def is_bridge_folder(root: str | os.PathLike) -> bool:
    """Whether there are raw trajectories of Bridge V2."""
    return next(_trajectories(Path(root).expanduser()), None) is not None


class BridgeDataset(SourceDataset):
    """Raw trajectories; each folder `trajN` is an episode.

    A trajectory has one action less than observations; the last observation, with which nothing was done, is left out.
    In those recorded before 2021-07-23 the first is left out, too: the camera lagged one step.

    Features: `observation.images.images0`, ... (those that every trajectory has); `observation.state` (7) = position
    (m), Euler angles (rad), gripper; `action` (7) = the movement that was asked for and the gripper (1 opens), as
    recorded. Depth pictures are left alone. The instruction is the first line of `lang.txt`; where there is none, the
    task that the folders name ("put_pot_on_stove" -> "put pot on stove"), which `note` tells apart.

    Args:
        root: `bridgedata_raw`, or any folder below it that holds trajectories.
        cameras: Which, in this order.
        described_only: Leave out trajectories without a sentence.
        progress: Show bars while much is read.
        skip_bad: Leave out trajectories that cannot be used, instead of refusing the folder.

    Raises:
        InputError: No trajectories there, or one that is not whole; its folder is named.
    """

    version = "Bridge V2"
    robot_type = "widowx"
    fps = FPS
    column_names = {"observation.state": POSE, "action": [f"d{name}" for name in POSE[:6]] + ["gripper"]}

    def __init__(
        self,
        root: str | os.PathLike,
        cameras: list[str] | None = None,
        described_only: bool = False,
        progress: bool = True,
        skip_bad: bool = False,
    ):
        root, self.progress = Path(root).expanduser(), progress
        self.described_only = described_only
        if not root.is_dir():
            raise InputError(f"Bridge folder {root} does not exist")
        folders = sorted(_trajectories(root), key=lambda folder: natural(str(folder)))
        if not folders:
            raise InputError(
                f"{root} holds no trajectories of Bridge V2: expected .../raw/traj_group0/traj0 with {OBSERVATIONS}, "
                f"found {', '.join(sorted(os.listdir(root))[:6]) or 'nothing'}"
            )
        if described_only:
            folders = [folder for folder in folders if _sentence(folder)]
            if not folders:
                raise InputError(f"{root}: none of the trajectories has a {SENTENCE}")
        self.root = root
        views = [set(_cameras_of(folder)) for folder in folders]
        common = sorted(set.intersection(*(view for view in views if view)) if any(views) else [], key=natural)
        chosen = choose_cameras(cameras, common, root)
        self.open_episodes(root, [str(folder.relative_to(root)) for folder in folders], chosen, skip_bad)

    def plan(self) -> dict[str, Any]:
        return {"described_only": self.described_only}

    def inspect(self, name: str) -> tuple[int, str]:
        folder = self.root / name
        for file in (OBSERVATIONS, ACTIONS):
            if not (folder / file).is_file():
                raise InputError(f"{folder / file} is missing; copy the trajectory again")
        pictures = numbered_files(folder / self._cameras[0], _PICTURE)
        length = pictures - 1 - _lag(folder)
        if length < 1:
            raise InputError(f"{folder}: {pictures} pictures are too few for a step")
        return length, _sentence(folder) or _named_task(folder)

    def read_numbers(self, episode: int) -> dict[str, np.ndarray]:
        folder, length = self.root / self.episode_names[episode], int(self.episodes.length[episode])
        path, lag = folder / OBSERVATIONS, _lag(folder)
        observations = _read(path)
        if not isinstance(observations, dict) or "full_state" not in observations:
            keys = sorted(map(str, observations)) if isinstance(observations, dict) else type(observations).__name__
            raise InputError(f"{path}: expected a dictionary with the key full_state, found {keys}")
        state = _matrix(path, "full_state", observations["full_state"], length + 1 + lag)
        path = folder / ACTIONS
        steps = _read(path)
        if isinstance(steps, list) and steps and all(isinstance(step, dict) for step in steps):
            lacking = next((frame for frame, step in enumerate(steps) if "actions" not in step), None)
            if lacking is not None:
                raise InputError(f"{path}: step {lacking}: expected the key actions, found {sorted(steps[lacking])}")
            steps = [step["actions"] for step in steps]
        action = _matrix(path, "actions", steps, length + lag)
        return {"observation.state": state[lag : lag + length], "action": action[:length]}

    def read_pictures(self, camera: str, episode: int, first: int, count: int) -> np.ndarray:
        return stack_pictures(self._pictures(camera, episode)[first : first + count])

    def _pictures(self, camera: str, episode: int) -> list[Path]:
        folder = self.root / self.episode_names[episode]
        lag, length = _lag(folder), int(self.episodes.length[episode])
        ending = next((e for e in (".jpg", ".jpeg", ".png") if (folder / camera / f"im_0{e}").is_file()), ".jpg")
        return [folder / camera / f"im_{number}{ending}" for number in range(lag, lag + length)]

    def files(self, episode: int) -> list[Path]:
        folder = self.root / self.episode_names[episode]
        pictures = [path for camera in self._cameras for path in self._pictures(camera, episode)]
        return [folder / OBSERVATIONS, folder / ACTIONS, *pictures]

    def note(self, episode: int) -> dict[str, Any]:
        folder = self.root / self.episode_names[episode]
        source = SENTENCE if _sentence(folder) else "folder"
        return {"episode": self.episode_names[episode], "task": _named_task(folder), "sentence_from": source}


def _trajectories(root: Path) -> Iterator[Path]:
    """Folders `trajN` in a `traj_groupN`, at any depth."""
    if root.name.startswith("traj_group"):
        groups: Iterator[Path] = iter([root])
    else:
        # From the shallow to the deep, so that a folder of something else is told by its first levels.
        levels = ["traj_group*", *("*/" * depth + "raw/traj_group*" for depth in range(6))]
        groups = (group for level in levels for group in root.glob(level))
    for group in groups:
        for folder in group.glob("traj*"):
            if _TRAJECTORY.fullmatch(folder.name) and folder.is_dir():
                yield folder


def _cameras_of(folder: Path) -> list[str]:
    return [entry.name for entry in os.scandir(folder) if _CAMERA.fullmatch(entry.name) and entry.is_dir()]


def _session(folder: Path) -> Path:
    """The dated folder of TASK/NN/DATE/raw/traj_groupK/trajM."""
    return folder.resolve().parent.parent.parent


def _lag(folder: Path) -> int:
    try:
        return int(datetime.strptime(_session(folder).name, "%Y-%m-%d_%H-%M-%S") < _NO_LAG_SINCE)
    except ValueError:
        return 0


def _named_task(folder: Path) -> str:
    task = _session(folder).parent.parent.name
    return task.replace("_", " ").strip() or "unnamed task"


def _sentence(folder: Path) -> str:
    path = folder / SENTENCE
    if not path.is_file():
        return ""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not text: {error}") from error
    # People's descriptions, one a line, and how sure the last of them was.
    return next((line.strip() for line in lines if line.strip() and not line.startswith("confidence")), "")


def _read(path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"{path} is missing; copy the trajectory again")
    with open(path, "rb") as file:
        return read_pickle(file, path)


def _matrix(path: Path, key: str, value: Any, rows: int) -> np.ndarray:
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: {key}: expected {rows} rows of 7 numbers, found others: {error}") from error
    if array.shape != (rows, 7):
        raise InputError(f"{path}: {key}: expected shape {(rows, 7)}, as there are pictures, found {array.shape}")
    return array
