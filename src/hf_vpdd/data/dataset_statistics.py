"""Statistics of a whole dataset: taken anew in one pass, written, and held against those of a model."""

import json
import os
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..errors import InputError
from ..files import atomic_write_text
from .formats import open_dataset
from .statistics import ImageStatistics, RunningStatistics, sample_indices, to_json


# How far the means may lie apart, in the model's deviations, before its numbers are of another robot.
_APART = 5.0
_BEYOND = 0.05  # how far beyond the model's range actions may go, in parts of that range


def dataset_statistics(
    root_or_repo_id: str | os.PathLike, images: bool = True, progress: bool = True
) -> dict[str, dict[str, np.ndarray]]:
    """Statistics of every feature, from the data itself, episode by episode in bounded memory.

    Args:
        root_or_repo_id: What `open_dataset` takes.
        images: Of pictures too: of the frames that LeRobot samples (`sample_indices`).
        progress: Show a bar.

    Returns:
        By feature what `RunningStatistics.result` and `ImageStatistics.result` give.

    Raises:
        InputError: No dataset, a broken one, or NaN; names episode and feature.
    """
    dataset = open_dataset(root_or_repo_id, progress)
    running: dict[str, RunningStatistics | ImageStatistics] = {}
    for episode in tqdm(range(dataset.num_episodes), "statistics", unit="episode", disable=None if progress else True):
        for key, value in dataset.episode(episode, images=False).items():
            value = np.asarray(value)
            if key == "task" or value.dtype.kind not in "fiub":
                continue
            try:
                running.setdefault(key, RunningStatistics()).update(value)
            except InputError as error:
                raise InputError(f"{dataset.root}, episode {episode}, {key}: {error}") from error
        if images:
            for camera in dataset.cameras:
                frames = dataset.frames(camera, episode)
                key = dataset.camera_key(camera)
                running.setdefault(key, ImageStatistics()).update(frames[sample_indices(len(frames))])
    return {key: value.result() for key, value in running.items()}


def write_statistics(root: str | os.PathLike, statistics: dict[str, dict[str, np.ndarray]]) -> Path:
    """Replaces `meta/stats.json`, whole or not at all; features that `statistics` lacks keep theirs."""
    path = Path(root) / "meta" / "stats.json"
    try:
        before = json.loads(path.read_text())
    except (OSError, ValueError):
        before = {}
    before = before if isinstance(before, dict) else {}
    atomic_write_text(path, json.dumps(before | to_json(statistics), indent=2))
    return path


def statistics_mismatch(name: str, model: dict, key: str, data: dict | None) -> str | None:
    """Why a model's statistics cannot be of such data, with both side by side; None where they can.

    They are other data's if the number of dimensions differs; if of a state a mean lies more than 5 of the model's
    deviations from the model's; or if of an action the middle 98 % leaves the model's range by more than 5 % of it.

    Args:
        name: What the model calls them ("state_stats").
        model: {"mean", "std"} and/or {"min", "max"}, lists per dimension, as processors keep them.
        key: The dataset's feature.
        data: Its statistics as arrays; None: it has no such feature.
    """
    if data is None:
        return f"the model has {name}, the dataset has no {key}"
    model = {n: np.reshape(np.asarray(v, np.float64), -1) for n, v in model.items() if v is not None and n != "count"}
    data = {n: np.reshape(np.asarray(v, np.float64), -1) for n, v in data.items() if n != "count"}
    size = len(next(iter(model.values())))
    if any(len(value) != size for value in data.values()):
        why = f"{name} is of {size} dimensions, {key} has {len(next(iter(data.values())))}"
        return f"{why}\n{_side_by_side(model, data)}"
    bad = np.zeros(size, bool)
    if key != "action" and {"mean", "std"} <= set(model):
        # A dimension that hardly moved in the model's data has no deviation worth the name: a hundredth of its size.
        least = np.maximum(np.abs(model["mean"]) * 0.01, 1e-3)
        bad |= np.abs(model["mean"] - data["mean"]) > _APART * np.maximum(model["std"], least)
    if key == "action" and {"min", "max"} <= set(model):
        low, high = data.get("q01", data["min"]), data.get("q99", data["max"])
        slack = _BEYOND * np.maximum(model["max"] - model["min"], 1e-6)
        bad |= (low < model["min"] - slack) | (high > model["max"] + slack)
    if not bad.any():
        return None
    dims = np.flatnonzero(bad).tolist()
    return f"{name} of the model and {key} of the dataset differ in dimensions {dims}\n{_side_by_side(model, data)}"


def require_matching_statistics(processor, statistics: dict[str, dict], where: str = "the dataset") -> None:
    """An error with both side by side if a policy's processor was fitted to other data than this.

    Args:
        processor: Anything with `state_stats` and `action_stats` (None: it has none, and none are required).
        statistics: The dataset's, by feature, as `statistics_of_rows` or `LeRobotDataset.stats` gives them. Only
            features in there are compared.

    Raises:
        InputError: They differ; see `statistics_mismatch`.
    """
    for name, key in (("state_stats", "observation.state"), ("action_stats", "action")):
        model = getattr(processor, name, None)
        text = statistics_mismatch(name, model, key, statistics[key]) if model and key in statistics else None
        if text:
            raise InputError(
                f"the processor does not fit {where}: {text}\nIts statistics travel with the weights: use a dataset "
                "of the same robot and units, or fit a new processor (train from the video model)"
            )


def statistics_of_rows(**rows: np.ndarray | None) -> dict[str, dict[str, np.ndarray]]:
    """Statistics of arrays in memory: `statistics_of_rows(state=(N, Ds), action=(N, A))`; None is left out."""
    output = {}
    for name, values in rows.items():
        if values is not None:
            running = RunningStatistics()
            running.update(values)
            output["observation.state" if name == "state" else name] = running.result()
    return output


def _side_by_side(model: dict[str, np.ndarray], data: dict[str, np.ndarray]) -> str:
    names = [n for n in ("mean", "std", "min", "q01", "q99", "max") if n in model or n in data]
    size = max(len(value) for value in [*model.values(), *data.values()])

    def cell(values: dict, name: str, dim: int) -> str:
        return f"{values[name][dim]:.4g}" if name in values and dim < len(values[name]) else "-"

    head = f"{'dim':>4}  " + "  ".join(f"{n + ' model':>12} {'dataset':>10}" for n in names)
    lines = [
        f"{dim:>4}  " + "  ".join(f"{cell(model, n, dim):>12} {cell(data, n, dim):>10}" for n in names)
        for dim in range(size)
    ]
    return "\n".join([head, *lines])
