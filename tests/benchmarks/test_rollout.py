"""The benchmark runs, and says what its readers expect. Its numbers are for idle machines, not for test runs."""

import json
import subprocess
import sys
from pathlib import Path

from hf_vpdd.saving import save_policy
from tests.pipelines.tiny_policy import tiny_policy


SCRIPT = Path(__file__).parents[2] / "benchmarks" / "rollout.py"


def test_one_object_a_line(tmp_path):
    save_policy(tmp_path / "policy", *tiny_policy())
    words = f"--quick --json --episodes 1 --repeats 1 --workers 1 --seats 2 --policy {tmp_path / 'policy'}"
    done = subprocess.run([sys.executable, str(SCRIPT), *words.split()], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert all(set(row) == {"name", "ms", "ratio", "peak_mb"} and row["ms"] > 0 for row in rows)
    names = [row["name"] for row in rows]
    assert names[:2] == ["bare simulator, 1 process", "eval, 1 process"]
    assert [name for name in names if name.startswith("policy, per action")] == names[2:] and len(names) == 4
    assert rows[0]["ratio"] == 1 and rows[1]["ratio"] > 0
