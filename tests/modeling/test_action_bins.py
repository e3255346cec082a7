import json

import numpy as np
import pytest
import torch

from hf_vpdd.errors import InputError
from hf_vpdd.modeling.vpdd.action_bins import ActionBins, fit_action_bins


def _expert_like(steps: int = 4000, seed: int = 0) -> np.ndarray:
    """(N, 3): saturated at +-1, smooth, and a gripper with five values of very different mass."""
    rng = np.random.default_rng(seed)
    saturated = np.clip(rng.normal(0, 1.5, steps), -1, 1)
    smooth = rng.gamma(2.0, 0.1, steps)
    gripper = rng.choice([-1.0, 0.1, 0.6, 0.65, 1.0], steps, p=[0.5, 0.002, 0.3, 0.098, 0.1])
    return np.stack([saturated, smooth, gripper], axis=1).astype(np.float32)


@pytest.mark.parametrize("num_bins", [2, 3, 9, 33, 64])
def test_decode_values_encode_to_themselves(num_bins):
    actions = _expert_like()
    bins = ActionBins(fit_action_bins(actions, num_bins), num_bins)
    ids = torch.arange(num_bins)[:, None].expand(num_bins, 3)
    valid = ids < bins.valid_bins
    assert torch.equal(bins.encode(bins.decode(ids))[valid], ids[valid])
    assert bins.valid_bins.tolist()[0] == min(num_bins, bins.valid_bins[0])
    assert (bins.valid_bins[:2] == num_bins).all()  # continuous dimensions use the whole vocabulary


def test_quantiles_alone_leave_no_gap():
    """Few values for many bins: atoms would take nearly all bins and leave one to the rest."""
    values = np.random.default_rng(0).uniform(0, 1, (400, 1))
    for atoms, limit in ((True, 1.0), (False, 0.02)):
        bins = ActionBins(fit_action_bins(values, 360, atoms=atoms), 360)
        decoded = bins.decode(bins.encode(torch.from_numpy(values)))
        error = (decoded - torch.from_numpy(values)).abs().max()
        assert error < limit
        assert bins.valid_bins.tolist() == [360]
    repeated = np.repeat([[0.0], [0.5], [0.7], [1.0]], 100, axis=0)
    assert fit_action_bins(repeated, 3, atoms=False)[0]["decode"] == pytest.approx([0.0, 0.7, 1.0])


def test_extremes_and_discrete_values_are_exact():
    actions = _expert_like()
    bins = ActionBins(fit_action_bins(actions, 33), 33)
    decoded = bins.decode(bins.encode(torch.from_numpy(actions)))
    exact = decoded == torch.from_numpy(actions)
    assert exact[np.abs(actions[:, 0]) == 1, 0].all()
    assert exact[:, 2].all() and bins.valid_bins[2] == 5
    # the smallest and the largest value are exact even where nearly nothing lies
    for row in (actions[:, 1].argmin(), actions[:, 1].argmax()):
        assert exact[row, 1]


def test_a_rare_gripper_value_is_exact_only_while_there_are_bins_for_it():
    values = np.repeat([[-1.0], [0.0], [0.5], [1.0]], [500, 300, 1, 199], axis=0)
    assert fit_action_bins(values, 4)[0]["decode"] == [-1.0, 0.0, 0.5, 1.0]
    assert len(fit_action_bins(values, 3)[0]["decode"]) == 3


def test_encode_takes_the_nearest_value_and_the_error_is_small():
    actions = _expert_like()
    fitted = fit_action_bins(actions, 33)
    bins = ActionBins(fitted, 33)
    ids = bins.encode(torch.from_numpy(actions))
    for dim, entry in enumerate(fitted):
        values = np.array(entry["decode"], dtype=np.float32)
        distance = np.abs(actions[:, dim : dim + 1] - values)
        taken = distance[np.arange(len(actions)), ids[:, dim]]
        assert np.all(taken <= distance.min(axis=1) + 1e-6)
        assert taken.mean() < 0.01 * (values[-1] - values[0])


def test_bins_between_the_atoms_hold_equal_mass():
    values = np.random.default_rng(0).exponential(1.0, (9000, 1))
    bins = ActionBins(fit_action_bins(values, 10), 10)
    counts = torch.bincount(bins.encode(torch.from_numpy(values))[:, 0], minlength=10)
    # two bins are the exact extremes; uniform-width bins would put two thirds of the mass into the first
    assert counts[1:-2].max() < 3 * counts[1:-2].min()


def test_float32_noise_does_not_split_a_value():
    values = np.concatenate([np.full(50, 0.6, dtype=np.float32), np.full(50, 0.6), np.zeros(10), np.ones(10)])[:, None]
    assert len(fit_action_bins(values, 8)[0]["decode"]) == 3


def test_a_constant_dimension_has_one_bin():
    bins = ActionBins(fit_action_bins(np.full((20, 1), 0.6, dtype=np.float32), 8), 8)
    assert bins.valid_bins.tolist() == [1]
    assert bins.decode(bins.encode(torch.full((2, 3, 1), 0.6))).unique().tolist() == [pytest.approx(0.6)]


def test_survives_json_bit_for_bit():
    actions = torch.from_numpy(_expert_like())
    fitted = fit_action_bins(actions.numpy(), 33)
    one, two = ActionBins(fitted, 33), ActionBins(json.loads(json.dumps(fitted)), 33)
    assert torch.equal(one.encode(actions), two.encode(actions))
    assert torch.equal(one.decode(one.encode(actions)), two.decode(two.encode(actions)))


def test_shapes_and_unused_ids():
    bins = ActionBins(fit_action_bins(_expert_like(), 33), 33)
    actions = torch.from_numpy(_expert_like(24)).reshape(2, 3, 4, 3)
    ids = bins.encode(actions)
    assert ids.shape == actions.shape and ids.dtype == torch.int64 and ids.is_contiguous()
    assert (
        bins.decode(torch.full((2, 3), 32))[0, 2] == 1.0
    )  # dimension 2 uses five ids; the others stand for the largest
    assert bins.valid_mask.sum(dim=1).tolist() == [33, 33, 5]


def test_official_thresholds_with_values_off_the_midpoint():
    bins = ActionBins([{"decode": [0.0, 1.0, 10.0], "edges": [0.9, 8.0]}], 3)
    assert bins.encode(torch.tensor([[0.89], [0.9], [7.9], [8.0]]))[:, 0].tolist() == [0, 1, 1, 2]


def test_errors_name_dimension_and_range():
    bins = ActionBins(fit_action_bins(_expert_like(), 9, low=-1, high=2), 9)
    assert bins.encode(torch.tensor([[1.9, 1.9, 1.9]])).shape == (1, 3)  # inside of the declared range
    with pytest.raises(InputError, match=r"2\.5 in dimension 1 \(row 1 of 2\).*\[-1, 2\]"):
        bins.encode(torch.tensor([[0.0, 0.0, 0.0], [0.0, 2.5, 0.0]]))
    with pytest.raises(InputError, match="nan in dimension 0"):
        bins.encode(torch.tensor([[float("nan"), 0.0, 0.0]]))
    assert bins.encode(torch.tensor([[0.0, 99.0, 0.0]]), check=False)[0, 1] == bins.valid_bins[1] - 1
    with pytest.raises(InputError, match="last dimension must be 3"):
        bins.encode(torch.zeros(2, 4))
    with pytest.raises(InputError, match="mask id"):
        bins.decode(torch.tensor([[0, 9, 0]]))
    with pytest.raises(InputError, match="row 3 is not finite"):
        fit_action_bins(np.array([[0.0], [1.0], [0.5], [np.nan]]), 4)
    with pytest.raises(InputError, match="outside of the declared range"):
        fit_action_bins(_expert_like(), 9, low=-0.5, high=0.5)
    with pytest.raises(InputError, match="damaged"):
        ActionBins([{"decode": [0.0, 1.0], "edges": [2.0]}], 4)
    with pytest.raises(InputError, match="num_bins"):
        fit_action_bins(_expert_like(), 1)
