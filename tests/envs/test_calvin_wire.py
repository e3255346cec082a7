"""Frames between the two Pythons."""

import ast
import json
import socket
import struct
import threading
import time

import numpy as np
import pytest

from hf_vpdd.envs import calvin_process
from hf_vpdd.envs import calvin_wire as wire


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    yield ours, theirs
    ours.close()
    theirs.close()


def soon(seconds=5.0):
    return time.monotonic() + seconds


def raw(header, body=b"", magic=wire.MAGIC, sizes=None):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return wire.PREFIX.pack(magic, *(sizes or (len(header), len(body)))) + header + body


def test_what_goes_in_comes_out(pair):
    arrays = {
        "picture": np.arange(200 * 200 * 3).astype(np.uint8).reshape(200, 200, 3),
        "state": np.array([np.nan, -0.0, 1e-300]),
        "nothing": np.zeros((0, 7), np.float32),
        "number": np.int64(7),
        "turned": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    }
    sender = threading.Thread(target=wire.send, args=(pair[0], {"do": "größer", "n": [1, None]}, arrays, soon()))
    sender.start()  # the frame is larger than a socket's buffer
    message, found = wire.receive(pair[1], soon())
    sender.join()
    assert message == {"do": "größer", "n": [1, None]}
    for name, array in arrays.items():
        assert found[name].dtype == np.asarray(array).dtype
        np.testing.assert_array_equal(found[name], array)
    found["state"][0] = 1.0  # a copy that may be written to


def test_frames_follow_each_other(pair):
    wire.send(pair[0], {"n": 1}, {"a": np.ones(3)})
    wire.send(pair[0], {"n": 2})
    assert wire.receive(pair[1], soon())[0] == {"n": 1}
    assert wire.receive(pair[1], soon()) == ({"n": 2}, {})


def test_what_cannot_be_sent_is_not_sent(pair):
    for message, arrays in (
        ({"x": float("nan")}, {}),
        ({"x": object()}, {}),
        ({}, {"objects": np.array([object()])}),
        ({}, {"text": np.array(["a"])}),
        ({}, {"big": np.zeros(wire.MAX_BODY + 1, np.uint8)}),
        ({"x": "a" * wire.MAX_HEADER}, {}),
    ):
        with pytest.raises(wire.WireError):
            wire.send(pair[0], message, arrays)
    wire.send(pair[0], {"n": 1})
    assert wire.receive(pair[1], soon())[0] == {"n": 1}


@pytest.mark.parametrize(
    "frame",
    [
        raw({"arrays": []}, magic=b"HTTP"),
        raw(b"", sizes=(wire.MAX_HEADER + 1, 0)),
        raw(b"", sizes=(2, wire.MAX_BODY + 1)),
        raw(b"{}"),
        raw(b"[1]"),
        raw(b"\xff\xfe"),
        raw({"arrays": 3}),
        raw({"arrays": [["a", "object", [1]]]}, bytes(8)),
        raw({"arrays": [["a", "uint8", [-1]]]}, bytes(8)),
        raw({"arrays": [["a", "uint8", [True]]]}, bytes(1)),
        raw({"arrays": [["a", "uint8", 4]]}, bytes(4)),
        raw({"arrays": [["a", "uint8", [9]]]}, bytes(8)),  # larger than the frame
        raw({"arrays": [["a", "uint8", [7]]]}, bytes(8)),  # smaller
        raw({"arrays": [["a", "uint8"]]}, bytes(8)),
    ],
)
def test_what_is_no_frame_is_refused(pair, frame):
    pair[0].sendall(frame)
    with pytest.raises(wire.WireError):
        wire.receive(pair[1], soon())


def test_a_deadline_passes_even_when_bytes_trickle(pair):
    stop = threading.Event()

    def trickle():
        for byte in raw({"arrays": []}):
            if stop.wait(0.05):
                return
            pair[0].send(bytes([byte]))

    thread = threading.Thread(target=trickle)
    thread.start()
    with pytest.raises(TimeoutError):
        wire.receive(pair[1], soon(0.2))
    stop.set()
    thread.join()
    with pytest.raises(TimeoutError):  # nobody reads: the buffer is full at some time
        wire.send(pair[0], {}, {"a": np.zeros(30 << 20, np.uint8)}, soon(0.2))


def test_the_other_side_is_gone(pair):
    pair[0].sendall(raw({"arrays": []})[:9])
    pair[0].close()
    with pytest.raises(wire.Closed):
        wire.receive(pair[1], soon())
    with pytest.raises(wire.Closed):
        for _ in range(3):
            wire.send(pair[1], {})


def test_the_prefix_is_what_the_docstring_says():
    assert wire.PREFIX.size == 16 and struct.calcsize(">4sIQ") == 16


@pytest.mark.parametrize("name", ["calvin_server.py", "calvin_wire.py"])
def test_the_other_side_can_read_its_files(name):
    """CALVIN's own environment is Python 3.8 and lacks this package, torch and whatever else is not in the list."""
    text = calvin_process.SERVER.with_name(name).read_text(encoding="utf-8")
    tree = ast.parse(text, feature_version=(3, 8))
    modules = {
        alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }
    froms = {(node.level, node.module.split(".")[0]) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert all(level == 0 for level, _ in froms)
    known = {"__future__", "calvin_env", "hydra", "importlib", "json", "math", "numpy", "omegaconf", "os", "pathlib"}
    known |= {"pybullet", "socket", "struct", "sys", "threading", "time", "traceback"}
    assert modules | {module for _, module in froms} <= known
