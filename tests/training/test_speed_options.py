"""Options that change time and memory: each runs, and the losses are those without it."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from hf_vpdd import VPDDForVideoPrediction
from hf_vpdd.errors import InputError
from hf_vpdd.training import load_recipe, run_pretrain, run_vqvae
from hf_vpdd.training.loop import train
from hf_vpdd.training.optimizer import build_optimizer, guarded_step, parameter_groups
from hf_vpdd.training.train_arguments import TrainArguments

from .small_data import experiment, write_dataset
from .toy import ToyTask, toy_recipe


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["train/loss"] for line in lines if "train/loss" in line]


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    root = tmp_path_factory.mktemp("speed")
    config = experiment(write_dataset(root / "data", episodes_per_task=2), root / "out")
    config["train"] |= {"steps": 3, "save_every": 0, "eval_every": 0, "eval_samples": 4, "tracker": "none"}
    config["train"] |= {"log_every": 1, "mixed_precision": "no", "eval_videos": 0}
    run_vqvae(load_recipe("vqvae", config))
    plain = run_pretrain(load_recipe("pretrain", config))
    return {"config": config, "plain": plain, "root": root}


@pytest.mark.parametrize("option", ["gradient_checkpointing", "channels_last"])
def test_a_stage_with_it_has_the_losses_of_one_without(road, tmp_path, option):
    value = option != "channels_last"  # which is on by default
    folder = run_pretrain(load_recipe("pretrain", road["config"], {option: value, "output_dir": str(tmp_path)}))
    assert len(losses(folder)) == 3
    torch.testing.assert_close(losses(folder), losses(road["plain"]), rtol=2e-4, atol=1e-5)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
def test_compiled_a_run_has_the_losses_of_one_without(tmp_path):
    """Of a toy: the kernels of a whole stage take minutes to compile."""
    settings = {"steps": 4, "save_every": 0, "log_every": 1, "eval_every": 0}
    for name in ("plain", "compile"):
        task = ToyTask(plain=True)
        train(task, toy_recipe(tmp_path / name, compile=name == "compile", **settings))
        assert (task.model._compiled_call_impl is not None) == (name == "compile")
    torch.testing.assert_close(losses(tmp_path / "compile"), losses(tmp_path / "plain"), rtol=1e-4, atol=1e-6)


def test_bf16_stays_near(road, tmp_path):
    folder = run_pretrain(
        load_recipe("pretrain", road["config"], {"mixed_precision": "bf16", "output_dir": str(tmp_path)})
    )
    torch.testing.assert_close(losses(folder), losses(road["plain"]), rtol=0.05, atol=0.05)


def test_the_average_of_a_stage_is_what_from_pretrained_loads(road, tmp_path):
    recipe = load_recipe("pretrain", road["config"], {"ema_decay": 0.9, "save_every": 3, "output_dir": str(tmp_path)})
    folder = run_pretrain(recipe)
    state = torch.load(folder / "checkpoint-000003" / "state.pt", weights_only=True)
    for place in (folder, folder / "checkpoint-000003" / "model"):
        model = VPDDForVideoPrediction.from_pretrained(place)
        trained = [(name, p) for name, p in model.named_parameters() if name in state["model"]]
        shadow = iter(state["ema"]["shadow"])
        frozen = {name for name, _ in trained if ".vqvae." in name}
        for name, parameter in trained:
            if name in frozen:
                assert torch.equal(parameter, state["model"][name])
            else:
                assert torch.equal(parameter, next(shadow)), name
        assert next(shadow, None) is None
    moved = sum(not torch.equal(p, state["model"][name]) for name, p in trained)
    assert moved > 10, "the average must differ from the last weights"


def test_a_model_without_checkpointing_says_so(tmp_path):
    with pytest.raises(InputError, match="gradient_checkpointing: Sequential does not support it"):
        train(ToyTask(), toy_recipe(tmp_path, gradient_checkpointing=True))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.Linear(8, 1))


def steps(model, optimizer, number=5, bad=(), scaler=None):
    generator = torch.Generator().manual_seed(1)
    for step in range(number):
        loss = model(torch.randn(6, 5, generator=generator)).square().mean()
        (loss if scaler is None else scaler.scale(loss)).backward()
        if scaler is not None:
            scaler.unscale_(optimizer)
        guarded_step(optimizer, torch.tensor(step in bad), scaler)
    return [p.detach().clone() for p in model.parameters()]


def test_fused_adamw_is_adamw():
    args, first, second = TrainArguments(), network(), network()
    fused = build_optimizer(first, args)
    assert fused.defaults["fused"]
    plain = torch.optim.AdamW(
        parameter_groups(second, args.weight_decay), lr=args.learning_rate, betas=args.betas, fused=False
    )
    for bad in ((), (1, 3)):
        torch.testing.assert_close(steps(first, fused, bad=bad), steps(second, plain, bad=bad), rtol=1e-5, atol=1e-7)


def test_loss_scaling_changes_nothing_but_its_own_scale():
    """The path of fp16, here in float32: gradients are unscaled first, and an overflow halves the scale."""
    args, first, second = TrainArguments(), network(), network()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=3)
    scaled = steps(first, build_optimizer(first, args), bad=(4,), scaler=scaler)
    torch.testing.assert_close(scaled, steps(second, build_optimizer(second, args), bad=(4,)), rtol=1e-5, atol=1e-7)
    assert scaler.get_scale() == 2048.0  # grew once after three good steps; no gradient overflowed
    optimizer = build_optimizer(first, args)
    before = [p.detach().clone() for p in first.parameters()]
    loss = first(torch.randn(6, 5)).square().mean() * 1e38
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    norm = nn.utils.get_total_norm([p.grad for p in first.parameters()])
    guarded_step(optimizer, ~torch.isfinite(norm), scaler)
    assert all(torch.equal(a, b) for a, b in zip(before, first.parameters()))
    assert scaler.get_scale() == 1024.0
    restored = torch.amp.GradScaler("cpu")
    restored.load_state_dict(scaler.state_dict())
    assert restored.get_scale() == 1024.0
