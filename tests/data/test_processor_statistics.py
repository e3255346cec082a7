"""Statistics: by LeRobot's definitions, saved with the processors of all three families, and held against datasets."""

import json

import numpy as np
import pytest

from hf_vpdd.cli import main
from hf_vpdd.data.dataset_statistics import (
    dataset_statistics,
    require_matching_statistics,
    statistics_of_rows,
)
from hf_vpdd.data.lerobot import LeRobotDataset
from hf_vpdd.data.lerobot_writer import LeRobotWriter
from hf_vpdd.errors import InputError
from hf_vpdd.modeling.gr1.processing_gr1 import GR1Processor
from hf_vpdd.modeling.vpdd.action_bins import fit_action_bins
from hf_vpdd.modeling.vpdd.processing_vpdd import VPDDProcessor, train_tokenizer
from hf_vpdd.modeling.vptr.processing_vptr import VPTRProcessor


NAMES = ("mean", "std", "min", "max", "q01", "q10", "q50", "q90", "q99", "count")
LENGTHS = (40, 7, 61)


def brute_force(rows):
    """Number by number, as LeRobot defines them: deviation of the population, quantiles between sorted neighbours."""
    rows = np.asarray(rows, np.float64)
    found = {name: [] for name in NAMES if name != "count"}
    for values in rows.T:
        values, number = sorted(values.tolist()), len(rows)
        mean = sum(values) / number
        found["mean"].append(mean)
        found["std"].append((sum((value - mean) ** 2 for value in values) / number) ** 0.5)
        found["min"].append(values[0])
        found["max"].append(values[-1])
        for percent in (1, 10, 50, 90, 99):
            place = percent / 100 * (number - 1)
            low = int(place)
            high = min(low + 1, number - 1)
            found[f"q{percent:02d}"].append(values[low] + (place - low) * (values[high] - values[low]))
    return found | {"count": [len(rows)]}


@pytest.fixture(scope="module")
def demonstrations():
    generator = np.random.default_rng(0)
    state = [np.c_[generator.normal(size=(n, 2)) * [1, 30] + [0, 900], np.full(n, 4.5)] for n in LENGTHS]
    action = [np.c_[generator.uniform(-1, 1, (n, 2)), generator.integers(0, 2, n) * 2 - 1.0] for n in LENGTHS]
    return [np.float32(a) for a in state], [np.float32(a) for a in action]


@pytest.fixture(scope="module")
def root(demonstrations, tmp_path_factory):
    generator = np.random.default_rng(1)
    with LeRobotWriter(tmp_path_factory.mktemp("statistics") / "arm", 20) as writer:
        for state, action in zip(*demonstrations):
            frames = generator.integers(0, 255, (len(state), 16, 16, 3), np.uint8)
            episode = {"observation.images.front": frames, "observation.state": state, "action": action}
            writer.add_episode(episode, "wait")
    return writer.root


def test_what_is_written_is_what_lerobot_defines(root, demonstrations):
    """The layout of `meta/stats.json`: lists by dimension, scalars as lists of one, pictures (3, 1, 1) in [0, 1]."""
    stats = json.loads((root / "meta/stats.json").read_text())
    assert set(stats) == set(LeRobotDataset(root).features)
    for key, rows in zip(("observation.state", "action"), demonstrations):
        expected = brute_force(np.concatenate(rows))
        assert set(stats[key]) == set(NAMES)
        for name in NAMES:
            assert stats[key][name] == pytest.approx(expected[name], rel=1e-9, abs=1e-12), (key, name)
    expected = brute_force(np.concatenate([np.arange(n, dtype=np.float32)[:, None] for n in LENGTHS]))
    assert stats["frame_index"] == {name: pytest.approx(expected[name]) for name in NAMES}
    picture = stats["observation.images.front"]
    assert set(picture) == set(NAMES) and np.shape(picture["q50"]) == np.shape(picture["std"]) == (3, 1, 1)
    assert 0 <= np.min(picture["min"]) < np.max(picture["max"]) <= 1
    assert picture["count"] == [sum(LENGTHS)]  # of pictures, not of pixels


def test_taken_anew_or_of_rows_in_memory_they_are_the_same(root, demonstrations):
    state, action = map(np.concatenate, demonstrations)
    written = LeRobotDataset(root).stats
    anew, rows = dataset_statistics(root, images=False, progress=False), statistics_of_rows(state=state, action=action)
    for key in ("observation.state", "action"):
        for name in NAMES:
            assert anew[key][name] == pytest.approx(written[key][name], rel=1e-12), (key, name)
            assert rows[key][name] == pytest.approx(written[key][name], rel=1e-12), (key, name)


def vpdd(actions, state):
    return VPDDProcessor.from_dataset_stats(actions, state, train_tokenizer(["wait"], 300), 8, image_size=16)


def gr1(actions, state):
    return GR1Processor.from_dataset_stats(
        actions, state, train_tokenizer(["wait"], 300), image_size=16, binary_gripper_state=False
    )


def vptr(actions, state):
    return VPTRProcessor.from_dataset_stats(actions, state, image_size=16)


FAMILIES = {"vpdd": vpdd, "gr1": gr1, "vptr": vptr}


@pytest.fixture(params=FAMILIES)
def processor(request, demonstrations):
    state, action = map(np.concatenate, demonstrations)
    return FAMILIES[request.param](action, state)


def test_they_are_saved_with_the_processor(processor, demonstrations, tmp_path):
    processor.save_pretrained(tmp_path)
    loaded = type(processor).from_pretrained(tmp_path)
    for part, rows in zip(("state_stats", "action_stats"), demonstrations):
        expected = brute_force(np.concatenate(rows))
        stats = getattr(loaded, part)
        assert set(stats) == set(NAMES)
        for name in NAMES:
            assert stats[name] == pytest.approx(expected[name], rel=1e-6, abs=1e-9), (part, name)


def test_bins_of_a_dimension_are_its_quantiles(demonstrations, tmp_path):
    """Without repeated values: the extremes, and between them parts of equal mass, each decoded as its mean."""
    state, action = map(np.concatenate, demonstrations)
    fitted = fit_action_bins(action, 8)
    for dim in (0, 1):
        values = np.sort(action[:, dim].astype(np.float64))
        inner = np.array_split(values[1:-1], 6)
        expected = [values[0], *(part.mean() for part in inner), values[-1]]
        assert fitted[dim]["decode"] == pytest.approx(expected, rel=1e-6)
        assert fitted[dim]["edges"] == pytest.approx((np.array(expected)[1:] + np.array(expected)[:-1]) / 2, rel=1e-5)
        assert max(map(len, inner)) - min(map(len, inner)) <= 1
    assert fitted[2]["decode"] == [-1.0, 1.0]  # a gripper
    made = vpdd(action, state)
    made.save_pretrained(tmp_path)
    assert VPDDProcessor.from_pretrained(tmp_path).action_bins == made.action_bins == fitted


def test_other_data_is_an_error_that_shows_both(processor, demonstrations):
    state, action = map(np.concatenate, demonstrations)
    require_matching_statistics(processor, statistics_of_rows(state=state, action=action))
    other = state * [1000, 1, 1] + [9000, 0, 0]  # millimetres
    with pytest.raises(InputError, match=r"does not fit kitchen: state_stats .* dimensions \[0\]\n") as error:
        require_matching_statistics(processor, statistics_of_rows(state=other), "kitchen")
    head, *rows = str(error.value).splitlines()[1:]
    assert "mean model" in head and "dataset" in head and len(rows) >= 3
    assert f"{state[:, 0].mean():.4g}" in rows[0] and f"{other[:, 0].mean():.4g}" in rows[0]
    with pytest.raises(InputError, match=r"action_stats .* dimensions \[0, 1\]\n.*min model"):
        require_matching_statistics(processor, statistics_of_rows(action=action * [2, 2, 1]))
    with pytest.raises(InputError, match="3 dimensions, action has 2"):
        require_matching_statistics(processor, statistics_of_rows(action=action[:, :2]))


def test_the_command_shows_them_side_by_side(processor, root, tmp_path, capsys):
    processor.save_pretrained(tmp_path / "model")
    fine = ["check", str(root), "--quick", "--errors-only", "--model"]
    assert main([*fine, str(tmp_path / "model")]) == 0
    for part in ("state_stats", "action_stats"):
        stats = getattr(processor, part)
        setattr(processor, part, {name: [v * 0.1 for v in values] for name, values in stats.items()})
    processor.save_pretrained(tmp_path / "other")
    capsys.readouterr()
    assert main([*fine, str(tmp_path / "other")]) == 1
    shown = capsys.readouterr().out
    assert "action_stats of the model and action of the dataset differ in dimensions [0, 1, 2]" in shown
    assert "state_stats of the model" in shown and "dataset" in shown
