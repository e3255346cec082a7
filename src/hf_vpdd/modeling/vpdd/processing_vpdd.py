"""VPDDProcessor: observations of a robot -> tensors for the model, and the model's actions -> the robot's units.

Everything that belongs to a robot rather than to a network lives here and travels with the weights: camera names,
image size, state statistics, action bins. A missing statistic is an error that names it, never a pass-through.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from transformers import AutoImageProcessor
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import ProcessorMixin  # the base name must be visible here: diffusers looks for it

from ...errors import InputError
from ..processing import (
    as_cameras,
    check_cameras,
    check_controller_fields,
    check_observations,
    check_range,
    check_size,
    check_tokenizer,
    plain_lists,
    row_statistics,
    scale_from_unit,
    scale_to_unit,
    stack_states,
    standardize,
    statistic_rows,
    to_float,
    tokenize_sentences,
)
from ..saved_files import SavedProcessor
from .action_bins import ActionBins, fit_action_bins
from .configuration_vpdd import VPDDConfig
from .image_processing_vpdd import VPDDImageProcessorPil
from .instruction_tokenizer import train_tokenizer
from .pose_actions import POSE_SIZE, VECTOR_SIZE, fit_pose_bins, pose_to_vector, vector_to_pose


_OBJECTIVES = ("diffusion", "regression")
_LAYOUTS = ("vector", "pose")


class VPDDProcessor(SavedProcessor, ProcessorMixin):
    """Images, instruction, state and actions in the robot's terms <-> tensors in the network's terms.

    Args:
        image_processor: Crop, resize, scaling. Default: made from `image_size`.
        tokenizer: For the instruction. Must pad (have a pad token).
        cameras: Names of the cameras, in the order in which the model sees them.
        image_size: Side of the model's images in pixels; only needed without `image_processor`.
        history_frames: T, frames the model sees per camera, oldest first. Missing ones (episode start) are black.
        history_stride: Environment steps between two of these frames (used by `RobotPolicy`, and by training data).
        chunk_size: Actions the model draws at once.
        execute: How many of them a controller carries out before it asks again. Default: all.
        action_objective: "diffusion" (actions are bins) or "regression" (actions are scaled to [-1, 1]).
        num_action_bins: Width of the action vocabulary; dimensions may use fewer (`valid_bins`).
        max_instruction_length: Tokens an instruction is padded or cut to: static shapes.
        state_stats: {"mean": [...], "std": [...]} per state dimension, in robot units.
        action_stats: {"min": [...], "max": [...]} per action dimension: the legal range. Mean, deviation, quantiles
            and count of the demonstrations may stand in both.
        action_bins: What `fit_action_bins` returns.
        action_layout: What an action in robot units is. "vector": one number per token dimension. "pose": RLBench's
            [x, y, z, qx, qy, qz, qw, gripper_open], 8 numbers for 7 token dimensions (see `pose_actions`).

    Use `VPDDProcessor.from_dataset_stats(...)` to fit statistics and bins to demonstrations.
    """

    def __init__(
        self,
        image_processor=None,
        tokenizer=None,
        cameras=("corner2",),
        image_size=None,
        history_frames=1,
        history_stride=1,
        chunk_size=8,
        execute=None,
        action_objective="diffusion",
        num_action_bins=64,
        max_instruction_length=24,
        state_stats=None,
        action_stats=None,
        action_bins=None,
        action_layout="vector",
    ):
        if tokenizer is None:
            raise InputError("tokenizer: VPDDProcessor needs one, e.g. train_tokenizer(instructions) or CLIP's.")
        check_tokenizer(tokenizer)
        if image_processor is None:
            image_processor = VPDDImageProcessorPil(size=96 if image_size is None else image_size)
        elif image_size is not None and image_size != image_processor.side:
            raise InputError(f"image_size={image_size} contradicts the image processor's {image_processor.side}.")
        super().__init__(image_processor, tokenizer)
        self.cameras = [cameras] if isinstance(cameras, str) else list(cameras)
        self.history_frames = history_frames
        self.history_stride = history_stride
        self.chunk_size = chunk_size
        self.execute = execute
        self.action_objective = action_objective
        self.num_action_bins = num_action_bins
        self.max_instruction_length = max_instruction_length
        self.state_stats = plain_lists(state_stats, "state_stats", ("mean", "std"))
        self.action_stats = plain_lists(action_stats, "action_stats", ("min", "max"))
        self.action_bins = action_bins
        self.action_layout = action_layout
        self._validate()
        self._bins = None if action_bins is None else ActionBins(action_bins, num_action_bins)
        self._stat_tensors: dict = {}

    def _validate(self) -> None:
        check_controller_fields(self, ("history_frames", "history_stride", "chunk_size", "max_instruction_length"))
        if self.action_objective not in _OBJECTIVES:
            raise InputError(f"action_objective: {self.action_objective!r} is none of {', '.join(_OBJECTIVES)}.")
        if self.action_layout not in _LAYOUTS:
            raise InputError(f"action_layout: {self.action_layout!r} is none of {', '.join(_LAYOUTS)}.")
        if self.action_layout == "pose":
            if self.action_objective != "diffusion":
                raise InputError('action_layout="pose" has bins for angles: it needs action_objective="diffusion".')
            if self.action_bins is not None and len(self.action_bins) != VECTOR_SIZE:
                raise InputError(
                    f'action_bins: action_layout="pose" has {VECTOR_SIZE} token dimensions, these bins '
                    f"{len(self.action_bins)}."
                )

    # ---- what the processor knows about the robot -------------------------------------------------------------------

    @property
    def image_size(self) -> int:
        """Side of the model's images in pixels (the image processor's: one truth)."""
        return self.image_processor.side

    @property
    def state_dim(self) -> int | None:
        return None if self.state_stats is None else len(self.state_stats["mean"])

    @property
    def action_dim(self) -> int | None:
        """Token dimensions of one action (the model's `action_dim`)."""
        if self._bins is not None:
            return self._bins.action_dim
        return None if self.action_stats is None else len(self.action_stats["min"])

    @property
    def robot_action_dim(self) -> int | None:
        """Numbers of one action in robot units, as datasets store it and controllers take it."""
        return POSE_SIZE if self.action_layout == "pose" else self.action_dim

    @property
    def valid_bins(self) -> torch.Tensor:
        """(A,) int64: bins in use per action dimension; ids from there to `num_action_bins` are to be masked."""
        return self._require_bins().valid_bins

    @property
    def valid_bin_mask(self) -> torch.Tensor:
        """(A, num_action_bins) bool, True where a bin is in use."""
        return self._require_bins().valid_mask

    @classmethod
    def from_dataset_stats(
        cls,
        actions,
        state,
        tokenizer,
        num_action_bins: int = 64,
        action_low=None,
        action_high=None,
        **kwargs,
    ) -> "VPDDProcessor":
        """A processor whose statistics and bins are fitted to demonstrations.

        Args:
            actions: (N, A) actions of all steps in robot units, or None (action-less video: no policy can use it). For
                `action_layout="pose"`: (N, 8), the keyframes.
            state: (N, Ds) robot states, or None (a model without proprioception).
            action_low, action_high: The robot's legal range, per dimension or one number (Meta-World: -1 and 1).
                Default: what `actions` spans; then an action of other data beyond it cannot be encoded. Of poses: of
                the position in metres, default VPDD's bounds.
            kwargs: The other arguments of `VPDDProcessor`.
        """
        bins, action_stats, state_stats = None, None, None
        if actions is not None:
            actions = np.asarray(actions, dtype=np.float64)
            if kwargs.get("action_layout") == "pose":
                limits = {"low": action_low, "high": action_high}
                limits = {name: limit for name, limit in limits.items() if limit is not None}
                bins = fit_pose_bins(actions, num_action_bins, **limits)
                actions = pose_to_vector(torch.from_numpy(actions)).double().numpy()
            else:
                bins = fit_action_bins(actions, num_action_bins, action_low, action_high)
            limits = {"min": [entry["low"] for entry in bins], "max": [entry["high"] for entry in bins]}
            action_stats = row_statistics(actions) | limits
        if state is not None:
            state = statistic_rows(state, "state")
            state_stats = row_statistics(state)
        return cls(
            tokenizer=tokenizer,
            num_action_bins=num_action_bins,
            state_stats=state_stats,
            action_stats=action_stats,
            action_bins=bins,
            **kwargs,
        )

    def require_policy_statistics(self, state_dim: int | None = None) -> None:
        """Raises an `InputError` that names the first statistic a policy needs and this processor lacks.

        Args:
            state_dim: Size of the state the model expects; 0 or None: it takes none.
        """
        if self.action_objective == "diffusion":
            self._require_bins()
        else:
            self._stat("action_stats", "min")
        if state_dim:
            self._stat("state_stats", "mean")
            if self.state_dim != state_dim:
                raise InputError(
                    f"state_stats: the processor has {self.state_dim} state dimensions, the model expects "
                    f"{state_dim}. Processor and weights come from different runs; load both from one folder."
                )

    # ---- observations in --------------------------------------------------------------------------------------------

    def __call__(self, images, instruction=None, state=None, actions=None, return_tensors: str = "pt") -> BatchFeature:
        """One observation, or a list of them -> model inputs; the batch dimension is always there.

        Args:
            images: {camera: frames} with frames one uint8 image (H,W,3) (numpy, PIL or torch) or the history, oldest
                first: (T,H,W,3) or a list; fewer than `history_frames` are left-padded with black. A list of such
                dictionaries is a batch. With a single camera the bare frames do as well.
            instruction: Sentence, or list of B sentences. None leaves the tokens out.
            state: (Ds,) or (B, Ds) in robot units. None leaves it out.
            actions: (chunk, A) or (B, chunk, A) in robot units, for training. None leaves them out.
            return_tensors: "pt" or "np".

        Returns:
            `BatchFeature` with `pixel_values` (B,V,T,3,S,S) float32 in [-0.5, 0.5], `input_ids` and `attention_mask`
            (B, max_instruction_length), `state` (B, Ds) float32 normalised, `actions` (B, chunk, A): int64 bins
            ("diffusion") or float32 in [-1, 1] ("regression").

        Raises:
            InputError: Anything that does not fit; the message names it.
        """
        batched = isinstance(images, (list, tuple)) and bool(images) and isinstance(images[0], Mapping)
        observations = list(images) if batched else [images]
        size = len(observations)
        frames = torch.stack(
            [self._one_observation(obs, i if batched else None) for i, obs in enumerate(observations)]
        )
        data = {"pixel_values": self.image_processor.to_pixels(frames)}

        if instruction is not None:
            sentences = [instruction] if isinstance(instruction, str) else instruction
            if not isinstance(sentences, (list, tuple)) or len(sentences) != size:
                raise InputError(
                    f"instruction: expected one sentence for each of {size} observations, got {instruction!r}."
                )
            data.update(self.tokenize_instructions(list(sentences)))
        if state is not None:
            state = to_float(state, "state")
            state = state[None] if state.ndim == 1 else state
            if len(state) != size or state.ndim != 2:
                raise InputError(f"state: expected ({size}, state_dim) numbers, got {tuple(state.shape)}.")
            data["state"] = self.normalize_state(state)
        if actions is not None:
            actions = to_float(actions, "actions")
            actions = actions[None] if actions.ndim == 2 else actions
            if len(actions) != size or actions.ndim != 3:
                raise InputError(f"actions: expected ({size}, steps, action_dim), got {tuple(actions.shape)}.")
            diffusion = self.action_objective == "diffusion"
            data["actions"] = self.encode_actions(actions) if diffusion else self.normalize_actions(actions)
        return BatchFeature(data, tensor_type=return_tensors)

    def process_observations(self, observations: Sequence[Mapping], return_tensors: str = "pt") -> BatchFeature:
        """Observations as environments give them, {"images", "state", "instruction"}, -> one batch of model inputs."""
        check_observations(observations, self.state_dim)
        state = None
        if self.state_stats is not None:
            state = stack_states([obs["state"] for obs in observations], self.state_dim)
        return self(
            images=[as_cameras(obs["images"], self.cameras) for obs in observations],
            instruction=[obs["instruction"] for obs in observations],
            state=state,
            return_tensors=return_tensors,
        )

    def _one_observation(self, images, index: int | None) -> torch.Tensor:
        """{camera: frames} -> uint8 (V, T, 3, S, S)."""
        where = "images" if index is None else f"images[{index}]"
        images = check_cameras(images, self.cameras, where)
        views = []
        for camera in self.cameras:
            name = f"{where}[{camera!r}]"
            frames = self.image_processor.frames_to_uint8(images[camera], name)
            absent = self.history_frames - len(frames)
            if absent < 0:
                raise InputError(
                    f"{name}: {len(frames)} frames given, the model sees {self.history_frames} "
                    f"({self.history_stride} steps apart). Give the newest {self.history_frames}."
                )
            if absent:  # VPDD §4.1: before the episode's first frame the camera saw black
                frames = torch.cat([frames.new_zeros(absent, *frames.shape[1:]), frames])
            views.append(frames)
        return torch.stack(views)

    def tokenize_instructions(self, instructions: Sequence[str], return_tensors: str = "pt") -> dict:
        """Sentences -> {"input_ids", "attention_mask"}, int64 (B, max_instruction_length)."""
        return tokenize_sentences(self.tokenizer, instructions, self.max_instruction_length, return_tensors)

    # ---- vectorised transforms, used on whole batches by training too -----------------------------------------------

    def normalize_state(self, state) -> torch.Tensor:
        """(..., Ds) robot units -> zero mean and unit deviation, float32, limited to ±10. NaN is an error."""
        state = to_float(state, "state")
        mean, std = self._stat("state_stats", "mean", state.device), self._stat("state_stats", "std", state.device)
        if state.shape[-1] != len(mean):
            raise InputError(f"state: expected {len(mean)} numbers per observation, got shape {tuple(state.shape)}.")
        return standardize(state, mean, std)

    def encode_actions(self, actions, check: bool = True) -> torch.Tensor:
        """(..., A) robot units -> int64 (..., A) bins; (..., 8) -> (..., 7) for poses. See `ActionBins.encode`."""
        bins, actions = self._require_bins(), torch.as_tensor(actions)
        return bins.encode(pose_to_vector(actions, check) if self.action_layout == "pose" else actions, check=check)

    def decode_actions(self, ids) -> torch.Tensor:
        """int64 (..., A) bins -> float32 (..., A) robot units; (..., 7) -> (..., 8) for poses. See
        `ActionBins.decode`."""
        actions = self._require_bins().decode(torch.as_tensor(ids))
        return vector_to_pose(actions) if self.action_layout == "pose" else actions

    def normalize_actions(self, actions, check: bool = True) -> torch.Tensor:
        """(..., A) robot units -> float32 [-1, 1], linear between the smallest and largest action.

        Raises:
            InputError: With `check`, an action is NaN or outside of the range.
        """
        actions = to_float(actions, "actions", check)
        low, high = (self._stat("action_stats", key, actions.device) for key in ("min", "max"))
        check_size(actions, "actions", len(low))
        if check:
            check_range(actions, low, high)
        return scale_to_unit(actions, low, high)

    def unnormalize_actions(self, actions: torch.Tensor) -> torch.Tensor:
        """(..., A) network output, cut to [-1, 1], -> float32 robot units."""
        low, high = (self._stat("action_stats", key, actions.device) for key in ("min", "max"))
        check_size(actions, "actions", len(low))
        return scale_from_unit(actions.float(), low, high)

    # ---- the model's answers out ------------------------------------------------------------------------------------

    def post_process_actions(self, actions: torch.Tensor, objective: str | None = None) -> torch.Tensor:
        """What `sample_actions` returned (B, chunk, A) -> float32 in the robot's units."""
        objective = self.action_objective if objective is None else objective
        if objective not in _OBJECTIVES:
            raise InputError(f"objective: {objective!r} is none of {', '.join(_OBJECTIVES)}.")
        return self.decode_actions(actions) if objective == "diffusion" else self.unnormalize_actions(actions)

    def post_process_video(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B,V,T,3,H,W) (any number of leading dimensions) in [-0.5, 0.5] -> uint8 (B,V,T,H,W,3), same device."""
        levels = pixels.float().add(0.5).mul_(255).round_().clamp_(0, 255)
        return levels.to(torch.uint8).movedim(-3, -1).contiguous()

    @property
    def model_input_names(self) -> list[str]:
        return ["pixel_values", "input_ids", "attention_mask", "state"]

    # ---- private ----------------------------------------------------------------------------------------------------

    def _require_bins(self) -> ActionBins:
        if self._bins is None:
            raise InputError(
                "action_bins: this processor has none (processor_config.json), so it cannot encode or decode actions. "
                "Build it with VPDDProcessor.from_dataset_stats(actions, ...), or load a fine-tuned policy."
            )
        return self._bins

    def _stat(self, group: str, key: str, device="cpu") -> torch.Tensor:
        """One statistic as a float32 tensor, or an error that says which is missing."""
        if (group, key, device) not in self._stat_tensors:
            values = getattr(self, group)
            if values is None:
                raise InputError(
                    f"{group}: this processor has none (processor_config.json). Build it with "
                    "VPDDProcessor.from_dataset_stats(...), or load a fine-tuned policy."
                )
            self._stat_tensors[group, key, device] = torch.tensor(values[key], dtype=torch.float32, device=device)
        return self._stat_tensors[group, key, device]


# `VPDDProcessor.from_pretrained` looks its image processor up in transformers' table; registered here, it is found
# however this module came to be imported.
AutoImageProcessor.register(VPDDConfig, image_processor_classes={"pil": VPDDImageProcessorPil}, exist_ok=True)


__all__ = ["VPDDProcessor", "train_tokenizer"]
