"""Folders of videos as they are, beside a robot's recordings, in the video stages of all three families."""

import json
from pathlib import Path

import pytest
import yaml

from hf_vpdd import InputError
from hf_vpdd.training import load_recipe, run_gr1_pretrain, run_pretrain, run_value_pretrain, run_vqvae
from hf_vpdd.training.stages.common import open_store

from ..data.video_files import even_times, write_video
from .gr1_data import gr1_experiment
from .small_data import experiment, write_dataset
from .vptr_data import vptr_experiment


QUICK = {"steps": 2, "save_every": 0, "eval_every": 0, "log_every": 1, "tracker": "none", "progress": False}
RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "human_video.yaml"


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    root = tmp_path_factory.mktemp("human")
    robot, human = write_dataset(root / "robot", 2, length=14), root / "human"
    texts = ["pour the tea", "open the door"]
    for number in range(4):
        write_video(human / f"{number}.webm", even_times(18, 30 if number % 2 else 15))
    rows = [{"file": f"{number}.webm", "text": texts[number // 2]} for number in range(4)]
    (human / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return {"robot": str(robot), "human": str(human), "out": root / "out"}


def mixed(config: dict, roots: dict) -> dict:
    """The recipe with the videos as a second root, 10 frames a second."""
    config["data"] |= {
        "root": [roots["robot"], roots["human"]],
        "camera": {roots["robot"]: "corner2", roots["human"]: "video"},
        "weights": [1, 1],
        "fps": {roots["human"]: 10},
        "val_episodes_per_task": 0,
    }
    config["train"] |= QUICK
    return config


def test_vpdd(roots):
    config = mixed(experiment(roots["robot"], roots["out"] / "vpdd"), roots)
    store = open_store(load_recipe("vqvae", config), video_only=True)
    assert store.episode_task[-4:] == ["pour the tea", "pour the tea", "open the door", "open the door"]
    # Of 1.2 s and 0.6 s, whatever rate they have.
    assert (store.episode_to - store.episode_from).tolist()[-4:] == [12, 6, 12, 6]
    run_vqvae(load_recipe("vqvae", config))
    folder = run_pretrain(load_recipe("pretrain", config))
    assert (folder / "model.safetensors").is_file()


def test_gr1(roots):
    config = mixed(gr1_experiment(roots["robot"], roots["out"] / "gr1"), roots)
    folder = run_gr1_pretrain(load_recipe("gr1_pretrain", config))
    assert (folder / "model.safetensors").is_file()


def test_vptr(roots):
    config = mixed(vptr_experiment(roots["robot"], roots["out"] / "vptr"), roots)
    folder = run_value_pretrain(load_recipe("value_pretrain", config))
    assert (folder / "model.safetensors").is_file()


def test_rates_in_recipes_and_on_the_command_line(roots):
    config = mixed(experiment(roots["robot"], roots["out"] / "rates"), roots)
    recipe = load_recipe("vqvae", config)
    assert (recipe.data.rate(roots["human"]), recipe.data.rate(roots["robot"])) == (10, None)
    assert load_recipe("vqvae", config, {"data.fps": "4"}).data.rate(roots["human"]) == 4
    with pytest.raises(InputError, match="data.fps names 'elsewhere'"):
        load_recipe("vqvae", config, {"data.fps": {"elsewhere": 3}})
    with pytest.raises(InputError, match="data.fps must be a number above 0"):
        load_recipe("vqvae", config, {"data.fps": -1})
    with pytest.raises(InputError, match="80 frames per second of its own, 10 were asked for"):
        open_store(load_recipe("vqvae", config, {"data.fps": 10}), video_only=True)


def test_the_recipe_of_the_paper_can_be_read():
    recipe = yaml.safe_load(RECIPE.read_text())
    for stage in ("vqvae", "pretrain"):
        data = load_recipe(stage, recipe).data
        assert [data.cameras(root) for root in data.root] == [["corner2"], ["video"], ["video"]]
        assert data.root[1:] == ["data/ego4d", "data/ssv2"] and data.rate("data/ssv2") == 12
