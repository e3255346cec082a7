"""Runs that are really killed: at random moments, in the middle of a save, by SIGTERM; with one process and two.

What must be equal to an uninterrupted run, bit for bit: the weights, everything a checkpoint holds (averages, moments,
history of the noise levels, adapters), and every line of metrics.jsonl.
"""

import json
import random
import signal
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from hf_vpdd.training import load_recipe, run_pretrain, run_vqvae
from hf_vpdd.training.checkpoints import check_checkpoint, list_checkpoints
from hf_vpdd.training.loop import train

from .killable import Server
from .small_data import experiment, write_dataset
from .toy import ToyTask, toy_recipe


STEPS, SAVE_EVERY = 24, 3
SETTINGS = {"steps": STEPS, "save_every": SAVE_EVERY, "log_every": 1, "eval_every": 6, "history": True}


@pytest.fixture(scope="module")
def server():
    pytest.importorskip("peft")
    with Server() as running:
        yield running


def options(**settings) -> list[str]:
    return [word for name, value in {**SETTINGS, **settings}.items() for word in (f"--{name}", str(value))]


def metrics(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "cpu_seconds"} for line in lines]


def newest_state(folder: Path) -> dict:
    state = torch.load(list_checkpoints(folder)[0] / "state.pt", weights_only=True)
    return {name: value for name, value in state.items() if name != "cpu_seconds"}


def assert_equal(a, b, where: str = "state") -> None:
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_equal(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for index, (one, other) in enumerate(zip(a, b)):
            assert_equal(one, other, f"{where}[{index}]")
    else:
        assert a == b, where


def assert_same_run(a: Path, b: Path) -> None:
    assert_equal(load_file(a / "model.safetensors"), load_file(b / "model.safetensors"))
    assert_equal(newest_state(a), newest_state(b))
    assert metrics(a) == metrics(b)
    assert json.loads((a / "best.json").read_text()) == json.loads((b / "best.json").read_text())


def newest_step(folder: Path) -> int:
    found = list_checkpoints(folder)
    return int(found[0].name.split("-")[1]) if found else 0


@pytest.mark.parametrize("lora", [False, True], ids=["all weights", "lora"])
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_at_random_moments_it_ends_as_if_it_had_not_been(server, tmp_path, processes, lora):
    """Accumulation, average, dropout, noise levels by importance, best checkpoint: all at once, killed three times."""
    more = {"lora": lora}
    whole = server.start(tmp_path / "whole", *options(**more), processes=processes)
    killed, moments = tmp_path / "killed", random.Random(processes + 10 * lora)
    for attempt in range(3):
        before = newest_step(killed)
        # Other initial weights each time: nothing of them, nor of a fresh adapter, may be left in the end.
        slow = options(**more, sleep=0.02, save_sleep=0.03, init_seed=0 if attempt == 0 else 100 + attempt)
        run = server.start(killed, *slow, processes=processes)
        run.until(lambda: newest_step(killed) > before)
        time.sleep(moments.uniform(0, 0.25))
        run.kill()
        assert not (killed / "model.safetensors").exists(), "the run must have been stopped before its end"
        check_checkpoint(list_checkpoints(killed)[0])  # what is there is whole
        told = max(line["step"] for line in metrics(killed))
        assert told - newest_step(killed) <= SAVE_EVERY + 1, "more was lost than the steps since the last checkpoint"
    server.start(killed, *options(**more, init_seed=999), processes=processes).finish()
    whole.finish()
    assert newest_state(killed)["task"]["scheduler"]["Lt_count"].sum() == STEPS * 2 * 8 * processes
    assert_same_run(killed, tmp_path / "whole")


def test_killed_in_the_middle_of_a_save_the_checkpoint_before_it_counts(server, tmp_path):
    folder = tmp_path / "killed"
    run = server.start(folder, *options(save_sleep=0.4))
    run.until(lambda: any(folder.glob(".checkpoint-000006.*")))
    run.kill()
    assert any(folder.glob(".checkpoint-000006.*")), "it must have been killed while it wrote"
    assert [path.name for path in list_checkpoints(folder)] == ["checkpoint-000003"]
    whole = server.start(tmp_path / "whole", *options())
    server.start(folder, *options(init_seed=7)).finish()
    whole.finish()
    assert not any(folder.glob(".checkpoint-*")), "what the kill left behind must be gone"
    assert_same_run(folder, tmp_path / "whole")


@pytest.mark.parametrize("processes", [1, 2])
def test_sigterm_saves_and_leaves_with_143(server, tmp_path, processes):
    folder = tmp_path / "terminated"
    run = server.start(folder, *options(sleep=0.03, save_every=1000), processes=processes)
    run.until(lambda: (folder / "metrics.jsonl").exists() and len(metrics(folder)) > 2)
    run.send(signal.SIGTERM)
    assert run.wait() == [143] * processes, run.log.read_text()
    assert "SIGTERM: saved step" in run.log.read_text()
    assert 0 < newest_step(folder) < STEPS
    whole = server.start(tmp_path / "whole", *options(save_every=1000), processes=processes)
    server.start(folder, *options(save_every=1000, init_seed=7), processes=processes).finish()
    whole.finish()
    assert_same_run(folder, tmp_path / "whole")


def test_a_real_policy_with_adapters_survives_as_the_toy_does(server, tmp_path):
    """VPDD on a small recording: bf16, average, adapters, importance of noise levels; killed, then resumed."""
    config = experiment(write_dataset(tmp_path / "data", episodes_per_task=2), tmp_path / "out")
    config["train"] |= {"steps": 1, "save_every": 0, "eval_every": 0, "eval_samples": 4, "tracker": "none"}
    run_vqvae(load_recipe("vqvae", config))
    run_pretrain(load_recipe("pretrain", config))
    config["train"] |= {"steps": 12, "save_every": 2, "log_every": 1, "eval_every": 6, "eval_videos": 0}
    config["model"] |= {"loss_type": "vb", "full_mask_fraction": 0.0}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(config))
    whole = server.finetune(tmp_path / "whole", tmp_path / "recipe.yaml", "--lora", "true")
    killed = tmp_path / "killed"
    run = server.finetune(killed, tmp_path / "recipe.yaml", "--lora", "true")
    run.until(lambda: newest_step(killed) >= 2)
    run.kill()
    assert 2 <= newest_step(killed) < 12
    server.finetune(killed, tmp_path / "recipe.yaml", "--lora", "true").finish()
    whole.finish()
    assert float(newest_state(killed)["task"]["scheduler"]["Lt_count"].sum()) > 0
    assert_same_run(killed, tmp_path / "whole")
    adapters = [load_file(f / "adapter" / "adapter_model.safetensors") for f in (killed, tmp_path / "whole")]
    assert_equal(*adapters)


@pytest.mark.parametrize("damage", ["cut", "changed", "missing"])
def test_with_the_newest_checkpoint_damaged_it_goes_on_from_the_one_before(tmp_path, damage, capsys):
    settings = {"steps": 12, "save_every": 3, "keep_last": 4}
    train(ToyTask(history=True), toy_recipe(tmp_path / "whole", **settings))
    folder = tmp_path / "cut"
    train(ToyTask(history=True), toy_recipe(folder, **settings))
    (folder / "model.safetensors").unlink()
    state = list_checkpoints(folder)[0] / "state.pt"
    if damage == "cut":
        state.write_bytes(state.read_bytes()[:-7])
    elif damage == "changed":
        content = bytearray(state.read_bytes())
        content[len(content) // 3] ^= 4
        state.write_bytes(content)
    else:
        state.unlink()
    task = ToyTask(seed=5, history=True)
    train(task, toy_recipe(folder, **settings))
    assert "checkpoint-000012 is damaged" in capsys.readouterr().out
    assert task.seen == 12 * 16
    assert_same_run(folder, tmp_path / "whole")
