"""How well values order what they should order: rank correlations, with the pixel distance as the floor (spec §6)."""

import numpy as np


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks 0..n-1 of (n,) values, ties share their mean rank."""
    values = np.asarray(values, np.float64)
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return ((ends - counts + ends - 1) / 2)[inverse]


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rank correlation of two (n,) arrays; 0 where one of them is constant."""
    a, b = ranks(a), ranks(b)
    a, b = a - a.mean(), b - b.mean()
    scale = np.sqrt((a * a).sum() * (b * b).sum())
    return 0.0 if scale == 0 else float((a * b).sum() / scale)


def value_order(values: np.ndarray) -> float:
    """Value-order correlation of one clip: Spearman's of the values (T,) and the time, in [-1, 1]."""
    return spearman(values, np.arange(len(values)))


def pixel_values(frames: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """Minus the root mean square difference in pixels: what any value has to beat. uint8 (T, H, W, 3), (H, W, 3)."""
    difference = np.asarray(frames, np.float32) - np.asarray(goal, np.float32)
    return -np.sqrt(np.square(difference).mean((1, 2, 3)))
