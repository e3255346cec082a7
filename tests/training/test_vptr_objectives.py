"""VIP's and R3M's losses against their formulas written out row by row; negatives; crops and colours."""

import colorsys

import numpy as np
import pytest
import torch

from hf_vpdd.training.image_augment import _OPERATIONS, jitter_colors, random_crop
from hf_vpdd.training.objectives.tcn import tcn_loss
from hf_vpdd.training.objectives.vip import other_rows, vip_loss


def embeddings(count: int, batch: int = 5, size: int = 4):
    return torch.randn(count, batch, size, dtype=torch.float64)


def test_negatives_are_different_other_rows():
    seen = set()
    for seed in range(40):
        rows = other_rows(6, 3, torch.Generator().manual_seed(seed), torch.device("cpu"))
        assert rows.shape == (6, 3)
        for row, others in enumerate(rows.tolist()):
            assert row not in others and len(set(others)) == 3
        seen.add(tuple(rows[0].tolist()))
    assert len(seen) > 15
    assert other_rows(2, 3, None, torch.device("cpu")).tolist() == [[1], [0]]


def test_vip_equals_the_formula():
    start, goal, state, following = embeddings(4)
    others = other_rows(5, 3, torch.Generator().manual_seed(0), torch.device("cpu"))
    discount, penalty, eps = 0.9, 0.01, 1e-8
    similarity = lambda a, b: -np.linalg.norm(a.numpy() - b.numpy())  # noqa: E731
    attraction = np.mean([-similarity(start[i], goal[i]) for i in range(5)]) * (1 - discount)
    own = [
        np.exp(-(-1 + discount * similarity(following[i], goal[i]) - similarity(state[i], goal[i]))) for i in range(5)
    ]
    foreign = [
        np.exp(-(-1 + discount * similarity(following[j], goal[i]) - similarity(state[j], goal[i])))
        for i in range(5)
        for j in others[i].tolist()
    ]
    rows = torch.cat((start, goal, state, following)).numpy()
    size = np.mean([np.abs(row).sum() for row in rows]) + np.mean([np.linalg.norm(row) for row in rows])
    want = attraction + np.log(eps + np.mean(own)) + np.log(eps + np.mean(foreign)) + penalty * size
    assert vip_loss(start, goal, state, following, others, discount, penalty).item() == pytest.approx(want, rel=1e-9)
    # nothing overflows where the formula would
    far = vip_loss(start, goal, 1e3 * state, 1e4 * following, others, discount, penalty)
    assert torch.isfinite(far)


def test_tcn_equals_the_formula():
    first, middle, last = embeddings(3)
    others = other_rows(5, 2, torch.Generator().manual_seed(1), torch.device("cpu"))
    e = lambda a, b: np.exp(-np.linalg.norm(a.numpy() - b.numpy()))  # noqa: E731
    total = 0.0
    for i in range(5):
        late, ends, early = e(last[i], middle[i]), e(last[i], first[i]), e(middle[i], first[i])
        total -= np.log(late / (ends + late + sum(e(last[i], last[j]) for j in others[i].tolist())))
        total -= np.log(early / (ends + early + sum(e(first[i], first[j]) for j in others[i].tolist())))
    assert tcn_loss(first, middle, last, others, penalty=0.0).item() == pytest.approx(total / 10, rel=1e-9)


def test_gradients_are_finite_where_frames_coincide():
    points = [torch.zeros(4, 3, requires_grad=True) for _ in range(4)]
    others = other_rows(4, 3, None, torch.device("cpu"))
    (vip_loss(*points, others) + tcn_loss(*points[:3], others)).backward()
    assert all(torch.isfinite(p.grad).all() for p in points)


def test_crops_shift_every_image_by_itself_and_repeat_the_edge():
    frames = torch.arange(8 * 8).view(1, 8, 8, 1).expand(200, 8, 8, 3).to(torch.uint8)
    out = random_crop(frames, 2, torch.Generator().manual_seed(0))
    shifts = set()
    padded = np.pad(np.arange(64).reshape(8, 8), 2, mode="edge")
    for image in out[..., 0].numpy():
        found = [(i, j) for i in range(5) for j in range(5) if np.array_equal(image, padded[i : i + 8, j : j + 8])]
        assert len(found) == 1
        shifts.add(found[0])
    assert len(shifts) == 25
    pairs = random_crop(frames, 2, torch.Generator().manual_seed(0), together=2)
    assert torch.equal(pairs[::2], pairs[1::2]) and random_crop(frames, 0, None) is frames


def test_each_colour_operation_is_what_it_says():
    pixels = torch.rand(3, 3, 4, 4)
    amount = torch.tensor([0.1, -0.1, 0.05])[:, None, None, None]
    brightness, contrast, saturation, hue = (operation(pixels, amount) for operation in _OPERATIONS)
    assert torch.allclose(brightness, (pixels * (1 + amount)).clamp(0, 1))
    spread = lambda x: (x - x.mean((1, 2, 3), keepdim=True)).abs().mean()  # noqa: E731
    assert spread(contrast[:1]) > spread(pixels[:1]) and spread(contrast[1:2]) < spread(pixels[1:2])
    grey = pixels.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    assert torch.allclose(_OPERATIONS[2](grey, amount), grey, atol=1e-6) and not torch.allclose(saturation, pixels)
    for n in range(3):
        for y, x in ((0, 0), (1, 2), (3, 3)):
            h, s, v = colorsys.rgb_to_hsv(*pixels[n, :, y, x].tolist())
            want = colorsys.hsv_to_rgb((h + amount[n].item()) % 1, s, v)
            assert hue[n, :, y, x].tolist() == pytest.approx(want, abs=1e-5)
    assert torch.allclose(_OPERATIONS[3](grey, amount), grey)


def test_jitter_changes_the_share_it_should_and_keeps_256_levels():
    pixels = (torch.rand(400, 3, 4, 4) * 255).round() / 255
    out = jitter_colors(pixels, [0.2, 0.1, 0.1, 0.03], 0.8, torch.Generator().manual_seed(0))
    changed = (out != pixels).flatten(1).any(1).float().mean().item()
    assert 0.72 < changed < 0.88
    assert torch.allclose(out * 255, (out * 255).round(), atol=1e-3) and 0 <= out.min() and out.max() <= 1
    again = jitter_colors(pixels, [0.2, 0.1, 0.1, 0.03], 0.8, torch.Generator().manual_seed(0))
    assert torch.equal(out, again)
    assert jitter_colors(pixels, [0, 0, 0, 0], 0.8, None) is pixels
    assert jitter_colors(pixels[:5], [0.2, 0.1, 0.1, 0.03], 1.0, torch.Generator().manual_seed(0)).shape == (
        5,
        3,
        4,
        4,
    )
