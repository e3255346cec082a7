"""Reads demonstrations in HDF5 files as robomimic lays them out, and LIBERO, which has names of its own inside.

    dataset = HDF5Dataset("libero_spatial")                    # a folder of *_demo.hdf5; or one file
    dataset.episode(3, images=False)["action"]                 # (T, 7)
    dataset.frames("agentview", 3, 10, 4)                      # uint8 (4, 128, 128, 3)

Needs h5py: pip install 'hf-vpdd[hdf5]'. Files are opened for each read and closed again, so objects travel to other
processes; of a demonstration only what is asked for is read.
"""

import json
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from .source_dataset import SKIP_HINT, SourceDataset, choose_cameras, natural


ENDINGS = (".hdf5", ".h5")
ORIENTATIONS = ("upright", "stored", "rotated")
_FPS = 20  # robosuite's control frequency, where a file does not say

_PICTURES = re.compile(r"(.+)_(?:image|rgb)")  # robomimic and LIBERO
# What the state is put together from: keys of `obs`, with the names of their numbers.
_LIBERO_STATE = {
    "ee_states": ["x", "y", "z", "rx", "ry", "rz"],  # m; axis times angle, rad
    "gripper_states": ["finger_1", "finger_2"],
}
_ROBOMIMIC_STATE = {  # of each arm, robot0_..., robot1_...
    "eef_pos": ["x", "y", "z"],
    "eef_quat": ["qx", "qy", "qz", "qw"],
    "gripper_qpos": ["finger_1", "finger_2"],
}
_ACTION = ["dx", "dy", "dz", "drx", "dry", "drz", "gripper"]


def is_hdf5_dataset(root: str | os.PathLike) -> bool:
    """Whether this is an HDF5 file, or a folder that has some (or folders that have)."""
    return next(_files(Path(root).expanduser()), None) is not None


class HDF5Dataset(SourceDataset):
    """Demonstrations `data/demo_N` of one or many HDF5 files; each is an episode.

    Features: `observation.images.<camera>` (agentview, robot0_eye_in_hand or eye_in_hand, ...: the key without
    `_image` or `_rgb`); `observation.state`: the hand's position, its rotation (robomimic: quaternion; LIBERO: axis
    times angle) and the fingers, of each arm; `observation.joint_positions`, if there; `action` as recorded, within -1
    and 1, of which the last number closes the gripper at +1 (CALVIN's opens it). Files of both layouts in one folder
    are refused.

    Args:
        root: An HDF5 file, or a folder of them (folders in it are looked into, one level).
        cameras: Which, in this order; all that the first demonstration has, if not given.
        instruction: The sentence of every episode. If not given, the file's own: `problem_info` (LIBERO), else its
            name (LIBERO: `pick_up_the_bowl_demo.hdf5`) or the environment's ("PickPlaceCan" -> "pick place can").
        orientation: LIBERO stores pictures upside down. "upright" turns them over (bottom to top); "stored" leaves
            them; "rotated" turns them by 180 degrees, which mirrors the scene, as OpenVLA's and LeRobot's exports of
            LIBERO do. Pictures of robomimic stand upright and are never touched.
        progress: Show bars while much is read.
        skip_bad: Leave out demonstrations that cannot be used, instead of refusing the files.

    Raises:
        InputError: No such file, h5py is not installed, a file that is damaged or not as the first; names file,
            demonstration and key.
    """

    robot_type = "panda"
    actions_within = (-1, 1)

    def __init__(
        self,
        root: str | os.PathLike,
        cameras: list[str] | None = None,
        instruction: str | None = None,
        orientation: str = "upright",
        progress: bool = True,
        skip_bad: bool = False,
    ):
        root, self.progress = Path(root).expanduser(), progress
        if orientation not in ORIENTATIONS:
            raise InputError(f"orientation must be one of {', '.join(ORIENTATIONS)}, got {orientation!r}")
        if not root.exists():
            raise InputError(f"{root} does not exist; give an HDF5 file or a folder of them")
        files = sorted(_files(root), key=lambda path: natural(str(path)))
        if not files:
            raise InputError(f"{root} holds no HDF5 files (*.hdf5, *.h5)")
        self.root, self.instruction, self.orientation = root, instruction, orientation
        self._about: dict[str, _FileAbout] = {}
        broken: list[dict] = []
        names = []
        for path in files:
            name = "" if path == root else str(path.relative_to(root))
            try:
                self._about[name] = about = _read_about(path)
                names += [f"{name}:{demo}" for demo in about.demos]
            except InputError as error:
                if _h5py_missing():
                    raise
                if not skip_bad:
                    raise InputError(f"{error}; {SKIP_HINT}") from error
                broken.append({"episode": name, "reason": str(error)})
        if not names:
            raise InputError(broken[0]["reason"])
        first = next(iter(self._about.values()))
        for name, about in self._about.items():
            if (about.layout, about.fps) != (first.layout, first.fps):
                raise InputError(
                    f"{self._path(name)} is {about.layout} at {about.fps:g} steps a second, {self._path('')} begins "
                    f"with {first.layout} at {first.fps:g}; convert them one by one"
                )
        self.layout, self.fps = first.layout, first.fps
        self.version = {"libero": "LIBERO HDF5", "robomimic": "robomimic HDF5"}[self.layout]
        self._state_keys, self._joint_keys = list(first.state), first.joints
        state = [name for names in first.state.values() for name in names]
        self.column_names = {"observation.state": state, "action": _ACTION}
        self.open_episodes(root, names, choose_cameras(cameras, list(first.pictures), root), skip_bad)
        self.skipped[:0] = broken

    def plan(self) -> dict[str, Any]:
        return {"instruction": self.instruction, "orientation": self.orientation}

    @property
    def cache_root(self) -> Path:
        """Where caches made from this dataset may lie: a file has no inside."""
        return self.root if self.root.is_dir() else self.root.parent

    def inspect(self, name: str) -> tuple[int, str]:
        file, demo = name.rsplit(":", 1)
        path = self._path(file)
        with _opened(path) as content:
            length = len(_array(content, path, f"data/{demo}/actions"))
        return length, self.instruction or self._about[file].sentence

    def read_numbers(self, episode: int) -> dict[str, np.ndarray]:
        path, group = self._place(episode)
        numbers = {}
        with _opened(path) as content:
            numbers["observation.state"] = _joined(content, path, group, self._state_keys)
            if self._joint_keys:
                numbers["observation.joint_positions"] = _joined(content, path, group, self._joint_keys)
            numbers["action"] = _read(content, path, f"{group}/actions")
        return numbers

    def read_pictures(self, camera: str, episode: int, first: int, count: int) -> np.ndarray:
        path, group = self._place(episode)
        file, _ = self.episode_names[episode].rsplit(":", 1)
        key = f"{group}/obs/{self._about[file].pictures.get(camera, camera)}"
        with _opened(path) as content:
            array = _array(content, path, key)
            if array.ndim != 4 or array.dtype != np.uint8 or array.shape[3] != 3:
                raise InputError(
                    f"{path}: {key}: expected pictures uint8 (T, H, W, 3), found {array.dtype} {array.shape}"
                )
            length = int(self.episodes.length[episode])
            if len(array) != length:
                raise InputError(f"{path}: {key}: expected {length} pictures, one for each action, found {len(array)}")
            pictures = _read(content, path, key, slice(first, first + count))
        if self.layout == "libero" and self.orientation != "stored":
            pictures = pictures[:, ::-1, ::-1] if self.orientation == "rotated" else pictures[:, ::-1]
        return np.ascontiguousarray(pictures)

    def files(self, episode: int) -> list[Path]:
        return [self._place(episode)[0]]

    def where(self, episode: int) -> str:
        path, group = self._place(episode)
        return f"{path}: {group}"

    def note(self, episode: int) -> dict[str, Any]:
        file, demo = self.episode_names[episode].rsplit(":", 1)
        return {"file": self._path(file).name, "demo": demo}

    def _place(self, episode: int) -> tuple[Path, str]:
        file, demo = self.episode_names[episode].rsplit(":", 1)
        return self._path(file), f"data/{demo}"

    def _path(self, file: str) -> Path:
        return self.root / file if file else self.root


class _FileAbout:
    """What a file says of all its demonstrations."""

    def __init__(self, path: Path, content: Any):
        data = content.get("data")
        if data is None or not hasattr(data, "keys"):
            raise InputError(f"{path}: expected the group data, found {sorted(content.keys()) or 'nothing'}")
        self.demos = sorted((key for key in data if re.fullmatch(r"demo_\d+", key)), key=natural)
        if not self.demos:
            raise InputError(f"{path}: expected data/demo_0, ..., found {sorted(data.keys())[:6] or 'nothing'}")
        keys = None
        for demo in self.demos:  # the first that has any: a broken one is told when it is inspected
            if hasattr(data[demo], "keys") and hasattr(data[demo].get("obs"), "keys"):
                keys = list(data[demo]["obs"].keys())
                break
        if keys is None:
            raise InputError(
                f"{path}: data/{self.demos[0]}/obs is missing: these are simulator states without pictures; make "
                "observations of them first (robomimic: dataset_states_to_obs.py)"
            )
        problem = _json_attribute(path, data, "problem_info")
        environment = _json_attribute(path, data, "env_args")
        self.layout = "libero" if problem or "ee_states" in keys else "robomimic"
        if self.layout == "libero":
            self.state, self.joints = _LIBERO_STATE, [key for key in ("joint_states",) if key in keys]
        else:
            arms = sorted({match[1] for key in keys if (match := re.fullmatch(r"(robot\d+)_eef_pos", key))}) or [
                "robot0"
            ]
            self.state = {
                f"{arm}_{key}": names if len(arms) == 1 else [f"{arm}_{name}" for name in names]
                for arm in arms
                for key, names in _ROBOMIMIC_STATE.items()
            }
            self.joints = [f"{arm}_joint_pos" for arm in arms if f"{arm}_joint_pos" in keys]
        self.pictures = {match[1]: key for key in sorted(keys) if (match := _PICTURES.fullmatch(key))}
        arguments = environment.get("env_kwargs") if isinstance(environment.get("env_kwargs"), dict) else {}
        frequency = arguments.get("control_freq", _FPS)
        if not isinstance(frequency, (int, float)) or not 0 < frequency <= 1000:
            raise InputError(f"{path}: env_args: expected a control_freq above 0, found {frequency!r}")
        self.fps = frequency
        spoken = problem.get("language_instruction", "")
        spoken = " ".join(spoken) if isinstance(spoken, list) and all(isinstance(s, str) for s in spoken) else spoken
        if not isinstance(spoken, str):
            raise InputError(f"{path}: problem_info: expected a sentence as language_instruction, found {spoken!r}")
        self.sentence = spoken.strip().strip('"').strip() or self._named(path, environment)

    def _named(self, path: Path, environment: dict) -> str:
        name = environment.get("env_name")
        if self.layout == "libero" or not isinstance(name, str) or not name:
            # Suites that mix kitchens begin with the scene: KITCHEN_SCENE3_turn_on_the_stove_demo.hdf5
            stem = re.sub(r"^[A-Z_]+SCENE\d+_", "", path.stem.removesuffix("_demo"))
            return stem.replace("_", " ").strip() or "unnamed task"
        return " ".join(word.lower() for word in re.findall(r"[A-Z]+[a-z]*|[a-z]+|\d+", name)) or name


def _read_about(path: Path) -> _FileAbout:
    with _opened(path) as content:
        return _FileAbout(path, content)


def _files(root: Path) -> Iterator[Path]:
    if root.is_file():
        if root.suffix in ENDINGS:
            yield root
        return
    for level in ("*", "*/*"):
        for ending in ENDINGS:
            yield from (path for path in root.glob(level + ending) if path.is_file())


def _h5py_missing() -> bool:
    try:
        import h5py  # noqa: F401
    except ModuleNotFoundError:
        return True
    return False


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        import h5py
    except ModuleNotFoundError:
        raise InputError(f"{path} is an HDF5 file, which needs h5py: pip install 'hf-vpdd[hdf5]'") from None
    if not path.is_file():
        raise InputError(f"{path} is missing: it was there when the dataset was opened")
    try:
        content = h5py.File(path, "r")
    except Exception as error:  # a damaged file fails in as many ways as HDF5 has structures
        raise _damaged(path, error) from error
    try:
        with content:
            yield content
    except InputError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError) as error:  # what h5py raises of a damaged inside
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(f"{path} is not an HDF5 file, or cut short or damaged: {error}; copy it again")


def _array(content: Any, path: Path, key: str) -> Any:
    """An array of the file, unread."""
    import h5py

    try:
        found = content.get(key)
    except Exception as error:  # see `_opened`
        raise InputError(f"{path}: {key} cannot be read (damaged): {error}; copy the file again") from error
    if not isinstance(found, h5py.Dataset):
        parent = content.get(key.rsplit("/", 1)[0])
        keys = sorted(parent.keys()) if hasattr(parent, "keys") else "nothing"
        raise InputError(f"{path}: {key} is missing or no array; found there: {keys}")
    if found.file.filename != content.filename or found.external or found.is_virtual:
        raise InputError(f"{path}: {key} points into another file; expected is data of its own")
    if found.dtype.kind not in "fiub" or found.ndim < 1:
        raise InputError(f"{path}: {key}: expected an array of numbers, found {found.dtype} {found.shape}")
    # HDF5 reads zeros where nothing was written, which a recording that was stopped would pass off as black pictures.
    if found.chunks:
        expected = math.prod(-(-size // chunk) for size, chunk in zip(found.shape, found.chunks))
        written = found.id.get_num_chunks() == expected
    else:
        written = found.id.get_storage_size() == found.nbytes
    if not written:
        raise InputError(f"{path}: {key}: of {found.shape} only a part was ever written; record or copy it again")
    return found


def _read(content: Any, path: Path, key: str, rows: slice = slice(None)) -> np.ndarray:
    array = _array(content, path, key)
    try:
        return np.asarray(array[rows])
    except Exception as error:  # see `_opened`
        raise InputError(f"{path}: {key} cannot be read (damaged): {error}; copy the file again") from error


def _joined(content: Any, path: Path, group: str, keys: list[str]) -> np.ndarray:
    parts = [_read(content, path, f"{group}/obs/{key}") for key in keys]
    if any(part.ndim != 2 or len(part) != len(parts[0]) for part in parts):
        raise InputError(
            f"{path}: {group}/obs: expected rows of numbers of one length, found the shapes "
            f"{[part.shape for part in parts]}"
        )
    return np.concatenate(parts, axis=1)


def _json_attribute(path: Path, data: Any, name: str) -> dict:
    text = data.attrs.get(name)
    if text is None:
        return {}
    try:
        found = json.loads(text)
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: the attribute {name} of data is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise InputError(f"{path}: the attribute {name} of data: expected a JSON object, found {found!r}"[:300])
    return found
