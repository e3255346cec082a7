"""The files of a LeRobot dataset: JSON, parquet and the pictures in it, read with errors that name file and column."""

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from ..errors import InputError
from .pictures import png_damage


_PLACES = ("chunk_index", "file_index", "video_key", "episode_chunk", "episode_index")  # in paths, v3.0 and v2.x
RECORD_AGAIN = "run `hf-vpdd record` again with the same --out (it resumes where it stopped)"


def read_json(path: Path) -> dict:
    if not path.is_file():
        raise InputError(f"{path} is missing; {RECORD_AGAIN}")
    try:
        return json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid JSON: {error}") from error


def read_json_lines(path: Path, types: dict[str, type] | None = None) -> list[dict]:
    """The objects of a file, one a line; `types` are keys that all must have."""
    if not path.is_file():
        raise InputError(f"{path} is missing; copy the dataset again")
    try:
        rows = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON lines: {error}") from error
    for number, row in enumerate(rows, 1):
        for key, kind in (types or {}).items():
            value = row.get(key) if isinstance(row, dict) else None
            if type(value) is not kind:
                raise InputError(f"{path}: row {number}: {key} must be of type {kind.__name__}, found {str(row)[:80]}")
    return rows


def read_parquet(path: Path, columns: list[str] | None = None, leave_out: Sequence[str] = ()) -> pa.Table:
    """Some or all columns of a file."""
    if not path.is_file():
        raise InputError(f"{path} is missing; copy the dataset again, or {RECORD_AGAIN}")
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            names = file.schema_arrow.names
            missing = [name for name in columns or [] if name not in names]
            if missing:
                raise InputError(f"{path} has no column {missing}; its columns are {names}")
            return file.read(columns=columns or [name for name in names if name not in leave_out])
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} cannot be read (cut short or not parquet): {error}") from error


def read_rows(path: Path, column: str, first: int, count: int) -> pa.ChunkedArray:
    """Rows of one column, of which no more is read than the groups of rows that hold them."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            if column not in file.schema_arrow.names:
                raise InputError(f"{path} has no column {column!r}; its columns are {file.schema_arrow.names}")
            sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
            starts = np.cumsum([0, *sizes])
            groups = [i for i in range(len(sizes)) if starts[i] < first + count and starts[i + 1] > first]
            if not groups:
                raise InputError(f"{path} has {starts[-1]} rows, row {first} is needed; {RECORD_AGAIN}")
            table = file.read_row_groups(groups, columns=[column])
            return table.column(column).slice(first - int(starts[groups[0]]), count)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} cannot be read (cut short or not parquet): {error}") from error


def read_columns(path: Path, leave_out: Sequence[str] = ()) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """({column: array (N, ...)}, {column that is no array: why}) of a data file.

    Raises:
        InputError: The file cannot be read at all.
    """
    table = read_parquet(path, leave_out=leave_out)
    arrays, broken = {}, {}
    for name in table.column_names:
        try:
            arrays[name] = to_numpy(table.column(name), name, path)
        except InputError as error:
            broken[name] = str(error)
    return arrays, broken


def check_info(info: dict, path: Path) -> None:
    """The entries that everything else leans on have the types they must have."""
    fps = info["fps"]
    if isinstance(fps, bool) or not isinstance(fps, (int, float)) or not 0 < fps < float("inf"):
        raise InputError(f"{path}: fps is {fps!r}; expected a positive number")
    features = info["features"]
    if not isinstance(features, dict) or not all(isinstance(feature, dict) for feature in features.values()):
        raise InputError(f"{path}: 'features' must map names to descriptions, found {str(features)[:80]}")
    has_video = any(feature.get("dtype") == "video" for feature in features.values())
    for name in ("data_path", "video_path"):
        template = info.get(name)
        if template is None and (name == "data_path" or not has_video) and str(info["codebase_version"])[:2] == "v3":
            continue
        if template is None and name == "video_path" and not has_video:
            continue
        if not isinstance(template, str) or ".." in Path(template).parts or Path(template).is_absolute():
            raise InputError(f"{path}: {name} is {template!r}; expected a path within the dataset")
        try:
            template.format_map(dict.fromkeys(_PLACES, 0))
        except (KeyError, IndexError, ValueError, AttributeError, TypeError) as error:
            raise InputError(f"{path}: {name} is {template!r}, which cannot be filled: {error!r}") from error


def is_depth(feature: dict) -> bool:
    about = feature.get("info") or {}
    shape = list(feature.get("shape") or ())
    names = feature.get("names") or []
    channels = shape[names.index("channels")] if "channels" in names and len(names) == len(shape) else None
    return bool(about.get("is_depth_map") or about.get("video.is_depth_map")) or channels == 1 or shape[-1:] == [1]


def check_type(table: pa.Table, name: str, path: Path, kind: type) -> None:
    """A column holds whole numbers (int), numbers (float) or lists of texts (str), and all rows have one."""
    found = table.schema.field(name).type
    fits = pa.types.is_integer(found) or (kind is float and pa.types.is_floating(found))
    if kind is str:
        is_list = pa.types.is_list(found) or pa.types.is_large_list(found)
        fits = is_list and (pa.types.is_string(found.value_type) or pa.types.is_large_string(found.value_type))
    if not fits or table.column(name).null_count:
        what = {int: "whole numbers", float: "numbers", str: "lists of texts"}[kind]
        raise InputError(f"{path}: column {name} must hold {what}, found {found}; copy the dataset again")


def tasks_of_table(table: pa.Table, path: Path) -> list[str]:
    # pandas names an index without a name "__index_level_0__"; some writers leave the task there.
    name = next((n for n in ("task", "__index_level_0__") if n in table.column_names), None)
    if name is None or "task_index" not in table.column_names:
        raise InputError(f"{path} needs the columns task and task_index; it has {table.column_names}")
    rows = list(zip(table.column("task_index").to_pylist(), table.column(name).to_pylist()))
    if any(type(index) is not int or type(task) is not str for index, task in rows):
        raise InputError(f"{path}: task_index must hold whole numbers and {name} texts, found {str(rows[0])[:80]}")
    rows.sort()
    if [index for index, _ in rows] != list(range(len(rows))):
        raise InputError(f"{path}: task_index does not count from 0 without gaps")
    return [task for _, task in rows]


def to_numpy(column: pa.ChunkedArray, name: str, path: Path) -> np.ndarray:
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


def decode_image(cell: dict | None, root: Path, key: str, episode: int, depth: bool) -> np.ndarray:
    """One cell of an image feature, {"bytes", "path"} as `datasets` stores it: (H, W, 3), of depth (H, W, 1)."""
    try:
        data = cell["bytes"] if cell.get("bytes") else (root / cell["path"]).read_bytes()
        if damage := png_damage(data):
            raise ValueError(damage)
        with Image.open(io.BytesIO(data)) as image:
            if not depth:
                return np.asarray(image.convert("RGB"))
            pixels = np.asarray(image)
            return pixels[..., None] if pixels.ndim == 2 else pixels
    except (OSError, TypeError, KeyError, AttributeError, ValueError, SyntaxError) as error:
        raise InputError(f"{root}: an image of {key} in episode {episode} cannot be read: {error}") from error


def merge_statistics(episodes: list[dict[str, dict[str, np.ndarray]]]) -> dict[str, dict[str, np.ndarray]]:
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
