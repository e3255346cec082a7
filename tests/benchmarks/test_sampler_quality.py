"""The benchmark runs on any policy, goes on where it stopped, and its comparisons are right."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from hf_vpdd.errors import InputError
from hf_vpdd.saving import save_policy
from tests.pipelines.tiny_policy import tiny_policy


SCRIPT = Path(__file__).parents[2] / "benchmarks" / "sampler_quality.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("sampler_quality", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_agreement_of_tokens(benchmark):
    present = torch.tensor([[1, 1, 1, 1]])
    future = torch.tensor([[1, 1, 2, 3]])
    codes = torch.tensor([[1, 4, 2, 2]])
    reference = torch.tensor([[1, 4, 2, 3]]), torch.tensor([[[0, 5]]])
    found = benchmark.compare((codes, torch.tensor([[[2, 5]]])), reference, future, present)
    assert found == {
        "codes_as_reference": 0.75,
        "codes_as_future": 0.5,
        "changed_codes_as_future": 0.5,
        "bins_from_reference": 1.0,
    }
    assert benchmark.compare_copy(present, future) == {"codes_as_future": 0.5, "changed_codes_as_future": 0.0}


def test_runs_and_goes_on(benchmark, tmp_path, capsys, monkeypatch):
    save_policy(tmp_path / "policy", *tiny_policy())
    words = f"--quick --json --policy {tmp_path / 'policy'} --out {tmp_path / 'out'} --max-steps 8 --workers 0".split()
    assert benchmark.main([*words, "--only", benchmark.DEFAULT, "two-phase, 2 + 2"]) == 0
    rows = {row["name"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert list(rows) == [benchmark.DEFAULT, "two-phase, 2 + 2", "copy of the present"]
    default = rows[benchmark.DEFAULT]
    assert {"name", "ms", "ratio", "peak_mb"} <= set(default) and default["ms"] > 0
    assert (default["trunk_passes"], default["head_passes"]) == (4, 4)
    assert (rows["two-phase, 2 + 2"]["trunk_passes"], rows["two-phase, 2 + 2"]["head_passes"]) == (2, 2)
    assert default["episodes"] == 3 and default["low"] <= default["success"] <= default["high"]
    # again: everything is there, nothing is run
    for name in ("tokens", "times", "succeed", "record"):
        monkeypatch.setattr(benchmark, name, None)
    assert benchmark.main([*words, "--only", benchmark.DEFAULT]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[0]) == default
    with pytest.raises(InputError, match="measured with other settings"):
        benchmark.main([*words, "--seed", "7"])
    with pytest.raises(InputError, match="no row 'ddim'"):
        benchmark.main([*words, "--only", "ddim"])
