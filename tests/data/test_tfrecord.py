"""TFRecord files: sums, and protocol buffers written by others."""

import numpy as np
import pytest

from hf_vpdd.data.tfrecord import crc32c, find_records, read_record, read_tensors
from hf_vpdd.errors import InputError

from .robot_folders import example, record


def test_the_sum_is_castagnolis():
    # RFC 3720, B.4, and the check value of the CRC catalogue
    assert crc32c(b"123456789") == 0xE3069283 and crc32c(b"") == 0
    assert crc32c(bytes(32)) == 0x8A9136AA and crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E


@pytest.mark.parametrize("length", [64**2 - 1, 65**2, 65**2 + 77, 40_001])
def test_side_by_side_and_byte_by_byte_are_the_same(length):
    data = np.random.default_rng(0).integers(0, 256, length, np.uint8).tobytes()
    state = 0xFFFFFFFF
    for byte in data:
        state ^= byte
        for _ in range(8):
            state = state >> 1 ^ (0x82F63B78 if state & 1 else 0)
    assert crc32c(data) == state ^ 0xFFFFFFFF


def test_records_that_tensorboard_wrote(tmp_path):
    """Its event files are TFRecords."""
    writer = pytest.importorskip("tensorboard.summary.writer.event_file_writer")
    from tensorboard.compat.proto.event_pb2 import Event

    events = writer.EventFileWriter(str(tmp_path))
    for step in range(3):
        events.add_event(Event(step=step, wall_time=1.0))
    events.close()
    path = next(tmp_path.iterdir())
    found = [Event.FromString(read_record(path, *place)) for place in find_records(path)]
    assert [event.step for event in found if not event.file_version] == [0, 1, 2]


def test_tensors_that_tensorboards_protocol_buffers_wrote():
    protos = pytest.importorskip("tensorboard.compat.proto.tensor_pb2")
    from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto

    value = np.arange(12, dtype=np.float32).reshape(3, 4)
    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=size) for size in value.shape])
    theirs = protos.TensorProto(dtype=1, tensor_shape=shape, tensor_content=value.tobytes()).SerializeToString()
    assert theirs in example({"a": value})  # what the tests write is what they write
    assert np.array_equal(read_tensors(example({"a": value}), "here")["a"], value)


def test_every_flipped_bit_is_noticed(tmp_path):
    data = record(example({"a": np.arange(4, dtype=np.uint8)}))
    for bit in range(8 * len(data)):
        broken = bytearray(data)
        broken[bit // 8] ^= 1 << bit % 8
        path = tmp_path / "out.tfrecord"
        path.write_bytes(broken)
        with pytest.raises(InputError, match="out.tfrecord"):
            for place in find_records(path):
                read_record(path, *place)


@pytest.mark.parametrize("data", [b"\x0a\x05ab", b"\xff" * 12, b"\x0a\x04\x0a\x02\x0a\x00", b"text, no message"])
def test_bytes_that_are_no_example(data):
    with pytest.raises(InputError, match="here: not an example of serialized tensors"):
        read_tensors(data, "here")


def test_other_values_than_tensors_are_named():
    with pytest.raises(InputError, match="here: steps: expected one serialized tensor"):
        read_tensors(b"\x0a\x0f\x0a\x0d\x0a\x05steps\x12\x04\x1a\x02\x08\x01", "here")  # an int64_list
