"""Pure functions of the step: learning rate, batches; and the average of the weights."""

import numpy as np
import pytest
import torch
from torch import nn

from hf_vpdd.training.arguments import TrainArguments
from hf_vpdd.training.ema import Ema
from hf_vpdd.training.optimizer import build_optimizer, parameter_groups, set_learning_rate
from hf_vpdd.training.sampling import IndexSampler, step_generator, step_seed
from hf_vpdd.training.schedules import learning_rate_factor


def curve(**arguments):
    args = TrainArguments(**{"steps": 100, **arguments})
    return np.array([learning_rate_factor(step, args) for step in range(100)])


def test_constant_with_warm_up_in_steps():
    values = curve(schedule="constant", warmup=4)
    np.testing.assert_allclose(values[:4], [0.2, 0.4, 0.6, 0.8])
    assert (values[4:] == 1).all()


def test_cosine_goes_from_the_peak_to_the_final_ratio():
    values = curve(schedule="cosine", warmup=0, final_learning_rate_ratio=0.1)
    assert values[0] == 1 and values[50] == pytest.approx(0.55) and 0.1 < values[99] < 0.101
    assert (np.diff(values) < 0).all()


def test_onecycle_starts_at_a_25th_peaks_after_the_warm_up_and_still_learns_in_the_last_step():
    values = curve(schedule="onecycle", warmup=0.1)
    assert values[0] == pytest.approx(0.04) and values[5] == pytest.approx(0.52) and values[10] == 1
    assert values.argmax() == 10 and 0 < values[99] < 0.001


def test_wsd_is_flat_then_falls_linearly():
    values = curve(schedule="wsd", warmup=0.05, decay=0.2, final_learning_rate_ratio=0.5)
    assert (values[5:80] == 1).all()
    np.testing.assert_allclose(values[[80, 89, 99]], [0.975, 0.75, 0.5])


def test_every_epoch_holds_every_sample_once_and_batches_are_functions_of_the_step():
    sampler = IndexSampler(23, 5, seed=3)
    walk = np.concatenate([sampler.batch(step) for step in range(23)])  # 5 epochs
    for epoch in walk.reshape(5, 23):
        assert sorted(epoch) == list(range(23))
    assert not (walk[:23] == walk[23:46]).all()
    late = IndexSampler(23, 5, seed=3).batch(17)  # no walk through the steps before
    assert (late == sampler.batch(17)).all()
    assert (IndexSampler(23, 5, seed=4).batch(0) != sampler.batch(0)).any()


def test_two_ranks_share_what_one_process_with_the_doubled_batch_sees():
    whole = IndexSampler(30, 8, seed=0, micro_batches=2)
    ranks = [IndexSampler(30, 4, seed=0, rank=rank, world_size=2, micro_batches=2) for rank in (0, 1)]
    for step in range(7):
        for micro in (0, 1):
            parts = np.concatenate([rank.batch(step, micro) for rank in ranks])
            assert (parts == whole.batch(step, micro)).all()


def test_small_datasets_fill_large_batches():
    assert (np.bincount(IndexSampler(3, 8, seed=0).batch(0), minlength=3) >= 2).all()


def test_noise_differs_by_step_micro_batch_rank_and_seed():
    keys = [(s, t, m, r) for s in (0, 1) for t in (0, 1) for m in (0, 1) for r in (0, 1)]
    assert len({step_seed(*key) for key in keys}) == len(keys)
    draws = [torch.rand(1, generator=step_generator(torch.device("cpu"), 0, 3)).item() for _ in range(2)]
    assert draws[0] == draws[1]


def test_average_follows_its_formula_and_swapping_is_exact():
    layer = nn.Linear(2, 2)
    layer.bias.requires_grad_(False)
    ema, expected = Ema(layer.parameters(), 0.5), layer.weight.detach().clone()
    for update in (1, 2, 3):
        with torch.no_grad():
            layer.weight += 1
        ema.update(update)
        decay = min(0.5, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * layer.weight.detach()
    assert len(ema.shadow) == 1  # what is frozen has no average
    before = layer.weight.detach().clone()
    with ema.swapped():
        torch.testing.assert_close(layer.weight.detach(), expected)
    assert torch.equal(layer.weight, before)
    again = Ema(layer.parameters(), 0.5)
    again.load_state_dict(ema.state_dict())
    assert again.updates == 3 and torch.equal(again.shadow[0], ema.shadow[0])


def test_average_as_the_official_code_keeps_it():
    """Every 10 steps; a copy of the weights before step 30, then the full decay, without a warm-up (spec §5)."""
    layer = nn.Linear(1, 1, bias=False)
    ema, expected = Ema(layer.parameters(), 0.995, every=10, start=30), layer.weight.detach().clone()
    for step in range(1, 61):
        with torch.no_grad():
            layer.weight.fill_(float(step))
        ema.update(step)
        if step % 10 == 0:
            expected = torch.full((1, 1), float(step)) if step < 30 else expected.lerp(layer.weight.detach(), 0.005)
        torch.testing.assert_close(ema.shadow[0], expected, rtol=0, atol=0 if step < 30 else 1e-5)
    assert 20 < ema.shadow[0].item() < 21


def test_norms_biases_and_embeddings_are_not_decayed_and_multipliers_scale_the_rate():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.trunk = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
            self.head = nn.Linear(3, 3)
            self.table = nn.Embedding(4, 3)
            self.position = nn.Parameter(torch.zeros(4, 1, 3))

    net = Net()
    groups = parameter_groups(net, 0.1, {"trunk.": 0.2})
    decayed = {id(p) for g in groups for p in g["params"] if g["weight_decay"]}
    assert decayed == {id(net.trunk[0].weight), id(net.head.weight)}
    optimizer = build_optimizer(net, TrainArguments(), {"trunk.": 0.2})
    set_learning_rate(optimizer, 0.5)
    rates = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    assert rates[id(net.trunk[1].bias)] == pytest.approx(0.1) and rates[id(net.head.bias)] == pytest.approx(0.5)
    assert len(rates) == len(list(net.parameters()))
