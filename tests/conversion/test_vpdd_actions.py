"""The official action vocabularies: encode and decode as the official quantiser does."""

import numpy as np
import pytest
import torch

from hf_vpdd.conversion.vpdd_actions import action_bins, quantile_thresholds, read_thresholds
from hf_vpdd.errors import InputError
from hf_vpdd.modeling.vpdd.action_bins import ActionBins
from tests.data.conftest import make_episodes, write_dataset


def official_encode(x: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Index of the last threshold <= x, limited to the bins there are; below all of them: 0."""
    count = (x[:, None] >= thresholds[None]).sum(axis=1)
    return np.clip(count - 1, 0, len(thresholds) - 2)


def clipped_expert(steps: int, seed: int = 0) -> np.ndarray:
    """float32 (N, 3), about a third of the mass at exactly -1 and 1, as of Meta-World's experts."""
    return np.clip(np.random.default_rng(seed).normal(0, 1.3, (steps, 3)), -1, 1).astype(np.float32)


@pytest.mark.parametrize(("bins", "steps"), [(48, 4000), (48, 150_000), (256, 4000), (48, 100)])
def test_metaworld_positions(bins, steps):
    data = clipped_expert(steps)
    thresholds = quantile_thresholds(data, bins)
    assert len(thresholds) <= bins + 1 and (thresholds[-1] == data.max(axis=0)).all()
    if steps > 1000:  # saturated: several thresholds are the same, their bins have no width
        assert (np.diff(thresholds[:, 0]) == 0).sum() > 2
    ours = ActionBins(action_bins(thresholds, bins, "metaworld"), bins)

    x = np.concatenate([data, thresholds.astype(np.float32), clipped_expert(500, seed=1)])
    actions = torch.from_numpy(np.concatenate([x, np.zeros((len(x), 1), np.float32)], axis=1))
    ids = ours.encode(actions)
    for dim in range(3):
        assert np.array_equal(ids[:, dim].numpy(), official_encode(x[:, dim], thresholds[:, dim]))
    # every id decodes, those of no width too
    number = len(thresholds) - 1
    every = torch.arange(number)[:, None].repeat(1, 4).clamp(max=9)
    every[:, :3] = torch.arange(number)[:, None]
    middle = (thresholds[1:] + thresholds[:-1]) / 2
    np.testing.assert_allclose(ours.decode(every)[:, :3].numpy(), middle, atol=1e-7)


def test_metaworld_gripper():
    values = torch.tensor([-1, 0, 0.1, 0.5, 0.6, 0.65, 0.7, 0.8, 0.9, 1])
    bins = ActionBins(action_bins(quantile_thresholds(clipped_expert(1000), 48), 48, "metaworld"), 48)
    actions = torch.zeros(10, 4)
    actions[:, 3] = values
    ids = bins.encode(actions)
    assert ids[:, 3].tolist() == list(range(10)) and torch.equal(bins.decode(ids)[:, 3], values)
    assert bins.valid_bins.tolist()[3] == 10  # the official evaluation fails with an IndexError on any other
    with pytest.raises(InputError, match="too few for the 10 gripper"):
        action_bins(np.zeros((9, 3)), 8, "metaworld")


def test_rlbench():
    rng = np.random.default_rng(0)
    scaled = rng.uniform(-0.8, 0.9, (5000, 3))
    thresholds = quantile_thresholds(scaled, 360)
    bins = ActionBins(action_bins(thresholds, 360, "rlbench"), 360)
    assert bins.action_dim == 7 and bins.valid_bins.tolist() == [*[len(thresholds) - 1] * 3, 360, 360, 360, 2]
    low, high = np.array([-0.3, -0.5, 0.6]), np.array([0.7, 0.5, 1.6])
    metres = (scaled + 1) / 2 * (high - low) + low
    degrees = rng.uniform(-180, 180, (5000, 3))
    actions = torch.from_numpy(np.concatenate([metres, degrees, rng.integers(0, 2, (5000, 1))], axis=1)).float()
    ids = bins.encode(actions).numpy()
    for dim in range(3):
        # metres in float32 may fall on the other side of a threshold by a hair
        assert (ids[:, dim] != official_encode(scaled[:, dim], thresholds[:, dim])).mean() < 1e-2
    assert (ids[:, 3:6] != np.around(degrees + 180).astype(int) % 360).mean() < 1e-4  # ties in float32
    decoded = bins.decode(torch.from_numpy(ids))
    turned = (decoded[:, 3:6] - actions[:, 3:6] + 180) % 360 - 180
    assert turned.abs().max() <= 0.5 + 1e-4
    assert (decoded[:, :3] - actions[:, :3]).abs().max() < 0.01
    assert torch.equal(decoded[:, 6], actions[:, 6])
    with pytest.raises(InputError, match="360"):
        action_bins(thresholds, 48, "rlbench")


def test_the_official_file(tmp_path):
    thresholds = quantile_thresholds(clipped_expert(2000), 48)
    np.savez(tmp_path / "tokenizer_48.npz", thresholds=thresholds, N=48)
    assert np.array_equal(read_thresholds(tmp_path / "tokenizer_48.npz", 48, "metaworld"), thresholds)


def test_from_the_demonstrations_themselves(tmp_path):
    episodes = make_episodes(lengths=(20, 30), size=16)
    for number, episode in enumerate(episodes):
        gripper = np.full((len(episode["action"]), 1), 0.6, np.float32)
        episode["action"] = np.concatenate([clipped_expert(len(gripper), number), gripper], axis=1)
    root = write_dataset(tmp_path / "demos", episodes)
    actions = np.concatenate([episode["action"] for episode in episodes])
    thresholds = read_thresholds(root, 10, "metaworld")
    assert np.array_equal(thresholds, quantile_thresholds(actions[:, :3], 10)) and len(thresholds) == 11
    assert np.array_equal(thresholds[3], np.sort(actions[:, :3], axis=0)[15])
    with pytest.raises(InputError, match="at least 60"):
        read_thresholds(root, 60, "metaworld")
    with pytest.raises(InputError, match="tokenizer_360.npz"):
        read_thresholds(root, 360, "rlbench")


def test_files_that_do_not_fit(tmp_path):
    good = quantile_thresholds(clipped_expert(2000), 48)

    def refused(words, bins=48, **arrays):
        np.savez(tmp_path / "t.npz", **arrays)
        with pytest.raises(InputError, match=words):
            read_thresholds(tmp_path / "t.npz", bins, "metaworld")

    refused("43 thresholds for 48 bins, this policy draws among 256", 256, thresholds=good[:43], N=48)
    refused("another run", 47, thresholds=good)
    refused("no array 'thresholds'", bounds=good)
    refused(r"expected \(49, 3\)", thresholds=good[:, :2])
    refused("ascend", thresholds=good[::-1])
    refused("finite", thresholds=np.where(good == good[5, 0], np.nan, good), N=48)
    refused("not an .npz", thresholds=np.array([{"a": 1}], dtype=object))
    (tmp_path / "t.npz").write_bytes(b"PK nothing")
    with pytest.raises(InputError, match="not an .npz"):
        read_thresholds(tmp_path / "t.npz", 48, "metaworld")
    with pytest.raises(InputError, match="not an .npz"):
        read_thresholds(tmp_path / "absent.npz", 48, "metaworld")
