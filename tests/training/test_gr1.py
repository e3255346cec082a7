"""GR-1's two stages on a tiny recorded dataset: video, then demonstrations."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from hf_vpdd import GR1ForRobotPolicy, GR1ForVideoPrediction, GR1Processor, InputError, RobotPolicy
from hf_vpdd.data.multiview import build_views
from hf_vpdd.training import load_recipe, run_gr1_finetune, run_gr1_pretrain
from hf_vpdd.training.loop import Terminated
from hf_vpdd.training.stages.gr1_finetune import Gr1FinetuneTask

from .gr1_data import CAMERAS, gr1_experiment
from .run_files import check_records
from .small_data import SIZE, TASKS, write_dataset


ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    """Config, store, and the folders of a run of both stages."""
    root = tmp_path_factory.mktemp("gr1")
    data = write_dataset(root / "data", cameras=tuple(CAMERAS))
    config = gr1_experiment(data, root / "out")
    pretrain = run_gr1_pretrain(load_recipe("gr1_pretrain", config))
    store = build_views(data, CAMERAS, image_size=SIZE, progress=False)
    finetune = run_gr1_finetune(load_recipe("gr1_finetune", config), store=store)
    return {"config": config, "store": store, "root": root, "gr1_pretrain": pretrain, "gr1_finetune": finetune}


def finetune(road, name, **overrides):
    folder = road["root"] / "arms" / name
    recipe = load_recipe("gr1_finetune", road["config"], overrides, output_dir=str(folder))
    return run_gr1_finetune(recipe, store=road["store"])


def weights(folder, prefix=""):
    return {k: v for k, v in load_file(folder / "model.safetensors").items() if k.startswith(prefix)}


def same(a, b):
    assert a.keys() == b.keys() and a
    return all(torch.equal(a[k], b[k]) for k in a)


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_both_stages_leave_a_model_its_record_and_pictures(road):
    video = GR1ForVideoPrediction.from_pretrained(road["gr1_pretrain"]).config
    assert (video.num_views, video.state_dim, video.chunk_size, video.predict_ahead) == (1, 0, 1, 1)
    policy = GR1ForRobotPolicy.from_pretrained(road["gr1_finetune"]).config
    assert (policy.num_views, policy.state_dim, policy.action_dim, policy.chunk_size) == (2, 4, 4, 3)
    assert policy.predict_ahead == 2
    video = {"loss", "copy_video_loss", "psnr", "copy_psnr"}
    expected = {
        "gr1_pretrain": video,
        "gr1_finetune": video | {"arm_loss", "action_error", "video_loss"},
    }
    for stage, names in expected.items():
        folder = road[stage]
        summary = json.loads((folder / "training.json").read_text())
        assert set(summary["metrics"]) == names and all(np.isfinite(list(summary["metrics"].values())))
        assert load_recipe(stage, folder / "recipe.yaml").train.steps == 2
        assert (folder / "pictures" / "prediction-000002.png").stat().st_size > 500
        assert (folder / "videos" / "prediction-0-000002.mp4").stat().st_size > 500
    line = lines(road["gr1_finetune"])[0]
    whole = line["train/arm"] + line["train/video"]
    assert line["train/loss"] == pytest.approx(whole, rel=1e-4)


def test_the_policy_loads_and_acts(road):
    policy = RobotPolicy.from_pretrained(road["gr1_finetune"], device="cpu", execute=1)
    store = road["store"]
    for step in range(6):
        obs = {
            "images": {view.camera: view.frames[step] for view in store.views},
            "state": store.state[step],
            "instruction": TASKS[0],
        }
        action = policy.select_action(obs)
    assert action.shape == (4,) and np.isfinite(action).all()
    assert policy.processor.action_stats["max"] == pytest.approx(_rows(road).max(0).tolist())


def _rows(road):
    store = road["store"]
    train = range(store.num_episodes - 2)  # tasks alternate; the last episode of each is held out
    return np.concatenate([store.action[store.episode_from[e] : store.episode_to[e]] for e in train])


def test_windows_have_a_state_and_a_chunk_for_every_step_and_one_shift_a_clip(road):
    recipe = load_recipe("gr1_finetune", road["config"], random_shift=4)
    task = Gr1FinetuneTask(recipe, road["gr1_pretrain"], road["store"])
    batch = task.batch(np.arange(5))
    shapes = {name: tuple(tensor.shape) for name, tensor in batch.items()}
    assert shapes["pixel_values"] == (5, 2, 4, SIZE, SIZE, 3) and shapes["state"] == (5, 4, 4)
    assert shapes["action"] == (5, 4, 3, 4) and shapes["action_is_pad"] == (5, 4, 3)
    still = {**batch, "pixel_values": batch["pixel_values"][:, :, :1].expand(-1, -1, 4, -1, -1, -1)}
    inputs = task.windows.inputs(still, torch.Generator().manual_seed(0))
    pixels = inputs["pixel_values"]
    assert pixels.shape == (5, 2, 4, 3, 16, 16)
    assert torch.equal(pixels[:, :, :1].expand_as(pixels), pixels)  # all frames of a clip move alike
    plain = task.windows.inputs(still, None)["pixel_values"]
    assert not torch.equal(plain, pixels)
    assert inputs["actions"].abs().max() <= 1 + 1e-6 and inputs["state"].shape == (5, 4, 4)


def test_pre_trained_weights_arrive_and_scratch_does_not_have_them(road):
    slow = finetune(road, "slow", learning_rate=1e-9, ema_decay=0.0)
    pretrained, tuned = weights(road["gr1_pretrain"], "model.trunk."), weights(slow, "model.trunk.")
    for name in pretrained:
        torch.testing.assert_close(tuned[name], pretrained[name], atol=1e-7, rtol=0)
    scratch = finetune(road, "scratch", from_scratch=True, learning_rate=1e-9, ema_decay=0.0, seed=1)
    distance = max((weights(scratch)[k] - v).abs().max() for k, v in pretrained.items() if k.endswith("weight"))
    assert distance > 0.01
    assert json.loads((scratch / "processor_config.json").read_text())["chunk_size"] == 3


def test_frozen_towers_come_from_a_folder_and_their_features_from_the_disk(road, tmp_path, monkeypatch):
    tower = str(road["gr1_pretrain"])
    options = {"image_model": tower, "random_shift": 0, "output_dir": str(tmp_path / "plain")}
    plain = run_gr1_pretrain(load_recipe("gr1_pretrain", road["config"], options))
    assert same(weights(plain, "model.image_model."), weights(Path(tower), "model.image_model."))
    assert GR1ForVideoPrediction.from_pretrained(plain).config.freeze_image_model
    options |= {"cache_features": True, "output_dir": str(tmp_path / "cached"), "cache_dir": str(tmp_path / "cache")}
    cached = run_gr1_pretrain(load_recipe("gr1_pretrain", road["config"], options))
    files = list((tmp_path / "cache").glob("features-*/features.npy"))
    assert len(files) == 2 and np.load(files[0], mmap_mode="r").shape == (8 * 18, 5, 16)  # one for each camera
    losses = [[line["train/loss"] for line in lines(folder) if "train/loss" in line] for folder in (plain, cached)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)  # float16

    # the next stage goes on with both, and the tower is not run any more
    from hf_vpdd.modeling.gr1.modeling_gr1 import GR1ImageTower

    options = {"init_from": str(plain), "cache_features": True, "cache_dir": str(tmp_path / "cache")}
    store = build_views(road["config"]["data"]["root"][0], CAMERAS, image_size=SIZE, progress=False,
                        cache_dir=tmp_path / "cache")  # fmt: skip
    first = load_recipe("gr1_finetune", road["config"], options, output_dir=str(tmp_path / "first"))
    run_gr1_finetune(first, store=store)
    monkeypatch.setattr(GR1ImageTower, "forward", lambda *_, **__: pytest.fail("the image tower ran"))
    again = load_recipe("gr1_finetune", road["config"], options, output_dir=str(tmp_path / "again"))
    policy = run_gr1_finetune(again, store=store)
    assert same(weights(policy), weights(tmp_path / "first"))
    assert same(weights(policy, "model.image_model."), weights(Path(tower), "model.image_model."))


def test_lora_trains_the_trunk_and_what_is_new_and_merges(road):
    from peft import PeftModel

    folder = finetune(road, "lora", lora=True, lora_r=2)
    merged = GR1ForRobotPolicy.from_pretrained(folder)
    torch.manual_seed(0)
    base = GR1ForRobotPolicy.from_pretrained(road["gr1_pretrain"], config=merged.config)
    adapted = PeftModel.from_pretrained(base, folder / "adapter").merge_and_unload()
    ours, theirs = merged.state_dict(), adapted.state_dict()
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name])
    old, new = weights(road["gr1_pretrain"]), weights(folder)
    changed = {name for name in old if name in new and not torch.equal(old[name], new[name])}
    assert changed and all(name.startswith(("model.trunk.", "model.action_queries")) for name in changed)
    assert new["model.action_queries.chunk"].abs().max() > 0
    names = load_file(folder / "adapter" / "adapter_model.safetensors").keys()
    parts = ("lora_", "action_head", "state_embed", "action_queries", "views.1")
    assert all(any(part in name for part in parts) for name in names)


@pytest.mark.parametrize(
    "stage, overrides", [("gr1_pretrain", {}), ("gr1_finetune", {}), ("gr1_finetune", {"lora": True})]
)
def test_resuming_is_bit_exact(road, tmp_path, stage, overrides, monkeypatch):
    run = {"gr1_pretrain": run_gr1_pretrain, "gr1_finetune": run_gr1_finetune}[stage]

    def recipe(folder):
        values = {**overrides, "output_dir": str(folder), "steps": 2, "save_every": 1}
        return load_recipe(stage, road["config"], values)

    run(recipe(tmp_path / "whole"), store=road["store"])
    from hf_vpdd.training import loop

    monkeypatch.setattr(loop._Run, "_stop_requested", lambda self: self.step == 1)  # as SIGTERM in step 1 does
    with pytest.raises(Terminated):
        run(recipe(tmp_path / "cut"), store=road["store"])
    monkeypatch.undo()
    run(recipe(tmp_path / "cut"), store=road["store"])
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))
    check_records(tmp_path / "cut", stage)


def test_a_policy_can_be_fine_tuned_further_with_its_own_statistics(road):
    folder = finetune(
        road, "further", init_from=str(road["gr1_finetune"]), demo_draw=1, episodes_per_task=1, execute=2
    )
    before, after = (GR1Processor.from_pretrained(f) for f in (road["gr1_finetune"], folder))
    assert after.action_stats == before.action_stats and after.execute == 2
    wild = replace(road["store"], action=3 * road["store"].action)
    recipe = load_recipe("gr1_finetune", road["config"], init_from=str(road["gr1_finetune"]), output_dir="unused")
    with pytest.raises(InputError, match=r"does not fit [\s\S]*mean model"):
        run_gr1_finetune(recipe, store=wild)


def test_raw_numbers_and_binary_grippers(road):
    store = road["store"]
    opened = np.where(store.action[:, 3:] > 0, 1, -1).astype(np.float32)
    calvin = replace(
        store, action=np.concatenate((store.action[:, :3], opened), 1),
        state=np.concatenate((store.state[:, :3], opened), 1),
    )  # fmt: skip
    options = {
        "normalization": "raw", "model.binary_gripper_state": True, "model.binary_gripper_action": True,
        "output_dir": str(road["root"] / "raw"),
    }  # fmt: skip
    folder = run_gr1_finetune(load_recipe("gr1_finetune", road["config"], options), store=calvin)
    assert GR1Processor.from_pretrained(folder).normalization == "raw"
    metrics = json.loads((folder / "training.json").read_text())["metrics"]
    assert 0 <= metrics["gripper_error"] <= 1 and np.isfinite(metrics["gripper_loss"])
    options["output_dir"] += " odd"
    with pytest.raises(InputError, match="last number is the gripper"):
        run_gr1_finetune(load_recipe("gr1_finetune", road["config"], options), store=store)


def test_bad_input_is_named(road, tmp_path):
    config, store = road["config"], road["store"]
    silent = write_dataset(tmp_path / "silent", episodes_per_task=2, actions=False, cameras=tuple(CAMERAS))
    with pytest.raises(InputError, match="has none.*--model gr1"):
        run_gr1_finetune(load_recipe("gr1_finetune", config, root=str(silent), output_dir=str(tmp_path / "a")))
    run_gr1_pretrain(load_recipe("gr1_pretrain", config, root=str(silent), output_dir=str(tmp_path / "b")))
    with pytest.raises(InputError, match="holds no model"):
        run_gr1_finetune(load_recipe("gr1_finetune", config, init_from=str(tmp_path)), store=store)
    mute = tmp_path / "mute"  # as `hf-vpdd convert checkpoint` leaves it without --tokenizer
    shutil.copytree(road["gr1_pretrain"], mute, ignore=shutil.ignore_patterns("*processor*", "token*", "check*"))
    with pytest.raises(InputError, match="no processor .*--tokenizer"):
        run_gr1_finetune(load_recipe("gr1_finetune", config, init_from=str(mute)), store=store)
    with pytest.raises(InputError, match="nothing to predict"):
        run_gr1_pretrain(load_recipe("gr1_pretrain", config, predict_ahead=18), store=store)
    with pytest.raises(InputError, match="its weights would be random"):
        run_gr1_pretrain(load_recipe("gr1_pretrain", config, {"model.freeze_image_model": True}), store=store)
    with pytest.raises(InputError, match="do not fit"):
        finetune(road, "wide", **{"model.hidden_size": 32})
    with pytest.raises(InputError, match="needs a frozen image tower"):
        finetune(road, "not frozen", cache_features=True)
    with pytest.raises(InputError, match="needs random_shift 0"):
        load_recipe("gr1_finetune", config, cache_features=True, random_shift=2)
    with pytest.raises(InputError, match="use the option predict_ahead of gr1_finetune"):
        load_recipe("gr1_finetune", config, {"model.predict_ahead": 2})
    with pytest.raises(InputError, match="looks through .*, data.camera is corner2"):
        one = write_dataset(tmp_path / "one", episodes_per_task=2)
        options = {"root": str(one), "camera": "corner2", "init_from": str(road["gr1_finetune"])}
        run_gr1_finetune(load_recipe("gr1_finetune", config, options, output_dir=str(tmp_path / "c")))
    other = load_recipe("gr1_pretrain", config, {"image_model": str(road["gr1_pretrain"]),
                        "model.vision_config.hidden_size": 32, "output_dir": str(tmp_path / "d")})  # fmt: skip
    with pytest.raises(InputError, match="tower of another size"):
        run_gr1_pretrain(other, store=store)


def test_script_runs_with_model_gr1(road, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(road["config"]))
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "training/pretrain.py", "--model", "gr1"]
    command += ["--config", str(path), "--output_dir", str(tmp_path / "out"), "--steps", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "model.safetensors").is_file()
