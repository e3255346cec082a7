"""GR-1's networks: who sees whom, losses, options, frozen towers, and transformers' round trips."""

import json

import pytest
import torch
from safetensors import safe_open
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel

from hf_vpdd.modeling.gr1 import GR1Config, GR1ForRobotPolicy, GR1ForVideoPrediction, GR1Model
from hf_vpdd.modeling.gr1.frame_decoder import patchify, unpatchify
from hf_vpdd.modeling.gr1.tokens import StepLayout

from .small_gr1 import small_gr1, small_window


def policy(**overrides) -> GR1ForRobotPolicy:
    torch.manual_seed(0)
    return GR1ForRobotPolicy(small_gr1(**overrides)).eval()


def inputs_only(window: dict) -> dict:
    return {name: tensor for name, tensor in window.items() if name != "actions"}


# ---- who sees whom --------------------------------------------------------------------------------------------------


def test_order_of_tokens_is_the_official_one():
    layout = StepLayout(state=True, views=2, view_tokens=10, actions=1, frames=True)
    assert (layout.real, layout.size) == (22, 43)
    assert (layout.action_slice, layout.frame_slice) == (slice(22, 23), slice(23, 43))
    assert StepLayout(state=True, views=2, view_tokens=10, actions=1, frames=False).size == 23


def test_the_mask_is_causal_and_hides_queries_even_from_themselves():
    layout = StepLayout(state=False, views=1, view_tokens=1, actions=1, frames=True)  # L I | A O
    expected = torch.tensor(
        [
            [1, 0, 0, 0, 0, 0, 0, 0],
            [1, 1, 0, 0, 0, 0, 0, 0],
            [1, 1, 0, 0, 0, 0, 0, 0],  # ACT
            [1, 1, 0, 0, 0, 0, 0, 0],  # OBS
            [1, 1, 0, 0, 1, 0, 0, 0],
            [1, 1, 0, 0, 1, 1, 0, 0],
            [1, 1, 0, 0, 1, 1, 0, 0],
            [1, 1, 0, 0, 1, 1, 0, 0],
        ]
    ).bool()
    assert torch.equal(layout.allowed(2), expected)
    expected[2, 3] = expected[6, 7] = True  # ACT reads the OBS of its own step
    assert torch.equal(layout.allowed(2, foresight=True), expected)
    mask = layout.attention_mask(torch.tensor([[True, False]]), torch.float32)
    assert mask.shape == (1, 1, 8, 8) and (mask[..., 4:] < -1e30).all()


@torch.no_grad()
def test_actions_do_not_depend_on_the_frame_head_nor_on_later_steps():
    model, window = policy(), small_window(small_gr1())
    observation = inputs_only(window)
    full = model(**observation, predict_video=True)
    alone = model(**observation, predict_video=False)
    assert torch.allclose(full.arm_actions, alone.arm_actions, atol=1e-6) and alone.frame_patches is None
    model.model.views[0].queries.weight.normal_()
    moved = model(**observation, predict_video=True)
    assert torch.allclose(moved.arm_actions, full.arm_actions, atol=1e-6)
    assert not torch.allclose(moved.frame_patches[:, 0], full.frame_patches[:, 0], atol=1e-3)
    later = dict(observation, pixel_values=observation["pixel_values"].clone())
    later["pixel_values"][:, :, 3:] += 1
    changed = model(**later).arm_actions
    assert torch.allclose(changed[:, :3], full.arm_actions[:, :3], atol=1e-6)
    assert not torch.allclose(changed[:, 3:], full.arm_actions[:, 3:], atol=1e-4)


@torch.no_grad()
def test_padding_at_the_end_changes_nothing():
    config = small_gr1()
    model, window = policy(), inputs_only(small_window(config))
    short = {**window, "pixel_values": window["pixel_values"][:, :, :3], "state": window["state"][:, :3]}
    short["step_mask"] = None
    window["step_mask"][:, 3:] = False
    ours, expected = model(**window, predict_video=True), model(**short, predict_video=True)
    assert torch.allclose(ours.arm_actions[:, :3], expected.arm_actions, atol=1e-6)
    assert torch.allclose(ours.frame_patches[:, :, :3], expected.frame_patches, atol=1e-6)
    assert torch.allclose(model.sample_actions(**window).actions, model.sample_actions(**short).actions, atol=1e-6)


@torch.no_grad()
def test_with_foresight_the_action_reads_the_forecast():
    model, window = policy(foresight_attention=True), inputs_only(small_window(small_gr1()))
    before = model(**window)
    assert torch.allclose(before.arm_actions, model(**window, predict_video=True).arm_actions, atol=1e-6)
    model.model.views[1].queries.weight.normal_()
    assert not torch.allclose(model(**window).arm_actions, before.arm_actions, atol=1e-4)


@torch.no_grad()
def test_what_a_controller_caches_gives_the_same():
    model, window = policy(), inputs_only(small_window(small_gr1()))
    expected = model(**window, predict_video=True)
    features = model.model.encode_images(window["pixel_values"])
    text = model.model.encode_text(window["input_ids"], window["attention_mask"])
    rest = {"text_embeds": text, "state": window["state"], "predict_video": True}
    for cached in ({"image_features": features}, {"image_tokens": model.model.embed_images(features)}):
        output = model(**cached, **rest)
        assert torch.allclose(output.arm_actions, expected.arm_actions, atol=1e-6)
        assert torch.allclose(output.frame_patches, expected.frame_patches, atol=1e-6)
    assert output.video_loss is None and expected.video_loss is not None
    labelled = model(image_features=features, pixel_values=window["pixel_values"], **rest)
    assert torch.allclose(labelled.video_loss, expected.video_loss)


# ---- losses ---------------------------------------------------------------------------------------------------------


def test_the_loss_is_the_weighted_sum_of_its_parts():
    weights = {"arm_loss_weight": 100.0, "gripper_loss_weight": 2.0, "video_loss_weight": 0.5}
    model, window = policy(**weights), small_window(small_gr1())
    output = model(**window)
    arm, opened = window["actions"][..., :-1], window["actions"][..., -1]
    assert torch.allclose(output.arm_loss, F.smooth_l1_loss(output.arm_actions, arm))
    assert torch.allclose(output.gripper_loss, F.binary_cross_entropy_with_logits(output.gripper_logits, opened))
    targets = model.frame_targets(window["pixel_values"])
    errors = [F.mse_loss(output.frame_patches[:, view, :-2], targets[:, view, 2:]) for view in range(2)]
    assert torch.allclose(output.view_losses, torch.stack(errors))
    assert torch.allclose(output.video_loss, sum(errors))
    total = 100 * output.arm_loss + 2 * output.gripper_loss + 0.5 * output.video_loss
    assert torch.allclose(output.loss, total)


def test_padded_steps_and_actions_have_no_loss():
    model, window = policy(chunk_size=3), small_window(small_gr1(chunk_size=3))
    window["step_mask"][1, 4:] = False
    is_pad = torch.zeros(2, 5, 3, dtype=torch.bool)
    is_pad[0, 4, 1:] = True
    before = model(**window, actions_is_pad=is_pad)
    window["actions"][0, 4, 1:] = window["actions"][1, 4] = 1.0
    window["pixel_values"][1, :, 4] = 7.0
    after = model(**window, actions_is_pad=is_pad)
    for part in ("loss", "arm_loss", "gripper_loss", "video_loss"):
        assert torch.allclose(after[part], before[part]), part
    window["actions"][0, 4, 0] += 1
    assert model(**window, actions_is_pad=is_pad).arm_loss > before.arm_loss


def test_training_decodes_only_frames_with_a_target():
    model, window = policy(), small_window(small_gr1())
    evaluated = model(**window)
    model.train()
    trained = model(**window)
    assert trained.frame_patches.shape[2] == 3 and evaluated.frame_patches.shape[2] == 5
    assert torch.allclose(trained.loss, evaluated.loss)
    short = small_window(small_gr1(), steps=2)  # no step has a target two steps later
    assert model(**short).video_loss is None


def test_normalised_patches_and_raw_ones():
    frames = torch.randn(2, 3, 16, 16)
    patches = patchify(frames, 8)
    assert torch.equal(unpatchify(patches, 8), frames)
    assert torch.equal(patches[0, 1].view(8, 8, 3), frames[0, :, :8, 8:].permute(1, 2, 0))
    model = policy()
    targets = model.frame_targets(frames)
    assert torch.allclose(targets.mean(-1), torch.zeros(2, 4), atol=1e-5)
    assert torch.allclose(targets.std(-1), torch.ones(2, 4), atol=1e-4)
    assert torch.allclose(model.frames_from_patches(targets, frames), frames, atol=1e-5)
    raw = policy(normalize_patches=False)
    assert torch.equal(raw.frame_targets(frames), patches)


# ---- options --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"num_views": 1},
        {"num_views": 3},
        {"state_dim": 0},
        {"state_dim": 15, "action_dim": 3},
        {"binary_gripper_state": False, "binary_gripper_action": False, "state_dim": 4, "action_dim": 4},
        {"chunk_size": 3, "foresight_attention": True},
        {"freeze_image_model": False, "freeze_text_model": False},
    ],
)
def test_options_train_every_parameter_that_is_not_frozen(options):
    config = small_gr1(**options)
    model, window = policy(**options).train(), small_window(config)
    output = model(**window)
    output.loss.backward()
    idle = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert idle == []
    assert (output.gripper_logits is not None) == config.binary_gripper_action
    actions = model.eval().sample_actions(**inputs_only(window)).actions
    assert actions.shape == (2, config.chunk_size, config.action_dim)


def test_chunks_start_as_the_network_without_them():
    window = inputs_only(small_window(small_gr1()))
    single, chunked = policy(), policy(chunk_size=3)
    missing = chunked.load_state_dict(single.state_dict(), strict=False)
    assert missing.missing_keys == ["model.action_queries.chunk"]
    with torch.no_grad():
        expected, ours = single(**window).arm_actions, chunked(**window).arm_actions
    assert torch.allclose(ours, expected.expand_as(ours), atol=1e-6)


@torch.no_grad()
def test_sampling_takes_the_newest_valid_step_and_the_gripper_as_a_probability():
    model, window = policy(), inputs_only(small_window(small_gr1()))
    window["step_mask"][1, 2:] = False
    output = model(**window, predict_video=True)
    sample = model.sample_actions(**window, return_video=True)
    assert torch.allclose(sample.actions[0, :, :-1], output.arm_actions[0, 4])
    assert torch.allclose(sample.actions[1, :, -1], output.gripper_logits[1, 1].sigmoid())
    frames = model.frames_from_patches(output.frame_patches, window["pixel_values"])
    assert sample.video.shape == (2, 2, 1, 3, 16, 16)
    assert torch.allclose(sample.video[1, :, 0], frames[1, :, 1], atol=1e-5)
    assert model.sample_actions(**window).video is None


def test_pretraining_needs_neither_state_nor_wrist_and_starts_a_policy(tmp_path):
    config = small_gr1(predict_ahead=1)
    torch.manual_seed(0)
    video = GR1ForVideoPrediction(config).train()
    window = small_window(config)
    output = video(pixel_values=window["pixel_values"][:, :1], input_ids=window["input_ids"])
    output.loss.backward()
    assert output.loss == output.video_loss and output.frame_patches.shape == (2, 1, 4, 4, 192)
    assert video.model.state_embed.arm.weight.grad is None and video.model.views[1].cls.weight.grad is None
    assert video.eval().predict_frames(window["pixel_values"], input_ids=window["input_ids"]).shape == (
        window["pixel_values"].shape
    )
    video.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    again = GR1ForVideoPrediction.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(again.pop(name), tensor) for name, tensor in video.state_dict().items()) and not again
    started, info = GR1ForRobotPolicy.from_pretrained(
        tmp_path, predict_ahead=2, chunk_size=2, output_loading_info=True
    )
    assert {name.split(".")[0] for name in info["missing_keys"]} == {"action_head", "model"}
    assert [name for name in info["missing_keys"] if name.startswith("model")] == ["model.action_queries.chunk"]
    assert not info["unexpected_keys"] and not info["mismatched_keys"]
    assert (started.model.action_queries.chunk == 0).all()
    assert torch.equal(started.frame_decoder.out.weight, video.frame_decoder.out.weight)
    assert started.config.predict_ahead == 2


# ---- towers ---------------------------------------------------------------------------------------------------------


def test_frozen_towers_stay_out_of_training():
    model = policy(vision_config={**small_gr1().vision_config.to_dict(), "hidden_dropout_prob": 0.5}).train()
    assert model.model.trunk.training and not model.model.image_model.training and not model.model.text_model.training
    assert not any(
        p.requires_grad for p in (*model.model.image_model.parameters(), *model.model.text_model.parameters())
    )
    pixels = small_window(small_gr1())["pixel_values"]
    features = model.model.encode_images(pixels)
    assert not features.requires_grad and torch.equal(features, model.model.encode_images(pixels))
    open_towers = policy(freeze_image_model=False).train()
    assert open_towers.model.image_model.training and open_towers.model.encode_images(pixels).requires_grad


def test_loaded_towers_stay_frozen(tmp_path):
    policy().save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert not any(p.requires_grad for p in loaded.model.image_model.parameters())
    assert all(p.requires_grad for p in loaded.model.trunk.parameters())


@torch.no_grad()
def test_text_tower_may_run_in_half_precision():
    model, window = policy(), inputs_only(small_window(small_gr1()))
    expected = model(**window).arm_actions
    model.model.text_model.half()
    assert model.model.encode_text(window["input_ids"]).dtype == torch.float16
    output = model(**window).arm_actions
    assert output.dtype == torch.float32 and torch.allclose(output, expected, atol=5e-3)


# ---- transformers' round trips --------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("shard", ["5GB", "20KB"])
def test_saved_and_loaded_the_network_is_the_same(tmp_path, shard):
    model, window = policy(chunk_size=2), small_window(small_gr1(chunk_size=2))
    model.save_pretrained(tmp_path, max_shard_size=shard)
    names = set()
    for file in tmp_path.glob("*.safetensors"):
        with safe_open(file, "pt") as saved:
            names |= set(saved.keys())
    assert names == set(model.state_dict()), "the file has the names of the state_dict"
    assert len(list(tmp_path.glob("*.safetensors"))) > (1 if shard == "20KB" else 0)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is GR1ForRobotPolicy and not loaded.training
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, loaded.get_buffer(name)), name
    assert torch.equal(loaded(**window).loss, model(**window).loss)
    config = AutoConfig.from_pretrained(tmp_path)
    assert type(config) is GR1Config and config.to_diff_dict() == model.config.to_diff_dict()
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["GR1ForRobotPolicy"]


def test_base_model_loads_from_a_policy(tmp_path):
    model = policy()
    model.save_pretrained(tmp_path)
    base, info = GR1Model.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert torch.equal(base.resampler.latents, model.model.resampler.latents)


def test_a_missing_table_of_positions_is_computed(tmp_path):
    model = policy()
    state = {name: tensor for name, tensor in model.state_dict().items() if "position_embed" not in name}
    loaded, info = GR1ForRobotPolicy.from_pretrained(
        None, config=small_gr1(), state_dict=state, output_loading_info=True
    )
    assert "frame_decoder.position_embed" in info["missing_keys"]
    assert torch.equal(loaded.frame_decoder.position_embed, model.frame_decoder.position_embed)


@torch.no_grad()
def test_bfloat16(tmp_path):
    model, window = policy(), small_window(small_gr1())
    expected = model(**window)
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    half = AutoModel.from_pretrained(tmp_path)
    assert half.dtype == torch.bfloat16
    floats = {
        name: tensor.bfloat16() if tensor.is_floating_point() and name != "actions" else tensor
        for name, tensor in window.items()
    }
    output = half(**floats)
    assert output.loss.dtype == torch.float32 and torch.allclose(output.loss, expected.loss, rtol=0.05)
    assert half.sample_actions(**inputs_only(floats)).actions.isfinite().all()


@pytest.mark.parametrize("options", [{}, {"freeze_image_model": False, "foresight_attention": True, "chunk_size": 2}])
def test_gradient_checkpointing_gives_the_same_gradients(options):
    window = small_window(small_gr1(**options))
    plain, saving = policy(**options).train(), policy(**options).train()
    saving.activation_checkpointing_enable()
    assert saving.is_activation_checkpointing
    plain(**window).loss.backward()
    saving(**window).loss.backward()
    for (name, one), other in zip(plain.named_parameters(), saving.parameters()):
        if one.grad is not None:
            assert torch.allclose(one.grad, other.grad, atol=1e-6), name


@torch.no_grad()
def test_eager_attention_agrees_with_sdpa():
    model, window = policy(), small_window(small_gr1())
    window["step_mask"][1, 3:] = False
    expected = model(**window)
    model.set_attn_implementation("eager")
    assert model.model.trunk.config._attn_implementation == "eager"
    assert torch.allclose(model(**window).loss, expected.loss, atol=1e-5)


def test_the_default_initialisation_is_the_released_one():
    torch.manual_seed(0)
    model = GR1ForRobotPolicy(small_gr1(hidden_size=64, trunk_ff_size=256, num_latents=8, initializer_range=0.02))
    block = model.model.trunk.h[0]
    assert 0.018 < block.attn.c_proj.weight.std() < 0.022, "no GPT-2 scaling of the residual projections"
    assert 0.8 < model.model.resampler.latents.std() < 1.2
    assert 0.8 < model.model.timestep_embed.weight.std() < 1.2
    bound = model.model.language_embed.in_features**-0.5
    assert 0 < model.model.language_embed.bias.abs().max() <= bound
    assert (model.frame_decoder.mask_token == 0).all()


# ---- bad input ------------------------------------------------------------------------------------------------------


def test_wrong_inputs_are_told_by_name():
    model, window = policy(), inputs_only(small_window(small_gr1()))
    cases = [
        ({"pixel_values": window["pixel_values"][:, :1]}, "2 cameras, got 1"),
        ({"pixel_values": window["pixel_values"][..., :8]}, r"expected frames \(3, 16, 16\)"),
        (
            {"pixel_values": window["pixel_values"].byte()},
            "expected normalised floating-point numbers, got torch.uint8",
        ),
        ({"pixel_values": None}, "frames are needed"),
        ({"input_ids": None}, "an instruction is needed"),
        ({"state": None}, "state: missing"),
        ({"state": window["state"][:, :4]}, r"state: expected \(2, 5, 7\)"),
    ]
    for change, message in cases:
        with pytest.raises(ValueError, match=message):
            model(**{**window, **change})
    long = small_window(small_gr1(), steps=6)
    with pytest.raises(ValueError, match="the window has 6 steps, the network looks at 5"):
        model(**inputs_only(long))
    with pytest.raises(ValueError, match=r"actions: expected \(2, 5, 1, 7\)"):
        model(**window, actions=torch.zeros(2, 5, 7))
    with pytest.raises(ValueError, match="return_video needs pixel_values"):
        features = model.model.encode_images(window["pixel_values"])
        model.sample_actions(image_features=features, state=window["state"], input_ids=window["input_ids"],
                             return_video=True)  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chunk_size": 0}, "chunk_size must be at least 1"),
        ({"trunk_heads": 3}, "not divisible by trunk_heads = 3"),
        ({"state_dim": 1}, "state_dim must be 0"),
        ({"action_dim": 1}, "binary_gripper_action=False"),
        ({"vision_config": {"image_size": 20, "patch_size": 8}}, "whole patches"),
    ],
)
def test_contradicting_sizes_are_refused(options, message):
    with pytest.raises(Exception, match=message):  # transformers wraps the ValueError
        small_gr1(**options)


def test_tiny_preset_is_small_and_complete():
    config = GR1Config.tiny(num_views=2)
    assert config.num_views == 2 and not config.freeze_image_model
    model = GR1ForRobotPolicy(config)
    assert sum(p.numel() for p in model.parameters()) < 2_200_000


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_trains_under_autocast(attention):
    model, window = policy().train(), small_window(small_gr1())
    model.set_attn_implementation(attention)
    window["step_mask"][1, 3:] = False
    expected = model(**window).loss
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(**window).loss
    loss.backward()
    assert loss.dtype == torch.float32 and torch.allclose(loss, expected, rtol=0.05)
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
