"""LoRA as a way to fine-tune: small checkpoints, exact resumption, going on from an adapter, options that contradict.

One dataset and one random policy for all of it: what is adapted need not have been trained.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModel

from hf_vpdd import InputError, RobotPolicy, VPDDForRobotPolicy, VPDDProcessor
from hf_vpdd.data import FrameStore
from hf_vpdd.modeling.adapters import adapters_of
from hf_vpdd.training import load_recipe, run_finetune, run_pretrain, run_vqvae
from hf_vpdd.training.arguments import build_parser
from hf_vpdd.training.checkpoints import list_checkpoints
from hf_vpdd.training.lora import starting_point
from hf_vpdd.training.stages.finetune import FinetuneTask
from hf_vpdd.training.task import Task

from .small_data import SIZE, TASKS, experiment, write_dataset


ROOT = Path(__file__).resolve().parents[2]
QUICK = {"eval_every": 0, "tracker": "none", "log_every": 1}

# A run that a test can kill in its middle: each step takes a while.
SLOW = """
import sys, time
from hf_vpdd.training import load_recipe, run_finetune
from hf_vpdd.training.stages.finetune import FinetuneTask
loss = FinetuneTask.loss
FinetuneTask.loss = lambda *arguments: (time.sleep(0.3), loss(*arguments))[1]
run_finetune(load_recipe("finetune", sys.argv[1], output_dir=sys.argv[2]))
"""


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    """Config, store, a video model and a policy on it that were trained for a step each."""
    root = tmp_path_factory.mktemp("lora")
    config = experiment(write_dataset(root / "data"), root / "out")
    config["train"].update(QUICK, save_every=0)
    one = {"steps": 1}
    run_vqvae(load_recipe("vqvae", config, one))
    video = run_pretrain(load_recipe("pretrain", config, one))
    store = FrameStore.build(root / "data", camera="corner2", image_size=SIZE, progress=False)
    policy = run_finetune(load_recipe("finetune", config, one, trunk_lr_multiplier=1.0), store=store)
    return {"config": config, "store": store, "root": root, "video": video, "policy": policy}


def recipe(road, name, **overrides):
    values = {"steps": 2, "init_from": str(road["policy"]), "lora": True, **overrides}
    return load_recipe("finetune", road["config"], values, output_dir=str(road["root"] / name))


def run(road, name, **overrides):
    return run_finetune(recipe(road, name, **overrides), store=road["store"])


def adapter_weights(folder):
    return load_file(folder / "adapter_model.safetensors")


def same(a, b):
    assert a.keys() == b.keys() and a
    return all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module")
def finished(road):
    return run(road, "finished", save_every=1, episodes_per_task=1)


def observation():
    frame = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)
    return {"images": {"corner2": frame}, "state": np.zeros(4, np.float32), "instruction": TASKS[0]}


def test_of_a_policy_only_low_rank_adapters_are_kept(road, finished):
    weights = adapter_weights(finished / "adapter")
    assert weights and all(".lora_" in name for name in weights)
    places = {name.split(".")[2] for name in weights}
    assert places == {"model", "action_head"} and not any("vqvae" in n or "text_model" in n for n in weights)
    config = json.loads((finished / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["modules_to_save"]) == (8, 16, None)
    assert isinstance(config["target_modules"], str)  # the family's expression
    assert config["base_model_name_or_path"] == str(road["policy"])
    base = json.loads((finished / "adapter" / "adapter_base.json").read_text())
    assert base["architecture"] == "VPDDForRobotPolicy" and list(base["weights"]) == ["model.safetensors"]
    # the run's own record says what was done, also what nobody asked for
    options = yaml.safe_load((finished / "recipe.yaml").read_text())["finetune"]
    assert (options["lora_r"], options["lora_variant"], options["lora_modules_to_save"]) == (8, "lora", [])


def test_checkpoints_hold_adapters_alone(road, finished):
    checkpoint = list_checkpoints(finished)[0]
    state = torch.load(checkpoint / "state.pt", weights_only=True)
    assert state["model"] and all(".lora_" in name for name in state["model"])
    assert same(adapter_weights(checkpoint / "model"), adapter_weights(finished / "adapter"))
    assert not (checkpoint / "model" / "model.safetensors").exists()
    assert adapters_of(AutoModel.from_pretrained(checkpoint / "model")) == ["default"]


def test_merged_policy_and_adapter_act_alike_with_the_statistics_of_the_demonstrations(road, finished):
    greedy = {"temperature": 0.0, "video_temperature": 0.0, "num_inference_steps": 1, "device": "cpu"}
    merged, adapter = (RobotPolicy.from_pretrained(f, **greedy) for f in (finished, finished / "adapter"))
    assert not adapters_of(merged.model) and adapters_of(adapter.model)
    ours, theirs = merged.model.state_dict(), adapter.model.state_dict()
    changed = [n for n in ours if n in theirs and not torch.equal(ours[n], theirs[n])]
    assert not changed  # what is not adapted is as it was
    both = [p.predict(observation()).actions for p in (merged, adapter)]
    np.testing.assert_allclose(*both, atol=1e-5)
    stats = [VPDDProcessor.from_pretrained(f).action_bins for f in (finished, finished / "adapter", road["policy"])]
    assert stats[0] == stats[1] == stats[2]  # a policy that is trained further keeps its bins


def test_of_a_video_model_the_new_head_is_trained_whole(road):
    folder = run(road, "from_video", init_from=str(road["video"]), lora_r=2, lora_variant="dora", demo_draw=1)
    weights = adapter_weights(folder / "adapter")
    heads = [name for name in weights if "action_head" in name]
    assert heads and not any(".lora_" in name for name in heads)
    assert any("lora_magnitude_vector" in name for name in weights)
    merged, adapter = VPDDForRobotPolicy.from_pretrained(folder), AutoModel.from_pretrained(folder / "adapter")
    assert adapter.config.action_dim == 4  # its own: the video model knows of no action
    from hf_vpdd.modeling.adapters import merge_adapters

    for name, tensor in merge_adapters(adapter).state_dict().items():
        torch.testing.assert_close(tensor, merged.state_dict()[name])
    # statistics of the demonstrations it was trained on, which the video model never saw
    rows = np.concatenate([np.arange(road["store"].episode_from[e], road["store"].episode_to[e]) for e in (2, 3)])
    stats = VPDDProcessor.from_pretrained(folder / "adapter").state_stats
    np.testing.assert_allclose(stats["mean"], road["store"].state[rows].mean(0), rtol=1e-4, atol=1e-6)


def test_adapters_return_after_kill_9(road, tmp_path):
    """lerobot#3459: a run that went on with fresh random adapters, and looked like any other."""
    values = {"steps": 6, "save_every": 2, "init_from": str(road["policy"]), "lora": True, "learning_rate": 0.02}
    values |= {"gradient_accumulation_steps": 2, "keep_last": 9}
    whole = load_recipe("finetune", road["config"], values, output_dir=str(tmp_path / "whole"))
    run_finetune(whole, store=road["store"])
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(whole.to_dict()))
    paths = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, str(tmp_path / "recipe.yaml"), str(tmp_path / "killed")],
        env={**os.environ, "PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 180
    while not list_checkpoints(tmp_path / "killed"):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "no checkpoint"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL
    left = [p.name for p in list_checkpoints(tmp_path / "killed")]
    assert left and "checkpoint-000006" not in left, "the run must have been stopped before its end"
    shutil.copytree(tmp_path / "killed", tmp_path / "forgetful")

    def go_on(name):
        run_finetune(load_recipe("finetune", tmp_path / "recipe.yaml", output_dir=str(tmp_path / name)), road["store"])
        return adapter_weights(tmp_path / name / "adapter"), load_file(tmp_path / name / "model.safetensors")

    adapter, merged = go_on("killed")
    assert same(adapter, adapter_weights(tmp_path / "whole" / "adapter"))
    assert same(merged, load_file(tmp_path / "whole" / "model.safetensors"))
    lines = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("whole", "killed")]
    curves = [[json.loads(line).get("train/loss") for line in one] for one in lines]
    assert curves[0] == curves[1] and len(curves[0]) >= 6
    # and the comparison sees it when adapters do start anew
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Task, "load_model_state", lambda *_: None)
        adapter, _ = go_on("forgetful")
    assert not same(adapter, adapter_weights(tmp_path / "whole" / "adapter"))


def test_a_checkpoint_without_the_adapters_is_refused(road, finished):
    task = FinetuneTask(recipe(road, "unused"), road["policy"], road["store"], None)
    state = torch.load(list_checkpoints(finished)[0] / "state.pt", weights_only=True)["model"]
    name = sorted(state)[0]
    with pytest.raises(InputError, match=f"no weights for 1 of the {len(state)} trained tensors.*{name}"):
        task.load_model_state(task.model, {k: v for k, v in state.items() if k != name})
    with pytest.raises(InputError, match="which this model has not"):
        task.load_model_state(task.model, {**state, "model.trunk.other": state[name]})
    task.load_model_state(task.model, {f"base_model.model.{k}": v for k, v in state.items()})  # as earlier versions
    assert torch.equal(task.model.state_dict()[name], state[name])


def test_an_adapter_can_be_trained_further(road, finished):
    start, saved = str(finished / "adapter"), adapter_weights(finished / "adapter")
    task = FinetuneTask(recipe(road, "unused", init_from=start), start, road["store"], None)
    trained = {n: p for n, p in task.model.named_parameters() if p.requires_grad}
    assert len(trained) == len(saved) and task.options.lora_r == 8
    for name, parameter in trained.items():
        assert torch.equal(parameter, saved[f"base_model.model.{name.replace('.default', '')}"])
    further = run(road, "further", init_from=start)
    assert not same(adapter_weights(further / "adapter"), saved)
    base = json.loads((further / "adapter" / "adapter_base.json").read_text())
    assert base["name"] == str(road["policy"])  # not the adapter
    assert (further / "adapter" / base["relative"]).resolve() == road["policy"].resolve()
    for option, value, match in (
        ("lora_r", 4, "lora_r is 4, the adapter .* has 8"),
        ("lora_variant", "dora", "lora_variant is 'dora', the adapter .* has 'lora'"),
        ("from_scratch", True, "from_scratch"),
    ):
        with pytest.raises(InputError, match=match):
            run(road, "refused", init_from=start, **{option: value})


def test_without_lora_an_adapter_is_merged_and_everything_trains(road, finished):
    start = str(finished / "adapter")
    task = FinetuneTask(recipe(road, "unused", init_from=start, lora=False), start, road["store"], None)
    assert not adapters_of(task.policy)
    merged = load_file(finished / "model.safetensors")
    for name, parameter in task.policy.named_parameters():
        torch.testing.assert_close(parameter.detach(), merged[name], rtol=1e-5, atol=1e-6)
        assert parameter.requires_grad == (".vqvae." not in name), name


def test_lora_over_a_recipe_with_a_frozen_trunk_trains_adapters(road):
    frozen = {**road["config"], "finetune": {**road["config"]["finetune"], "trunk_lr_multiplier": 0.0}}
    chosen = load_recipe("finetune", frozen, lora="true").options
    assert chosen.lora and chosen.trunk_lr_multiplier == 1.0 and chosen.resolved_video_loss_weight == 0.3
    with pytest.raises(InputError, match="lora trains adapters on the trunk, but trunk_lr_multiplier 0 freezes it"):
        load_recipe("finetune", frozen, {"lora": True, "trunk_lr_multiplier": 0})
    both = {**frozen, "finetune": {**frozen["finetune"], "lora": True}}
    with pytest.raises(InputError, match="trunk_lr_multiplier 0 freezes it"):
        load_recipe("finetune", both)


@pytest.mark.parametrize(
    "options, match",
    [
        ({"lora_r": 0}, "finetune.lora_r must be at least 1, got 0"),
        ({"lora_alpha": 0}, "finetune.lora_alpha must be at least 1, got 0"),
        ({"lora_dropout": 1.0}, r"lora_dropout must lie in \[0, 1\), got 1.0"),
        ({"lora_variant": "adalora"}, "lora_variant must be one of lora, rslora, dora"),
        ({"lora": False, "lora_r": 4}, "finetune.lora_r has no effect without adapters: add --lora true"),
        ({"from_scratch": True}, "from_scratch makes it random"),
    ],
)
def test_options_that_cannot_be_are_refused_when_read(road, options, match):
    with pytest.raises(InputError, match=match):
        recipe(road, "refused", **options)


def test_what_the_model_contradicts_is_refused_before_training(road, monkeypatch):
    def refused(match, **options):
        with pytest.raises(InputError, match=match):
            run(road, "refused", **options)
        assert not (road["root"] / "refused").exists()

    refused("'nothing' matches no layer.*such as model.text_model", lora_target_modules="nothing")
    refused("is no regular expression", lora_target_modules="(")
    refused("'nose' is no part of the model; it has: model, action_head", lora_modules_to_save=["nose"])
    refused(
        "must name action_head too: .* has no weights",
        init_from=str(road["video"]),
        lora_modules_to_save=["trunk.norm"],
    )
    from peft.tuners.lora import layer

    def no_dora(self, **options):
        raise ValueError("Linear does not support DoRA (yet), please set use_dora to False")

    monkeypatch.setattr(layer.Linear, "resolve_lora_variant", no_dora)  # as of layers that peft cannot do it for
    refused(r"peft cannot put adapters \(lora_variant dora\) .*does not support DoRA", lora_variant="dora")


def test_start_on_something_else_is_refused(road, finished, tmp_path):
    shutil.copytree(finished / "adapter", tmp_path / "adapter")
    (tmp_path / "adapter" / "processor_config.json").unlink()
    with pytest.raises(InputError, match="holds an adapter, but no processor.*statistics are lost"):
        run(road, "refused", init_from=str(tmp_path / "adapter"))
    (tmp_path / "adapter" / "adapter_base.json").unlink()
    with pytest.raises(InputError, match="without adapter_base.json"):
        starting_point(tmp_path / "adapter", "finetune")
    with pytest.raises(InputError, match="neither a folder nor could it be fetched from the Hub"):
        starting_point("some-org/nothing", "finetune")
    with pytest.raises(InputError, match="holds no model"):
        starting_point(tmp_path / "nothing", "finetune")


def test_help_lists_the_options_last_and_once():
    text = build_parser("finetune").format_help()
    assert text.index("--action_layout") < text.index("--lora [BOOL]") < text.index("--lora_r N")
    for stage in ("finetune", "gr1_finetune", "offline_rl"):
        assert build_parser(stage).format_help().count("--lora_variant NAME") == 1


def test_layers_within_a_module_that_is_trained_whole_are_left_to_it(road):
    chosen = recipe(road, "unused", lora_modules_to_save=["action_head"])
    task = FinetuneTask(replace(chosen), road["policy"], road["store"], None)
    trained = [n for n, p in task.model.named_parameters() if p.requires_grad]
    heads = [n for n in trained if n.startswith("action_head.")]
    assert heads and all("modules_to_save" in n and ".lora_" not in n for n in heads)
