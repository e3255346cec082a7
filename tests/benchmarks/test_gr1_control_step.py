"""The benchmark runs at a toy size, and says what its readers expect."""

import json
import subprocess
import sys
from pathlib import Path


SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gr1_control_step.py"


def test_one_object_a_line():
    words = "--quick --json --size tiny --repeats 2 --bf16 --device cpu".split()
    done = subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    names = ["plain window", "controller, window filling", "controller, window full"]
    assert [row["name"] for row in rows] == [f"{name}{kind}" for kind in ("", ", bf16") for name in names]
    assert all({"name", "ms", "ratio", "peak_mb", "cpu_ms", "gflop"} <= set(row) and row["ms"] > 0 for row in rows)
    assert rows[0]["ratio"] == 1 and rows[2]["difference"] <= 2e-6
    assert rows[0]["gflop"] > 3 * rows[2]["gflop"] > 0
