"""The plain loop that the samplers are measured against is the same network, and the benchmark runs."""

import json
from pathlib import Path

import pytest
import torch

from hf_vpdd.modeling.vpdd import VPDDConfig
from hf_vpdd.modeling.vqvae import VPDDVQVAEConfig


BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    """The benchmark's module, with a network of the official kind that is small."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import vpdd_plan

    official = VPDDConfig.metaworld.__func__
    sizes = {
        "vqvae_config": VPDDVQVAEConfig(
            image_size=16, codebook_size=20, codebook_dim=8, hidden_size=8, num_res_layers=1
        ),
        "num_action_bins": 5,
        "hidden_size": 16,
        "trunk_layers": 2,
        "trunk_head_dim": 8,
        "trunk_ff_size": 32,
        "num_latents": 12,
        "head_hidden_size": 16,
        "head_layers": 3,
        "head_ff_size": 32,
    }
    monkeypatch.setattr(VPDDConfig, "metaworld", classmethod(lambda cls, **more: official(cls, **sizes, **more)))
    return vpdd_plan


def run(benchmark, capsys, *words):
    assert benchmark.main(["--quick", "--json", "--no-memory", *words]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_every_sampler_has_a_row(benchmark, capsys):
    rows = run(benchmark, capsys, "--bf16")
    assert all(set(row) == {"name", "ms", "ratio", "peak_mb", "gflop", "bar"} for row in rows)
    names = [row["name"] for row in rows]
    assert names[0] == benchmark.PLAIN and rows[0]["ratio"] == 1
    assert names[2 : 2 + len(benchmark.SAMPLERS)] == list(benchmark.SAMPLERS)
    assert any(name.endswith("bf16") for name in names)
    work = {row["name"]: row["gflop"] for row in rows}
    assert work["ancestral, 100 steps"] < work[benchmark.PLAIN]
    assert work["two-phase, 2 video + 4 action steps"] < work["ancestral, 8 steps"] < work["ancestral, 25 steps"]
    assert run(benchmark, capsys, "--sampler", "2 video")[1]["name"] == "two-phase, 2 video + 4 action steps"


def test_the_plain_loop_is_checked_against_the_model(benchmark):
    contest = benchmark.Contest(benchmark.argparse.Namespace(device="cpu"))
    contest.check()
    sample = contest.plain.plan(contest.pixels, contest.prompt)
    video, actions = sample.split(contest.plain.tokens, 1)
    assert 0 <= video.min() and video.max() < 20 <= actions.min() and actions.max() < 25
    with torch.no_grad():
        contest.plain.model.model.trunk.code_head.weight = torch.nn.Parameter(torch.zeros(20, 16))
    with pytest.raises(AssertionError, match="not close"):
        contest.check()
