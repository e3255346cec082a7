"""Something made of every frame once by a network and memory-mapped: video codes, image features.

A cache is a folder of its own with the array and a JSON file that says what made it. It is refused where that differs,
since wrong numbers look just like right ones. Killed half-way, the next call goes on where it stopped.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ..errors import InputError
from ..files import atomic_write_text


@dataclass(frozen=True)
class CacheKind:
    """How caches of one kind are named: array file, description file, and the words of messages."""

    array: str
    about: str
    what: str
    doing: str


def cached_rows(
    place: Path,
    kind: CacheKind,
    identity: dict[str, Any],
    shape: tuple[int, ...],
    dtype: Any,
    make: Callable[[np.ndarray], np.ndarray],
    batch_size: int,
    progress: bool,
) -> np.ndarray:
    """The rows (N, ...) of a cache, made where they are not there yet; memory-mapped, read only.

    Args:
        place: The cache's folder.
        identity: What has to agree with the description there: JSON values. shape: (N, ...), of all rows.
        make: int64 (b,) row numbers, rising by one -> their rows (b, ...), checked by the caller.

    Raises:
        InputError: The folder holds rows made by something else, or is damaged.
    """
    array_path, about_path = place / kind.array, place / kind.about
    if _count_done(array_path, about_path, identity, kind) < shape[0]:
        from huggingface_hub.utils import WeakFileLock

        place.mkdir(parents=True, exist_ok=True)
        # Two runs that begin at once would each empty the other's file, and one would vouch for rows that are gone.
        with WeakFileLock(place / ".lock"):
            done = _count_done(array_path, about_path, identity, kind)
            if done == 0:
                np.lib.format.open_memmap(array_path, "w+", dtype, shape).flush()
                atomic_write_text(about_path, json.dumps(identity | {"done": 0}))
            if done < shape[0]:
                _fill(array_path, about_path, identity, kind, make, done, shape[0], batch_size, progress)
    rows = np.load(array_path, mmap_mode="r")
    if rows.shape != shape or rows.dtype != dtype:
        raise InputError(
            f"{array_path} is {rows.dtype} {rows.shape}, expected {np.dtype(dtype)} {shape}; remove {place}"
        )
    return rows


def _fill(array_path, about_path, identity, kind, make, done, total, batch_size, progress) -> None:
    rows = np.load(array_path, mmap_mode="r+")
    hide = None if progress else True
    with tqdm(total=total, initial=done, unit="frame", desc=kind.doing, disable=hide) as bar:
        saved = done
        while done < total:
            indices = np.arange(done, min(done + batch_size, total))
            rows[indices[0] : indices[-1] + 1] = make(indices)
            done = int(indices[-1]) + 1
            bar.update(len(indices))
            if done - saved >= 32 * batch_size or done == total:
                rows.flush()  # the rows first, then the count that vouches for them
                atomic_write_text(about_path, json.dumps(identity | {"done": done}))
                saved = done


def _count_done(array_path: Path, about_path: Path, identity: dict, kind: CacheKind) -> int:
    """How many rows are there already."""
    if not about_path.is_file():
        return 0
    about = _read_about(about_path, kind)
    for name, wanted in identity.items():
        if about.get(name) != wanted:
            raise InputError(
                f"the {kind.what} in {about_path.parent} were made with {name} {about.get(name)!r}, needed is "
                f"{wanted!r}; remove that folder or name another cache_dir"
            )
    return about["done"] if array_path.is_file() else 0


def _read_about(path: Path, kind: CacheKind) -> dict:
    try:
        about = json.loads(path.read_text())
        if isinstance(about, dict) and isinstance(about.get("done"), int):
            return about
    except (json.JSONDecodeError, UnicodeDecodeError):
        pass
    raise InputError(f"{path} is not a description of {kind.what}; remove {path.parent}")
