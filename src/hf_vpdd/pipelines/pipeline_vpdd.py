"""diffusers pipeline of VPDD: denoise the future video and the action chunk together, and return both.

pipe = VPDDPipeline.from_pretrained("some-org/vpdd-metaworld")
out = pipe({"corner2": frame}, "press the button", state=state, num_inference_steps=4)
out.videos, out.actions
"""

import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import PIL.Image
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import BaseOutput
from huggingface_hub import snapshot_download

# diffusers finds the components of foreign packages only in modules that are already imported: these have to be here
from ..errors import InputError
from ..inference import check_is_policy_checkpoint, check_pair, plan
from ..modeling.vpdd.modeling_vpdd import VPDDForRobotPolicy
from ..modeling.vpdd.processing_vpdd import VPDDProcessor
from ..saving import save_policy
from ..schedulers.scheduling_mask_and_replace import MaskAndReplaceScheduler


_OUTPUT_TYPES = ("np", "pt", "pil")


@dataclass
class VPDDPipelineOutput(BaseOutput):
    """
    Args:
        videos: The imagined future, cameras side by side. "np": float32 (B, T, H, W, 3) in [0, 1]; "pt":
            (B, T, 3, H, W); "pil": a list of lists of images.
        actions: float32 (B, chunk, A) in the robot's units; a tensor for "pt", else an array.
    """

    videos: np.ndarray | torch.Tensor | list[list[PIL.Image.Image]]
    actions: np.ndarray | torch.Tensor


class VPDDPipeline(DiffusionPipeline):
    """Observation and instruction -> imagined video and actions.

    Args:
        model: The policy with its video tokenizer. scheduler: The discrete diffusion; may be exchanged.
        processor: Images, instruction, state and actions in the robot's terms.
    """

    model_cpu_offload_seq = "model"
    _callback_tensor_inputs = ["video_codes", "actions"]

    def __init__(self, model: VPDDForRobotPolicy, scheduler: MaskAndReplaceScheduler, processor: VPDDProcessor):
        super().__init__()
        check_pair(model, processor)
        if model.config.action_objective == "regression":
            raise InputError("model: behaviour cloning imagines no video; use RobotPolicy or the robot-policy task.")
        self.register_modules(model=model, scheduler=scheduler, processor=processor)

    @torch.no_grad()
    def __call__(
        self,
        images,
        instruction: str | list[str],
        state=None,
        num_inference_steps: int = 4,
        temperature: float = 0.0,
        video_temperature: float = 1.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: str = "np",
        return_dict: bool = True,
        callback_on_step_end: Callable | None = None,
        callback_on_step_end_tensor_inputs: list[str] | None = None,
    ) -> VPDDPipelineOutput | tuple:
        """
        Args:
            images, instruction, state: One observation or lists of B, as in [`VPDDProcessor.__call__`].
            num_inference_steps: Denoising steps (the official network was sampled with 100).
            temperature, video_temperature: Of the action bins and the video codes; 0 takes the likeliest.
            generator: Of every random draw; or a list, one per observation.
            output_type: "np", "pt" or "pil", the kind of `videos`.
            callback_on_step_end: Called as `f(pipeline, step, timestep, tensors)` after each step, to look on.
            callback_on_step_end_tensor_inputs: Which of "video_codes" and "actions" (bins) it gets. Default: both.
        """
        if output_type not in _OUTPUT_TYPES:
            raise InputError(f"output_type: {output_type!r} is none of {', '.join(_OUTPUT_TYPES)}.")
        wanted = (
            self._callback_tensor_inputs
            if callback_on_step_end_tensor_inputs is None
            else (callback_on_step_end_tensor_inputs)
        )
        for name in wanted:
            if name not in self._callback_tensor_inputs:
                raise InputError(
                    f"callback_on_step_end_tensor_inputs: {name!r} is none of {self._callback_tensor_inputs}."
                )
        if self.model.config.state_dim and state is None:
            raise InputError(f"state: missing; this policy takes {self.model.config.state_dim} numbers.")

        self.model.eval()
        inputs = self.processor(images, instruction, state)
        with self.progress_bar(total=num_inference_steps) as bar:

            def on_step_end(step, timestep, tensors):
                if callback_on_step_end is not None:
                    callback_on_step_end(self, step, timestep, {name: tensors[name] for name in wanted})
                bar.update()

            result = plan(
                self.model,
                self.processor,
                inputs,
                num_inference_steps=num_inference_steps,
                temperature=temperature,
                video_temperature=video_temperature,
                generator=generator,
                return_video=True,
                scheduler=self.scheduler,
                callback_on_step_end=on_step_end,
            )
        self.maybe_free_model_hooks()
        videos, actions = _as_output_type(result.video, output_type), result.actions
        if output_type != "pt":
            actions = actions.cpu().numpy()
        return VPDDPipelineOutput(videos=videos, actions=actions) if return_dict else (videos, actions)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs) -> "VPDDPipeline":
        """Loads a folder written by `save_policy` (or `save_pretrained`), or a Hub repository with that content."""
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


def _as_output_type(video: torch.Tensor, output_type: str):
    """uint8 (B, T, H, W, 3) -> what `VPDDPipelineOutput.videos` describes."""
    if output_type == "pt":
        return video.movedim(-1, -3).float().div_(255)
    frames = video.cpu().numpy()
    if output_type == "pil":
        return [[PIL.Image.fromarray(frame) for frame in clip] for clip in frames]
    return frames.astype(np.float32) / 255
