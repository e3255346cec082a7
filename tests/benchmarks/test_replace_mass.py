"""What docs/diffusion.md says of the replacement mass is counted rightly."""

import types
from pathlib import Path

import numpy as np
import pytest

from tests.pipelines.tiny_policy import tiny_policy


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import replace_mass

    return replace_mass


def test_wrong_tokens_of_a_training_sequence(benchmark):
    row = benchmark.corrupted(0.02, rounds=4)
    assert abs(row["wrong"] - 592 * 0.02) < 0.3  # one in 2048, or 48, of the replaced is right by chance
    assert abs(row["wrong_share"] - 0.02 / 0.505) < 0.01


def test_revisions_of_a_plan(benchmark):
    model, processor = tiny_policy()
    policy = types.SimpleNamespace(model=model, processor=processor)
    size = processor.image_size
    images = {camera: np.zeros((size, size, 3), np.uint8) for camera in processor.cameras}
    state = np.asarray(processor.state_stats["mean"], np.float32)
    observations = [{"images": images, "instruction": "close the drawer", "state": state}] * 8
    row = benchmark.planned(policy, observations, 0.02, None)
    # redrawn once on average on the way down, and once more at the end; from nearly the same distribution
    assert abs(row["revised_per_token"] - 2 * (1 - row["certain"])) < 0.3
    assert 0 < row["certain"] < 0.5  # a network that has learned nothing
    assert "forward" not in vars(model.model.trunk)
