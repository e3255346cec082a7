"""A V-PTR folder through every way in: Auto classes, controller, pipeline, Hub."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoProcessor, pipeline

from hf_vpdd import (
    RobotPolicy,
    ValueRanker,
    VPTRForRobotPolicy,
    VPTRForValuePrediction,
    VPTRModel,
    VPTRProcessor,
    save_policy,
)
from hf_vpdd.errors import InputError
from tests.fakehub import FakeHub
from tests.pipelines.tiny_policy import SENTENCES, observation
from tests.pipelines.tiny_vptr import tiny_value_model, tiny_vptr_policy


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_policy(tmp_path_factory.mktemp("vptr") / "policy", *tiny_vptr_policy())


def test_every_way_gives_the_same_action(folder):
    files = ["README.md", "config.json", "hf_vpdd_auto.py", "model.safetensors", "processor_config.json"]
    assert sorted(path.name for path in folder.iterdir()) == files
    model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    assert type(model) is VPTRForRobotPolicy and type(processor) is VPTRProcessor
    source, _ = tiny_vptr_policy()
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), source.state_dict().values()))
    obs = observation(1)
    plan = model.sample_actions(**processor.process_observations([obs]))
    want = processor.post_process_actions(plan.actions)[0].numpy()
    assert want.shape == (1, 4) and np.abs(want).max() <= 1
    assert np.array_equal(pipeline("robot-policy", model=str(folder), device="cpu")(obs)["actions"], want)
    policy = RobotPolicy.from_pretrained(folder, device="cpu")
    assert np.array_equal(policy.predict(obs).actions[0], want)
    policy.reset()
    assert np.allclose(policy.select_action([obs, observation(2)])[0], want[0], atol=1e-5)  # another batch


def test_draws_and_seeds(folder):
    hot = RobotPolicy.from_pretrained(folder, device="cpu", temperature=1.0, seed=3)
    first, second = hot.predict(observation()).actions, hot.predict(observation()).actions
    assert not np.array_equal(first, second)
    hot.seed(3)
    assert np.array_equal(hot.predict(observation()).actions, first)
    batch = [observation(i) for i in range(3)]
    generators = [torch.Generator().manual_seed(i) for i in range(3)]
    together = hot.predict(batch, generator=generators).actions
    alone = hot.predict(batch[2], generator=[torch.Generator().manual_seed(2)]).actions
    assert np.allclose(together[2], alone[0], atol=1e-6)


@pytest.mark.parametrize(
    "options, says",
    [
        ({"num_inference_steps": 4}, "num_inference_steps: a vptr policy answers in one pass"),
        ({"sampler": "halton"}, "sampler: a vptr policy"),
        ({"guidance_scale": 2.0}, "guidance_scale: a vptr"),
        ({"real_time": True}, "real_time"),
        ({"execute": 2}, "execute"),
        ({"temperature": -1.0}, "temperature"),
    ],
)
def test_options_of_denoising_are_refused(folder, options, says):
    with pytest.raises(InputError, match=says):
        RobotPolicy.from_pretrained(folder, device="cpu", **options)


def test_no_video_and_no_strangers(folder):
    policy = RobotPolicy.from_pretrained(folder, device="cpu")
    with pytest.raises(InputError, match="imagines no future"):
        policy.predict(observation(), return_video=True)
    with pytest.raises(InputError, match="disagree about the condition"):
        RobotPolicy(policy.model, tiny_vptr_policy(condition="none")[1])
    policy.processor.tasks = policy.processor.tasks[::-1]
    with pytest.raises(InputError, match="disagree about the tasks"):
        RobotPolicy(policy.model, policy.processor)


def test_a_value_model_is_no_policy(tmp_path):
    model, processor = tiny_value_model()
    save_policy(tmp_path / "value", model, processor)
    again = VPTRForValuePrediction.from_pretrained(tmp_path / "value")
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values()))
    with pytest.raises(InputError, match="holds a VPTRForValuePrediction, which neither acts"):
        RobotPolicy.from_pretrained(tmp_path / "value")
    with pytest.raises(InputError, match="VPTRForValuePrediction predicts no actions"):
        pipeline("robot-policy", model=str(tmp_path / "value"), device="cpu")
    with pytest.raises(InputError, match="holds a VPTRForRobotPolicy, not a value model"):
        ValueRanker.from_pretrained(save_policy(tmp_path / "policy", *tiny_vptr_policy()))


@pytest.mark.parametrize("intent", ["image", "text"])
@pytest.mark.parametrize("shards", ["5GB", "4KB"])
def test_a_value_folder_loads_as_what_it_is(tmp_path, intent, shards):
    model, processor = tiny_value_model(seed=2, intent=intent)
    folder = save_policy(tmp_path / "value", model, processor, max_shard_size=shards)
    assert (folder / "model.safetensors").exists() == (shards == "5GB")
    assert (folder / "tokenizer.json").exists() == (intent == "text") and not (folder / "model_index.json").exists()
    again, its = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    assert type(again) is VPTRForValuePrediction and type(its) is VPTRProcessor
    assert its.to_dict() == processor.to_dict() and its.intent == intent
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values()))
    second = save_policy(tmp_path / "second", again, its)  # there and back once more
    frames = torch.randint(0, 256, (1, 3, 16, 16, 3), dtype=torch.uint8)
    goals = {SENTENCES[0]: observation(3)["images"]["corner2"]}
    want = ValueRanker(model, processor, goals).values(frames, SENTENCES[:1])
    for path in (folder, second):
        assert torch.equal(ValueRanker.from_pretrained(path, goals, "cpu").values(frames, SENTENCES[:1]), want)
    assert torch.isfinite(want).all() and len(want.unique()) == 3
    half = AutoModel.from_pretrained(folder, dtype=torch.bfloat16)
    assert torch.allclose(ValueRanker(half, its, goals).values(frames, SENTENCES[:1]), want, rtol=0.1, atol=0.05)


def test_the_encoder_alone_is_saved_and_loaded(tmp_path):
    model, _ = tiny_value_model(seed=2)
    model.model.save_pretrained(tmp_path / "encoder")
    again = AutoModel.from_pretrained(tmp_path / "encoder")
    assert type(again) is VPTRModel
    pixels = torch.rand(2, 3, 16, 16)
    assert torch.equal(again(pixels).features, model.encode(pixels))


def test_policies_start_from_a_value_model_of_the_same_encoder(tmp_path):
    value, processor = tiny_value_model(seed=5)
    save_policy(tmp_path / "value", value, processor)
    fresh, _ = tiny_vptr_policy()
    policy = VPTRForRobotPolicy.from_video_pretrained(tmp_path / "value", fresh.config)
    for name, tensor in value.model.encoder.state_dict().items():
        assert torch.equal(policy.actor_encoder.state_dict()[name], tensor)
        assert torch.equal(policy.critic_encoder.state_dict()[name], tensor)
    assert policy.actor_encoder is not policy.critic_encoder
    fresh.config.impala_widths = [4, 8]
    with pytest.raises(ValueError, match="does not fit"):
        VPTRForRobotPolicy.from_video_pretrained(tmp_path / "value", fresh.config)


HUB = """
import json, sys
import numpy as np
import hf_vpdd
import torch
from hf_vpdd import RobotPolicy, ValueRanker
from transformers import AutoModel, AutoProcessor, pipeline
pipeline("robot-policy", model=sys.argv[1], device="cpu").push_to_hub("me/vptr")
AutoModel.from_pretrained(sys.argv[1]).push_to_hub("me/parts")
AutoProcessor.from_pretrained(sys.argv[1]).push_to_hub("me/parts")
data = np.load(sys.argv[2])
obs = {"images": {"corner2": data["frame"]}, "state": data["state"], "instruction": str(data["instruction"])}
answers = [RobotPolicy.from_pretrained(name, device="cpu").predict(obs).actions[0].tolist()
           for name in (sys.argv[1], "me/vptr", "me/parts")]
AutoModel.from_pretrained(sys.argv[3]).push_to_hub("me/value")
AutoProcessor.from_pretrained(sys.argv[3]).push_to_hub("me/value")
frames = torch.from_numpy(data["frame"])[None, None]
answers += [ValueRanker.from_pretrained(name, device="cpu").values(frames, [obs["instruction"]]).tolist()
            for name in (sys.argv[3], "me/value")]
print("ANSWERS " + json.dumps(answers))
"""


def test_to_the_hub_and_back(tmp_path):
    """With a tokenizer, whose files go their own way (see the processor)."""
    folder = save_policy(tmp_path / "policy", *tiny_vptr_policy(condition="text"))
    assert (folder / "tokenizer.json").is_file()
    value = save_policy(tmp_path / "value", *tiny_value_model(intent="text"))
    obs = observation(1)
    np.savez(tmp_path / "obs.npz", frame=obs["images"]["corner2"], state=obs["state"], instruction=obs["instruction"])
    with FakeHub() as hub:
        source = Path(__file__).parents[2] / "src"
        environment = {
            **os.environ, "PYTHONPATH": str(source), "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1",
            "HF_TOKEN": "hf_fake", "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1", "CUDA_VISIBLE_DEVICES": "",
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", HUB, str(folder), str(tmp_path / "obs.npz"), str(value)], env=environment,
            capture_output=True, text=True, timeout=280,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
    answers = json.loads(done.stdout.split("ANSWERS ")[1])
    assert answers[0] == answers[1] == answers[2] and answers[3] == answers[4]
