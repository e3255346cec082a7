"""Pictures, tokens and features against the definitions, written out slowly."""

import math

import numpy as np
import pytest

from hf_vpdd.errors import InputError
from hf_vpdd.evaluation.video_metrics import frechet_distance, psnr, ssim, token_accuracy


def frames(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_psnr_of_each_frame_by_hand():
    ours, theirs = frames(0, 2, 3, 4, 5, 3), frames(1, 2, 3, 4, 5, 3)
    found = psnr(ours, theirs)
    assert found.shape == (2, 3)
    for i in range(2):
        for t in range(3):
            error = sum((float(a) - float(b)) ** 2 for a, b in zip(ours[i, t].flat, theirs[i, t].flat)) / 60
            assert found[i, t] == pytest.approx(10 * math.log10(255**2 / error))
    np.testing.assert_allclose(psnr(ours / 255, theirs / 255, data_range=1), found)
    assert np.isinf(psnr(ours, ours)).all()
    assert psnr(np.zeros((4, 4, 3)), np.full((4, 4, 3), 0.1), 1.0) == pytest.approx(20)


def test_ssim_by_loops_over_windows():
    ours, theirs = frames(2, 14, 13, 2), frames(3, 14, 13, 2)
    theirs = (0.7 * ours + 0.3 * theirs).astype(np.uint8)
    offsets = range(-5, 6)
    kernel = np.array([[math.exp(-(i * i + j * j) / (2 * 1.5**2)) for j in offsets] for i in offsets])
    kernel /= kernel.sum()
    scores = []
    for channel in range(2):
        for top in range(4):
            for left in range(3):
                a, b = (x[top : top + 11, left : left + 11, channel].astype(float) for x in (ours, theirs))
                ma, mb = (kernel * a).sum(), (kernel * b).sum()
                va, vb = (kernel * (a - ma) ** 2).sum(), (kernel * (b - mb) ** 2).sum()
                both = (kernel * (a - ma) * (b - mb)).sum()
                c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
                scores.append((2 * ma * mb + c1) * (2 * both + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2)))
    assert ssim(ours, theirs) == pytest.approx(np.mean(scores))
    assert ssim(ours, ours) == pytest.approx(1) and ssim(ours, 255 - ours) < 0
    assert ssim(frames(0, 2, 3, 11, 11, 3), frames(1, 2, 3, 11, 11, 3)).shape == (2, 3)


def test_token_accuracy_of_all_and_of_those_that_change():
    before = np.array([[1, 2], [3, 4]])
    after = np.array([[1, 5], [6, 7]])
    ours = np.array([[1, 5], [3, 8]])
    assert token_accuracy(ours, after) == {"accuracy": 0.5, "tokens": 4}
    found = token_accuracy(ours, after, before)
    assert found == {
        "accuracy": 0.5, "tokens": 4, "changed_accuracy": pytest.approx(1 / 3), "changed_tokens": 3,
        "copy_accuracy": 0.25,
    }  # fmt: skip
    assert token_accuracy(before, before, before)["changed_accuracy"] is None
    assert token_accuracy([], []) == {"accuracy": None, "tokens": 0}


@pytest.mark.parametrize(("n", "m", "d"), [(50, 60, 4), (5, 7, 12), (30, 4, 8)])
def test_frechet_distance_as_the_definition_has_it(n, m, d):
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)), rng.normal(1, 2, (m, d))
    c1, c2 = np.cov(ours.T), np.cov(theirs.T)
    # tr (C1 C2)^(1/2): the roots of the eigenvalues of C1 C2, which are real and not negative up to rounding
    root = np.sqrt(np.clip(np.linalg.eigvals(c1 @ c2).real, 0, None)).sum()
    slow = np.square(ours.mean(0) - theirs.mean(0)).sum() + np.trace(c1) + np.trace(c2) - 2 * root
    assert frechet_distance(ours, theirs) == pytest.approx(slow, rel=1e-5)
    assert frechet_distance(theirs, ours) == pytest.approx(frechet_distance(ours, theirs))


def test_frechet_distance_where_it_is_known():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(200, 3))
    x = (x - x.mean(0)) / x.std(0, ddof=1)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-12)
    assert frechet_distance(x, x[::-1] + [3, 0, 4]) == pytest.approx(25)
    one = x[:, :1]  # in one dimension: (m1 - m2)^2 + (s1 - s2)^2
    assert frechet_distance(2 * one + 1, 5 * one - 1) == pytest.approx(4 + 9)
    flat = np.zeros((10, 3))  # a covariance of rank 0, where a matrix root fails
    assert frechet_distance(flat, x) == pytest.approx(3)
    huge = 1e6 * rng.normal(size=(20, 400)) + 1e3  # far fewer samples than dimensions
    assert frechet_distance(huge, huge.copy()) <= 1e-9 * np.square(huge).sum()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: psnr(frames(0, 4, 4, 3), frames(0, 5, 4, 3)), "one shape"),
        (lambda: psnr(frames(0, 4, 4, 3), frames(0, 4, 4, 3) / 255), "one kind"),
        (lambda: psnr(np.zeros((4, 4, 3)), np.zeros((4, 4, 3))), "data_range: missing"),
        (lambda: psnr(np.full((4, 4, 3), np.nan), np.zeros((4, 4, 3)), 1), "predictions: not all numbers"),
        (lambda: psnr(np.zeros(4, np.uint8), np.zeros(4, np.uint8)), r"\(\.\.\., H, W, C\)"),
        (lambda: ssim(frames(0, 8, 20, 3), frames(0, 8, 20, 3)), "at least 11 x 11"),
        (lambda: token_accuracy([0.5], [1.0]), "whole numbers"),
        (lambda: token_accuracy([1, 2], [1]), "one shape"),
        (lambda: frechet_distance(np.zeros((1, 3)), np.zeros((5, 3))), "at least 2 rows"),
        (lambda: frechet_distance(np.zeros((5, 2)), np.zeros((5, 3))), "2 dimensions"),
        (lambda: frechet_distance(np.full((5, 3), np.inf), np.zeros((5, 3))), "row 0"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()
