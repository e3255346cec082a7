"""What readers of robot datasets in other formats share: the interface of `LeRobotDataset`, and one set of checks.

A reader finds its episodes, says for each how long it is and which sentence goes with it, and reads numbers and
pictures of one when they are asked for. That lengths, shapes, types and values are what the first episode promised is
seen to here, so that a broken file ends in one error that names it.
"""

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ..errors import InputError
from .lerobot import IMAGE_PREFIX, EpisodeTable
from .pictures import read_picture


_AXES = ["height", "width", "channels"]
SKIP_HINT = "repair it, or convert the others: hf-vpdd convert dataset --skip-bad"
_ROUNDING = 1e-5  # of actions that are at their limit


class SourceDataset:
    """A dataset of E episodes in a format of its own, read lazily.

    Attributes: as `LeRobotDataset`'s. `episode_names` (E) tell episodes apart in messages and in
    `meta/conversion.jsonl`; `numbers` (E,) are their places among all that were found, bad ones included; `skipped`
    has what was left out (skip_bad) and why; `found` the names of all.

    Readers give `version`, `robot_type`, `inspect`, `read_numbers`, `read_pictures` and `files`, and call
    `open_episodes`.
    """

    version = ""  # of the format, as `hf-vpdd info` shows it
    robot_type: str | None = None
    fps: float = 0
    progress = True
    column_names: dict[str, list[str] | None] = {}  # of features
    actions_within: tuple[float, float] | None = None

    # -- what a reader gives -------------------------------------------------------------------------------------

    def inspect(self, name: str) -> tuple[int, str]:
        """(frames, sentence) of an episode that was found, from as little as can be read."""
        raise NotImplementedError

    def read_numbers(self, episode: int) -> dict[str, np.ndarray]:
        """Every feature that is no picture, (T, ...)."""
        raise NotImplementedError

    def read_pictures(self, camera: str, episode: int, first: int, count: int) -> np.ndarray:
        """uint8 (count, H, W, 3)."""
        raise NotImplementedError

    def files(self, episode: int) -> list[Path]:
        """The files that an episode is made of."""
        raise NotImplementedError

    def note(self, episode: int) -> dict[str, Any]:
        """Where an episode comes from."""
        return {"episode": self.episode_names[episode]}

    def plan(self) -> dict[str, Any]:
        """The options that decide what is in the dataset, as plain JSON data."""
        return {}

    def where(self, episode: int) -> str:
        """For messages: file or folder of an episode."""
        return str(self.root / self.episode_names[episode])

    # -- opening -------------------------------------------------------------------------------------------------

    def open_episodes(self, root: Path, names: Sequence[str], cameras: Sequence[str], skip_bad: bool) -> None:
        """Inspects all episodes and reads one, which says what all must be like.

        Raises:
            InputError: An episode cannot be used (the first of them; with `skip_bad` if none can).
        """
        self.root, self.found, self.skipped, self._cameras = root, list(names), [], list(cameras)
        kept: list[tuple[int, int, str]] = []
        bar = tqdm(self.found, unit="episode", desc="looking at episodes", disable=None if self.progress else True)
        for number, name in enumerate(bar):
            try:
                length, sentence = self.inspect(name)
                if length < 1:
                    raise InputError(f"{root / name} has no frames")
                kept.append((number, length, sentence))
            except InputError as error:
                if not skip_bad:
                    raise InputError(f"{error}; {SKIP_HINT}") from error
                self.skipped.append({"episode": name, "reason": str(error)})
        while kept:
            self._fill(kept)
            try:
                self.features = self._describe()
                break
            except InputError as error:
                if not skip_bad:
                    raise InputError(f"{error}; {SKIP_HINT}") from error
                self.skipped.append({"episode": self.episode_names[0], "reason": str(error)})
                kept = kept[1:]
        if not kept:
            reason = self.skipped[0]["reason"] if self.skipped else "there are none"
            raise InputError(f"none of the {len(self.found)} episodes of {root} can be used; the first: {reason}")
        self.info = {"robot_type": self.robot_type, "fps": self.fps, "features": self.features}

    def _fill(self, kept: list[tuple[int, int, str]]) -> None:
        numbers, lengths, sentences = zip(*kept)
        length = np.array(lengths, np.int64)
        self.numbers = np.array(numbers, np.int64)
        self.episode_names = [self.found[number] for number in numbers]
        self.episodes = EpisodeTable(
            length=length,
            start=np.cumsum(length) - length,
            task=list(sentences),
            data_files=[],
            data_file=np.zeros(len(length), np.int64),
            video_files={},
            video_file={},
            video_start={},
        )
        self.num_episodes, self.num_frames = len(length), int(length.sum())
        self.tasks = list(dict.fromkeys(sentences))

    def _describe(self) -> dict[str, dict]:
        features = {}
        for camera in self._cameras:
            shape = self.read_pictures(camera, 0, 0, 1).shape[1:]
            features[IMAGE_PREFIX + camera] = {"dtype": "image", "shape": list(shape), "names": _AXES}
        for key, value in self._checked_numbers(0, None).items():
            names = self.column_names.get(key)
            if names is not None and len(names) != value[0].size:
                names = None
            shape = list(value.shape[1:]) or [1]
            features[key] = {"dtype": str(value.dtype), "shape": shape, "names": names}
        return features

    # -- the interface of LeRobotDataset -------------------------------------------------------------------------

    def __len__(self) -> int:
        return self.num_episodes

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.root)!r}, {self.num_episodes} episodes, {self.num_frames} frames)"

    @property
    def cameras(self) -> list[str]:
        """Names of the cameras, without the prefix `observation.images.`."""
        return list(self._cameras)

    @cached_property
    def fingerprint(self) -> str:
        """64 hexadecimal digits that change with options, sentences and with names and sizes of the files."""
        digest = hashlib.sha256(repr(sorted(self.plan().items())).encode())
        for episode in range(self.num_episodes):
            digest.update(self.episode_fingerprint(episode).encode())
        return digest.hexdigest()

    def episode_fingerprint(self, episode: int) -> str:
        """The same of one episode."""
        parts = [self.episode_names[episode], self.episodes.task[episode]]
        try:
            parts += [f"{path.relative_to(self.root)}:{path.stat().st_size}" for path in self.files(episode)]
        except FileNotFoundError as error:
            raise InputError(f"{error.filename} is missing; copy it again") from None
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def all_files(self) -> list[Path]:
        """The files of all episodes, each once."""
        return list(dict.fromkeys(path for episode in range(self.num_episodes) for path in self.files(episode)))

    def camera_key(self, camera: str) -> str:
        """The feature of a camera, given with or without `observation.images.`.

        Raises:
            InputError: No such camera; names those there are.
        """
        name = camera.removeprefix(IMAGE_PREFIX)
        if name not in self._cameras:
            raise InputError(f"{self.root} has no camera {camera!r}; its cameras are {self._cameras or 'none'}")
        return IMAGE_PREFIX + name

    def episode(self, index: int, images: bool = True) -> dict:
        """One episode: every feature as an array (T, ...), `task` as a string; images unless told otherwise.

        Raises:
            InputError: A file that is damaged or not as the first episode's; names it, the key, and both sides.
        """
        index = self._checked(index)
        length, start = int(self.episodes.length[index]), int(self.episodes.start[index])
        output = {IMAGE_PREFIX + camera: self.frames(camera, index) for camera in self._cameras if images}
        output |= self._checked_numbers(index, self.features)
        steps = np.arange(length)
        return output | {
            "timestamp": (steps / self.fps).astype(np.float32),
            "frame_index": steps,
            "episode_index": np.full(length, index),
            "index": start + steps,
            "task_index": np.full(length, self.tasks.index(self.episodes.task[index])),
            "task": self.episodes.task[index],
        }

    def frames(self, camera: str, episode: int, first: int = 0, count: int | None = None) -> np.ndarray:
        """Frames of one camera, uint8 (count, H, W, 3): the whole episode, or `count` of them from `first` on."""
        key = self.camera_key(camera)
        length = int(self.episodes.length[self._checked(episode)])
        count = length - first if count is None else count
        if first < 0 or count < 1 or first + count > length:
            raise InputError(f"frames {first} to {first + count - 1} asked of episode {episode}, which has {length}")
        pictures = self.read_pictures(key.removeprefix(IMAGE_PREFIX), episode, first, count)
        expected = tuple(self.features[key]["shape"])
        if pictures.dtype != np.uint8 or pictures.shape != (count, *expected):
            raise InputError(
                f"{self.where(episode)}: pictures of {camera} (episode {episode}): expected uint8 "
                f"{(count, *expected)} as in the first episode, found {pictures.dtype} {pictures.shape}"
            )
        return pictures

    def columns(self, names: list[str]) -> dict[str, np.ndarray]:
        """Features of all frames in order, each (num_frames, ...); the names must exist.

        Raises:
            InputError: No such feature, or a file that is damaged.
        """
        known = [key for key, feature in self.features.items() if feature["dtype"] != "image"]
        missing = [name for name in names if name not in known]
        if missing:
            raise InputError(f"{self.root} has no feature {missing}; its features are {sorted(self.features)}")
        if not names:
            return {}
        pieces: dict[str, list[np.ndarray]] = {name: [] for name in names}
        hide = None if self.progress else True
        for episode in tqdm(range(self.num_episodes), unit="episode", desc="reading states and actions", disable=hide):
            numbers = self._checked_numbers(episode, self.features)
            for name, piece in pieces.items():
                piece.append(numbers[name])
        return {name: np.concatenate(values) for name, values in pieces.items()}

    # -- checks --------------------------------------------------------------------------------------------------

    def _checked(self, episode: int) -> int:
        if not 0 <= episode < self.num_episodes:
            raise InputError(
                f"episode {episode} asked of {self.root}, which has episodes 0 to {self.num_episodes - 1}"
            )
        return int(episode)

    def _checked_numbers(self, episode: int, features: dict[str, dict] | None) -> dict[str, np.ndarray]:
        """The numbers of an episode, float32 where they are fractions; as `features` promise, if given."""
        numbers, length = self.read_numbers(episode), int(self.episodes.length[episode])
        if features is not None:
            expected = {key for key, feature in features.items() if feature["dtype"] != "image"}
            if set(numbers) != expected:
                raise InputError(
                    f"{self.where(episode)} (episode {episode}): expected the features {sorted(expected)} of the "
                    f"first episode, found {sorted(numbers)}"
                )
        for key, value in numbers.items():
            what = f"{self.where(episode)}: {key} (episode {episode})"
            if value.dtype.kind not in "fiub":
                raise InputError(f"{what}: expected numbers, found {value.dtype}")
            if value.dtype.kind == "f":
                with np.errstate(over="ignore"):  # what is beyond float32 becomes infinite, which is told below
                    value = numbers[key] = value.astype(np.float32)
            shape = value.shape[1:] if features is None else tuple(features[key]["shape"])
            shape = () if value.ndim == 1 and shape == (1,) else shape
            if value.shape != (length, *shape):
                raise InputError(f"{what}: expected shape {(length, *shape)}, found {value.shape}")
            bad = np.flatnonzero(~np.isfinite(value).reshape(length, -1).all(axis=1))
            if len(bad):
                frame = int(bad[0])
                raise InputError(f"{what}: expected finite numbers, found {value[frame].tolist()} in frame {frame}")
            limits = self.actions_within if key == "action" else None
            if limits is not None and (value.min() < limits[0] - _ROUNDING or value.max() > limits[1] + _ROUNDING):
                outside = (value < limits[0] - _ROUNDING) | (value > limits[1] + _ROUNDING)
                frame = int(np.flatnonzero(outside.any(axis=1))[0])
                raise InputError(
                    f"{what}: expected actions within {limits[0]:g} and {limits[1]:g}, found {value[frame].tolist()} "
                    f"in frame {frame}"
                )
        return numbers


# -- helpers of readers ----------------------------------------------------------------------------------------------


def natural(name: str) -> list:
    """A sort key by which episode10 comes after episode9."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def numbered_files(folder: Path, pattern: re.Pattern) -> int:
    """How many files folder holds whose names match, counted 0, 1, 2, ... without gaps.

    Raises:
        InputError: No such folder, or a number is missing.
    """
    try:
        with os.scandir(folder) as entries:
            numbers = sorted(int(match[1]) for entry in entries if (match := pattern.fullmatch(entry.name)))
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error.strerror}") from error
    if numbers != list(range(len(numbers))):
        missing = next(place for place, number in enumerate(numbers) if place != number)
        raise InputError(f"{folder}: picture {missing} is missing, of {numbers[-1] + 1}; copy the folder again")
    return len(numbers)


def stack_pictures(paths: Iterable[Path]) -> np.ndarray:
    """Pictures of one size, (T, H, W, 3).

    Raises:
        InputError: One is missing, damaged or of another size.
    """
    pictures: list[np.ndarray] = []
    for path in paths:
        picture = read_picture(path)
        if pictures and picture.shape != pictures[0].shape:
            raise InputError(f"{path}: expected a picture {pictures[0].shape} as before it, found {picture.shape}")
        pictures.append(picture)
    return np.stack(pictures)


def choose_cameras(asked: Sequence[str] | None, found: Sequence[str], where: Path) -> list[str]:
    """The cameras asked for, or all that were found.

    Raises:
        InputError: None, or one that is not there.
    """
    if not found:
        raise InputError(f"{where} has no pictures of any camera")
    if asked is None:
        return list(found)
    asked = [name.removeprefix(IMAGE_PREFIX) for name in asked]
    missing = [name for name in asked if name not in found]
    if missing or not asked or len(set(asked)) != len(asked):
        raise InputError(f"{where}: asked for the cameras {asked}, each once; its cameras are {list(found)}")
    return asked
