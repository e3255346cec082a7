"""A GR-1 folder through every way in: Auto classes, controller, pipeline, Hub; and the official control trace."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoProcessor, pipeline

from hf_vpdd import GR1ForRobotPolicy, GR1ForVideoPrediction, GR1Processor, RobotPolicy, save_policy
from hf_vpdd.errors import InputError
from hf_vpdd.modeling.vpdd.instruction_tokenizer import train_tokenizer
from tests.fakehub import FakeHub
from tests.modeling.official_gr1 import CAMERAS as OFFICIAL_CAMERAS
from tests.modeling.official_gr1 import Reference
from tests.pipelines.tiny_gr1 import CAMERAS, gr1_episode, tiny_gr1_policy
from tests.pipelines.tiny_policy import SENTENCES


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_policy(tmp_path_factory.mktemp("gr1") / "policy", *tiny_gr1_policy(chunk_size=2))


def test_every_way_gives_the_same_action(folder):
    files = {"README.md", "config.json", "model.safetensors", "processor_config.json", "tokenizer.json"}
    assert {path.name for path in folder.iterdir()} == files | {"tokenizer_config.json", "hf_vpdd_auto.py"}
    model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    assert type(model) is GR1ForRobotPolicy and type(processor) is GR1Processor
    obs = gr1_episode(1)[0]
    plan = model.sample_actions(**processor.process_observations([obs]))
    want = processor.post_process_actions(plan.actions)[0].numpy()
    assert want.shape == (2, 7) and np.isin(want[:, 6], (-1, 1)).all()
    robot = pipeline("robot-policy", model=str(folder), device="cpu")
    assert np.array_equal(robot(obs)["actions"], want)
    video = robot(obs, return_video=True)["video"]
    assert video.shape == (1, 16, 32, 3) and video.dtype == np.uint8
    policy = RobotPolicy.from_pretrained(folder, device="cpu")
    assert np.array_equal(policy.predict(obs).actions[0], want)
    assert np.array_equal(policy.select_action(obs), want[0])


def test_the_pipeline_takes_windows(folder):
    robot = pipeline("robot-policy", model=str(folder), device="cpu")
    episode = gr1_episode(3)
    window = {
        "images": {camera: [obs["images"][camera] for obs in episode] for camera in CAMERAS},
        "state": np.stack([obs["state"] for obs in episode]),
        "instruction": episode[0]["instruction"],
    }
    policy = RobotPolicy(robot.model, robot.processor, execute=1)
    for obs in episode:
        action = policy.select_action(obs)
    both = robot([window, episode[0]])
    assert np.abs(both[0]["actions"][0] - action).max() <= 2e-6
    with pytest.raises(InputError, match="unknown camera 'left'"):
        robot({**window, "images": {**window["images"], "left": window["images"]["rgb_static"]}})


def test_a_sharded_folder_in_half_precision_serves_the_pipeline(folder, tmp_path):
    """As official weights would be put on the Hub: bfloat16, several files."""
    obs = gr1_episode(1)[0]
    want = pipeline("robot-policy", model=str(folder), device="cpu")(obs)["actions"]
    model, processor = AutoModel.from_pretrained(folder, dtype=torch.bfloat16), AutoProcessor.from_pretrained(folder)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    processor.save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    robot = pipeline("robot-policy", model=str(tmp_path), device="cpu")
    assert robot.model.dtype == torch.bfloat16 and type(robot.model) is GR1ForRobotPolicy
    got = robot(obs)["actions"]
    assert got.dtype == np.float32 and np.abs(got - want)[:, :6].max() <= 0.05 * np.abs(want[:, :6]).max()
    assert np.abs(want[:, :6]).max() > 0.1  # or the bound says nothing


@pytest.mark.parametrize(
    "options",
    [
        {"num_views": 1, "binary_gripper_state": False, "binary_gripper_action": False},
        {"num_views": 2, "foresight_attention": True, "chunk_size": 3, "normalize_patches": False},
        {"state_dim": 0, "num_views": 1},
    ],
)
def test_options_survive_the_folder(options, tmp_path):
    model, processor = tiny_gr1_policy(**options)
    episode = gr1_episode(3, cameras=CAMERAS[: options["num_views"]])
    folder = save_policy(tmp_path / "policy", model, processor)
    loaded = RobotPolicy.from_pretrained(folder, device="cpu", execute=1)
    assert {name: getattr(loaded.model.config, name) for name in options} == options
    policy = RobotPolicy(model, processor, execute=1)
    for obs in episode:
        assert np.array_equal(loaded.select_action(obs), policy.select_action(obs))


def test_a_video_model_is_no_policy(tmp_path):
    model, processor = tiny_gr1_policy()
    save_policy(tmp_path / "video", GR1ForVideoPrediction(model.config), processor)
    with pytest.raises(InputError, match="holds a GR1ForVideoPrediction"):
        RobotPolicy.from_pretrained(tmp_path / "video")


def test_strangers_are_refused():
    with pytest.raises(InputError, match="disagree about the chunk_size"):
        RobotPolicy(tiny_gr1_policy(chunk_size=2)[0], tiny_gr1_policy()[1])
    with pytest.raises(InputError, match="disagree about the number of cameras"):
        RobotPolicy(tiny_gr1_policy(num_views=1)[0], tiny_gr1_policy()[1])
    model, processor = tiny_gr1_policy()
    processor.image_processor.size = {"height": 24, "width": 24}
    with pytest.raises(InputError, match="disagree about the image size: 24 and 16"):
        RobotPolicy(model, processor)


@pytest.mark.parametrize("name, thinned", [("gr1_tiny", True), ("gr1_full", False)])
def test_the_official_control_trace(name, thinned, monkeypatch):
    """Warm-up, full window and sliding, through preprocessing, caches and thresholds. Full size: where the golden data
    is."""
    reference = Reference(name, thinned)
    model = reference.network()
    words = reference["token_ids"].long()
    processor = GR1Processor(
        tokenizer=train_tokenizer(SENTENCES, 300), history_frames=model.config.history_frames,
        max_instruction_length=words.shape[1],
    )  # fmt: skip
    official = {"input_ids": words[:1], "attention_mask": torch.ones_like(words[:1])}
    monkeypatch.setattr(processor, "tokenize_instructions", lambda sentences: official)
    policy = RobotPolicy(model, processor)
    images = {}
    for camera, times in OFFICIAL_CAMERAS:
        small = reference[f"window/{camera}_lowres"]
        images[camera] = small.repeat_interleave(times, 1).repeat_interleave(times, 2).numpy()
    arm, gripper = reference["window/arm"].numpy(), reference["window/gripper"].numpy()
    actions = [
        policy.select_action({
            "images": dict(zip(processor.cameras, (images["static"][step], images["wrist"][step]))),
            "state": np.concatenate((arm[step], gripper[step : step + 1].astype(np.float32))),
            "instruction": "the first",
        })
        for step in range(len(arm))
    ]  # fmt: skip
    want = reference["trace/actions"].numpy()
    assert np.abs(np.stack(actions) - want).max() <= 1e-4 and np.array_equal(np.stack(actions)[:, 6], want[:, 6])


HUB = """
import json, sys
import numpy as np
import hf_vpdd
from hf_vpdd import RobotPolicy
from transformers import AutoModel, AutoProcessor, pipeline
pipeline("robot-policy", model=sys.argv[1], device="cpu").push_to_hub("me/gr1")
AutoModel.from_pretrained(sys.argv[1]).push_to_hub("me/parts")
AutoProcessor.from_pretrained(sys.argv[1]).push_to_hub("me/parts")
video = hf_vpdd.GR1ForVideoPrediction.from_pretrained(sys.argv[1])
video.push_to_hub("me/video")
state = hf_vpdd.GR1ForVideoPrediction.from_pretrained("me/video").state_dict()
assert all((state.pop(name) == tensor).all() for name, tensor in video.state_dict().items()) and not state
data = np.load(sys.argv[2])
obs = {"images": {c: data[c] for c in ("rgb_static", "rgb_gripper")}, "state": data["state"],
       "instruction": str(data["instruction"])}
answers = [RobotPolicy.from_pretrained(name, device="cpu").predict(obs).actions[0].tolist()
           for name in (sys.argv[1], "me/gr1", "me/parts")]
print("ANSWERS " + json.dumps(answers))
"""


def test_to_the_hub_and_back(tmp_path):
    folder = save_policy(tmp_path / "policy", *tiny_gr1_policy())
    obs = gr1_episode(1)[0]
    np.savez(tmp_path / "obs.npz", **obs["images"], state=obs["state"], instruction=obs["instruction"])
    with FakeHub() as hub:
        source = Path(__file__).parents[2] / "src"
        environment = {
            **os.environ, "PYTHONPATH": str(source), "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1",
            "HF_TOKEN": "hf_fake", "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1", "CUDA_VISIBLE_DEVICES": "",
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", HUB, str(folder), str(tmp_path / "obs.npz")], env=environment, capture_output=True,
            text=True, timeout=280,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
    answers = json.loads(done.stdout.split("ANSWERS ")[1])
    assert answers[0] == answers[1] == answers[2]
