"""Checkpoints: whole or absent, damaged ones passed over, others refused."""

import json

import pytest
import torch

from hf_vpdd.errors import InputError
from hf_vpdd.training.checkpoints import (
    check_checkpoint,
    list_checkpoints,
    load_checkpoint,
    remove_checkpoints,
    save_checkpoint,
)


IDENTITY = {"stage": "toy", "train.seed": 0}


@pytest.fixture
def folder(tmp_path):
    for step in (5, 10, 15):
        save_checkpoint(tmp_path, step, {"weight": torch.full((3,), float(step))}, IDENTITY, keep_last=2)
    return tmp_path


def test_newest_is_loaded_and_old_ones_are_pruned(folder):
    assert [p.name for p in list_checkpoints(folder)] == ["checkpoint-000015", "checkpoint-000010"]
    step, state = load_checkpoint(folder, "auto", IDENTITY)
    assert step == 15 and torch.equal(state["weight"], torch.full((3,), 15.0))
    assert load_checkpoint(folder, "no", IDENTITY) is None
    assert load_checkpoint(folder, str(folder / "checkpoint-000010"), IDENTITY)[0] == 10
    assert load_checkpoint(folder / "nothing", "auto", IDENTITY) is None


@pytest.mark.parametrize("damage", ["cut", "changed", "state missing", "record missing", "record cut"])
def test_a_damaged_checkpoint_is_passed_over(folder, damage):
    newest, said = folder / "checkpoint-000015", []
    state, record = newest / "state.pt", newest / "checkpoint.json"
    if damage == "cut":
        state.write_bytes(state.read_bytes()[:-10])
    elif damage == "changed":
        content = bytearray(state.read_bytes())
        content[len(content) // 2] ^= 1
        state.write_bytes(content)
    elif damage == "state missing":
        state.unlink()
    elif damage == "record missing":
        record.unlink()
    else:
        record.write_text(record.read_text()[:-5])
    assert load_checkpoint(folder, "auto", IDENTITY, warn=said.append)[0] == 10
    assert len(said) == 1 and "checkpoint-000015" in said[0]
    with pytest.raises(InputError, match="checkpoint-000015"):
        load_checkpoint(folder, str(newest), IDENTITY)
    save_checkpoint(folder, 15, {"weight": torch.ones(1)}, IDENTITY)  # its place can be taken again
    assert load_checkpoint(folder, "auto", IDENTITY)[0] == 15


def test_another_run_and_a_newer_version_are_refused(folder):
    with pytest.raises(InputError, match=r"train\.seed: 0 there, 1 now"):
        load_checkpoint(folder, "auto", {**IDENTITY, "train.seed": 1})
    record = folder / "checkpoint-000015" / "checkpoint.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "format_version": 99}))
    with pytest.raises(InputError, match="newer version"):
        load_checkpoint(folder, "auto", IDENTITY)


def test_a_killed_save_leaves_nothing_that_is_trusted(folder, monkeypatch):
    def killed(path):
        (path / "model").mkdir()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(folder, 20, {}, IDENTITY, write_extra=killed)
    assert load_checkpoint(folder, "auto", IDENTITY)[0] == 15
    left = folder / ".checkpoint-000025.1-ab.tmp"  # what SIGKILL leaves
    left.mkdir()
    remove_checkpoints(folder, leftovers_only=True)
    assert not left.exists() and len(list_checkpoints(folder)) == 2
    remove_checkpoints(folder)
    assert not list_checkpoints(folder)


def test_files_are_recorded_with_their_hash(folder):
    content = check_checkpoint(folder / "checkpoint-000015")
    assert set(content["files"]) == {"state.pt"} and len(content["files"]["state.pt"]["sha256"]) == 64


def test_checkpoints_from_before_an_option_existed_can_be_resumed(folder):
    later = {**IDENTITY, "train.ema_every": 1}
    assert load_checkpoint(folder, "auto", later)[0] == 15
    with pytest.raises(InputError, match="train.seed: 0 there, 1 now"):
        load_checkpoint(folder, "auto", {**later, "train.seed": 1})
