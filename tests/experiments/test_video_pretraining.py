import json

import pytest
import torch
import yaml
from safetensors.torch import load_file

from hf_vpdd.errors import InputError
from hf_vpdd.evaluation.metrics import score
from hf_vpdd.experiments import few_shot
from hf_vpdd.experiments.few_shot import Cell
from hf_vpdd.experiments.video_pretraining import (
    ARMS,
    COMPARISONS,
    VideoPretrainingPlan,
    difference,
    readings,
    report,
    run_study,
    study_grid,
    summarise,
)
from hf_vpdd.training import load_recipe

from ..training.gr1_data import gr1_experiment
from ..training.small_data import write_dataset


MARKS = "# Card\n\n<!-- results: hf-vpdd compare --study gr1 -->\nold\n<!-- end of results -->\n\nThe end.\n"


@pytest.fixture
def plan(tmp_path) -> VideoPretrainingPlan:
    config = gr1_experiment(write_dataset(tmp_path / "robot", 4), tmp_path / "unused")
    config["data"]["camera"] = "corner2"
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(config))
    return VideoPretrainingPlan(
        recipe=str(tmp_path / "recipe.yaml"), out=str(tmp_path / "out"), steps=2, pretrain_steps=3, keep_policies=True
    )


def result(arm, seed, successes, episodes=50, demos=5):
    tasks = {"a-v3": {"successes": successes, "episodes": episodes}}
    return {"arm": arm, "demos": demos, "seed": seed, "draw": 0, "tasks": tasks}


def test_arms_differ_in_the_weights_they_start_from_alone(plan):
    recipes = {arm: load_recipe("gr1_finetune", plan.recipe, plan.settings(Cell(arm, 1, 2, 0))) for arm in ARMS}
    assert all(recipe.init_from.endswith("seed2") for recipe in recipes.values())
    for one, other in (("pretrained", "scratch"), ("frozen", "frozen-scratch")):
        assert not recipes[one].options.from_scratch and recipes[other].options.from_scratch
        recipes[other].options.from_scratch = False
        assert recipes[one].to_dict() == recipes[other].to_dict()
    assert {arm for pair in COMPARISONS for arm in pair[:2]} == set(ARMS)


def test_the_whole_chain_on_small_data(plan, tmp_path, monkeypatch):
    """Everything but the simulator, and a card filled in while half of the study is missing."""
    played = [{"success": i < 3, "steps": 0} for i in range(4)]
    monkeypatch.setattr(few_shot, "_evaluate", lambda plan, folder: [score("a-task-v3", played)])
    cells = study_grid(list(ARMS), [1], seeds=2, draws=1)
    with pytest.raises(InputError, match="no result of this grid yet"):
        report(plan, cells)
    results = run_study(plan, [cell for cell in cells if cell.seed == 0], progress=False)
    assert [r["arm"] for r in results] == list(ARMS) and all(r["steps"] == 2 for r in results)
    trained = json.loads((plan.pretrained(0) / "training.json").read_text())
    assert trained["steps"] == 3 and not plan.pretrained(1).exists()

    # towers: as video left them where they are frozen, moved or random where not
    video = load_file(plan.pretrained(0) / "model.safetensors")
    tower = [name for name in video if name.startswith("model.image_model.")]
    kept = {}
    for arm in ARMS:
        weights = load_file(tmp_path / "out" / "cells" / Cell(arm, 1, 0, 0).name / "policy" / "model.safetensors")
        kept[arm] = all(torch.equal(weights[name], video[name]) for name in tower)
    assert kept == {arm: arm.startswith("frozen") for arm in ARMS} and tower

    card = tmp_path / "card.md"
    card.write_text(MARKS)
    text = report(plan, cells, card)
    filled = card.read_text()
    assert text in filled and "old" not in filled and filled.endswith("The end.\n")
    assert text.count("75.0 %") == 4 and "**4 of 8 runs are finished" in text and "| seed 0, 3 steps |" in text
    assert report(plan, cells, card) == text and card.read_text() == filled
    lines = [json.loads(line) for line in (tmp_path / "gr1_results.jsonl").read_text().splitlines()]
    assert [line.get("arm") for line in lines] == [*ARMS, None] and lines[-1]["copy_psnr"] > 0

    monkeypatch.setattr(few_shot, "run_cell", None)  # nothing is trained twice
    assert run_study(plan, cells[:4], progress=False) == results
    (tmp_path / "bare.md").write_text("# Card\n")
    with pytest.raises(InputError, match="needs the lines"):
        report(plan, cells, tmp_path / "bare.md")


@pytest.mark.parametrize(
    "with_video, without, said",
    [(45, 20, "it helped"), (20, 45, "it hurt"), (30, 28, "no difference that these runs can show")],
)
def test_what_is_said_is_what_the_interval_says(with_video, without, said):
    results = [result("pretrained", s, with_video) for s in range(3)]
    results += [result("scratch", s, without) for s in range(2)]
    (line,) = readings(summarise(results, order=ARMS), results)
    assert line.endswith(f": {said}.") and ("of 2 pairs" in line)


def test_newcombe_interval():
    # Newcombe (1998), example of method 10: 56/70 and 48/80 differ by 0.2, 95 % interval 0.0524 to 0.3339
    scores = [score("", [{"success": i < won, "steps": 0} for i in range(of)]) for won, of in ((56, 70), (48, 80))]
    assert difference(*scores) == pytest.approx((0.2, 0.0524, 0.3339), abs=1e-4)


def test_an_unknown_arm_is_named():
    with pytest.raises(InputError, match="there is no arm 'video'"):
        study_grid(["video"], [1], 1, 1)
