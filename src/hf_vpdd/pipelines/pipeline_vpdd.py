"""diffusers pipeline of VPDD: denoise the future video and the action chunk together, and return both.

pipe = VPDDPipeline.from_pretrained("some-org/vpdd-metaworld")
out = pipe({"corner2": frame}, "press the button", state=state, num_inference_steps=4)
out.videos, out.actions

A model pre-trained on video alone (`VPDDForVideoPrediction`) runs in the same pipeline: its `actions` are None.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import PIL.Image
import torch
from diffusers import DiffusionPipeline, SchedulerMixin
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.utils import BaseOutput
from huggingface_hub import snapshot_download

# diffusers finds the components of foreign packages only in modules that are already imported: these have to be here
from .. import schedulers
from ..checkpoint_files import require_pipeline
from ..errors import InputError
from ..inference import check_is_policy_checkpoint, check_pair, check_video_pair, imagine, plan, side_by_side
from ..modeling.adapter_base import adapter_folder
from ..modeling.adapters import adapters_of, attach, merge_adapters, quiet_peft, require_same_base
from ..modeling.vpdd.modeling_vpdd import VPDDForRobotPolicy, VPDDForVideoPrediction
from ..modeling.vpdd.processing_vpdd import VPDDProcessor
from ..saving import save_policy
from ..value_planning import as_ranker, last_frames


_OUTPUT_TYPES = ("np", "pt", "pil", "latent")


@dataclass
class VPDDPipelineOutput(BaseOutput):
    """B observations with `num_samples` futures each, flattened as diffusers does: the samples of one observation
    follow each other (`out.actions.reshape(B, num_samples, ...)` parts them).

    Args:
        videos: The imagined future, cameras side by side, `num_clips` clips in a row. "np": float32
            (B * num_samples, T, H, W, 3) in [0, 1]; "pt": (B * num_samples, T, 3, H, W); "pil": a list of lists of
            images; "latent": the codes, int64 (B * num_samples, V, num_clips * t, h, w), not decoded.
        actions: float32 (B * num_samples, chunk, A) in the robot's units; a tensor for "pt" and "latent", else an
            array. They lead into the first clip. None for a model that knows no actions.
        values: With a value model: what it thinks of the last picture of each video, float32 (B, num_samples), kind as
            of `actions`; `values.argmax(1)` are the futures to prefer. Else None.
    """

    videos: np.ndarray | torch.Tensor | list[list[PIL.Image.Image]]
    actions: np.ndarray | torch.Tensor | None
    values: np.ndarray | torch.Tensor | None = None


class VPDDPipeline(DiffusionPipeline):
    """Observation and instruction -> imagined video and actions.

    Args:
        model: The policy, or a model of video alone, with its video tokenizer.
        scheduler: The sampler. May be exchanged for any of `hf_vpdd.schedulers.SAMPLERS`:
            `pipe.scheduler = HaltonScheduler.from_config(pipe.scheduler.config)`; it is saved with the pipeline.
        processor: Images, instruction, state and actions in the robot's terms.
    """

    model_cpu_offload_seq = "model"
    _exclude_from_cpu_offload = ["model"]  # leaf by leaf: sampling calls methods that accelerate does not hook
    _callback_tensor_inputs = ["video_codes", "actions"]

    def __init__(
        self,
        model: VPDDForRobotPolicy | VPDDForVideoPrediction,
        scheduler: SchedulerMixin,
        processor: VPDDProcessor,
    ):
        super().__init__()
        if hasattr(model, "sample_actions"):
            check_pair(model, processor)
        else:
            check_video_pair(model, processor)
        if not hasattr(model, "sample_video") or model.config.action_objective == "regression":
            raise InputError("model: behaviour cloning imagines no video; use RobotPolicy or the robot-policy task.")
        _check_scheduler(scheduler)
        self.register_modules(model=model, scheduler=scheduler, processor=processor)
        self._guidance_scale = 1.0
        self._num_timesteps = 0
        self._interrupt = False
        # Each adapter comes with a processor. One that was loaded along with the model is part of the pipeline: its
        # base may be a model of video alone.
        self._own_adapters = adapters_of(model)
        self._own_processor = processor
        self._adapter_processors: dict = dict.fromkeys(self._own_adapters, processor)

    # ---- what callbacks look at -------------------------------------------------------------------------------------

    @property
    def guidance_scale(self) -> float:
        """Of the call that runs, or the last one."""
        return self._guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        return self._guidance_scale != 1.0

    @property
    def num_timesteps(self) -> int:
        """Denoising steps of the call that runs, or the last one, over all its clips."""
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        """Set `pipe._interrupt = True`, in a callback or from another thread, to stop after the present step."""
        return self._interrupt

    @torch.no_grad()
    def __call__(
        self,
        images,
        instruction: str | list[str],
        state=None,
        num_samples: int = 1,
        num_inference_steps: int = 4,
        num_clips: int = 1,
        temperature: float = 0.0,
        video_temperature: float = 1.0,
        sampler: str | None = None,
        action_steps: int | None = None,
        guidance_scale: float = 1.0,
        committed_actions=None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: str = "np",
        return_dict: bool = True,
        callback_on_step_end: Callable | PipelineCallback | MultiPipelineCallbacks | None = None,
        callback_on_step_end_tensor_inputs: list[str] | None = None,
        value_model=None,
        value_goals=None,
    ) -> VPDDPipelineOutput | tuple:
        """
        Args:
            images, instruction, state: One observation or lists of B, as in [`VPDDProcessor.__call__`]. A model of
                video alone reads no state.
            num_samples: Futures drawn for each observation, all of them in one batch.
            num_inference_steps: Denoising steps of each clip (the official network was sampled with 100).
            num_clips: Length of the video. Every clip after the first continues from the one before it, as if that had
                been seen; a clip ends `model.config.predict_ahead` environment steps after the one before.
            temperature, video_temperature: Of the action bins and the video codes; 0 takes the likeliest.
            sampler: A name from `hf_vpdd.schedulers.SAMPLERS`, for this call instead of `pipe.scheduler`.
            action_steps: Two phases: so many passes of the action head alone, after the steps of the video.
            guidance_scale: Classifier-free guidance over the instruction; 1 is none. Only models that were trained
                with instruction dropout know the empty instruction that it needs.
            committed_actions: float (B, n, A) or (n, A) in the robot's units, n < chunk: actions that will be carried
                out in any case; the rest of the plan continues them.
            generator: Of every random draw; or a list with one for each of the B * num_samples samples.
            output_type: "np", "pt", "pil" or "latent", the kind of `videos`.
            callback_on_step_end: Called as `f(pipeline, step, timestep, callback_kwargs)` after each step; what it
                returns, a dictionary or None, replaces these tensors. `step` counts on over the clips. To stop, it
                sets `pipeline._interrupt = True`: what is still masked then takes the network's latest guess.
            callback_on_step_end_tensor_inputs: Which of "video_codes" and "actions" (bins) it gets. Default: both.
            value_model, value_goals: A V-PTR value model that judges how each video ends, as in `RobotPolicy`. For
                more than one call make a [`hf_vpdd.value_planning.ValueRanker`] once and give that.

        Raises:
            InputError: Wrong input, or an option that this model does not know.
        """
        if isinstance(callback_on_step_end, (PipelineCallback, MultiPipelineCallbacks)):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs
        wanted = self._callback_tensor_inputs
        if callback_on_step_end_tensor_inputs is not None:
            wanted = callback_on_step_end_tensor_inputs
        self._check_call(output_type, wanted, num_samples, num_clips, state, action_steps, committed_actions)
        scheduler = self.scheduler if sampler is None else schedulers.build_sampler(sampler, self.scheduler.config)
        ranker = None
        if value_model is not None:
            ranker = as_ranker(value_model, value_goals, self.model.device)
            ranker.check_policy(self.model, self.processor)
            sentences = [instruction] if isinstance(instruction, str) else list(instruction)
            ranker.require_goals(sentences)

        # 1. everything once for each observation
        model, config = self.model.eval(), self.model.config
        inputs = self.processor(images, instruction, state if self._plans else None)
        observations = len(inputs["pixel_values"])
        committed = _committed(committed_actions, observations, config)

        # 2. the first clip, with its actions; further clips go on from there
        self._guidance_scale, self._interrupt = guidance_scale, False
        self._num_timesteps = num_clips * num_inference_steps + (action_steps or 0)
        self._onload()
        sampling = {
            "num_inference_steps": num_inference_steps,
            "video_temperature": video_temperature,
            "guidance_scale": guidance_scale,
            "generator": generator,
            "scheduler": scheduler,
            "num_samples": num_samples,
        }
        actions = None
        with self.progress_bar(total=self._num_timesteps) as bar:
            sampling["callback_on_step_end"] = _StepEnd(self, callback_on_step_end, wanted, bar)
            if self._plans:
                first = plan(
                    model,
                    self.processor,
                    inputs,
                    temperature=temperature,
                    action_steps=action_steps,
                    committed_actions=committed,
                    **sampling,
                )
                actions, codes = first.actions, first.video_codes
                if num_clips > 1 and not self._interrupt:
                    codes = imagine(model, inputs, num_clips=num_clips - 1, after=codes, **sampling)
            else:
                codes = imagine(model, inputs, num_clips=num_clips, **sampling)

        # 3. codes to values and pictures
        values = None
        if ranker is not None:
            clip = codes[:, :, -config.latent_shape[0] :].contiguous()
            last = last_frames(model, self.processor, clip, ranker.processor.cameras[0])
            values = ranker.values(last.unflatten(0, (observations, num_samples)), sentences)
        videos = codes if output_type == "latent" else self.decode(codes, output_type)
        self.maybe_free_model_hooks()
        if actions is not None and output_type not in ("pt", "latent"):
            actions = actions.cpu().numpy()
        if values is not None and output_type not in ("pt", "latent"):
            values = values.cpu().numpy()
        if not return_dict:
            return (videos, actions) if values is None else (videos, actions, values)
        return VPDDPipelineOutput(videos=videos, actions=actions, values=values)

    @torch.no_grad()
    def decode(self, codes: torch.Tensor, output_type: str = "np"):
        """Codes int64 (B, V, clips * t, h, w), what "latent" gives, -> `VPDDPipelineOutput.videos` of another type."""
        time = self.model.config.latent_shape[0]
        if codes.ndim != 5 or codes.shape[2] % time:
            raise InputError(f"codes: expected (B, V, clips * {time}, h, w), got {tuple(codes.shape)}.")
        size = self.model.config.vqvae_config.codebook_size
        if codes.is_cpu and codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < size:
            raise InputError(f"codes: {int(codes.min())}..{int(codes.max())} outside of 0..{size - 1}.")
        self._onload()
        codes = codes.to(self.model.device)
        clips = [self.model.model.decode_video(clip.contiguous()) for clip in codes.split(time, dim=2)]
        frames = self.processor.post_process_video(torch.cat(clips, dim=2))
        return _as_output_type(side_by_side(frames), output_type)

    # ---- loading and saving -----------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs) -> "VPDDPipeline":
        """Loads a folder written by `save_policy` (or `save_pretrained`), or a Hub repository with that content."""
        require_pipeline(pretrained_model_name_or_path, kwargs)
        pipe = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        check_is_policy_checkpoint(pipe.model)
        return pipe

    @classmethod
    def download(cls, pretrained_model_name, **kwargs) -> str:
        """Fetches the whole repository.

        diffusers' own method accepts only components whose code lies in diffusers, transformers or the repository.
        """
        known = ("revision", "cache_dir", "token", "local_files_only", "force_download")
        options = {name: kwargs[name] for name in known if kwargs.get(name) is not None}
        return snapshot_download(pretrained_model_name, **options)

    # ---- adapters ---------------------------------------------------------------------------------------------------

    def load_lora_weights(self, adapter: str | os.PathLike, adapter_name: str | None = None, **kwargs) -> None:
        """Puts a LoRA adapter of this package on the model and switches to it, processor included: its action bins
        and statistics are part of what it learned.

        Args:
            adapter: Folder or Hub id. It has to belong to the model of this pipeline: load an adapter of its own with
                `VPDDPipeline.from_pretrained(ADAPTER)`.
            adapter_name: For `set_adapters`. Default: "default", "adapter_1", ...
            kwargs: `revision`, `token`, `cache_dir`, ... for the download.

        Raises:
            InputError: No adapter, one of another model, or one without a processor.
        """
        held = adapters_of(self.model)
        name = adapter_name or ("default" if not held else f"adapter_{len(held)}")
        if name in held:
            raise InputError(f"adapter_name: there is an adapter {name!r} already; choose another name.")
        folder = adapter_folder(adapter, kwargs)
        if folder is None:
            raise InputError(f"adapter: {adapter} holds no adapter of this package.")
        if not (folder / "processor_config.json").is_file():
            raise InputError(f"adapter: {adapter} has no processor (processor_config.json is missing).")
        require_same_base(self.model, folder, str(adapter))
        processor = VPDDProcessor.from_pretrained(folder)
        check_pair(self.model, processor)
        attach(self.model, folder, name, str(adapter))
        self._adapter_processors[name] = processor
        self.set_adapters(name)

    def set_adapters(self, adapter_name: str | list[str]) -> None:
        """Switches to one of the adapters that were loaded, and to its processor.

        One at a time: each has statistics and action bins of its own, and these cannot be added up.
        """
        names = [adapter_name] if isinstance(adapter_name, str) else list(adapter_name)
        held = adapters_of(self.model)
        if len(names) != 1:
            raise InputError(
                f"set_adapters: one adapter at a time, got {names}. Each has action bins of its own, which do not mix."
            )
        if names[0] not in held:
            raise InputError(f"set_adapters: no adapter {names[0]!r} is loaded; there are {held or 'none'}.")
        self.model.set_adapter(names[0])
        self.processor = self._adapter_processors[names[0]]

    def get_active_adapters(self) -> list[str]:
        """Name of the adapter that acts, in a list as diffusers gives it."""
        return self.model.active_adapters() if adapters_of(self.model) else []

    def unload_lora_weights(self) -> None:
        """Takes off what `load_lora_weights` put on: model and processor are those the pipeline was made with."""
        added = [name for name in adapters_of(self.model) if name not in self._own_adapters]
        if self._own_adapters:
            self.set_adapters(self._own_adapters[0])
        if added:
            with quiet_peft():
                self.model.delete_adapter(added)
        self._adapter_processors = dict.fromkeys(self._own_adapters, self._own_processor)
        self.processor = self._own_processor

    def fuse_lora(self) -> None:
        """Merges the adapter that acts into the weights, for good: the speed of a model without adapters."""
        merge_adapters(self.model)
        self._own_adapters, self._adapter_processors, self._own_processor = [], {}, self.processor

    def save_pretrained(self, save_directory: str | os.PathLike, max_shard_size: str | int = "5GB", **kwargs) -> None:
        """Writes the one-folder layout of this package, not a sub-folder per component."""
        kwargs.pop("safe_serialization", None)  # safetensors always
        push_to_hub = kwargs.pop("push_to_hub", False)
        if kwargs.pop("variant", None) is not None:
            raise InputError("variant: policies are saved once, without variants.")
        save_policy(
            save_directory, self.model, self.processor, scheduler=self.scheduler, max_shard_size=max_shard_size
        )
        if push_to_hub:
            repo_id = kwargs.pop("repo_id", os.path.basename(os.path.normpath(save_directory)))
            self.push_to_hub(repo_id, **kwargs)

    def push_to_hub(self, repo_id: str, **kwargs):
        """The one-folder layout on the Hub, in one commit; options as of [`hf_vpdd.push_to_hub`]."""
        from ..hub.push import push_saved

        kwargs.pop("safe_serialization", None)
        if kwargs.pop("variant", None) is not None or kwargs.pop("subfolder", None) is not None:
            raise InputError("variant, subfolder: policies are saved once, at the root of their repository.")
        return push_saved(self.save_pretrained, repo_id, **kwargs)

    # ---- private ----------------------------------------------------------------------------------------------------

    @property
    def _plans(self) -> bool:
        """Whether the model draws actions; a model of video alone does not."""
        return hasattr(self.model, "sample_actions")

    def _onload(self) -> None:
        """With `enable_model_cpu_offload`: brings the model to the accelerator. accelerate does so when `forward` is
        called, and sampling calls other methods (as diffusers' autoencoders do, see its `apply_forward_hook`)."""
        hook = getattr(self.model, "_hf_hook", None)
        if hasattr(hook, "pre_forward"):
            hook.pre_forward(self.model)

    def _check_call(self, output_type, wanted, num_samples, num_clips, state, action_steps, committed_actions) -> None:
        if output_type not in _OUTPUT_TYPES:
            raise InputError(f"output_type: {output_type!r} is none of {', '.join(_OUTPUT_TYPES)}.")
        for name in wanted:
            if name not in self._callback_tensor_inputs:
                raise InputError(
                    f"callback_on_step_end_tensor_inputs: {name!r} is none of {self._callback_tensor_inputs}."
                )
        for name, value in (("num_samples", num_samples), ("num_clips", num_clips)):
            if not isinstance(value, int) or value < 1:
                raise InputError(f"{name}: must be a whole number of at least 1, got {value!r}.")
        _check_scheduler(self.scheduler)
        if self._plans and self.model.config.state_dim and state is None:
            raise InputError(f"state: missing; this policy takes {self.model.config.state_dim} numbers.")
        for name, value in (("action_steps", action_steps), ("committed_actions", committed_actions)):
            if not self._plans and value is not None:
                raise InputError(f"{name}: {type(self.model).__name__} knows no actions; leave it out.")


class _StepEnd:
    """What the sampling loop calls after each step: the user's callback with diffusers' signature, and the bar."""

    def __init__(self, pipe: VPDDPipeline, callback: Callable | None, wanted: list[str], bar):
        self.pipe, self.callback, self.wanted, self.bar, self.steps = pipe, callback, wanted, bar, 0

    def __call__(self, step: int, timestep: torch.Tensor, tensors: dict) -> dict:
        changed: dict = {}
        if self.callback is not None:
            offered = {name: tensors[name] for name in self.wanted if name in tensors}
            returned = self.callback(self.pipe, self.steps, timestep, offered)
            changed = {name: value for name, value in (returned or {}).items() if name in tensors}
            for name, value in changed.items():
                if value.shape != tensors[name].shape or value.is_floating_point():
                    raise InputError(
                        f"callback_on_step_end: returned {name} as {value.dtype} {tuple(value.shape)}; expected whole "
                        f"numbers {tuple(tensors[name].shape)}."
                    )
        self.steps += 1
        self.bar.update()
        return {**changed, "interrupt": self.pipe._interrupt}


def _check_scheduler(scheduler) -> None:
    if not isinstance(scheduler, tuple(schedulers.SAMPLERS.values())):
        names = ", ".join(sampler.__name__ for sampler in schedulers.SAMPLERS.values())
        raise InputError(
            f"scheduler: {type(scheduler).__name__} does not denoise tokens; use one of {names} "
            "(from hf_vpdd.schedulers)."
        )


def _committed(actions, observations: int, config) -> torch.Tensor | None:
    """(B, n, A) or, for one observation, (n, A) -> float32 (B, n, A)."""
    if actions is None:
        return None
    actions = torch.as_tensor(np.asarray(actions) if isinstance(actions, (list, tuple)) else actions)
    actions = actions[None] if actions.ndim == 2 else actions
    if actions.ndim != 3 or len(actions) != observations or actions.shape[-1] != config.action_dim:
        raise InputError(
            f"committed_actions: expected ({observations}, n, {config.action_dim}), got {tuple(actions.shape)}."
        )
    return actions.float()


def _as_output_type(video: torch.Tensor, output_type: str):
    """uint8 (B, T, H, W, 3) -> what `VPDDPipelineOutput.videos` describes."""
    if output_type == "pt":
        return video.movedim(-1, -3).float().div_(255)
    frames = video.cpu().numpy()
    if output_type == "pil":
        return [[PIL.Image.fromarray(frame) for frame in clip] for clip in frames]
    return frames.astype(np.float32) / 255
