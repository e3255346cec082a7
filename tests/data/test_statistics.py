import numpy as np
import pytest

from hf_vpdd.data.statistics import ImageStatistics, RunningStatistics, from_json, sample_indices, to_json
from hf_vpdd.errors import InputError


QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}


def pieces(rows, generator):
    return np.split(rows, np.sort(generator.choice(np.arange(1, len(rows)), 40, replace=False)))


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_vectors_equal_numpy(offset):
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(5000, 3)) * [1, 0.01, 5] + offset
    running = RunningStatistics()
    for piece in pieces(rows, generator):
        running.update(piece)
    result = running.result()
    assert np.allclose(result["mean"], rows.mean(axis=0), rtol=1e-12)
    assert np.allclose(result["std"], rows.std(axis=0), rtol=1e-6)  # of the population, as LeRobot
    assert (result["min"] == rows.min(axis=0)).all() and (result["max"] == rows.max(axis=0)).all()
    assert result["count"].tolist() == [5000]
    for name, fraction in QUANTILES.items():
        assert np.allclose(result[name], np.quantile(rows, fraction, axis=0), rtol=1e-12)


def test_quantiles_of_more_rows_than_are_kept():
    """The histogram grows to both sides: the pieces drift from narrow to wide."""
    generator = np.random.default_rng(1)
    rows = generator.normal(size=(60_000, 2)) * np.linspace(0.01, 3, 60_000)[:, None]
    rows[20_000:, 1] -= 20
    running = RunningStatistics(exact_rows=1000)
    for piece in pieces(rows, generator):
        running.update(piece)
    result = running.result()
    reach = rows.max(axis=0) - rows.min(axis=0)
    for name, fraction in QUANTILES.items():
        assert (np.abs(result[name] - np.quantile(rows, fraction, axis=0)) < 2e-3 * reach).all(), name
    assert np.allclose(result["std"], rows.std(axis=0))


def test_a_constant_and_booleans_are_fine():
    running = RunningStatistics(exact_rows=10)
    for _ in range(5):
        running.update(np.full((20, 1), 3.0))
    assert running.result()["std"].tolist() == [0.0] and running.result()["q50"] == pytest.approx([3.0])
    running = RunningStatistics()
    running.update(np.array([True, False, True, True]))
    assert running.result()["mean"].tolist() == [0.75]


def test_nan_and_other_sizes_are_refused():
    running = RunningStatistics()
    running.update(np.zeros((3, 2)))
    with pytest.raises(InputError, match="row 1"):
        running.update(np.array([[0, 1], [np.nan, 1]]))
    with pytest.raises(InputError, match="size 4"):
        running.update(np.zeros((3, 4)))
    assert RunningStatistics().result() == {}


def test_images_equal_numpy():
    generator = np.random.default_rng(2)
    images = generator.integers(0, 200, (12, 10, 8, 3), dtype=np.uint8)
    images[..., 1] = np.minimum(images[..., 1], 100)
    running = ImageStatistics()
    running.update(images[:5])
    running.update(images[5:])
    result = running.result()
    pixels = images.reshape(-1, 3) / 255.0
    assert result["count"].tolist() == [12]
    expected = {"mean": pixels.mean(0), "std": pixels.std(0), "min": pixels.min(0), "max": pixels.max(0)}
    expected |= {name: np.quantile(pixels, fraction, axis=0) for name, fraction in QUANTILES.items()}
    for name, value in expected.items():
        assert result[name].shape == (3, 1, 1)
        assert np.allclose(result[name].reshape(-1), value), name


def test_sampled_frames_follow_lerobot():
    assert sample_indices(1).tolist() == [0]
    assert sample_indices(60).tolist() == list(range(60))
    # The table in LeRobot's documentation of the rule.
    assert [len(sample_indices(n)) for n in (400, 1000, 2000, 5000, 10_000)] == [100, 177, 299, 594, 1000]
    assert sample_indices(1000)[0] == 0 and sample_indices(1000)[-1] == 999


def test_json_round_trip():
    running = RunningStatistics()
    running.update(np.arange(12.0).reshape(4, 3))
    back = from_json(to_json({"action": running.result()}))["action"]
    assert all((back[name] == value).all() for name, value in running.result().items())
