import numpy as np
import pytest

from hf_vpdd.data.keyframes import find_keyframes, next_keyframes
from hf_vpdd.errors import InputError


def demonstration(gripper: str, still=(), joints: int = 7):
    """Gripper as a string of 0 and 1, one a frame; every frame moves, except those in `still`."""
    velocities = np.full((len(gripper), joints), 0.5)
    velocities[list(still)] = 0.05
    return [float(mark) for mark in gripper], velocities


@pytest.mark.parametrize(
    ("gripper", "still", "expected"),
    [
        ("1111111111", (), [9]),  # nothing but the end
        ("1110000111", (), [3, 7, 9]),  # closes, opens, ends
        ("1111111111111", (4,), [4, 12]),  # a stop
        ("1111111111111111", (4, 5, 6, 7, 8, 9, 10), [4, 9, 15]),  # a long stop counts again after four frames
        ("11111111100000", (8, 9, 10, 11), [9, 11, 13]),  # 8: the gripper closes next; 10: it has just closed
        ("1111111111", (7, 8), [7, 9]),  # 8 is the last frame but one: no stop
        ("1111111100", (), [9]),  # the closing at 8 is next to the end: dropped
        ("1", (), []),
        ("11", (), [1]),
    ],
)
def test_what_counts_as_a_keyframe(gripper, still, expected):
    keyframes = find_keyframes(*demonstration(gripper, still))
    assert keyframes.tolist() == expected and keyframes.dtype == np.int64


def test_a_standing_start_delays_the_next_stop_as_in_the_released_code():
    """Frame 0 stands still and the gripper ends as it began: no keyframe, yet frames 1 to 4 cannot be one either."""
    gripper, velocities = demonstration("1" * 14, still=(0, 2, 4, 5))
    assert find_keyframes(gripper, velocities).tolist() == [5, 13]
    gripper[-3:] = [0.0, 0.0, 0.0]  # it ends otherwise: frame 0 does not count as still, frame 2 does
    assert find_keyframes(gripper, velocities).tolist() == [2, 11, 13]


def test_one_moving_joint_is_not_standing_still():
    gripper, velocities = demonstration("1" * 12, still=(5,))
    velocities[5, 3] = -0.11
    assert find_keyframes(gripper, velocities).tolist() == [11]
    assert find_keyframes(gripper, velocities, stopped_below=0.2).tolist() == [5, 11]


def test_next_keyframes_come_strictly_after_the_frame_and_are_padded():
    rows, is_pad = next_keyframes([3, 7, 9], steps=np.array([0, 3, 8, 9]), count=2)
    assert rows.tolist() == [[3, 7], [7, 9], [9, 9], [9, 9]]
    assert is_pad.tolist() == [[False, False], [False, False], [False, True], [True, True]]
    rows, is_pad = next_keyframes([3, 7, 9], steps=2, count=4)
    assert rows.tolist() == [3, 7, 9, 9] and is_pad.tolist() == [False, False, False, True]


@pytest.mark.parametrize(
    "bad",
    [
        lambda: find_keyframes([1.0, 1.0], np.zeros((3, 7))),
        lambda: find_keyframes([], np.zeros((0, 7))),
        lambda: find_keyframes([1.0, np.nan], np.zeros((2, 7))),
        lambda: next_keyframes([], 0, 4),
        lambda: next_keyframes([5, 3], 0, 4),
        lambda: next_keyframes([5], 0, 0),
    ],
)
def test_what_makes_no_sense_is_an_error(bad):
    with pytest.raises(InputError, match="keyframes"):
        bad()
