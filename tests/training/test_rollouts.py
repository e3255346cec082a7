"""Rollouts during training: in the real simulator, and without a trace in the weights."""

import json
import random

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hf_vpdd.errors import InputError
from hf_vpdd.training import (
    load_recipe,
    read_best,
    run_finetune,
    run_gr1_finetune,
    run_gr1_pretrain,
    run_offline_rl,
    run_pretrain,
    run_vqvae,
)
from hf_vpdd.training.rollouts import FIRST_SEED, Rollouts, check_rollouts, untouched_random_state
from hf_vpdd.training.train_arguments import TrainArguments

from .gr1_data import gr1_experiment
from .small_data import TASKS, experiment, write_dataset
from .toy import toy_recipe
from .vptr_data import vptr_experiment


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    """A recipe whose first two stages have run, for a step each."""
    root = tmp_path_factory.mktemp("rollouts")
    config = experiment(write_dataset(root / "data"), root / "out")
    config["train"] |= {"steps": 1, "save_every": 0, "eval_every": 0, "eval_samples": 2, "tracker": "none"}
    run_vqvae(load_recipe("vqvae", config))
    run_pretrain(load_recipe("pretrain", config))
    return {"config": config, "root": root}


ROLLOUTS = {
    "rollout_every": 2, "rollout_episodes": 1, "rollout_tasks": "button-press-topdown-v3", "rollout_max_steps": 6,
    "rollout_workers": 0, "rollout_videos": 1,
}  # fmt: skip


@pytest.mark.parametrize("lora", [False, True], ids=["all weights", "lora"])
def test_one_episode_of_meta_world_during_training_changes_no_weight(road, tmp_path, lora):
    pytest.importorskip("metaworld")
    if lora:
        pytest.importorskip("peft")
    common = {"steps": 4, "save_every": 2, "lora": lora, "ema_decay": 0.5, "keep_best": "rollout/success"}
    for name, more in (("without", {}), ("with", ROLLOUTS)):
        run_finetune(load_recipe("finetune", road["config"], {**common, **more}, output_dir=str(tmp_path / name)))
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("without", "with"))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    states = [
        torch.load(tmp_path / n / "checkpoint-000004" / "state.pt", weights_only=True) for n in ("without", "with")
    ]
    for name, value in states[0]["model"].items():
        assert torch.equal(value, states[1]["model"][name])

    lines = [json.loads(line) for line in (tmp_path / "with" / "metrics.jsonl").read_text().splitlines()]
    found = {line["step"]: line for line in lines if "rollout/success" in line}
    assert sorted(found) == [2, 4]
    for values in found.values():
        assert values["rollout/success"] in (0, 1) and values["rollout/episodes"] == 1
        assert 0 <= values["rollout/success_low"] <= values["rollout/success"] <= values["rollout/success_high"] <= 1
        assert values["rollout/button-press-topdown-v3"] == values["rollout/success"]
    folder = tmp_path / "with" / "rollouts" / "000004"
    assert json.loads((folder / "summary.json").read_text())["episodes"] == 1
    assert list(folder.rglob("*.mp4")) and not (folder / ".policy").exists()
    assert read_best(tmp_path / "with")["metric"] == "rollout/success"


def test_gr1_plays_too(tmp_path):
    pytest.importorskip("metaworld")
    config = gr1_experiment(write_dataset(tmp_path / "data", episodes_per_task=2), tmp_path / "out")
    config["data"]["camera"] = "corner2"
    config["train"]["steps"] = 1
    run_gr1_pretrain(load_recipe("gr1_pretrain", config))
    folder = run_gr1_finetune(load_recipe("gr1_finetune", config, {**ROLLOUTS, "rollout_every": 1}))
    assert (folder / "rollouts" / "000001" / "summary.json").is_file()


def test_v_ptr_plays_too(tmp_path):
    pytest.importorskip("metaworld")
    config = vptr_experiment(write_dataset(tmp_path / "data", episodes_per_task=2), tmp_path / "out")
    # a policy of V-PTR knows its tasks by number: the default, the tasks of the data, is what it can play
    rollouts = {name: value for name, value in ROLLOUTS.items() if name != "rollout_tasks"}
    settings = {**rollouts, "rollout_every": 1, "steps": 1, "init": "scratch"}
    folder = run_offline_rl(load_recipe("offline_rl", config, settings))
    assert json.loads((folder / "rollouts" / "000001" / "summary.json").read_text())["episodes"] == 2


def test_the_default_tasks_are_those_of_the_training_data(tmp_path):
    args = TrainArguments(rollout_every=1, rollout_episodes=2)
    pytest.importorskip("metaworld")
    episodes = Rollouts(args, [*TASKS, "wave at the camera"], tmp_path).episodes
    assert {episode.task for episode in episodes} == {"button-press-topdown-v3", "drawer-close-v3"}
    assert sorted({episode.seed for episode in episodes}) == [FIRST_SEED, FIRST_SEED + 1]
    assert {episode.instruction for episode in episodes} == set(TASKS)
    with pytest.raises(InputError, match="no instruction of the training data is one of Meta-World's"):
        Rollouts(args, ["wave at the camera"], tmp_path)


def test_what_cannot_be_played_is_refused_at_once(monkeypatch):
    with pytest.raises(InputError, match="rollout_protocol must be one of lean"):
        check_rollouts(TrainArguments(rollout_protocol="calvin"))
    with pytest.raises(InputError, match="no-such-task"):
        check_rollouts(TrainArguments(rollout_tasks=["no-such-task"]))
    monkeypatch.setattr("hf_vpdd.training.rollouts.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'hf-vpdd\[metaworld\]'"):
        check_rollouts(TrainArguments())
    recipe = toy_recipe("out", rollout_every=5)
    with pytest.raises(InputError, match="pretrain trains no policy that could act; .* finetune or gr1_finetune"):
        recipe.check()
    with pytest.raises(InputError, match="no rollouts are asked for"):
        TrainArguments(rollout_tasks=["a"]).check()


def test_random_numbers_go_on_where_they_were():
    def draw():
        return torch.rand(2).tolist(), np.random.rand(2).tolist(), [random.random() for _ in range(2)]

    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    expected = draw()
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    with untouched_random_state():
        draw()
    assert draw() == expected


def test_a_simulator_that_dies_does_not_end_the_training(tmp_path, monkeypatch, capsys):
    from hf_vpdd.training import loop

    from .toy import ToyTask

    class Dying:
        def play(self, *arguments):
            raise RuntimeError("a simulator process failed")

    monkeypatch.setattr(loop, "Rollouts", lambda *arguments: Dying())
    loop.train(ToyTask(), toy_recipe(tmp_path, steps=4, rollout_every=2, progress=True))
    assert "rollouts failed, training goes on: a simulator process failed" in capsys.readouterr().out
    assert (tmp_path / "model.safetensors").is_file()
