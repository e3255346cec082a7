"""VPTRProcessor: observations of a robot -> tensors for V-PTR, and its actions -> the robot's units.

What belongs to a robot rather than to a network lives here and travels with the weights: camera, image size, state
statistics, the range of the actions, names of the tasks. A missing statistic is an error that names it.
"""

import os
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from transformers import AutoImageProcessor
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import ProcessorMixin  # the base name must be visible here: diffusers looks for it

from ...errors import InputError
from ..processing import (
    check_size,
    check_tokenizer,
    plain_lists,
    row_statistics,
    scale_from_unit,
    stack_states,
    standardize,
    statistic_rows,
    to_float,
    tokenize_sentences,
)
from ..saved_files import SavedProcessor
from .configuration_vptr import CONDITIONS, INTENTS, VPTRConfig
from .image_processing_vptr import VPTRImageProcessorPil


class VPTRProcessor(SavedProcessor, ProcessorMixin):
    """Images, task, state and actions in the robot's terms <-> tensors in the network's terms.

    Args:
        image_processor: Crop, resize, scaling to [0, 1]. Default: made from `image_size`.
        tokenizer: For sentences; needed where the policy's `condition` or the value's `intent` is "text".
        cameras: The name of the camera; V-PTR looks through one.
        image_size: Side of the model's images in pixels; only needed without `image_processor`.
        condition: What tells the policy its task: "task", "text", "goal_image" or "none" (see `VPTRConfig`).
        intent: What tells the value its intent: "image" or "text".
        tasks: Names (instructions) of the tasks, in the order of their ids, for `condition="task"`.
        state_stats: {"mean": [...], "std": [...]} per state dimension, in robot units. None: no state is read.
        action_low, action_high: The range of each action dimension in robot units, mapped to [-1, 1].
        action_limit: Actions are cut to +-this in training (the squashed Gaussian never reaches 1), spec §2.3.
        max_instruction_length: Tokens a sentence is padded or cut to; None without a tokenizer.
        execute: Steps of a plan a controller carries out: 1, as long as plans have one step.
        action_stats: What a dataset's actions are held against: {"min": [...], "max": [...]} and more, as for
            `state_stats`; None if the policy did not learn recorded actions. Nothing is scaled by it.
    """

    history_frames = 1  # the actor has no memory, and plans one step
    history_stride = 1
    chunk_size = 1

    def __init__(
        self,
        image_processor=None,
        tokenizer=None,
        cameras=("corner2",),
        image_size=None,
        condition="task",
        intent="image",
        tasks=None,
        state_stats=None,
        action_low=None,
        action_high=None,
        action_limit=0.99,
        max_instruction_length=None,
        execute=None,
        action_stats=None,
    ):
        if image_processor is None:
            image_processor = VPTRImageProcessorPil(size=224 if image_size is None else image_size)
        elif image_size is not None and image_size != image_processor.side:
            raise InputError(f"image_size={image_size} contradicts the image processor's {image_processor.side}.")
        super().__init__(image_processor)
        self._tokenizer = tokenizer
        if tokenizer is not None:
            check_tokenizer(tokenizer)
        self.cameras = [cameras] if isinstance(cameras, str) else list(cameras)
        self.condition, self.intent = condition, intent
        self.tasks = None if tasks is None else list(tasks)
        self.state_stats = plain_lists(state_stats, "state_stats", ("mean", "std"))
        self.action_low, self.action_high = (_plain_list(v) for v in (action_low, action_high))
        self.action_stats = plain_lists(action_stats, "action_stats", ("min", "max"))
        self.action_limit = action_limit
        self.max_instruction_length = max_instruction_length
        if tokenizer is not None and max_instruction_length is None:
            self.max_instruction_length = 24
        self.execute = execute
        self._validate()
        self._tensors: dict = {}

    def _validate(self) -> None:
        if len(self.cameras) != 1:
            raise InputError(f"cameras: V-PTR looks through one camera, got {self.cameras}.")
        for name, allowed in (("condition", CONDITIONS), ("intent", INTENTS)):
            if getattr(self, name) not in allowed:
                raise InputError(f"{name}: {getattr(self, name)!r} is none of {', '.join(allowed)}.")
        if "text" in (self.condition, self.intent) and self._tokenizer is None:
            raise InputError(
                'tokenizer: condition="text" and intent="text" need one, e.g. train_tokenizer(sentences).'
            )
        if self.tasks is not None and len(set(self.tasks)) != len(self.tasks):
            raise InputError(f"tasks: expected distinct names, got {self.tasks}.")
        if self.execute not in (None, 1):
            raise InputError(f"execute: a plan has one step, got {self.execute}.")
        if not 0 < self.action_limit <= 1:
            raise InputError(f"action_limit: must lie in (0, 1], got {self.action_limit}.")
        low, high = self.action_low, self.action_high
        if (low is None) != (high is None) or (low is not None and len(low) != len(high)):
            raise InputError(f"action_low, action_high: give both, of one length; got {low} and {high}.")
        if low is not None and not all(a < b for a, b in zip(low, high)):
            raise InputError(f"action_low must lie below action_high in every dimension, got {low} and {high}.")

    # ---- saving: the tokenizer is optional, which transformers' own methods do not foresee --------------------------

    @property
    def tokenizer(self):
        """None where nothing is said in words."""
        return self._tokenizer

    @classmethod
    def get_attributes(cls) -> list[str]:
        return ["image_processor"]

    @classmethod
    def _get_arguments_from_pretrained(cls, pretrained_model_name_or_path, processor_dict=None, **kwargs):
        arguments = super()._get_arguments_from_pretrained(pretrained_model_name_or_path, processor_dict, **kwargs)
        if (processor_dict or {}).get("max_instruction_length") is not None:
            arguments.append(cls._load_tokenizer_from_pretrained("tokenizer", pretrained_model_name_or_path, **kwargs))
        return arguments

    def save_pretrained(self, save_directory, push_to_hub: bool = False, **kwargs):
        """Writes `processor_config.json`, and the tokenizer's files where there is one."""
        files = super().save_pretrained(save_directory)
        if self._tokenizer is not None:
            self._tokenizer._set_processor_class(type(self).__name__)
            files += self._tokenizer.save_pretrained(save_directory)
        if push_to_hub:
            self.push_to_hub(kwargs.pop("repo_id", os.path.basename(os.path.normpath(save_directory))), **kwargs)
        return files

    # ---- what the processor knows about the robot -------------------------------------------------------------------

    @property
    def image_size(self) -> int:
        """Side of the model's images in pixels (the image processor's: one truth)."""
        return self.image_processor.side

    @property
    def action_objective(self) -> str:
        """Always "regression": actions are numbers, not bins."""
        return "regression"

    @property
    def state_dim(self) -> int:
        return 0 if self.state_stats is None else len(self.state_stats["mean"])

    @property
    def action_dim(self) -> int | None:
        return None if self.action_low is None else len(self.action_low)

    @property
    def model_input_names(self) -> list[str]:
        condition = {"task": ["task_ids"], "text": ["input_ids", "attention_mask"]}
        condition |= {"goal_image": ["goal_pixel_values"], "none": []}
        return ["pixel_values", *condition[self.condition], "state"]

    @classmethod
    def from_dataset_stats(cls, actions, state, action_low=None, action_high=None, **kwargs) -> "VPTRProcessor":
        """A processor whose statistics are those of demonstrations.

        Args:
            actions: (N, A) actions of all steps in robot units, or None (action-less video: no policy can use it).
            state: (N, Ds) robot states, or None (a model without proprioception).
            action_low, action_high: The robot's legal range, per dimension or one number. Default: what `actions`
                spans; actions of other data beyond it are cut.
            kwargs: The other arguments of `VPTRProcessor`.
        """
        low = high = stats = action_stats = None
        if actions is not None:
            actions = statistic_rows(actions, "actions")
            low = actions.min(axis=0) if action_low is None else np.broadcast_to(action_low, actions.shape[1:])
            high = actions.max(axis=0) if action_high is None else np.broadcast_to(action_high, actions.shape[1:])
            flat = np.flatnonzero(~(low < high))
            if len(flat):
                raise InputError(
                    f"actions: dimension {int(flat[0])} never moves (always {float(low[flat[0]]):g}), so its range is "
                    "unknown: give action_low and action_high."
                )
            action_stats = row_statistics(actions) | {"min": low, "max": high}
        if state is not None:
            state = statistic_rows(state, "state")
            stats = row_statistics(state)
        return cls(state_stats=stats, action_low=low, action_high=high, action_stats=action_stats, **kwargs)

    def require_policy_statistics(self, state_dim: int | None = None) -> None:
        """Raises an `InputError` that names the first statistic a policy needs and this processor lacks."""
        self._stat("action_low")
        if state_dim:
            self._stat("state_mean")
        if self.state_dim != (state_dim or 0):
            raise InputError(
                f"state_stats: the processor has {self.state_dim} state dimensions, the model expects {state_dim}. "
                "Processor and weights come from different runs; load both from one folder."
            )

    def check_model(self, config: VPTRConfig) -> None:
        """Raises an `InputError` where a policy of this `config` is told its task in another way, or has others."""
        pairs = [("condition", self.condition, config.condition)]
        if config.condition == "task":
            pairs.append(("tasks", self.tasks, config.tasks))
        for name, ours, theirs in pairs:
            if ours != theirs:
                raise InputError(
                    f"processor and model disagree about the {name}: {ours} and {theirs}. They come from different "
                    "runs; load both from one folder."
                )

    # ---- observations in --------------------------------------------------------------------------------------------

    def __call__(
        self, images, instruction=None, state=None, actions=None, goal=None, return_tensors: str = "pt"
    ) -> BatchFeature:
        """One observation, or a list of them -> model inputs; the batch dimension is always there.

        Args:
            images: {camera: frame} with a uint8 image (H, W, 3) (numpy, PIL or torch); a list of such dictionaries is
                a batch. The bare frame, or a stack (B, H, W, 3) or list of them, does as well.
            instruction: Sentence, or list of B sentences: the name of the task (`condition="task"`), or what to do.
            state: (Ds,) or (B, Ds) in robot units. None leaves it out.
            actions: (A,) or (B, A) in robot units, for training. None leaves them out.
            goal: Goal image, or B of them, for `condition="goal_image"` and for values.
            return_tensors: "pt" or "np".

        Returns:
            `BatchFeature` with `pixel_values` (B, 3, S, S) float32 in [0, 1]; of the instruction `task_ids` int64 (B,)
            or `input_ids` and `attention_mask` (B, max_instruction_length); `goal_pixel_values` like `pixel_values`;
            `state` (B, Ds) normalised; `actions` (B, A) in [-action_limit, action_limit].

        Raises:
            InputError: Anything that does not fit; the message names it.
        """
        frames = self._frames(images, "images")
        size = len(frames)
        data = {"pixel_values": self.image_processor.to_pixels(frames)}
        if instruction is not None:
            sentences = [instruction] if isinstance(instruction, str) else list(instruction)
            if len(sentences) != size:
                raise InputError(f"instruction: expected one for each of {size} observations, got {instruction!r}.")
            data.update(self._instructions(sentences))
        if goal is not None:
            goals = self._frames(goal, "goal")
            if len(goals) not in (1, size):
                raise InputError(
                    f"goal: expected one image, or one for each of {size} observations, got {len(goals)}."
                )
            data["goal_pixel_values"] = self.image_processor.to_pixels(goals).expand(size, -1, -1, -1)
        for name, values, normalize in (
            ("state", state, self.normalize_state),
            ("actions", actions, self.normalize_actions),
        ):
            if values is not None:
                values = to_float(values, name)
                values = values[None] if values.ndim == 1 else values
                if len(values) != size or values.ndim != 2:
                    raise InputError(f"{name}: expected ({size}, dimensions) numbers, got {tuple(values.shape)}.")
                data[name] = normalize(values)
        return BatchFeature(data, tensor_type=return_tensors)

    def process_observations(self, observations: Sequence[Mapping], return_tensors: str = "pt") -> BatchFeature:
        """Observations as environments give them, {"images", "state", "instruction"}, with "goal", a uint8 image, for
        `condition="goal_image"`, -> one batch of model inputs."""
        if not observations:
            raise InputError("observations: the list is empty.")
        needed = ["images"] + (["instruction"] if self.condition in ("task", "text") else [])
        needed += (["goal"] if self.condition == "goal_image" else []) + (["state"] if self.state_dim else [])
        for i, obs in enumerate(observations):
            if not isinstance(obs, Mapping):
                raise InputError(f"observation {i}: expected a dictionary, got {type(obs).__name__}.")
            for name in needed:
                if obs.get(name) is None:
                    raise InputError(
                        f"observation {i}: {name!r} is missing; this policy needs {', '.join(needed)}, got "
                        f"{sorted(map(str, obs))}."
                    )
        rows = {name: [obs[name] for obs in observations] for name in needed}
        state = None
        if self.state_dim:
            state = stack_states(rows["state"], self.state_dim)
        return self(
            rows["images"], rows.get("instruction"), state, goal=rows.get("goal"), return_tensors=return_tensors
        )

    def _frames(self, images, name: str) -> torch.Tensor:
        """One or several frames, bare or under the camera's name -> uint8 (B, 3, S, S)."""
        several = isinstance(images, (list, tuple)) and len(images) and isinstance(images[0], (Mapping, list, tuple))
        if several or isinstance(images, (list, tuple)) and len(images):
            return torch.cat([self._one(one, f"{name}[{i}]") for i, one in enumerate(images)])
        return self._one(images, name, stack=True)

    def _one(self, image, name: str, stack: bool = False) -> torch.Tensor:
        if isinstance(image, Mapping):
            if self.cameras[0] not in image or len(image) > 1:
                raise InputError(
                    f"{name}: expected one frame of the camera {self.cameras}, got {sorted(map(str, image))}."
                )
            image, name, stack = image[self.cameras[0]], f"{name}[{self.cameras[0]!r}]", False
        frames = self.image_processor.frames_to_uint8(image, name)
        if len(frames) != 1 and not stack:
            raise InputError(f"{name}: {len(frames)} frames given; V-PTR sees the newest one only.")
        return frames

    def _instructions(self, sentences: Sequence) -> dict:
        if self.condition == "task":
            return {"task_ids": self.task_ids(sentences)}
        return self.tokenize_instructions(sentences) if self.condition == "text" or self.intent == "text" else {}

    def task_ids(self, names: Sequence[str | int]) -> torch.Tensor:
        """Names of tasks (or their ids) -> int64 ids (B,).

        Raises:
            InputError: A task that is not in the table.
        """
        if not self.tasks:
            raise InputError("tasks: this processor has no table of tasks; load a policy that was trained on some.")
        table = {name: i for i, name in enumerate(self.tasks)}
        ids = []
        for i, name in enumerate(names):
            known = 0 <= name < len(self.tasks) if isinstance(name, int) else name in table
            if not known:
                raise InputError(
                    f"instruction {i}: {name!r} is not in the policy's table of {len(self.tasks)} tasks: "
                    f"{'; '.join(self.tasks[:8])}{' ...' if len(self.tasks) > 8 else ''}"
                )
            ids.append(name if isinstance(name, int) else table[name])
        return torch.tensor(ids, dtype=torch.int64)

    def tokenize_instructions(self, instructions: Sequence[str], return_tensors: str = "pt") -> dict:
        """Sentences -> {"input_ids", "attention_mask"}, int64 (B, max_instruction_length)."""
        if self._tokenizer is None:
            raise InputError("instruction: this model reads no sentences (its processor has no tokenizer).")
        return tokenize_sentences(self._tokenizer, instructions, self.max_instruction_length, return_tensors)

    # ---- vectorised transforms, used on whole batches by training too -----------------------------------------------

    def normalize_state(self, state) -> torch.Tensor:
        """(..., Ds) robot units -> zero mean and unit deviation, float32, limited to +-10. NaN is an error."""
        state = to_float(state, "state")
        mean, std = self._stat("state_mean", state.device), self._stat("state_std", state.device)
        if state.shape[-1] != len(mean):
            raise InputError(f"state: expected {len(mean)} numbers per observation, got shape {tuple(state.shape)}.")
        return standardize(state, mean, std)

    def normalize_actions(self, actions, check: bool = True) -> torch.Tensor:
        """(..., A) robot units -> float32, linear from [low, high] to [-1, 1], cut to +-action_limit.

        Raises:
            InputError: Another number of dimensions; with `check`, an action that is not finite.
        """
        actions = to_float(actions, "actions", check)
        low, high = self._stat("action_low", actions.device), self._stat("action_high", actions.device)
        check_size(actions, "actions", len(low))
        return (2 * (actions - low) / (high - low) - 1).clamp_(-self.action_limit, self.action_limit)

    def unnormalize_actions(self, actions: torch.Tensor) -> torch.Tensor:
        """(..., A) of the network, cut to [-1, 1], -> float32 robot units."""
        low, high = self._stat("action_low", actions.device), self._stat("action_high", actions.device)
        check_size(actions, "actions", len(low))
        return scale_from_unit(actions.float(), low, high)

    def post_process_actions(self, actions: torch.Tensor, objective: str | None = None) -> torch.Tensor:
        """What `sample_actions` returned (B, 1, A) -> float32 in the robot's units."""
        if objective not in (None, self.action_objective):
            raise InputError(f"objective: V-PTR's actions are numbers ({self.action_objective!r}), not {objective!r}.")
        return self.unnormalize_actions(actions)

    # ---- private ----------------------------------------------------------------------------------------------------

    def _stat(self, name: str, device="cpu") -> torch.Tensor:
        """One statistic as a float32 tensor, or an error that says which is missing."""
        if (name, device) not in self._tensors:
            group = "state_stats" if name.startswith("state_") else name
            values = getattr(self, group)
            if values is None:
                raise InputError(
                    f"{group}: this processor has none (processor_config.json). Build it with "
                    "VPTRProcessor.from_dataset_stats(...), or load a policy trained on demonstrations."
                )
            values = values[name.removeprefix("state_")] if group == "state_stats" else values
            self._tensors[name, device] = torch.tensor(values, dtype=torch.float32, device=device)
        return self._tensors[name, device]


def _plain_list(values) -> list[float] | None:
    """Arrays -> lists of finite floats (JSON)."""
    if values is None:
        return None
    plain = np.asarray(values, dtype=np.float64).reshape(-1)
    if not np.isfinite(plain).all():
        raise InputError(f"statistics must be finite, got {plain.tolist()}.")
    return plain.tolist()


# Found by `from_pretrained` however this module came to be imported.
AutoImageProcessor.register(VPTRConfig, image_processor_classes={"pil": VPTRImageProcessorPil}, exist_ok=True)


__all__ = ["VPTRProcessor"]
