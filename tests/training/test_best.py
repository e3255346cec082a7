"""The best checkpoint: kept beside the newest ones, named, loadable; and what is no metric is refused."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from hf_vpdd.errors import InputError
from hf_vpdd.training import read_best
from hf_vpdd.training.best import BestCheckpoint
from hf_vpdd.training.checkpoints import list_checkpoints
from hf_vpdd.training.loop import Evaluation, train

from .toy import ToyTask, toy_recipe


class Scripted(ToyTask):
    """Evaluates to the numbers it is given, one after the other."""

    def __init__(self, *losses, **options):
        super().__init__(**options)
        self.losses = list(losses)

    def evaluate(self, model, generator, device, final):
        return Evaluation({"loss": self.losses.pop(0), "top1": 0.5})


def recipe(folder, **more):
    settings = {"steps": 20, "save_every": 5, "eval_every": 5, "keep_last": 1, "schedule": "constant"}
    return toy_recipe(folder, **{**settings, **more})


def names(folder: Path) -> list[str]:
    return [path.name for path in list_checkpoints(folder)]


def test_the_best_outlives_the_newest_and_can_be_loaded(tmp_path):
    task = Scripted(3.0, 1.0, 2.0, 4.0)
    train(task, recipe(tmp_path))
    assert names(tmp_path) == ["checkpoint-000020", "checkpoint-000010"]
    best = read_best(tmp_path)
    assert best == {
        "metric": "val/loss", "step": 10, "value": 1.0, "checkpoint": "checkpoint-000010",
        "model": "checkpoint-000010/model",
    }  # fmt: skip
    weights = load_file(tmp_path / best["model"] / "model.safetensors")
    assert weights.keys() == task.model.state_dict().keys()
    task.model.load_state_dict(weights)


def test_the_last_evaluation_counts_too_and_the_one_before_it_may_go(tmp_path):
    train(Scripted(3.0, 1.0, 2.0, 0.5), recipe(tmp_path))
    assert names(tmp_path) == ["checkpoint-000020"] and read_best(tmp_path)["step"] == 20


def test_a_new_best_is_saved_at_once(tmp_path):
    train(Scripted(3.0, 1.0, 2.0, 4.0), recipe(tmp_path, save_every=1000))
    assert names(tmp_path) == ["checkpoint-000020", "checkpoint-000010"]


def test_a_resumed_run_remembers_and_goes_on_from_the_newest(tmp_path):
    train(Scripted(3.0, 1.0, 2.0), recipe(tmp_path, steps=15))
    task = Scripted(0.9, 5.0)
    assert train(task, recipe(tmp_path, steps=25)).steps == 25
    assert task.seen == 25 * 16 and not task.losses  # from step 15, not from the best at 10
    assert names(tmp_path) == ["checkpoint-000025", "checkpoint-000020"]
    train(Scripted(1.5), recipe(tmp_path, steps=30))
    assert read_best(tmp_path)["step"] == 20 and names(tmp_path) == ["checkpoint-000030", "checkpoint-000020"]


def test_started_again_nothing_is_remembered(tmp_path):
    train(Scripted(3.0, 0.1, 2.0, 1.0), recipe(tmp_path))
    again = recipe(tmp_path, keep_best="top1")
    again.resume = "no"
    train(Scripted(3.0, 2.0, 1.5, 1.6), again)
    assert read_best(tmp_path)["metric"] == "val/top1" and read_best(tmp_path)["step"] == 5  # a tie: the earliest


def test_it_can_be_turned_off_and_a_direction_be_given(tmp_path):
    train(Scripted(3.0, 1.0, 2.0, 4.0), recipe(tmp_path / "off", keep_best="false"))
    assert names(tmp_path / "off") == ["checkpoint-000020"] and read_best(tmp_path / "off") is None
    train(Scripted(3.0, 1.0, 2.0, 1.5), recipe(tmp_path / "max", keep_best="max:loss"))
    assert read_best(tmp_path / "max")["step"] == 5


def test_values_that_are_no_numbers_are_never_the_best():
    best = BestCheckpoint("true", "finetune")
    assert not best.offer(1, {"val/loss": float("nan")}) and best.step is None
    assert best.offer(2, {"val/loss": 1.0}) and not best.offer(3, {"val/loss": 1.0})
    assert not best.offer(4, {"rollout/success": 1.0})


@pytest.mark.parametrize(("stage", "higher"), [("vqvae", True), ("pretrain", False), ("value_pretrain", True)])
def test_each_stage_has_its_own(stage, higher):
    assert BestCheckpoint("true", stage).higher is higher
    assert BestCheckpoint("rollout/success", stage).higher


def test_what_is_no_metric_is_refused_before_anything_is_done(tmp_path):
    with pytest.raises(InputError, match="keep_best: 'lost' is no metric of finetune; it has loss, action_error"):
        BestCheckpoint("lost", "finetune")
    with pytest.raises(InputError, match="min:METRIC or max:METRIC"):
        BestCheckpoint("best:loss", "finetune")


def test_best_json_of_a_checkpoint_that_is_gone_says_nothing(tmp_path):
    (tmp_path / "best.json").write_text(json.dumps({"checkpoint": "checkpoint-000005"}))
    assert read_best(tmp_path) is None and read_best(tmp_path / "nowhere") is None
