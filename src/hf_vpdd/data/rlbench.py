"""Reads RLBench demonstrations as they lie on disk, without RLBench: PerAct's layout and RLBench's own.

    dataset = RLBenchDataset("peract/train")                 # tasks/all_variations/episodes/episode0, ...
    dataset.episode(3, images=False)["action"]               # (T, 8): x y z qx qy qz qw gripper_open
    dataset.frames("front", 3, 10, 4)                        # uint8 (4, 128, 128, 3)

`action` is the pose of the gripper at each frame and `keyframe` marks the frames that a keyframe policy is trained to
name (PerAct's rule, see `keyframes`): the same meaning as of recordings and of `hf_vpdd.envs.rlbench`.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from .keyframes import find_keyframes
from .rlbench_pickles import read_demo, read_plain
from .source_dataset import SourceDataset, choose_cameras, natural, numbered_files, stack_pictures


FPS = 20  # simulator steps a second
CAMERAS = ("front", "left_shoulder", "right_shoulder", "wrist", "overhead")
LOW_DIM = "low_dim_obs.pkl"
DESCRIPTIONS = "variation_descriptions.pkl"

_EPISODE, _PICTURE = re.compile(r"episode(\d+)"), re.compile(r"(\d+)\.png")
_POSE_NAMES = ["x", "y", "z", "qx", "qy", "qz", "qw", "gripper_open"]
_JOINTS = [f"joint_{number}" for number in range(1, 8)]


def is_rlbench_folder(root: str | os.PathLike) -> bool:
    """Whether there are RLBench demonstrations: a folder of tasks, a task, a variation or its `episodes`."""
    return next(_episode_folders(Path(root).expanduser()), None) is not None


class RLBenchDataset(SourceDataset):
    """Demonstrations of RLBench; each folder `episodeN` is an episode.

    Features: `observation.images.<camera>`; `observation.state` (4) = [gripper_open, the two finger joints (m), 1],
    what VPDD's policy reads; `observation.joint_positions` (7, rad) and `observation.joint_velocities` (7, rad/s);
    `action` (8) = [x, y, z (m, world), qx, qy, qz, qw, gripper_open] of the frame itself; `keyframe` (bool). Depth and
    masks are left alone. The instruction is the first of the demonstration's descriptions, as in VPDD.

    Args:
        root: A folder of tasks, one task, a variation (`all_variations`, `variation3`), or its `episodes`.
        cameras: Which, in this order; those of `CAMERAS` that the first demonstration has, if not given.
        progress: Show bars while much is read.
        skip_bad: Leave out demonstrations that cannot be used, instead of refusing the folder.

    Raises:
        InputError: No demonstrations there, or one that is not whole; its folder is named.
    """

    version = "RLBench"
    robot_type = "panda"
    fps = FPS
    column_names = {
        "observation.state": ["gripper_open", "finger_joint_1", "finger_joint_2", "one"],
        "observation.joint_positions": _JOINTS,
        "observation.joint_velocities": _JOINTS,
        "action": _POSE_NAMES,
    }

    def __init__(
        self,
        root: str | os.PathLike,
        cameras: list[str] | None = None,
        progress: bool = True,
        skip_bad: bool = False,
    ):
        root, self.progress = Path(root).expanduser(), progress
        if not root.is_dir():
            raise InputError(f"RLBench folder {root} does not exist")
        folders = sorted(_episode_folders(root), key=lambda folder: natural(str(folder)))
        if not folders:
            raise InputError(
                f"{root} holds no RLBench demonstrations: expected TASK/all_variations/episodes/episode0 with "
                f"{LOW_DIM}, found {', '.join(sorted(os.listdir(root))[:6]) or 'nothing'}"
            )
        self.root = root
        present = next((found for folder in folders if (found := _cameras_of(folder))), [])
        chosen = choose_cameras(cameras, present, folders[0])
        self._first_camera = chosen[0]
        self.open_episodes(root, [str(folder.relative_to(root)) for folder in folders], chosen, skip_bad)

    def inspect(self, name: str) -> tuple[int, str]:
        folder = self.root / name
        if not (folder / LOW_DIM).is_file():
            raise InputError(f"{folder / LOW_DIM} is missing; copy the demonstration again")
        return numbered_files(folder / f"{self._first_camera}_rgb", _PICTURE), _descriptions(folder)[0]

    def read_numbers(self, episode: int) -> dict[str, np.ndarray]:
        folder = self.root / self.episode_names[episode]
        path, length = folder / LOW_DIM, int(self.episodes.length[episode])
        demo = read_demo(path)
        if len(demo) != length:
            raise InputError(
                f"{path}: expected {length} observations, as many as there are pictures in {self._first_camera}_rgb, "
                f"found {len(demo)}"
            )

        def column(key: str, size: int) -> np.ndarray:
            rows = [getattr(observation, key, None) for observation in demo]
            for frame, row in enumerate(rows):
                if not _is_vector(row, size):
                    raise InputError(f"{path}: {key} of frame {frame}: expected {size} numbers, found {_brief(row)}")
            values = np.array(rows, np.float64).reshape(length, size)
            bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
            if len(bad):
                raise InputError(
                    f"{path}: {key} of frame {bad[0]}: expected finite numbers, found {values[bad[0]].tolist()}"
                )
            return values

        gripper, fingers, pose = (
            column("gripper_open", 1),
            column("gripper_joint_positions", 2),
            column("gripper_pose", 7),
        )
        velocities, positions = column("joint_velocities", 7), column("joint_positions", 7)
        wrong = np.flatnonzero(~np.isin(gripper[:, 0], (0.0, 1.0)))
        if len(wrong):
            raise InputError(
                f"{path}: gripper_open of frame {wrong[0]}: expected 0 (closed) or 1 (open), found "
                f"{gripper[wrong[0], 0]:g}"
            )
        norms = np.linalg.norm(pose[:, 3:], axis=1)
        wrong = np.flatnonzero(np.abs(norms - 1) > 1e-2)
        if len(wrong):
            raise InputError(
                f"{path}: gripper_pose of frame {wrong[0]}: expected a quaternion of length 1, found "
                f"{norms[wrong[0]]:.3g}: {pose[wrong[0], 3:].tolist()}"
            )
        keyframe = np.zeros(length, bool)
        keyframe[find_keyframes(gripper[:, 0], velocities)] = True
        return {
            "observation.state": np.concatenate([gripper, fingers, np.ones((length, 1))], axis=1),
            "observation.joint_positions": positions,
            "observation.joint_velocities": velocities,
            "action": np.concatenate([pose, gripper], axis=1),
            "keyframe": keyframe,
        }

    def read_pictures(self, camera: str, episode: int, first: int, count: int) -> np.ndarray:
        folder = self.root / self.episode_names[episode] / f"{camera}_rgb"
        return stack_pictures(folder / f"{number}.png" for number in range(first, first + count))

    def files(self, episode: int) -> list[Path]:
        folder, length = self.root / self.episode_names[episode], int(self.episodes.length[episode])
        pictures = [folder / f"{camera}_rgb" / f"{i}.png" for camera in self._cameras for i in range(length)]
        return [folder / LOW_DIM, _descriptions_file(folder), *pictures]

    def note(self, episode: int) -> dict[str, Any]:
        folder = self.root / self.episode_names[episode]
        about = {"episode": self.episode_names[episode], "task": _task_of(folder)}
        number = folder / "variation_number.pkl"
        if number.is_file():
            about["variation"] = int(read_plain(number))
        elif match := re.fullmatch(r"variation(\d+)", folder.parent.parent.name):
            about["variation"] = int(match[1])
        return about | {"descriptions": _descriptions(folder)}


def _episode_folders(root: Path) -> Iterator[Path]:
    """Folders `episodeN`, from a root that is the `episodes` they lie in, or one to three levels above."""
    levels = ["episodes/episode*", "*/episodes/episode*", "*/*/episodes/episode*"]
    for level in (["episode*"] if root.name == "episodes" else []) + levels:
        for folder in root.glob(level):
            # Without the pickle it is still an episode, a broken one, which is to be said and not passed over.
            if _EPISODE.fullmatch(folder.name) and ((folder / LOW_DIM).is_file() or _cameras_of(folder)):
                yield folder


def _cameras_of(folder: Path) -> list[str]:
    return [camera for camera in CAMERAS if (folder / f"{camera}_rgb").is_dir()]


def _descriptions_file(folder: Path) -> Path:
    """PerAct keeps the sentences in each episode, RLBench one file for all of a variation."""
    own = folder / DESCRIPTIONS
    return own if own.is_file() else folder.parent.parent / DESCRIPTIONS


def _descriptions(folder: Path) -> list[str]:
    path = _descriptions_file(folder)
    if not path.is_file():
        raise InputError(f"{folder / DESCRIPTIONS} is missing; copy the demonstration again")
    sentences = read_plain(path)
    if (
        not isinstance(sentences, list)
        or not sentences
        or not all(isinstance(s, str) and s.strip() for s in sentences)
    ):
        raise InputError(f"{path}: expected a list of sentences, found {_brief(sentences)}")
    return sentences


def _task_of(folder: Path) -> str:
    """close_jar, of close_jar/all_variations/episodes/episode0."""
    return folder.resolve().parent.parent.parent.name


def _is_vector(value: Any, size: int) -> bool:
    if isinstance(value, (bool, int, float, np.number, np.bool_)):
        return size == 1
    return isinstance(value, np.ndarray) and value.dtype.kind in "fiub" and value.size == size and value.ndim <= 1


def _brief(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array {value.dtype} {value.shape}"
    return f"{type(value).__name__} {value!r}"[:80]
