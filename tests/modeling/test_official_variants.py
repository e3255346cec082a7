"""The official variants at toy size: training, saving, dtypes, and the wiring of several views."""

import pytest
import torch

from hf_vpdd.modeling.vpdd import VPDDConfig, VPDDForRobotPolicy
from hf_vpdd.modeling.vqvae import VPDDVQVAE, VPDDVQVAEConfig

from .small import small_batch


SMALL_VQVAE = {"image_size": 16, "codebook_size": 12, "codebook_dim": 8, "hidden_size": 16, "num_res_layers": 2}
SMALL_SIZES = {
    "num_action_bins": 9,
    "hidden_size": 16,
    "trunk_layers": 2,
    "trunk_head_dim": 8,
    "trunk_ff_size": 32,
    "num_latents": 10,
    "trunk_position_rows": 40,
    "timestep_ff_size": 32,
    "history_ff_size": 24,
    "head_hidden_size": 16,
    "head_layers": 2,
    "head_ff_size": 32,
    "head_position_rows": 80,
}
SMALL_TOWER = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
    "projection_dim": 24,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
}
WIRINGS = ("metaworld", "rlbench", "rlbench-released")


def scaled_down(wiring: str, **overrides) -> VPDDConfig:
    fields = {"vqvae_config": dict(SMALL_VQVAE), "text_config": dict(SMALL_TOWER), **SMALL_SIZES}
    if wiring == "metaworld":
        return VPDDConfig.metaworld(**{**fields, **overrides})
    views = {"head_image_size": 20, "head_patch_size": 7, "head_image_channels": 8}
    return VPDDConfig.rlbench(released=wiring.endswith("released"), **{**fields, **views, **overrides})


def batch_of(config: VPDDConfig, **arguments) -> dict[str, torch.Tensor]:
    batch = small_batch(config, **arguments)
    shape = batch["pixel_values"].shape[:4]
    batch["pixel_values"] = torch.rand(*shape, config.pixel_size, config.pixel_size) - 0.5
    if not config.state_dim:
        del batch["state"]
    return batch


@pytest.mark.parametrize("wiring", WIRINGS)
@pytest.mark.parametrize("objective", ["diffusion", "regression"])
def test_trains_and_samples(wiring, objective):
    config = scaled_down(wiring, action_objective=objective)
    model = VPDDForRobotPolicy(config).train()
    batch = batch_of(config)
    output = model(**batch, generator=torch.Generator().manual_seed(0))
    output.loss.backward()
    assert output.loss.isfinite()
    bins = () if objective == "regression" else (config.num_action_bins,)
    assert output.action_logits.shape == (2, config.chunk_size, config.action_dim, *bins)
    head = [p.grad for p in model.action_head.parameters()]
    assert all(g is not None and g.isfinite().all() for g in head)
    assert all(p.grad is None for p in model.model.vqvae.parameters())

    model.eval()
    inputs = {k: v for k, v in batch.items() if k not in ("video_codes", "actions", "actions_is_pad", "history_codes")}
    plan = model.sample_actions(**inputs, num_inference_steps=3, generator=torch.Generator().manual_seed(0))
    assert plan.actions.shape == (2, config.chunk_size, config.action_dim)
    if objective == "diffusion":
        assert plan.actions.max() < config.num_action_bins and plan.actions.min() >= 0  # no MASK is left
        assert plan.video_codes.shape == (2, config.num_views, *config.latent_shape)
        assert plan.video_codes.max() < config.vqvae_config.codebook_size


@pytest.mark.parametrize(
    "parts",
    [
        {"trunk": "perceiver", "action_head": "cross_attention", "state_dim": 3},
        {"trunk": "fused", "trunk_heads": 2, "action_head": "causal"},
    ],
)
def test_small_and_official_components_mix(parts):
    config = scaled_down("metaworld", **parts)
    model = VPDDForRobotPolicy(config)
    output = model(**batch_of(config))
    output.loss.backward()
    assert output.loss.isfinite()


@pytest.mark.parametrize("wiring", WIRINGS)
def test_one_graph_without_breaks(wiring):
    """What `torch.compile(fullgraph=True)` captures; the eager backend keeps this to the tracing."""
    model = VPDDForRobotPolicy(scaled_down(wiring)).eval()
    batch = batch_of(model.config)
    arguments = {"timesteps": torch.tensor([3, 70])}
    with torch.no_grad():
        before = model(**batch, **arguments, generator=torch.Generator().manual_seed(1))
        for part in (model.model.trunk, model.action_head):
            part.compile(fullgraph=True, backend="eager")
        after = model(**batch, **arguments, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(before.action_logits, after.action_logits, atol=1e-5)


def test_rlbench_follows_the_forecast_unless_released():
    """The paper's wiring reads every predicted view, the released one none."""
    for wiring, follows in (("rlbench", True), ("rlbench-released", False)):
        config = scaled_down(wiring)
        model = VPDDForRobotPolicy(config).eval()
        batch = batch_of(config)
        prompt = model.model.embed_prompt(batch["input_ids"], batch["attention_mask"])
        context = model.model.encode_context(prompt, batch["history_codes"], batch["pixel_values"])
        head = model.head_context(context, prompt, batch["state"], batch["pixel_values"], config.num_views)
        hidden = torch.randn(2, config.num_views, config.video_tokens, config.hidden_size)
        steps = torch.tensor([5, 50])
        before = model.action_head(batch["actions"], steps, hidden, head)
        for view in range(config.num_views):
            changed = hidden.clone()
            changed[:, view] += 1
            assert torch.equal(before, model.action_head(batch["actions"], steps, changed, head)) is not follows


def test_causal_head_is_causal():
    config = scaled_down("metaworld")
    model = VPDDForRobotPolicy(config).eval()
    batch = batch_of(config)
    prompt = model.model.embed_prompt(batch["input_ids"], batch["attention_mask"])
    head = model.action_head.encode_context({}, prompt, None, None)
    hidden, steps = torch.randn(2, 1, config.video_tokens, config.hidden_size), torch.tensor([5, 50])
    later = batch["actions"].clone()
    later[:, 2, 1] = (later[:, 2, 1] + 1) % config.num_action_bins
    before, after = (model.action_head(a, steps, hidden, head) for a in (batch["actions"], later))
    same = (before == after).all(-1).flatten(1)
    first = 2 * config.action_dim + 1  # the changed token
    assert same[:, :first].all() and not same[:, first:].any()


def test_decoding_the_noisy_queries_alone_is_exact():
    """Only the last L of 2 + 2L queries are decoded; all of them give the same last L."""
    config = scaled_down("metaworld")
    trunk = VPDDForRobotPolicy(config).eval().model.trunk
    codebook = torch.randn(12, 8)
    history, prompt = torch.randint(12, (3, *config.latent_shape)), torch.randn(3, 24)
    noisy, steps = torch.randint(13, (3, config.video_tokens)), torch.tensor([0, 40, 99])  # 12 is MASK
    context = trunk.encode_context(history, None, prompt, codebook)
    logits, hidden = trunk(noisy, steps, context)

    # the same network written out, from the spec's listing
    rows = torch.cat((codebook, torch.zeros(1, 8)))
    c, t = trunk.prompt_embed(prompt)[:, None], trunk.timestep_embed(steps)[:, None]
    tokens = torch.cat((t, c, trunk.history_embed(rows[history.flatten(1)]), trunk.code_embed(rows[noisy])), dim=1)
    tokens = trunk.input_norm(t * (c * tokens) + trunk.position_embed[: tokens.shape[1]])
    latents = trunk.latents.expand(3, -1, -1)
    for block in (trunk.reader, *trunk.layers):
        latents = block(latents, tokens)
    everything = trunk.decoder(tokens, latents)
    assert torch.allclose(hidden, everything[:, -config.video_tokens :], atol=1e-6)
    assert torch.allclose(logits, trunk.code_head(everything[:, -config.video_tokens :]), atol=1e-6)


@pytest.mark.parametrize("wiring", WIRINGS)
def test_round_trip_restores_everything(wiring, tmp_path):
    """Sharded save, load: every parameter and buffer, the non-persistent ones too, comes back as it was."""
    model = VPDDForRobotPolicy(scaled_down(wiring)).eval()
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    again, info = VPDDForRobotPolicy.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for tensors in ("named_parameters", "named_buffers"):
        ours, theirs = dict(getattr(model, tensors)()), dict(getattr(again, tensors)())
        assert ours.keys() == theirs.keys()
        for name, tensor in ours.items():
            assert torch.equal(tensor, theirs[name]), name
    batch = batch_of(model.config)
    outputs = [
        m(**batch, timesteps=torch.tensor([3, 70]), generator=torch.Generator().manual_seed(1)) for m in (model, again)
    ]
    assert torch.equal(outputs[0].action_logits, outputs[1].action_logits)
    assert torch.equal(outputs[0].loss, outputs[1].loss)


@pytest.mark.parametrize("wiring", WIRINGS)
def test_nothing_is_left_uninitialised(wiring):
    """A model made from an empty checkpoint: whatever `_init_weights` forgets shows as NaN."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    try:
        model = VPDDForRobotPolicy.from_pretrained(None, config=scaled_down(wiring), state_dict={})
    finally:
        torch.use_deterministic_algorithms(False)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_floating_point():
            assert tensor.isfinite().all() and tensor.abs().max() < 10, name
        else:
            assert tensor.abs().max() < 1000 if tensor.dtype != torch.bool else not tensor.any(), name
    assert model.model.trunk.latents.std() > 0.5
    assert not model.model.trunk.position_embed.any()


@pytest.mark.parametrize("wiring", ["metaworld", "rlbench"])
def test_gradient_checkpointing_changes_no_gradient(wiring):
    config = scaled_down(wiring, trunk_dropout=0.0, head_dropout=0.0)
    model = VPDDForRobotPolicy(config).train()
    batch = batch_of(config)

    def gradients():
        model.zero_grad()
        model(**batch, timesteps=torch.tensor([3, 70]), generator=torch.Generator().manual_seed(1)).loss.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    plain = gradients()
    renamed = hasattr(model, "activation_checkpointing_enable")  # transformers 5.23; the old name warns there
    (model.activation_checkpointing_enable if renamed else model.gradient_checkpointing_enable)()
    runs = []
    for layer in (model.model.trunk.reader, *model.model.trunk.layers, *model.action_head.transformer.h):
        inside = next(layer.children())  # hooks of the layer itself may lie outside what is recomputed
        inside.register_forward_pre_hook(lambda module, _: runs.append(module))
    again = gradients()
    assert len(runs) == 2 * len(set(runs)) == 10, "each layer runs once forward and once more in backward"
    assert plain.keys() == again.keys()
    for name, gradient in plain.items():
        assert torch.allclose(gradient, again[name], atol=1e-6), name


@pytest.mark.parametrize("wiring", WIRINGS)
def test_bfloat16(wiring, tmp_path):
    model = VPDDForRobotPolicy(scaled_down(wiring)).eval()
    model.save_pretrained(tmp_path)
    half = VPDDForRobotPolicy.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    batch = batch_of(model.config)
    arguments = {"timesteps": torch.tensor([3, 70])}
    with torch.no_grad():
        full, rough = (m(**batch, **arguments, generator=torch.Generator().manual_seed(1)) for m in (model, half))
    assert rough.video_logits.dtype == rough.action_logits.dtype == torch.float32
    assert torch.allclose(full.action_logits, rough.action_logits, atol=0.1)
    assert torch.allclose(full.video_logits, rough.video_logits, atol=0.1)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        mixed = model(**batch, **arguments, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(full.action_logits, mixed.action_logits, atol=0.1)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_attention_implementations_agree(attention):
    torch.manual_seed(3)
    model = VPDDForRobotPolicy(scaled_down("metaworld")).eval()
    batch, steps = batch_of(model.config), torch.tensor([3, 70])
    before = model(**batch, timesteps=steps, generator=torch.Generator().manual_seed(1))
    model.set_attn_implementation(attention)
    assert model.action_head.transformer.config._attn_implementation == attention
    after = model(**batch, timesteps=steps, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(before.video_logits, after.video_logits, atol=1e-5)
    assert torch.allclose(before.action_logits, after.action_logits, atol=1e-5)


def test_views_are_resized_for_the_tokenizer():
    """RLBench's views come larger than the tokenizer's frames; constant images stay what they are."""
    config = scaled_down("rlbench")
    model = VPDDForRobotPolicy(config).eval()
    large, small = torch.full((1, 4, 4, 3, 20, 20), 0.25), torch.full((4, 3, 4, 16, 16), 0.25)
    codes = model.model.encode_video(large)
    assert torch.equal(codes.flatten(0, 1), model.model.vqvae.encode(small))
    assert config.pixel_size == 20 and VPDDConfig.metaworld().pixel_size == 96


@pytest.mark.parametrize(
    ("wiring", "change", "says"),
    [
        ("metaworld", {"state_dim": 4}, "state_dim"),
        ("metaworld", {"head_image_size": 128}, "head_image_size"),
        ("metaworld", {"head_position_rows": 5}, "head_position_rows"),
        ("metaworld", {"trunk_position_rows": 5}, "trunk_position_rows"),
        ("metaworld", {"head_hidden_size": 32}, "head_hidden_size"),
        ("rlbench", {"head_action_groups": [3, 3]}, "head_action_groups"),
        ("rlbench", {"head_view_order": [0, 4]}, "head_view_order"),
        ("rlbench", {"head_video_input": "now"}, "head_video_input"),
        ("rlbench", {"state_dim": 0}, "state"),
        ("rlbench", {"head_patch_size": 64}, "head_patch_size"),
    ],
)
def test_impossible_configurations_say_what_is_wrong(wiring, change, says):
    with pytest.raises(Exception, match=says), torch.device("meta"):
        VPDDForRobotPolicy(scaled_down(wiring, **change))


def test_raw_views_and_state_are_asked_for():
    config = scaled_down("rlbench")
    model, batch = VPDDForRobotPolicy(config).eval(), batch_of(config)
    with pytest.raises(ValueError, match="pixel_values"):
        model(**{**batch, "pixel_values": None})
    with pytest.raises(ValueError, match="state"):
        model(**{**batch, "state": None})


def test_tokenizer_trains_and_keeps_other_strides():
    for downsample, frames, latent in (
        ([4, 4, 4], 4, (1, 4, 4)),
        ([2, 4, 8], 4, (2, 4, 2)),
        ([1, 2, 2], 2, (2, 8, 8)),
    ):
        config = VPDDVQVAEConfig(**SMALL_VQVAE, downsample=downsample, clip_frames=frames)
        model = VPDDVQVAE(config).train()
        output = model(torch.rand(2, 3, frames, 16, 16) - 0.5, generator=torch.Generator().manual_seed(0))
        output.loss.backward()
        assert output.codes.shape == (2, *latent) == (2, *config.latent_shape)
        assert output.reconstruction.shape == (2, 3, frames, 16, 16)
        assert all(p.grad is not None for p in model.parameters()), "DDP needs every parameter in use"


def test_one_frame_shortcut_of_the_temporal_attention_is_exact():
    model = VPDDVQVAE(VPDDVQVAEConfig(**SMALL_VQVAE)).eval()
    video = torch.rand(1, 3, 4, 16, 16) - 0.5
    with torch.no_grad():
        short = model.latents(video)
    assert torch.allclose(short, model.latents(video), atol=1e-6)
