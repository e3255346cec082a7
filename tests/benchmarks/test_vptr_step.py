"""The benchmark of V-PTR's training steps: both sides do the same, and the literal side really takes twelve passes."""

import argparse
import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch


SCRIPT = Path(__file__).parents[2] / "benchmarks" / "vptr_step.py"
WORDS = ["--quick", "--image-size", "16", "--batch", "4", "--repeats", "1"]


@pytest.fixture(scope="module")
def benchmark():
    sys.path.insert(0, str(SCRIPT.parent))
    spec = importlib.util.spec_from_file_location("vptr_step", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(SCRIPT.parent))


@pytest.fixture(scope="module")
def frames(benchmark, tmp_path_factory):
    return benchmark.Frames(benchmark.make_dataset(tmp_path_factory.mktemp("step") / "data", 16), 16)


def contest(benchmark, frames, objective):
    return benchmark.Contest(objective, argparse.Namespace(encoder="impala", image_size=16, batch=4), frames)


def passes(model, method, run) -> int:
    """How many images `model`'s encoder sees while `run` runs."""
    counts, original = [], getattr(model, method)
    handle = original.register_forward_pre_hook(lambda _, inputs: counts.append(len(inputs[0])))
    run()
    handle.remove()
    return sum(counts)


def test_icvf_takes_twelve_passes_or_seven(benchmark, frames):
    found = contest(benchmark, frames, "icvf")
    seen = {}
    for side, player in found.sides.items():
        step = lambda side=side: found.step(side, "cache")  # noqa: E731
        seen[side] = [passes(net.model, "encoder", step) / 4 for net in (player.model, player.target)]
    assert seen["literal"] == seen["literal, channels-last"] == [3, 9]
    assert seen["ours"] == [3, 4]


def test_cql_tiles_the_pixels_or_not(benchmark, frames):
    found = contest(benchmark, frames, "cql")
    seen = {}
    for side, player in found.sides.items():
        step = lambda side=side: found.step(side, "cache")  # noqa: E731
        seen[side] = [passes(player.policy, f"{name}_encoder", step) / 4 for name in ("actor", "critic")]
    assert seen["literal"] == [4 + 1 + 1, 2] and seen["ours"] == [3, 2]


@pytest.mark.parametrize("objective", ["icvf", "cql"])
def test_losses_and_weights_are_equal(benchmark, frames, objective):
    found = contest(benchmark, frames, objective)
    losses = found.check()
    assert losses["ours"] == pytest.approx(losses["literal"], rel=2e-4) and len(set(losses["ours"])) == 3
    ours, literal = (
        getattr(found.sides[side], "model" if objective == "icvf" else "policy") for side in ("ours", "literal")
    )
    start = getattr(contest(benchmark, frames, objective).sides["ours"], "model" if objective == "icvf" else "policy")
    for (name, a), b, c in zip(ours.named_parameters(), literal.parameters(), start.parameters()):
        # Adam's first steps are signs: where a gradient is as good as zero, they may differ
        close = torch.isclose(a, b, atol=2e-5).float().mean()
        assert close > 0.97, (name, close)
        assert name == "log_temperature" or not torch.equal(a, c) or not c.numel(), name


def test_another_loss_is_noticed(benchmark, frames):
    found = contest(benchmark, frames, "icvf")
    found.sides["literal"].expectile = 0.7
    with pytest.raises(SystemExit, match="losses differ"):
        found.check()


def test_rows(benchmark, capsys):
    assert benchmark.main([*WORDS, "--json", "--objectives", "icvf", "--clock", "cpu", "--no-memory"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert len(rows) == 5 and all({"name", "ms", "ratio", "peak_mb", "loss"} <= set(row) for row in rows)
    assert all(row["ms"] > 0 for row in rows) and len({row["loss"] for row in rows}) == 1
    assert [row["ratio"] for row in rows if row["name"].endswith("literal")] == [1, 1]


def test_memory_of_one_side(benchmark, capsys):
    """What the child processes of the table run, with the arguments that they get."""
    args = argparse.Namespace(encoder="impala", image_size=16, batch=4, threads=1)
    for side in ("literal", "ours"):
        assert benchmark.main(benchmark.child_arguments(args, "cql", side)) == 0
        assert json.loads(capsys.readouterr().out.splitlines()[-1])["peak_mb"] >= 0
