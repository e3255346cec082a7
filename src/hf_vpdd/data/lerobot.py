"""Reads LeRobot datasets, format v3.0 and v2.x, from a local folder or the Hub, without LeRobot.

    dataset = LeRobotDataset("recordings/mt10")
    episode = dataset.episode(3)             # {"observation.state": (T, Ds), "action": (T, A), ..., "task": str}
    frames = dataset.frames("corner2", 3)    # uint8 (T, H, W, 3)

The two formats differ in where things lie: v3.0 keeps many episodes in one file and tables in parquet, v2.x one file
per episode and tables in JSON lines. Both become the same `EpisodeTable`; nothing that uses it knows which it was.
"""

import hashlib
import io
import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from ..errors import InputError
from .statistics import from_json
from .video import VideoReader


IMAGE_PREFIX = "observation.images."
RECORD_AGAIN = "run `hf-vpdd record` again with the same --out (it resumes where it stopped)"
V3_DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"


@dataclass
class EpisodeTable:
    """Where each of E episodes lies.

    length, start: int64 (E,), frames of the episode and the dataset-wide index of its first frame.
    task: the instruction of each episode. data_file: index into `data_files` (E,).
    video_file: per video key, index into `video_files[key]` (E,); video_start: the frame in that file it begins at.
    """

    length: np.ndarray
    start: np.ndarray
    task: list[str]
    data_files: list[Path]
    data_file: np.ndarray
    video_files: dict[str, list[Path]]
    video_file: dict[str, np.ndarray]
    video_start: dict[str, np.ndarray]


class LeRobotDataset:
    """A LeRobot dataset on disk, checked for completeness when opened.

    Args:
        root_or_repo_id: A folder, or a dataset id `user/name` on the Hub, which is downloaded.
        max_open_videos: How many video files are kept open at a time.

    Attributes: root, info, fps, features, tasks (by task_index), cameras, num_episodes, num_frames, episodes
    (`EpisodeTable`), stats.

    Raises:
        InputError: Nothing there, a recording that was not finished, a missing or broken file, an unknown version.
    """

    def __init__(self, root_or_repo_id: str | os.PathLike, max_open_videos: int = 8):
        self.root = _find_root(root_or_repo_id)
        self.info = _read_json(self.root / "meta" / "info.json")
        for name in ("codebase_version", "fps", "features"):
            if name not in self.info:
                raise InputError(
                    f"{self.root / 'meta' / 'info.json'} has no entry {name!r}; it is not a LeRobot dataset"
                )
        self.version = str(self.info["codebase_version"])
        self.fps = self.info["fps"]
        self.features: dict[str, dict] = self.info["features"]
        self._camera_keys = [k for k, f in self.features.items() if f.get("dtype") in ("video", "image")]
        self._video_keys = [k for k, f in self.features.items() if f.get("dtype") == "video"]
        if self.version.startswith("v3"):
            self.tasks, self.episodes = self._read_v3()
        elif self.version.startswith("v2"):
            self.tasks, self.episodes = self._read_v2()
        else:
            raise InputError(f"{self.root} has LeRobot format {self.version!r}; v3.0 and v2.x can be read")
        self.num_episodes = len(self.episodes.length)
        self.num_frames = int(self.episodes.length.sum())
        self._check_complete()
        self._videos = VideoReader(max_open_videos)
        self._table: tuple[Path, pa.Table] | None = None  # the data file read last

    def __len__(self) -> int:
        return self.num_episodes

    def __repr__(self) -> str:
        return f"LeRobotDataset({str(self.root)!r}, {self.num_episodes} episodes, {self.num_frames} frames)"

    @property
    def cameras(self) -> list[str]:
        """Names of the cameras, without the prefix `observation.images.`."""
        return [key.removeprefix(IMAGE_PREFIX) for key in self._camera_keys]

    @cached_property
    def fingerprint(self) -> str:
        """64 hexadecimal digits that change when the dataset changes; see `dataset_fingerprint`."""
        return dataset_fingerprint(self.root)

    @cached_property
    def stats(self) -> dict[str, dict[str, np.ndarray]]:
        """Statistics by feature; v2.1 datasets keep them per episode, so they are merged here (without quantiles)."""
        path = self.root / "meta" / "stats.json"
        if path.exists():
            return from_json(_read_json(path))
        path = self.root / "meta" / "episodes_stats.jsonl"
        if path.exists():
            return _merge_statistics([from_json(row["stats"]) for row in _read_json_lines(path)])
        raise InputError(f"{self.root} has no statistics (meta/stats.json); write the dataset again")

    def camera_key(self, camera: str) -> str:
        """The feature of a camera, given with or without `observation.images.`.

        Raises:
            InputError: No such camera; names those there are.
        """
        for key in (camera, IMAGE_PREFIX + camera):
            if key in self._camera_keys:
                return key
        raise InputError(f"{self.root} has no camera {camera!r}; its cameras are {self.cameras or 'none'}")

    def episode(self, index: int, images: bool = True) -> dict:
        """One episode: every feature as an array (T, ...), `task` as a string; images unless told otherwise."""
        index = self._checked(index)
        start, length = int(self._row_start[index]), int(self.episodes.length[index])
        path = self.episodes.data_files[self.episodes.data_file[index]]
        if self._table is None or self._table[0] != path:
            self._table = (path, _read_parquet(path))
        table = self._table[1].slice(start, length)
        if table.num_rows != length:
            raise InputError(f"{path} ends inside episode {index}: {table.num_rows} of {length} rows; {RECORD_AGAIN}")
        output = {name: _to_numpy(table.column(name), name, path) for name in table.column_names}
        output = {key: value for key, value in output.items() if key not in self._camera_keys}
        if "episode_index" in output and (output["episode_index"] != index).any():
            raise InputError(f"{path}: rows {start}... do not belong to episode {index}; the episode table is wrong")
        if images:
            output |= {key: self.frames(key, index) for key in self._camera_keys}
        return output | {"task": self.episodes.task[index]}

    def frames(self, camera: str, episode: int, first: int = 0, count: int | None = None) -> np.ndarray:
        """Frames of one camera, uint8 (count, H, W, 3): the whole episode, or `count` of them from `first` on."""
        key = self.camera_key(camera)
        episode = self._checked(episode)
        length = int(self.episodes.length[episode])
        count = length - first if count is None else count
        if first < 0 or count < 1 or first + count > length:
            raise InputError(f"frames {first} to {first + count - 1} asked of episode {episode}, which has {length}")
        if key in self._video_keys:
            path = self.episodes.video_files[key][self.episodes.video_file[key][episode]]
            return self._videos.read(path, int(self.episodes.video_start[key][episode]) + first, count, self.fps)
        path = self.episodes.data_files[self.episodes.data_file[episode]]
        column = _read_parquet(path, [key]).column(key).slice(int(self._row_start[episode]) + first, count)
        return np.stack([_decode_image(cell, self.root, key, episode) for cell in column.to_pylist()])

    def columns(self, names: list[str]) -> dict[str, np.ndarray]:
        """Features of all frames in order, each (num_frames, ...); the names must exist.

        Raises:
            InputError: No such feature, rows missing, or rows that are not in the order of the episode table.
        """
        missing = [name for name in names if name not in self.features]
        if missing:
            raise InputError(f"{self.root} has no feature {missing}; its features are {sorted(self.features)}")
        wanted = list(dict.fromkeys([*names, "episode_index"]))
        pieces: dict[str, list[np.ndarray]] = {name: [] for name in wanted}
        for path in self.episodes.data_files:
            table = _read_parquet(path, wanted)
            for name in wanted:
                pieces[name].append(_to_numpy(table.column(name), name, path))
        output = {name: np.concatenate(values) for name, values in pieces.items()}
        found, expected = output["episode_index"], np.repeat(np.arange(self.num_episodes), self.episodes.length)
        if len(found) != len(expected):
            raise InputError(
                f"{self.root}: the data files hold {len(found)} rows, the episode table {len(expected)}; "
                f"{RECORD_AGAIN}"
            )
        if (found != expected).any():
            row = int(np.flatnonzero(found != expected)[0])
            raise InputError(
                f"{self.root}: row {row} of the data belongs to episode {found[row]}, the episode table says "
                f"{expected[row]}"
            )
        return {name: output[name] for name in names}

    # -- reading the tables --------------------------------------------------------------------------------------

    def _read_v3(self) -> tuple[list[str], EpisodeTable]:
        meta = self.root / "meta"
        tasks = _tasks_of_table(_read_parquet(meta / "tasks.parquet"), meta / "tasks.parquet")
        paths = sorted((meta / "episodes").glob("chunk-*/file-*.parquet"))
        if not paths:
            raise InputError(f"{self.root} lacks meta/episodes/chunk-000/file-000.parquet; {RECORD_AGAIN}")
        wanted = ["episode_index", "tasks", "length", "data/chunk_index", "data/file_index", "dataset_from_index"]
        for key in self._video_keys:
            wanted += [f"videos/{key}/{name}" for name in ("chunk_index", "file_index", "from_timestamp")]
        table = pa.concat_tables([_read_parquet(path, wanted) for path in paths])
        column = {name: table.column(name).to_numpy() for name in wanted if name != "tasks"}
        number = table.num_rows
        if (column["episode_index"] != np.arange(number)).any():
            raise InputError(f"{self.root}: the episode table does not count its episodes from 0 without gaps")
        length = column["length"].astype(np.int64)
        start = np.cumsum(length) - length
        if (column["dataset_from_index"] != start).any():
            raise InputError(f"{self.root}: dataset_from_index and length of the episode table contradict each other")

        def locate(template: str, prefix: str, **names: str) -> tuple[list[Path], np.ndarray]:
            places = np.stack([column[f"{prefix}/chunk_index"], column[f"{prefix}/file_index"]], axis=1)
            unique, inverse = np.unique(places, axis=0, return_inverse=True)
            files = [self.root / template.format(chunk_index=int(c), file_index=int(f), **names) for c, f in unique]
            return files, inverse.reshape(-1)

        data_files, data_file = locate(self.info.get("data_path") or V3_DATA_PATH, "data")
        video_files, video_file, video_start = {}, {}, {}
        for key in self._video_keys:
            video_files[key], video_file[key] = locate(self.info["video_path"], f"videos/{key}", video_key=key)
            video_start[key] = np.round(column[f"videos/{key}/from_timestamp"] * self.fps).astype(np.int64)
        task = [names[0] if names else "" for names in table.column("tasks").to_pylist()]
        return tasks, EpisodeTable(length, start, task, data_files, data_file, video_files, video_file, video_start)

    def _read_v2(self) -> tuple[list[str], EpisodeTable]:
        meta = self.root / "meta"
        rows = _read_json_lines(meta / "tasks.jsonl")
        tasks = [row["task"] for row in sorted(rows, key=lambda row: row["task_index"])]
        episodes = sorted(_read_json_lines(meta / "episodes.jsonl"), key=lambda row: row["episode_index"])
        number = len(episodes)
        if [row["episode_index"] for row in episodes] != list(range(number)):
            raise InputError(f"{meta / 'episodes.jsonl'} does not count its episodes from 0 without gaps")
        length = np.array([row["length"] for row in episodes], np.int64)
        chunks = self.info.get("chunks_size", 1000)

        def files(template: str, **names: str) -> list[Path]:
            return [
                self.root / template.format(episode_chunk=i // chunks, episode_index=i, **names) for i in range(number)
            ]

        each = np.arange(number)
        return tasks, EpisodeTable(
            length=length,
            start=np.cumsum(length) - length,
            task=[row["tasks"][0] if row.get("tasks") else "" for row in episodes],
            data_files=files(self.info["data_path"]),
            data_file=each,
            video_files={key: files(self.info["video_path"], video_key=key) for key in self._video_keys},
            video_file=dict.fromkeys(self._video_keys, each),
            video_start=dict.fromkeys(self._video_keys, np.zeros(number, np.int64)),
        )

    @cached_property
    def _row_start(self) -> np.ndarray:
        """Row (E,) in its own data file at which each episode begins."""
        first = np.full(len(self.episodes.data_files), np.iinfo(np.int64).max)
        np.minimum.at(first, self.episodes.data_file, self.episodes.start)
        return self.episodes.start - first[self.episodes.data_file]

    def _check_complete(self) -> None:
        if self.num_episodes == 0:
            raise InputError(f"{self.root} holds no episodes")
        files = [*self.episodes.data_files, *(path for paths in self.episodes.video_files.values() for path in paths)]
        missing = [path for path in files if not path.is_file()]
        if missing:
            raise InputError(
                f"{self.root} lacks {len(missing)} of its files, the first is {missing[0].relative_to(self.root)}; "
                f"copy the dataset again, or {RECORD_AGAIN}"
            )

    def _checked(self, episode: int) -> int:
        if not 0 <= episode < self.num_episodes:
            raise InputError(
                f"episode {episode} asked of {self.root}, which has episodes 0 to {self.num_episodes - 1}"
            )
        return int(episode)


def dataset_fingerprint(root: str | os.PathLike) -> str:
    """64 hexadecimal digits that change when the dataset changes.

    Hashes names and contents of everything under `meta` and of all parquet files, names and sizes of the videos
    (reading gigabytes of video at every start would cost more than the decoding it saves).
    """
    root = Path(root)
    digest = hashlib.sha256()
    for folder in ("meta", "data", "videos"):
        for path in sorted(path for path in (root / folder).rglob("*") if path.is_file()):
            digest.update(f"{path.relative_to(root).as_posix()}\0{path.stat().st_size}\0".encode())
            if folder != "videos":
                digest.update(path.read_bytes())
    return digest.hexdigest()


def is_lerobot_folder(root: str | os.PathLike) -> bool:
    """Whether there is a finished LeRobot dataset."""
    return (Path(root).expanduser() / "meta" / "info.json").is_file()


def _find_root(root_or_repo_id: str | os.PathLike) -> Path:
    root = Path(root_or_repo_id).expanduser()
    if (root / "meta" / "info.json").is_file():
        return root
    if root.is_dir():
        traces = [name for name in (".partial", ".staging", "data", "videos", "meta") if (root / name).exists()]
        if traces:
            raise InputError(f"{root} is a half-written recording: meta/info.json is missing; {RECORD_AGAIN}")
        raise InputError(f"{root} is not a LeRobot dataset: meta/info.json is missing")
    name = str(root_or_repo_id)
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise InputError(f"dataset folder {name} does not exist; give a folder or a Hub id like user/name")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, repo_type="dataset"))
    except Exception as error:  # offline, no such repository, no permission: all mean the same to the user
        raise InputError(f"{name} is neither a folder here nor a dataset that the Hub gives: {error}") from error


def _read_json(path: Path) -> dict:
    if not path.is_file():
        raise InputError(f"{path} is missing; {RECORD_AGAIN}")
    try:
        return json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid JSON: {error}") from error


def _read_json_lines(path: Path) -> list[dict]:
    if not path.is_file():
        raise InputError(f"{path} is missing; copy the dataset again")
    try:
        return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid JSON lines: {error}") from error


def _read_parquet(path: Path, columns: list[str] | None = None) -> pa.Table:
    if not path.is_file():
        raise InputError(f"{path} is missing; copy the dataset again, or {RECORD_AGAIN}")
    try:
        with pq.ParquetFile(path) as file:
            missing = [name for name in columns or [] if name not in file.schema_arrow.names]
            if missing:
                raise InputError(f"{path} has no column {missing}; its columns are {file.schema_arrow.names}")
            return file.read(columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} cannot be read (cut short or not parquet): {error}") from error


def _tasks_of_table(table: pa.Table, path: Path) -> list[str]:
    # pandas names an index without a name "__index_level_0__"; some writers leave the task there.
    name = next((n for n in ("task", "__index_level_0__") if n in table.column_names), None)
    if name is None or "task_index" not in table.column_names:
        raise InputError(f"{path} needs the columns task and task_index; it has {table.column_names}")
    rows = sorted(zip(table.column("task_index").to_pylist(), table.column(name).to_pylist()))
    if [index for index, _ in rows] != list(range(len(rows))):
        raise InputError(f"{path}: task_index does not count from 0 without gaps")
    return [task for _, task in rows]


def _to_numpy(column: pa.ChunkedArray, name: str, path: Path) -> np.ndarray:
    """A column as (T,) or, of lists (fixed or all of one length, nested too), as (T, a, b, ...)."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    shape = [len(array)]
    while (
        pa.types.is_fixed_size_list(array.type) or pa.types.is_list(array.type) or pa.types.is_large_list(array.type)
    ):
        sizes = array.value_lengths().to_numpy(zero_copy_only=False)
        if array.null_count or (len(sizes) and (sizes != sizes[0]).any()):
            raise InputError(f"{path}: the rows of column {name!r} have different lengths or are empty")
        shape.append(int(sizes[0]) if len(sizes) else 0)
        array = array.flatten()
    if pa.types.is_struct(array.type) or pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        return np.array(array.to_pylist(), object)
    return array.to_numpy(zero_copy_only=False).reshape(shape)


def _decode_image(cell: dict | None, root: Path, key: str, episode: int) -> np.ndarray:
    """One cell of an image feature: {"bytes", "path"} as `datasets` stores it."""
    try:
        source = io.BytesIO(cell["bytes"]) if cell.get("bytes") else root / cell["path"]
        with Image.open(source) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{root}: an image of {key} in episode {episode} cannot be read: {error}") from error


def _merge_statistics(episodes: list[dict[str, dict[str, np.ndarray]]]) -> dict[str, dict[str, np.ndarray]]:
    merged = {}
    for key in episodes[0] if episodes else ():
        rows = [stats[key] for stats in episodes if key in stats]
        mean, std = np.stack([r["mean"] for r in rows]), np.stack([r["std"] for r in rows])
        count = np.array([int(r["count"].reshape(-1)[0]) for r in rows])
        share = (count / count.sum()).reshape(-1, *[1] * (mean.ndim - 1))
        total = (mean * share).sum(axis=0)
        merged[key] = {
            "min": np.stack([r["min"] for r in rows]).min(axis=0),
            "max": np.stack([r["max"] for r in rows]).max(axis=0),
            "mean": total,
            "std": np.sqrt(((std**2 + (mean - total) ** 2) * share).sum(axis=0)),
            "count": np.array([count.sum()]),
        }
    return merged
