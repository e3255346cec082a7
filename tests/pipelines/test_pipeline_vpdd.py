import json

import numpy as np
import PIL.Image
import pytest
import torch

from hf_vpdd.errors import InputError
from hf_vpdd.modeling.vpdd import VPDDForVideoPrediction
from hf_vpdd.pipelines import VPDDPipeline
from hf_vpdd.policy import RobotPolicy
from hf_vpdd.schedulers.scheduling_mask_and_replace import MaskAndReplaceScheduler
from tests.pipelines.tiny_policy import observation, tiny_policy


@pytest.fixture(scope="module")
def pipe() -> VPDDPipeline:
    model, processor = tiny_policy()
    pipe = VPDDPipeline(model=model, scheduler=model.scheduler, processor=processor)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _call(pipe, seed=0, **options):
    obs = [observation(i) for i in range(2)]
    return pipe(
        [o["images"] for o in obs],
        [o["instruction"] for o in obs],
        np.stack([o["state"] for o in obs]),
        generator=torch.Generator().manual_seed(seed),
        **options,
    )


def test_returns_video_and_actions_of_every_kind(pipe):
    out = _call(pipe)
    assert out.videos.shape == (2, 1, 16, 16, 3) and out.videos.dtype == np.float32
    assert 0 <= out.videos.min() and out.videos.max() <= 1
    assert out.actions.shape == (2, 3, 4) and isinstance(out.actions, np.ndarray)
    tensors = _call(pipe, output_type="pt")
    assert torch.equal(tensors.videos, torch.from_numpy(out.videos).permute(0, 1, 4, 2, 3))
    assert torch.equal(tensors.actions, torch.from_numpy(out.actions))
    images = _call(pipe, output_type="pil").videos
    assert isinstance(images[1][0], PIL.Image.Image)
    assert np.allclose(np.asarray(images[1][0]) / 255, out.videos[1, 0], atol=1e-6)
    videos, actions = _call(pipe, return_dict=False)
    assert np.array_equal(videos, out.videos) and np.array_equal(actions, out.actions)


def test_agrees_with_the_controller(pipe):
    want = RobotPolicy(pipe.model, pipe.processor, seed=5).predict([observation(0), observation(1)], return_video=True)
    got = _call(pipe, seed=5)
    assert np.array_equal(got.actions, want.actions)
    assert np.array_equal((got.videos * 255).round().astype(np.uint8), want.video)


def test_generators_decide(pipe):
    hot = {"temperature": 2.0, "output_type": "pt"}
    one, same, other = (_call(pipe, seed=seed, **hot) for seed in (1, 1, 2))
    assert torch.equal(one.actions, same.actions) and torch.equal(one.videos, same.videos)
    assert not torch.equal(one.actions, other.actions)


def test_the_callback_sees_every_step(pipe):
    seen = []

    def look(pipeline, step, timestep, tensors):
        seen.append((step, int(timestep), {name: tensor.shape for name, tensor in tensors.items()}))
        assert pipeline is pipe

    _call(pipe, num_inference_steps=3, callback_on_step_end=look, callback_on_step_end_tensor_inputs=["actions"])
    assert [step for step, _, _ in seen] == [0, 1, 2]
    assert [t for _, t, _ in seen] == sorted((t for _, t, _ in seen), reverse=True)
    assert all(set(shapes) == {"actions"} and shapes["actions"] == (2, 3, 4) for _, _, shapes in seen)


def test_progress_counts_the_steps(capsys):
    model, processor = tiny_policy()
    pipe = VPDDPipeline(model=model, scheduler=model.scheduler, processor=processor)
    _call(pipe, num_inference_steps=3)
    assert "3/3" in capsys.readouterr().err


def test_the_scheduler_can_be_exchanged(pipe):
    coarse = VPDDPipeline(
        model=pipe.model,
        scheduler=MaskAndReplaceScheduler.from_config(pipe.scheduler.config, truncation=0.01),
        processor=pipe.processor,
    )
    coarse.set_progress_bar_config(disable=True)
    # so strong a truncation leaves the likeliest token alone: as good as greedy, whatever the temperature
    greedy = _call(pipe, temperature=0.0, video_temperature=0.0, num_inference_steps=1)
    assert np.array_equal(_call(coarse, seed=9, temperature=1.0, num_inference_steps=1).actions, greedy.actions)
    assert not np.array_equal(_call(pipe, seed=9, temperature=1.0, num_inference_steps=1).actions, greedy.actions)


def test_bad_input_is_named(pipe):
    with pytest.raises(InputError, match="output_type: 'gif' is none of np, pt, pil"):
        _call(pipe, output_type="gif")
    with pytest.raises(InputError, match="'frames' is none of"):
        _call(pipe, callback_on_step_end_tensor_inputs=["frames"])
    with pytest.raises(InputError, match="state: missing"):
        pipe(observation()["images"], "press")
    with pytest.raises(InputError, match="num_inference_steps"):
        _call(pipe, num_inference_steps=0)
    with pytest.raises(InputError, match="predicts no actions"):
        VPDDPipeline(
            model=VPDDForVideoPrediction(pipe.model.config), scheduler=pipe.scheduler, processor=pipe.processor
        )


def test_saves_one_folder_and_loads_it(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "saved")
    assert not [path for path in (tmp_path / "saved").iterdir() if path.is_dir()]
    index = json.loads((tmp_path / "saved" / "model_index.json").read_text())
    assert index["_class_name"] == "VPDDPipeline"
    # module paths in users' folders are a promise: a moved class breaks them
    assert index["model"] == ["hf_vpdd.modeling.vpdd.modeling_vpdd", "VPDDForRobotPolicy"]
    assert index["processor"] == ["hf_vpdd.modeling.vpdd.processing_vpdd", "VPDDProcessor"]
    assert index["scheduler"] == ["hf_vpdd.schedulers.scheduling_mask_and_replace", "MaskAndReplaceScheduler"]
    for name, (module, cls) in pipe.config.items():
        if name in index:
            assert index[name] == [module, cls]
    again = VPDDPipeline.from_pretrained(tmp_path / "saved")
    again.set_progress_bar_config(disable=True)
    assert again.scheduler.config.num_train_timesteps == pipe.scheduler.config.num_train_timesteps
    want, got = _call(pipe, temperature=1.0), _call(again, temperature=1.0)
    assert np.array_equal(got.actions, want.actions) and np.array_equal(got.videos, want.videos)
    half = VPDDPipeline.from_pretrained(tmp_path / "saved", dtype=torch.bfloat16)
    assert half.model.dtype == torch.bfloat16
    other = VPDDPipeline.from_pretrained(tmp_path / "saved", scheduler=MaskAndReplaceScheduler(num_train_timesteps=50))
    assert other.scheduler.config.num_train_timesteps == 50
