"""The benchmark runs on any policy and value model, goes on where it stopped, and its controls are what they say."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hf_vpdd.errors import InputError
from hf_vpdd.policy import RobotPolicy
from hf_vpdd.saving import save_policy
from hf_vpdd.value_planning import ValueRanker
from tests.pipelines.tiny_policy import observation, tiny_policy
from tests.pipelines.tiny_vptr import tiny_value_model


SCRIPT = Path(__file__).parents[2] / "benchmarks" / "value_guided_planning.py"


@pytest.fixture(scope="module")
def benchmark():
    sys.path.insert(0, str(SCRIPT.parent))
    spec = importlib.util.spec_from_file_location("value_guided_planning", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(SCRIPT.parent))


def test_the_controls(benchmark):
    ranker = ValueRanker(*tiny_value_model(intent="text"))
    model, processor = tiny_policy()
    batch, found = [observation(i) for i in range(6)], {}
    for choice, control in benchmark.CONTROLS.items():
        policy = RobotPolicy(model, processor, value_model=control(ranker), num_candidates=4, temperature=1.0)
        found[choice] = policy.predict(batch, generator=[torch.Generator().manual_seed(i) for i in range(6)])
    best, chance, worst = (found[choice] for choice in ("best", "random", "worst"))
    assert np.array_equal(best.candidate_actions, worst.candidate_actions)
    assert np.array_equal(best.candidate_actions, chance.candidate_actions)
    assert np.array_equal(best.values, -worst.values) and np.array_equal(worst.chosen, best.values.argmin(1))
    assert chance.values.min() >= 0 and chance.values.max() < 1 and len(set(chance.chosen)) > 1
    one = torch.randint(0, 256, (5, 2, 8, 8, 3), dtype=torch.uint8)
    numbers = benchmark.ByHash(ranker)
    assert torch.equal(numbers.values(one, [""] * 5)[3:], numbers.values(one[3:], [""] * 2))
    spread = benchmark.ByHash(ranker).values(torch.randint(0, 256, (40, 25, 8, 8, 3), dtype=torch.uint8), [""] * 40)
    assert abs(float(spread.mean()) - 0.5) < 0.05 and abs(float(spread.std()) - 12**-0.5) < 0.03


def test_sign_test_and_rows(benchmark):
    assert benchmark.sign_test(0, 0) == 1 and benchmark.sign_test(3, 3) == 1
    assert benchmark.sign_test(5, 0) == pytest.approx(2 / 32) and benchmark.sign_test(1, 7) == pytest.approx(18 / 256)
    names = [row.name for row in benchmark.make_rows([16, 4, 4])]
    assert names == ["N = 1", "N = 4, best value", "N = 4, random", "N = 4, worst value", "N = 16, best value"]
    assert [row.name for row in benchmark.make_rows([4, 16], [16])][1:3] == ["N = 4, best value", "N = 16, best value"]
    assert len(benchmark.make_rows([4, 16], [4, 16])) == 7 and len(benchmark.make_rows([4, 16], [])) == 3


def test_won_and_lost(benchmark):
    class Kept:
        def get(self, row, kind):
            solved = {"N = 1": (1, 0, 0), "N = 4, best value": (0, 1, 1), "N = 4, random": (1, 1, 0)}
            solved = solved.get(row, (1, 1, 1))
            episodes = [{"task": "t", "seed": i, "success": bool(x), "steps": 9} for i, x in enumerate(solved)]
            return {"time": {"ms": 10.0 if row == "N = 1" else 25.0}, "episodes": episodes}.get(kind)

    plain, best, chance, _, more = benchmark.gather(benchmark.make_rows([4, 16]), Kept())
    assert (more["won_random"], more["lost_random"]) == (1, 0)  # of the N that has one
    assert (best["won_plain"], best["lost_plain"], best["won_random"], best["lost_random"]) == (2, 1, 1, 1)
    assert (chance["won_plain"], chance["lost_plain"]) == (1, 0) and "won_random" not in chance
    assert best["ratio"] == 2.5 and "won_plain" not in plain
    assert "| 2 / 1 (1.00) | 1 / 1 (1.00) |" in benchmark.markdown([best])


def test_runs_and_goes_on(benchmark, tmp_path, capsys, monkeypatch):
    save_policy(tmp_path / "policy", *tiny_policy())
    words = f"--quick --json --policy {tmp_path / 'policy'} --out {tmp_path / 'out'} --max-steps 6 --workers 0".split()
    assert benchmark.main(words) == 0
    rows = {row["name"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert list(rows) == ["N = 1", "N = 4, best value", "N = 4, random", "N = 4, worst value"]
    assert {"name", "ms", "ratio", "peak_mb"} <= set(rows["N = 1"]) and rows["N = 1"]["ratio"] == 1
    assert rows["N = 4, best value"]["value_spread"] > 0 and rows["N = 4, best value"]["trunk_passes"] == 4
    monkeypatch.setattr(benchmark, "spreads", None)
    monkeypatch.setattr(sys.modules["sampler_quality"], "times", None)
    monkeypatch.setattr(sys.modules["sampler_quality"], "record", None)
    assert benchmark.main(words) == 0  # again: everything is there, nothing is run
    assert {row["name"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())} == rows
    page = tmp_path / "page.md"
    page.write_text(f"# Before\n\n{benchmark.BEGIN}\nold\n{benchmark.END}\n\nAfter\n")
    assert benchmark.main([*words, "--report", "--write", str(page)]) == 0
    assert "N = 4, random" in page.read_text() and page.read_text().endswith("After\n")
    save_policy(tmp_path / "value", *tiny_value_model(intent="text"))
    with pytest.raises(InputError, match="other settings"):
        benchmark.main([*words, "--value-model", str(tmp_path / "value")])
    with pytest.raises(InputError, match="--value-model: name the folder"):
        benchmark.main(["--policy", str(tmp_path / "policy")])
    with pytest.raises(InputError, match="numbers from 2 up"):
        benchmark.main(["--quick", "--candidates", "1"])
