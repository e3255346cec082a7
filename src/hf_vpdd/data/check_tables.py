"""Checks the tables under meta/ of a LeRobot dataset against each other, without the strictness of opening it."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .findings import Findings


def check_tables(root: Path, findings: Findings) -> None:
    """Reports what contradicts itself under `root/meta`; what cannot even be read is left to opening the dataset."""
    try:
        info = json.loads((root / "meta" / "info.json").read_text())
        rows = _episode_rows(root, str(info.get("codebase_version", "")))
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        return
    name = "meta/episodes" + ("" if str(info["codebase_version"]).startswith("v3") else ".jsonl")
    numbers = rows["episode_index"]
    missing = sorted(set(range(int(max(numbers, default=-1)) + 1)) - set(numbers))
    if missing:
        text = f"{len(missing)} episode numbers are missing: {_some(missing)}"
        findings.add("episode-gap", text, len(missing), file=name, episode=missing[0])
    doubled = sorted({number for number in numbers if numbers.count(number) > 1}) if _repeats(numbers) else []
    if doubled:
        findings.add("episode-gap", f"episode numbers occur twice: {_some(doubled)}", file=name, episode=doubled[0])
    for key, expected in (("total_episodes", len(numbers)), ("total_frames", int(np.sum(rows["length"])))):
        if key in info and info[key] != expected:
            text = f"{key} is {info[key]}, the table of episodes has {expected}"
            findings.add("broken-table", text, file="meta/info.json")
    for number, length in zip(numbers, rows["length"]):
        if length < 1:
            findings.add("broken-table", f"has {length} frames", file=name, episode=number)
    _check_spans(info, rows, name, findings)
    _check_unused(root, info, rows, findings)


def _episode_rows(root: Path, version: str) -> dict[str, list]:
    if version.startswith("v2"):
        lines = (root / "meta" / "episodes.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines if line.strip()]
        return {key: [row[key] for row in rows] for key in ("episode_index", "length")}
    paths = sorted((root / "meta" / "episodes").glob("chunk-*/file-*.parquet"))
    tables = []
    for path in paths:
        with pq.ParquetFile(path) as file:
            names = [n for n in file.schema_arrow.names if not n.startswith("stats/")]
            tables.append(file.read(columns=names))
    table = pa.concat_tables(tables, promote_options="default")
    return {name: table.column(name).to_pylist() for name in table.column_names}


def _check_spans(info: dict, rows: dict[str, list], name: str, findings: Findings) -> None:
    """dataset_from/to_index and the videos' from/to timestamps against the lengths."""
    if "dataset_from_index" not in rows:
        return
    length = np.array(rows["length"], np.int64)
    start = np.cumsum(length) - length
    pairs = [("dataset_from_index", start), ("dataset_to_index", start + length)]
    for key, expected in pairs:
        if key not in rows:
            continue
        found = np.array(rows[key], np.int64)
        bad = np.flatnonzero(found != expected)
        if len(bad):
            text = f"is {found[bad[0]]}, the lengths of the episodes before give {expected[bad[0]]}"
            findings.add(
                "broken-table", text, len(bad), file=name, episode=int(rows["episode_index"][bad[0]]), key=key
            )
    fps = float(info.get("fps") or 0)
    for key in [key for key in rows if key.startswith("videos/") and key.endswith("/to_timestamp")]:
        first = rows[key.replace("/to_timestamp", "/from_timestamp")]
        span = (np.array(rows[key], np.float64) - np.array(first, np.float64)) * fps
        bad = np.flatnonzero(np.abs(span - length) > 0.5) if fps else []
        if len(bad):
            at = int(bad[0])
            text = f"from and to are {span[at]:.2f} frames apart, the episode has {length[at]}"
            findings.add("timestamp", text, len(bad), file=name, episode=int(rows["episode_index"][at]), key=key)


def _check_unused(root: Path, info: dict, rows: dict[str, list], findings: Findings) -> None:
    if "data/chunk_index" not in rows:
        return
    used = {("data", "", c, f) for c, f in zip(rows["data/chunk_index"], rows["data/file_index"])}
    for key in [key for key in rows if key.startswith("videos/") and key.endswith("/chunk_index")]:
        camera = key.removeprefix("videos/").removesuffix("/chunk_index")
        used |= {("videos", camera, c, f) for c, f in zip(rows[key], rows[f"videos/{camera}/file_index"])}
    paths = {
        "data": info.get("data_path") or "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "videos": info.get("video_path") or "",
    }
    names = {paths[k].format(video_key=camera, chunk_index=c, file_index=f) for k, camera, c, f in used}
    for folder in ("data", "videos"):
        for path in sorted((root / folder).rglob("*")):
            relative = path.relative_to(root).as_posix()
            if path.suffix in (".parquet", ".mp4") and not path.name.startswith(".") and relative not in names:
                findings.add("unused-file", f"{path.stat().st_size} bytes", file=relative)


def _repeats(numbers: list) -> bool:
    return len(set(numbers)) != len(numbers)


def _some(numbers: list) -> str:
    return ", ".join(map(str, numbers[:5])) + (", ..." if len(numbers) > 5 else "")
