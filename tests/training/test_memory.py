"""What the paper-size model needs to be trained: recomputed activations, a trunk that is really frozen, no dropout in
evaluation."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from hf_vpdd import VPDDVQVAE, VPDDForRobotPolicy, VPDDForVideoPrediction, VPDDVQVAEConfig
from hf_vpdd.training import load_recipe, loop
from hf_vpdd.training.loop import train
from hf_vpdd.training.stages.common import open_store
from hf_vpdd.training.stages.finetune import FinetuneTask
from tests.modeling.small import small_batch, small_config


OFFICIAL = {
    "trunk": "perceiver", "num_latents": 8, "trunk_position_rows": 64, "timestep_ff_size": 16, "history_ff_size": 16,
    "trunk_dropout": 0.1, "head_dropout": 0.1, "head_position_rows": 200, "image_channels": 0, "head_keypoints": 0,
    "loss_type": "vb", "full_mask_fraction": 0.0, "head_layers": 2, "trunk_layers": 2,
}  # fmt: skip
VARIANTS = {
    "fused, cross_attention": {"trunk_dropout": 0.1, "head_dropout": 0.1},
    "perceiver, causal": {**OFFICIAL, "action_head": "causal", "state_dim": 0},
    "perceiver, causal_multiview": {
        **OFFICIAL, "action_head": "causal_multiview", "num_views": 2, "head_patch_size": 8, "head_image_channels": 8,
    },
}  # fmt: skip


def policy(variant: str) -> VPDDForRobotPolicy:
    torch.manual_seed(1)
    return VPDDForRobotPolicy(small_config(**VARIANTS[variant]))


def batch_of(config) -> dict:
    batch = small_batch(config)
    return batch if config.state_dim else {name: value for name, value in batch.items() if name != "state"}


def gradients(model, batch) -> dict[str, torch.Tensor]:
    torch.manual_seed(5)  # dropout
    model.zero_grad()
    model(**batch, generator=torch.Generator().manual_seed(3)).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("variant", VARIANTS)
def test_recomputed_activations_give_the_same_gradients(variant):
    model = policy(variant).train()
    batch = batch_of(model.config)
    plain = gradients(model, batch)
    model.activation_checkpointing_enable()
    blocks = [m for m in model.modules() if getattr(m, "gradient_checkpointing", False)]
    names = {type(block).__name__ for block in blocks}
    assert {"fused": "TransformerBlock", "perceiver": "PerceiverBlock"}[model.config.trunk] in names
    assert ("GPT2Block" in names) == variant.startswith("perceiver") and "CLIPEncoderLayer" in names
    again = gradients(model, batch)
    assert plain.keys() == again.keys()
    for name in plain:
        torch.testing.assert_close(again[name], plain[name], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    "variant",
    [
        {"variant": "axial_3d", "clip_frames": 4, "downsample": [4, 4, 4]},
        {"variant": "conv_2d", "clip_frames": 1, "downsample": [1, 4, 4]},
    ],
    ids=["axial_3d", "conv_2d"],
)
def test_a_recomputed_tokenizer_counts_each_batch_once(variant):
    sizes = {"image_size": 16, "codebook_size": 12, "codebook_dim": 8, "hidden_size": 16, "num_res_layers": 2}
    config = VPDDVQVAEConfig(**{**sizes, **variant})
    pixels = torch.rand(3, 3, config.clip_frames, 16, 16, generator=torch.Generator().manual_seed(0)) - 0.5
    states, grads = [], []
    for recompute in (False, True):
        torch.manual_seed(1)
        model = VPDDVQVAE(config).train()
        if recompute:
            model.activation_checkpointing_enable()
        for _ in range(2):
            model.zero_grad()
            model(pixels, generator=torch.Generator().manual_seed(2)).loss.backward()
        states.append(model.state_dict())
        grads.append({name: p.grad for name, p in model.named_parameters()})
    assert any("running_mean" in name for name in states[0]) == (variant["variant"] == "axial_3d")
    for first, second in (states, grads):
        assert first.keys() == second.keys()
        for name in first:
            torch.testing.assert_close(second[name], first[name], rtol=1e-4, atol=1e-6)
    assert {m.momentum for m in model.modules() if isinstance(m, nn.BatchNorm3d)} <= {0.1}


def test_fewer_activations_are_kept():
    """Counts what autograd holds on to between forward and backward."""

    def kept(recompute: bool) -> int:
        model = policy("perceiver, causal").train()
        if recompute:
            model.activation_checkpointing_enable()
        held = {}
        batch = batch_of(model.config)

        def pack(tensor):
            held[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            output = model(**batch, generator=torch.Generator().manual_seed(3))  # keeps the graph alive
        weights = {p.data_ptr() for p in model.parameters()}
        assert output.loss.requires_grad
        return sum(size for pointer, size in held.items() if pointer not in weights)

    assert kept(True) < 0.6 * kept(False)


@pytest.mark.parametrize("variant", VARIANTS)
def test_evaluation_is_without_dropout_in_every_part(variant):
    """The released evaluation ran with dropout on (spec §7.10)."""
    model = policy(variant)
    batch = batch_of(model.config)
    given = {"generator": None, "timesteps": torch.tensor([40, 90])}

    def outputs():
        batch["generator"] = torch.Generator().manual_seed(1)
        with torch.no_grad():
            return model(**{**given, **batch}).action_logits

    model.train()
    assert not model.model.vqvae.training and not torch.equal(outputs(), outputs())
    active = [name for name, m in model.named_modules() if isinstance(m, nn.Dropout) and m.p > 0]
    assert active or "perceiver" not in variant
    model.eval()
    assert [name for name, module in model.named_modules() if module.training] == []
    assert torch.equal(outputs(), outputs())


@pytest.fixture(scope="module")
def ready(tmp_path_factory):
    """A pre-trained Perceiver on a small dataset."""
    from hf_vpdd.training import run_pretrain, run_vqvae

    from .small_data import experiment, write_dataset

    root = tmp_path_factory.mktemp("memory")
    config = experiment(write_dataset(root / "data"), root / "out")
    config["train"] |= {"steps": 1, "save_every": 0, "eval_every": 0, "tracker": "none"}
    config["model"] |= {**OFFICIAL, "action_head": "causal", "state_dim": 0}
    run_vqvae(load_recipe("vqvae", config))
    return {"config": config, "pretrain": run_pretrain(load_recipe("pretrain", config)), "root": root}


class Watched(FinetuneTask):
    """Notes at each training step and evaluation which parts would drop something, and what has a graph."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.in_training, self.in_evaluation, self.graphs = set(), set(), set()

    def loss(self, model, batch, generator):
        self.in_training |= {name for name, module in model.named_modules() if module.training}
        output = model(**self.windows.inputs(batch, generator), generator=generator)
        self.graphs.add(output.video_logits.requires_grad)
        return output.loss, {}

    def evaluate(self, model, generator, device, final):
        self.in_evaluation |= {name for name, module in model.named_modules() if module.training}
        return super().evaluate(model, generator, device, final)


def test_a_frozen_trunk_neither_drops_nor_keeps_anything(ready):
    values = {"trunk_lr_multiplier": 0.0, "steps": 2, "eval_every": 1, "gradient_checkpointing": True}
    recipe = load_recipe("finetune", ready["config"], values, output_dir=str(ready["root"] / "frozen"))
    task = Watched(recipe, ready["pretrain"], open_store(recipe), None)
    before = {name: p.detach().clone() for name, p in task.policy.model.named_parameters()}
    train(task, recipe)
    assert task.graphs == {False}  # p_theta1 ran as under no_grad
    assert not any(name == "model" or name.startswith("model.") for name in task.in_training)
    assert any(name.startswith("action_head") for name in task.in_training)
    assert task.in_evaluation == set()
    assert all(torch.equal(before[name], p) for name, p in task.policy.model.named_parameters())
    assert all(p.grad is None for p in task.policy.model.parameters())


def test_importance_of_noise_levels_is_learned_and_kept_with_accumulated_micro_batches(ready, monkeypatch):
    values = {"steps": 2, "save_every": 1, "gradient_accumulation_steps": 2, "mixed_precision": "bf16"}
    recipe = load_recipe("finetune", ready["config"], values, output_dir=str(ready["root"] / "importance"))
    task = Watched(recipe, ready["pretrain"], open_store(recipe), None)
    drawn = []
    original = type(task.scheduler).sample_timesteps
    monkeypatch.setattr(
        type(task.scheduler), "sample_timesteps", lambda self, *a, **k: drawn.append(k) or original(self, *a, **k)
    )
    train(task, recipe)
    assert task.policy.config.loss_type == "vb" and len(drawn) >= 4 and "importance" not in drawn[0]
    state = torch.load(ready["root"] / "importance/checkpoint-000002/state.pt", weights_only=True)["task"]["scheduler"]
    assert state["Lt_count"].sum() > 0 and torch.equal(state["Lt_history"], task.scheduler.Lt_history)


def test_tokens_are_those_the_model_makes_of_larger_frames(ready):
    """`head_image_size`: frames are kept at the size the head reads, and the tokenizer gets them resized."""
    from hf_vpdd.training.stages.common import pixels_from_uint8, store_codes

    from .small_data import write_dataset

    data = write_dataset(ready["root"] / "large", 2, size=64)
    overrides = {"data.root": [str(data)], "data.image_size": 64}
    recipe = load_recipe("vqvae", ready["config"], overrides, output_dir=str(ready["root"] / "unused"))
    store = open_store(recipe, video_only=True)
    model = VPDDForVideoPrediction.from_pretrained(ready["pretrain"])
    codes = store_codes(recipe, store, model.model.vqvae, pixel_size=64)
    model.config.head_image_size = 64
    pixels = pixels_from_uint8(torch.from_numpy(store.frames[np.arange(20)]))[:, None, None]
    assert np.array_equal(model.model.encode_video(pixels)[:, 0].numpy(), codes[:20])
    with pytest.raises(ValueError, match="data.image_size is 64, the VQ-VAE was trained on 32 px"):
        store_codes(recipe, store, model.model.vqvae)
    with pytest.raises(ValueError, match="data.image_size is 64, the policy reads 48 px"):
        store_codes(recipe, store, model.model.vqvae, pixel_size=48)


def test_options_that_change_memory_and_not_the_result_may_change_on_resuming(ready):
    recipe = load_recipe("pretrain", ready["config"])
    other = replace(recipe, train=replace(recipe.train, gradient_checkpointing=True))
    changeable = loop._Run._changeable(type("Run", (), {"args": recipe.train, "recipe": recipe}))
    differing = {key for key, value in recipe.flat().items() if other.flat()[key] != value}
    assert differing == {"train.gradient_checkpointing"} <= changeable
