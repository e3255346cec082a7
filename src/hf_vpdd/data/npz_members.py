"""Single arrays of npz files, checked before they are believed.

An npz file is a zip archive with one npy file for each array, so one array can be read without the others. numpy's
own reader takes whatever size and type a (damaged) file claims; here the reader says what it expects.
"""

import os
import zipfile
from collections.abc import Mapping
from io import BytesIO
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from ..errors import InputError


_HEADER_BYTES = 16_384  # far more than a header needs
_KINDS = {"f": "floating-point numbers", "u1": "uint8", "i": "whole numbers"}


class Wanted(NamedTuple):
    """What an array must be: its shape, and "f" (floats of any precision), "i" (integers) or "u1" (bytes)."""

    shape: tuple[int, ...]
    kind: str

    def fits(self, shape: tuple[int, ...], dtype: np.dtype) -> bool:
        if tuple(shape) != self.shape:
            return False
        return dtype == np.uint8 if self.kind == "u1" else dtype.kind == self.kind

    def __str__(self) -> str:
        return f"{_KINDS[self.kind]} {self.shape}"


def read_members(path: str | os.PathLike, wanted: Mapping[str, Wanted]) -> dict[str, np.ndarray]:
    """Some arrays of a file; the others are not touched.

    Raises:
        InputError: File or array missing or damaged, another shape or type than wanted. Names file, key, both sides.
    """
    found = {}
    with _opened(path) as archive:
        for key, expected in wanted.items():
            info = _member(archive, path, key)
            itemsize = 1 if expected.kind == "u1" else 16
            if info.file_size > _HEADER_BYTES + itemsize * int(np.prod(expected.shape)):
                shape, dtype = _header_of(archive, path, key)
                raise _another(path, key, expected, shape, dtype)
            data = _all_of(archive, path, key)
            stream = BytesIO(data)
            shape, fortran, dtype = _parse(stream, path, key)
            if not expected.fits(shape, dtype):
                raise _another(path, key, expected, shape, dtype)
            size = int(np.prod(shape)) * dtype.itemsize
            if len(data) - stream.tell() != size:
                raise InputError(
                    f"{path}: key {key!r} is damaged: expected {size} bytes of {dtype} {shape}, found "
                    f"{len(data) - stream.tell()}; copy the file again"
                )
            flat = np.frombuffer(data, dtype, offset=stream.tell())
            found[key] = flat.reshape(shape, order="F" if fortran else "C")
    return found


def list_members(path: str | os.PathLike) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """(shape, dtype) of each array of a file, from their headers alone.

    Raises:
        InputError: The file is missing or damaged.
    """
    with _opened(path) as archive:
        keys = _keys(archive)
        return {key: _header_of(archive, path, key) for key in keys}


def _keys(archive: zipfile.ZipFile) -> list[str]:
    return sorted(name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy"))


def _opened(path: str | os.PathLike) -> zipfile.ZipFile:
    if not os.path.isfile(path):
        raise InputError(f"{path} is missing")
    try:
        return zipfile.ZipFile(path)
    except Exception as error:  # a damaged archive fails in as many ways as there are bytes
        raise _damaged(path, None, error) from error


def _member(archive: zipfile.ZipFile, path, key: str) -> zipfile.ZipInfo:
    try:
        return archive.getinfo(f"{key}.npy")
    except KeyError:
        raise InputError(f"{path}: key {key!r} is missing; its keys are {', '.join(_keys(archive))}") from None


def _all_of(archive: zipfile.ZipFile, path, key: str) -> bytes:
    try:
        return archive.read(f"{key}.npy")  # with its checksum
    except Exception as error:
        raise _damaged(path, key, error) from error


def _header_of(archive: zipfile.ZipFile, path, key: str) -> tuple[tuple[int, ...], np.dtype]:
    try:
        with archive.open(f"{key}.npy") as stream:
            start = BytesIO(stream.read(_HEADER_BYTES))
    except Exception as error:
        raise _damaged(path, key, error) from error
    shape, _, dtype = _parse(start, path, key)
    return shape, dtype


def _parse(stream: BinaryIO, path, key: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    try:
        major, _ = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
        return read(stream)
    except Exception as error:
        raise _damaged(path, key, error) from error


def _another(path, key: str, expected: Wanted, shape: tuple[int, ...], dtype: Any) -> InputError:
    return InputError(f"{path}: key {key!r} has another form: expected {expected}, found {dtype} {tuple(shape)}")


def _damaged(path, key: str | None, error: Exception) -> InputError:
    where = "" if key is None else f": key {key!r}"
    return InputError(
        f"{path}{where} cannot be read: expected an npz archive, found one cut short or damaged "
        f"({type(error).__name__}: {error}); copy the file again"
    )
