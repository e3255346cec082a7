"""Reading parameters of Flax networks, from msgpack or npz files, without running anything they contain.

`flax.serialization.to_bytes` writes MessagePack with one extension: arrays. Both formats hold data only, and both are
read here by code that can make nothing but numbers, text, lists, dictionaries and arrays.
"""

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError


_DTYPES = {
    **{name: name for name in ("float16", "float32", "float64", "bool")},
    **{f"{kind}{bits}": f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
}
_DEEPEST = 64  # nested dictionaries; networks have a dozen


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """All arrays of a file, by their names joined with "/".

    Raises:
        InputError: No such file, a pickle, damaged, or arrays of a kind that is not numbers.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist, or is a folder: name a .msgpack or .npz file")
    if path.suffix in (".pkl", ".pickle"):
        raise InputError(
            f"{path} is a pickle, which runs what it contains when it is read. Where it was made, save its parameters "
            "as data: open(FILE, 'wb').write(flax.serialization.to_bytes(params)), and convert that"
        )
    with open(path, "rb") as file:
        start = file.read(4)
    if start[:2] == b"PK":
        return _read_npz(path)
    try:
        tree, end = _decode(memoryview(path.read_bytes()), 0, 0)
    except (struct.error, IndexError, ValueError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path} is no MessagePack file of Flax, or is damaged: {error}") from error
    if end != path.stat().st_size or not isinstance(tree, dict):
        raise InputError(f"{path} is no MessagePack file of Flax: it holds no dictionary, or more than one")
    return dict(_flatten(tree, ""))


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:  # numpy and zipfile fail in many ways
        raise InputError(f"{path} is no npz file of plain arrays, or is damaged: {error}") from error


def _flatten(tree: Mapping, prefix: str) -> Iterator[tuple[str, np.ndarray]]:
    if "__msgpack_chunked_array__" in tree:  # arrays beyond 1 GiB come in pieces
        shape = [int(tree["shape"][str(i)]) for i in range(len(tree["shape"]))]
        pieces = [tree["chunks"][str(i)] for i in range(len(tree["chunks"]))]
        yield prefix.rstrip("/"), np.concatenate([piece.reshape(-1) for piece in pieces]).reshape(shape)
        return
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}/")
        elif isinstance(value, np.ndarray):
            yield f"{prefix}{name}", value


def _decode(data: memoryview, at: int, depth: int) -> tuple[Any, int]:
    """One MessagePack value that begins at byte `at`, and where the next one begins."""
    if depth > _DEEPEST:
        raise ValueError("it is nested too deeply")
    kind = data[at]
    at += 1
    if kind <= 0x7F:
        return kind, at
    if kind >= 0xE0:
        return kind - 256, at
    if kind <= 0x8F:
        return _map(data, at, kind & 0x0F, depth)
    if kind <= 0x9F:
        return _list(data, at, kind & 0x0F, depth)
    if kind <= 0xBF:
        return _text(data, at, kind & 0x1F)
    if kind in _CONSTANTS:
        return _CONSTANTS[kind], at
    if kind in _NUMBERS:
        form = _NUMBERS[kind]
        return struct.unpack_from(form, data, at)[0], at + struct.calcsize(form)
    if kind in _LENGTHS:
        form, read = _LENGTHS[kind]
        (length,) = struct.unpack_from(form, data, at)
        at += struct.calcsize(form)
        return read(data, at, length, depth) if read in (_map, _list) else read(data, at, length)
    if kind in _FIXED_EXTENSIONS:
        return _extension(data, at, _FIXED_EXTENSIONS[kind])
    raise ValueError(f"byte {at - 1} is {kind:#x}, which begins no value")


def _map(data: memoryview, at: int, length: int, depth: int) -> tuple[dict, int]:
    found = {}
    for _ in range(length):
        name, at = _decode(data, at, depth + 1)
        if not isinstance(name, (str, int)):
            raise ValueError(f"a name is a {type(name).__name__}")
        found[str(name)], at = _decode(data, at, depth + 1)
    return found, at


def _list(data: memoryview, at: int, length: int, depth: int) -> tuple[list, int]:
    found = []
    for _ in range(length):
        value, at = _decode(data, at, depth + 1)
        found.append(value)
    return found, at


def _bytes(data: memoryview, at: int, length: int) -> tuple[memoryview, int]:
    if at + length > len(data):
        raise ValueError(f"it ends {at + length - len(data)} bytes too early")
    return data[at : at + length], at + length


def _text(data: memoryview, at: int, length: int) -> tuple[str, int]:
    found, at = _bytes(data, at, length)
    return bytes(found).decode("utf-8"), at


def _extension(data: memoryview, at: int, length: int) -> tuple[Any, int]:
    """Flax: 1 an array, 3 a scalar (shape, name of the type, bytes); 2, a complex number, no network has."""
    code = data[at]
    content, at = _bytes(data, at + 1, length)
    if code not in (1, 3):
        raise ValueError(f"it holds an extension of type {code}, which is not an array of Flax")
    (shape, name, raw), _ = _decode(content, 0, 0)
    if name == "bfloat16":  # the upper half of a float32
        halves = np.frombuffer(raw, "<u2").astype(np.uint32) << 16
        return halves.view(np.float32).reshape(shape), at
    if name not in _DTYPES:
        raise ValueError(f"it holds an array of type {name!r}")
    return np.frombuffer(raw, np.dtype(_DTYPES[name]).newbyteorder("<")).reshape(shape), at


_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}
_NUMBERS = {
    0xCA: ">f", 0xCB: ">d", 0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q", 0xD0: ">b", 0xD1: ">h", 0xD2: ">i",
    0xD3: ">q",
}  # fmt: skip
_LENGTHS = {
    0xC4: (">B", _bytes), 0xC5: (">H", _bytes), 0xC6: (">I", _bytes), 0xC7: (">B", _extension),
    0xC8: (">H", _extension), 0xC9: (">I", _extension), 0xD9: (">B", _text), 0xDA: (">H", _text),
    0xDB: (">I", _text), 0xDC: (">H", _list), 0xDD: (">I", _list), 0xDE: (">H", _map), 0xDF: (">I", _map),
}  # fmt: skip
_FIXED_EXTENSIONS = {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}
