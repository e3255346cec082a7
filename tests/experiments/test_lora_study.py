import json
import re
from dataclasses import replace

import pytest
import torch
import yaml

from hf_vpdd.cli import main
from hf_vpdd.errors import InputError
from hf_vpdd.experiments import lora_study
from hf_vpdd.experiments.lora_study import (
    ARMS,
    LoraPlan,
    finished,
    paired_difference,
    run_study,
    study_table,
    train_metered,
)
from hf_vpdd.modeling.lora_targets import LORA_TARGETS
from hf_vpdd.modeling.vpdd.configuration_vpdd import VPDDConfig
from hf_vpdd.modeling.vpdd.modeling_vpdd import VPDDForRobotPolicy
from hf_vpdd.training import load_recipe, run_finetune, run_pretrain, run_vqvae

from ..training.small_data import TASKS, experiment, write_dataset


TRAINED = [arm for arm, settings in ARMS.items() if settings is not None]
TASK = TASKS[0]


@pytest.fixture(scope="module")
def plan(tmp_path_factory) -> LoraPlan:
    """A small policy of one task, and a recipe that goes on from it."""
    root = tmp_path_factory.mktemp("lora")
    config = experiment(write_dataset(root / "data", 4), root / "out")
    config["train"] |= {"tracker": "none", "eval_every": 0, "save_every": 0}
    (root / "recipe.yaml").write_text(yaml.safe_dump(config))
    run_vqvae(load_recipe("vqvae", root / "recipe.yaml"))
    run_pretrain(load_recipe("pretrain", root / "recipe.yaml"))
    base = run_finetune(load_recipe("finetune", root / "recipe.yaml", {"data.tasks": [TASKS[1]]}))
    goes_on = {name: config[name] for name in ("data", "train")} | {"init_from": str(base)}
    (root / "recipe.yaml").write_text(yaml.safe_dump(goes_on))
    return LoraPlan(str(root / "recipe.yaml"), str(root / "study"), (TASK,), demos=2, steps=3, episodes=4)


def test_arms_get_the_same_data_and_steps(plan):
    recipes = {arm: plan.resolved(TASK, arm, 1) for arm in TRAINED}
    for recipe in recipes.values():
        assert (recipe.train.steps, recipe.train.seed, recipe.data.episodes_per_task) == (3, 1, 2)
        assert recipe.data == recipes["full"].data and recipe.init_from == recipes["full"].init_from
    assert recipes["full"].options.trunk_lr_multiplier > 0  # else the trunk would not train
    assert [arm for arm, recipe in recipes.items() if recipe.options.lora] == ["lora", "lora-head"]


def test_the_arm_called_lora_adapts_what_is_adapted_by_default():
    with torch.device("meta"):
        network = VPDDForRobotPolicy(VPDDConfig.tiny())
    names = [name for name, module in network.named_modules() if isinstance(module, torch.nn.Linear)]
    wanted, found = (
        {name for name in names if re.fullmatch(pattern, name)}
        for pattern in (LORA_TARGETS["vpdd"], ARMS["lora"]["lora_target_modules"])
    )
    assert found == wanted and any(name.startswith("action_head.") for name in found)


def test_what_a_training_cost(plan, tmp_path):
    plan = replace(plan, out=str(tmp_path))
    costs = {}
    for arm in TRAINED:
        train_metered(plan, TASK, arm, 0)
        costs[arm] = json.loads((plan.cell(TASK, arm, 0) / "cost.json").read_text())
    trained = {arm: cost["trainable_parameters"] for arm, cost in costs.items()}
    assert trained["lora"] < trained["head"] < trained["lora-head"] < trained["full"]
    for arm, cost in costs.items():
        assert cost["state_mb"] == pytest.approx(12 * trained[arm] / 2**20, abs=1e-3)  # float32, twice for Adam
        assert cost["peak_mb"] > cost["growth_mb"] >= 0 and cost["cpu_seconds_per_step"] > 0
        assert cost["saved_mb"] > 0 and cost["held_out_loss"] > 0 and (cost["steps"], cost["demos"]) == (3, 2)
    assert costs["head"]["saved_mb"] < costs["full"]["saved_mb"]  # nothing goes back through the trunk
    # what has to be shared: of adapters little more than their float32 numbers, else the whole policy
    assert 4 * trained["lora"] < costs["lora"]["weights_bytes"] < 4 * trained["lora"] + 40_000
    assert costs["lora-head"]["weights_bytes"] < costs["full"]["weights_bytes"] == costs["head"]["weights_bytes"]


def test_cells_are_trained_once_paired_and_told(plan, tmp_path, monkeypatch):
    """Everything but the simulator."""
    plan = replace(plan, out=str(tmp_path / "study"), kept_episodes=2)
    tried = []

    def play(policy, tasks, episodes, first_seed, out):
        tried.append((policy, tasks, episodes, first_seed))
        won = "1011" if "-lora-" in policy else "0001" if "-full-" in policy else "0000"
        return {"successes": won.count("1"), "episodes": 4, "won": won, "first_seed": first_seed}

    monkeypatch.setattr(lora_study, "_tried", play)
    monkeypatch.setattr(lora_study, "_in_fresh_process", lambda job, *given: job(*given))  # that takes seconds each
    arms = ["full", "lora", "untouched", "expert"]
    assert not finished(plan, arms, 2)
    results = run_study(plan, arms, seeds=2, progress=False)
    assert [(r["arm"], r["seed"]) for r in results] == [(arm, seed) for seed in (0, 1) for arm in arms]
    # a seed has starts of its own, the same for all arms; the expert has learned nothing it could forget
    assert [t[1:] for t in tried if t[1] == TASK] == [(TASK, 4, 500000)] * 4 + [(TASK, 4, 500004)] * 4
    assert [t[1:] for t in tried if t[1] == "mt10"] == [("mt10", 2, 500000)] * 3 + [("mt10", 2, 500002)] * 3
    assert [t[0] for t in tried if t[0] == "expert"] == ["expert"] * 2
    assert sum(t[0] == plan.resolved(TASK, "full", 0).init_from for t in tried) == 4

    text = study_table(results)
    rows = {line.split(" | ")[0]: line for line in text.splitlines() if line.startswith("| `")}
    assert list(rows) == [f"| `{arm}`" for arm in arms]
    assert "75.0 % [41, 93] (75 75)" in rows["| `lora`"] and " kB |" in rows["| `lora`"]
    assert rows["| `expert`"].count("| - ") == 7
    # start by start 1011 against 0001, twice
    assert "`lora`: +50.0 [" in text and "of 8 starts 4 won by it alone, 0 by `full` alone" in text

    monkeypatch.setattr(lora_study, "run_cell", None)  # nothing is trained or tried twice
    assert run_study(plan, arms, seeds=2, progress=False) == results
    with pytest.raises(InputError, match="with episodes 4, now it is 5"):
        run_study(replace(plan, episodes=5), arms, seeds=2, progress=False)


def test_a_training_in_a_process_of_its_own(plan, tmp_path):
    """What is handed over can be, and bad input comes back as what it is."""
    plan = replace(plan, out=str(tmp_path), overrides=(("data.root", [str(tmp_path / "none")]),))
    with pytest.raises(InputError, match="none"):
        lora_study._in_fresh_process(train_metered, plan, TASK, "lora", 0)


def test_tables_of_an_unfinished_study():
    run = {
        "study": "lora",
        "task": "a-v3",
        "arm": "untouched",
        "seed": 0,
        "successes": 1,
        "episodes": 4,
        "won": "0100",
    }
    run["kept"] = {"successes": 3, "episodes": 4, "won": "1101", "first_seed": 500000}
    text = study_table([run, {**run, "task": "b-v3"}])
    assert text.count("25.0 % [5, 70] (25)") == 2 and "Against" not in text
    assert "75.0 % [30, 95] of 4 |" in text  # of one policy at the same starts, not eight


def test_interval_of_pairs():
    # Newcombe (1998), method 10: of 50 pairs 20 won by both, 12 and 2 by one alone, 16 by none: 0.2 [0.0562, 0.3292]
    one, other = "1" * 32 + "0" * 18, "1" * 20 + "0" * 12 + "11" + "0" * 16
    assert paired_difference(one, other) == pytest.approx((0.2, 0.0562, 0.3292), abs=1e-4)
    gain, low, high = paired_difference(other, one)
    assert (gain, low, high) == pytest.approx((-0.2, -0.3292, -0.0562), abs=1e-4)
    assert paired_difference("11", "11")[0] == 0  # no spread to divide by


def test_the_command_puts_what_is_finished_into_a_document(plan, tmp_path, capsys):
    run = {"study": "lora", "task": TASK, "arm": "full", "seed": 1, "successes": 3, "episodes": 4, "won": "1011"}
    path = replace(plan, out=str(tmp_path)).cell(TASK, "full", 1) / "result.json"
    command = ["compare", "--study", "lora", "--config", plan.recipe, "--tasks", TASK, "--out", str(tmp_path)]
    command += ["--write-to", str(tmp_path / "doc.md"), "--runs", str(tmp_path / "runs.jsonl"), "--report-only"]
    assert main([*command, "--demos", "2", "5"]) == 2 and "one number of --demos" in capsys.readouterr().err
    assert main([*command, "--demos", "2"]) == 2 and "no results of lora yet" in capsys.readouterr().err
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(run))
    (tmp_path / "doc.md").write_text("before\n<!-- lora -->\nold\n<!-- /lora -->\nafter\n")
    assert main([*command, "--demos", "2"]) == 0
    document = (tmp_path / "doc.md").read_text()
    assert document.startswith("before\n<!-- lora -->\n| arm |") and document.endswith("<!-- /lora -->\nafter\n")
    assert "75.0 % [30, 95] (75)" in document and "old" not in document
    assert [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines()] == [run]


def test_bad_arms_and_counts_are_named(plan):
    with pytest.raises(InputError, match="there is no arm 'qlora'"):
        run_study(plan, ["qlora"], seeds=1)
    with pytest.raises(InputError, match="at least 1, got 0"):
        run_study(plan, ["full"], seeds=0)
