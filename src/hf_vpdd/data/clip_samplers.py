"""Frames of clips for the compared objectives: VIP's stretches, R3M's triplets (spec vptr.md §5).

All draws of a batch at once; each function gives rows of the frame store, int64 (B,), for the clip of each sample.
"""

import numpy as np


def vip_frames(first: np.ndarray, last: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """(initial, goal, state, next): a stretch of each clip with at least two frames, a frame of it before its end, and
    the frame after that one.

    Args:
        first, last: int (B,), first and last row of each sample's clip, first < last.
    """
    initial = first + rng.integers(last - first)
    goal = initial + 1 + rng.integers(last - initial)
    state = initial + rng.integers(goal - initial)
    return initial, goal, state, state + 1


def tcn_frames(first: np.ndarray, last: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """(s0, s1, s2) with s0 < s1 <= s2: s1 anywhere but at the start, then s0 before it and s2 from it on."""
    middle = first + 1 + rng.integers(last - first)
    return first + rng.integers(middle - first), middle, middle + rng.integers(last - middle + 1)
