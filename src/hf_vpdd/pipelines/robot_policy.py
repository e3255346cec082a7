"""transformers task "robot-policy": an observation in, a chunk of actions out.

    policy = pipeline("robot-policy", model="some-org/vpdd-metaworld")
    out = policy({"images": {"corner2": frame}, "state": state, "instruction": "press the button"}, return_video=True)
    out["actions"], out["video"]

A pipeline has no memory between calls. To control a robot step by step, with history and a queue of planned actions,
use `hf_vpdd.RobotPolicy`.
"""

import os
from collections.abc import Mapping

import torch
from transformers.pipelines import Pipeline

from ..errors import InputError
from ..inference import check_pair, make_generator, plan
from ..saving import save_policy


_FORWARD = (
    "num_inference_steps",
    "temperature",
    "video_temperature",
    "sampler",
    "action_steps",
    "guidance_scale",
    "generator",
    "seed",
    "return_video",
)
# transformers itself hands these on to every pipeline
_SERVICE = ("trust_remote_code", "use_fast", "_commit_hash", "framework", "processor", "revision", "token")


class RobotPolicyPipeline(Pipeline):
    """Observations -> actions in the robot's units, and the future the model imagined.

    Input: {"images": {camera: frames}, "state": (Ds,), "instruction": str}; frames as in `VPDDProcessor.__call__`. A
    list of such dictionaries (with `batch_size`) or a generator of them works too.

    Options, here or at construction: `return_video` (False), `num_inference_steps`, `temperature` (actions; 0 is
    greedy), `video_temperature`, `sampler`, `action_steps`, `guidance_scale` (see [`hf_vpdd.inference.plan`]), and for
    reproducible draws `seed` (every model call starts from it: a plan does not depend on what was asked before) or
    `generator` (one stream over all calls).

    Output: {"actions": float32 (chunk, A)} as numpy, with "video": uint8 (T, H, W, 3) if asked.
    """

    _load_processor = True
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    def __init__(self, model, *args, processor=None, **kwargs):
        check_pair(model, processor)
        super().__init__(model, *args, processor=processor, **kwargs)
        self.model.eval()

    def _sanitize_parameters(self, **kwargs):
        for name in _SERVICE:
            kwargs.pop(name, None)
        unknown = sorted(set(kwargs) - set(_FORWARD))
        if unknown:
            raise InputError(f"robot-policy pipeline: unknown option {unknown[0]!r}; there are {', '.join(_FORWARD)}.")
        if kwargs.get("generator") is not None and kwargs.get("seed") is not None:
            raise InputError("seed and generator: give one of them, not both.")
        return {}, kwargs, {}

    def preprocess(self, observation: Mapping):
        return dict(self.processor.process_observations([observation]))

    def _forward(self, inputs, return_video: bool = False, seed: int | None = None, **sampling):
        if seed is not None:
            sampling["generator"] = make_generator(seed, self.model.device)
        result = plan(self.model, self.processor, inputs, return_video=return_video, **sampling)
        return (
            {"actions": result.actions} if result.video is None else {"actions": result.actions, "video": result.video}
        )

    def postprocess(self, outputs):
        return {name: tensor[0].numpy() for name, tensor in outputs.items()}

    def get_inference_context(self):
        return torch.inference_mode

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs) -> None:
        """Writes the whole one-folder layout. (transformers' own method forgets the processor and its statistics.)"""
        save_policy(save_directory, self.model, self.processor, **kwargs)


class ShippedModel(dict):
    """The task's default model: the folder inside the package, looked for only when no model is named.

    transformers asks `default["model"]` for (name, revision). A wheel built without the checkpoint then gets one clear
    sentence here, where a plain dictionary would end in a failed Hub look-up of an absolute path.
    """

    def __getitem__(self, key):
        value = super().__getitem__(key)
        if key == "model":
            from ..policy import require_checkpoint

            require_checkpoint(value[0])
        return value
