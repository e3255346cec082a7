"""The recipes of the paper's size: their numbers are the official network's, and with the sizes cut down they run."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from hf_vpdd import InputError, RobotPolicy, VPDDConfig, VPDDForRobotPolicy, VPDDProcessor, VPDDVQVAEConfig
from hf_vpdd.data import LeRobotWriter
from hf_vpdd.modeling.vpdd.processing_vpdd import train_tokenizer
from hf_vpdd.training import load_recipe, run_finetune, run_pretrain, run_vqvae
from hf_vpdd.training.arguments import build_config

from .small_data import TASKS, write_dataset


RECIPES = Path(__file__).resolve().parents[2] / "recipes"
CAMERAS = ["front", "left_shoulder", "right_shoulder", "wrist"]
# Two of everything, as small as the architecture allows.
TINY_TOKENIZER = {
    "image_size": 32, "codebook_size": 32, "codebook_dim": 8, "hidden_size": 16, "num_res_layers": 1,
}  # fmt: skip
TINY_MODEL = {
    "predict_ahead": 6, "num_action_bins": 60, "hidden_size": 32, "trunk_layers": 1, "trunk_head_dim": 8,
    "trunk_ff_size": 32, "num_latents": 16, "trunk_position_rows": 160, "timestep_ff_size": 32, "history_ff_size": 16,
    "head_hidden_size": 32, "head_layers": 1, "head_ff_size": 32, "head_position_rows": 260,
}  # fmt: skip


def paper(name: str) -> dict:
    return yaml.safe_load((RECIPES / f"vpdd_{name}_paper.yaml").read_text(encoding="utf-8"))


def tiny(name: str, out: Path, renamed: dict[str, Path], model: dict) -> dict:
    """The recipe with small sizes, other folders, and two steps a stage."""
    text = (RECIPES / f"vpdd_{name}_paper.yaml").read_text(encoding="utf-8")
    for old, new in renamed.items():
        text = text.replace(old, str(new))
    recipe = yaml.safe_load(text)
    recipe["output_dir"] = str(out)
    recipe["data"] |= {"val_episodes_per_task": 1, "episodes_per_task": 1}
    recipe["train"] |= {
        "steps": 2, "save_every": 0, "eval_every": 0, "eval_samples": 4, "tracker": "none", "progress": False,
    }  # fmt: skip
    recipe["vqvae"]["model"] |= TINY_TOKENIZER
    recipe["model"] |= {**TINY_MODEL, **model}
    for stage in ("vqvae", "pretrain", "finetune"):
        recipe[stage]["train"] |= {"steps": 2, "batch_size": 4}
    recipe["pretrain"]["max_instruction_length"] = 16
    return recipe


def run(recipe: dict) -> dict[str, Path]:
    return {
        "vqvae": run_vqvae(load_recipe("vqvae", recipe)),
        "pretrain": run_pretrain(load_recipe("pretrain", recipe)),
        "finetune": run_finetune(load_recipe("finetune", recipe)),
    }


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """What stands for CLIP's text tower: one with random weights and a tokenizer of its own."""
    folder = tmp_path_factory.mktemp("clip")
    tokenizer = train_tokenizer(TASKS, 300, max_length=16)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    sizes |= {"max_position_embeddings": 16, "projection_dim": 24, "hidden_act": "quick_gelu"}
    config = CLIPTextConfig(vocab_size=len(tokenizer), **sizes, **ids)
    torch.manual_seed(3)
    CLIPTextModelWithProjection(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def human(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("human")
    return write_dataset(root / "data", 2, actions=False, state=False, fps=30, cameras=("front",), size=64)


@pytest.mark.parametrize("name", ["metaworld", "rlbench"])
def test_the_numbers_are_those_of_the_official_network(name):
    preset = getattr(VPDDConfig, name)()
    recipe = load_recipe("pretrain", paper(name))
    tokenizer = load_recipe("vqvae", paper(name)).model
    assert {**VPDDVQVAEConfig().to_dict(), **tokenizer} == VPDDVQVAEConfig().to_dict()
    ours = build_config("pretrain", recipe.model, vqvae_config=tokenizer, text_config=preset.text_config.to_dict())
    assert ours.to_dict() == preset.to_dict()
    # and every field that makes the network is written down, not left to a default
    sizes = {key for key in preset.to_dict() if key.startswith(("trunk", "head_", "num_", "alpha", "history"))}
    other = {"metaworld": {"head_image_size", "head_image_channels", "head_patch_size", "num_views"}, "rlbench": set()}
    unused = {"head_keypoints", "head_action_groups", "head_view_order", "head_video_input"}
    assert sizes - set(recipe.model) <= unused | other[name]


@pytest.mark.parametrize("name, per_step, action_tokens", [("metaworld", (40, 100), 16), ("rlbench", (48, 20), 28)])
def test_the_optimiser_is_the_official_one(name, per_step, action_tokens):
    for stage, sequences in zip(("pretrain", "finetune"), per_step, strict=True):
        recipe = load_recipe(stage, paper(name))
        train = recipe.train
        assert train.batch_size * train.gradient_accumulation_steps == sequences
        assert (train.learning_rate, train.weight_decay, train.clip, train.schedule) == (2e-4, 0, 0, "constant")
        assert (train.ema_decay, train.ema_every, train.ema_start, train.warmup) == (0.995, 10, 2000, 0)
        assert recipe.model["chunk_size"] * recipe.model["action_dim"] == action_tokens
    assert load_recipe("finetune", paper(name)).options.trunk_lr_multiplier == 0


def test_metaworld_from_frames_of_the_simulator_to_a_policy(tmp_path, clip, human, monkeypatch):
    pytest.importorskip("metaworld")
    from hf_vpdd.data.recording import record

    monkeypatch.setattr("sys.argv", ["hf-vpdd"])  # workers then import no models, see `hf_vpdd.registration`
    robot = record(
        tmp_path / "robot", tasks="handle-press", episodes_per_task=2, image_size=32, noise=(0.0,), workers=1,
        progress=False,
    )  # fmt: skip
    renamed = {"data/mt50": robot, "data/human": human, "checkpoints/clip-rn50-text": clip}
    recipe = tiny("metaworld", tmp_path / "out", renamed, {})
    recipe["data"]["image_size"] = 32
    folders = run(recipe)
    check_tower(folders, clip)
    config = VPDDForRobotPolicy.from_pretrained(folders["finetune"]).config
    assert config.latent_shape == (1, 8, 8) and config.trunk == "perceiver" and config.action_head == "causal"
    assert check_frozen(folders)["train/video"] > 0  # reported, though nothing learns from it
    policy = RobotPolicy.from_pretrained(folders["finetune"])
    images = {"corner2": np.zeros((32, 32, 3), np.uint8)}
    assert policy.select_action({"images": images, "state": None, "instruction": TASKS[0]}).shape == (4,)


def poses(root: Path) -> Path:
    """Demonstrations in RLBench's terms: four views, poses of the end effector, joint velocities."""
    rng = np.random.default_rng(0)
    length = 14
    with LeRobotWriter(root, fps=20, robot_type="franka") as writer:
        for episode in range(4):
            pictures = rng.integers(0, 255, (len(CAMERAS), length, 48, 48, 3), np.uint8)
            position = rng.uniform([0, -0.3, 0.8], [0.5, 0.3, 1.2], (length, 3))
            quaternion = rng.normal(size=(length, 4))
            quaternion /= np.linalg.norm(quaternion, axis=1, keepdims=True)
            gripper = (np.arange(length) < 6).astype(float)[:, None]
            state = [gripper, rng.random((length, 2)), np.ones((length, 1))]
            speed = np.where(np.arange(length) == 9, 0.01, 0.5)[:, None].repeat(7, axis=1)
            columns = {f"observation.images.{camera}": film for camera, film in zip(CAMERAS, pictures)}
            columns["observation.state"] = np.concatenate(state, 1).astype(np.float32)
            columns["observation.joint_velocities"] = speed.astype(np.float32)
            columns["action"] = np.concatenate([position, quaternion, gripper], 1).astype(np.float32)
            writer.add_episode(columns, TASKS[episode % 2])
    return root


@pytest.fixture(scope="module")
def rlbench(tmp_path_factory, clip, human):
    """All three stages, on poses and keyframes."""
    root = tmp_path_factory.mktemp("rlbench")
    data = poses(root / "data")
    renamed = {"data/rlbench": data, "data/human": human, "checkpoints/clip-rn50-text": clip}
    recipe = tiny("rlbench", root / "out", renamed, {"head_image_size": 48, "head_image_channels": 8})
    recipe["data"]["image_size"] = 48
    return {"recipe": recipe, "root": root, "folders": run(recipe)}


def check_tower(folders: dict[str, Path], clip: Path) -> None:
    """The text tower is CLIP's in every stage."""
    official = load_file(clip / "model.safetensors")
    for stage in ("pretrain", "finetune"):
        ours = load_file(folders[stage] / "model.safetensors")
        for name, value in official.items():
            if "position_ids" not in name:
                assert torch.equal(ours[f"model.text_model.{name}"], value)


def check_frozen(folders: dict[str, Path]) -> dict[str, float]:
    """Pre-training moved the trunk, fine-tuning left it alone; the first line of fine-tuning's log."""
    before, after = (load_file(folders[stage] / "model.safetensors") for stage in ("pretrain", "finetune"))
    trunk = [name for name in before if name.startswith("model.")]
    assert trunk and all(torch.equal(before[name], after[name]) for name in trunk)
    return json.loads((folders["finetune"] / "metrics.jsonl").read_text().splitlines()[0])


def test_rlbench_four_cameras_keyframes_and_larger_frames_for_the_head(rlbench, clip):
    folders = rlbench["folders"]
    check_tower(folders, clip)
    assert np.isfinite(check_frozen(folders)["train/action"])
    processor = VPDDProcessor.from_pretrained(folders["finetune"])
    assert processor.cameras == CAMERAS and processor.image_size == 48 and processor.action_layout == "pose"
    model = VPDDForRobotPolicy.from_pretrained(folders["finetune"])
    assert model.config.num_views == 4 and model.config.latent_shape == (1, 8, 8)
    assert len(model.action_head.action_out) == 3 and model.action_head.video_proj[0].in_features == 4 * 32
    metrics = json.loads((folders["finetune"] / "training.json").read_text())["metrics"]
    assert set(metrics) == {"loss", "position_error", "rotation_error", "gripper_error"}
    policy = RobotPolicy.from_pretrained(folders["finetune"])
    images = {camera: np.zeros((48, 48, 3), np.uint8) for camera in CAMERAS}
    action = policy.select_action({"images": images, "state": np.ones(4, np.float32), "instruction": TASKS[0]})
    assert action.shape == (8,) and np.linalg.norm(action[3:7]) == pytest.approx(1, abs=1e-4)


def test_chunks_are_keyframes_and_bins_are_fitted_to_keyframes(rlbench):
    from hf_vpdd.training.stages.common import open_store
    from hf_vpdd.training.stages.finetune import FinetuneTask

    recipe = load_recipe("finetune", rlbench["recipe"])
    store = open_store(recipe)
    assert np.flatnonzero(store.keyframe[:14]).tolist() == [6, 9, 13]  # gripper, standstill, end
    task = FinetuneTask(recipe, rlbench["folders"]["pretrain"], store, None)
    assert task.num_samples == 2 * 13  # after the last frame there is nothing to do
    batch = task.batch(np.arange(13))  # of the first episode
    keyframes = torch.from_numpy(store.action[[6, 9, 13]])
    assert torch.equal(batch["action"][0, :3], keyframes) and batch["action_is_pad"][0].tolist() == [0, 0, 0, 1]
    assert torch.equal(batch["action"][8, :2], keyframes[1:]) and batch["action_is_pad"][8].tolist() == [0, 0, 1, 1]
    inputs = task.windows.inputs(batch, None)
    assert inputs["actions"].shape == (13, 4, 7) and inputs["pixel_values"].shape == (13, 4, 1, 3, 48, 48)
    decoded = task.processor.decode_actions(inputs["actions"])[0, 0]
    assert torch.allclose(decoded[:3], keyframes[0, :3], atol=1e-4)  # each keyframe's position has a bin of its own


def test_the_released_wiring_by_flag(rlbench, tmp_path):
    overrides = {"model.head_video_input": "history", "model.head_view_order": [3, 1, 2, 3]}
    folder = run_finetune(load_recipe("finetune", rlbench["recipe"], overrides, output_dir=str(tmp_path)))
    model = VPDDForRobotPolicy.from_pretrained(folder)
    assert model.action_head.video_proj[0].in_features == 4 * 8 and model.action_head.view_order == [3, 1, 2, 3]


def test_bad_input_is_named(rlbench, tmp_path):
    recipe, folders = rlbench["recipe"], rlbench["folders"]
    unmarked = write_dataset(tmp_path / "unmarked", 2, cameras=tuple(CAMERAS), size=64)
    values = {"data.root": [str(unmarked)], "output_dir": str(tmp_path / "out"), "data.image_size": 48}
    with pytest.raises(InputError, match="pose needs actions of 8 numbers.*have 4"):
        run_finetune(load_recipe("finetune", recipe, values))
    values |= {"action_layout": "vector", "model.head_action_groups": [3, 1], "model.action_dim": 4}
    with pytest.raises(InputError, match="does not say which frames are keyframes"):
        run_finetune(load_recipe("finetune", recipe, values))
    values = {"output_dir": str(tmp_path / "out"), "init_from": str(folders["vqvae"])}
    with pytest.raises(InputError, match="no CLIP text tower with a tokenizer at"):
        run_pretrain(load_recipe("pretrain", recipe, {**values, "text_model": str(tmp_path)}))
    with pytest.raises(InputError, match="reads at most 16 tokens"):
        run_pretrain(load_recipe("pretrain", recipe, {**values, "max_instruction_length": 20}))
    sized = copy.deepcopy(recipe)
    sized["model"]["text_config"] = {"hidden_size": 8}
    with pytest.raises(InputError, match="brings its own sizes"):
        run_pretrain(load_recipe("pretrain", sized, values))
