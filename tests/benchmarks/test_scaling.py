"""The benchmark runs at a toy size, says what each number is, and its arithmetic is right."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest


SCRIPT = Path(__file__).parents[2] / "benchmarks" / "scaling.py"


@pytest.fixture(scope="module")
def rows():
    command = [sys.executable, str(SCRIPT), "--quick", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    return {row["name"]: row for row in map(json.loads, done.stdout.splitlines())}


def test_every_row_says_what_it_is(rows):
    for row in rows.values():
        assert {"name", "value", "unit", "kind", "from", "ms", "ratio", "peak_mb"} == set(row)
        assert row["kind"] in ("measured", "counted", "assumed", "derived") and row["from"] and row["value"] > 0


def test_a_parameter_has_the_bytes_of_float32_adamw_and_an_average(rows):
    for name, size in (("weights", 4), ("gradients", 4), ("Adam's moments", 8), ("average (EMA)", 4)):
        assert rows[f"{name}, bytes a parameter"]["value"] == pytest.approx(size, rel=0.03)


def test_recomputation_keeps_less(rows):
    for size in ("toy", "toy 2"):
        name = f"activations of a sample, {size}"
        assert rows[f"{name}, recomputed"]["value"] < rows[name]["value"]


def test_counting_without_numbers_gives_what_is_measured():
    sys.path.insert(0, str(SCRIPT.parent))
    try:
        import scaling
    finally:
        sys.path.remove(str(SCRIPT.parent))
    for recompute in (False, True):
        real, fake = (scaling.one_step((64, 1), 2, recompute, mode) for mode in (False, True))
        assert fake["flops"] == real["flops"] and fake["parameters"] == real["parameters"]
        assert fake["held"] == pytest.approx(real["held"], rel=0.01)


def test_the_arithmetic_by_hand():
    sys.path.insert(0, str(SCRIPT.parent))
    try:
        import scaling
        from scaling_tables import derive
    finally:
        sys.path.remove(str(SCRIPT.parent))
    facts = {
        "sizes": {"1 B": {"parameters": 1e9, "block": 5e7, "flops": 1e12, "held": 2e8, "held_recomputed": 2e7}},
        "state_bytes": 20, "checkpoint_bytes": 16, "write_mb": 1000, "decode": 1000, "windows": 20, "tokens": 100,
        "tokenize_flops": 1e9, "order_bytes": 16,
    }  # fmt: skip
    args = argparse.Namespace(
        gpus=10, gpu_gb=80, peak_tflops=1000, mfu=0.5, network_gbytes=10, disk_gbytes=2, cores_a_gpu=10, hours=1000,
        source_fps=30, fps=1, video_mbit=8,
    )  # fmt: skip
    rows = scaling.Rows()
    derive(rows, facts, args)
    value = {row["name"]: row["value"] for row in rows}
    assert value["1 B: whole on each GPU"] == pytest.approx(22)
    assert value["1 B: cut over 10 GPUs"] == pytest.approx(2 + 0.6)
    assert value["1 B: speed of 10 GPUs"] == pytest.approx(5000)
    assert value["1 B: network of a step, DDP"] == pytest.approx(1000 * 8e9 * 0.9 / 1e10)
    assert value["1 B: samples a GPU and step that hide it"] == pytest.approx(0.72 * 500)
    assert value["files"] == pytest.approx(3.6) and value["token cache"] == pytest.approx(3.6e6 * 200 / 1e12)
    assert value["decoding on 100 cores"] == pytest.approx(1000 * 30 / 1000 / 100)
    assert value["1 B: cores to feed it from files"] == pytest.approx(250)
