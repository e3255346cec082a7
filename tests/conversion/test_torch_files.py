"""Reading strangers' files: nothing is run, and what is wrong is said."""

import argparse
import collections
import datetime
import os
import pickle
import sys
import types
import warnings
import zipfile

import numpy as np
import pytest
import torch

from hf_vpdd.conversion.torch_files import read_checkpoint, read_torchscript_tensors
from hf_vpdd.errors import InputError


class Bomb:
    """Unpickling this makes a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_tensors_and_options(tmp_path):
    content = {
        "hyper_parameters": {"args": argparse.Namespace(n_codes=12, downsample=(4, 4, 4), gpus=None)},
        "state_dict": collections.OrderedDict(a=torch.arange(3.0)),
        "epoch": 3,
    }
    torch.save(content, tmp_path / "new.ckpt")
    torch.save(content, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    for name in ("new.ckpt", "old.ckpt"):
        found = read_checkpoint(tmp_path / name)
        assert found["hyper_parameters"]["args"].downsample == (4, 4, 4)
        assert torch.equal(found["state_dict"]["a"], torch.arange(3.0))


@pytest.mark.parametrize("new_format", [True, False])
def test_code_is_refused_by_name_and_not_run(tmp_path, new_format):
    trap = tmp_path / "trap"
    path = tmp_path / "state.pt"
    torch.save({"ema": {"a": torch.zeros(1)}, "x": Bomb(trap)}, path, _use_new_zipfile_serialization=new_format)
    with pytest.raises(InputError, match=r"refused: .*mkdir"):
        read_checkpoint(path)
    assert not trap.exists()


def test_harmless_but_unknown_classes_are_refused_too(tmp_path):
    torch.save({"when": datetime.date(2024, 1, 1)}, tmp_path / "state.pt")
    with pytest.raises(InputError, match=r"datetime\.date"):
        read_checkpoint(tmp_path / "state.pt")


def test_lightnings_own_classes_are_passed_over(tmp_path, monkeypatch):
    """Lightning 1.x: callbacks are keyed by their class, and options hold functions of the library."""
    module = types.ModuleType("pytorch_lightning")
    module.callbacks = types.ModuleType("pytorch_lightning.callbacks")
    exec("class ModelCheckpoint: pass\ndef _gpus_arg_default(x): return x", vars(module.callbacks))
    for name in ("ModelCheckpoint", "_gpus_arg_default"):
        getattr(module.callbacks, name).__module__ = "pytorch_lightning.callbacks"
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pytorch_lightning", module)
        patch.setitem(sys.modules, "pytorch_lightning.callbacks", module.callbacks)
        content = {
            "state_dict": {"a": torch.ones(2)},
            "callbacks": {module.callbacks.ModelCheckpoint: {"best": torch.zeros(1)}},
            "hyper_parameters": {"args": argparse.Namespace(tpu_cores=module.callbacks._gpus_arg_default, n_codes=12)},
            "instance": module.callbacks.ModelCheckpoint(),
        }
        torch.save(content, tmp_path / "last.ckpt")
    found = read_checkpoint(tmp_path / "last.ckpt")
    assert "pytorch_lightning" not in sys.modules
    assert found["hyper_parameters"]["args"].n_codes == 12 and torch.equal(found["state_dict"]["a"], torch.ones(2))


@pytest.mark.parametrize("kept", [0.3, 0.9, 0.999])
def test_truncated(tmp_path, kept):
    path = tmp_path / "state.pt"
    torch.save({"ema": {str(i): torch.randn(200) for i in range(50)}}, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(InputError, match="state.pt .*(damaged|refused)"):
        read_checkpoint(path)


def test_damaged_within(tmp_path):
    path = tmp_path / "state.pt"
    torch.save({"ema": {"a": torch.randn(200)}}, path)
    whole = bytearray(path.read_bytes())
    place = whole.index(b"data.pkl") + 60
    whole[place : place + 40] = os.urandom(40)
    path.write_bytes(whole)
    with pytest.raises(InputError, match="state.pt"):
        read_checkpoint(path)


def test_other_files(tmp_path):
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "text.pt").write_text("<html>404: not found</html>")
    (tmp_path / "pointer.pt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    (tmp_path / "bad.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00not json at all!")
    np.savez(tmp_path / "numbers.npz", a=np.zeros(3))
    for name, words in (
        ("empty.pt", "is empty"),
        ("text.pt", "damaged"),
        ("pointer.pt", "git lfs pull"),
        ("bad.safetensors", "damaged"),
        ("numbers.npz", "damaged"),
        ("absent.pt", "does not exist"),
        (".", "is a folder"),
    ):
        with pytest.raises(InputError, match=words):
            read_checkpoint(tmp_path / name)


def scripted(path):
    class Inner(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("steps", torch.tensor([3, 4]))
            self.sizes = [1, 2, 3]

        def forward(self, x):
            return x + self.steps[0]

    class Outer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Inner()
            self.weight = torch.nn.Parameter(torch.randn(4, 3).t())  # not contiguous
            self.low = torch.nn.Parameter(torch.randn(5).half())
            self.label = "x"

        def forward(self, x):
            return self.inner(x) @ self.weight

    module = Outer()
    with warnings.catch_warnings():  # deprecated, but OpenAI's file is made with it
        warnings.simplefilter("ignore")
        torch.jit.script(module).save(path)
    return module


def test_torchscript_is_read_as_numbers(tmp_path):
    module = scripted(tmp_path / "model.pt")
    tensors = read_torchscript_tensors(tmp_path / "model.pt")
    expected = module.state_dict()
    assert tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        assert tensors[name].dtype == tensor.dtype and torch.equal(tensors[name], tensor), name
    with pytest.raises(InputError, match="TorchScript"):
        read_checkpoint(tmp_path / "model.pt")


def test_torchscript_runs_nothing(tmp_path):
    scripted(tmp_path / "good.pt")
    trap = tmp_path / "trap"
    with zipfile.ZipFile(tmp_path / "good.pt") as good, zipfile.ZipFile(tmp_path / "bad.pt", "w") as bad:
        for name in good.namelist():
            data = pickle.dumps(Bomb(trap), protocol=2) if name.endswith("/data.pkl") else good.read(name)
            bad.writestr(name, data)
    with pytest.raises(InputError, match="refused"):
        read_torchscript_tensors(tmp_path / "bad.pt")
    assert not trap.exists()
    with pytest.raises(InputError, match="damaged"):
        (tmp_path / "no.pt").write_bytes(b"nothing of the kind")
        read_torchscript_tensors(tmp_path / "no.pt")
