"""A disk that is full: said before training where it can be known, and in words when it happens."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import InputError


_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def free_bytes(folder: str | os.PathLike) -> int:
    """Of the disk that `folder` lies on, or will lie on."""
    folder = Path(folder).absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def require_space(folder: str | os.PathLike, needed: int, what: str) -> None:
    """Raises an InputError that names the folder, and needed and free bytes, if there is too little room."""
    free = free_bytes(folder)
    if free < needed:
        raise InputError(f"{folder}: {what} takes about {_size(needed)}, {_size(free)} are free: {_ADVICE}")


def require_writable(folder: str | os.PathLike, option: str = "output_dir") -> None:
    """Try to write a file where `folder` is or will be; leaves nothing behind.

    Raises:
        InputError: a file lies in the way, no permission, a read-only disk, or a full one.
    """
    place = Path(folder).absolute()
    while not place.exists() and not place.is_symlink():
        place = place.parent
    if not place.is_dir():
        raise InputError(f"{option} {folder}: {place} is a file, not a folder: give another --{option}")
    probe = place / f".write-test-{os.getpid()}"
    try:
        with full_disk_named(place, 1):
            probe.write_bytes(b"x")
    except OSError as error:
        raise InputError(
            f"{option} {folder} cannot be written to ({error.strerror} in {place}): give another --{option}"
        ) from error
    finally:
        try:
            probe.unlink(missing_ok=True)
        except OSError:
            pass


@contextmanager
def full_disk_named(folder: str | os.PathLike, needed: int) -> Iterator[None]:
    """Turns whatever a writer raises when the disk is full into an InputError. Writers in C++ hide the reason, so the
    disk itself is asked, too.

    Args:
        needed: Bytes that the block writes, about.
    """
    before = free_bytes(folder)
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        free = free_bytes(folder)
        if not _says_full(error) and (isinstance(error, OSError) or min(before, free) >= needed):
            raise
        raise InputError(
            f"{folder}: the disk is full. About {_size(needed)} were to be written, {_size(free)} are free now: "
            f"{_ADVICE}. What was there before is untouched ({type(error).__name__}: {error})"
        ) from error


_ADVICE = "make room, lower train.keep_last, or give another --output_dir"


def _says_full(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        if any(word in str(error) for word in ("No space left", "Disk quota exceeded", "File too large")):
            return True
        error = error.__cause__ or error.__context__
    return False


def _size(number: int) -> str:
    return f"{number:,} bytes ({number / 1e6:,.1f} MB)"
