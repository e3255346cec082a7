"""GR-1's recipes: the numbers of the paper, and with the sizes cut down they run."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from hf_vpdd import GR1Config, RobotPolicy
from hf_vpdd.data import LeRobotWriter
from hf_vpdd.modeling.gr1.towers import GR1ImageTower
from hf_vpdd.modeling.vpdd.instruction_tokenizer import train_tokenizer
from hf_vpdd.training import load_recipe, run_gr1_finetune, run_gr1_pretrain
from hf_vpdd.training.arguments import build_config

from .gr1_data import gr1_experiment
from .small_data import SIZE, TASKS, write_dataset


RECIPES = Path(__file__).resolve().parents[2] / "recipes"


@pytest.fixture(scope="module")
def paper() -> dict:
    return yaml.safe_load((RECIPES / "gr1_paper.yaml").read_text(encoding="utf-8"))


def test_the_network_is_the_official_one(paper):
    section = load_recipe("gr1_finetune", paper).model
    assert build_config("gr1_finetune", section).to_dict() == GR1Config().to_dict()
    written = {key for key in GR1Config().to_dict() if key.startswith(("trunk", "resampler", "decoder", "num_lat"))}
    assert written <= set(section)


def test_the_optimiser_is_the_papers(paper):
    table = (("gr1_pretrain", 1024, 3.6e-4, 50, 5), ("gr1_finetune", 512, 1e-3, 20, 1))
    for stage, batch, rate, epochs, warm in table:
        recipe = load_recipe(stage, paper)
        train = recipe.train
        assert (32 * train.batch_size, train.learning_rate, train.schedule) == (batch, rate, "cosine")
        assert train.warmup / train.steps == pytest.approx(warm / epochs)
        assert (train.weight_decay, train.betas, train.clip) == (0, (0.9, 0.999), 1)
    assert load_recipe("gr1_pretrain", paper).train.steps == pytest.approx(50 * 800_000 / 1024, rel=0.01)
    assert load_recipe("gr1_pretrain", paper).options.predict_ahead == 1
    assert load_recipe("gr1_finetune", paper).options.predict_ahead == 3


def test_the_papers_recipe_runs_with_small_sizes(paper, tmp_path):
    """MAE's file, CLIP's folder, Ego4D's clips and CALVIN's numbers, all stood in for."""
    tokenizer = train_tokenizer(TASKS, 300, max_length=16)
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"max_position_embeddings": 16, "projection_dim": 24, "hidden_act": "quick_gelu"}
    clip = CLIPTextConfig(vocab_size=len(tokenizer), **sizes, **ids)
    CLIPTextModelWithProjection(clip).save_pretrained(tmp_path / "clip")
    tokenizer.save_pretrained(tmp_path / "clip")
    small = gr1_experiment(tmp_path, tmp_path)["model"]
    tower = GR1ImageTower(GR1Config(vision_config=small["vision_config"]).vision_config)
    torch.save({"model": as_mae(tower)}, tmp_path / "mae.pth")
    write_dataset(tmp_path / "ego4d", 2, actions=False, state=False, cameras=("ego",), length=12, fps=30)
    write_calvin(tmp_path / "calvin")

    recipe = copy.deepcopy(paper)
    recipe["output_dir"] = str(tmp_path / "out")
    recipe["data"] |= {"image_size": SIZE}
    recipe["train"] |= {"mixed_precision": "no", "save_every": 0, "tracker": "none", "progress": False}
    recipe["model"] |= {k: v for k, v in small.items() if k not in ("text_config", "chunk_size")}
    recipe["model"] |= {"binary_gripper_state": True, "binary_gripper_action": True}
    for stage, root in (("gr1_pretrain", "ego4d"), ("gr1_finetune", "calvin")):
        recipe[stage]["data"]["root"] = [str(tmp_path / root)]
        recipe[stage]["train"] |= {"steps": 2, "warmup": 1, "batch_size": 3}
    recipe["gr1_pretrain"] |= {"image_model": str(tmp_path / "mae.pth"), "text_model": str(tmp_path / "clip")}
    recipe["gr1_pretrain"]["max_instruction_length"] = 16
    run_gr1_pretrain(load_recipe("gr1_pretrain", recipe))
    folder = run_gr1_finetune(load_recipe("gr1_finetune", recipe))

    policy = RobotPolicy.from_pretrained(folder, device="cpu")
    assert policy.processor.normalization == "raw" and policy.model.config.freeze_image_model
    ours = policy.model.model.image_model.state_dict()
    assert all(torch.equal(ours[name], value) for name, value in tower.state_dict().items())
    rng = np.random.default_rng(0)
    images = {camera: rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8) for camera in ("rgb_static", "rgb_gripper")}
    obs = {"images": images, "state": np.array([0, 0, 0, 0, 0, 0, -1.0]), "instruction": TASKS[0]}
    assert policy.select_action(obs)[6] in (-1, 1)


def as_mae(tower: GR1ImageTower) -> dict[str, torch.Tensor]:
    """The tower under the names of MAE's own file."""
    from hf_vpdd.conversion.gr1 import IMAGE_TOWER
    from hf_vpdd.conversion.gr1_names import expand, mae_names

    ours = {IMAGE_TOWER + name: value for name, value in tower.state_dict().items()}
    official = {}
    for theirs, name in mae_names(GR1Config(vision_config=tower.config.to_dict())).items():
        official[theirs] = torch.cat([ours[one] for one in expand(name)])
    return official


def write_calvin(root: Path) -> None:
    rng = np.random.default_rng(0)
    writer = LeRobotWriter(root, fps=30, robot_type="panda")
    for episode in range(4):
        gripper = rng.choice([-1.0, 1.0], (14, 1))
        pose = rng.normal(size=(14, 6)).clip(-1, 1)
        writer.add_episode(
            {
                "observation.images.rgb_static": rng.integers(0, 256, (14, SIZE, SIZE, 3), np.uint8),
                "observation.images.rgb_gripper": rng.integers(0, 256, (14, SIZE, SIZE, 3), np.uint8),
                "observation.state": np.concatenate((pose, gripper), 1).astype(np.float32),
                "action": np.concatenate((pose, np.roll(gripper, -1)), 1).astype(np.float32),
            },
            TASKS[episode % 2],
        )
    writer.finalize()
