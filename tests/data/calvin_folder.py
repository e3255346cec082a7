"""A small CALVIN folder in the real format: what calvin_env's data renderer and the language annotator write."""

from pathlib import Path

import numpy as np


# Frame numbers that the sentences describe, both ends included; two windows overlap, frames 50 to 59 are not there.
WINDOWS = [(40, 49), (44, 49), (60, 66), (61, 72), (68, 75)]
SENTENCES = ["push the red block left", "grasp the drawer", "push the red block left", "grasp the drawer", "go left"]
TASKS = ["push_red_block_left", "open_drawer", "push_red_block_left", "open_drawer", "push_red_block_left"]
STRETCHES = [(40, 49), (60, 75)]  # ep_start_end_ids
SIZES = {"rgb_static": 200, "rgb_gripper": 84}


def frame(number: int, sizes: dict[str, int] = SIZES) -> dict[str, np.ndarray]:
    """One frame's arrays as the renderer saves them: vectors in float64, depth in float32."""
    rng = np.random.default_rng(number)
    pose = rng.uniform(-1, 1, 6)
    gripper = 1.0 if number % 3 else -1.0
    arrays = {
        "actions": np.append(pose + 0.01, -gripper),
        "rel_actions": np.append(np.clip(rng.normal(size=6), -1, 1), -gripper),
        "robot_obs": np.concatenate([pose, [0.04], rng.uniform(-3, 3, 7), [gripper]]),
        "scene_obs": rng.uniform(-1, 1, 24),
    }
    for key, size in sizes.items():
        y, x = np.mgrid[:size, :size]
        picture = np.stack([x * 200 // size, y * 200 // size, np.full_like(x, 3 * number % 200)], -1)
        edge = (number * 5) % (size // 2)
        picture[edge : edge + size // 4, edge : edge + size // 4] = (230, 40, 60)
        arrays[key] = picture.astype(np.uint8)
        arrays[key.replace("rgb", "depth")] = np.ones((size, size), np.float32)
    return arrays


def write_frame(split: Path, number: int, arrays: dict[str, np.ndarray], digits: int = 7) -> Path:
    path = split / f"episode_{number:0{digits}d}.npz"
    np.savez_compressed(path, **arrays)
    return path


def write_annotations(split: Path, windows=WINDOWS, sentences=SENTENCES, tasks=TASKS, **changes) -> Path:
    content = {
        "language": {
            "ann": list(sentences),
            "task": list(tasks),
            "emb": np.zeros((len(sentences), 1, 384), np.float32),
        },
        "info": {"episodes": [], "indx": [(int(first), int(last)) for first, last in windows]},
    }
    for key, value in changes.items():
        section, name = key.split("_", 1)
        content[section][name] = value
    folder = split / "lang_annotations"
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "auto_lang_ann.npy", content)
    return folder / "auto_lang_ann.npy"


def write_calvin(root: Path, splits=("training",), sizes: dict[str, int] = SIZES) -> Path:
    """`task_D_D` with 26 frames and 5 sentences a split."""
    for split in splits:
        folder = root / split
        folder.mkdir(parents=True)
        for first, last in STRETCHES:
            for number in range(first, last + 1):
                write_frame(folder, number, frame(number, sizes))
        np.save(folder / "ep_start_end_ids.npy", np.array(STRETCHES))
        np.save(folder / "ep_lens.npy", np.array([last - first + 1 for first, last in STRETCHES]))
        write_annotations(folder)
    return root
