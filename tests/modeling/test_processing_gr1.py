"""GR-1's processor: official pixels, windows padded at the end, units there and back, clear errors."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, AutoProcessor

from hf_vpdd import save_policy
from hf_vpdd.errors import InputError
from hf_vpdd.modeling.gr1 import GR1ForRobotPolicy
from hf_vpdd.modeling.gr1.image_processing_gr1 import IMAGENET_MEAN, IMAGENET_STD, GR1ImageProcessorPil
from hf_vpdd.modeling.gr1.processing_gr1 import GR1Processor
from hf_vpdd.modeling.vpdd.processing_vpdd import train_tokenizer

from .small_gr1 import small_gr1


SENTENCES = ["open the drawer", "push the red block to the right"]
rng = np.random.default_rng(0)


def processor(**options) -> GR1Processor:
    defaults = {
        "tokenizer": train_tokenizer(SENTENCES, vocab_size=300, max_length=16),
        "cameras": ["static", "wrist"],
        "image_size": 16,
        "history_frames": 4,
        "max_instruction_length": 16,
    }
    return GR1Processor(**{**defaults, **options})


def window(steps: int, sides=(20, 12)) -> dict:
    return {
        name: rng.integers(0, 256, (steps, side, side, 3), dtype=np.uint8)
        for name, side in zip(("static", "wrist"), sides)
    }


def state(steps: int) -> np.ndarray:
    values = rng.standard_normal((steps, 7))
    values[:, -1] = np.where(values[:, -1] > 0, 1, -1)
    return values


# ---- images ---------------------------------------------------------------------------------------------------------


def cubic(x: float) -> float:
    """Keys' kernel with a = -0.75."""
    a, x = -0.75, abs(x)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0


def resize_matrix(size: int, to: int) -> np.ndarray:
    matrix = np.zeros((to, size))
    for i in range(to):
        centre = (i + 0.5) * size / to - 0.5
        first = int(np.floor(centre)) - 1
        for j in range(first, first + 4):
            matrix[i, min(max(j, 0), size - 1)] += cubic(centre - j)
    return matrix


@pytest.mark.parametrize("side", [200, 84])
def test_resize_is_bicubic_of_the_numbers_without_antialias_or_clipping(side):
    frame = (rng.random((side, side, 3)) > 0.5).astype(np.uint8) * 255
    ours = GR1ImageProcessorPil()(frame)["pixel_values"][0].double().numpy()
    matrix = resize_matrix(side, 224)
    resized = np.einsum("ij,jkc,lk->cil", matrix, frame / 255, matrix, optimize=True)
    assert resized.min() < -0.05 and resized.max() > 1.05
    expected = (resized - np.array(IMAGENET_MEAN)[:, None, None]) / np.array(IMAGENET_STD)[:, None, None]
    assert np.abs(ours - expected).max() < 2e-4  # places in a picture are float32 too


def test_shrinking_does_not_smooth():
    frame = np.zeros((64, 64, 3), np.uint8)
    frame[31] = 255  # a line between the samples of a shrunk picture: antialias would leave a grey trace
    pixels = GR1ImageProcessorPil(size=8, image_mean=(0, 0, 0), image_std=(1, 1, 1))(frame)["pixel_values"]
    assert pixels.abs().max() < 0.6 and (pixels[0, :, 0] == 0).all()


def test_kinds_of_images_agree_and_none_is_changed():
    images = GR1ImageProcessorPil(size=16)
    frame = rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)
    before = frame.copy()
    expected = images(frame)["pixel_values"]
    for other in (Image.fromarray(frame), torch.from_numpy(frame), torch.from_numpy(frame).movedim(-1, 0), [frame]):
        assert torch.equal(images(other)["pixel_values"], expected)
    assert np.array_equal(frame, before)
    same = rng.integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    assert np.array_equal(images.to_bytes(images(same)["pixel_values"]).numpy(), same)
    batch = images.to_pixels(torch.from_numpy(np.stack([frame] * 6)).movedim(-1, -3).view(2, 3, 3, 20, 20))
    assert batch.shape == (2, 3, 3, 16, 16) and torch.allclose(batch[1, 2], expected[0])


def test_crop_only_when_asked_for():
    wide = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    with pytest.raises(InputError, match="20x30 is not square"):
        GR1ImageProcessorPil(size=16)(wide)
    cropped = GR1ImageProcessorPil(size=16, do_center_crop=True)(wide)["pixel_values"]
    assert torch.equal(cropped, GR1ImageProcessorPil(size=16)(wide[:, 5:25])["pixel_values"])


# ---- windows --------------------------------------------------------------------------------------------------------


def test_a_batch_of_windows_is_padded_at_the_end():
    process = processor()
    windows, states = [window(4), window(2)], [state(4), state(2)]
    actions = [rng.uniform(-1, 1, (4, 7)), rng.uniform(-1, 1, (2, 1, 7))]
    batch = process(windows, SENTENCES, states, actions)
    assert batch["pixel_values"].shape == (2, 2, 4, 3, 16, 16) and batch["pixel_values"].dtype == torch.float32
    assert batch["step_mask"].tolist() == [[True] * 4, [True, True, False, False]]
    assert batch["state"].shape == (2, 4, 7) and batch["actions"].shape == (2, 4, 1, 7)
    assert batch["input_ids"].shape == (2, 16)
    for name in ("state", "actions"):
        assert (batch[name][1, 2:] == 0).all()
    assert (batch["pixel_values"][1, :, 2:] == 0).all(), "zero after the normalisation"
    expected = process.image_processor(windows[1]["wrist"])["pixel_values"]
    assert torch.equal(batch["pixel_values"][1, 1, :2], expected)


def test_one_observation_as_environments_give_it():
    process = processor()
    frames = window(1)
    obs = {
        "images": {name: frame[0] for name, frame in frames.items()},
        "state": state(1)[0],
        "instruction": SENTENCES[0],
    }
    batch = process.process_observations([obs])
    assert batch["pixel_values"].shape == (1, 2, 1, 3, 16, 16) and batch["state"].shape == (1, 1, 7)
    single = processor(cameras="corner2", state_dim=0).process_observations(
        [{"images": frames["static"][0], "instruction": SENTENCES[0]}]
    )
    assert single["pixel_values"].shape == (1, 1, 1, 3, 16, 16) and "state" not in single


# ---- units ----------------------------------------------------------------------------------------------------------


def test_raw_units_are_calvins():
    process = processor()
    rows = state(3)
    ours = process.normalize_state(rows)
    assert torch.allclose(ours[:, :6], torch.tensor(rows[:, :6]).float())
    assert torch.equal(ours[:, 6], torch.tensor((rows[:, 6] + 1) / 2).float())
    actions = torch.tensor([[[3.0, -2, 0.1, 0, 0, 0, 0.5]], [[0, 0, 0, 0, 0, 0, 0.4999]]])
    robot = process.post_process_actions(actions)
    assert torch.equal(robot[:, 0, :6], actions[:, 0, :6]), "not clipped"
    assert robot[:, 0, 6].tolist() == [-1, -1], "open only above one half"
    assert process.unnormalize_actions(torch.tensor([0.0] * 6 + [0.51]))[-1] == 1
    assert torch.equal(process.unnormalize_actions(process.normalize_actions(robot)), robot)


@pytest.mark.parametrize("binary", [True, False])
def test_statistics_go_there_and_back(binary):
    actions = rng.uniform(-0.4, 0.9, (50, 4))
    if binary:
        actions[:, -1] = np.where(actions[:, -1] > 0, 0.08, 0.02)
    states = rng.standard_normal((50, 3)) * 5 + 2
    process = GR1Processor.from_dataset_stats(
        actions, states, train_tokenizer(SENTENCES, 300, 16), image_size=16, cameras=["corner2"],
        binary_gripper_action=binary, binary_gripper_state=False,
    )  # fmt: skip
    assert (process.action_dim, process.state_dim) == (4, 3)
    ours = process.normalize_actions(actions)
    assert ours[:, :3].min() == -1 and ours[:, :3].max() == 1
    if binary:
        assert set(ours[:, 3].tolist()) == {0.0, 1.0}
    assert torch.allclose(process.unnormalize_actions(ours), torch.tensor(actions).float(), atol=1e-6)
    normal = process.normalize_state(states)
    assert normal.mean(0).abs().max() < 1e-5 and (normal.std(0, correction=0) - 1).abs().max() < 1e-5
    with pytest.raises(InputError, match="dimension 1 leaves the range"):
        process.normalize_actions(np.array([0.0, 5.0, 0.0, 0.02]))


def test_statistics_that_lack_are_named():
    process = processor(normalization="statistics")
    with pytest.raises(InputError, match="action_stats: this processor has none"):
        process.require_policy_statistics(7)
    with pytest.raises(InputError, match="state_stats: this processor has none"):
        process.normalize_state(np.zeros(7))
    with pytest.raises(InputError, match="the processor has 7 state dimensions, the model expects 4"):
        processor().require_policy_statistics(4)


# ---- folders --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_model_and_processor_in_one_folder(tmp_path):
    process = processor(image_processor=GR1ImageProcessorPil(size=16, image_mean=(0.5, 0.5, 0.4)), image_size=None)
    config = small_gr1(history_frames=4, text_config={**small_gr1().text_config.to_dict(), "vocab_size": 300})
    model = GR1ForRobotPolicy(config).eval()
    save_policy(tmp_path / "policy", model, process)
    files = {path.name for path in (tmp_path / "policy").iterdir()}
    assert {"config.json", "model.safetensors", "processor_config.json", "tokenizer.json", "README.md"} <= files
    assert not {"model_index.json", "scheduler_config.json"} & files
    again = AutoProcessor.from_pretrained(tmp_path / "policy")
    assert type(again) is GR1Processor and type(again.image_processor) is GR1ImageProcessorPil
    images = AutoImageProcessor.from_pretrained(tmp_path / "policy")
    assert images.image_mean == [0.5, 0.5, 0.4] and not images.antialias
    observations = [
        {"images": window(steps), "state": state(steps), "instruction": sentence}
        for steps, sentence in zip((4, 2), SENTENCES)
    ]
    ours, theirs = process.process_observations(observations), again.process_observations(observations)
    assert ours.keys() == theirs.keys() == set(process.model_input_names)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    loaded = AutoModel.from_pretrained(tmp_path / "policy")
    sample = loaded.sample_actions(**theirs, return_video=True)
    actions = again.post_process_actions(sample.actions, "regression")
    assert actions.shape == (2, 1, 7) and set(actions[..., -1].flatten().tolist()) <= {-1.0, 1.0}
    video = again.post_process_video(sample.video)
    assert video.shape == (2, 2, 1, 16, 16, 3) and video.dtype == torch.uint8


# ---- bad input ------------------------------------------------------------------------------------------------------


def test_bad_observations_are_told_by_name():
    process = processor()
    good = window(2)
    nan = state(2)
    nan[1, 3] = np.nan
    half_open = state(2)
    half_open[0, -1] = 0.3
    cases = [
        (({"static": good["static"]}, None, None), "camera 'wrist' is missing"),
        (({**good, "top": good["static"]}, None, None), "unknown camera 'top'"),
        (({**good, "wrist": good["wrist"][:1]}, None, None), "1 frames given, expected 2, as camera 'static' has"),
        ((window(5), None, None), r"images\['static'\]: 5 frames given, expected at most 4"),
        (({**good, "wrist": good["wrist"].astype(np.float32)}, None, None), "expected dtype uint8"),
        (
            ({**good, "wrist": [good["wrist"][0], good["wrist"][0][:8, :8]]}, None, None),
            r"images\['wrist'\], frame 1: expected \d+x\d+ pixels as frame 0 has, got 8x8",
        ),
        ((good, "", None), "instruction 0: expected a sentence"),
        ((good, None, nan), r"state: value at index \(1, 3\) is nan"),
        ((good, None, state(3)), r"state: expected \(2, 7\) numbers, one row for each frame, got \(3, 7\)"),
        ((good, None, half_open), r"the gripper, -1 \(closed\) or 1 \(open\), got 0.3"),
        (([good, good], None, [state(2)]), "state: expected one entry for each of 2 observations, got 1"),
    ]
    for arguments, message in cases:
        with pytest.raises(InputError, match=message):
            process(*arguments)
    with pytest.raises(InputError, match="actions: dimension 6 leaves the range"):
        process(good, actions=np.full((2, 7), 3.0))
    with pytest.raises(InputError, match="observation 0: 'state' is missing"):
        process.process_observations([{"images": good, "instruction": "open"}])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokenizer": None}, "tokenizer"),
        ({"cameras": ["a", "a"]}, "distinct camera names"),
        ({"execute": 2}, "execute: must lie in 1..chunk_size=1"),
        ({"normalization": "none"}, "normalization: 'none'"),
        ({"action_stats": {"min": [0.0], "max": [1.0]}}, "action_stats: of 1 dimensions, but action_dim is 7"),
        ({"state_stats": {"mean": [0.0] * 7, "std": [1.0] * 7}}, "'min' is missing"),
        ({"image_processor": GR1ImageProcessorPil(size=8)}, "contradicts the image processor's 8"),
    ],
)
def test_bad_processors_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        processor(**options)
