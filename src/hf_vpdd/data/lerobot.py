"""Reads LeRobot datasets, format v3.0 and v2.x, from a local folder or the Hub, without LeRobot.

    dataset = LeRobotDataset("recordings/mt10")
    episode = dataset.episode(3)             # {"observation.state": (T, Ds), "action": (T, A), ..., "task": str}
    frames = dataset.frames("corner2", 3)    # uint8 (T, H, W, 3)

The two formats differ in where things lie: v3.0 keeps many episodes in one file and tables in parquet, v2.x one file
per episode and tables in JSON lines. Both become the same `EpisodeTable`; nothing that uses it knows which it was.
"""

import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa

from ..errors import InputError
from .lerobot_files import (
    RECORD_AGAIN,
    check_info,
    check_type,
    decode_image,
    is_depth,
    merge_statistics,
    read_json,
    read_json_lines,
    read_parquet,
    read_rows,
    tasks_of_table,
    to_numpy,
)
from .packet_sums import read_packet_sums, sums_of_file
from .statistics import from_json
from .video import VideoReader
from .video_backends import make_video_reader, resolve_backend


IMAGE_PREFIX = "observation.images."
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
        streaming: Of a dataset on the Hub: download the tables now, and a file of data or video when it is first
            needed. (It stays in the Hub's cache; nothing is downloaded twice.)
        video_backend: "auto", "pyav" or "torchcodec"; see `video_backends`.
        revision: Of a dataset on the Hub: branch, tag or commit.
        require_files: Refuse a dataset that lacks files. False: `missing_files` lists them.

    Attributes: root, info, fps, features, tasks (by task_index), cameras, num_episodes, num_frames, episodes
    (`EpisodeTable`), stats, missing_files.

    Raises:
        InputError: Nothing there, a recording that was not finished, a missing or broken file, an unknown version.
    """

    def __init__(
        self,
        root_or_repo_id: str | os.PathLike,
        max_open_videos: int = 8,
        streaming: bool = False,
        video_backend: str = "auto",
        revision: str | None = None,
        require_files: bool = True,
    ):
        self.root = find_root(root_or_repo_id, streaming, revision)
        # Files still to come: their source, while streaming; the folder of a snapshot is named by its commit.
        local = Path(root_or_repo_id).expanduser() == self.root
        self._remote = (str(root_or_repo_id), self.root.name) if streaming and not local else None
        self.info = read_json(self.root / "meta" / "info.json")
        for name in ("codebase_version", "fps", "features"):
            if name not in self.info:
                raise InputError(
                    f"{self.root / 'meta' / 'info.json'} has no entry {name!r}; it is not a LeRobot dataset"
                )
        self.version = str(self.info["codebase_version"])
        self.fps = self.info["fps"]
        self.features: dict[str, dict] = self.info["features"]
        check_info(self.info, self.root / "meta" / "info.json")
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
        self.missing_files = [] if self._remote else self._find_missing()
        if self.num_episodes == 0:
            raise InputError(f"{self.root} holds no episodes")
        if self.missing_files and require_files:
            raise InputError(
                f"{self.root} lacks {len(self.missing_files)} of its files, the first is "
                f"{self.missing_files[0].relative_to(self.root)}; copy the dataset again, or {RECORD_AGAIN}"
            )
        self.video_backend = resolve_backend(video_backend)
        self._videos = make_video_reader(self.video_backend, max_open_videos)
        self._table: tuple[Path, pa.Table] | None = None  # the data file read last
        self._sums_of_file: dict[tuple[str, int], np.ndarray] = {}

    def __len__(self) -> int:
        return self.num_episodes

    def __repr__(self) -> str:
        return f"LeRobotDataset({str(self.root)!r}, {self.num_episodes} episodes, {self.num_frames} frames)"

    @property
    def cameras(self) -> list[str]:
        """Names of the cameras, without the prefix `observation.images.`; depth is not among them."""
        return [key.removeprefix(IMAGE_PREFIX) for key in self._camera_keys if key not in self.depth_keys]

    @property
    def image_keys(self) -> list[str]:
        """The features that are pictures or videos, depth among them."""
        return list(self._camera_keys)

    @cached_property
    def depth_keys(self) -> list[str]:
        """The features that are depth: said so by their `info`, or pictures of one channel."""
        return [key for key in self._camera_keys if is_depth(self.features[key])]

    @cached_property
    def fingerprint(self) -> str:
        """64 hexadecimal digits that change when the dataset changes; see `dataset_fingerprint`."""
        if self._remote:
            return hashlib.sha256("@".join(self._remote).encode()).hexdigest()
        return dataset_fingerprint(self.root)

    @cached_property
    def stats(self) -> dict[str, dict[str, np.ndarray]]:
        """Statistics by feature; v2.1 datasets keep them per episode, so they are merged here (without quantiles)."""
        path = self.root / "meta" / "stats.json"
        if path.exists():
            return from_json(read_json(path))
        path = self.root / "meta" / "episodes_stats.jsonl"
        if path.exists():
            return merge_statistics([from_json(row["stats"]) for row in read_json_lines(path)])
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
            self._table = (path, read_parquet(self._here(path), leave_out=self._camera_keys))
            missing = set(self.features) - set(self._camera_keys) - set(self._table[1].column_names)
            if missing:
                raise InputError(
                    f"{path} lacks the columns {sorted(missing)} that meta/info.json promises; it has "
                    f"{self._table[1].column_names}"
                )
        table = self._table[1].slice(start, length)
        if table.num_rows != length:
            raise InputError(f"{path} ends inside episode {index}: {table.num_rows} of {length} rows; {RECORD_AGAIN}")
        output = {name: to_numpy(table.column(name), name, path) for name in table.column_names}
        if "episode_index" in output and (output["episode_index"] != index).any():
            raise InputError(f"{path}: rows {start}... do not belong to episode {index}; the episode table is wrong")
        if images:
            output |= {key: self.frames(key, index) for key in self._camera_keys}
        return output | {"task": self.episodes.task[index]}

    def frames(self, camera: str, episode: int, first: int = 0, count: int | None = None) -> np.ndarray:
        """Frames of one camera, uint8 (count, H, W, 3): the whole episode, or `count` of them from `first` on.

        Of a depth feature: (count, H, W, 1) in the numbers of the pictures (uint8, uint16, int32 or float32); of depth
        that is stored as video the grey values as they are: uint8 or, of more than 8 bits, uint16.
        """
        key = self.camera_key(camera)
        episode = self._checked(episode)
        length = int(self.episodes.length[episode])
        count = length - first if count is None else count
        if first < 0 or count < 1 or first + count > length:
            raise InputError(f"frames {first} to {first + count - 1} asked of episode {episode}, which has {length}")
        depth = key in self.depth_keys
        if key in self._video_keys:
            path = self._here(self.episodes.video_files[key][self.episodes.video_file[key][episode]])
            start = int(self.episodes.video_start[key][episode]) + first
            reader = self._depth_videos if depth else self._videos
            try:
                sums = self.packet_sums(key, int(self.episodes.video_file[key][episode]))
                return reader.read(path, start, count, self.fps, sums)
            except InputError as error:
                raise InputError(f"episode {episode}, {key}: {error}") from error
        path = self._here(self.episodes.data_files[self.episodes.data_file[episode]])
        cells = read_rows(path, key, int(self._row_start[episode]) + first, count).to_pylist()
        frames = [decode_image(cell, self.root, key, episode, depth) for cell in cells]
        if len(frames) != count or len({(frame.shape, frame.dtype) for frame in frames}) != 1:
            found = sorted({str(frame.shape) for frame in frames})
            raise InputError(f"{path}: episode {episode} needs {count} pictures {key} of one size, found {found}")
        return np.stack(frames)

    def packet_sums(self, key: str, number: int) -> np.ndarray | None:
        """int64 (frames,): checksums of the packets of video file `number` of a feature, -1 for frames of no episode;
        None of a dataset without (see `packet_sums`)."""
        if key not in self._sums:
            return None
        if (key, number) not in self._sums_of_file:
            table = self.episodes
            here = np.flatnonzero(table.video_file[key] == number)
            self._sums_of_file[key, number] = sums_of_file(
                self._sums[key], table.start[here], table.length[here], table.video_start[key][here]
            )
        return self._sums_of_file[key, number]

    @cached_property
    def _sums(self) -> dict[str, np.ndarray]:
        return read_packet_sums(self.root, self._video_keys, self.num_frames)

    @cached_property
    def _depth_videos(self) -> VideoReader:
        return VideoReader(self._videos.max_open, grey=True)

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
            table = read_parquet(self._here(path), wanted)
            for name in wanted:
                pieces[name].append(to_numpy(table.column(name), name, path))
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
        tasks = tasks_of_table(read_parquet(meta / "tasks.parquet"), meta / "tasks.parquet")
        paths = sorted((meta / "episodes").glob("chunk-*/file-*.parquet"))
        if not paths:
            raise InputError(f"{self.root} lacks meta/episodes/chunk-000/file-000.parquet; {RECORD_AGAIN}")
        wanted = ["episode_index", "tasks", "length", "data/chunk_index", "data/file_index", "dataset_from_index"]
        for key in self._video_keys:
            wanted += [f"videos/{key}/{name}" for name in ("chunk_index", "file_index", "from_timestamp")]
        table = pa.concat_tables([read_parquet(path, wanted) for path in paths])
        for name in wanted:
            check_type(table, name, paths[0], float if name.endswith("timestamp") else str if name == "tasks" else int)
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
        rows = read_json_lines(meta / "tasks.jsonl", {"task_index": int, "task": str})
        tasks = [row["task"] for row in sorted(rows, key=lambda row: row["task_index"])]
        if sorted(row["task_index"] for row in rows) != list(range(len(rows))):
            raise InputError(f"{meta / 'tasks.jsonl'}: task_index does not count from 0 without gaps")
        episodes = read_json_lines(meta / "episodes.jsonl", {"episode_index": int, "length": int, "tasks": list})
        episodes = sorted(episodes, key=lambda row: row["episode_index"])
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

    def _find_missing(self) -> list[Path]:
        files = [*self.episodes.data_files, *(path for paths in self.episodes.video_files.values() for path in paths)]
        return [path for path in files if not path.is_file()]

    def _here(self, path: Path) -> Path:
        """A file of the dataset, downloaded first if it is streamed and was not needed before."""
        if self._remote and not path.is_file():
            from huggingface_hub import hf_hub_download

            name = path.relative_to(self.root).as_posix()
            try:
                hf_hub_download(self._remote[0], name, repo_type="dataset", revision=self._remote[1])
            except Exception as error:  # offline, removed, no permission: all mean the same to the user
                raise InputError(f"{name} of {self._remote[0]} cannot be downloaded: {error}") from error
        return path

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


def find_root(root_or_repo_id: str | os.PathLike, tables_only: bool = False, revision: str | None = None) -> Path:
    """The folder of a LeRobot dataset; one on the Hub is downloaded, or only its tables.

    Raises:
        InputError: Nothing there, or a half-written recording.
    """
    root = Path(root_or_repo_id).expanduser()
    if (root / "meta" / "info.json").is_file():
        return root
    if root.is_dir():
        traces = [name for name in (".partial", ".staging", "data", "videos", "meta") if (root / name).exists()]
        if traces:
            raise InputError(
                f"{root} is a half-written recording or conversion (meta/info.json is missing); run the `hf-vpdd "
                "record` or `hf-vpdd convert dataset` that makes it again: it goes on where it stopped"
            )
        raise InputError(
            f"{root} is not a LeRobot dataset: meta/info.json is missing (docs/data.md has what can be read)"
        )
    name = str(root_or_repo_id)
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise InputError(f"dataset folder {name} does not exist; give a folder or a Hub id like user/name")
    from huggingface_hub import snapshot_download

    try:
        wanted = ["meta/*"] if tables_only else None
        return Path(snapshot_download(name, repo_type="dataset", revision=revision, allow_patterns=wanted))
    except Exception as error:  # offline, no such repository, no permission: all mean the same to the user
        raise InputError(f"{name} is neither a folder here nor a dataset that the Hub gives: {error}") from error
