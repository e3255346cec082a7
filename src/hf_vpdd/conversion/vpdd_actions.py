"""The official action vocabularies as bins of a `VPDDProcessor` (spec §4.3).

Positions are quantised at thresholds taken from the demonstrations: the id is the last threshold <= x, an id decodes
to the middle between its threshold and the next. Where many actions are equal, thresholds coincide; such a bin has no
width and is never encoded, but keeps its id.
"""

import zipfile
from pathlib import Path

import numpy as np

from ..errors import InputError


METAWORLD_GRIPPER = (-1.0, 0.0, 0.1, 0.5, 0.6, 0.65, 0.7, 0.8, 0.9, 1.0)
# RLBench positions are scaled from this box (metres) to [-1, 1] before they are quantised
RLBENCH_BOX = ((-0.3, 0.7), (-0.5, 0.5), (0.6, 1.6))


def quantile_thresholds(positions: np.ndarray, num_bins: int) -> np.ndarray:
    """The official thresholds of positions (N, 3): every ceil(N / bins)-th of the sorted values, then the largest.

    Returns:
        float64 (at most num_bins + 1, 3), ascending.
    """
    step = -(-len(positions) // num_bins)
    ordered = np.sort(np.asarray(positions, dtype=np.float64), axis=0)
    return np.concatenate([ordered[::step], ordered[-1:]])


def read_thresholds(path: str | Path, num_bins: int, benchmark: str) -> np.ndarray:
    """Thresholds (bins + 1, 3) of the official `tokenizer_<bins>.npz`, or computed from a LeRobot dataset's actions.

    Raises:
        InputError: Neither of the two; or made for another number of bins; or not ascending.
    """
    path = Path(path)
    if path.is_dir():
        if benchmark != "metaworld":
            raise InputError("--thresholds: RLBench's are made of gripper poses; give the file tokenizer_360.npz.")
        from ..data.lerobot import LeRobotDataset

        dataset = LeRobotDataset(path)
        if "action" not in dataset.features:
            raise InputError(f"--thresholds: the dataset {path} has no actions.")
        actions = dataset.columns(["action"])["action"]
        if actions.ndim != 2 or actions.shape[1] != 4 or len(actions) < num_bins:
            raise InputError(
                f"--thresholds: {path} holds actions of shape {actions.shape}; needed are at least {num_bins} with "
                "x, y, z and gripper."
            )
        return quantile_thresholds(actions[:, :3], num_bins)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError, TypeError) as error:
        raise InputError(f"--thresholds: {path} is not an .npz file of numbers ({error}).") from error
    if "thresholds" not in arrays:
        raise InputError(f"--thresholds: {path} has no array 'thresholds'; it holds {', '.join(arrays) or 'nothing'}.")
    thresholds = np.asarray(arrays["thresholds"], dtype=np.float64)
    if thresholds.ndim != 2 or thresholds.shape[1] != 3 or len(thresholds) < 2:
        raise InputError(f"--thresholds: {path} holds {thresholds.shape}, expected ({num_bins + 1}, 3) for x, y, z.")
    made_for = int(arrays["N"]) if "N" in arrays else len(thresholds) - 1
    # with few demonstrations the official code finds fewer thresholds than it was asked for
    if made_for != num_bins or len(thresholds) > num_bins + 1:
        raise InputError(
            f"--thresholds: {path} has {len(thresholds)} thresholds for {made_for} bins, this policy draws among "
            f"{num_bins} (needed: {num_bins + 1} thresholds). It belongs to another run."
        )
    if not np.isfinite(thresholds).all() or (np.diff(thresholds, axis=0) < 0).any():
        raise InputError(f"--thresholds: {path} must hold finite numbers that ascend in each column.")
    return thresholds


def action_bins(thresholds: np.ndarray, num_bins: int, benchmark: str) -> list[dict]:
    """Bins per action dimension, in the robot's units, as `VPDDProcessor` takes them.

    Meta-World: x, y, z and gripper as its environments take them (-1 to 1). RLBench: x, y, z in metres, rotation as
    Euler angles about x, y, z in degrees (-180 to 179; bins of one degree, +180 is bin 0), gripper 0 closed, 1 open.
    """
    if benchmark == "metaworld":
        if num_bins < len(METAWORLD_GRIPPER):
            raise InputError(f"{num_bins} action bins are too few for the {len(METAWORLD_GRIPPER)} gripper values.")
        return [*(_quantiles(column, -1.0, 1.0) for column in thresholds.T), _values(METAWORLD_GRIPPER)]
    if num_bins < 360:
        raise InputError(f"{num_bins} action bins are too few for rotations in steps of one degree (360).")
    boxes = zip(thresholds.T, RLBENCH_BOX)
    position = [_quantiles((column + 1) / 2 * (high - low) + low, low, high) for column, (low, high) in boxes]
    rotation = {**_values(np.arange(360) - 180.0), "high": 180.0}
    return [*position, rotation, dict(rotation), dict(rotation), _values((0.0, 1.0))]


def _quantiles(thresholds: np.ndarray, low: float, high: float) -> dict:
    return {
        "decode": ((thresholds[1:] + thresholds[:-1]) / 2).astype(np.float32).astype(float).tolist(),
        "edges": thresholds[1:-1].astype(np.float32).astype(float).tolist(),
        "low": float(min(low, thresholds[0])),
        "high": float(max(high, thresholds[-1])),
    }


def _values(values) -> dict:
    """One bin for each of these values; what lies between belongs to the nearest."""
    values = np.asarray(values, dtype=np.float64)
    return {
        "decode": values.astype(np.float32).astype(float).tolist(),
        "edges": ((values[1:] + values[:-1]) / 2).astype(np.float32).astype(float).tolist(),
        "low": float(values[0]),
        "high": float(values[-1]),
    }
