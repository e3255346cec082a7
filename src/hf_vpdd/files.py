"""Files that are either whole or absent.

Every result of this package is written to a hidden sibling first and renamed into place when complete, so that a run
that is killed half-way leaves nothing under the final name that a later run would trust.
"""

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a path beside `path` to write to; renames it to `path` when the block ends without an error.

    The temporary name keeps the suffix (`.mp4`, `.npz`: many writers choose their format by it) and lies in the same
    folder, so that the final `os.replace` is atomic. The block may create a file or a folder there. A folder only
    takes the place of an empty or absent one: `os.replace` cannot swap full folders, and silently deleting one would
    be worse.

    Args:
        path: Where the finished file or folder is to be. Missing parent folders are created.

    Raises:
        FileNotFoundError: The block ended without having written anything to the path it was given.
        OSError: `path` is a folder that is not empty, or the disk refused.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Process id and random part: several workers may write into one folder, even the same name.
    temporary = path.with_name(f".{path.stem}.{os.getpid()}-{secrets.token_hex(4)}.tmp{path.suffix}")
    try:
        yield temporary
        if not temporary.exists():
            raise FileNotFoundError(f"nothing was written to {temporary} (meant to become {path})")
        _flush_to_disk(temporary)
        os.replace(temporary, path)
    finally:  # also after Ctrl-C; after a kill the leftover is hidden and never trusted
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def atomic_write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Writes `data` to `path`, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def atomic_write_text(path: str | os.PathLike, text: str) -> None:
    """Writes `text` to `path` as UTF-8 with the line ends it has, whole or not at all."""
    atomic_write_bytes(path, text.encode("utf-8"))


def file_sha256(path: str | os.PathLike) -> str:
    """The SHA-256 of a file's bytes as 64 hexadecimal digits, read in pieces of 1 MiB."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _flush_to_disk(path: Path) -> None:
    """Without this a power cut may leave a renamed but empty file. Folders flush their own files, if they care."""
    if path.is_file():
        descriptor = os.open(path, os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
