"""Keyframes: the few moments of a demonstration that an arm with a motion planner has to be told (PerAct, VPDD §4.3).

keyframes = find_keyframes(gripper_open, joint_velocities)             # e.g. [31, 47, 90]
rows, is_pad = next_keyframes(keyframes, steps=np.arange(91), count=4)  # what the policy has to say at each frame
targets = poses[rows]                                                   # (91, 4, 8)
"""

import numpy as np

from ..errors import InputError


STOPPED_BELOW = 0.1  # rad/s, of every joint
PAUSE = 4  # frames after a stop in which no further one counts


def find_keyframes(gripper_open, joint_velocities, stopped_below: float = STOPPED_BELOW) -> np.ndarray:
    """The keyframes of one demonstration, by PerAct's rule, frame for frame as its released code finds them.

    A frame (not the first) is one if the gripper is not as it was in the frame before, if the arm stands still, or if
    it is the last. Still means: no joint is faster than `stopped_below`; the gripper is the same from two frames
    before until one after; it is not the last frame but one; and none of the four frames before counted as still. If
    the last two keyframes are neighbours, the earlier of them is dropped.

    The rule looks back past the beginning, where Python's negative indices lead to the end of the demonstration. So a
    frame 0 or 1 can count as still only if the gripper is at the end as it is at the beginning: kept, since data of
    other labs is cut by it.

    Args:
        gripper_open: (T,) 0 or 1. joint_velocities: (T, J) rad/s.
        stopped_below: Largest speed of a joint that stands still.

    Returns:
        int64 (K,), ascending, ending with T - 1; empty for a single frame.

    Raises:
        InputError: Shapes do not fit, no frames, or a value is not finite.
    """
    gripper, velocities = np.asarray(gripper_open, np.float64), np.asarray(joint_velocities, np.float64)
    if gripper.ndim != 1 or velocities.ndim != 2 or len(gripper) != len(velocities) or not len(gripper):
        raise InputError(
            f"keyframes: expected gripper_open (T,) and joint_velocities (T, joints) with T >= 1, got {gripper.shape} "
            f"and {velocities.shape}"
        )
    if not (np.isfinite(gripper).all() and np.isfinite(velocities).all()):
        raise InputError("keyframes: gripper_open and joint_velocities must be finite numbers")
    frames = len(gripper)
    at = np.arange(frames)
    before, before_that = gripper[at - 1], gripper[at - 2] if frames > 1 else gripper
    after = gripper[np.minimum(at + 1, frames - 1)]
    steady = (gripper == before) & (gripper == after) & (before == before_that) & (at < frames - 2)
    slow = (np.abs(velocities) <= stopped_below).all(axis=1)

    found, pause = [], 0
    for frame, still in enumerate(steady & slow):
        still = still and pause <= 0
        pause = PAUSE if still else pause - 1
        changed = gripper[frame] != before[frame]
        if frame > 0 and (changed or still or frame == frames - 1):
            found.append(frame)
    if len(found) > 1 and found[-2] == found[-1] - 1:
        del found[-2]
    return np.array(found, np.int64)


def next_keyframes(keyframes, steps, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The `count` keyframes that come after each of these frames: what a policy is trained to answer there.

    Args:
        keyframes: (K,) ascending, K >= 1.
        steps: (N,) frames, or one.
        count: Length of a chunk.

    Returns:
        rows: int64 (N, count): the first keyframe strictly after the frame, then those that follow. Where there are no
            more, the last keyframe again.
        is_pad: bool (N, count), True where there were no more. (The released code writes zeros there, hence bin 0,
            and trains on them: to do as it does, set the bins to 0 after encoding.)
    """
    keyframes, steps = np.asarray(keyframes, np.int64), np.asarray(steps, np.int64)
    if keyframes.ndim != 1 or not len(keyframes) or (np.diff(keyframes) <= 0).any():
        raise InputError(f"keyframes: expected ascending frame numbers, at least one, got {keyframes.tolist()}")
    if count < 1:
        raise InputError(f"keyframes: a chunk has at least one, not {count}")
    place = np.searchsorted(keyframes, steps, side="right")[..., None] + np.arange(count)
    is_pad = place >= len(keyframes)
    return keyframes[np.minimum(place, len(keyframes) - 1)], is_pad
