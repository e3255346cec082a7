import pytest
import torch
from torch import nn

from hf_vpdd.experiments.metering import Meter, forget_peak, resident_mb


def steps(model, number, batch=5):
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    for _ in range(number):
        model(torch.ones(batch, 8)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return [p.detach().clone() for p in model.parameters()]


def network(frozen=False):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16, bias=False), nn.Tanh(), nn.Linear(16, 4, bias=False))
    model[0].requires_grad_(not frozen)
    return model


def test_what_is_counted_is_what_there_is():
    model = network()
    with torch.no_grad():
        with Meter() as meter:
            model(torch.ones(5, 8))  # tokens, say: nothing trains
    assert meter.began_mb == 0 and meter.trained == 0
    with Meter() as meter:
        steps(model, 4)
    assert meter.trained == 8 * 16 + 16 * 4
    assert meter.state_bytes == 3 * 4 * meter.trained
    # the input (for the first weight) and the output of tanh, which tanh and the second layer keep once together
    assert meter.saved_bytes == 4 * 5 * (8 + 16)
    assert meter.cpu_seconds_per_step > 0 and meter.wall_seconds_per_step > 0
    assert meter.peak_mb >= meter.began_mb > 0


def test_frozen_weights_have_no_state_and_keep_less():
    with Meter() as meter:
        steps(network(frozen=True), 2)
    assert (meter.trained, meter.state_bytes) == (16 * 4, 3 * 4 * 16 * 4)
    assert meter.saved_bytes == 4 * 5 * 16


def test_metered_training_is_the_training():
    plain = steps(network(), 3)
    with Meter():
        metered = steps(network(), 3)
    assert all(torch.equal(a, b) for a, b in zip(plain, metered))


def test_nothing_is_left_behind_by_an_error():
    with pytest.raises(RuntimeError), Meter() as meter:
        network()(torch.ones(5, 7))  # of another width
    steps(network(), 2)
    assert meter.trained == 0 and meter.cpu_seconds_per_step == 0


def test_memory_of_this_process():
    before = resident_mb()
    forget_peak()
    block = bytearray(b"x") * (64 << 20)
    assert resident_mb(peak=True) - before > 50
    del block
    assert resident_mb(peak=True) >= resident_mb() > 0
