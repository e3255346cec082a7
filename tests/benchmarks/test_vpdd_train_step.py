"""The benchmark runs at a toy size, and says what its readers expect."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


SCRIPT = Path(__file__).parents[2] / "benchmarks" / "vpdd_train_step.py"


@pytest.fixture(scope="module")
def script():
    import importlib.util

    spec = importlib.util.spec_from_file_location("vpdd_train_step", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_one_object_a_line():
    words = "--quick --json --size tiny --steps 1 --precisions bf16".split()
    done = subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    how = ["bf16", "bf16, recomputed"]
    assert [row["name"] for row in rows] == [f"pretrain, batch 1, {way}" for way in how]
    for row in rows:
        assert set(row) == {"name", "ms", "ratio", "peak_mb", "tokens_per_s", "mfu", "device"} and row["ms"] > 0
    assert rows[0]["ratio"] == 1


@pytest.mark.parametrize("stage", ["finetune_metaworld", "finetune_rlbench", "vqvae"])
def test_every_stage_makes_a_step(script, stage):
    row = script.measure(stage, "bf16", True, "tiny", 2, 1)
    assert row["loss_is_finite"] and row["tokens_per_s"] > 0
