import numpy as np
import pytest
import torch
from transformers import AutoProcessor, pipeline

import hf_vpdd  # noqa: F401  registers the task
from hf_vpdd.errors import InputError
from hf_vpdd.pipelines import RobotPolicyPipeline
from hf_vpdd.pipelines.robot_policy import ShippedModel
from hf_vpdd.policy import RobotPolicy
from hf_vpdd.saving import save_policy
from tests.pipelines.tiny_policy import observation, tiny_policy


# one step from all-masked to clean, likeliest tokens: nothing is left to chance
GREEDY = {"temperature": 0.0, "video_temperature": 0.0, "num_inference_steps": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_policy(tmp_path_factory.mktemp("saved") / "policy", *tiny_policy())


@pytest.fixture(scope="module")
def policy(folder):
    return pipeline("robot-policy", model=str(folder), device="cpu")


def test_an_observation_gives_a_chunk(policy):
    assert type(policy) is RobotPolicyPipeline
    output = policy(observation())
    assert set(output) == {"actions"}
    assert output["actions"].shape == (3, 4) and output["actions"].dtype == np.float32
    video = policy(observation(), return_video=True)["video"]
    assert video.shape == (1, 16, 16, 3) and video.dtype == np.uint8


def test_agrees_with_the_controller(policy):
    controller = RobotPolicy(policy.model, policy.processor, **GREEDY)
    want = controller.predict(observation(1), return_video=True)
    got = policy(observation(1), return_video=True, **GREEDY)
    assert np.array_equal(got["actions"], want.actions[0]) and np.array_equal(got["video"], want.video[0])


def test_samplers_are_options(policy):
    options = {"sampler": "halton", "action_steps": 2, "num_inference_steps": 3, "guidance_scale": 1.0}
    controller = RobotPolicy(policy.model, policy.processor, **options, seed=4)
    want = controller.predict(observation(1), return_video=True)
    got = policy(observation(1), return_video=True, seed=4, **options)
    assert np.array_equal(got["actions"], want.actions[0]) and np.array_equal(got["video"], want.video[0])
    with pytest.raises(InputError, match="sampler: 'x' is none of"):
        policy(observation(1), sampler="x")


def test_single_list_batches_and_generator_agree(policy):
    batch = [observation(i) for i in range(5)]
    alone = [policy(obs, return_video=True, **GREEDY) for obs in batch]
    assert len(np.unique([plan["actions"].ravel() for plan in alone], axis=0)) > 1
    for many in (
        policy(batch, return_video=True, **GREEDY),
        policy(batch, batch_size=2, return_video=True, **GREEDY),
        list(policy((obs for obs in batch), return_video=True, **GREEDY)),
    ):
        assert len(many) == 5
        for got, want in zip(many, alone):
            assert np.array_equal(got["actions"], want["actions"]) and np.array_equal(got["video"], want["video"])


def test_seeds_and_generators(policy):
    hot = {"temperature": 2.0, "num_inference_steps": 2}
    draws = [policy(observation(), seed=i, **hot)["actions"] for i in (1, 1, 2)]
    assert np.array_equal(draws[0], draws[1]) and not np.array_equal(draws[0], draws[2])
    # a seed belongs to the call: the same observation twice in one list gives the same plan twice
    twice = policy([observation(), observation()], seed=1, **hot)
    assert np.array_equal(twice[0]["actions"], draws[0]) and np.array_equal(twice[1]["actions"], draws[0])
    generator = torch.Generator().manual_seed(1)
    stream = [policy(observation(), generator=generator, **hot)["actions"] for _ in range(2)]
    assert np.array_equal(stream[0], draws[0]) and not np.array_equal(stream[1], draws[0])
    with pytest.raises(InputError, match="give one of them"):
        policy(observation(), seed=1, generator=generator)


def test_options_may_be_set_once(folder):
    policy = pipeline(
        "robot-policy", model=str(folder), device="cpu", return_video=True, seed=0, num_inference_steps=2
    )
    assert "video" in policy(observation())
    assert "video" not in policy(observation(), return_video=False)


def test_bad_input_is_named(policy, folder):
    with pytest.raises(InputError, match="unknown option 'num_infrence_steps'"):
        policy(observation(), num_infrence_steps=3)
    with pytest.raises(InputError, match="unknown option 'return_vidoe'"):
        pipeline("robot-policy", model=str(folder), return_vidoe=True)
    with pytest.raises(InputError, match="camera 'corner2' is missing"):
        policy({**observation(), "images": {"corner": observation()["images"]["corner2"]}})
    with pytest.raises(InputError, match="expected a sentence"):
        policy({**observation(), "instruction": ""})
    with pytest.raises(InputError, match="expected a dictionary with 'images'"):
        policy("press the button")
    with pytest.raises(InputError, match="state of observation 0.*nan"):
        policy({**observation(), "state": np.full(4, np.nan)})


def test_a_model_instance_needs_its_processor(folder):
    model, processor = tiny_policy()
    with pytest.raises(Exception, match="processor"):
        pipeline("robot-policy", model=model)
    with pytest.raises(InputError, match="processor: missing"):
        RobotPolicyPipeline(model)
    got = pipeline("robot-policy", model=model, processor=processor, device="cpu")(observation(), **GREEDY)
    want = pipeline("robot-policy", model=str(folder), device="cpu")(observation(), **GREEDY)
    assert np.array_equal(got["actions"], want["actions"])


def test_saving_keeps_the_robot(policy, tmp_path):
    policy.save_pretrained(tmp_path / "copy")
    assert AutoProcessor.from_pretrained(tmp_path / "copy").to_dict() == policy.processor.to_dict()
    again = pipeline("robot-policy", model=str(tmp_path / "copy"), device="cpu")
    assert np.array_equal(again(observation(), **GREEDY)["actions"], policy(observation(), **GREEDY)["actions"])


def test_the_default_model_is_looked_for_when_it_is_needed(tmp_path, monkeypatch, folder):
    missing = ShippedModel(model=(str(tmp_path / "missing"), "main"))
    with pytest.raises(InputError, match="does not exist"):
        missing["model"]
    assert ShippedModel(model=(str(folder), "main"))["model"] == (str(folder), "main")
    from transformers.pipelines import PIPELINE_REGISTRY

    task = PIPELINE_REGISTRY.supported_tasks["robot-policy"]
    monkeypatch.setitem(task, "default", ShippedModel(model=(str(folder), "main")))
    assert pipeline("robot-policy", device="cpu")(observation())["actions"].shape == (3, 4)
    monkeypatch.setitem(task, "default", missing)
    with pytest.raises(InputError, match="does not exist"):
        pipeline("robot-policy")
