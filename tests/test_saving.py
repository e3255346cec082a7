import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hf_vpdd.errors import InputError
from hf_vpdd.policy import RobotPolicy
from hf_vpdd.saving import save_policy
from tests.fakehub import FakeHub
from tests.pipelines.tiny_policy import observation, tiny_policy


FILES = [
    "README.md",
    "config.json",
    "hf_vpdd_auto.py",
    "model.safetensors",
    "model_index.json",
    "processor_config.json",
    "scheduler_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
]

# What a user does in a new process, with nothing imported but the package: all five ways in, from the path in argv.
FRESH_PROCESS = """
import json, sys
import numpy as np, torch
import hf_vpdd
from hf_vpdd import RobotPolicy, VPDDPipeline
from transformers import AutoModel, AutoProcessor, pipeline

path, observation = sys.argv[1], np.load(sys.argv[2])
obs = {"images": {"corner2": observation["frame"]}, "state": observation["state"], "instruction": "press the button"}
greedy = {"temperature": 0.0, "video_temperature": 0.0, "num_inference_steps": 1}  # nothing left to chance

model, processor = AutoModel.from_pretrained(path), AutoProcessor.from_pretrained(path)
inputs = processor(obs["images"], obs["instruction"], obs["state"])
plan = model.sample_actions(**inputs, **greedy, action_bin_mask=processor.valid_bin_mask)
answers = {"auto": processor.post_process_actions(plan.actions)[0].tolist()}
answers["pipeline"] = pipeline("robot-policy", model=path, device="cpu")(obs, **greedy)["actions"].tolist()
pipe = VPDDPipeline.from_pretrained(path)
answers["diffusers"] = pipe(obs["images"], obs["instruction"], obs["state"], **greedy).actions[0].tolist()
answers["policy"] = RobotPolicy.from_pretrained(path, device="cpu", **greedy).predict(obs).actions[0].tolist()
answers["type"] = type(model).__name__
answers["scheduler"] = type(pipe.scheduler).__name__
print("ANSWERS " + json.dumps(answers))
"""

# The folder in argv goes to the Hub in three ways; then everything is loaded from there.
PUSH = """
import sys
import hf_vpdd
from hf_vpdd import VPDDForVideoPrediction, VPDDPipeline
from hf_vpdd.schedulers import HaltonScheduler
from transformers import AutoModel, AutoProcessor, pipeline

pipe = VPDDPipeline.from_pretrained(sys.argv[1])
pipe.scheduler = HaltonScheduler.from_config(pipe.scheduler.config)
pipe.push_to_hub("me/from-diffusers")
video = VPDDForVideoPrediction(pipe.model.config)
VPDDPipeline(model=video, scheduler=pipe.scheduler, processor=pipe.processor).push_to_hub("me/video-alone")
assert type(VPDDPipeline.from_pretrained("me/video-alone").model) is VPDDForVideoPrediction
pipeline("robot-policy", model=sys.argv[1], device="cpu").push_to_hub("me/from-pipeline")
AutoModel.from_pretrained(sys.argv[1]).push_to_hub("me/from-parts")
AutoProcessor.from_pretrained(sys.argv[1]).push_to_hub("me/from-parts")
sys.argv[1] = "me/from-diffusers"
"""


def _python(code: str, *arguments, **environment) -> str:
    paths = os.pathsep.join(p for p in (str(Path(__file__).parents[1] / "src"), os.environ.get("PYTHONPATH")) if p)
    result = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": "", **environment},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    return result.stdout


def _answers(stdout: str) -> dict:
    return json.loads(stdout.split("ANSWERS ")[1])


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A saved policy, an observation file, and the plan that this process makes of it."""
    folder = tmp_path_factory.mktemp("saved")
    model, processor = tiny_policy()
    save_policy(folder / "policy", model, processor)
    obs = {**observation(1), "instruction": "press the button"}
    np.savez(folder / "observation.npz", frame=obs["images"]["corner2"], state=obs["state"])
    plan = RobotPolicy(model, processor, temperature=0.0, video_temperature=0.0, num_inference_steps=1)
    plan = plan.predict(obs).actions[0]
    return folder / "policy", folder / "observation.npz", plan.tolist()


def test_one_folder_weights_once(saved):
    folder = saved[0]
    assert sorted(path.name for path in folder.iterdir()) == FILES
    weights = sum(p.numel() * p.element_size() for p in tiny_policy()[0].state_dict().values())
    assert (folder / "model.safetensors").stat().st_size < 1.3 * weights + 40_000
    assert not list(folder.parent.glob(".*"))  # nothing half-written stays beside it
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1  # weights are as readable as all the rest


def test_five_ways_into_the_same_folder_in_a_fresh_process(saved):
    folder, obs, plan = saved
    answers = _answers(_python(FRESH_PROCESS, folder, obs))
    assert answers.pop("type") == "VPDDForRobotPolicy" and answers.pop("scheduler") == "MaskAndReplaceScheduler"
    assert answers == dict.fromkeys(["auto", "pipeline", "diffusers", "policy"], plan)


def test_to_the_hub_and_back(saved, tmp_path):
    folder, obs, plan = saved
    with FakeHub() as hub:
        environment = {
            "HF_ENDPOINT": hub.url,
            "HF_HUB_DISABLE_XET": "1",
            "HF_TOKEN": "hf_fake",
            "HF_HOME": str(tmp_path),
            "HF_HUB_OFFLINE": "0",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }
        answers = _answers(_python(PUSH + FRESH_PROCESS, folder, obs, **environment))
        stored = {name: sorted(repo["files"]) for (_, name), repo in hub.hub.repos.items()}
        for name in ("me/from-diffusers", "me/from-pipeline", "me/video-alone"):
            assert [file for file in stored[name] if file != ".gitattributes"] == FILES, name
        assert {"config.json", "model.safetensors", "processor_config.json"} <= set(stored["me/from-parts"])
        assert answers.pop("type") == "VPDDForRobotPolicy"
        assert answers.pop("scheduler") == "HaltonScheduler"  # exchanged before it was pushed
        assert answers == dict.fromkeys(["auto", "pipeline", "diffusers", "policy"], plan)
        assert not [entry for entry in hub.hub.log if entry[0] == "UNHANDLED"]


def test_saving_again_replaces_and_leaves_the_rest(tmp_path):
    folder = tmp_path / "policy"
    old, processor = tiny_policy(seed=0)
    save_policy(folder, old, processor, card="---\nlicense: apache-2.0\n---\n# mine\n", max_shard_size="20KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    (folder / "notes.txt").write_text("mine")
    new, processor = tiny_policy(seed=1)
    save_policy(folder, new, processor)
    assert sorted(path.name for path in folder.iterdir()) == sorted([*FILES, "notes.txt"])
    assert (folder / "notes.txt").read_text() == "mine" and "# mine" in (folder / "README.md").read_text()
    loaded = RobotPolicy.from_pretrained(folder, device="cpu").model.state_dict()
    for name, tensor in new.state_dict().items():
        assert torch.equal(loaded[name], tensor), name


def test_a_save_that_dies_leaves_nothing_to_trust(tmp_path, monkeypatch):
    model, processor = tiny_policy()

    def disk_full(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr(processor, "save_pretrained", disk_full)
    with pytest.raises(OSError, match="No space"):
        save_policy(tmp_path / "policy", model, processor)
    assert not list(tmp_path.iterdir())


def test_bad_arguments_are_named(tmp_path):
    model, processor = tiny_policy()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        save_policy(tmp_path / "file", model, processor)
    with pytest.raises(InputError, match="processor: missing"):
        save_policy(tmp_path / "policy", model, None)


def test_the_card_without_a_card_is_valid_and_claims_nothing(saved):
    from huggingface_hub import ModelCard

    card = ModelCard.load(saved[0] / "README.md")
    assert card.data.pipeline_tag == "robotics" and card.data.library_name == "hf_vpdd"
    assert "No evaluation is recorded" in card.text
