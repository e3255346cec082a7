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
from ..modeling.saved_files import PUSHING
from ..saving import save_policy
from ..value_planning import as_ranker, check_candidates, plan_by_value


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
    "return_candidates",
    "num_candidates",
    "value_model",
    "value_goals",
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

    Value-guided planning (see `RobotPolicy`): `value_model` and `num_candidates`, with `value_goals` for a value model
    that reads no words, and `return_candidates` for the futures of all candidates.

    Output: {"actions": float32 (chunk, A)} as numpy, with "video": uint8 (T, H, W, 3) if asked. With a value model
    also "values": float32 (N,), "chosen": which of the N it was, "candidate_actions": float32 (N, chunk, A) and, if
    asked, "candidate_videos": uint8 (N, T, H, W, 3).
    """

    _load_processor = True
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    def __init__(self, model, *args, processor=None, **kwargs):
        processor = processor_of_adapter(model, processor)
        check_pair(model, processor)
        self._rankers: dict = {}
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
        if "num_candidates" in kwargs or "value_model" in kwargs or "value_goals" in kwargs:
            kwargs = self._with_ranker(kwargs)
        return {}, kwargs, {}

    def _with_ranker(self, options: dict) -> dict:
        """A value model named by its folder is loaded once; what was said at construction holds for every call."""
        said = {**getattr(self, "_forward_params", {}), **options}
        value_model, goals = options.get("value_model"), options.pop("value_goals", None)
        if value_model is None:
            if goals is not None:
                raise InputError("value_goals: they are for a value_model; give both together.")
        else:
            named = isinstance(value_model, (str, os.PathLike)) and (
                goals is None or isinstance(goals, (str, os.PathLike))
            )
            key = (str(value_model), str(goals)) if named else None
            if key is None or self._rankers.get(key) is None:
                self._rankers[key] = as_ranker(value_model, goals, self.model.device)
            options["value_model"] = said["value_model"] = self._rankers[key]
        ranker, count = said.get("value_model"), said.get("num_candidates", 1)
        check_candidates(self.model, count, said, ranked=ranker is not None)
        if ranker is not None:
            ranker.check_policy(self.model, self.processor, count)
        return options

    def __call__(self, inputs, *args, **kwargs):
        if isinstance(inputs, (list, tuple)) and not inputs:  # transformers asks for inputs[0]
            self._sanitize_parameters(**{k: v for k, v in kwargs.items() if k not in ("batch_size", "num_workers")})
            return []
        return super().__call__(inputs, *args, **kwargs)

    def preprocess(self, observation: Mapping):
        # transformers moves tensors and leaves the sentence alone
        inputs = self.processor.process_observations([observation])
        return {**inputs, "instruction": str(observation.get("instruction", ""))}

    def _forward(
        self, inputs, seed: int | None = None, value_model=None, num_candidates: int = 1, return_candidates=False,
        **options,
    ):  # fmt: skip
        said = inputs.pop("instruction")
        if seed is not None:
            options["generator"] = make_generator(seed, self.model.device)
        if value_model is None:
            if return_candidates:
                raise InputError("return_candidates: there are none without a value_model.")
            result = plan(self.model, self.processor, inputs, **options)
        else:
            result = plan_by_value(
                self.model, self.processor, inputs, value_model, [said] if isinstance(said, str) else said,
                num_candidates, return_candidates=return_candidates, **options,
            )  # fmt: skip
        names = ("actions", "video", "values", "chosen", "candidate_actions", "candidate_videos")
        return {name: value for name in names if (value := getattr(result, name)) is not None}

    def postprocess(self, outputs):
        return {name: tensor[0].numpy() for name, tensor in outputs.items()}

    def get_inference_context(self):
        return torch.inference_mode

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs) -> None:
        """Writes the whole one-folder layout. (transformers' own method forgets the processor and its statistics.)"""
        hub = {name: kwargs.pop(name) for name in PUSHING if name in kwargs}
        pushing = kwargs.pop("push_to_hub", False)
        save_policy(save_directory, self.model, self.processor, **kwargs)
        if pushing:
            self.push_to_hub(hub.pop("repo_id", os.path.basename(os.path.normpath(save_directory))), **hub)

    def push_to_hub(self, repo_id: str, **kwargs):
        """The one-folder layout on the Hub, in one commit; options as of [`hf_vpdd.push_to_hub`]."""
        from ..hub.push import push_saved

        return push_saved(self.save_pretrained, repo_id, **kwargs)


def processor_of_adapter(model, processor):
    """The processor to use: `pipeline("robot-policy", model=ID)` of an adapter on the Hub loads its base's, with the
    statistics of other data. Where it did so, the adapter's own takes its place."""
    base, folder = getattr(model, "adapter_base", None), getattr(model, "adapter_folder", None)
    if processor is None or folder is None or os.path.isdir(model.name_or_path):
        return processor
    from transformers import AutoProcessor

    try:
        # as it is now, which is what transformers took, and as it was
        of_base = [AutoProcessor.from_pretrained(base.name, revision=which) for which in {None, base.revision}]
    except (OSError, InputError):  # the base has none: this one was given
        return processor
    given = processor.to_dict()
    return AutoProcessor.from_pretrained(folder) if given in [one.to_dict() for one in of_base] else processor


class ShippedModel(dict):
    """The task's default model: the folder inside the package, looked for only when no model is named.

    transformers asks `default["model"]` for (name, revision). A wheel built without the checkpoint then gets one clear
    sentence here, where a plain dictionary would end in a failed Hub look-up of an absolute path.
    """

    def __getitem__(self, key):
        value = super().__getitem__(key)
        if key == "model":
            from ..checkpoint_files import require_checkpoint

            require_checkpoint(value[0])
        return value
