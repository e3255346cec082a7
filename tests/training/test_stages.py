"""The whole road on a tiny recorded dataset: VQ-VAE, pre-training, fine-tuning in all its arms."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from hf_vpdd import VPDDVQVAE, InputError, RobotPolicy, VPDDForRobotPolicy, VPDDForVideoPrediction, VPDDProcessor
from hf_vpdd.data import FrameStore
from hf_vpdd.pipelines import VPDDPipeline
from hf_vpdd.training import load_recipe, run_finetune, run_pretrain, run_vqvae
from hf_vpdd.training.arguments import DataArguments
from hf_vpdd.training.loop import Terminated, train
from hf_vpdd.training.stages.common import choose_episodes
from hf_vpdd.training.stages.pretrain import PretrainTask
from hf_vpdd.training.stages.vqvae import PixelWeights

from .small_data import SIZE, TASKS, experiment, write_dataset


ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    """Config, store, and the folders of a run of all three stages."""
    root = tmp_path_factory.mktemp("road")
    config = experiment(write_dataset(root / "data"), root / "out")
    vqvae = run_vqvae(load_recipe("vqvae", config))
    pretrain = run_pretrain(load_recipe("pretrain", config))
    finetune = run_finetune(load_recipe("finetune", config))
    store = FrameStore.build(root / "data", camera="corner2", image_size=SIZE, progress=False)
    return {"config": config, "store": store, "root": root, "vqvae": vqvae, "pretrain": pretrain, "finetune": finetune}


def finetune(road, name, **overrides):
    folder = road["root"] / "arms" / name
    recipe = load_recipe(
        "finetune", road["config"], overrides, output_dir=str(folder), save_every=0, eval_every=0, steps=3
    )
    return run_finetune(recipe, store=road["store"])


def trunk_of(folder):
    weights = load_file(folder / "model.safetensors")
    return {k: v for k, v in weights.items() if k.startswith(("model.trunk.", "model.text_model."))}


def vqvae_of(folder, prefix="model.vqvae."):
    return {k[len(prefix) :]: v for k, v in load_file(folder / "model.safetensors").items() if k.startswith(prefix)}


def same(a, b):
    assert a.keys() == b.keys() and a
    return all(torch.equal(a[k], b[k]) for k in a)


def test_the_policy_loads_and_acts(road):
    policy = RobotPolicy.from_pretrained(road["finetune"])
    frame = np.zeros((SIZE, SIZE, 3), np.uint8)
    action = policy.select_action(
        {"images": {"corner2": frame}, "state": np.zeros(4, np.float32), "instruction": TASKS[0]}
    )
    assert np.asarray(action).shape == (4,) and np.isfinite(action).all()


def test_each_stage_leaves_model_run_files_pictures_and_summary(road):
    assert VPDDVQVAE.from_pretrained(road["vqvae"]).config.image_size == SIZE
    model = VPDDForVideoPrediction.from_pretrained(road["pretrain"])
    assert model.config.text_config.vocab_size == len(VPDDProcessor.from_pretrained(road["pretrain"]).tokenizer)
    frame = np.zeros((SIZE, SIZE, 3), np.uint8)
    video = VPDDPipeline.from_pretrained(road["pretrain"])({"corner2": frame}, TASKS[0], num_clips=2).videos
    assert video.shape == (1, 2, SIZE, SIZE, 3)
    expected = {
        "vqvae": {"psnr", "psnr_weighted", "codes_used"},
        "pretrain": {"loss", "top1", "top1_changed", "copy_top1"},
        "finetune": {"loss", "action_error"},
    }
    for stage, names in expected.items():
        folder = road[stage]
        summary = json.loads((folder / "training.json").read_text())
        assert set(summary["metrics"]) == names and all(np.isfinite(list(summary["metrics"].values())))
        assert summary["steps"] == 6 and summary["cpu_seconds"] > 0
        assert json.loads((folder / "run.json").read_text())["fingerprints"]["dataset"] == road["store"].fingerprint
        assert load_recipe(stage, folder / "recipe.yaml").train.steps == 6
        assert (folder / "checkpoint-000006" / "model").is_dir()
        assert list((folder / "tensorboard").rglob("events*"))
    for stage, name in (("vqvae", "reconstruction"), ("pretrain", "forecast")):
        assert (road[stage] / "pictures" / f"{name}-000006.png").stat().st_size > 500


def test_the_tokenizer_travels_unchanged(road):
    whole = load_file(road["vqvae"] / "model.safetensors")
    assert same(vqvae_of(road["pretrain"]), whole) and same(vqvae_of(road["finetune"]), whole)


def test_statistics_come_from_exactly_the_chosen_demonstrations(road):
    def statistics(**overrides):
        return VPDDProcessor.from_pretrained(finetune(road, f"draw{overrides}", **overrides)).state_stats

    store = road["store"]
    for draw in (0, 2):
        episodes = [2 * draw, 2 * draw + 1]  # tasks alternate
        rows = np.concatenate([np.arange(store.episode_from[e], store.episode_to[e]) for e in episodes])
        np.testing.assert_allclose(statistics(demo_draw=draw)["mean"], store.state[rows].mean(0), rtol=1e-4, atol=1e-6)


def test_arms_of_the_comparison(road):
    pretrained = trunk_of(road["pretrain"])
    frozen = finetune(road, "frozen", trunk_lr_multiplier=0.0)
    assert same(trunk_of(frozen), pretrained)
    assert not same(trunk_of(finetune(road, "unfrozen")), pretrained)
    # Another seed: with the same one the random trunk starts where pre-training started.
    scratch = finetune(road, "scratch", from_scratch=True, trunk_lr_multiplier=1.0, seed=1)
    assert same(vqvae_of(scratch), load_file(road["vqvae"] / "model.safetensors"))
    distance = max((trunk_of(scratch)[k] - v).abs().max() for k, v in pretrained.items() if k.endswith("weight"))
    assert distance > 0.05  # three steps of learning rate 2e-3 could not do that
    cloned = finetune(road, "cloned", objective="regression")
    config = VPDDForRobotPolicy.from_pretrained(cloned).config
    assert config.action_objective == "regression" and config.video_loss_weight == 0
    assert VPDDProcessor.from_pretrained(cloned).action_objective == "regression"
    lines = [json.loads(line) for line in (cloned / "metrics.jsonl").read_text().splitlines()]
    assert "train/video" not in lines[0] and "train/action" in lines[0]


def test_cotraining_adds_video_loss_without_touching_action_labels(road):
    folder = finetune(road, "cotrained", cotrain_samples=6)
    line = json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])
    assert np.isfinite(line["train/video"]) and np.isfinite(line["train/action"])
    from hf_vpdd.training.stages.finetune import FinetuneTask

    recipe = load_recipe("finetune", road["config"], cotrain_samples=6)
    batch = FinetuneTask(recipe, road["pretrain"], road["store"], None).batch(np.arange(8))
    assert batch["action"].shape[0] == 14 and batch["action_is_pad"][8:].all() and not batch["action_is_pad"][:8].all()


def test_lora_saves_a_small_adapter_and_a_merged_policy_that_agree(road):
    from peft import PeftModel

    folder = finetune(road, "lora", lora=True, lora_r=2)
    merged = VPDDForRobotPolicy.from_pretrained(folder)
    base, _ = VPDDForRobotPolicy.from_pretrained(road["pretrain"], config=merged.config, output_loading_info=True)
    adapted = PeftModel.from_pretrained(base, folder / "adapter").merge_and_unload()
    ours, theirs = merged.state_dict(), adapted.state_dict()
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name])
    assert same(vqvae_of(folder), load_file(road["vqvae"] / "model.safetensors"))
    changed = [k for k, v in trunk_of(road["pretrain"]).items() if not torch.equal(v, trunk_of(folder)[k])]
    assert changed and all("model.trunk." in name for name in changed)
    names = load_file(folder / "adapter" / "adapter_model.safetensors").keys()
    assert all("lora_" in n or "action_head" in n for n in names)


@pytest.mark.parametrize(
    "overrides", [{}, {"lora": True}, {"trunk_lr_multiplier": 0.0}], ids=["full", "lora", "frozen"]
)
def test_resuming_a_stage_is_bit_exact(road, tmp_path, overrides, monkeypatch):
    def recipe(folder, **more):
        values = {
            **overrides,
            "output_dir": str(folder),
            "steps": 4,
            "save_every": 2,
            "eval_every": 0,
            "tracker": "none",
        }
        return load_recipe("finetune", road["config"], {**values, **more})

    run_finetune(recipe(tmp_path / "whole"), store=road["store"])
    from hf_vpdd.training import loop

    monkeypatch.setattr(loop._Run, "_stop_requested", lambda self: self.step == 2)  # as SIGTERM in step 2 does
    with pytest.raises(Terminated):
        run_finetune(recipe(tmp_path / "cut"), store=road["store"])
    monkeypatch.undo()
    run_finetune(recipe(tmp_path / "cut"), store=road["store"])
    assert same(*(load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut")))


def test_what_was_learned_of_noise_levels_outlives_a_stop(road, tmp_path, monkeypatch):
    """A run that draws its noise levels by importance is cut and resumed by a process that has learned nothing yet."""

    def task(name, learned):
        values = {"output_dir": str(tmp_path / name), "steps": 4, "save_every": 2, "eval_every": 0, "tracker": "none"}
        values = {**values, "model.loss_type": "vb", "model.full_mask_fraction": 0.0}
        recipe = load_recipe("pretrain", road["config"], values)
        task = PretrainTask(recipe, road["vqvae"], road["store"], None)
        if learned:
            steps = len(task.scheduler)
            task.scheduler.update_importance(torch.arange(steps).repeat(11), torch.linspace(0, 50, steps).repeat(11))
        return task, recipe

    whole, recipe = task("whole", True)
    before = whole.scheduler.state_dict()
    train(whole, recipe)
    assert whole.scheduler.Lt_count.sum() == before["Lt_count"].sum() + 4 * 8
    from hf_vpdd.training import loop

    monkeypatch.setattr(loop._Run, "_stop_requested", lambda self: self.step == 2)  # as SIGTERM in step 2 does
    with pytest.raises(Terminated):
        train(*task("cut", True))
    monkeypatch.undo()
    again, recipe = task("cut", False)
    assert again.scheduler.Lt_count.sum() == 0
    train(again, recipe)
    assert same(again.scheduler.state_dict(), whole.scheduler.state_dict())
    assert same(again.model.state_dict(), whole.model.state_dict())


def test_a_policy_can_be_fine_tuned_further_with_its_own_bins(road):
    folder = finetune(road, "further", init_from=str(road["finetune"]), demo_draw=1)
    before, after = (VPDDProcessor.from_pretrained(f) for f in (road["finetune"], folder))
    assert after.action_bins == before.action_bins
    shorter = finetune(road, "shorter plans", init_from=str(road["finetune"]), demo_draw=1, execute=2)
    assert VPDDProcessor.from_pretrained(shorter).execute == 2
    wild = replace(road["store"], action=3 * road["store"].action)  # labels that these bins cannot express
    recipe = load_recipe("finetune", road["config"], {"init_from": str(road["finetune"])}, output_dir="unused")
    with pytest.raises(InputError, match=r"does not fit [\s\S]*mean model"):
        run_finetune(recipe, store=wild)


def test_bad_input_is_named(road, tmp_path):
    config, store = road["config"], road["store"]
    silent = write_dataset(tmp_path / "silent", episodes_per_task=2, actions=False)
    with pytest.raises(InputError, match="no actions|has none"):
        run_finetune(load_recipe("finetune", config, root=str(silent), output_dir=str(tmp_path / "a")))
    assert not (tmp_path / "a").exists()
    with pytest.raises(InputError, match="holds no model"):
        run_pretrain(load_recipe("pretrain", config, init_from=str(tmp_path / "nowhere")), store=store)
    with pytest.raises(InputError, match="type 'vpdd_vqvae', finetune starts from one of type 'vpdd'"):
        run_finetune(load_recipe("finetune", config, init_from=str(road["vqvae"])), store=store)
    with pytest.raises(InputError, match="3 training episodes; draw 1 of 2 needs 4"):
        run_finetune(load_recipe("finetune", config, episodes_per_task=2, demo_draw=1), store=store)
    with pytest.raises(InputError, match="image"):
        run_vqvae(load_recipe("vqvae", config, image_size=64), store=store)
    with pytest.raises(InputError, match="do not fit"):
        run_finetune(
            load_recipe("finetune", config, {"model.trunk_layers": 2, "output_dir": str(tmp_path / "b")}), store=store
        )
    with pytest.raises(InputError, match="matches no layer"):
        finetune(road, "wrong targets", lora=True, lora_target_modules="nothing")
    with pytest.raises(InputError, match="different run.*seed: 0 there, 1 now"):
        run_finetune(load_recipe("finetune", config, seed=1), store=store)
    with pytest.raises(InputError, match="codes were given"):
        run_pretrain(load_recipe("pretrain", config), store=store, codes=np.zeros((3, 1, 4, 4), np.uint16))


def test_script_runs_as_its_docstring_says(road, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(road["config"]))
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--cpu",
        "training/train_vqvae.py",
        "--config",
        str(path),
    ]
    command += ["--output_dir", str(tmp_path / "out"), "--steps", "2", "--tracker", "none"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_episodes_are_chosen_per_task(road):
    store = road["store"]
    data = DataArguments(root=["x"], val_episodes_per_task=1, episodes_per_task=2)
    chosen, held_out = choose_episodes(store, data)
    assert sorted(chosen) == [0, 1, 2, 3] and sorted(held_out) == [6, 7]
    chosen, held_out = choose_episodes(store, replace(data, tasks=["drawer-close-v3"], episodes_per_task=None))
    assert chosen == [1, 3, 5] and held_out == [7]
    assert choose_episodes(store, replace(data, tasks=[TASKS[1]]))[0] == [1, 3]
    with pytest.raises(InputError, match="not in the dataset"):
        choose_episodes(store, replace(data, tasks=["window-open-v3"]))
    with pytest.raises(InputError, match="holds out"):
        choose_episodes(store, replace(data, val_episodes_per_task=4))


def test_pixels_that_tell_something_weigh_more(road):
    store, options = road["store"], load_recipe("vqvae", road["config"]).options
    positions = np.array([int(store.episode_from[0]) + 3])
    pixels = torch.from_numpy(store.frames[positions]).permute(0, 3, 1, 2)[:, None].float() / 255 - 0.5

    def weights(mode):
        maker = PixelWeights(store, replace(options, pixel_weighting=mode))
        return maker(pixels, maker.rows(positions))[0, 0, 0]

    moving, standing, background = (slice(9, 13), slice(5, 14)), (27, 5), (2, 30)
    by_time, by_task = weights("variance"), weights("deviation")
    assert by_time[moving].mean() > 3 * by_time[background]
    assert by_time[standing] < 1.1 * by_time[background] + 0.1  # still in its episode: not seen
    assert by_task[standing] > 3 * by_task[background]  # but elsewhere in other episodes
    assert PixelWeights(store, replace(options, pixel_weighting="none"))(pixels, None) is None
