"""Hindsight goals: the official sampler's statistics, clips that end, and the labels of demonstrations."""

import os
from pathlib import Path

import numpy as np
import pytest

from hf_vpdd.data.clip_samplers import tcn_frames, vip_frames
from hf_vpdd.data.goals import GoalBatch, GoalSampler, check_labels, returns_to_go, sparse_labels
from hf_vpdd.data.instruction_goals import InstructionGoals
from hf_vpdd.errors import InputError


LENGTHS = np.array([5, 9, 3, 12, 21])  # of the goldens
TO = np.cumsum(LENGTHS)
FROM = TO - LENGTHS


def official_statistics():
    folder = Path(os.environ.get("HF_VPDD_GOLDENS", Path(__file__).resolve().parents[3] / "shared" / "goldens"))
    if not (folder / "icvf.npz").exists():
        pytest.skip(f"the goldens are not here: {folder}")
    data = np.load(folder / "icvf.npz", allow_pickle=False)
    return {key.removeprefix("sampler/stat_"): data[key].item() for key in data.files if "sampler/stat_" in key}


def test_statistics_equal_the_official_sampler():
    wanted = official_statistics()
    sampler = GoalSampler(FROM, TO, clip_first=False, last_is_state=True)
    draw = sampler(400_000, np.random.default_rng(0))
    # the official array sampler never draws the very last row: it has no row after it
    kept = draw.state < TO[-1] - 1
    draw = GoalBatch(draw.state[kept], draw.next_state[kept], draw.outcome[kept], draw.intent[kept])
    clip = lambda rows: np.searchsorted(TO, rows, side="right")  # noqa: E731
    same = {name: clip(rows) == clip(draw.state) for name, rows in (("g", draw.outcome), ("z", draw.intent))}
    ours = {
        "p_g_eq_s": (draw.outcome == draw.state).mean(),
        "p_z_eq_s": (draw.intent == draw.state).mean(),
        "p_g_eq_z": (draw.outcome == draw.intent).mean(),
        "p_g_same_traj_future": (same["g"] & (draw.outcome > draw.state)).mean(),
        "p_z_same_traj_future": (same["z"] & (draw.intent > draw.state)).mean(),
        "p_g_other_traj": (~same["g"]).mean(),
        "p_z_other_traj": (~same["z"]).mean(),
    }
    assert ours.keys() == wanted.keys()
    for name, expected in wanted.items():
        assert abs(ours[name] - expected) < 0.004, (name, ours[name], expected)  # 3 deviations of both estimates


@pytest.mark.parametrize("clip_first", [True, False])
@pytest.mark.parametrize("geometric", [None, 0.9])
def test_states_have_successors_and_goals_stay_in_range(clip_first, geometric):
    shares = {"p_random": 0, "p_trajectory": 0.8, "p_current": 0.2}
    sampler = GoalSampler(FROM, TO, **shares, clip_first=clip_first, geometric=geometric)
    draw = sampler(20_000, np.random.default_rng(1))
    clip = np.searchsorted(TO, draw.state, side="right")
    assert (draw.next_state < TO[clip]).all(), "a successor in the next clip"
    for goals in (draw.outcome, draw.intent):
        assert (goals >= draw.state).all() and (goals < TO[clip]).all()
    assert set(np.unique(draw.outcome)) >= set(TO - 1), "the last frame is never a goal"
    np.testing.assert_array_equal(draw.reward, np.where(draw.state == draw.outcome, 0, -1))
    np.testing.assert_array_equal(draw.mask, np.where(draw.state == draw.outcome, 0, 1))


def test_clip_first_weighs_clips_equally():
    draw = GoalSampler(FROM, TO)(50_000, np.random.default_rng(2))
    share = np.bincount(np.searchsorted(TO, draw.state, side="right")) / 50_000
    np.testing.assert_allclose(share, 0.2, atol=0.01)


def test_intent_of_the_same_clip_and_maximum_distance():
    sampler = GoalSampler(FROM, TO, p_random=0.5, p_trajectory=0.3, intent_same_clip=True, max_distance=2, p_same=0)
    draw = sampler(20_000, np.random.default_rng(3))
    assert (draw.intent - draw.state <= 2).all() and (draw.intent >= draw.state).all()
    assert (abs(draw.outcome - draw.state) > 2).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"p_random": 0.5}, "sum to one"),
        ({"p_same": 1.5}, "p_same"),
        ({"geometric": 1.0}, "discount"),
        ({"max_distance": 0}, "max_distance"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(InputError, match=message):
        GoalSampler(FROM, TO, **change)


def test_a_clip_of_one_frame_is_named():
    with pytest.raises(InputError, match="clip 1 has 1 frame"):
        GoalSampler([0, 4, 5], [4, 5, 9])


def test_labels_of_the_worked_example():
    rewards, masks = sparse_labels(10)
    np.testing.assert_array_equal(rewards, [-1] * 7 + [10] * 3)
    np.testing.assert_array_equal(masks, [1] * 7 + [0] * 3)
    expected = [1.3007, 2.3965, 3.5380, 4.7271, 5.9658, 7.2560, 8.6, 10, 10, 10]
    np.testing.assert_allclose(returns_to_go(rewards, masks, 0.96), expected, atol=1e-4)


def test_goals_of_chosen_states_and_all_states():
    sampler = GoalSampler(FROM[::-1], TO[::-1])  # clips in any order
    states = sampler.all_states()
    assert states.tolist() == [row for first, to in zip(FROM, TO) for row in range(first, to - 1)]
    draw = sampler.goals(states, np.random.default_rng(0))
    assert np.array_equal(draw.state, states) and np.array_equal(draw.next_state, states + 1)
    clip = sampler.clip_of(states)
    assert ((FROM[clip] <= states) & (states < TO[clip])).all()


def test_goals_in_words_are_reached_at_the_ends_of_their_clips_alone():
    sampler = InstructionGoals(GoalSampler(FROM, TO), [0, 1, 0, 1, 0])
    states = np.resize(sampler.sampler.all_states(), 20_000)
    draw = sampler.goals(states, np.random.default_rng(0))
    clip = sampler.sampler.clip_of(draw.state)
    ends = draw.state == TO[clip] - 1
    assert abs(ends.mean() - 0.2) < 0.01
    own = draw.intent == sampler.clip_intent[clip]
    assert own[ends].all() and not draw.intent_mask[ends].any() and draw.intent_mask[~ends].all()
    assert draw.outcome_is_intent[ends].all() and abs(draw.outcome_is_intent[~ends].mean() - 0.5) < 0.02
    images = ~draw.outcome_is_intent
    assert np.array_equal(draw.mask[images] == 0, (draw.state == draw.outcome)[images])
    assert np.array_equal(draw.mask[~images], draw.intent_mask[~images])
    assert np.array_equal(draw.next_state, np.where(ends, draw.state, draw.state + 1))
    assert np.array_equal(draw.reward, -draw.mask) and 0.05 < (~own).mean() < 0.2


def test_frames_of_the_compared_objectives():
    rng = np.random.default_rng(0)
    first, last = np.resize(FROM, 5000), np.resize(TO - 1, 5000)
    start, goal, state, following = vip_frames(first, last, rng)
    assert ((first <= start) & (start <= state) & (state < goal) & (goal <= last)).all()
    assert np.array_equal(following, state + 1)
    s0, s1, s2 = tcn_frames(first, last, rng)
    assert ((first <= s0) & (s0 < s1) & (s1 <= s2) & (s2 <= last)).all()
    for rows in (start, s0):  # the whole range occurs
        assert rows[first == FROM[4]].min() == FROM[4] and rows[first == FROM[4]].max() == TO[4] - 2


@pytest.mark.parametrize(
    "rewards, masks, says",
    [
        ([-1, 10, 10], [1, 1, 0], "step 1: reward 10 contradicts mask 1"),
        ([-1, -1, 10], [1, 0, 0], "step 1: reward -1 contradicts mask 0"),
        ([-1, np.nan], [1, 0], "finite"),
        ([-1], [1, 0], r"must both be \(T,\)"),
    ],
)
def test_rewards_that_contradict_the_mask(rewards, masks, says):
    with pytest.raises(InputError, match=says):
        check_labels(np.array(rewards, np.float32), np.array(masks, np.float32), -1.0)
    check_labels(*sparse_labels(10), -1.0)
