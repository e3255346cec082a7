import json
from pathlib import Path

import numpy as np
import pytest

from hf_vpdd.errors import InputError
from hf_vpdd.evaluation.calvin_chains import (
    TASKS,
    chains_of_shard,
    draw_chains,
    is_feasible,
    official_chains,
    scene_seed,
    starting_scene,
    starting_scenes,
)
from tests.modeling.official import GOLDENS


ROOT = Path(__file__).resolve().parents[2]
SEQUENCES = GOLDENS / "calvin_sequences.json"
# Places 0, 1, 500 and 999 of the benchmark's own output: scene's values, tasks, seed of the scene.
SLICE = json.loads((ROOT / "tests" / "fixtures" / "calvin_sequences_slice.json").read_text())


def _same(chain, golden):
    assert dict(chain.start) == golden["init"] and list(chain.start) == list(golden["init"])
    assert list(chain.tasks) == golden["tasks"] and scene_seed(chain.start) == golden["seed"]


def test_chains_and_seeds_are_the_benchmarks():
    for golden in SLICE:
        _same(official_chains()[golden["chain"]], golden)


@pytest.mark.skipif(not SEQUENCES.is_file(), reason="golden data are not here")
def test_all_thousand_chains_are_the_benchmarks():
    goldens = json.loads(SEQUENCES.read_text())
    assert len(official_chains()) == len(goldens) == 1000
    for chain, golden in zip(official_chains(), goldens):
        _same(chain, golden)


def test_drawing_gives_what_is_kept():
    scenes = starting_scenes()
    assert len(scenes) == 192
    for number in (40, 191):  # shares of 5; the first forty scenes have 6
        drawn = draw_chains(number)
        kept = [chain.tasks for chain in official_chains() if chain.start == scenes[number]]
        assert len(drawn) == 5 and set(drawn) == set(kept)
    assert sum(chain.start == scenes[0] for chain in official_chains()) == 6


def test_every_chain_can_be_done_and_impossible_ones_are_known():
    assert all(is_feasible(chain.start, chain.tasks) for chain in official_chains())
    start = dict(official_chains()[0].start)  # drawer open, blue on the table, red and pink in the slider
    assert not is_feasible(start, ["open_drawer"])
    assert is_feasible(start, ["close_drawer", "lift_blue_block_table", "stack_block"]) is False  # on what?
    assert is_feasible(start, ["push_into_drawer", "lift_blue_block_drawer"])
    assert not is_feasible(start, ["turn_off_led", "turn_off_lightbulb"])  # of one kind
    assert len(TASKS) == len(set(TASKS)) == 34


def test_starting_scenes_hold_what_the_words_say():
    for golden in SLICE:
        robot, scene = starting_scene(golden["init"])
        assert robot.shape == (15,) and robot[14] == 1
        # numbers of the benchmark's own function, for the same seed
        np.testing.assert_array_equal(scene, golden["scene_obs"])
    places = set()
    for start in starting_scenes():
        robot, scene = starting_scene(start)
        assert (scene[0] > 0) == (start["slider"] == "left") and (scene[1] > 0) == (start["drawer"] == "open")
        assert scene[4] == start["lightbulb"] == (scene[3] > 0) and scene[5] == start["led"]
        blocks = [tuple(scene[first : first + 3]) for first in (6, 12, 18)]
        assert len(set(blocks)) == 3  # no two at one place
        places |= set(blocks)
        turns = scene[[11, 17, 23]]
        assert (abs(turns - np.pi / 2) <= np.pi / 8).all() and len(set(turns)) == 3
    assert len(places) == 4


def test_shards_are_disjoint_and_complete():
    shards = [chains_of_shard(50, shard, 3) for shard in (1, 2, 3)]
    numbers = sorted(chain.number for shard in shards for chain in shard)
    assert numbers == list(range(50)) and [len(shard) for shard in shards] == [17, 17, 16]
    with pytest.raises(InputError, match=r"1\.\.1000"):
        chains_of_shard(1001)
    with pytest.raises(InputError, match="shard 4/3"):
        chains_of_shard(10, 4, 3)
