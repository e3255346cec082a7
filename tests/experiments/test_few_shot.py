import json
from dataclasses import replace

import pytest

from hf_vpdd.errors import InputError
from hf_vpdd.experiments.few_shot import ARMS, Cell, Plan, grid, markdown, result_path, run_grid, summarise


def result(arm, demos, seed, successes, episodes=50):
    tasks = {"a": {"successes": successes, "episodes": episodes}, "b": {"successes": 0, "episodes": episodes}}
    return {"arm": arm, "demos": demos, "seed": seed, "draw": 0, "tasks": tasks}


def test_grid_holds_every_cell_once_and_compares_arms_side_by_side():
    cells = grid(list(ARMS), [2, 5], seeds=3, draws=2)
    assert len(cells) == len(set(cells)) == 4 * 2 * 3 * 2
    assert [c.arm for c in cells[:4]] == list(ARMS)
    assert len({(c.demos, c.seed, c.draw) for c in cells[:4]}) == 1


def test_unknown_arm_is_named():
    with pytest.raises(InputError, match="magic"):
        grid(["magic"], [2], 1, 1)


def test_pooled_counts_and_median():
    rows = summarise([result("cloning-scratch", 2, s, won) for s, won in enumerate((10, 50, 20))])
    (row,) = rows
    assert (row.pooled.successes, row.pooled.episodes) == (80, 300)
    assert row.runs == (0.1, 0.5, 0.2) and row.median == 0.2
    assert row.pooled.low < 80 / 300 < row.pooled.high


def test_rows_are_sorted_by_demonstrations_then_arm():
    results = [result(arm, k, 0, 1) for arm in reversed(ARMS) for k in (5, 2)]
    rows = summarise(results)
    assert [(r.demos, r.arm) for r in rows] == [(k, arm) for k in (2, 5) for arm in ARMS]
    table = markdown(rows).splitlines()
    assert len(table) == 2 + len(rows) and "| 2 | diffusion-pretrained | 1.0 % [" in table[2]


def test_finished_cells_are_not_run_again(tmp_path):
    plan, cell = Plan(recipe="there-is-none.yaml", out=str(tmp_path)), Cell("cloning-scratch", 2, 0, 0)
    path = result_path(plan, cell)
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(result("cloning-scratch", 2, 0, 7)))
    assert run_grid(plan, [cell], workers=1, progress=False)[0]["tasks"]["a"]["successes"] == 7
    with pytest.raises(InputError, match="with episodes 50, now it is 10"):  # of the same name, but another experiment
        run_grid(replace(plan, episodes=10), [cell], workers=1, progress=False)
    with pytest.raises(InputError):  # and one that is not finished does need the recipe
        run_grid(plan, [Cell("cloning-scratch", 2, 1, 0)], workers=1, progress=False)
