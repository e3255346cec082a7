"""Finds out whether a dataset is whole: files, tables, numbers, pictures, statistics.

    report = check_dataset("recordings/mt10")
    report.findings.counts, report.findings.sorted()

Everything is read once. Nothing stops at the first trouble: what can still be looked at is. LeRobot folders are read
file by file (rows as they lie, each video from start to end, several at a time); datasets of other formats episode by
episode.
"""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..errors import InputError
from .check_numbers import NumberCheck, Rows
from .check_tables import check_tables
from .check_videos import VideoFile, check_video
from .findings import KINDS, Findings
from .formats import open_dataset
from .lerobot import LeRobotDataset, find_root, is_lerobot_folder
from .lerobot_files import read_columns
from .packet_sums import SUMS_FILE


@dataclass
class CheckReport:
    """What `check_dataset` found.

    findings; root; format ("v3.0", "v2.1", "CALVIN", ... or None if it could not be opened); episodes and frames of
    the tables; rows and pictures looked at; seconds it took; statistics of the numbers by feature, as arrays.
    """

    findings: Findings
    root: str
    format: str | None = None
    episodes: int = 0
    frames: int = 0
    rows: int = 0
    pictures: int = 0
    seconds: float = 0.0
    statistics: dict | None = None

    def to_json(self) -> dict:
        """For `--json`: numbers, counts by kind, and the findings that were kept."""
        return {
            "root": self.root, "format": self.format, "ok": not self.findings, "errors": self.findings.num_errors,
            "warnings": self.findings.num_warnings, "episodes": self.episodes, "frames": self.frames,
            "rows": self.rows, "pictures": self.pictures, "seconds": round(self.seconds, 3),
            "counts": self.findings.counts, "findings": [finding.to_json() for finding in self.findings.sorted()],
        }  # fmt: skip


def check_dataset(
    root_or_repo_id: str | os.PathLike,
    *,
    decode: bool = True,
    workers: int | None = None,
    ignore: tuple[str, ...] = (),
    keep: int = 20,
    progress: bool = True,
) -> CheckReport:
    """Looks at all of a dataset.

    Args:
        root_or_repo_id: What `open_dataset` takes.
        decode: Decode every picture; False: only look whether the videos' own tables list every frame.
        workers: Videos looked at at a time; by default one per core.
        ignore: Kinds of findings (`findings.KINDS`) not to report.
        keep: Findings of one kind and feature that are kept; all are counted.
        progress: Show bars.

    Raises:
        InputError: There is no dataset at all, or `ignore` names an unknown kind.
    """
    unknown = [kind for kind in ignore if kind not in KINDS]
    if unknown:
        raise InputError(f"there is no kind of finding {unknown[0]!r}; there are {', '.join(KINDS)}")
    began = time.perf_counter()
    findings = Findings(keep, tuple(ignore))
    report = CheckReport(findings, str(root_or_repo_id))
    local = Path(root_or_repo_id).expanduser()
    if is_lerobot_folder(local) or not local.exists():
        _check_lerobot(find_root(root_or_repo_id), report, decode, workers, progress)
    else:
        dataset = open_dataset(root_or_repo_id, progress)
        if isinstance(dataset, LeRobotDataset):
            _check_lerobot(dataset.root, report, decode, workers, progress)
        else:
            _check_episodes(dataset, report, decode, progress)
    report.seconds = time.perf_counter() - began
    return report


def _check_lerobot(root: Path, report: CheckReport, decode: bool, workers: int | None, progress: bool) -> None:
    findings = report.findings
    report.root = str(root)
    check_tables(root, findings)
    try:
        dataset = LeRobotDataset(root, require_files=False)
    except InputError as error:
        if not findings.num_errors:
            kind = (
                "broken-file" if "cannot be read" in str(error) or "not valid JSON" in str(error) else "broken-table"
            )
            kind = "missing-file" if "is missing" in str(error) else kind
            findings.add(kind, str(error))
        return
    report.format, report.episodes, report.frames = dataset.version, dataset.num_episodes, dataset.num_frames
    for path in dataset.missing_files:
        findings.add("missing-file", "is not there", file=path.relative_to(root).as_posix())
    try:
        stored = dataset.stats
    except InputError as error:
        findings.add("stats", str(error), file="meta/stats.json")
        stored = None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        findings.add("stats", f"cannot be understood: {error}", file="meta/stats.json")
        stored = None
    numbers = NumberCheck(findings, dataset.features, dataset.fps, dataset.tasks, dataset.episodes.task)
    for number in tqdm(range(len(dataset.episodes.data_files)), "numbers", unit="file", disable=_hide(progress)):
        _check_rows(dataset, number, numbers, report)
    complete = report.rows == dataset.num_frames and not dataset.missing_files
    numbers.finish(stored if complete else None)
    if complete:
        report.statistics = {key: running.result() for key, running in numbers.statistics.items()}
    if stored is not None:
        _check_image_statistics(dataset, stored, findings)
    try:
        dataset.packet_sums("", 0)
    except InputError as error:
        findings.add("broken-file", str(error), file=f"meta/{SUMS_FILE}")
        return
    videos = _videos(dataset)
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:  # the decoder lets other threads run
        jobs = [pool.submit(_one_video, video, dataset.fps, decode, findings) for video in videos]
        with tqdm(
            total=sum(int(v.length.sum()) for v in videos), desc="videos", unit="frame", disable=_hide(progress)
        ) as bar:
            for job, video in zip(jobs, videos):
                for kind, message, times, place in job.result().calls:
                    findings.add(kind, message, times, **place)
                bar.update(int(video.length.sum()))
                report.pictures += int(video.length.sum())
    if decode:
        _check_images(dataset, report, progress)


class _Calls:
    """Stands in for `Findings` in a thread: remembers what was added, so that the order does not depend on luck."""

    def __init__(self):
        self.calls: list[tuple] = []

    def add(self, kind: str, message: str, times: int = 1, **place) -> None:
        self.calls.append((kind, message, times, place))


def _one_video(video: VideoFile, fps: float, decode: bool, _) -> _Calls:
    calls = _Calls()
    check_video(video, fps, decode, calls)
    return calls


def _check_rows(dataset: LeRobotDataset, number: int, numbers: NumberCheck, report: CheckReport) -> None:
    """The rows of one data file."""
    path, table = dataset.episodes.data_files[number], dataset.episodes
    name = path.relative_to(dataset.root).as_posix()
    if path in set(dataset.missing_files):
        return
    inside = np.flatnonzero(table.data_file == number)
    lengths = table.length[inside]
    episode = np.repeat(inside, lengths)
    frame = np.arange(len(episode)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    start = np.repeat(table.start[inside], lengths)
    try:
        columns, broken = read_columns(path, leave_out=dataset.image_keys)
    except InputError as error:
        report.findings.add("broken-file", str(error), file=name, episode=int(inside[0]))
        return
    for key, message in broken.items():
        report.findings.add("wrong-type", message, file=name, key=key)
    features = [key for key in dataset.features if key not in dataset.image_keys]
    for key in [key for key in features if key not in columns and key not in broken]:
        report.findings.add(
            "wrong-type", "meta/info.json names this feature, the file has no such column", file=name, key=key
        )
    rows = len(next(iter(columns.values()))) if columns else 0
    if rows != len(episode):
        at = int(episode[min(rows, len(episode) - 1)])
        text = f"the file has {rows} rows, the episode table {len(episode)}"
        report.findings.add("wrong-rows", text, file=name, episode=at)
        count = min(rows, len(episode))
        episode, frame, start = episode[:count], frame[:count], start[:count]
        columns = {key: value[:count] for key, value in columns.items()}
    report.rows += len(episode)
    numbers.add(Rows(columns, episode, frame, start, name))


def _videos(dataset: LeRobotDataset) -> list[VideoFile]:
    missing = set(dataset.missing_files)
    output = []
    for key, paths in dataset.episodes.video_files.items():
        shape = tuple(dataset.features[key].get("shape") or ())
        names = dataset.features[key].get("names") or ["height", "width"]
        size = tuple(int(shape[names.index(n)]) for n in ("height", "width") if n in names) if len(shape) == 3 else ()
        for number, path in enumerate(paths):
            inside = np.flatnonzero(dataset.episodes.video_file[key] == number)
            inside = inside[np.argsort(dataset.episodes.video_start[key][inside], kind="stable")]
            if path not in missing:
                output.append(
                    VideoFile(
                        path, path.relative_to(dataset.root).as_posix(), key, inside,
                        dataset.episodes.video_start[key][inside], dataset.episodes.length[inside],
                        size if len(size) == 2 else None, sums=dataset.packet_sums(key, number),
                    )
                )  # fmt: skip
    return output


def _check_images(dataset: LeRobotDataset, report: CheckReport, progress: bool) -> None:
    """Pictures that lie in the rows instead of videos."""
    keys = [key for key in dataset.image_keys if dataset.features[key]["dtype"] == "image"]
    missing = set(dataset.missing_files)
    episodes = [
        e
        for e in range(dataset.num_episodes)
        if dataset.episodes.data_files[dataset.episodes.data_file[e]] not in missing
    ]
    for key in keys:
        for episode in tqdm(episodes, key, unit="episode", disable=_hide(progress)):
            try:
                dataset.frames(key, episode)
                report.pictures += int(dataset.episodes.length[episode])
            except InputError:
                _first_bad_picture(dataset, key, episode, report.findings)


def _first_bad_picture(dataset, key: str, episode: int, findings: Findings) -> None:
    for frame in range(int(dataset.episodes.length[episode])):
        try:
            dataset.frames(key, episode, frame, 1)
        except InputError as error:
            findings.add("decode", str(error), episode=episode, frame=frame, key=key)
            return
    findings.add("decode", "pictures of one episode have different sizes", episode=episode, key=key)


def _check_image_statistics(dataset: LeRobotDataset, stored: dict, findings: Findings) -> None:
    for key in dataset.image_keys:
        stats = stored.get(key)
        if not stats or dataset.features[key].get("info", {}).get("is_depth_map"):
            continue  # image statistics are optional for LeRobot's reader
        values = [np.asarray(stats[name]) for name in ("min", "max", "mean", "std") if name in stats]
        if any(
            value.size and (not np.isfinite(value).all() or value.min() < -1e-6 or value.max() > 1 + 1e-6)
            for value in values
        ):
            text = (
                f"pictures must have statistics within 0 and 1, the largest is {max(float(v.max()) for v in values):g}"
            )
            findings.add("stats", text, file="meta/stats.json", key=key)


def _check_episodes(dataset, report: CheckReport, decode: bool, progress: bool) -> None:
    """A dataset of another format, through its own reader."""
    findings = report.findings
    report.root, report.format = str(dataset.root), str(getattr(dataset, "version", type(dataset).__name__))
    report.episodes, report.frames = dataset.num_episodes, dataset.num_frames
    for skipped in getattr(dataset, "skipped", ()):
        findings.add("missing-file", str(skipped.get("reason", skipped)))
    tasks = list(dataset.tasks)
    numbers = NumberCheck(findings, dataset.features, dataset.fps, tasks, dataset.episodes.task)
    for episode in tqdm(range(dataset.num_episodes), "episodes", unit="episode", disable=_hide(progress)):
        try:
            columns = dataset.episode(episode, images=decode)
        except InputError as error:
            findings.add("decode", str(error), episode=episode)
            continue
        length, start = int(dataset.episodes.length[episode]), int(dataset.episodes.start[episode])
        arrays = {key: np.asarray(value) for key, value in columns.items() if key != "task"}
        for key in [key for key, value in arrays.items() if value.ndim == 4 and value.dtype == np.uint8]:
            report.pictures += len(arrays.pop(key))
        short = [key for key, value in arrays.items() if len(value) != length]
        for key in short:
            findings.add(
                "wrong-rows", f"has {len(arrays.pop(key))} frames, the episode {length}", episode=episode, key=key
            )
        report.rows += length
        numbers.add(Rows(arrays, np.full(length, episode), np.arange(length), np.full(length, start), None))
    numbers.finish(None)
    report.statistics = {key: running.result() for key, running in numbers.statistics.items()}


def _hide(progress: bool) -> bool | None:
    return None if progress else True
