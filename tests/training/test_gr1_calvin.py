"""GR-1 is trained on a CALVIN folder as it is: by the script, and its pictures beside other video."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from hf_vpdd import GR1ForVideoPrediction, InputError, RobotPolicy
from hf_vpdd.training import load_recipe, run_gr1_finetune, run_gr1_pretrain
from tests.data.calvin_folder import SENTENCES, write_calvin

from .gr1_data import gr1_experiment
from .small_data import SIZE, write_dataset


ROOT = Path(__file__).resolve().parents[2]
SIZES = {"rgb_static": SIZE, "rgb_gripper": 20}


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    """A mixture for stage 1: CALVIN's pictures and captions, and action-less video of another rate and camera."""
    root = tmp_path_factory.mktemp("gr1_calvin")
    data = write_calvin(root / "task_D_D", sizes=SIZES)
    video = write_dataset(root / "video", 2, actions=False, state=False, cameras=("ego",), length=12, fps=10)
    config = gr1_experiment(data, root / "out")
    config["data"] |= {"val_episodes_per_task": 0, "camera": ["rgb_static", "rgb_gripper"]}
    config["model"] |= {"chunk_size": 1, "binary_gripper_state": True, "binary_gripper_action": True}
    config["gr1_finetune"] |= {"normalization": "raw"}
    config["gr1_pretrain"]["data"] = {
        "root": [str(data), str(video)], "camera": {str(data): ["rgb_static", "rgb_gripper"], str(video): "ego"},
    }  # fmt: skip
    folder = run_gr1_pretrain(load_recipe("gr1_pretrain", config))
    assert GR1ForVideoPrediction.from_pretrained(folder).config.state_dim == 0
    return {"root": root, "data": data, "config": config}


def act(folder):
    policy = RobotPolicy.from_pretrained(folder, device="cpu")
    assert policy.processor.normalization == "raw" and policy.processor.cameras == ["rgb_static", "rgb_gripper"]
    rng = np.random.default_rng(0)
    images = {"rgb_static": rng.integers(0, 256, (200, 200, 3), np.uint8)}
    images["rgb_gripper"] = rng.integers(0, 256, (84, 84, 3), np.uint8)
    state = np.array([0.1, 0, 0.5, 3.1, 0, 1.6, -1.0], np.float32)
    action = policy.select_action({"images": images, "state": state, "instruction": SENTENCES[0]})
    assert action.shape == (7,) and action[6] in (-1, 1)


def test_the_script_trains_on_a_calvin_folder(road):
    config = copy.deepcopy(road["config"])
    config["data"]["root"] = ["somewhere/else"]
    (road["root"] / "recipe.yaml").write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]
    command += ["training/finetune.py", "--model", "gr1", "--config", str(road["root"] / "recipe.yaml")]
    command += ["--data_dir", str(road["data"]), "--init_from", str(road["root"] / "out" / "gr1_pretrain")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    act(road["root"] / "out" / "gr1_finetune")


def test_the_recipe_is_the_papers_and_runs_with_small_sizes(road, tmp_path):
    recipe = yaml.safe_load((ROOT / "recipes" / "gr1_calvin.yaml").read_text(encoding="utf-8"))
    paper = yaml.safe_load((ROOT / "recipes" / "gr1_paper.yaml").read_text(encoding="utf-8"))
    ours, theirs = (load_recipe("gr1_finetune", one) for one in (recipe, paper))
    assert ours.train == theirs.train and ours.options == theirs.options
    assert (ours.data.image_size, ours.data.camera) == (theirs.data.image_size, theirs.data.camera)
    small = {"steps": 2, "warmup": 1, "batch_size": 3, "mixed_precision": "no", "save_every": 0, "num_threads": 1}
    small |= {"tracker": "none", "progress": False, "image_size": SIZE, "random_shift": 1, "root": [str(road["data"])]}
    small |= {"init_from": str(road["root"] / "out" / "gr1_pretrain"), "output_dir": str(tmp_path / "policy")}
    act(run_gr1_finetune(load_recipe("gr1_finetune", recipe, small)))


def test_a_broken_frame_stops_it_with_the_files_name(road, tmp_path):
    data = write_calvin(tmp_path / "task_D_D", sizes=SIZES)
    (data / "training" / "episode_0000065.npz").write_bytes(b"broken")
    with pytest.raises(InputError, match="episode_0000065.npz cannot be read: expected an npz archive"):
        run_gr1_finetune(load_recipe("gr1_finetune", road["config"], {"root": [str(data)]}))
