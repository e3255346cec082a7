"""The batch that stopped a run can be looked at again."""

import json

import pytest
import torch
from safetensors import safe_open

from hf_vpdd.errors import InputError
from hf_vpdd.training import load_nonfinite_batch
from hf_vpdd.training.loop import train

from .toy import ToyTask, toy_recipe


def test_the_batch_is_saved_and_gives_the_same_loss_again(tmp_path):
    task = ToyTask(poison=tuple(range(10)))  # in every batch
    with pytest.raises(InputError, match=r"not finite in 4 steps in a row .*load_nonfinite_batch"):
        train(task, toy_recipe(tmp_path, log_every=1, max_nonfinite=4, batch_size=25))
    batches, record = load_nonfinite_batch(tmp_path)
    assert record["skipped_in_a_row"] == 4 and record["step"] == 3 and len(batches) == 2
    for batch, indices, seed in zip(batches, record["sample_indices"], record["seeds"]):
        expected = task.batch(indices)
        assert batch.keys() == expected.keys()
        for name in batch:
            torch.testing.assert_close(batch[name], expected[name], equal_nan=True, rtol=0, atol=0)
        torch.manual_seed(seed)
        loss, _ = task.loss(task.model, batch, torch.Generator().manual_seed(seed))
        assert not torch.isfinite(loss)
    with safe_open(tmp_path / "nonfinite.safetensors", "pt") as file:  # no pickle
        assert set(file.keys()) == {"0.x", "0.y", "1.x", "1.y"}


def test_the_seeds_are_those_the_run_used(tmp_path):
    """A loss that is too large is looked at again: noise and dropout of the record give it to the last digit."""
    seen = {}

    class Watched(ToyTask):
        def loss(self, model, batch, generator):
            loss, logs = super().loss(model, batch, generator)
            seen[len(seen)] = loss.detach().clone()
            return loss * float("inf"), logs

    task = Watched()
    with pytest.raises(InputError, match="not finite"):
        train(task, toy_recipe(tmp_path, log_every=1, max_nonfinite=2))
    batches, record = load_nonfinite_batch(tmp_path)
    assert record["step"] == 1
    for micro, (batch, seed) in enumerate(zip(batches, record["seeds"])):
        torch.manual_seed(seed)
        loss, _ = ToyTask.loss(task, task.model, batch, torch.Generator().manual_seed(seed))
        assert torch.equal(loss.detach(), seen[2 + micro])


def test_without_one_there_is_an_error(tmp_path):
    with pytest.raises(InputError, match="holds no batch"):
        load_nonfinite_batch(tmp_path)
    (tmp_path / "nonfinite.json").write_text(json.dumps({}))
    with pytest.raises(InputError, match="holds no batch"):
        load_nonfinite_batch(tmp_path)
