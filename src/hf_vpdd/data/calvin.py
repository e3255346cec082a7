"""Reads CALVIN folders as they are distributed: one npz file a frame, language annotations beside them (gr1.md §7.1).

    dataset = CalvinDataset("task_D_D")          # its training split; "task_D_D/validation" for the other
    dataset.episode(3, images=False)             # {"observation.state": (T, 7), "action": (T, 7), ..., "task": str}
    dataset.frames("rgb_static", 3, 10, 4)       # uint8 (4, 200, 200, 3)

An episode is an annotated window: the frames that a sentence describes. It has the interface of `LeRobotDataset`, so
frame stores, training and `hf-vpdd info` take such a folder as it is. Opening one reads the annotations and the names
of the files; frames are read when they are asked for, and only the arrays of them that are.
"""

import hashlib
import os
import re
from functools import cached_property
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..errors import InputError
from .calvin_annotations import find_annotations, read_annotations
from .lerobot import IMAGE_PREFIX, EpisodeTable
from .npz_members import Wanted, list_members, read_members


FPS = 30
CAMERAS = ("rgb_static", "rgb_gripper")
ROBOT_TYPE = "panda"
SPLITS = ("training", "validation")

_POSE = ["x", "y", "z", "roll", "pitch", "yaw"]  # m and rad, in world coordinates
_JOINTS = [f"joint_{number}" for number in range(1, 8)]
_VECTORS = {  # key of the files -> the names of its numbers
    "robot_obs": [*_POSE, "gripper_width", *_JOINTS, "gripper"],
    "scene_obs": None,
    "rel_actions": [f"d{name}" for name in _POSE] + ["gripper"],
    "actions": [*_POSE, "gripper"],
}
_SIZES = {"robot_obs": 15, "scene_obs": 24, "rel_actions": 7, "actions": 7}
_STATE = [0, 1, 2, 3, 4, 5, 14]  # of robot_obs: pose and the gripper's last command, what GR-1 reads
# Ours -> theirs. What is beside state and action keeps its name: policies are to leave it alone.
_FEATURES = {
    "observation.state": "robot_obs",
    "action": "rel_actions",
    "calvin.robot_obs": "robot_obs",
    "calvin.scene_obs": "scene_obs",
    "calvin.actions": "actions",
}
_FILE = re.compile(r"episode_(\d+)\.npz")


def is_calvin_folder(root: str | os.PathLike) -> bool:
    """Whether this is a CALVIN split, or a folder of splits."""
    return _find_split(Path(root).expanduser(), None) is not None


class CalvinDataset:
    """A split of CALVIN, of which the annotated windows are the episodes.

    Features: `observation.images.rgb_static` and `.rgb_gripper`; `observation.state` (7: pose and gripper -1/1 out of
    `robot_obs`); `action` (7: `rel_actions`, within -1 and 1); and, as they stand in the files, `calvin.robot_obs`,
    `calvin.scene_obs`, `calvin.actions` (absolute poses). Numbers are float32, whatever the files hold. What the first
    frame lacks, the dataset lacks.

    Args:
        root: `task_X_Y`, or one of its splits.
        split: "training" or "validation", where `root` holds splits; training if not given.
        progress: Show a bar while the numbers of all frames are read.
        skip_bad: Leave out windows whose frames are not all there, instead of refusing the folder.

    Attributes: as `LeRobotDataset`'s; `root` is the split's folder, `annotations` has the tasks' names and the frames,
    `windows` (E,) the episodes' places in the annotation file, `skipped` what was left out and why.

    Raises:
        InputError: No such folder, no annotations or damaged ones, frames of a window that are not there.
    """

    version = "CALVIN"
    fps = FPS

    def __init__(
        self, root: str | os.PathLike, split: str | None = None, progress: bool = True, skip_bad: bool = False
    ):
        self.root = calvin_split(root, split)
        self.progress = progress
        self.annotations_file = find_annotations(self.root)
        if self.annotations_file is None:
            raise InputError(
                f"{self.root} has no language annotations: expected lang_annotations/auto_lang_ann.npy, found "
                f"{_some(entry.name for entry in self.root.iterdir() if not _FILE.fullmatch(entry.name))}; without "
                "sentences there are no episodes"
            )
        self.annotations = read_annotations(self.annotations_file)
        self._digits, numbers = _frame_numbers(self.root)
        self.windows = np.arange(len(self.annotations))
        self.skipped: list[dict] = []
        self._check_gaps(numbers, skip_bad)
        first, last = self.annotations.first, self.annotations.last
        length = last - first + 1
        none = np.zeros(len(length), np.int64)
        self.episodes = EpisodeTable(
            length=length,
            start=np.cumsum(length) - length,
            task=self.annotations.sentence,
            data_files=[],
            data_file=none,
            video_files={},
            video_file={},
            video_start={},
        )
        self.num_episodes = len(length)
        self.num_frames = int(length.sum())
        self.tasks = list(dict.fromkeys(self.episodes.task))
        self._wanted = self._describe(skip_bad)
        self.features = self._features()
        self.info = {"robot_type": ROBOT_TYPE, "fps": FPS, "features": self.features}

    def __len__(self) -> int:
        return self.num_episodes

    def __repr__(self) -> str:
        return f"CalvinDataset({str(self.root)!r}, {self.num_episodes} episodes, {self.num_frames} frames)"

    @property
    def cameras(self) -> list[str]:
        """Names of the cameras: rgb_static, rgb_gripper."""
        return [key for key in CAMERAS if key in self._wanted]

    @cached_property
    def fingerprint(self) -> str:
        """64 hexadecimal digits that change with the annotations and with names and sizes of the frames' files."""
        digest = hashlib.sha256(self.annotations_file.read_bytes())
        for episode in range(self.num_episodes):
            digest.update(self.episode_fingerprint(episode).encode())
        return digest.hexdigest()

    def episode_fingerprint(self, episode: int) -> str:
        """The same of one episode."""
        try:
            sizes = [f"{path.name}:{path.stat().st_size}" for path in self.files(episode)]
        except FileNotFoundError as error:
            raise InputError(f"{error.filename} is missing: it was there when the dataset was opened") from None
        return hashlib.sha256("\0".join([self.episodes.task[episode], *sizes]).encode()).hexdigest()

    def camera_key(self, camera: str) -> str:
        """The feature of a camera: rgb_static or (as the simulator calls it) static, with or without the prefix.

        Raises:
            InputError: No such camera; names those there are.
        """
        name = camera.removeprefix(IMAGE_PREFIX)
        for key in (name, f"rgb_{name}"):
            if key in self.cameras:
                return IMAGE_PREFIX + key
        raise InputError(f"{self.root} has no camera {camera!r}; its cameras are {self.cameras}")

    def files(self, episode: int) -> list[Path]:
        """The file of each frame of an episode."""
        first = int(self.annotations.first[self._checked(episode)])
        return [self._path(number) for number in range(first, first + int(self.episodes.length[episode]))]

    def all_files(self) -> list[Path]:
        """The files of all windows, each once."""
        return [self._path(number) for number in self._all_numbers()[0].tolist()]

    def episode(self, index: int, images: bool = True) -> dict:
        """One episode: every feature as an array (T, ...), `task` as a string; images unless told otherwise.

        Raises:
            InputError: A file that is damaged or not as the first frame; names file, key, expected and found.
        """
        index = self._checked(index)
        length, start = int(self.episodes.length[index]), int(self.episodes.start[index])
        keys = [key for key in self._wanted if images or key not in CAMERAS]
        frames = [self._read(path, keys) for path in self.files(index)]
        raw = {key: np.stack([frame[key] for frame in frames]) for key in keys}
        output = {IMAGE_PREFIX + key: raw.pop(key) for key in self.cameras if key in raw}
        output |= {ours: _as_feature(ours, raw[theirs]) for ours, theirs in _FEATURES.items() if theirs in raw}
        steps = np.arange(length)
        return output | {
            "timestamp": (steps / FPS).astype(np.float32),
            "frame_index": steps,
            "episode_index": np.full(length, index),
            "index": start + steps,
            "task_index": np.full(length, self.tasks.index(self.episodes.task[index])),
            "task": self.episodes.task[index],
        }

    def frames(self, camera: str, episode: int, first: int = 0, count: int | None = None) -> np.ndarray:
        """Frames of one camera, uint8 (count, H, W, 3): the whole episode, or `count` of them from `first` on."""
        key = self.camera_key(camera).removeprefix(IMAGE_PREFIX)
        length = int(self.episodes.length[self._checked(episode)])
        count = length - first if count is None else count
        if first < 0 or count < 1 or first + count > length:
            raise InputError(f"frames {first} to {first + count - 1} asked of episode {episode}, which has {length}")
        return np.stack([self._read(path, [key])[key] for path in self.files(episode)[first : first + count]])

    def columns(self, names: list[str]) -> dict[str, np.ndarray]:
        """Features of all frames in order, each (num_frames, ...); the names must exist.

        Windows overlap: a frame of several is read once.

        Raises:
            InputError: No such feature, or a file that is damaged.
        """
        missing = [name for name in names if name not in _FEATURES or name not in self.features]
        if missing:
            raise InputError(f"{self.root} has no feature {missing}; its features are {sorted(self.features)}")
        if not names:
            return {}
        numbers, rows = self._all_numbers()
        keys = list(dict.fromkeys(_FEATURES[name] for name in names))
        raw = {key: np.empty((len(numbers), _SIZES[key]), np.float32) for key in keys}
        hide = None if self.progress else True
        for row, number in enumerate(
            tqdm(numbers.tolist(), unit="frame", desc="reading states and actions", disable=hide)
        ):
            for key, value in self._read(self._path(number), keys).items():
                raw[key][row] = value
        return {name: _as_feature(name, raw[_FEATURES[name]][rows]) for name in names}

    def _all_numbers(self) -> tuple[np.ndarray, np.ndarray]:
        """(sorted numbers of the frames that windows have, the place among them of each frame of each window)."""
        spans = zip(self.annotations.first, self.annotations.last)
        return np.unique(np.concatenate([np.arange(first, last + 1) for first, last in spans]), return_inverse=True)

    # -- one file ------------------------------------------------------------------------------------------------

    def _path(self, number: int) -> Path:
        return self.root / f"episode_{number:0{self._digits}d}.npz"

    def _read(self, path: Path, keys: list[str]) -> dict[str, np.ndarray]:
        frame = read_members(path, {key: self._wanted[key] for key in keys})
        for key, value in frame.items():
            if key in CAMERAS:
                continue
            value = frame[key] = value.astype(np.float32)
            if not np.isfinite(value).all():
                raise InputError(f"{path}: key {key!r}: expected finite numbers, found {value.tolist()}")
            if key == "rel_actions" and np.abs(value).max() > 1 + 1e-5:
                raise InputError(
                    f"{path}: key {key!r}: expected movements within -1 and 1, found {value.tolist()}; absolute poses "
                    "belong under 'actions'"
                )
            if key != "scene_obs" and abs(value[-1]) != 1:
                raise InputError(
                    f"{path}: key {key!r}: expected its last number, the gripper, to be -1 (close) or 1 (open), found "
                    f"{value[-1]:g}"
                )
        return frame

    def _describe(self, skip_bad: bool) -> dict[str, Wanted]:
        """What every file must hold: what the first one does (of those that can be read, if bad ones are skipped)."""
        for place, number in enumerate(self.annotations.first.tolist()):
            path = self._path(number)
            try:
                found = list_members(path)
                break
            except InputError:
                if not skip_bad or place == self.num_episodes - 1:
                    raise
        wanted = {}
        for key in CAMERAS:
            if key in found:
                shape = found[key][0]
                wanted[key] = Wanted(tuple(shape) if len(shape) == 3 and shape[2] == 3 else (200, 200, 3), "u1")
        if not wanted:
            raise InputError(
                f"{path}: expected a picture under the key {' or '.join(map(repr, CAMERAS))}, found the keys "
                f"{', '.join(found)}"
            )
        return wanted | {key: Wanted((size,), "f") for key, size in _SIZES.items() if key in found}

    def _features(self) -> dict[str, dict]:
        axes = ["height", "width", "channels"]
        features = {
            IMAGE_PREFIX + key: {"dtype": "image", "shape": list(self._wanted[key].shape), "names": axes}
            for key in self.cameras
        }
        for ours, theirs in _FEATURES.items():
            if theirs in self._wanted:
                names = _VECTORS[theirs]
                if ours == "observation.state":
                    names = [names[place] for place in _STATE]
                size = len(_STATE) if ours == "observation.state" else _SIZES[theirs]
                features[ours] = {"dtype": "float32", "shape": [size], "names": names}
        return features

    # -- checks --------------------------------------------------------------------------------------------------

    def _check_gaps(self, numbers: np.ndarray, skip_bad: bool) -> None:
        """All frames of every window must be there."""
        first, last = self.annotations.first, self.annotations.last
        # How many files there are up to each end tells how many there are between.
        held = np.searchsorted(numbers, last, side="right") - np.searchsorted(numbers, first)
        whole = held == last - first + 1
        if whole.all():
            return
        rows = np.flatnonzero(~whole)
        reasons = [self._gap(row, numbers) for row in (rows if skip_bad else rows[:1])]
        if not skip_bad or not whole.any():
            raise InputError(
                f"{reasons[0]} ({len(rows)} of {len(whole)} windows have such gaps). Download the split again, or "
                "convert what is whole: hf-vpdd convert dataset --from calvin --skip-bad"
            )
        self.skipped = [{"window": int(row), "reason": reason} for row, reason in zip(rows, reasons)]
        self.windows = np.flatnonzero(whole)
        self.annotations = self.annotations.select(self.windows)

    def _gap(self, row: int, numbers: np.ndarray) -> str:
        first, last = int(self.annotations.first[row]), int(self.annotations.last[row])
        inside = np.arange(first, last + 1)
        missing = inside[~np.isin(inside, numbers)]
        return (
            f"{self._path(int(missing[0]))} is missing: window {row} of {self.annotations_file.name} (key info.indx) "
            f"expected the {len(inside)} frames {first} to {last}, found {len(inside) - len(missing)} of them"
        )

    def _checked(self, episode: int) -> int:
        if not 0 <= episode < self.num_episodes:
            raise InputError(
                f"episode {episode} asked of {self.root}, which has episodes 0 to {self.num_episodes - 1}"
            )
        return int(episode)


def calvin_split(root: str | os.PathLike, split: str | None = None) -> Path:
    """The folder of a split.

    Args:
        root: The split itself, or the folder that holds splits.
        split: Which of them; training, else validation, if not given.

    Raises:
        InputError: There is none.
    """
    root = Path(root).expanduser()
    if split is not None and split not in SPLITS:
        raise InputError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    if not root.is_dir():
        raise InputError(f"CALVIN folder {root} does not exist")
    found = _find_split(root, split)
    if found is None:
        wanted = f"a folder {split!r}" if split else "training/ or validation/, or frames episode_0000000.npz"
        raise InputError(
            f"{root} is not a CALVIN dataset: expected {wanted} with lang_annotations/auto_lang_ann.npy, found "
            f"{_some(entry.name for entry in root.iterdir())}"
        )
    return found


def _find_split(root: Path, split: str | None) -> Path | None:
    def looks_like_one(folder: Path) -> bool:
        return folder.is_dir() and (
            (folder / "ep_start_end_ids.npy").is_file()
            or find_annotations(folder) is not None
            or any(_FILE.fullmatch(entry.name) for entry in os.scandir(folder))
        )

    if split is None and looks_like_one(root):
        return root
    return next((root / name for name in (split,) if name and looks_like_one(root / name)), None) or next(
        (root / name for name in SPLITS if split is None and looks_like_one(root / name)), None
    )


def _frame_numbers(root: Path) -> tuple[int, np.ndarray]:
    """(digits in the names, sorted numbers of the frames there are)."""
    with os.scandir(root) as entries:
        texts = [match[1] for entry in entries if (match := _FILE.fullmatch(entry.name))]
    if not texts:
        raise InputError(f"{root} holds no frames: expected files like episode_0000000.npz, found none")
    widths = sorted({len(text) for text in texts})
    # Numbers that outgrow their zeros (9999, 10000) are one way of counting, too.
    digits = widths[0]
    if any(len(text) != digits and text.startswith("0") for text in texts):
        names = [next(f"episode_{text}.npz" for text in texts if len(text) == width) for width in widths]
        raise InputError(
            f"{root} holds frames of two recordings: expected names with one number of digits, found "
            f"{' and '.join(names)}"
        )
    return digits, np.sort(np.array(texts, np.int64))


def _as_feature(name: str, value: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(value[..., _STATE]) if name == "observation.state" else value


def _some(names) -> str:
    names = sorted(names)
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "") if names else "nothing"
