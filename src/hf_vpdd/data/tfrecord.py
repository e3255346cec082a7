"""TFRecord files with `tf.train.Example`s, read without TensorFlow: sums checked, nothing run.

A file is a row of records: length (8 bytes), its checksum (4), the bytes, their checksum (4). The bytes are protocol
buffers; of those only what examples and serialized tensors need is understood.
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError


_LENGTH = struct.Struct("<Q")
_SUM = struct.Struct("<I")
# The numbers that TensorProto gives to types.
_TYPES = {1: "<f4", 2: "<f8", 3: "<i4", 4: "u1", 5: "<i2", 6: "i1", 9: "<i8", 10: "?"}


def find_records(path: str | os.PathLike) -> list[tuple[int, int]]:
    """(place, length) of the bytes of each record; the bytes themselves are not read.

    Raises:
        InputError: The file is missing, cut short, or no TFRecord.
    """
    path, found, place = Path(path), [], 0
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            while place < size:
                file.seek(place)
                head = file.read(12)
                if len(head) < 12 or _masked(crc32c(head[:8])) != _SUM.unpack(head[8:])[0]:
                    raise InputError(
                        f"{path}: record {len(found)}, byte {place}: no length that its checksum confirms (cut short, "
                        "damaged, or no TFRecord); copy the file again"
                    )
                length = _LENGTH.unpack(head[:8])[0]
                if place + 16 + length > size:
                    raise InputError(
                        f"{path}: record {len(found)} is cut short: expected {length} bytes, found "
                        f"{max(size - place - 16, 0)}; copy the file again"
                    )
                found.append((place + 12, length))
                place += 16 + length
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    return found


def read_record(path: str | os.PathLike, place: int, length: int) -> bytes:
    """The bytes of a record that `find_records` found.

    Raises:
        InputError: They do not agree with their checksum.
    """
    try:
        with open(path, "rb") as file:
            file.seek(place)
            data, tail = file.read(length), file.read(4)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) != length or len(tail) != 4 or _masked(crc32c(data)) != _SUM.unpack(tail)[0]:
        raise InputError(f"{path}: the record at byte {place} is damaged (its checksum is another); copy it again")
    return data


def read_tensors(data: bytes, where: str) -> dict[str, np.ndarray]:
    """The features of an example that hold one serialized tensor each (`tf.io.serialize_tensor`), as arrays.

    Args:
        where: For messages: the file and the record.

    Raises:
        InputError: No such example, or a feature that holds something else.
    """
    try:
        tensors = {}
        for features in _several(data, 1):
            for entry in _several(features, 1):
                parts = dict(_fields(entry))
                name = bytes(parts[1]).decode()
                lists = dict(_fields(parts[2]))
                values = _several(lists[1], 1) if 1 in lists else []
                if len(values) != 1:
                    raise InputError(f"{where}: {name}: expected one serialized tensor, found a list of other values")
                tensors[name] = _tensor(values[0])
        return tensors
    except InputError:
        raise
    except (KeyError, ValueError, IndexError, TypeError, struct.error) as error:
        raise InputError(f"{where}: not an example of serialized tensors: {error!r}") from error


def _tensor(data: memoryview) -> np.ndarray:
    parts = dict(_fields(data))
    shape = [dict(_fields(dim)).get(1, 0) for dim in _several(parts.get(2, b""), 2)]
    dtype = np.dtype(_TYPES[parts[1]])
    return np.frombuffer(parts.get(4, b""), dtype).reshape(shape)


def _several(data: Any, number: int) -> list[memoryview]:
    return [value for found, value in _fields(data) if found == number and not isinstance(value, int)]


def _fields(data: Any) -> Iterator[tuple[int, Any]]:
    """(number, value) of each field of a message: whole numbers, or the bytes of anything else."""
    data, place = memoryview(data), 0

    def varint() -> int:
        nonlocal place
        value = shift = 0
        while shift < 70:
            byte = data[place]
            place += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
        raise ValueError("a number of more than 10 bytes")

    while place < len(data):
        key = varint()
        kind = key & 7
        if kind == 0:
            yield key >> 3, varint()
            continue
        length = {1: 8, 2: None, 5: 4}[kind]
        length = varint() if length is None else length
        if place + length > len(data):
            raise ValueError("a field that goes beyond the end")
        yield key >> 3, data[place : place + length]
        place += length


# -- checksums -------------------------------------------------------------------------------------------------------


def _make_table() -> np.ndarray:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = (table >> 1) ^ np.where(table & 1, np.uint32(0x82F63B78), np.uint32(0))
    return table


_TABLE = _make_table()


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli). Python goes byte by byte; here as many pieces as they are long go side by side."""
    array = np.frombuffer(data, np.uint8)
    size = int(len(array) ** 0.5)
    lanes = len(array) // size if size > 64 else 0
    state = 0xFFFFFFFF
    if lanes:
        pieces = _step(np.zeros(lanes, np.uint32), array[: lanes * size].reshape(lanes, size).T)
        # What so many zero bytes make of each single bit: the sum is linear in its beginning.
        moved = _step(np.uint32(1) << np.arange(32, dtype=np.uint32), np.zeros((size, 1), np.uint8)).tolist()
        for piece in pieces.tolist():
            for bit in range(32):
                piece ^= moved[bit] if state >> bit & 1 else 0
            state = piece
    table = _TABLE.tolist()
    for byte in array[lanes * size :].tolist():
        state = table[(state ^ byte) & 255] ^ (state >> 8)
    return state ^ 0xFFFFFFFF


def _step(states: np.ndarray, rows: np.ndarray) -> np.ndarray:
    for row in rows:
        states = _TABLE[(states ^ row) & 255] ^ (states >> 8)
    return states


def _masked(value: int) -> int:
    """As TFRecord keeps it, so that sums of sums are not weak."""
    return ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF
