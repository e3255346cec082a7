import json

import pytest
import yaml

from hf_vpdd.data.frame_store import FrameStore
from hf_vpdd.errors import InputError
from hf_vpdd.experiments import embodiment
from hf_vpdd.experiments.embodiment import ARMS, MIXES, EmbodimentPlan
from hf_vpdd.experiments.few_shot import Cell, grid
from hf_vpdd.training import load_recipe

from ..training.small_data import SIZE, experiment, write_dataset


FOREIGN = ("wave a hand", "snap the fingers")


@pytest.fixture(scope="module")
def plan(tmp_path_factory) -> EmbodimentPlan:
    root = tmp_path_factory.mktemp("bodies")
    robot = write_dataset(root / "robot", 5)  # 2 tasks x 4 training episodes x 18 frames
    others = [
        write_dataset(root / name, 4, actions=False, state=False, length=9, cameras=("front",), tasks=list(FOREIGN))
        for name in ("hand", "paw")  # each 2 x 3 x 9
    ]
    config = experiment(robot, root / "unused")
    config["train"] |= {"steps": 2, "save_every": 0, "eval_every": 0, "log_every": 1, "tracker": "none"}
    (root / "recipe.yaml").write_text(yaml.safe_dump(config))
    return EmbodimentPlan(
        recipe=str(root / "recipe.yaml"), out=str(root / "out"), others=tuple(map(str, others)), demos=1,
        tokenizer_steps=2, pretrain_steps=3,
    )  # fmt: skip


def frames_of(plan, mix):
    """{dataset: training frames} of a mix."""
    store = embodiment.mixed_store(plan, mix)
    counts = {}
    for root in plan.roots(mix):
        part = store.subset([e for e in range(store.num_episodes) if store.roots[e] == root])
        trained = embodiment._training_episodes(part, 1)
        counts[root] = sum(length for _, length in trained)
    return counts


def test_every_mix_has_the_same_budget_of_frames_in_the_right_parts(plan):
    budget = embodiment.frame_budget(plan)
    assert budget == 108  # both other bodies together; the robot has 144
    target, (hand, paw) = plan.target(), plan.others
    assert frames_of(plan, "target") == {target: 108}
    assert frames_of(plan, "other") == {hand: 54, paw: 54}
    assert frames_of(plan, "mixture") == {target: 54, hand: 27, paw: 27}
    weights = plan.recipe_of("pretrain", "mixture").data.weights
    assert weights == [0.5, 0.25, 0.25] and plan.recipe_of("pretrain", "target").data.weights is None


def test_no_mix_without_the_robot_sees_one_of_its_frames(plan):
    store = embodiment.mixed_store(plan, "other")
    assert set(store.roots) == set(plan.others) and set(store.episode_task) == set(FOREIGN)


def test_held_out_episodes_are_the_last_of_every_task_in_every_mix(plan):
    whole = FrameStore.build(plan.target(), "corner2", SIZE, progress=False)
    part = embodiment.within_budget(whole, 40, held_out=1)  # room for two of the eight episodes
    assert part.episode_task == [*whole.episode_task[:2], *whole.episode_task[-2:]]
    assert (part.frames[-18:] == whole.frames[-18:]).all()
    with pytest.raises(InputError, match="less than one episode"):
        embodiment.within_budget(whole, 5, held_out=1)


def test_budgets_and_datasets_that_cannot_be_are_refused(plan):
    from dataclasses import replace

    with pytest.raises(InputError, match="109 frames is more than"):
        embodiment.frame_budget(replace(plan, frames=109))
    assert embodiment.frame_budget(replace(plan, frames=50)) == 50
    with pytest.raises(InputError, match="at least one --other"):
        replace(plan, others=()).target()
    with pytest.raises(InputError, match="there is no arm 'foreign'"):
        embodiment.run_study(plan, ["foreign"], 1)


def test_arms_differ_in_video_and_in_the_trunk_alone(plan):
    settings = {arm: plan.settings(Cell(arm, 1, 2, 0)) for arm in ARMS}
    assert settings["none"]["init_from"].endswith("demonstrations")
    assert settings["target"]["init_from"] == settings["target-frozen"]["init_from"]
    assert settings["target"]["init_from"].endswith("target-seed2")
    for arm, given in settings.items():
        assert given["trunk_lr_multiplier"] == (0.0 if arm.endswith("frozen") else 1.0)
        assert given.get("from_scratch", False) == arm.startswith("none")
        load_recipe("finetune", plan.recipe, given)  # what an arm sets is what the stage knows


def test_the_whole_chain_on_small_data(plan, monkeypatch):
    """Everything but the simulator: tokenizers, trunks and policies of all arms, and both tables."""
    from hf_vpdd.evaluation.metrics import score
    from hf_vpdd.experiments import few_shot

    played = [{"success": i < 3, "steps": 0} for i in range(4)]
    monkeypatch.setattr(few_shot, "_evaluate", lambda plan, folder: [score("a-task", played)])
    results, psnr = embodiment.run_study(plan, list(ARMS), seeds=2, progress=False)
    assert len(results) == len(grid(list(ARMS), [1], 2, 1, known=ARMS))
    assert set(psnr) == set(MIXES) and all(set(v) == {plan.target(), *plan.others} for v in psnr.values())
    trained = {
        p.parent.name: json.loads(p.read_text())["steps"]
        for p in plan.pretrained("x", 0).parent.glob("*/training.json")
    }
    assert trained == {"demonstrations": 1, **{f"{m}-seed{s}": 3 for m in MIXES[1:] for s in (0, 1)}}
    text = embodiment.report(plan, results, psnr)
    assert text.count("75.0 %") == len(ARMS) and "| demonstrations |" in text
    assert text.index("| none |") < text.index("| mixture |") < text.index("| mixture-frozen |")
    # nothing is trained twice
    monkeypatch.setattr(few_shot, "run_cell", None)
    again, _ = embodiment.run_study(plan, list(ARMS), seeds=2, progress=False)
    assert again == results
