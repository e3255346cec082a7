"""A `datasets` dataset with a Video column as a dataset of clips, read by PyAV: torchcodec is not needed.

    open_video_rows("datasets:user/name")                    # the split train of a dataset on the Hub
    open_video_rows("datasets:parquet_folder:test")          # a folder that load_dataset or load_from_disk reads
    open_video_rows(load_dataset(...), text="caption")

For datasets that are too large to hold, see `video_stream`.
"""

import io
import os
from pathlib import Path
from typing import Any

from ..errors import InputError
from .captions import COLUMN_NAMES, Caption, caption_of
from .video_dataset import Clip, VideoDataset
from .video_folder import DEFAULT_TEXT


PREFIX = "datasets:"


class RowVideo:
    """The video of one row; see `timed_video.StoredVideo`."""

    def __init__(self, rows: Any, column: str, row: int, name: str):
        self.rows, self.column, self.row, self.name = rows, column, row, name

    def __str__(self) -> str:
        return self.name

    def open(self) -> io.BufferedIOBase:
        return open_cell(self.rows[self.row][self.column], self.name)

    def size(self) -> int:
        cell = self.rows[self.row][self.column]
        if isinstance(cell, dict) and cell.get("bytes"):
            return len(cell["bytes"])
        path = cell.get("path") if isinstance(cell, dict) else None
        return os.path.getsize(path) if path and os.path.isfile(path) else 0


def open_cell(cell: Any, name: str) -> io.BufferedIOBase:
    """The file of an undecoded cell {"bytes", "path"}; the path may be one of the Hub.

    Raises:
        InputError: An empty cell, or a file that is not there.
    """
    if isinstance(cell, dict) and cell.get("bytes"):
        return io.BytesIO(cell["bytes"])
    path = cell.get("path") if isinstance(cell, dict) else None
    if not path:
        raise InputError(f"{name} is empty: expected the bytes or the path of a video, found {str(cell)[:60]}")
    try:
        if "://" not in path:
            return open(path, "rb")
        from datasets.utils.file_utils import xopen

        with xopen(path, "rb") as file:
            return io.BytesIO(file.read())
    except (OSError, ValueError) as error:
        raise InputError(f"{name} cannot be opened: {error}") from error


def undecoded(rows: Any, video: str | None = None, text: str | None = None) -> tuple[Any, str, str | None]:
    """(the rows with videos as bytes or paths, the video column, the text column or None).

    Args:
        rows: `Dataset` or `IterableDataset`. video, text: Columns; found by type and by name if not given.

    Raises:
        InputError: No such columns, or several that might be meant.
    """
    from datasets import Video

    features = rows.features
    if features is None:  # a stream that has not been looked at
        features = rows._resolve_features().features
    if video is None:
        found = [name for name, feature in features.items() if isinstance(feature, Video)]
        if len(found) != 1:
            raise InputError(f"the video column is one of {found or list(features)}; name it")
        video = found[0]
    if text is None:
        text = next((name for name in COLUMN_NAMES["text"] if name in features and name != video), None)
    for column in filter(None, (video, text)):
        if column not in features:
            raise InputError(f"there is no column {column!r}; there are {list(features)}")
    return rows.cast_column(video, Video(decode=False)), video, text


def load_rows(name: str, split: str | None = None, streaming: bool = False) -> Any:
    """`load_dataset`, or `load_from_disk` where a folder was made by `save_to_disk`.

    Args:
        name: "datasets:NAME" or "datasets:NAME:SPLIT", with or without the prefix; a folder or a Hub id.
        split: train if it is not in the name.

    Raises:
        InputError: What `datasets` cannot load.
    """
    from datasets import DatasetDict, load_dataset, load_from_disk

    name = name.removeprefix(PREFIX)
    if split is None and ":" in name and not Path(name).exists():
        name, split = name.rsplit(":", 1)
    split = split or "train"
    try:
        if (Path(name) / "dataset_dict.json").is_file() or (Path(name) / "state.json").is_file():
            rows = load_from_disk(name)
            rows = rows[split] if isinstance(rows, DatasetDict) else rows
            return rows.to_iterable_dataset() if streaming else rows
        return load_dataset(name, split=split, streaming=streaming)
    except Exception as error:  # of many kinds: offline, no such split, damaged files, unknown format
        raise InputError(
            f"{PREFIX}{name} (split {split}) cannot be loaded: {type(error).__name__}: {error}"
        ) from error


def open_video_rows(
    rows: Any,
    fps: float | None = None,
    video: str | None = None,
    text: str | None = None,
    default_text: str = DEFAULT_TEXT,
    clip_seconds: float | None = None,
    progress: bool = True,
    skip_bad: bool = False,
    cache: str | os.PathLike | None = None,
) -> VideoDataset:
    """Every row as a clip; columns `start` and `end` (s), where there are such, say which stretch of it.

    Args:
        rows: A `datasets.Dataset`, or a name for `load_rows`.
        fps, clip_seconds, progress, skip_bad: See `VideoDataset`.
        video, text: Columns; see `undecoded`.
        default_text: The sentence of rows without one.
        cache: The folder for caches; the folder of the dataset, else `outputs/video_rows/<name>`.
    """
    name = rows if isinstance(rows, str) else f"{PREFIX}{getattr(rows, '_fingerprint', 'rows')}"
    folder = Path(name.removeprefix(PREFIX).split(":")[0])
    rows = load_rows(rows) if isinstance(rows, str) else rows
    rows, video, text = undecoded(rows, video, text)
    others = rows.remove_columns([video])
    clips = []
    for number, row in enumerate(others):
        where = f"{name} row {number}"
        about = _row(row, text, where)
        clips.append(
            Clip(RowVideo(rows, video, number, where), about.text or default_text, f"{number:07d}",
                 about.start or 0.0, about.end)
        )  # fmt: skip
    if cache is None:
        cache = folder if folder.is_dir() else Path("outputs") / "video_rows" / folder.as_posix().replace("/", "--")
    dataset = VideoDataset(Path(name), clips, fps, clip_seconds, Path(cache), progress, skip_bad)
    dataset.rows_fingerprint = str(getattr(rows, "_fingerprint", ""))
    return dataset


def _row(row: dict, text: str | None, where: str) -> Caption:
    row = {key: value for key, value in row.items() if key in (*COLUMN_NAMES["start"], *COLUMN_NAMES["end"], text)}
    return caption_of({"file": where} | row | ({"text": row[text]} if text else {}), where)
