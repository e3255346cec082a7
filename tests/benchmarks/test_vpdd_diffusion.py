"""The dense form that the benchmarks measure against gives the official numbers, and the benchmark runs."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hf_vpdd.schedulers import MaskAndReplaceScheduler


BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
GOLDENS = np.load(Path(__file__).parents[1] / "fixtures" / "vpdd_diffusion_small.npz")


@pytest.fixture
def dense(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from dense_diffusion import DenseDiffusion

    return DenseDiffusion(MaskAndReplaceScheduler(), (6, 4), (12, 16))


def golden(name):
    return torch.from_numpy(GOLDENS[f"small/{name}"])


def test_the_dense_form_is_the_official_one(dense):
    logits, t, x_0, x_t = (golden("video_logits"), golden("action_logits")), *map(golden, ("timesteps", "x_0", "x_t"))
    close = torch.testing.assert_close
    for name, mine in zip(("kl", "nll", "aux"), dense.loss_parts(*logits, x_0, x_t, t)):
        close(mine, golden(f"{name}_per_position"), rtol=1e-5, atol=1e-6)
    close(dense.loss(*logits, x_0, x_t, t, golden("p_t")), golden("loss"), rtol=1e-5, atol=0)
    log_start = dense.start(*logits)
    close(log_start, golden("log_p_x0"), rtol=1e-5, atol=1e-5)
    close(dense.truncate(log_start), golden("truncated_log_p_x0"), rtol=1e-5, atol=1e-5)
    for name, start in (("log_p_posterior", log_start), ("log_q_posterior", dense.one_hot(x_0))):
        theirs = golden(name)
        seen = theirs > -30  # below, floors
        close(dense.posterior(start, dense.one_hot(x_t), t)[seen], theirs[seen], rtol=1e-5, atol=1e-4)
    drawn_from = torch.softmax(dense.log_step(*logits, x_t, t).double(), 1)
    close(drawn_from, golden("sampler_prob"), rtol=0, atol=1e-6)
    many = torch.stack([dense.step(*logits, x_t, t) for _ in range(2000)])
    frequency = torch.nn.functional.one_hot(many, 11).double().mean(0).transpose(1, 2)
    assert (frequency - drawn_from).abs().max() < 5 * (0.25 / 2000) ** 0.5


def test_one_object_a_line():
    words = "--quick --json --batch 1 --repeats 1".split()
    script = str(BENCHMARKS / "vpdd_diffusion.py")
    done = subprocess.run([sys.executable, script, *words], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["name"].rsplit(", ")[-1] for row in rows[:4]] == ["dense", "closed form"] * 2
    for row in rows:
        assert set(row) == {"name", "ms", "ratio", "peak_mb"} and row["ratio"] > 0 and row["peak_mb"] > 0
    assert rows[4]["ratio"] > 3  # memory does not depend on what else the machine does
