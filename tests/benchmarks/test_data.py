"""The benchmark runs at a toy size, and says what its readers expect."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest


SCRIPT = Path(__file__).parents[2] / "benchmarks" / "data.py"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import data

    yield data
    sys.modules.pop("data")


def test_one_object_a_line(tmp_path):
    words = "--quick --json --episodes 2 --files 10 --minutes 0.005 --sizes 4 --folder".split()
    command = [sys.executable, str(SCRIPT), *words, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert all(set(row) == {"name", "ms", "ratio", "peak_mb", "cpu_ms", "cpu_ratio"} and row["ms"] > 0 for row in rows)
    sides = [f"{size} x {size}, {side}" for size in (96, 224) for side in ("plain", "lazy", "store")]
    by_name = {row["name"]: row for row in rows}
    assert set(sides) < set(by_name) and by_name["96 x 96, plain"]["ratio"] == 1
    assert [name for name in by_name if "info" in name] == ["hf-vpdd info, 4 episodes"]
    for word in ("the store of 200 frames has paid after", "token windows a second", "slope", "per 1,000 more"):
        assert word in done.stderr
    watched = json.loads((tmp_path / "memory.json").read_text())
    assert watched["open"] == 8 and len(watched["samples"]) == 100


def test_all_sides_read_the_same_frames(benchmark, tmp_path):
    from hf_vpdd.data.frame_store import FrameStore

    root = benchmark.make_dataset(tmp_path / "set", 64, 3, 30)
    reader = benchmark.Windows(root)
    store = FrameStore.build(root, "front", 64, tmp_path / "cache", progress=False)
    windows = [(0, 0), (2, 22), *reader.draw(10)]
    for (episode, first), *frames in zip(
        windows, reader.plain(windows), reader.lazy(windows), reader.stored(store, windows)
    ):
        expected = reader.dataset.frames("front", episode)[first : first + benchmark.FRAMES]
        assert all(np.array_equal(one, expected) for one in frames)
