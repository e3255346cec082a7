import json
from dataclasses import replace

import pytest

from hf_vpdd.commands import compare
from hf_vpdd.errors import InputError
from hf_vpdd.experiments import value_transfer
from hf_vpdd.experiments.value_tables import gridworld_table, order_table, policy_table, put_runs, put_table
from hf_vpdd.experiments.value_transfer import (
    TransferPlan,
    finished,
    pooled,
    run_offline_study,
    run_value_order,
)


def policy_result(arm, seed, seen, unseen, episodes=10):
    def tasks(won):
        return {"a": {"successes": won, "episodes": episodes}, "b": {"successes": 0, "episodes": episodes}}

    conditions = {"seen": tasks(seen), "unseen": tasks(unseen)}
    return {"study": "offline-rl", "arm": arm, "seed": seed, "conditions": conditions}


def order_result(arm, seed, order):
    floors = {"untrained_order": 0.1 + seed / 10, "pixel_order": 0.5}
    return {"study": "value-order", "arm": arm, "seed": seed, "order": order, **floors}


def write(plan, study, result):
    path = plan.result(study, result["arm"], result["seed"])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result))


def test_finished_cells_are_not_run_again_and_their_order_is_that_of_seeds(tmp_path):
    plan = TransferPlan(recipe="there-is-none.yaml", out=str(tmp_path))
    for seed in (0, 1):
        for arm, order in (("vip", 0.4), ("icvf", 0.6)):
            write(plan, "value-order", order_result(arm, seed, order))
    results = run_value_order(plan, ["icvf", "vip"], 2, progress=False)
    assert [(r["arm"], r["seed"]) for r in results] == [("icvf", 0), ("vip", 0), ("icvf", 1), ("vip", 1)]
    with pytest.raises(InputError, match="with episodes 10, now it is 3"):
        run_value_order(replace(plan, episodes=3), ["icvf"], 1, progress=False)
    with pytest.raises(InputError, match="there-is-none"):  # a missing cell does need the recipe
        run_value_order(plan, ["icvf"], 3, progress=False)
    assert len(finished(plan, "value-order", ["icvf", "vip", "tcn"], 3)) == 4


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda plan: run_value_order(plan, ["scratch"], 1), "no arm 'scratch' in value-order"),
        (lambda plan: run_offline_study(plan, ["icvf"], 1), "no arm 'icvf' in offline-rl"),
        (lambda plan: run_offline_study(replace(plan, conditions=("dark",)), ["vip"], 1), "no condition 'dark'"),
        (lambda plan: run_offline_study(plan, ["vip"], 0), "at least 1"),
    ],
)
def test_what_is_refused(tmp_path, call, says):
    with pytest.raises(InputError, match=says):
        call(TransferPlan(recipe="r.yaml", out=str(tmp_path)))


def test_a_policy_cell_trains_from_the_value_model_of_its_seed(tmp_path, monkeypatch):
    recipe = tmp_path / "r.yaml"
    recipe.write_text("family: vptr\ndata: {root: [d], image_size: 32}\nmodel: {encoder: impala}\n")
    plan, ran = TransferPlan(str(recipe), str(tmp_path / "out"), value_steps=7, steps=5), []

    def run(recipe, function, **given):
        ran.append((function.__name__, recipe))
        recipe_folder = plan.result("offline-rl", "vip", 2).parent / "policy"
        recipe_folder.mkdir(parents=True, exist_ok=True)
        (recipe_folder / "training.json").write_text('{"cpu_seconds": 1.0}')

    monkeypatch.setattr(value_transfer, "run_unless_done", run)
    monkeypatch.setattr(value_transfer, "_store", lambda *a, **k: None)
    counts = {"a": {"successes": 1, "episodes": 2}}
    monkeypatch.setattr(value_transfer, "_evaluate", lambda *a: counts)
    found = value_transfer.run_policy_cell(plan, "vip", 2)
    (first, values), (second, policy) = ran
    assert (first, second) == ("run_value_pretrain", "run_offline_rl")
    assert values.options.objective == "vip" and values.train.steps == 7 and policy.train.steps == 5
    assert policy.options.init == f"vip:{values.output_dir}" and policy.train.seed == values.train.seed == 2
    assert found["conditions"] == {"seen": counts, "unseen": counts}
    assert not (plan.result("offline-rl", "vip", 2).parent / "policy").exists()


def test_tables():
    orders = [order_result(arm, seed, 0.7 + seed / 10) for seed in (0, 1) for arm in ("vip", "icvf")]
    table = order_table(orders).splitlines()
    assert table[2] == "| ICVF (V-PTR) | **0.750** (0.700 0.800) |" and "| VIP |" in table[3]
    assert table[4] == "| untrained network | **0.150** (0.100 0.200) |" and table[5] == "| pixel distance | 0.500 |"
    results = [policy_result(arm, seed, 5, 2) for seed in (0, 1) for arm in ("scratch", "vptr")]
    table = policy_table(results).splitlines()
    assert "moved camera" not in table[0]  # nobody measured it
    assert table[2].startswith("| ICVF (V-PTR) | 25.0 % [") and table[2].endswith("| 40 | 2 |")
    assert pooled(results[:2], "unseen").successes == 4
    cells = [{"arm": "tcn", "seed": 0, "spearman": 0.9, "greedy_step": 0.8, "order": 0.7}]
    assert "| TCN (R3M) | 0.900 | 0.800 | 0.700 | 1 |" in gridworld_table(cells)


def test_tables_and_runs_are_put_into_documents(tmp_path):
    document, runs = tmp_path / "d.md", tmp_path / "r.jsonl"
    document.write_text("a\n<!-- value-order -->\nold\n<!-- /value-order -->\nb\n")
    put_table(document, "value-order", "new\n")
    assert document.read_text() == "a\n<!-- value-order -->\nnew\n<!-- /value-order -->\nb\n"
    with pytest.raises(InputError, match="has no marks"):
        put_table(document, "offline-rl", "x")
    put_runs(runs, "value-order", [order_result("vip", 0, 0.1)])
    put_runs(runs, "offline-rl", [policy_result("vip", 0, 1, 1)])
    put_runs(runs, "value-order", [order_result("vip", 1, 0.2)])
    lines = [json.loads(line) for line in runs.read_text().splitlines()]
    assert [(line["study"], line["seed"]) for line in lines] == [("offline-rl", 0), ("value-order", 1)]


def test_from_the_command_line(tmp_path, capsys):
    import argparse

    parser = argparse.ArgumentParser()
    compare.add_arguments(parser)
    given = ["--study", "value-order", "--out", str(tmp_path), "--seeds", "1", "--report-only"]
    with pytest.raises(InputError, match="needs a recipe"):
        compare.run(parser.parse_args(given))
    given += ["--config", "r.yaml"]
    with pytest.raises(InputError, match="no results of value-order yet"):
        compare.run(parser.parse_args(given))
    write(TransferPlan("r.yaml", str(tmp_path)), "value-order", order_result("tcn", 0, 0.25))
    document = tmp_path / "d.md"
    document.write_text("<!-- value-order -->\n<!-- /value-order -->\n")
    runs = tmp_path / "runs.jsonl"
    assert compare.run(parser.parse_args([*given, "--write-to", str(document), "--runs", str(runs)])) == 0
    assert "| TCN (R3M) | 0.250 |" in document.read_text() and "0.250" in capsys.readouterr().out
    assert json.loads(runs.read_text())["arm"] == "tcn" and (tmp_path / "value-order.md").is_file()
    with pytest.raises(InputError, match="--study few-shot needs a recipe"):
        compare.run(parser.parse_args(["--out", str(tmp_path)]))
