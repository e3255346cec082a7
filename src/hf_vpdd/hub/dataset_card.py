"""The card of a LeRobot dataset, rendered from its `meta` folder."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from huggingface_hub import DatasetCard, DatasetCardData

from ..errors import InputError
from .contents import Contents
from .paths import shorten_paths


TEMPLATE = Path(__file__).with_name("dataset_card.md")
SHOWN_TASKS = 50
# Entries of info.json that every LeRobot dataset has; the others say how it was made.
_USUAL = (
    "codebase_version", "robot_type", "total_episodes", "total_frames", "total_tasks", "total_videos", "total_chunks",
    "chunks_size", "data_files_size_in_mb", "video_files_size_in_mb", "fps", "splits", "data_path", "video_path",
    "features",
)  # fmt: skip
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"),
          (10_000_000, "1M<n<10M"), (100_000_000, "10M<n<100M"))  # fmt: skip


def render_dataset_card(contents: Contents, name: str, licence: str | None = None) -> DatasetCard:
    """The README.md of a dataset.

    Args:
        contents: Of its folder.
        name: Of the repository, "user/name".
        licence: Identifier as the Hub knows it; None: "unknown".
    """
    info = contents.config
    tasks = _tasks(contents.folder)
    frames, fps, episodes = info["total_frames"], info["fps"], info["total_episodes"]
    cameras = [key.removeprefix("observation.images.") for key, one in info["features"].items() if _is_picture(one)]
    data = DatasetCardData(
        license=licence or "unknown", task_categories=["robotics"], tags=["LeRobot", "robotics", "hf_vpdd"],
        language=["en"] if tasks else None, size_categories=next((n for most, n in _SIZES if frames < most), "n>100M"),
        configs=[{"config_name": "default", "data_files": "data/*/*.parquet"}],
    )  # fmt: skip
    robot = info.get("robot_type") or "a robot"
    values = {
        "name": name,
        "what": (
            f"{episodes:,} episodes of {robot}, {frames:,} frames at {fps} per second "
            f"({frames / fps / 60:.1f} minutes), {'with' if 'action' in info['features'] else 'without'} actions."
        ),
        "facts": [
            ("robot", info.get("robot_type") or "not stated"),
            ("episodes", f"{episodes:,}"), ("frames", f"{frames:,}"),
            ("frames per second", fps), ("cameras", ", ".join(cameras) or "none"),
            ("tasks (sentences)", info.get("total_tasks", len(tasks))), ("size", f"{contents.num_bytes / 1e6:.1f} MB"),
        ],
        "features": [_feature(key, one) for key, one in info["features"].items()],
        "tasks": tasks[:SHOWN_TASKS] or ["none recorded"],
        "more_tasks": max(0, len(tasks) - SHOWN_TASKS),
        "version": info["codebase_version"],
        "origin": json.dumps(more, indent=1) if (more := shorten_paths(_origin(info))) else None,
        "licence": f"{licence}." if licence else "Unknown: nobody has stated one. Ask who recorded it.",
    }  # fmt: skip
    try:
        return DatasetCard.from_template(data, template_path=str(TEMPLATE), **values)
    except ImportError as error:
        raise InputError("Cards are rendered with jinja2, which is missing: pip install jinja2") from error


def _origin(info: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in info.items() if key not in _USUAL}


def _is_picture(feature: dict[str, Any]) -> bool:
    return feature.get("dtype") in ("video", "image")


def _feature(name: str, feature: dict[str, Any]) -> tuple[str, str, str, str]:
    names = feature.get("names")
    if isinstance(names, dict):
        names = [one for group in names.values() for one in (group if isinstance(group, list) else [group])]
    shown = "" if _is_picture(feature) or not names else ", ".join(map(str, names))
    return name, feature.get("dtype", "?"), " x ".join(map(str, feature.get("shape", []))), shown


def _tasks(folder: Path) -> list[str]:
    """The sentences, in the order of their numbers."""
    path = folder / "meta" / "tasks.parquet"
    try:
        if path.is_file():
            table = pq.read_table(path)
            column = next(name for name in ("task", "__index_level_0__") if name in table.column_names)
            return [str(one) for one in table.column(column).to_pylist()]
        lines = (folder / "meta" / "tasks.jsonl").read_text(encoding="utf-8").splitlines()  # LeRobot v2
        return [str(json.loads(line)["task"]) for line in lines if line.strip()]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, StopIteration) as error:
        raise InputError(f"{folder}/meta/tasks cannot be read ({error}). Copy the dataset again.") from error
