"""The `evaluate` modules: loaded from their folders without a network, and equal to the plain functions."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import hf_vpdd
from hf_vpdd.errors import InputError
from hf_vpdd.evaluation import metrics, video_metrics
from hf_vpdd.metrics import METRICS


evaluate = pytest.importorskip("evaluate")

# No socket may be opened: evaluate would ask the Hub for a module it does not find here.
OFFLINE = """
import json, socket, sys
def refuse(*args, **kwargs):
    raise AssertionError("a socket was opened")
socket.socket.connect = refuse
socket.create_connection = refuse
import evaluate
names = json.loads(sys.argv[1])
print(json.dumps({name: type(evaluate.load(path)).__name__ for name, path in names.items()}))
"""


@pytest.fixture
def load(tmp_path, monkeypatch):
    """A metric by name; what it stores goes to a folder of this test."""
    monkeypatch.setattr("evaluate.config.HF_EVALUATE_OFFLINE", True)

    def load(name: str):
        return evaluate.load(hf_vpdd.metrics_path(name), cache_dir=str(tmp_path))

    return load


def test_every_metric_loads_without_a_network(tmp_path):
    paths = {name: hf_vpdd.metrics_path(name) for name in METRICS}
    env = {**os.environ, "HF_HOME": str(tmp_path), "HF_EVALUATE_OFFLINE": "1"}
    env["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[2] / "src"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE, json.dumps(paths)], env=env, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert set(json.loads(done.stdout.splitlines()[-1])) == set(METRICS)


def test_success_rate(load):
    successes, tasks = [True, False, True, True], ["a", "a", "b", "b"]
    metric = load("success_rate")
    assert metric.compute(predictions=successes) == metrics.success_rate(successes)
    found = load("success_rate").compute(predictions=np.array(successes), tasks=tasks)
    assert found == metrics.success_rate(successes, tasks)
    assert found["mean_over_tasks"] == 0.75 and found["tasks"]["a"]["low"] == metrics.wilson_interval(1, 2)[0]
    metric = load("success_rate")  # episode after episode, as they end
    for success in successes:
        metric.add(prediction=success)
    assert metric.compute()["successes"] == 3


def test_chain_length(load):
    done = [0, 2, 5, 5, 1]
    found, plain = load("chain_length").compute(predictions=done), metrics.chain_statistics(done)
    assert found["average_length"] == plain["average_length"]["mean"] == 2.6
    assert found["success_1_in_a_row"] == 0.8 and found["success_5_in_a_row"] == 0.4 and found["chains"] == 5
    assert found["success_5_in_a_row_low"] == plain["success_in_a_row"][4]["low"]


def test_psnr_and_ssim_in_one_go_and_in_batches(load):
    rng = np.random.default_rng(0)
    ours, theirs = (rng.integers(0, 256, (5, 2, 16, 16, 3), dtype=np.uint8) for _ in range(2))
    for name in ("psnr", "ssim"):
        expected = float(getattr(video_metrics, name)(ours, theirs).mean())
        assert load(name).compute(predictions=ours, references=theirs) == {name: pytest.approx(expected), "frames": 10}
        metric = load(name)
        metric.add_batch(predictions=ours[:3] / 255, references=theirs[:3] / 255, data_range=1.0)
        metric.add(prediction=ours[3], reference=theirs[3])
        metric.add(prediction=list(ours[4]), reference=list(theirs[4]))
        assert metric.compute() == {name: pytest.approx(expected), "frames": 10}
    assert load("psnr").compute(predictions=ours, references=ours)["psnr"] == 100
    with pytest.raises(ValueError, match="as many of one"):
        load("psnr").compute(predictions=ours, references=theirs[:2])


def test_token_accuracy(load):
    rng = np.random.default_rng(0)
    before, after, ours = (rng.integers(0, 3, (4, 6)) for _ in range(3))
    assert load("token_accuracy").compute(predictions=ours, references=after) == video_metrics.token_accuracy(
        ours, after
    )
    found = load("token_accuracy").compute(predictions=ours, references=after, present=before)
    assert found == video_metrics.token_accuracy(ours, after, before)


def test_frechet_video_distance(load):
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(size=(6, 8)), rng.normal(1, 1, (6, 8))
    found = load("frechet_video_distance").compute(predictions=ours, references=theirs)
    assert found == {
        "frechet_video_distance": pytest.approx(video_metrics.frechet_distance(ours, theirs)),
        "videos": 6,
    }


def test_an_unknown_metric_is_named():
    with pytest.raises(InputError, match="did you mean success_rate"):
        hf_vpdd.metrics_path("sucess_rate")
