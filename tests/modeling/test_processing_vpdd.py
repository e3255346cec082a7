import json

import numpy as np
import PIL.Image
import pytest
import torch
from transformers import AutoImageProcessor, AutoProcessor

from hf_vpdd.errors import InputError
from hf_vpdd.modeling.vpdd.image_processing_vpdd import VPDDImageProcessorPil
from hf_vpdd.modeling.vpdd.processing_vpdd import VPDDProcessor, train_tokenizer
from tests.pipelines.tiny_policy import SENTENCES, demonstrations, observation, tiny_processor


@pytest.fixture(scope="module")
def processor() -> VPDDProcessor:
    return tiny_processor()


def _frame(size=(16, 16), seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


# ---- images ----


def test_pixels_are_scaled_to_half_a_unit(processor):
    frame = np.zeros((16, 16, 3), dtype=np.uint8)
    frame[0, 0], frame[1, 2, 1] = 255, 128
    pixels = processor({"corner2": frame})["pixel_values"]
    assert pixels.shape == (1, 1, 1, 3, 16, 16) and pixels.dtype == torch.float32
    assert pixels[0, 0, 0, :, 0, 0].tolist() == [0.5, 0.5, 0.5]
    assert pixels[0, 0, 0, 1, 1, 2] == pytest.approx(128 / 255 - 0.5, abs=1e-6)
    assert pixels[0, 0, 0, 0, 1, 2] == -0.5


def test_all_kinds_of_images_mean_the_same(processor):
    frame = _frame((20, 20))
    want = processor({"corner2": frame})["pixel_values"]
    upside_down = np.ascontiguousarray(frame[::-1, ::-1])[::-1, ::-1]  # negative strides, as flipped renderings have
    frozen = frame.copy()
    frozen.setflags(write=False)
    kinds = [PIL.Image.fromarray(frame), torch.from_numpy(frame), torch.from_numpy(frame).permute(2, 0, 1)]
    for image in [*kinds, upside_down, frozen, [frame], frame[None]]:
        assert torch.equal(processor({"corner2": image})["pixel_values"], want)
    assert torch.equal(processor(frame)["pixel_values"], want)  # one camera: its name may be left out


def test_crops_the_centre_square_and_resizes_like_pil():
    processor = VPDDImageProcessorPil(size=16)
    frame = _frame((40, 60))
    ours = processor.frames_to_uint8(frame)[0].permute(1, 2, 0).numpy()
    pil = PIL.Image.fromarray(frame[:, 10:50]).resize((16, 16), PIL.Image.Resampling.BILINEAR)
    assert np.abs(ours.astype(int) - np.asarray(pil).astype(int)).max() <= 1
    # without antialiasing, as the official code: a plain sample of neighbours
    sharp = VPDDImageProcessorPil(size=16, antialias=False).frames_to_uint8(frame)[0].permute(1, 2, 0).numpy()
    assert np.abs(sharp.astype(int) - ours).max() > 5
    with pytest.raises(InputError, match="40x60 is not square"):
        VPDDImageProcessorPil(size=16, do_center_crop=False)(frame)


def test_history_is_padded_with_black_on_the_left():
    processor = tiny_processor(history_frames=3)
    old, new = _frame(seed=1), _frame(seed=2)
    pixels = processor({"corner2": [old, new]})["pixel_values"]
    assert pixels.shape == (1, 1, 3, 3, 16, 16)
    assert (pixels[0, 0, 0] == -0.5).all()
    assert torch.equal(pixels[0, 0, 1:], processor({"corner2": np.stack([old, new])})["pixel_values"][0, 0, 1:])
    assert torch.equal(((pixels[0, 0, 2] + 0.5) * 255).round(), torch.from_numpy(new).permute(2, 0, 1).float())
    with pytest.raises(InputError, match="4 frames given, the model sees 3"):
        processor({"corner2": [old] * 4})


def test_cameras_keep_the_order_of_training():
    processor = tiny_processor(cameras=["left", "wrist"])
    left, wrist = _frame(seed=1), _frame(seed=2)
    pixels = processor({"wrist": wrist, "left": left})["pixel_values"]
    assert pixels.shape[1] == 2
    assert torch.equal(((pixels[0, 0, 0] + 0.5) * 255).round(), torch.from_numpy(left).permute(2, 0, 1).float())


@pytest.mark.parametrize(
    "images, message",
    [
        ({"corner": _frame()}, "camera 'corner2' is missing; given: .'corner'.*trained with"),
        ({"corner2": _frame(), "wrist": _frame()}, "unknown camera 'wrist'"),
        ({"corner2": _frame().astype(np.float32)}, "expected dtype uint8 with values 0..255, got float32"),
        ({"corner2": _frame()[..., :1]}, r"expected an RGB image \(height, width, 3\).*\(16, 16, 1\)"),
        ({"corner2": _frame().transpose(2, 0, 1)}, "expected an RGB image"),
        ({"corner2": _frame()[0]}, "expected an RGB image"),
        ({"corner2": torch.rand(3, 16, 16)}, "torch.float32"),
        ({"corner2": "frame.png"}, "got str"),
        ({"corner2": []}, "list of frames is empty"),
    ],
)
def test_bad_images_are_named(processor, images, message):
    with pytest.raises(InputError, match=message):
        processor(images)


# ---- instruction, state ----


def test_instructions_have_one_length_and_ignore_case(processor):
    tokens = processor.tokenize_instructions(["Press the button from above ", "close the drawer"])
    assert tokens["input_ids"].shape == tokens["attention_mask"].shape == (2, 20)
    assert torch.equal(tokens["input_ids"][0], processor.tokenize_instructions([SENTENCES[0]])["input_ids"][0])
    lengths = tokens["attention_mask"].sum(dim=1)
    for row, length in zip(tokens["input_ids"], lengths):
        assert row[0] == processor.tokenizer.bos_token_id and row[length - 1] == processor.tokenizer.eos_token_id
        assert (row[length:] == processor.tokenizer.pad_token_id).all()


def test_a_cut_instruction_still_ends_with_eos(processor):
    ids = processor.tokenize_instructions(["zzz qqq " * 40])["input_ids"]
    assert ids.shape == (1, 20) and ids[0, -1] == processor.tokenizer.eos_token_id


def test_unknown_words_and_scripts_are_distinguished():
    tokenizer = train_tokenizer(SENTENCES, 300)
    assert len(tokenizer) <= 300
    sentences = ["grüße", "öffne das Fenster", "按下按钮", "press"]
    assert len({tuple(tokenizer(text)["input_ids"]) for text in sentences}) == 4
    assert tokenizer.decode(tokenizer("öffne das fenster")["input_ids"], skip_special_tokens=True).strip() == (
        "öffne das fenster"
    )
    assert tokenizer.eos_token_id != 2  # CLIP's text tower has another meaning for 2


def test_the_tokenizer_is_the_same_every_time():
    assert train_tokenizer(SENTENCES, 300).get_vocab() == train_tokenizer(SENTENCES, 300).get_vocab()


def test_state_is_standardised(processor):
    _, state = demonstrations()
    normal = processor.normalize_state(state)
    assert normal.mean(dim=0).abs().max() < 1e-3 and (normal.std(dim=0) - 1).abs().max() < 1e-2
    assert processor.normalize_state(np.full(4, 1e6)).tolist() == [10.0] * 4


def test_a_state_that_never_moved_is_not_blown_up():
    actions, state = demonstrations()
    state[:, 2] = 0.3
    processor = VPDDProcessor.from_dataset_stats(actions, state, train_tokenizer(SENTENCES))
    assert processor.normalize_state([0.0, 0.6, 0.31, 1.0])[2].abs() < 0.02


@pytest.mark.parametrize("text", ["", "   ", None, 7])
def test_empty_instructions_are_errors(processor, text):
    with pytest.raises(InputError, match="instruction 0: expected a sentence"):
        processor.tokenize_instructions([text])


def test_bad_states_are_named(processor):
    with pytest.raises(InputError, match=r"state: value at index \(1,\) is nan"):
        processor(_frame(), "press", [0.0, float("nan"), 0.0, 0.0])
    with pytest.raises(InputError, match="expected 4 numbers"):
        processor(_frame(), "press", [0.0, 0.0])
    with pytest.raises(InputError, match=r"state: expected \(1, state_dim\)"):
        processor(_frame(), "press", np.zeros((2, 4)))
    with pytest.raises(InputError, match="state: expected numbers"):
        processor(_frame(), "press", ["a", "b"])


# ---- batches ----


def test_a_batch_is_its_observations(processor):
    batch = [observation(i, size=16 + 4 * i) for i in range(3)]
    together = processor.process_observations(batch)
    for i, obs in enumerate(batch):
        alone = processor(obs["images"], obs["instruction"], obs["state"])
        for name in ("pixel_values", "input_ids", "attention_mask", "state"):
            assert torch.equal(together[name][i], alone[name][0]), name


def test_bad_batches_name_the_observation(processor):
    good = observation()
    with pytest.raises(InputError, match="observation 1: expected a dictionary with"):
        processor.process_observations([good, {"images": good["images"]}])
    with pytest.raises(InputError, match="observation 1: 'state' is missing"):
        processor.process_observations([good, {k: v for k, v in good.items() if k != "state"}])
    with pytest.raises(InputError, match="state of observation 0: expected 4 numbers"):
        processor.process_observations([{**good, "state": np.zeros(3)}])
    with pytest.raises(InputError, match=r"images\[1\]\['corner2'\]"):
        processor.process_observations([good, {**good, "images": {"corner2": _frame()[..., 0]}}])
    with pytest.raises(InputError, match="empty"):
        processor.process_observations([])


# ---- actions ----


def test_training_actions_follow_the_objective():
    actions = demonstrations()[0][:6].reshape(2, 3, 4)
    obs = [observation(i) for i in range(2)]
    images, text = [o["images"] for o in obs], [o["instruction"] for o in obs]
    bins = tiny_processor()(images, text, actions=actions)["actions"]
    assert bins.dtype == torch.int64 and bins.shape == (2, 3, 4)
    scaled = tiny_processor(action_objective="regression")(images, text, actions=actions)["actions"]
    assert scaled.dtype == torch.float32 and scaled.abs().max() <= 1


def test_scaling_actions_is_undone():
    actions = np.random.default_rng(0).normal([5, -3], [2, 0.1], (50, 2))
    processor = VPDDProcessor.from_dataset_stats(
        actions, None, train_tokenizer(SENTENCES), action_objective="regression"
    )
    scaled = processor.normalize_actions(actions)
    assert scaled.min() == -1 and scaled.max() == 1
    assert torch.allclose(processor.post_process_actions(scaled), torch.from_numpy(actions).float(), atol=1e-5)
    assert processor.post_process_actions(scaled * 3).max() <= actions.max() + 1e-5  # never beyond what was seen
    with pytest.raises(InputError, match="dimension 1 leaves the range"):
        processor.normalize_actions([[5.0, 99.0]])


def test_declared_range_allows_actions_the_demonstrations_never_had():
    actions, state = demonstrations()
    processor = VPDDProcessor.from_dataset_stats(
        actions * 0.5, state, train_tokenizer(SENTENCES), action_low=-1.0, action_high=1.0
    )
    assert processor.encode_actions(np.ones((1, 4))).shape == (1, 4)
    with pytest.raises(InputError, match="1.5 in dimension 0"):
        processor.encode_actions(np.full((1, 4), 1.5))


def test_video_is_turned_back_into_bytes(processor):
    frames = np.stack([_frame(seed=i) for i in range(2)])
    pixels = processor.image_processor(list(frames))["pixel_values"].reshape(1, 1, 2, 3, 16, 16)
    video = processor.post_process_video(pixels)
    assert video.dtype == torch.uint8 and np.array_equal(video[0, 0].numpy(), frames)
    assert processor.post_process_video(torch.tensor([-9.0, 9.0]).reshape(1, 1, 2, 1, 1, 1).expand(1, 1, 2, 3, 1, 1))[
        0, 0, :, 0, 0, 0
    ].tolist() == [0, 255]


# ---- statistics that are not there, arguments that make no sense ----


def test_missing_statistics_are_named():
    bare = VPDDProcessor(tokenizer=train_tokenizer(SENTENCES))
    assert bare(np.zeros((96, 96, 3), np.uint8), "press")["pixel_values"].shape == (1, 1, 1, 3, 96, 96)
    with pytest.raises(InputError, match="action_bins: this processor has none"):
        bare.decode_actions(torch.zeros(1, 4, dtype=torch.long))
    with pytest.raises(InputError, match="state_stats: this processor has none"):
        bare.normalize_state(np.zeros(4))
    with pytest.raises(InputError, match="action_stats: this processor has none"):
        bare.unnormalize_actions(torch.zeros(1, 4))
    with pytest.raises(InputError, match="action_bins"):
        bare.require_policy_statistics()
    with pytest.raises(InputError, match="4 state dimensions, the model expects 9"):
        tiny_processor().require_policy_statistics(state_dim=9)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"execute": 4}, r"execute: must lie in 1..chunk_size=3"),
        ({"history_frames": 0}, "history_frames: must be at least 1"),
        ({"action_objective": "flow"}, "'flow' is none of diffusion, regression"),
        ({"cameras": ["a", "a"]}, "distinct camera names"),
        ({"state_stats": {"mean": [0.0]}}, "'std' is missing"),
        ({"state_stats": {"mean": [0.0], "std": [1.0, 1.0]}}, "expected 1 finite numbers"),
        ({"image_size": 0}, "size: expected one positive side"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(InputError, match=message):
        VPDDProcessor(tokenizer=train_tokenizer(SENTENCES), **{"chunk_size": 3, **options})


# ---- saving ----


def test_round_trip_through_one_file(tmp_path):
    processor = tiny_processor(cameras=["left", "wrist"], history_frames=2, execute=2, history_stride=3)
    processor.image_processor.antialias = False
    processor.save_pretrained(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "hf_vpdd_auto.py",
        "processor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    json.loads((tmp_path / "processor_config.json").read_text())
    for loaded in (VPDDProcessor.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)):
        assert type(loaded) is VPDDProcessor
        assert loaded.to_dict() == processor.to_dict()
        assert loaded.image_size == 16 and loaded.image_processor.antialias is False
        cameras = ("left", "wrist")
        obs, actions = observation(3, cameras), demonstrations()[0][None, :3]
        ours = processor(obs["images"], obs["instruction"], obs["state"], actions)
        theirs = loaded(obs["images"], obs["instruction"], obs["state"], actions)
        assert set(ours) == set(theirs)
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert type(AutoImageProcessor.from_pretrained(tmp_path)) is VPDDImageProcessorPil
