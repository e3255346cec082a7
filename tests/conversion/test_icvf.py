"""`--from icvf`: Flax files are read as data, sizes off the shapes, values equal."""

import pickle
import struct

import numpy as np
import pytest
import torch

from hf_vpdd import VPTRForValuePrediction, VPTRProcessor
from hf_vpdd.cli import main
from hf_vpdd.conversion.flax_files import read_arrays
from hf_vpdd.conversion.icvf import convert_icvf_file
from hf_vpdd.errors import InputError
from tests.modeling.vptr_goldens import load, observation, tensors


def pack(value) -> bytes:
    """MessagePack with Flax's arrays; long forms on purpose here and there."""
    if value is None or isinstance(value, bool):
        return {None: b"\xc0", False: b"\xc2", True: b"\xc3"}[value]
    if isinstance(value, int):
        return struct.pack("B", value) if 0 <= value < 128 else b"\xd3" + struct.pack(">q", value)
    if isinstance(value, float):
        return b"\xcb" + struct.pack(">d", value)
    if isinstance(value, str):
        raw = value.encode()
        return (struct.pack("B", 0xA0 | len(raw)) if len(raw) < 32 else b"\xda" + struct.pack(">H", len(raw))) + raw
    if isinstance(value, bytes):
        return b"\xc6" + struct.pack(">I", len(value)) + value
    if isinstance(value, (list, tuple)):
        return struct.pack("B", 0x90 | len(value)) + b"".join(map(pack, value))
    if isinstance(value, dict):
        head = struct.pack("B", 0x80 | len(value)) if len(value) < 16 else b"\xde" + struct.pack(">H", len(value))
        return head + b"".join(pack(k) + pack(v) for k, v in value.items())
    content = pack((value.shape, value.dtype.name, value.tobytes()))
    if len(content) == 16:
        return b"\xd8\x01" + content
    return b"\xc9" + struct.pack(">I", len(content)) + b"\x01" + content


def tree(arrays: dict) -> dict:
    root: dict = {}
    for name, array in arrays.items():
        *parents, leaf = name.split("/")
        node = root
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = array
    return root


def official(size: int = 16, layer_norm: bool = False) -> dict[str, np.ndarray]:
    """Random parameters of a small official network."""
    rng, arrays = np.random.default_rng(0), {}

    def dense(name, *shape):
        arrays[f"{name}/kernel"] = rng.standard_normal(shape).astype(np.float32) * 0.2
        arrays[f"{name}/bias"] = rng.standard_normal((*shape[: len(shape) % 2], shape[-1])).astype(np.float32) * 0.1

    for stack, (inside, width) in enumerate(((3, 4), (4, 8))):
        for number in range(3):
            dense(f"encoder/stack_blocks_{stack}/Conv_{number}", 3, 3, inside if number == 0 else width, width)
    features = (size // 4) ** 2 * 8
    name = "Dense" if layer_norm else "layers"
    for part, first in (("phi", features), ("psi", features), ("T", 6)):
        for layer, (i, o) in enumerate(((first, 10), (10, 6))):
            dense(f"vf/{part}/{name}_{layer}", 2, i, o)
            if layer_norm:
                arrays[f"vf/{part}/LayerNorm_{layer}/scale"] = np.ones((2, o), np.float32)
                arrays[f"vf/{part}/LayerNorm_{layer}/bias"] = np.zeros((2, o), np.float32)
    for part in ("matrix_a", "matrix_b"):
        dense(f"vf/{part}", 2, 6, 6)
    return arrays


def test_msgpack_is_read_as_data(tmp_path):
    wanted = {
        "a/b": np.arange(6, dtype=np.int64).reshape(2, 3), "a/c": np.float32([1.5]), "d": np.array(True),
        "e/long name that does not fit into a short text/x": np.zeros((0, 4), np.float16),
    }  # fmt: skip
    content = tree(wanted) | {"step": 123456, "rate": 0.5, "none": None, "yes": True, "list": [1, -7, "x"]}
    (tmp_path / "f.msgpack").write_bytes(pack(content))
    found = read_arrays(tmp_path / "f.msgpack")
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        assert found[name].dtype == array.dtype and np.array_equal(found[name], array), name
    # bfloat16, which numpy does not have; and an array in pieces
    half = pack(([2], "bfloat16", np.uint16([0x3FC0, 0xC000]).tobytes()))
    pieces = {
        "__msgpack_chunked_array__": True,
        "shape": {"0": 2, "1": 2},
        "chunks": {"0": np.float32([1, 2, 3]), "1": np.float32([4])},
    }  # noqa: E501
    raw = b"\x82" + pack("h") + b"\xc7" + struct.pack("B", len(half)) + b"\x01" + half + pack("p") + pack(pieces)
    (tmp_path / "g").write_bytes(raw)
    found = read_arrays(tmp_path / "g")
    assert found["h"].tolist() == [1.5, -2.0] and found["p"].tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    "content, says",
    [
        (b"", "damaged"),
        (pack({"a": 1.0})[:-3], "damaged"),
        (pack({"a": 1}) + b"\x00", "more than one"),
        (pack([1, 2]), "no dictionary"),
        (b"\x81\xa1a\xd4\x07\x00", "extension of type 7"),
        (b"\x81\xa1a\xc6\xff\xff\xff\xff", "too early"),
        (b"\x81\xa1a\xdf\xff\xff\xff\xff", "damaged"),
        (b"\x91" * 4000 + b"\x01", "nested too deeply"),
        (b"\xc1", "begins no value"),
        (pack({"a": b""})[:-5] + b"\xc7\x09\x01" + pack(([1], "object", b"")), "damaged"),
    ],
)
def test_damaged_files_are_named(tmp_path, content, says):
    (tmp_path / "f.msgpack").write_bytes(content)
    with pytest.raises(InputError, match=says):
        read_arrays(tmp_path / "f.msgpack")


def test_pickles_are_refused_unread(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "boom"), "w"))

    (tmp_path / "params.pkl").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(InputError, match="is a pickle.*to_bytes"):
        read_arrays(tmp_path / "params.pkl")
    np.savez(tmp_path / "objects.npz", a=np.array([{"x": 1}], dtype=object))
    with pytest.raises(InputError, match="no npz file of plain arrays"):
        read_arrays(tmp_path / "objects.npz")
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize("layer_norm", [False, True])
def test_from_the_command_line_in_both_formats(tmp_path, layer_norm, capsys):
    arrays = official(layer_norm=layer_norm)
    agent = {
        "value": {"params": tree(arrays), "step": 7}, "target_value": {"params": tree(arrays)},
        "rng": np.uint32([0, 1]),
    }  # fmt: skip
    (tmp_path / "agent.msgpack").write_bytes(pack(agent))
    np.savez(tmp_path / "params.npz", **arrays)
    command = ["convert", "checkpoint", "--from", "icvf"]
    assert main([*command, str(tmp_path / "agent.msgpack"), str(tmp_path / "a")]) == 0
    assert "the slow network" in capsys.readouterr().out
    assert main([*command, str(tmp_path / "params.npz"), str(tmp_path / "b"), "--camera", "corner2"]) == 0
    first, second = (VPTRForValuePrediction.from_pretrained(tmp_path / name) for name in "ab")
    config = first.config
    assert (config.encoder, config.image_size, config.impala_widths, config.impala_blocks) == ("impala", 16, [4, 8], 1)
    assert (config.value_hidden_sizes, config.num_value_heads, config.value_layer_norm) == ([10, 6], 2, layer_norm)
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values()))
    kernel = arrays["vf/phi/" + ("Dense" if layer_norm else "layers") + "_0/kernel"]
    assert np.array_equal(first.value_heads.phi.layers[0].weight.detach().numpy(), kernel.transpose(0, 2, 1))
    assert VPTRProcessor.from_pretrained(tmp_path / "b").cameras == ["corner2"]
    assert (tmp_path / "b" / "conversion.json").is_file()
    assert main([*command, str(tmp_path / "params.npz"), str(tmp_path / "b")]) == 2  # not over what is there


def test_official_values_come_out(tmp_path):
    data = load("icvf.npz")
    np.savez(tmp_path / "p.npz", **tensors(data, "impala32/params/"))
    convert_icvf_file(tmp_path / "p.npz", tmp_path / "out")
    model = VPTRForValuePrediction.from_pretrained(tmp_path / "out").eval()
    assert model.config.image_size == 32
    names = ("observations", "goals", "desired_goals")
    images = [observation(data[f"impala32/batch0/{name}"]) for name in names]
    with torch.no_grad():
        values = model(*images).values
    np.testing.assert_allclose(values, data["impala32/out/v_sgz"], atol=2e-5 * abs(data["impala32/out/v_sgz"]).max())


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda a: {k: v for k, v in a.items() if not k.startswith("encoder/")}, "no visual encoder"),
        (lambda a: {k: v for k, v in a.items() if "matrix_a" not in k}, "are missing"),
        (lambda a: {**a, "vf/other/kernel": a["vf/matrix_a/kernel"]}, "unknown"),
        (lambda a: {**a, "vf/matrix_a/bias": np.full((2, 6), np.nan, np.float32)}, "matrix_a/bias.*not finite"),
        (lambda a: {"a": a["vf/matrix_a/bias"]}, "no value heads"),
    ],
)
def test_networks_that_do_not_fit_are_named_and_nothing_is_written(tmp_path, change, says):
    np.savez(tmp_path / "p.npz", **change(official()))
    with pytest.raises(InputError, match=says):
        convert_icvf_file(tmp_path / "p.npz", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    np.savez(tmp_path / "q.npz", **official())
    with pytest.raises(InputError, match="--image-size"):
        convert_icvf_file(tmp_path / "q.npz", tmp_path / "out", image_size=40)
