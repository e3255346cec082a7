"""Python objects in other people's files, read without running anything they contain.

A pickle is a program: it may name any function and have it called. Here it may name nothing but the few functions of
numpy that arrays are put together with, and whatever else a reader allows; any other name is refused before it is
looked up. Dictionaries, lists, tuples, strings and numbers need no names.
"""

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy._core.multiarray import _reconstruct, scalar

from ..errors import InputError


# Written in C or immutable, all of them: a pickle that gets hold of one cannot change it.
_ALLOWED: dict[tuple[str, str], Any] = {("numpy", "ndarray"): np.ndarray, ("numpy", "dtype"): np.dtype}
for _module in ("numpy.core.multiarray", "numpy._core.multiarray"):  # as numpy 1 and numpy 2 write it
    _ALLOWED |= {(_module, "_reconstruct"): _reconstruct, (_module, "scalar"): scalar}


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO, path: Path, more: Mapping[tuple[str, str], Any]):
        super().__init__(file)
        self._path, self._names = path, {**_ALLOWED, **more}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self._names:
            return self._names[module, name]
        raise InputError(
            f"{self._path} asks for {module}.{name}: loading it would run code that is not its data, so it was "
            "refused; expected are arrays, dictionaries, lists, strings and numbers alone"
        )


def read_pickle(file: BinaryIO, path: str | os.PathLike, more: Mapping[tuple[str, str], Any] | None = None) -> Any:
    """The object in an open file, from where it stands.

    Args:
        path: For messages.
        more: Further names that may occur, (module, name) -> what to take for it (a class that holds data).

    Raises:
        InputError: The pickle is damaged, or it names anything that is not allowed.
    """
    try:
        return _Unpickler(file, Path(path), more or {}).load()
    except InputError:
        raise
    except Exception as error:  # a damaged pickle fails in as many ways as there are bytes
        raise InputError(
            f"{path} cannot be read (cut short or damaged): {type(error).__name__}: {error}; copy it again"
        ) from error


def read_object_npy(path: str | os.PathLike) -> Any:
    """The Python object that `np.save` wrote, which it does as a pickle behind an array header.

    Raises:
        InputError: The file is missing, damaged, holds an array of numbers, or needs code to be loaded.
    """
    return _read_objects(Path(path), 0, "one Python object (np.save of a dictionary)").item()


def read_object_list_npy(path: str | os.PathLike) -> list:
    """The list of Python objects that `np.save` wrote.

    Raises:
        InputError: As `read_object_npy`.
    """
    return list(_read_objects(Path(path), 1, "a list of Python objects (np.save of dictionaries)"))


def _read_objects(path: Path, ndim: int, expected: str) -> np.ndarray:
    """The array of objects in an npy file."""
    if not path.is_file():
        raise InputError(f"{path} is missing")
    with open(path, "rb") as file:
        try:
            major, _ = np.lib.format.read_magic(file)
            read_header = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
            shape, _, dtype = read_header(file)
        except Exception as error:  # see above
            raise InputError(f"{path} is not a file of np.save (cut short or damaged): {error}") from error
        if dtype.kind != "O" or len(shape) != ndim:
            raise InputError(f"{path} holds an array of {dtype} {shape}; expected is {expected}")
        value = read_pickle(file, path)
    if not isinstance(value, np.ndarray) or value.shape != shape or value.dtype.kind != "O":
        raise InputError(f"{path} is damaged: expected an array of objects {shape}, found a {type(value).__name__}")
    return value
