"""Frames between this package and the process that runs CALVIN: a JSON header, then the bytes of its arrays.

    send(connection, {"do": "step"}, {"action": action}, deadline=time.monotonic() + 60)
    header, arrays = receive(connection, deadline=time.monotonic() + 60)

A frame is `magic, length of the header, length of the body` (4 + 4 + 8 bytes, big endian), the header as UTF-8 JSON
and the body. The header's "arrays" lists [name, dtype, shape] in the order of the body; everything else in it is the
message. Nothing is pickled, and nothing larger than the limits below is believed.

This file runs in both processes, so also in the environment that CALVIN wants: Python 3.8 or newer, NumPy, and no
import from this package.
"""

from __future__ import annotations

import json
import math
import struct
import time

import numpy as np


MAGIC = b"CLV1"
PREFIX = struct.Struct(">4sIQ")
MAX_HEADER = 1 << 20
MAX_BODY = 64 << 20
DTYPES = ("bool", "float32", "float64", "int64", "uint8")


class WireError(Exception):
    """The other side said something that is no frame, or one beyond the limits; the connection cannot go on."""


class Closed(WireError):
    """The other side is gone."""


def pack(message: dict, arrays: dict | None = None) -> bytes:
    """One frame.

    Args:
        message: JSON values under string keys, without "arrays" among them.
        arrays: Arrays of `DTYPES` by name.

    Raises:
        WireError: An array of another type, a NaN in the message, or more than the limits allow.
    """
    listed, body = [], []
    for name, array in (arrays or {}).items():
        array = np.asarray(array)
        if array.dtype.name not in DTYPES:
            raise WireError(f"the array '{name}' is {array.dtype}; frames carry {', '.join(DTYPES)}")
        listed.append([name, array.dtype.name, list(array.shape)])
        body.append(array.tobytes())
    try:
        header = json.dumps({**message, "arrays": listed}, allow_nan=False).encode("utf-8")
    except (TypeError, ValueError) as error:
        raise WireError(f"the message cannot be written as JSON: {error}") from None
    size = sum(map(len, body))
    _check_sizes(len(header), size)
    return b"".join([PREFIX.pack(MAGIC, len(header), size), header, *body])


def send(connection, message: dict, arrays: dict | None = None, deadline: float | None = None) -> None:
    """Sends one frame over a connected socket.

    Args:
        deadline: Of `time.monotonic`; None waits for ever.

    Raises:
        Closed: The other side is gone.
        TimeoutError: The deadline passed.
        WireError: See `pack`; nothing was sent.
    """
    view = memoryview(pack(message, arrays))
    try:
        while view:
            connection.settimeout(_remaining(deadline))
            view = view[connection.send(view) :]
    except OSError as error:
        raise _explained(error, deadline) from None


def receive(connection, deadline: float | None = None) -> tuple[dict, dict]:
    """The next frame: (message, arrays); the arrays are copies that may be written to.

    Raises:
        Closed: The other side is gone.
        TimeoutError: The deadline passed.
        WireError: What came is no frame of ours, or one beyond the limits.
    """
    magic, header_size, body_size = PREFIX.unpack(_read(connection, PREFIX.size, deadline))
    if magic != MAGIC:
        raise WireError(f"a frame begins with {MAGIC!r}, but this one with {bytes(magic)!r}")
    _check_sizes(header_size, body_size)
    try:
        message = json.loads(_read(connection, header_size, deadline).decode("utf-8"))
        listed = message.pop("arrays")
    except (ValueError, KeyError, AttributeError, TypeError):
        raise WireError("the header of a frame is no JSON object with 'arrays'") from None
    return message, _arrays(listed, _read(connection, body_size, deadline))


def _arrays(listed, body: bytearray) -> dict:
    found, start = {}, 0
    try:
        for name, dtype, shape in listed:
            if dtype not in DTYPES or not all(type(size) is int and size >= 0 for size in shape):
                raise WireError(f"the array {name!r} claims to be {dtype!r} of the shape {shape!r}")
            count = math.prod(shape)
            end = start + count * np.dtype(dtype).itemsize
            if end > len(body):
                raise WireError(f"the array {name!r} of the shape {shape!r} is larger than its frame")
            found[str(name)] = np.frombuffer(body, dtype, count, start).reshape(shape)
            start = end
    except (TypeError, ValueError):
        raise WireError("the list of arrays in a frame's header makes no sense") from None
    if start != len(body):
        raise WireError(f"a frame carries {len(body)} bytes, but its arrays fill {start}")
    return found


def _check_sizes(header: int, body: int) -> None:
    if header > MAX_HEADER or body > MAX_BODY:
        raise WireError(
            f"a frame of {header} + {body} bytes is larger than the {MAX_HEADER} + {MAX_BODY} that are allowed"
        )


def _read(connection, size: int, deadline: float | None) -> bytearray:
    data = bytearray(size)
    view, got = memoryview(data), 0
    try:
        while got < size:
            connection.settimeout(_remaining(deadline))
            count = connection.recv_into(view[got:])
            if count == 0:
                raise Closed("the other side closed the connection")
            got += count
    except OSError as error:
        raise _explained(error, deadline) from None
    return data


def _remaining(deadline: float | None) -> float | None:
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("the deadline passed")
    return left


def _explained(error: OSError, deadline: float | None) -> Exception:
    # `socket.timeout` became TimeoutError in Python 3.10; this runs in older ones too.
    if isinstance(error, TimeoutError) or "timed out" in str(error):
        return TimeoutError("the deadline passed")
    return Closed(f"the connection broke: {error}")
