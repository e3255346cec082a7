import json

import numpy as np
import PIL.Image
import pytest
import torch
from diffusers import DDIMScheduler
from diffusers.callbacks import PipelineCallback

from hf_vpdd.errors import InputError
from hf_vpdd.modeling.vpdd import VPDDForVideoPrediction
from hf_vpdd.pipelines import VPDDPipeline
from hf_vpdd.policy import RobotPolicy
from hf_vpdd.saving import save_policy
from hf_vpdd.schedulers import SAMPLERS, HaltonScheduler
from hf_vpdd.schedulers.scheduling_mask_and_replace import MaskAndReplaceScheduler
from tests.pipelines.tiny_policy import observation, tiny_policy, tiny_processor


def make(model, processor) -> VPDDPipeline:
    pipe = VPDDPipeline(model=model, scheduler=model.scheduler, processor=processor)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def pipe() -> VPDDPipeline:
    return make(*tiny_policy())


@pytest.fixture(scope="module")
def video_pipe() -> VPDDPipeline:
    """Of a model that has seen video and no actions; its processor knows neither states nor actions."""
    model, processor = tiny_policy()
    bare = type(processor)(
        processor.image_processor,
        processor.tokenizer,
        chunk_size=processor.chunk_size,
        num_action_bins=processor.num_action_bins,
        max_instruction_length=processor.max_instruction_length,
    )
    torch.manual_seed(0)
    return make(VPDDForVideoPrediction(model.config).eval(), bare)


def _call(pipe, seed=0, number=2, **options):
    obs = [observation(i) for i in range(number)]
    options = {"generator": torch.Generator().manual_seed(seed), **options}
    return pipe(
        [o["images"] for o in obs], [o["instruction"] for o in obs], np.stack([o["state"] for o in obs]), **options
    )


def _each(seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


# ---- what comes out -------------------------------------------------------------------------------------------------


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
    codes = _call(pipe, output_type="latent")
    assert codes.videos.shape == (2, 1, 1, 4, 4) and codes.videos.dtype == torch.int64
    assert np.array_equal(pipe.decode(codes.videos), out.videos)
    assert torch.equal(codes.actions, tensors.actions)
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


def test_samples_of_one_observation_follow_each_other(pipe):
    hot = {"temperature": 2.0, "output_type": "latent"}
    both = _call(pipe, num_samples=3, generator=_each([1, 2, 3, 4, 5, 6]), **hot)
    assert both.videos.shape == (6, 1, 1, 4, 4) and both.actions.shape == (6, 3, 4)
    # a sample is what its observation and its generator alone give
    for observation_index in range(2):
        for sample in range(3):
            obs = observation(observation_index)
            place = 3 * observation_index + sample
            alone = pipe(obs["images"], obs["instruction"], obs["state"], generator=_each([1 + place])[0], **hot)
            assert torch.equal(alone.videos[0], both.videos[place])
            assert torch.equal(alone.actions[0], both.actions[place])
    with pytest.raises(InputError, match="2 of them for a batch of 6"):
        _call(pipe, num_samples=3, generator=_each([1, 2]))


def test_every_kind_of_frame_is_taken(pipe):
    obs = observation()
    frame = obs["images"]["corner2"]
    same = {"output_type": "latent", "video_temperature": 0.0, "num_inference_steps": 1}
    kinds = (frame, PIL.Image.fromarray(frame), torch.from_numpy(frame))
    out = [pipe({"corner2": kind}, obs["instruction"], obs["state"], **same) for kind in kinds]
    assert all(torch.equal(out[0].videos, other.videos) for other in out[1:])


# ---- long video -----------------------------------------------------------------------------------------------------


def _next_clip(pipe, obs, codes, generator):
    """The clip after `codes` the long way: decoded, and shown to the video sampler as if they had been seen."""
    pixels = pipe.model.model.decode_video(codes)
    inputs = pipe.processor(obs["images"], obs["instruction"])
    return pipe.model.sample_video(
        pixel_values=pixels,
        history_codes=codes,
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        generator=generator,
    )


@pytest.mark.parametrize("frames", [1, 2])
def test_a_clip_goes_on_from_the_one_before(frames):
    pipe = make(*tiny_policy(history_frames=frames))
    obs = observation()
    arguments = (obs["images"], obs["instruction"], obs["state"])
    generator = torch.Generator().manual_seed(0)
    out = pipe(*arguments, num_clips=3, generator=generator, output_type="latent")
    generator = torch.Generator().manual_seed(0)
    first = pipe(*arguments, generator=generator, output_type="latent")
    second = _next_clip(pipe, obs, first.videos, generator)
    third = _next_clip(pipe, obs, second, generator)
    assert torch.equal(out.videos, torch.cat([first.videos, second, third], dim=2))
    assert torch.equal(out.actions, first.actions)
    assert not torch.equal(second, third)
    video = pipe(*arguments, num_clips=3, generator=torch.Generator().manual_seed(0)).videos
    assert video.shape == (1, 3 * frames, 16, 16, 3)
    assert np.array_equal(video[:, :frames], pipe.decode(first.videos))


def test_two_cameras_lie_side_by_side():
    cameras = ("corner2", "topview")
    pipe = make(*tiny_policy(cameras=cameras))
    obs = observation(cameras=cameras)
    out = pipe(obs["images"], obs["instruction"], obs["state"], num_clips=2, num_samples=2)
    assert out.videos.shape == (2, 2, 16, 32, 3)


# ---- samplers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_a_sampler_by_name_is_the_scheduler_of_that_name(pipe, name):
    by_name = _call(pipe, sampler=name, temperature=1.0)
    exchanged = make(pipe.model, pipe.processor)
    exchanged.scheduler = SAMPLERS[name].from_config(pipe.scheduler.config)
    by_scheduler = _call(exchanged, temperature=1.0)
    assert np.array_equal(by_name.actions, by_scheduler.actions)
    assert np.array_equal(by_name.videos, by_scheduler.videos)
    assert type(pipe.scheduler) is MaskAndReplaceScheduler  # the call has changed nothing
    if name != "ancestral":
        assert not np.array_equal(by_name.videos, _call(pipe, temperature=1.0).videos)


def test_the_schedulers_settings_are_heeded(pipe):
    coarse = make(pipe.model, pipe.processor)
    coarse.scheduler = MaskAndReplaceScheduler.from_config(pipe.scheduler.config, truncation=0.01)
    # so strong a truncation leaves the likeliest token alone: as good as greedy, whatever the temperature
    greedy = _call(pipe, temperature=0.0, video_temperature=0.0, num_inference_steps=1)
    assert np.array_equal(_call(coarse, seed=9, temperature=1.0, num_inference_steps=1).actions, greedy.actions)
    assert not np.array_equal(_call(pipe, seed=9, temperature=1.0, num_inference_steps=1).actions, greedy.actions)
    by_name = _call(coarse, seed=9, temperature=1.0, num_inference_steps=1, sampler="halton")
    assert np.array_equal(by_name.actions, greedy.actions)


def test_what_is_committed_stays(pipe):
    values = pipe.processor.decode_actions(torch.zeros(1, 4, dtype=torch.int64))[0].numpy()
    chosen = np.stack([np.stack([values] * 2)] * 2)  # (observations, 2 of 3 steps, A)
    out = _call(pipe, committed_actions=chosen, num_samples=2, temperature=1.0)
    assert np.array_equal(out.actions[:, :2], np.repeat(chosen, 2, axis=0))
    assert len(np.unique(out.actions[:, 2], axis=0)) > 1
    with pytest.raises(InputError, match=r"committed_actions: expected \(2, n, 4\), got \(3, 2, 4\)"):
        _call(pipe, committed_actions=np.zeros((3, 2, 4)))


def test_guidance_reaches_every_clip(pipe):
    with pytest.raises(InputError, match="never saw a plan without one"):
        _call(pipe, guidance_scale=2.0)
    model, processor = tiny_policy()
    model.config.instruction_dropout = 0.1  # as if trained with it
    guided = make(model, processor)
    seen = []
    hook = model.model.trunk.register_forward_hook(lambda module, args, output: seen.append(len(args[0])))
    out = _call(guided, guidance_scale=3.0, num_clips=2, output_type="latent")
    hook.remove()
    assert seen == [4] * 8  # 2 observations, with their instruction and without, 4 steps, 2 clips
    assert guided.guidance_scale == 3.0 and guided.do_classifier_free_guidance
    plain = _call(guided, num_clips=2, output_type="latent")
    assert not guided.do_classifier_free_guidance and not torch.equal(out.videos, plain.videos)


def test_actions_may_take_steps_of_their_own(pipe):
    steps = []
    out = _call(
        pipe,
        num_inference_steps=2,
        action_steps=3,
        callback_on_step_end=lambda pipeline, step, timestep, tensors: steps.append(step),
    )
    assert out.actions.shape == (2, 3, 4)
    assert steps == list(range(pipe.num_timesteps)) and pipe.num_timesteps == 5


# ---- callback and bar -----------------------------------------------------------------------------------------------


def test_the_callback_sees_every_step(pipe):
    seen = []

    def look(pipeline, step, timestep, tensors):
        seen.append((step, int(timestep), {name: tensor.shape for name, tensor in tensors.items()}))
        assert pipeline is pipe

    _call(pipe, num_inference_steps=3, callback_on_step_end=look, callback_on_step_end_tensor_inputs=["actions"])
    assert [step for step, _, _ in seen] == [0, 1, 2]
    assert [t for _, t, _ in seen] == sorted((t for _, t, _ in seen), reverse=True)
    assert all(set(shapes) == {"actions"} and shapes["actions"] == (2, 3, 4) for _, _, shapes in seen)


def test_the_callback_may_replace_tokens(pipe):
    def paint(pipeline, step, timestep, tensors):
        if step == pipeline.num_timesteps - 1:
            tensors["video_codes"] = torch.full_like(tensors["video_codes"], 5)
            tensors["actions"] = torch.full_like(tensors["actions"], 1)
        return tensors

    out = _call(pipe, output_type="latent", callback_on_step_end=paint)
    assert bool((out.videos == 5).all())
    assert torch.equal(out.actions, pipe.processor.decode_actions(torch.ones(2, 3, 4, dtype=torch.int64)))
    # what is put in early is what the later steps read
    mask = pipe.model.config.vqvae_config.codebook_size

    def blind(pipeline, step, timestep, tensors):
        return {"video_codes": torch.full_like(tensors["video_codes"], mask)} if step == 0 else None

    assert not torch.equal(
        _call(pipe, output_type="latent", callback_on_step_end=blind).videos, _call(pipe, output_type="latent").videos
    )


def test_interrupting_stops_early_with_something_to_show(pipe):
    steps, forward = [], []
    hook = pipe.model.model.trunk.register_forward_hook(lambda *_: forward.append(1))

    def stop(pipeline, step, timestep, tensors):
        steps.append(step)
        pipeline._interrupt = step == 1

    out = _call(pipe, num_inference_steps=8, num_clips=2, callback_on_step_end=stop, output_type="latent")
    hook.remove()
    assert steps == [0, 1] and len(forward) == 2 and pipe.interrupt
    config = pipe.model.config
    assert int(out.videos.max()) < config.vqvae_config.codebook_size and out.videos.shape[2] == 1  # no MASK is left
    assert out.actions.shape == (2, 3, 4)
    assert _call(pipe, number=1).actions.shape == (1, 3, 4) and not pipe.interrupt  # the next call runs through


class StopAfter(PipelineCallback):
    tensor_inputs = ["actions"]

    def callback_fn(self, pipeline, step_index, timesteps, callback_kwargs):
        assert set(callback_kwargs) == {"actions"}
        pipeline._interrupt = step_index + 1 >= self.config.cutoff_step_index
        return callback_kwargs


def test_diffusers_own_callback_class(pipe):
    calls = []
    callback = StopAfter(cutoff_step_ratio=None, cutoff_step_index=2)
    callback.callback_fn, original = lambda *a: calls.append(a[1]) or original(*a), callback.callback_fn
    _call(pipe, num_inference_steps=5, callback_on_step_end=callback)
    assert calls == [0, 1]


def test_progress_counts_the_steps(capsys):
    model, processor = tiny_policy()
    pipe = VPDDPipeline(model=model, scheduler=model.scheduler, processor=processor)
    _call(pipe, num_inference_steps=3, num_clips=2)
    assert "6/6" in capsys.readouterr().err


# ---- models of video alone ------------------------------------------------------------------------------------------


def test_a_model_of_video_alone_imagines(video_pipe, tmp_path):
    obs = [observation(i) for i in range(2)]
    arguments = ([o["images"] for o in obs], [o["instruction"] for o in obs])
    seen = []
    out = video_pipe(
        *arguments,
        num_samples=2,
        num_clips=2,
        generator=_each(range(4)),
        callback_on_step_end=lambda pipe, step, timestep, tensors: seen.append((step, set(tensors))),
    )
    assert out.videos.shape == (4, 2, 16, 16, 3) and out.actions is None
    assert seen == [(step, {"video_codes"}) for step in range(8)]
    video_pipe.save_pretrained(tmp_path / "video")
    index = json.loads((tmp_path / "video" / "model_index.json").read_text())
    assert index["model"] == ["hf_vpdd.modeling.vpdd.modeling_vpdd", "VPDDForVideoPrediction"]
    again = VPDDPipeline.from_pretrained(tmp_path / "video")
    again.set_progress_bar_config(disable=True)
    assert type(again.model) is VPDDForVideoPrediction
    assert np.array_equal(again(*arguments, num_samples=2, num_clips=2, generator=_each(range(4))).videos, out.videos)
    for option in ({"action_steps": 2}, {"committed_actions": np.zeros((2, 1, 4))}):
        with pytest.raises(InputError, match="VPDDForVideoPrediction knows no actions"):
            video_pipe(*arguments, **option)


# ---- bad input ------------------------------------------------------------------------------------------------------


def test_bad_input_is_named(pipe):
    with pytest.raises(InputError, match="output_type: 'gif' is none of np, pt, pil, latent"):
        _call(pipe, output_type="gif")
    with pytest.raises(InputError, match="'frames' is none of"):
        _call(pipe, callback_on_step_end_tensor_inputs=["frames"])
    with pytest.raises(InputError, match="state: missing"):
        pipe(observation()["images"], "press")
    with pytest.raises(InputError, match="num_inference_steps"):
        _call(pipe, num_inference_steps=0)
    for name in ("num_samples", "num_clips"):
        with pytest.raises(InputError, match=f"{name}: must be a whole number of at least 1, got 0"):
            _call(pipe, **{name: 0})
    with pytest.raises(InputError, match="sampler: 'ddim' is none of"):
        _call(pipe, sampler="ddim")
    with pytest.raises(InputError, match="scheduler: DDIMScheduler does not denoise tokens"):
        VPDDPipeline(model=pipe.model, scheduler=DDIMScheduler(), processor=pipe.processor)
    with pytest.raises(InputError, match="disagree about the image size"):
        VPDDPipeline(
            model=VPDDForVideoPrediction(pipe.model.config),
            scheduler=pipe.scheduler,
            processor=tiny_processor(image_size=32),
        )
    model, processor = tiny_policy(objective="regression")
    with pytest.raises(InputError, match="behaviour cloning imagines no video"):
        VPDDPipeline(model=model, scheduler=pipe.scheduler, processor=processor)
    with pytest.raises(InputError, match="codes: expected"):
        pipe.decode(torch.zeros(1, 1, 16, dtype=torch.int64))


# ---- saving, loading, moving ----------------------------------------------------------------------------------------


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
    other = VPDDPipeline.from_pretrained(tmp_path / "saved", scheduler=MaskAndReplaceScheduler(num_train_timesteps=50))
    assert other.scheduler.config.num_train_timesteps == 50


@pytest.mark.parametrize("name", sorted(set(SAMPLERS) - {"ancestral"}))
def test_an_exchanged_sampler_is_saved_with_its_class(pipe, tmp_path, name):
    exchanged = make(pipe.model, pipe.processor)
    exchanged.scheduler = SAMPLERS[name].from_config(pipe.scheduler.config, truncation=0.7)
    exchanged.save_pretrained(tmp_path)
    again = VPDDPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert type(again.scheduler) is SAMPLERS[name] and again.scheduler.config.truncation == 0.7
    assert np.array_equal(_call(again).videos, _call(exchanged).videos)
    # and back to what was there
    back = MaskAndReplaceScheduler.from_config(again.scheduler.config, truncation=pipe.scheduler.config.truncation)
    theirs = {name: value for name, value in pipe.scheduler.config.items() if not name.startswith("_")}
    assert {name: back.config[name] for name in theirs} == theirs


def test_half_precision_and_back(pipe, tmp_path):
    save_policy(tmp_path, pipe.model, pipe.processor, scheduler=HaltonScheduler.from_config(pipe.scheduler.config))
    half = VPDDPipeline.from_pretrained(tmp_path, dtype=torch.bfloat16)
    half.set_progress_bar_config(disable=True)
    assert half.model.dtype == half.dtype == torch.bfloat16
    out = _call(half, num_clips=2)
    assert np.isfinite(out.videos).all() and out.videos.shape == (2, 2, 16, 16, 3)
    full = half.to("cpu", torch.float32)
    assert full.model.dtype == torch.float32 and _call(full).actions.shape == (2, 3, 4)


def test_offloading_brings_the_model_in_and_out(monkeypatch):
    """The hooks of accelerate as `enable_model_cpu_offload` sets them, with the CPU in the accelerator's part."""
    from accelerate.hooks import CpuOffload

    moves, pre_forward = [], CpuOffload.pre_forward
    monkeypatch.setattr(CpuOffload, "pre_forward", lambda *a, **k: moves.append("in") or pre_forward(*a, **k))
    pipe = make(*tiny_policy())
    assert pipe.model_cpu_offload_seq == "model"
    pipe.enable_model_cpu_offload(device="cpu")
    monkeypatch.setattr(pipe, "maybe_free_model_hooks", lambda: moves.append("out"))
    _call(pipe)
    # sampling never calls `forward`, where accelerate would have moved the model: the pipeline does it
    assert moves[0] == "in" and moves[-1] == "out" and moves.count("out") == 1
    pipe.enable_sequential_cpu_offload(device="cpu")  # leaf by leaf is not possible here: the model stays whole
    assert pipe.model.device.type == "cpu" and _call(pipe).actions.shape == (2, 3, 4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu():
    pipe = make(*tiny_policy())
    want = _call(pipe, temperature=0.0, video_temperature=0.0, num_inference_steps=1)
    pipe.enable_model_cpu_offload()
    got = _call(pipe, temperature=0.0, video_temperature=0.0, num_inference_steps=1)
    assert np.allclose(got.actions, want.actions) and pipe.model.device.type == "cpu"
    assert torch.cuda.max_memory_allocated() > 0
    pipe.remove_all_hooks()
    pipe.to("cuda")
    moved = _call(pipe, temperature=0.0, video_temperature=0.0, num_inference_steps=1, num_clips=2)
    assert np.allclose(moved.actions, want.actions)
