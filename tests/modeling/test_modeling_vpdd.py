import pytest
import torch
from transformers import AutoModel

import hf_vpdd  # noqa: F401  registers the Auto classes
from hf_vpdd.modeling.vpdd import VPDDConfig, VPDDForRobotPolicy, VPDDForVideoPrediction, VPDDModel

from .small import small_batch, small_config


OBJECTIVES = ("diffusion", "regression")


def inputs_of(batch):
    return {k: batch[k] for k in ("pixel_values", "input_ids", "attention_mask", "state")}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_loss_has_parts_and_gradients_everywhere(objective):
    config = small_config(action_objective=objective)
    model = VPDDForRobotPolicy(config).train()
    output = model(**small_batch(config), generator=generator())
    output.loss.backward()
    assert output.action_loss > 0
    assert (output.video_loss is None) == (objective == "regression")
    if objective == "diffusion":
        assert torch.allclose(output.loss, output.action_loss + config.video_loss_weight * output.video_loss)
    silent = {n for n, p in model.named_parameters() if p.requires_grad and p.grad is None}
    # behaviour cloning predicts no codes, so the code classifier is the one part without a gradient
    assert silent == (
        {"model.trunk.code_head.weight", "model.trunk.code_head.bias"} if objective == "regression" else set()
    )
    assert all(p.grad is None for p in model.model.vqvae.parameters())


def test_tokenizer_stays_in_eval_mode():
    model = VPDDForRobotPolicy(small_config()).train()
    assert model.training and not model.model.vqvae.training


def test_padded_steps_do_not_count():
    config = small_config()
    model, batch = VPDDForRobotPolicy(config).eval(), small_batch(config)
    batch["timesteps"] = torch.full((2,), config.num_train_timesteps - 1)  # everything masked: no other randomness
    batch["actions_is_pad"][:, -1] = True
    reference = model(**batch, generator=generator()).action_loss
    batch["actions"][:, -1] = (batch["actions"][:, -1] + 1) % config.num_action_bins
    assert torch.allclose(model(**batch, generator=generator()).action_loss, reference)
    batch["actions"][:, 0] = (batch["actions"][:, 0] + 1) % config.num_action_bins
    assert not torch.allclose(model(**batch, generator=generator()).action_loss, reference)


def test_variational_bound_trains_and_keeps_its_history():
    config = small_config(loss_type="vb", video_loss_weight=1.0, full_mask_fraction=0.0)
    model, batch = VPDDForRobotPolicy(config).train(), small_batch(config)
    output = model(**batch, generator=generator())
    codes, actions = batch["video_codes"][0].numel(), batch["actions"][0].numel()
    mean = (output.video_loss * codes + output.action_loss * actions) / (codes + actions)
    assert torch.allclose(output.loss, mean)
    assert model.scheduler.Lt_count.sum() == 2
    output.loss.backward()
    assert model.model.trunk.code_head.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_samples_are_legal_and_repeatable(objective):
    config = small_config(action_objective=objective)
    model, batch = VPDDForRobotPolicy(config).eval(), small_batch(config)
    plan = model.sample_actions(**inputs_of(batch), temperature=1.0, num_inference_steps=5, generator=generator(3))
    again = model.sample_actions(**inputs_of(batch), temperature=1.0, num_inference_steps=5, generator=generator(3))
    assert plan.actions.shape == (2, config.chunk_size, config.action_dim)
    assert torch.equal(plan.actions, again.actions)
    if objective == "regression":
        assert plan.actions.abs().max() <= 1 and plan.video_codes is None
        return
    assert torch.equal(plan.video_codes, again.video_codes)
    assert plan.actions.max() < config.num_action_bins  # no MASK is left
    assert plan.video_codes.shape == (2, 1, *config.latent_shape)
    assert plan.video_codes.max() < config.vqvae_config.codebook_size
    other = model.sample_actions(**inputs_of(batch), temperature=1.0, num_inference_steps=5, generator=generator(4))
    assert not torch.equal(plan.video_codes, other.video_codes)
    assert model.model.decode_video(plan.video_codes).shape == batch["pixel_values"].shape


def test_unused_bins_are_never_drawn():
    config = small_config()
    model, batch = VPDDForRobotPolicy(config).eval(), small_batch(config, batch=8)
    mask = torch.ones(config.action_dim, config.num_action_bins, dtype=torch.bool)
    mask[2, 1:] = False
    options = {"temperature": 5.0, "action_bin_mask": mask, "generator": generator()}
    actions = model.sample_actions(**inputs_of(batch), **options).actions
    assert (actions[..., 2] == 0).all() and (actions[..., 1] > 0).any()


def test_callback_sees_every_step():
    config, seen = small_config(), []
    model = VPDDForRobotPolicy(config).eval()
    model.sample_actions(
        **inputs_of(small_batch(config)),
        num_inference_steps=3,
        callback_on_step_end=lambda index, timestep, state: seen.append((index, int(timestep), sorted(state))),
    )
    assert [index for index, *_ in seen] == [0, 1, 2]
    assert [t for _, t, _ in seen] == sorted((t for _, t, _ in seen), reverse=True)
    assert seen[0][2] == ["actions", "video_codes"]


def test_policy_learns_a_toy_mapping():
    """The action follows the state: the joint chain must recover it exactly by greedy sampling."""
    torch.manual_seed(0)
    config = small_config(num_action_bins=5, head_keypoints=0)
    model = VPDDForRobotPolicy(config).train()
    batch = small_batch(config, batch=8)
    batch["state"] = torch.randn(8, 4, generator=generator())
    batch["actions"] = torch.randint(5, (8, 3, 4), generator=generator(1))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 3e-3)
    for step in range(300):
        model(**batch, generator=generator(step)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    plan = model.eval().sample_actions(**inputs_of(batch), history_codes=batch["history_codes"], generator=generator())
    assert (plan.actions == batch["actions"]).float().mean() > 0.95


def test_one_folder_serves_every_class(tmp_path):
    config = small_config()
    policy = VPDDForRobotPolicy(config).eval()
    policy.save_pretrained(tmp_path)
    auto, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert type(auto) is VPDDForRobotPolicy and not any(info[k] for k in ("missing_keys", "unexpected_keys"))
    for (name, ours), theirs in zip(policy.state_dict().items(), auto.state_dict().values()):
        assert torch.equal(ours, theirs), name
    trunk = VPDDModel.from_pretrained(tmp_path)
    assert torch.equal(trunk.trunk.code_head.weight, policy.model.trunk.code_head.weight)
    batch = inputs_of(small_batch(config))
    for model in (auto,):
        assert torch.equal(
            model.sample_actions(**batch, generator=generator()).actions,
            policy.sample_actions(**batch, generator=generator()).actions,
        )


def test_fine_tuning_starts_from_the_pretrained_trunk(tmp_path):
    """A new head on a loaded trunk; nothing is left as uninitialised memory (meta-device trap)."""
    pretrained = VPDDForVideoPrediction(small_config())
    pretrained.save_pretrained(tmp_path)
    policy, info = VPDDForRobotPolicy.from_pretrained(tmp_path, output_loading_info=True)
    assert {key.split(".")[0] for key in info["missing_keys"]} == {"action_head"}
    assert torch.equal(policy.model.trunk.row_embed, pretrained.model.trunk.row_embed)
    assert not any(p.requires_grad for p in policy.model.vqvae.parameters())  # frozen, loaded or made
    assert policy.model.trunk.row_embed.requires_grad
    for name, tensor in policy.action_head.state_dict().items():
        assert tensor.isfinite().all() and tensor.abs().max() < 10, name
    assert policy.action_head.step_embed.std() > 1e-3


def test_sharded_save(tmp_path):
    policy = VPDDForRobotPolicy(small_config())
    policy.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    loaded = AutoModel.from_pretrained(tmp_path)
    assert torch.equal(loaded.action_head.action_out.weight, policy.action_head.action_out.weight)


def test_gradient_checkpointing_changes_no_gradient():
    config = small_config()
    model, batch = VPDDForRobotPolicy(config).train(), small_batch(config)

    def gradients():
        model.zero_grad()
        model(**batch, generator=generator()).loss.backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    plain = gradients()
    model.activation_checkpointing_enable()
    for name, gradient in gradients().items():
        assert torch.allclose(gradient, plain[name], atol=1e-6), name


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_attention_implementations_agree(implementation):
    config = small_config()
    model, batch = VPDDForRobotPolicy(config).eval(), small_batch(config)
    reference = model(**batch, generator=generator()).action_logits
    model.set_attn_implementation(implementation)
    assert torch.allclose(model(**batch, generator=generator()).action_logits, reference, atol=1e-5)


def test_bfloat16_runs():
    config = small_config()
    model, batch = VPDDForRobotPolicy(config).to(torch.bfloat16).eval(), small_batch(config)
    for name in ("pixel_values", "state"):
        batch[name] = batch[name].bfloat16()
    assert model(**batch, generator=generator()).loss.isfinite()
    assert model.sample_actions(**inputs_of(batch)).actions.max() < config.num_action_bins


def test_batch_rows_do_not_mix():
    config = small_config()
    model, batch = VPDDForRobotPolicy(config).eval(), inputs_of(small_batch(config))
    together = model.sample_actions(**batch, video_temperature=0.0, num_inference_steps=1).actions
    alone = model.sample_actions(**{k: v[1:] for k, v in batch.items()}, video_temperature=0.0, num_inference_steps=1)
    assert torch.equal(together[1:], alone.actions)


@pytest.mark.parametrize(
    "missing, word", [("state", "state"), ("input_ids", "instruction"), ("pixel_values", "pixel_values")]
)
def test_missing_inputs_are_named(missing, word):
    config = small_config()
    batch = inputs_of(small_batch(config))
    batch[missing] = None
    if missing == "pixel_values":
        batch["history_codes"] = None
    with pytest.raises(ValueError, match=word):
        VPDDForRobotPolicy(config).eval().sample_actions(**batch)


@pytest.mark.parametrize(
    "wrong, word",
    [
        ({"trunk": "resnet"}, "trunk"),
        ({"action_head": "none"}, "action_head"),
        ({"trunk_heads": 3}, "hidden_size"),
        ({"full_mask_fraction": 2.0}, "full_mask_fraction"),
        ({"history_frames": 4}, "clip_frames"),
    ],
)
def test_impossible_configurations_are_refused(wrong, word):
    with pytest.raises(Exception, match=word):
        small_config(**wrong)


def test_config_round_trip():
    config = small_config()
    assert VPDDConfig.from_dict(config.to_dict()).to_dict() == config.to_dict()
