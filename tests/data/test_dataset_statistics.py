from types import SimpleNamespace

import numpy as np
import pytest

from hf_vpdd.data.dataset_statistics import (
    dataset_statistics,
    require_matching_statistics,
    statistics_mismatch,
    statistics_of_rows,
    write_statistics,
)
from hf_vpdd.data.lerobot import LeRobotDataset
from hf_vpdd.errors import InputError


def test_taken_anew_they_equal_the_written_ones(dataset_root, tmp_path):
    dataset = LeRobotDataset(dataset_root)
    found = dataset_statistics(dataset_root, progress=False)
    assert set(found) == set(dataset.stats)
    for key, stats in found.items():
        for name, value in stats.items():
            close = 0.02 if "images" in key else 1e-6  # of pictures before and after the codec
            assert np.allclose(value, dataset.stats[key][name], atol=close), (key, name)
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "stats.json").write_text('{"effort": {"mean": [1.0]}}')
    write_statistics(tmp_path, {"action": found["action"]})
    text = (tmp_path / "meta" / "stats.json").read_text()
    assert '"effort"' in text and '"q99"' in text


def test_a_model_of_other_data_is_shown_side_by_side():
    generator = np.random.default_rng(0)
    state, action = generator.normal(size=(500, 3)), generator.uniform(-1, 1, (500, 2))
    own = statistics_of_rows(state=state, action=action)
    lists = {key: {name: value.tolist() for name, value in stats.items()} for key, stats in own.items()}
    processor = SimpleNamespace(state_stats=lists["observation.state"], action_stats=lists["action"])
    require_matching_statistics(processor, own)
    require_matching_statistics(processor, {})  # nothing to compare with
    require_matching_statistics(SimpleNamespace(state_stats=None, action_stats=None), own)
    # Millimetres instead of metres; one number more; actions beyond the range.
    in_mm = statistics_of_rows(state=state * [1000, 1, 1] + [9000, 0, 0], action=None)
    with pytest.raises(
        InputError, match=r"does not fit arm: state_stats .* dimensions \[0\]\n.*mean model.*dataset"
    ) as e:
        require_matching_statistics(processor, in_mm, "arm")
    lines = str(e.value).splitlines()
    assert (
        len(lines) == 6 and lines[2].split()[0] == "0" and f"{in_mm['observation.state']['mean'][0]:.4g}" in lines[2]
    )
    four = statistics_of_rows(state=np.c_[state, state[:, :1]])
    with pytest.raises(InputError, match="3 dimensions, observation.state has 4"):
        require_matching_statistics(processor, four)
    with pytest.raises(InputError, match=r"action of the dataset differ in dimensions \[1\]"):
        require_matching_statistics(processor, statistics_of_rows(action=action * [1, 1.5]))
    # A little noise at the edges is no other robot; nor is a narrower task.
    for scale in (1.02, 0.3):
        require_matching_statistics(processor, statistics_of_rows(action=action * scale))
    assert "no action" in statistics_mismatch("action_stats", {"min": [0], "max": [1]}, "action", None)
