"""Captions beside videos, one row a clip, as jsonl, json, csv, parquet or a plain list of paths."""

import csv
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import InputError


LIST_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet", ".txt")
# What people call the same thing; the first that a row has counts.
COLUMN_NAMES = {
    "file": ("file", "file_name", "video", "path", "video_path", "video_name", "directory", "id"),
    "text": ("text", "caption", "sentence", "instruction", "narration", "label"),
    "start": ("start", "start_sec", "start_time"),
    "end": ("end", "end_sec", "end_time"),
    "fps": ("fps", "frame_rate"),
}


@dataclass(frozen=True)
class Caption:
    """A row: the file as it is named there, its sentence ("" if none), the stretch of it in seconds (None: from its
    start, to its end), pictures per second of a folder of pictures. where: the row, for messages."""

    file: str
    text: str
    start: float | None
    end: float | None
    fps: float | None
    where: str


def read_captions(path: Path) -> list[Caption]:
    """All rows of a captions file.

    Raises:
        InputError: Unreadable, another format, a row without a file or with wrong types; names row and key.
    """
    suffix = path.suffix.lower()
    if suffix not in LIST_SUFFIXES:
        raise InputError(f"{path}: captions are read from {', '.join(LIST_SUFFIXES)}")
    if not path.is_file():
        raise InputError(f"{path} is missing")
    rows = _READERS[suffix](path)
    if not rows:
        raise InputError(f"{path} has no rows")
    return [caption_of(row, f"{path}: {where}") for where, row in rows]


def is_caption_row(row: Any) -> bool:
    """Whether a row names a file."""
    return isinstance(row, dict) and _get(row, "file") is not None


def caption_of(row: Any, where: str) -> Caption:
    """A row as a `Caption`; `InputError` for what is wrong with it."""
    if not isinstance(row, dict):
        raise InputError(f"{where}: expected an object with the keys file and text, found {_short(row)}")
    file, text = _get(row, "file"), _get(row, "text")
    if isinstance(file, int) and not isinstance(file, bool):
        file = str(file)  # an id
    if not isinstance(file, str) or not file:
        names, found = ", ".join(COLUMN_NAMES["file"]), _short(sorted(map(str, row)))
        raise InputError(f"{where}: no file: expected one of the keys {names}, found {found}")
    if text is not None and not isinstance(text, str):
        raise InputError(f"{where}: the text must be a sentence, found {_short(text)}")
    start, end, fps = (_number(row, name, where) for name in ("start", "end", "fps"))
    if (start is not None and start < 0) or (end is not None and end <= (start or 0)):
        raise InputError(f"{where}: start and end must be 0 <= start < end in seconds, found {start} and {end}")
    if fps is not None and fps <= 0:
        raise InputError(f"{where}: fps must be above 0, found {fps}")
    return Caption(file, (text or "").strip(), start, end, fps, where)


def _get(row: dict, name: str) -> Any:
    return next((row[key] for key in COLUMN_NAMES[name] if row.get(key) not in (None, "")), None)


def _number(row: dict, name: str, where: str) -> float | None:
    value = _get(row, name)
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number):
        raise InputError(f"{where}: {name} must be a number, found {_short(value)}")
    return number


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


# -- formats ---------------------------------------------------------------------------------------------------------


def read_text(path: Path) -> str:
    """A file as UTF-8 text.

    Raises:
        InputError: Missing, or not text.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as text (UTF-8): {error}") from error


def read_json(path: Path) -> Any:
    """A JSON file; `InputError` if it is none."""
    try:
        return json.loads(read_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON (cut short?): {error}") from error


def _json_lines(path: Path) -> list[tuple[str, Any]]:
    rows = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if line.strip():
            try:
                rows.append((f"line {number}", json.loads(line)))
            except (json.JSONDecodeError, RecursionError) as error:
                raise InputError(f"{path}: line {number} is not valid JSON: {error}") from error
    return rows


def _json_list(path: Path) -> list[tuple[str, Any]]:
    rows = read_json(path)
    if not isinstance(rows, list):
        raise InputError(f"{path}: expected a list of objects with the keys file and text, found {_short(rows)}")
    return [(f"entry {number}", row) for number, row in enumerate(rows)]


def _csv(path: Path) -> list[tuple[str, Any]]:
    try:
        reader = csv.DictReader(read_text(path).splitlines(), restkey="(more cells than columns)", strict=True)
        rows = [(f"line {reader.line_num}", row) for row in reader]
    except csv.Error as error:
        raise InputError(f"{path} is not valid CSV: {error}") from error
    for where, row in rows:
        if reader.restkey in row:
            raise InputError(f"{path}: {where} has more cells than the header has names; quote texts with commas")
    return rows


def _parquet(path: Path) -> list[tuple[str, Any]]:
    try:
        rows = pq.read_table(path, page_checksum_verification=True).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} cannot be read (cut short or not parquet): {error}") from error
    return [(f"row {number}", row) for number, row in enumerate(rows)]


def _lines(path: Path) -> list[tuple[str, Any]]:
    lines = read_text(path).splitlines()
    return [(f"line {n}", {"file": line.strip()}) for n, line in enumerate(lines, 1) if line.strip()]


_READERS: dict[str, Callable[[Path], list[tuple[str, Any]]]] = {
    ".jsonl": _json_lines, ".json": _json_list, ".csv": _csv, ".parquet": _parquet, ".txt": _lines,
}  # fmt: skip
