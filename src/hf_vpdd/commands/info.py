"""`hf-vpdd info DATASET`: features, sizes, tasks and a contact sheet of a dataset."""

import argparse
import json
from collections import Counter
from pathlib import Path


SUMMARY = "Show what is in a dataset: features, sizes, tasks, and a picture of its frames."
LIGHT = True  # uses no models


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "dataset",
        metavar="DATASET",
        help="a LeRobot dataset (a folder, or user/name on the Hub), a CALVIN folder, or videos",
    )
    add("--camera", metavar="NAME", help="the camera on the contact sheet; the first one if not given")
    add("--out", metavar="PNG", help="where the contact sheet goes; outputs/info/<name>.png if not given")
    add("--no-sheet", action="store_true", help="write no contact sheet")
    add("--json", action="store_true", help="print one JSON object instead of tables")


def run(args: argparse.Namespace) -> int:
    from ..data.contact_sheet import write_contact_sheet
    from ..data.formats import open_dataset

    dataset = open_dataset(args.dataset)
    sheet = None
    if dataset.cameras and not args.no_sheet:
        camera = args.camera or dataset.cameras[0]
        out = args.out or Path("outputs") / "info" / f"{dataset.root.resolve().name}.png"
        sheet = write_contact_sheet(dataset, out, camera)
    summary = summarize(dataset)
    if args.json:
        print(json.dumps(summary | {"contact_sheet": sheet and str(sheet)}))
    else:
        print_summary(summary)
        if sheet:
            print(f"\nContact sheet: {sheet}")
    return 0


def summarize(dataset) -> dict:
    """What `info` shows, as plain numbers and strings; sizes in megabytes (10^6 bytes), time in seconds."""
    lengths = dataset.episodes.length
    table = dataset.episodes
    video_bytes = sum(path.stat().st_size for paths in table.video_files.values() for path in paths)
    data_files = dataset.all_files() if hasattr(dataset, "all_files") else table.data_files
    data_bytes = sum(path.stat().st_size for path in data_files)
    frames_of_task = Counter()
    for task, length in zip(table.task, lengths.tolist()):
        frames_of_task[task] += length
    return {
        "root": str(dataset.root),
        "format": dataset.version,
        "robot_type": dataset.info.get("robot_type"),
        "fps": dataset.fps,
        "episodes": dataset.num_episodes,
        "frames": dataset.num_frames,
        "seconds": round(dataset.num_frames / dataset.fps, 3),
        "episode_frames": {
            "min": int(lengths.min()), "mean": round(float(lengths.mean()), 1), "max": int(lengths.max()),
        },
        "video_files": sum(len(paths) for paths in table.video_files.values()),
        "video_mb": round(video_bytes / 1e6, 3),
        "data_files": len(data_files),
        "data_mb": round(data_bytes / 1e6, 3),
        "cameras": dataset.cameras,
        "depth": [key for key in getattr(dataset, "depth_keys", ())],
        "video_backend": _backend(dataset),
        "features": {
            key: {"dtype": f.get("dtype"), "shape": list(f.get("shape") or []), "names": f.get("names")}
            for key, f in dataset.features.items()
        },
        "tasks": [
            {"task": task, "episodes": number, "frames": frames_of_task[task]}
            for task, number in Counter(table.task).items()
        ],
    }  # fmt: skip


def _backend(dataset) -> str | None:
    """The library that decodes, with its version; None where there is nothing to decode."""
    from ..data.video_backends import describe_backend

    name = getattr(dataset, "video_backend", None)
    return describe_backend(name) if name and dataset.episodes.video_files else None


def print_summary(summary: dict) -> None:
    lengths = summary["episode_frames"]
    name = summary["format"]
    name = f"LeRobot {name}" if name[1:2].isdigit() else name  # v3.0, v2.1
    print(f"{summary['root']}   ({name}, robot {summary['robot_type'] or 'not named'})")
    print(
        f"{summary['episodes']} episodes, {summary['frames']} frames at {summary['fps']} per second "
        f"({summary['seconds']:.0f} s); {lengths['min']} to {lengths['max']} frames an episode, {lengths['mean']} on "
        "average"
    )
    if summary["video_files"]:
        print(
            f"{summary['video_files']} video files, {summary['video_mb']:.1f} MB; "
            f"{summary['data_files']} data files, {summary['data_mb']:.1f} MB"
        )
    else:  # nothing but tables, or files as they were distributed (which may be videos)
        print(f"{summary['data_files']} files, {summary['data_mb']:.1f} MB")
    if summary["video_backend"]:
        print(f"videos are decoded by {summary['video_backend']}")
    _print_table(
        ("feature", "dtype", "shape", "names"),
        [
            (key, feature["dtype"], " x ".join(map(str, feature["shape"])), _short(feature["names"]))
            for key, feature in summary["features"].items()
        ],
    )
    tasks = [(task["task"] or "(none)", task["episodes"], task["frames"]) for task in summary["tasks"]]
    shown = tasks if len(tasks) <= 60 else tasks[:50]
    _print_table(("task", "episodes", "frames"), shown)
    if len(shown) < len(tasks):
        print(f"... and {len(tasks) - len(shown)} more tasks (--json lists all)")
    if "action" not in summary["features"]:
        print("\nNo actions: this dataset serves video pre-training, not policy training.")


def _short(names) -> str:
    if not names:
        return ""
    text = ", ".join(map(str, names)) if isinstance(names, list) else str(names)
    return text if len(text) <= 48 else text[:45] + "..."


def _print_table(header: tuple, rows: list[tuple]) -> None:
    cells = [tuple(str(cell) for cell in row) for row in (header, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    print()
    for number, row in enumerate(cells):
        # Numbers to the right, text to the left.
        line = (
            cell.rjust(width) if number and isinstance(rows[number - 1][i], int) else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths))
        )
        print("  " + "  ".join(line).rstrip())
        if number == 0:
            print("  " + "  ".join("-" * width for width in widths))
