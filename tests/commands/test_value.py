"""`hf-vpdd value`: curve, film and heat map; goals of every kind; what is refused."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from hf_vpdd import save_policy
from hf_vpdd.cli import main
from hf_vpdd.data import decode_video, encode_video
from hf_vpdd.evaluation.value_order import pixel_values, ranks, spearman, value_order
from hf_vpdd.evaluation.value_pictures import _ticks
from hf_vpdd.values import Goal, attention_map, encode_frames, goal_values, image_goal
from tests.pipelines.tiny_vptr import tiny_value_model, tiny_vptr_policy
from tests.training.small_data import TASKS, write_dataset


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("value")
    save_policy(root / "model", *tiny_value_model())
    save_policy(root / "words", *tiny_value_model(intent="text"))
    save_policy(root / "policy", *tiny_vptr_policy())
    frames = np.zeros((9, 32, 48, 3), np.uint8)
    for t in range(9):
        frames[t, 8:20, 4 + 3 * t : 12 + 3 * t] = (200, 90, 30)
    encode_video(root / "clip.mp4", frames, 10.0)
    Image.fromarray(frames[4]).save(root / "goal.png")
    return root


def value(place, *arguments, model="model"):
    return main(["value", *map(str, arguments), "--model", str(place / model), "--device", "cpu"])


def test_a_video_toward_its_last_frame(place, tmp_path, capsys):
    assert value(place, place / "clip.mp4", "--out", tmp_path) == 0
    summary = json.loads((tmp_path / "value.json").read_text())
    assert np.shape(summary["values"]) == (2, 9) and summary["goal"] == "last"
    assert -1 <= summary["value_order"] <= 1 and summary["pixel_order"] > 0.4
    assert Image.open(tmp_path / "value.png").size[0] > 600
    film = decode_video(tmp_path / "value.mp4")
    assert len(film) == 9 + 12 and film.shape[1] % 2 == film.shape[2] % 2 == 0
    assert not np.array_equal(film[0], film[8])
    assert "order of the values in time" in capsys.readouterr().out


def test_goals_of_every_kind(place, tmp_path):
    dataset = write_dataset(tmp_path / "data", episodes_per_task=1, length=6)
    results = {}
    for name, arguments in {
        "frame": [dataset, "--episode", "1", "--goal", "3"],
        "from the end": [dataset, "--episode", "1", "--goal", "-3"],
        "thinned": [dataset, "--episode", "1", "--goal", "3", "--every", "2"],
        "image": [dataset, "--goal", place / "goal.png"],
    }.items():
        assert value(place, *arguments, "--out", tmp_path / name) == 0
        results[name] = json.loads((tmp_path / name / "value.json").read_text())
    assert results["frame"]["values"] == results["from the end"]["values"] != results["image"]["values"]
    every_second = np.array(results["frame"]["values"])[:, ::2]  # the goal is the same picture
    assert np.allclose(results["thinned"]["values"], every_second, atol=1e-5)
    assert TASKS[1] in results["frame"]["source"]
    assert value(place, dataset, "--goal", "close the drawer", "--out", tmp_path / "w", model="words") == 0


@pytest.mark.parametrize(
    "arguments, model, says",
    [
        (["{}/clip.mp4", "--goal", "9"], "model", "--goal 9 lies outside of the clip, which has frames 0 to 8"),
        (["{}/clip.mp4", "--goal", "close the drawer"], "model", "goals as images only"),
        (["{}/clip.mp4", "--every", "20"], "model", "a curve needs two"),
        (["{}/nothing.mp4"], "model", "does not exist"),
        (["{}/goal.png.mp4"], "model", "does not exist"),
        (["{}/clip.mp4"], "policy", "holds a VPTRForRobotPolicy, not a value model"),
        (["{}/clip.mp4"], "absent", "neither a folder"),
        (["{}/clip.mp4", "--goal", "{}/clip.mp4"], "model", "is no image"),
    ],
)
def test_what_is_refused(place, capsys, arguments, model, says):
    assert value(place, *(a.format(place) for a in arguments), model=model) == 2
    assert says in capsys.readouterr().err


def test_the_map_shows_what_the_value_depends_on(place):
    """Against the definition, frame by frame; for an encoder that averages, that is Grad-CAM's magnitude."""
    model, _ = tiny_value_model(seed=2)
    pixels = torch.rand(3, 3, 16, 16)
    goal = image_goal(model, pixels[2:])
    heat = attention_map(model, pixels, goal)
    assert heat.shape == (3, 16, 16) and heat.min() >= 0 and heat.max() <= 1
    for n in range(3):
        maps = model.model.encoder.feature_map(pixels[n : n + 1]).detach().requires_grad_()
        psi = model.value_heads.represent_goal(goal.features)
        value = model.value_heads.value(model.value_heads.represent_state(model.model.encoder.pool(maps)), psi, psi)
        (slope,) = torch.autograd.grad(value.mean(0).sum(), maps)
        cam = (slope * maps).sum(1, keepdim=True).abs()
        cam = torch.nn.functional.interpolate(cam, size=(16, 16), mode="bilinear")[0, 0].detach()
        want = cam / cam.max() if cam.max() > 0 else cam
        assert torch.allclose(heat[n], want, atol=1e-4)


def test_the_map_of_an_averaging_encoder_is_grad_cam():
    from tests.modeling.test_modeling_vptr import SMALL_BIT

    model, _ = tiny_value_model(encoder="bit", bit_config=SMALL_BIT, image_size=32)
    pixels = torch.rand(2, 3, 32, 32)
    goal = image_goal(model, pixels[1:])
    maps = model.model.encoder.feature_map(pixels).detach().requires_grad_()
    heads, psi = model.value_heads, model.value_heads.represent_goal(goal.features).expand(-1, 2, -1)
    value = heads.value(heads.represent_state(model.model.encoder.pool(maps)), psi, psi).mean(0).sum()
    (slope,) = torch.autograd.grad(value, maps)
    cam = (slope.mean((2, 3), keepdim=True) * maps).sum(1, keepdim=True).abs()
    cam = torch.nn.functional.interpolate(cam, size=(32, 32), mode="bilinear")[:, 0].detach()
    assert torch.allclose(attention_map(model, pixels, goal), cam / cam.amax((1, 2), keepdim=True), atol=1e-4)


def test_values_of_frames_equal_the_model(place):
    model, _ = tiny_value_model(seed=3)
    frames = torch.randint(0, 256, (7, 3, 16, 16), dtype=torch.uint8)
    features = encode_frames(model, frames, batch_size=3)
    goal = Goal(features[5:6])
    pixels = frames.float() / 255
    want = model(pixels, goal_pixel_values=pixels[5:6].expand(7, -1, -1, -1)).values
    assert torch.allclose(goal_values(model, features, goal), want, atol=1e-5)


def test_rank_correlations():
    assert value_order([1, 2, 5, 9]) == 1 and value_order([3, 2, 1]) == -1 and value_order([2, 2, 2]) == 0
    assert ranks([10, 30, 10, 20]).tolist() == [0.5, 3, 0.5, 2]
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 5, 40), rng.integers(0, 5, 40)
    from scipy.stats import spearmanr

    assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic)
    frames = np.zeros((2, 4, 4, 3), np.uint8)
    frames[1] = 3
    assert pixel_values(frames, frames[1]).tolist() == [-3, 0]


def test_ticks_are_few_and_round():
    for low, high in ((-87.3, -0.2), (0, 1), (-0.013, 0.004), (-3, 250), (5, 5.0001)):
        ticks = _ticks(low, high)
        assert 3 <= len(ticks) <= 8 and low <= ticks[0] and ticks[-1] <= high + 1e-9
