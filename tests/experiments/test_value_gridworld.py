import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from hf_vpdd.errors import InputError
from hf_vpdd.experiments.gridworld import GridWorld
from hf_vpdd.experiments.picture_table import PictureTable
from hf_vpdd.experiments.value_gridworld import GridworldPlan, finished, result_path, run_cell, run_gridworld
from hf_vpdd.modeling.vptr import VPTRConfig, VPTRForValuePrediction


LINE = "#####\n#...#\n###.#\n#####"
QUICK = {"steps": 3, "batch_size": 4, "clips": 5, "widths": (4, 4), "hidden": (8, 8)}


def test_distances_are_steps_around_the_walls():
    world = GridWorld(LINE)
    assert world.cells.tolist() == [[1, 1], [1, 2], [1, 3], [2, 3]]
    assert world.distances[0].tolist() == [0, 1, 2, 3] and (world.distances == world.distances.T).all()
    rooms = GridWorld()
    assert len(rooms.cells) == 104 and rooms.distances.max() == 20


def test_a_cell_that_cannot_be_reached_is_refused():
    with pytest.raises(ValueError, match="reachable"):
        GridWorld("#####\n#.#.#\n#####")


def test_true_distances_score_full_and_nothing_scores_nothing():
    world = GridWorld()
    right = -world.distances.astype(float)
    assert world.spearman(right) == pytest.approx(1) and world.greedy_steps(right) == 1
    assert world.spearman(-right) == pytest.approx(-1) and world.greedy_steps(-right) < 0.2
    flat = np.zeros_like(right)
    assert world.spearman(flat) == 0 and 0.4 < world.greedy_steps(flat) < 0.6  # half of the neighbours come nearer


def test_greedy_step_of_a_wrong_turn():
    world = GridWorld(LINE)
    values = -world.distances.astype(float)
    values[0, 3] = 9.0  # from cell 1 toward goal 3 it now looks better to go back
    assert world.greedy_steps(values) == pytest.approx(11 / 12)


def test_clips_are_near_optimal_walks_that_end_at_their_goals():
    world = GridWorld()
    for share, slack in ((0.0, 0), (0.3, None)):
        clips = world.clips(50, share, np.random.default_rng(0))
        for clip in clips:
            assert len(clip) >= 2
            assert all(b in world.after[a] for a, b in zip(clip, clip[1:]))
            if slack == 0:
                assert len(clip) - 1 == world.distances[clip[0], clip[-1]]


def test_pictures_differ_and_near_ones_less():
    world = GridWorld()
    pictures = world.pictures(2).astype(float)
    assert pictures.shape == (104, 26, 26, 3)
    apart = np.square(pictures[:, None] - pictures[None]).mean((2, 3, 4))
    assert (apart[~np.eye(104, dtype=bool)] > 0).all()
    assert apart[world.distances == 1].mean() < 0.8 * apart[world.distances > 4].mean()


def test_every_picture_is_encoded_once_with_the_same_result():
    pictures = GridWorld().pictures(1)
    torch.manual_seed(0)
    network = VPTRForValuePrediction(
        VPTRConfig(encoder="impala", image_size=13, impala_widths=[4], value_hidden_sizes=[8])
    )
    calls = []
    network.model.encoder.register_forward_hook(lambda _, given, __: calls.append(len(given[0])))
    table = PictureTable(network, pictures)
    numbers = torch.tensor([[3, 3, 7], [7, 50, 3]])[0]
    features = table.encode(numbers)
    assert calls == [2]
    pixels = torch.from_numpy(pictures[numbers.numpy()]).movedim(-1, 1).float() / 255
    torch.testing.assert_close(features, network.encode(pixels))


@pytest.mark.parametrize("arm", ["icvf", "vip", "tcn", "untrained", "pixels"])
def test_a_cell_of_each_kind(tmp_path, arm):
    plan = GridworldPlan(str(tmp_path), **QUICK)
    found = run_cell(plan, arm, 1, progress=False)
    assert json.loads(result_path(plan, arm, 1).read_text()) == found
    assert -1 <= found["spearman"] <= 1 and 0 <= found["greedy_step"] <= 1 and -1 <= found["order"] <= 1
    assert found["steps"] == (3 if arm in ("icvf", "vip", "tcn") else 0)
    if arm != "pixels":  # the same seed, the same result
        assert run_cell(plan, arm, 1, progress=False)["spearman"] == found["spearman"]


def test_a_study_goes_on_and_refuses_another_plan(tmp_path):
    plan = GridworldPlan(str(tmp_path), **QUICK)
    results = run_gridworld(plan, ["pixels", "untrained"], seeds=2, progress=False)
    assert [(r["arm"], r["seed"]) for r in results] == [("pixels", 0), ("untrained", 0), ("untrained", 1)]
    assert finished(plan, ["untrained", "icvf"], 2) == results[1:]
    path = result_path(plan, "untrained", 0)
    path.write_text(json.dumps({**results[1], "spearman": 9}))
    assert run_gridworld(plan, ["untrained"], seeds=1, progress=False)[0]["spearman"] == 9  # not run again
    with pytest.raises(InputError, match="with steps 3, now it is 4"):
        run_gridworld(replace(plan, steps=4), ["untrained"], seeds=1, progress=False)
    with pytest.raises(InputError, match="no arm 'mae'"):
        run_gridworld(plan, ["mae"], seeds=1)
