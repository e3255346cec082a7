"""The loop on a toy task: survival of kills, exact resumption, averages, bad steps."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hf_vpdd.errors import InputError
from hf_vpdd.training.checkpoints import list_checkpoints
from hf_vpdd.training.loop import train

from .toy import ToyTask, toy_recipe


ROOT = Path(__file__).resolve().parents[2]


def start(*arguments, launcher=("-m",)):
    command = [sys.executable, *launcher, "tests.training.toy", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "ACCELERATE_USE_CPU": "true"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def wait_for_checkpoint(process, folder, number=1, seconds=240):
    """Until the running process has written `number` checkpoints and gone on from there."""
    deadline = time.monotonic() + seconds
    while len(list_checkpoints(folder)) < number:
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline, "no checkpoint in time"
        time.sleep(0.02)
    time.sleep(0.3)


def metrics(folder):
    lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "cpu_seconds"} for line in lines]


def same_weights(a, b):
    first, second = load_file(Path(a) / "model.safetensors"), load_file(Path(b) / "model.safetensors")
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    train(ToyTask(), toy_recipe(folder))
    return folder


def test_kill_9_then_resume_is_bit_exact_and_sigterm_saves(tmp_path, uninterrupted):
    # Slow enough that neither is done when its turn comes, also on a busy machine.
    killed, terminated = (start(tmp_path / name, "--sleep", s) for name, s in (("killed", 0.2), ("terminated", 0.5)))
    wait_for_checkpoint(killed, tmp_path / "killed", number=2)
    killed.send_signal(signal.SIGKILL)
    wait_for_checkpoint(terminated, tmp_path / "terminated")
    terminated.send_signal(signal.SIGTERM)
    assert killed.wait(60) == -signal.SIGKILL
    output = terminated.communicate(timeout=60)[0]
    assert terminated.returncode == 143, output
    assert "SIGTERM" in output
    for name in ("killed", "terminated"):
        assert not (tmp_path / name / "model.safetensors").exists(), "the run must have been stopped before its end"
        saved = json.loads((list_checkpoints(tmp_path / name)[0] / "checkpoint.json").read_text())["step"]
        assert 0 < saved < 20
        task = ToyTask(seed=123)  # other initial weights: all must come from the checkpoint
        train(task, toy_recipe(tmp_path / name))
        assert same_weights(tmp_path / name, uninterrupted)
        assert metrics(tmp_path / name) == metrics(uninterrupted)
        assert task.seen == 20 * 8 * 2


def test_a_finished_run_is_not_trained_again(uninterrupted):
    before, lines = (uninterrupted / "model.safetensors").read_bytes(), metrics(uninterrupted)
    task = ToyTask()
    train(task, toy_recipe(uninterrupted))
    assert task.seen == 20 * 8 * 2  # from the checkpoint; no batch was asked for
    assert (uninterrupted / "model.safetensors").read_bytes() == before
    assert metrics(uninterrupted) == lines  # its last evaluation is not written twice


def test_resume_no_starts_again_and_another_run_is_refused(tmp_path):
    train(ToyTask(), toy_recipe(tmp_path, steps=6, schedule="constant"))
    with pytest.raises(InputError, match="learning_rate: 0.01 there, 0.02 now"):
        train(ToyTask(), toy_recipe(tmp_path, steps=6, schedule="constant", learning_rate=0.02))
    longer = ToyTask()
    assert train(longer, toy_recipe(tmp_path, steps=8, schedule="constant")).steps == 8
    assert longer.seen == 8 * 8 * 2
    again = ToyTask()
    train(again, toy_recipe(tmp_path, resume="no", steps=6, schedule="constant", learning_rate=0.02))
    assert again.seen == 6 * 8 * 2


def test_saved_weights_are_the_average(tmp_path):
    train(ToyTask(), toy_recipe(tmp_path / "averaged"))
    train(ToyTask(), toy_recipe(tmp_path / "plain", ema_decay=0.0))
    assert not same_weights(tmp_path / "averaged", tmp_path / "plain")
    state = torch.load(tmp_path / "averaged" / "checkpoint-000020" / "state.pt", weights_only=True)
    saved, plain = (load_file(tmp_path / name / "model.safetensors") for name in ("averaged", "plain"))
    for index, name in enumerate(state["model"]):  # in the order of the parameters
        assert torch.equal(saved[name], state["ema"]["shadow"][index])
        assert torch.equal(plain[name], state["model"][name])  # the average does not touch training


def test_accumulation_equals_the_larger_batch(tmp_path):
    common = {"ema_decay": 0.0, "save_every": 0, "steps": 6}
    train(ToyTask(plain=True), toy_recipe(tmp_path / "a", batch_size=8, gradient_accumulation_steps=2, **common))
    train(ToyTask(plain=True), toy_recipe(tmp_path / "b", batch_size=16, gradient_accumulation_steps=1, **common))
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-5)


def test_two_processes_equal_one_with_the_doubled_batch(tmp_path):
    arguments = ["--plain", "yes", "--ema_decay", "0", "--save_every", "0", "--steps", "5", "--batch_size", "8"]
    arguments += ["--tracker", "tensorboard"]  # closing it must not end the group before the model is saved
    port = str(20000 + os.getpid() % 20000)
    launcher = ("-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", port, "-m")
    process = start(tmp_path / "two", *arguments, launcher=launcher)
    common = {"ema_decay": 0.0, "save_every": 0, "steps": 5, "batch_size": 16}
    train(ToyTask(plain=True), toy_recipe(tmp_path / "one", **common))
    output = process.communicate(timeout=240)[0]
    assert process.returncode == 0, output
    assert json.loads((tmp_path / "two" / "run.json").read_text())["processes"] == 2
    assert list((tmp_path / "two" / "tensorboard").rglob("events*"))
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-4, atol=1e-5)


def test_a_bad_step_changes_nothing_and_is_counted(tmp_path):
    recipe = toy_recipe(tmp_path, steps=1, gradient_accumulation_steps=1, batch_size=50, weight_decay=0.5)
    task = ToyTask(poison=(3,))  # the batch is the whole dataset, so the only step is bad
    before = {k: v.clone() for k, v in task.model.state_dict().items()}
    train(task, recipe)
    state = torch.load(tmp_path / "checkpoint-000001" / "state.pt", weights_only=True)
    for name, value in before.items():
        assert torch.equal(state["model"][name], value)
    for moments in state["optimizer"]["state"].values():
        assert float(moments["step"]) == 0 and not moments["exp_avg"].any()
    assert json.loads((tmp_path / "training.json").read_text())["skipped_steps"] == 1


def test_too_many_bad_steps_stop_the_run_and_name_the_samples(tmp_path):
    recipe = toy_recipe(tmp_path, steps=20, batch_size=50, gradient_accumulation_steps=1, max_nonfinite=4)
    with pytest.raises(InputError, match="not finite in .* steps in a row"):
        train(ToyTask(poison=(3,)), recipe)
    record = json.loads((tmp_path / "nonfinite.json").read_text())
    assert 3 in np.array(record["sample_indices"]) and record["skipped_in_a_row"] >= 4


def test_now_and_then_a_bad_step_does_not_stop_the_run(tmp_path):
    train(ToyTask(poison=(3,)), toy_recipe(tmp_path, steps=20, max_nonfinite=4))
    summary = json.loads((tmp_path / "training.json").read_text())
    assert 0 < summary["skipped_steps"] < 20
    assert all(torch.isfinite(v).all() for v in load_file(tmp_path / "model.safetensors").values())


def test_run_files_and_random_state(tmp_path):
    torch.manual_seed(5)
    handler, expected = signal.getsignal(signal.SIGTERM), torch.rand(3)
    torch.manual_seed(5)
    threads = torch.get_num_threads()
    train(ToyTask(), toy_recipe(tmp_path, steps=4, save_every=2, keep_last=1, mixed_precision="bf16"))
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads and signal.getsignal(signal.SIGTERM) is handler
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["seed"] == 0 and record["fingerprints"] == {"dataset": "toy"} and "torch" in record["versions"]
    names = sorted(p.name for p in tmp_path.iterdir())
    assert [n for n in names if n.startswith("checkpoint")] == ["checkpoint-000004"]
    assert {"run.json", "recipe.yaml", "model"} <= {p.name for p in (tmp_path / "checkpoint-000004").iterdir()}
    assert not [n for n in names if n.endswith(".tmp")]
