"""How good imagined pictures are: PSNR, SSIM, accuracy of video tokens, and the Fréchet distance of given features."""

from typing import Any

import numpy as np

from ..errors import InputError


WINDOW, SIGMA = 11, 1.5  # of SSIM (Wang et al. 2004)


def psnr(predictions: Any, references: Any, data_range: float | None = None) -> np.ndarray:
    """Peak signal-to-noise ratio of every frame, in dB; equal frames have infinity.

    Args:
        predictions, references: (..., H, W, C) of one shape; uint8, or floats.
        data_range: Difference between the largest and the smallest value a pixel can have. Default: 255 for uint8;
            floats have to say theirs (1 for pictures in [0, 1]).

    Returns:
        float64 (...).

    Raises:
        InputError: Shapes or kinds differ, no data_range for floats, or numbers that are not finite.
    """
    ours, theirs, data_range = _pair(predictions, references, data_range)
    error = np.square(ours - theirs).mean(axis=(-3, -2, -1))
    with np.errstate(divide="ignore"):
        return 10 * np.log10(data_range**2 / error)


def ssim(predictions: Any, references: Any, data_range: float | None = None) -> np.ndarray:
    """Structural similarity of every frame (Wang et al. 2004), in [-1, 1]; equal frames have 1.

    A Gaussian window of 11 x 11 pixels with deviation 1.5, K1 = 0.01 and K2 = 0.03, sample statistics as in the paper;
    windows lie within the picture; the mean over channels and windows.

    Args:
        predictions, references, data_range: As in `psnr`; H and W at least 11.

    Returns:
        float64 (...).
    """
    ours, theirs, data_range = _pair(predictions, references, data_range)
    if min(ours.shape[-3:-1]) < WINDOW:
        raise InputError(f"ssim: frames must have at least {WINDOW} x {WINDOW} pixels, got {ours.shape[-3:-1]}.")
    shape = ours.shape[:-3]
    ours, theirs = (x.reshape(-1, *x.shape[-3:]) for x in (ours, theirs))
    scores = np.array([_ssim(a, b, data_range) for a, b in zip(ours, theirs)])
    return scores.reshape(shape)


def token_accuracy(predictions: Any, references: Any, present: Any = None) -> dict[str, float | int | None]:
    """Share of video tokens that were predicted right.

    Args:
        predictions, references: Whole numbers of one shape.
        present: The tokens before, of the same shape. Most tokens of a robot's video never change, so copying the
            present scores high: `changed_accuracy` counts those that do; `copy_accuracy` is what copying gets.

    Returns:
        `accuracy` in 0..1 (None for no tokens at all), `tokens`; with `present` also `changed_accuracy` (None if
        nothing changed), `changed_tokens`, `copy_accuracy`.
    """
    return accuracy_of_counts(token_counts(predictions, references, present), with_present=present is not None)


def accuracy_of_counts(counts: dict[str, int], with_present: bool) -> dict[str, float | int | None]:
    """What `token_accuracy` returns, of counts that were added up."""
    found = {"accuracy": _share(counts["right"], counts["tokens"]), "tokens": counts["tokens"]}
    if with_present:
        found["changed_accuracy"] = _share(counts["changed_right"], counts["changed"])
        found["changed_tokens"] = counts["changed"]
        found["copy_accuracy"] = _share(counts["tokens"] - counts["changed"], counts["tokens"])
    return found


def token_counts(predictions: Any, references: Any, present: Any = None) -> dict[str, int]:
    """The numbers behind `token_accuracy`, which may be added up: tokens, right, changed, changed_right."""
    ours, theirs = _tokens(predictions, "predictions"), _tokens(references, "references")
    _same_shape(ours, theirs)
    right = ours == theirs
    counts = {"tokens": right.size, "right": int(right.sum()), "changed": 0, "changed_right": 0}
    if present is not None:
        before = _tokens(present, "present")
        _same_shape(before, theirs)
        changed = before != theirs
        counts |= {"changed": int(changed.sum()), "changed_right": int((right & changed).sum())}
    return counts


def frechet_distance(features: Any, reference_features: Any) -> float:
    """The Fréchet distance of two sets of features, as of two Gaussians: with features of a video network, FVD.

    ||m1 - m2||^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), with sample covariances C. The last trace is the sum of the singular
    values of X1 X2^T (centred and scaled features): no matrix root, and nothing that rounding could make negative.

    No network comes with this package: say which one made the features, or the number means nothing. It is biased
    upwards for few samples; compare sets of equal size.

    Args:
        features, reference_features: (N, D) and (M, D), N and M at least 2.

    Raises:
        InputError: Other shapes, too few rows, or numbers that are not finite.
    """
    sets = []
    for name, values in (("features", features), ("reference_features", reference_features)):
        values = np.asarray(values, dtype=np.float64)
        if values.ndim != 2 or len(values) < 2:
            raise InputError(f"{name}: expected (N, D) with at least 2 rows, got {values.shape}.")
        if not np.isfinite(values).all():
            raise InputError(
                f"{name}: row {int(np.argwhere(~np.isfinite(values))[0, 0])} has numbers that are not finite."
            )
        sets.append(values)
    if sets[0].shape[1] != sets[1].shape[1]:
        raise InputError(f"features have {sets[0].shape[1]} dimensions, reference_features {sets[1].shape[1]}.")
    means = [values.mean(axis=0) for values in sets]
    rooted = [(values - mean) / np.sqrt(len(values) - 1) for values, mean in zip(sets, means)]
    traces = sum(float(np.square(values).sum()) for values in rooted)
    # R of X = QR has the same X^T X in at most D rows
    small = [np.linalg.qr(values, mode="r") if len(values) > values.shape[1] else values for values in rooted]
    overlap = float(np.linalg.svd(small[0] @ small[1].T, compute_uv=False).sum())
    return max(0.0, float(np.square(means[0] - means[1]).sum()) + traces - 2 * overlap)


def _pair(predictions: Any, references: Any, data_range: float | None) -> tuple[np.ndarray, np.ndarray, float]:
    ours, theirs = np.asarray(predictions), np.asarray(references)
    _same_shape(ours, theirs)
    if ours.ndim < 3:
        raise InputError(f"predictions: expected frames (..., H, W, C), got {ours.shape}.")
    if (ours.dtype == np.uint8) != (theirs.dtype == np.uint8):
        raise InputError(f"predictions are {ours.dtype} and references {theirs.dtype}: give both in one kind.")
    if data_range is None:
        if ours.dtype != np.uint8:
            raise InputError(f"data_range: missing; for frames of {ours.dtype} it is not known (1 for [0, 1]).")
        data_range = 255.0
    if not data_range > 0:
        raise InputError(f"data_range: must be above 0, got {data_range}.")
    ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
    for name, values in (("predictions", ours), ("references", theirs)):
        if not np.isfinite(values).all():
            raise InputError(f"{name}: not all numbers are finite.")
    return ours, theirs, float(data_range)


def _same_shape(ours: np.ndarray, theirs: np.ndarray) -> None:
    if ours.shape != theirs.shape:
        raise InputError(f"expected two arrays of one shape, got {ours.shape} and {theirs.shape}.")


def _tokens(values: Any, name: str) -> np.ndarray:
    values = np.asarray(values)
    if values.size and values.dtype.kind not in "iu":
        raise InputError(f"{name}: tokens are whole numbers, got {values.dtype}.")
    return values


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _ssim(ours: np.ndarray, theirs: np.ndarray, data_range: float) -> float:
    """Of one frame (H, W, C)."""
    mean_a, mean_b = _blur(ours), _blur(theirs)
    var_a = _blur(ours * ours) - mean_a**2
    var_b = _blur(theirs * theirs) - mean_b**2
    both = _blur(ours * theirs) - mean_a * mean_b
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    score = ((2 * mean_a * mean_b + c1) * (2 * both + c2)) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    return float(score.mean())


def _blur(frame: np.ndarray) -> np.ndarray:
    """(H, W, C) -> (H - 10, W - 10, C): Gaussian means of the windows that lie within the picture."""
    offsets = np.arange(WINDOW) - WINDOW // 2
    kernel = np.exp(-(offsets**2) / (2 * SIGMA**2))
    kernel /= kernel.sum()
    for axis in (0, 1):
        frame = np.lib.stride_tricks.sliding_window_view(frame, WINDOW, axis=axis) @ kernel
    return frame
