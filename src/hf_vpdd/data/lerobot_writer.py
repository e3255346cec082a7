"""Writes LeRobot v3.0 datasets: many episodes per mp4 and per parquet file, statistics, tasks, episode table.

    writer = LeRobotWriter(root, fps=80, robot_type="sawyer")
    writer.add_episode({"observation.images.corner2": frames, "observation.state": state, "action": action}, "open it")
    writer.finalize()

Everything is written under `root/.partial` and moved into place by `finalize`, the folder `meta` with its `info.json`
last. A folder without `meta/info.json` is not a dataset; a run that is killed leaves none, and the next writer clears
what it left.
"""

import json
import math
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import InputError
from ..files import atomic_path
from .packet_sums import SUMS_FILE
from .statistics import ImageStatistics, RunningStatistics, sample_indices, to_json
from .video import VideoJoiner, encode_video, iterate_frames, open_video


__all__ = ["LeRobotWriter", "encode_video"]

IMAGE_PREFIX = "observation.images."
CHUNK_SIZE = 1000
_PARQUET = {"write_page_checksum": True}  # else a flipped bit is another number, and nobody sees it
# Columns that the writer makes itself, with their types.
INDEX_FEATURES = {
    "timestamp": "float32", "frame_index": "int64", "episode_index": "int64", "index": "int64", "task_index": "int64",
}  # fmt: skip
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"


class LeRobotWriter:
    """One dataset being written, episode after episode, in one process.

    Args:
        root: The dataset's folder; must not hold a finished dataset.
        fps: Frames per second of every episode and video.
        features: Names and more of features: `{"action": {"names": ["dx", ...]}}`. Shapes and dtypes are taken from
            the first episode; a shape or dtype given here is held against it.
        robot_type: Free text for `info.json`.
        video_codec, crf, gop, pix_fmt: Of `encode_video`; used by `add_episode` and written to `info.json`.
        video_file_mb, data_file_mb: A new file is begun when the current one has reached this size.
        extra_info: Further entries of `info.json` (how the data was made).

    Raises:
        InputError: `root` holds a dataset already, or files of someone else under the names a dataset needs.
    """

    _flush_at = 20_000  # rows; few large row groups read faster than one per episode

    def __init__(
        self,
        root: str | os.PathLike,
        fps: float,
        features: dict[str, dict] | None = None,
        robot_type: str | None = None,
        video_codec: str = "h264",
        crf: int = 18,
        gop: int = 10,
        pix_fmt: str = "yuv420p",
        video_file_mb: float = 200,
        data_file_mb: float = 100,
        extra_info: dict | None = None,
    ):
        self.root = Path(root)
        self.fps = fps
        self.robot_type = robot_type
        self.encoding = {"codec": video_codec, "crf": crf, "gop": gop, "pix_fmt": pix_fmt}
        self.video_file_mb = video_file_mb
        self.data_file_mb = data_file_mb
        self.extra_info = dict(extra_info or {})
        self.num_frames = 0
        self.tasks: dict[str, int] = {}
        self.episodes: list[dict] = []
        self._requested = {key: dict(value) for key, value in (features or {}).items()}
        self._features: dict[str, dict] | None = None  # known from the first episode on
        self._statistics: dict[str, RunningStatistics | ImageStatistics] = {}
        self._joiners: dict[str, VideoJoiner] = {}
        self._video_file: dict[str, int] = {}
        self._sums: dict[str, list[int]] = {}
        self._data_file = 0
        self._data_writer: pq.ParquetWriter | None = None
        self._pending: list[pa.Table] = []
        self._pending_rows = 0
        self._closed = False
        self._partial = self.root / ".partial"
        self._claim_root()

    # -- adding episodes -----------------------------------------------------------------------------------------

    def add_episode(self, frames: dict[str, np.ndarray], task: str) -> int:
        """Adds an episode held in memory; returns its index.

        Args:
            frames: By feature: `observation.images.<camera>` uint8 (T, H, W, 3), everything else (T, ...) or (T,).
            task: The instruction, one sentence.

        Raises:
            InputError: Lengths, shapes or dtypes disagree with each other or with earlier episodes; NaN; empty task.
        """
        images = {key: np.asarray(value) for key, value in frames.items() if key.startswith(IMAGE_PREFIX)}
        columns = {key: value for key, value in frames.items() if key not in images}
        length = self._episode_length(images | columns)
        staged = {}
        try:
            for key, value in images.items():
                staged[key] = self._partial / "staging" / f"{key}.mp4"
                encode_video(staged[key], value, self.fps, **self.encoding)
            samples = {key: value[sample_indices(length)] for key, value in images.items()}
            return self._add(staged, columns, task, length, samples)
        finally:
            for path in staged.values():
                path.unlink(missing_ok=True)

    def add_encoded_episode(
        self,
        mp4_paths: dict[str, str | os.PathLike],
        columns: dict[str, np.ndarray],
        task: str,
        length: int | None = None,
    ) -> int:
        """Adds an episode whose videos are encoded already (by `encode_video`); they are copied, not re-encoded.

        Args:
            mp4_paths: By camera, as "corner2" or "observation.images.corner2".
            columns: Everything but images, (T, ...) or (T,); may be empty when `length` is given (video alone).
            task: The instruction, one sentence.
            length: Number of frames, when there are no columns to tell.

        Raises:
            InputError: As `add_episode`; or a video has another number of frames than the columns.
        """
        videos = {key if key.startswith(IMAGE_PREFIX) else IMAGE_PREFIX + key: p for key, p in mp4_paths.items()}
        if columns:
            found = self._episode_length(columns)
            if length is not None and found != length:
                raise InputError(f"the columns have {found} frames, length says {length}")
            length = found
        if length is None:
            raise InputError("add_encoded_episode needs columns or length, to know the number of frames")
        return self._add(videos, columns, task, length, samples=None)

    def add_meta_file(self, name: str, text: str) -> None:
        """A further file for the folder `meta`; it appears with the dataset."""
        path = self._partial / "meta" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def finalize(self) -> Path:
        """Writes the remaining rows, statistics, tables and `info.json`, and makes the dataset appear at `root`.

        Raises:
            InputError: No episode was added.
        """
        if self._closed:
            raise InputError(f"the dataset writer of {self.root} is closed already")
        if not self.episodes:
            raise InputError(f"no episode was added to {self.root}; a dataset needs at least one")
        for joiner in self._joiners.values():
            joiner.close()
        self._flush_rows()
        self._close_data_file()
        meta = self._partial / "meta"
        meta.mkdir(parents=True, exist_ok=True)
        statistics = {key: value.result() for key, value in self._statistics.items()}
        (meta / "stats.json").write_text(json.dumps(to_json(statistics), indent=2))
        self._write_tasks(meta / "tasks.parquet")
        if self._sums:
            columns = {key: pa.array(sums, pa.uint32()) for key, sums in self._sums.items()}
            pq.write_table(pa.table(columns), meta / SUMS_FILE, use_dictionary=False)
        self._write_episodes(meta / "episodes" / "chunk-000" / "file-000.parquet")
        (meta / "info.json").write_text(json.dumps(self._info(), indent=2))
        for name in ("data", "videos", "meta"):  # meta last: with it the folder becomes a dataset, in one rename
            if (self._partial / name).exists():
                os.replace(self._partial / name, self.root / name)
        shutil.rmtree(self._partial)
        self._closed = True
        return self.root

    def abort(self) -> None:
        """Closes the files and removes what was written. The dataset never was."""
        if not self._closed:
            self._closed = True
            for joiner in self._joiners.values():
                joiner.close()
            if self._data_writer is not None:
                self._data_writer.close()
            shutil.rmtree(self._partial, ignore_errors=True)

    def __enter__(self) -> "LeRobotWriter":
        return self

    def __exit__(self, kind, value, traceback) -> None:
        if kind is None:
            self.finalize()
        else:
            self.abort()

    # -- the folder ----------------------------------------------------------------------------------------------

    def _claim_root(self) -> None:
        if (self.root / "meta" / "info.json").exists():
            raise InputError(f"{self.root} holds a finished dataset; choose another folder or remove this one first")
        present = [name for name in ("meta", "data", "videos") if (self.root / name).exists()]
        if self._partial.exists():  # a killed writer was here, so what it had moved already is ours to clear
            for name in present:
                shutil.rmtree(self.root / name)
            shutil.rmtree(self._partial)
        elif present:
            raise InputError(
                f"{self.root} has the folders {present} but no meta/info.json, and they were not left by this writer; "
                "choose another folder or remove them"
            )
        self._partial.mkdir(parents=True)

    # -- one episode ---------------------------------------------------------------------------------------------

    def _episode_length(self, columns: dict[str, np.ndarray]) -> int:
        if not columns:
            raise InputError("an episode needs at least one feature")
        lengths = {key: len(np.asarray(value)) for key, value in columns.items()}
        if len(set(lengths.values())) > 1 or 0 in lengths.values():
            raise InputError(f"the features of an episode must have the same number of frames, at least 1: {lengths}")
        return next(iter(lengths.values()))

    def _add(self, videos: dict, columns: dict, task: str, length: int, samples: dict[str, np.ndarray] | None) -> int:
        if self._closed:
            raise InputError(f"the dataset writer of {self.root} is closed; open a new one")
        number = len(self.episodes)
        if not isinstance(task, str) or not task.strip():
            raise InputError(
                f"episode {number} of {self.root}: the task is {task!r}; give the instruction as a sentence"
            )
        reserved = [key for key in columns if key in INDEX_FEATURES or key == "task"]
        if reserved:
            raise InputError(f"episode {number}: the writer makes the columns {reserved} itself; do not pass them")
        columns = {key: _as_column(value, key, number) for key, value in columns.items()}
        self._check_features(videos, columns, number)

        record = {
            "episode_index": number,
            "tasks": [task],
            "length": length,
            "data/chunk_index": self._data_file // CHUNK_SIZE,
            "data/file_index": self._data_file % CHUNK_SIZE,
            "dataset_from_index": self.num_frames,
            "dataset_to_index": self.num_frames + length,
        }
        for key, path in videos.items():
            record |= self._append_video(key, path, length)
        rate = float(self.fps)
        task_index = self.tasks.setdefault(task, len(self.tasks))
        frame_index = np.arange(length)
        columns |= {
            "timestamp": (frame_index / rate).astype(np.float32),
            "frame_index": frame_index,
            "episode_index": np.full(length, number),
            "index": frame_index + self.num_frames,
            "task_index": np.full(length, task_index),
        }
        for key, value in columns.items():
            if value.dtype.kind in "fiub":
                self._statistics.setdefault(key, RunningStatistics()).update(value)
        for key, path in videos.items():
            # Of an encoded episode the key frames: every gop-th frame, for a tenth of the decoding.
            images = samples[key] if samples is not None else np.stack(list(iterate_frames(path, keyframes_only=True)))
            self._statistics.setdefault(key, ImageStatistics()).update(images)
        self.episodes.append(record)
        self.num_frames += length
        self._write_rows(columns, length)
        return number

    def _check_features(self, videos: dict, columns: dict[str, np.ndarray], number: int) -> None:
        found = {key: self._video_feature(key, path) for key, path in videos.items()}
        for key, value in columns.items():
            shape = list(value.shape[1:]) or [1]
            dtype = "string" if value.dtype.kind in "UO" else str(value.dtype)
            found[key] = {"dtype": dtype, "shape": shape, "names": None}
        reference = self._features
        if reference is None:
            missing = [key for key in self._requested if key not in found]
            if missing:
                raise InputError(f"episode {number} lacks the features {missing}; it has {sorted(found)}")
            self._features = {key: value | self._requested.get(key, {}) for key, value in found.items()}
            reference = self._features
        if set(reference) != set(found):
            raise InputError(
                f"episode {number} has the features {sorted(found)}, but this dataset has {sorted(reference)}"
            )
        for key, feature in found.items():
            for part in ("dtype", "shape"):
                if list(feature[part]) != list(reference[key][part]):
                    raise InputError(
                        f"episode {number}: {key} has {part} {feature[part]}, but this dataset has "
                        f"{reference[key][part]}"
                    )

    def _video_feature(self, key: str, path: str | os.PathLike) -> dict:
        with open_video(path) as container:
            context = container.streams.video[0].codec_context
            height, width, pix_fmt = context.height, context.width, context.pix_fmt
            codec = context.codec.canonical_name  # "av1", whichever library decodes it
        return {
            "dtype": "video",
            "shape": [height, width, 3],
            "names": ["height", "width", "channels"],
            "info": {
                "video.height": height, "video.width": width, "video.codec": codec, "video.pix_fmt": pix_fmt,
                "video.fps": self.fps, "video.channels": 3, "video.g": self.encoding["gop"],
                "video.crf": self.encoding["crf"], "has_audio": False, "video.is_depth_map": False,
                "is_depth_map": False,
            },
        }  # fmt: skip

    def _append_video(self, key: str, path: str | os.PathLike, length: int) -> dict:
        joiner = self._joiners.get(key)
        if joiner is None or joiner.num_bytes >= self.video_file_mb * 1e6 or not joiner.fits(path):
            if joiner is not None:
                joiner.close()
            self._video_file[key] = self._video_file.get(key, -1) + 1
            chunk, file = divmod(self._video_file[key], CHUNK_SIZE)
            relative = VIDEO_PATH.format(video_key=key, chunk_index=chunk, file_index=file)
            joiner = self._joiners[key] = VideoJoiner(self._partial / relative, self.fps)
        first = joiner.append(path, length)
        self._sums.setdefault(key, []).extend(joiner.sums[first:])
        chunk, file = divmod(self._video_file[key], CHUNK_SIZE)
        return {
            f"videos/{key}/chunk_index": chunk,
            f"videos/{key}/file_index": file,
            f"videos/{key}/from_timestamp": first / float(self.fps),
            f"videos/{key}/to_timestamp": (first + length) / float(self.fps),
        }

    # -- tables --------------------------------------------------------------------------------------------------

    def _write_rows(self, columns: dict[str, np.ndarray], length: int) -> None:
        self._pending.append(pa.table({key: _to_arrow(columns[key]) for key in sorted(columns)}))
        self._pending_rows += length
        if self._pending_rows >= self._flush_at:
            self._flush_rows()

    def _flush_rows(self) -> None:
        if not self._pending:
            return
        table = pa.concat_tables(self._pending).combine_chunks()
        self._pending, self._pending_rows = [], 0
        path = self._data_path()
        if self._data_writer is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._data_writer = pq.ParquetWriter(path, table.schema, compression="snappy", **_PARQUET)
        self._data_writer.write_table(table)
        if path.stat().st_size >= self.data_file_mb * 1e6:
            self._close_data_file()
            self._data_file += 1

    def _close_data_file(self) -> None:
        if self._data_writer is not None:
            self._data_writer.close()
            self._data_writer = None

    def _data_path(self) -> Path:
        chunk, file = divmod(self._data_file, CHUNK_SIZE)
        return self._partial / DATA_PATH.format(chunk_index=chunk, file_index=file)

    def _write_tasks(self, path: Path) -> None:
        # What pandas would write for a frame indexed by "task", so that LeRobot's `tasks.loc[...]` works.
        table = pa.table(
            {"task_index": pa.array(self.tasks.values(), pa.int64()), "task": pa.array(self.tasks, pa.string())}
        )
        columns = [
            {
                "name": "task_index",
                "field_name": "task_index",
                "pandas_type": "int64",
                "numpy_type": "int64",
                "metadata": None,
            },
            {"name": "task", "field_name": "task", "pandas_type": "unicode", "numpy_type": "object", "metadata": None},
        ]
        pandas = {"index_columns": ["task"], "column_indexes": [], "columns": columns, "pandas_version": "2.0.0"}
        pq.write_table(table.replace_schema_metadata({b"pandas": json.dumps(pandas).encode()}), path, **_PARQUET)

    def _write_episodes(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        columns = {key: [episode[key] for episode in self.episodes] for key in self.episodes[0]}
        arrays = {
            key: pa.array(value, pa.list_(pa.string())) if key == "tasks" else value for key, value in columns.items()
        }
        zeros = np.zeros(len(self.episodes), np.int64)
        table = pa.table(arrays | {"meta/episodes/chunk_index": zeros, "meta/episodes/file_index": zeros})
        with atomic_path(path) as temporary:
            pq.write_table(table, temporary, **_PARQUET)

    def _info(self) -> dict:
        number = len(self.episodes)
        index = {key: {"dtype": dtype, "shape": [1], "names": None} for key, dtype in INDEX_FEATURES.items()}
        fps = int(self.fps) if math.isclose(self.fps, round(self.fps)) else float(self.fps)
        return self.extra_info | {
            "codebase_version": "v3.0",
            "robot_type": self.robot_type,
            "total_episodes": number,
            "total_frames": self.num_frames,
            "total_tasks": len(self.tasks),
            "chunks_size": CHUNK_SIZE,
            "data_files_size_in_mb": self.data_file_mb,
            "video_files_size_in_mb": self.video_file_mb,
            "fps": fps,
            "splits": {"train": f"0:{number}"},
            "data_path": DATA_PATH,
            "video_path": VIDEO_PATH if self._joiners else None,
            "features": {**self._features, **index},
        }


def _as_column(value, key: str, episode: int) -> np.ndarray:
    """float64 becomes float32 (LeRobot's habit), (T, 1) becomes (T,) (stored as a scalar). NaN is refused."""
    value = np.asarray(value)
    if value.dtype.kind == "O" or value.dtype.kind not in "fiubU":
        raise InputError(f"episode {episode}: {key} has dtype {value.dtype}; use numbers, booleans or strings")
    if value.dtype == np.float64:
        value = value.astype(np.float32)
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        frame = int(np.argwhere(~np.isfinite(value))[0][0])
        raise InputError(f"episode {episode}, frame {frame}: {key} is NaN or infinite: {value[frame].tolist()}")
    return value[:, 0] if value.ndim == 2 and value.shape[1] == 1 else value


def _to_arrow(value: np.ndarray) -> pa.Array:
    """(T,) as a plain column, (T, a, b) as nested lists of fixed size."""
    array = pa.array(np.ascontiguousarray(value).reshape(-1))
    for size in reversed(value.shape[1:]):
        array = pa.FixedSizeListArray.from_arrays(array, size)
    return array
