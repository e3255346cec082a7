"""GR1Processor: windows of observations of a robot -> tensors for GR-1, and its actions -> the robot's units."""

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
    standardize,
    statistic_rows,
    to_float,
    tokenize_sentences,
)
from ..saved_files import SavedProcessor
from .configuration_gr1 import GR1Config
from .image_processing_gr1 import GR1ImageProcessorPil


NORMALIZATIONS = ("raw", "statistics")


class GR1Processor(SavedProcessor, ProcessorMixin):
    """Images, instruction, states and actions in the robot's terms <-> tensors in the network's terms.

    Two ways to treat numbers (`normalization`):

    * "raw", the released network: states and actions as they are (CALVIN: pose in m and rad, `rel_actions`), but for
      the grippers, -1 closed and 1 open, which become 0 and 1.
    * "statistics": states to mean 0 and deviation 1, actions to [-1, 1], grippers to 0 and 1 by their smallest and
      largest values. For any other robot.

    Args:
        image_processor: Resize and normalisation. Default: made from `image_size`.
        tokenizer: For the instruction; officially CLIP's. Must pad (have a pad token).
        cameras: Names of the cameras, in the order in which the model sees them.
        image_size: Side of the model's images in pixels; only needed without `image_processor`. Officially 224.
        history_frames: Steps of the longest window.
        history_stride: Environment steps between two of these steps.
        chunk_size: Actions the model predicts at once.
        execute: How many of them a controller carries out before it asks again. Default: all.
        state_dim, action_dim: Numbers in a state (0: none) and in an action.
        binary_gripper_state, binary_gripper_action: The last number is a gripper that is open or closed.
        normalization: "raw" or "statistics".
        max_instruction_length: Tokens an instruction is padded or cut to: static shapes.
        state_stats: {"mean": [...], "std": [...], "min": [...], "max": [...]} per dimension, in robot units.
        action_stats: {"min": [...], "max": [...]} per dimension: the range that is scaled. Quantiles and count of the
            demonstrations may stand in both.

    Use `GR1Processor.from_dataset_stats(...)` to fit statistics to demonstrations.
    """

    def __init__(
        self,
        image_processor=None,
        tokenizer=None,
        cameras=("rgb_static", "rgb_gripper"),
        image_size=None,
        history_frames=10,
        history_stride=1,
        chunk_size=1,
        execute=None,
        state_dim=7,
        action_dim=7,
        binary_gripper_state=True,
        binary_gripper_action=True,
        normalization="raw",
        max_instruction_length=77,
        state_stats=None,
        action_stats=None,
    ):
        if tokenizer is None:
            raise InputError("tokenizer: GR1Processor needs one, CLIP's or e.g. train_tokenizer(instructions).")
        check_tokenizer(tokenizer)
        if image_processor is None:
            image_processor = GR1ImageProcessorPil(size=224 if image_size is None else image_size)
        elif image_size is not None and image_size != image_processor.side:
            raise InputError(f"image_size={image_size} contradicts the image processor's {image_processor.side}.")
        super().__init__(image_processor, tokenizer)
        self.cameras = [cameras] if isinstance(cameras, str) else list(cameras)
        self.history_frames = history_frames
        self.history_stride = history_stride
        self.chunk_size = chunk_size
        self.execute = execute
        self.state_dim = state_dim
        self.action_dim = action_dim
        self.binary_gripper_state = binary_gripper_state
        self.binary_gripper_action = binary_gripper_action
        self.normalization = normalization
        self.max_instruction_length = max_instruction_length
        state_keys = ("mean", "std") + (("min", "max") if binary_gripper_state else ())
        self.state_stats = plain_lists(state_stats, "state_stats", state_keys)
        self.action_stats = plain_lists(action_stats, "action_stats", ("min", "max"))
        self._validate()

    def _validate(self) -> None:
        fields = ("history_frames", "history_stride", "chunk_size", "max_instruction_length", "action_dim")
        check_controller_fields(self, fields)
        if self.normalization not in NORMALIZATIONS:
            raise InputError(f"normalization: {self.normalization!r} is none of {', '.join(NORMALIZATIONS)}.")
        for name, size in (("state", self.state_dim), ("action", self.action_dim)):
            stats = getattr(self, f"{name}_stats")
            found = size if stats is None else len(stats["mean" if name == "state" else "min"])
            if found != size:
                raise InputError(f"{name}_stats: of {found} dimensions, but {name}_dim is {size}.")

    state_history = True  # for controllers: a window has a state for every frame, not only for the newest

    # ---- what the processor knows about the robot -------------------------------------------------------------------

    @property
    def image_size(self) -> int:
        """Side of the model's images in pixels."""
        return self.image_processor.side

    @property
    def action_objective(self) -> str:
        """Always "regression": actions are numbers, not bins."""
        return "regression"

    @property
    def model_input_names(self) -> list[str]:
        return ["pixel_values", "input_ids", "attention_mask", "state", "step_mask"]

    @classmethod
    def from_dataset_stats(
        cls, actions, state, tokenizer, action_low=None, action_high=None, **kwargs
    ) -> "GR1Processor":
        """A processor with normalization "statistics", fitted to demonstrations.

        Args:
            actions: (N, A) actions of all steps in robot units, or None (action-less video: no policy can use it).
            state: (N, Ds) robot states, or None (a model without states).
            action_low, action_high: The robot's legal range, per dimension or one number. Default: what `actions`
                spans; then an action of other data beyond it cannot be encoded.
            kwargs: The other arguments of `GR1Processor`.
        """
        action_stats, state_stats = None, None
        if actions is not None:
            actions = statistic_rows(actions, "actions")
            low = actions.min(axis=0) if action_low is None else np.broadcast_to(action_low, actions.shape[1:])
            high = actions.max(axis=0) if action_high is None else np.broadcast_to(action_high, actions.shape[1:])
            action_stats = row_statistics(actions) | {"min": low, "max": high}
            kwargs["action_dim"] = actions.shape[1]
        kwargs["state_dim"] = 0
        if state is not None:
            state = statistic_rows(state, "state")
            state_stats = row_statistics(state)
            kwargs["state_dim"] = state.shape[1]
        return cls(
            tokenizer=tokenizer,
            normalization="statistics",
            state_stats=state_stats,
            action_stats=action_stats,
            **kwargs,
        )

    def require_policy_statistics(self, state_dim: int | None = None) -> None:
        """Raises an `InputError` that names the first statistic a policy needs and this processor lacks.

        Args:
            state_dim: Size of the state the model expects; 0 or None: it takes none.
        """
        if self.normalization == "statistics":
            self._stat("action_stats", "min")
            if state_dim:
                self._stat("state_stats", "mean")
        if state_dim and self.state_dim != state_dim:
            raise InputError(
                f"state_dim: the processor has {self.state_dim} state dimensions, the model expects {state_dim}. "
                "Processor and weights come from different runs; load both from one folder."
            )

    # ---- observations in --------------------------------------------------------------------------------------------

    def __call__(self, images, instruction=None, state=None, actions=None, return_tensors: str = "pt") -> BatchFeature:
        """One window of observations, or a list of them -> model inputs; the batch dimension is always there.

        Args:
            images: {camera: frames} with frames one uint8 image (H, W, 3) (numpy, PIL or torch) or a window, oldest
                first: (T, H, W, 3) or a list, T up to `history_frames` and the same for every camera. A list of such
                dictionaries is a batch; its windows may differ in length. With one camera the bare frames do as well.
            instruction: Sentence, or list of B sentences. None leaves the tokens out.
            state: (T, Ds), or (Ds,) for a window of one step, in robot units; a list of them for a batch. None leaves
                it out.
            actions: (T, chunk, A), or (T, A) for chunks of one, for training; a list of them for a batch.
            return_tensors: "pt" or "np".

        Returns:
            `BatchFeature` with `pixel_values` (B, V, T, 3, S, S) float32, `step_mask` bool (B, T), `input_ids` and
            `attention_mask` (B, max_instruction_length), `state` (B, T, Ds) and `actions` (B, T, chunk, A) float32.
            Shorter windows are padded *at the end* with zeros, where `step_mask` is False.

        Raises:
            InputError: Anything that does not fit; the message names it.
        """
        batched = isinstance(images, (list, tuple)) and bool(images) and isinstance(images[0], Mapping)
        windows = list(images) if batched else [images]
        size = len(windows)
        pixels = [
            self.process_window(window, f"images[{i}]" if batched else "images") for i, window in enumerate(windows)
        ]
        lengths = [window.shape[1] for window in pixels]
        data = {"pixel_values": self.pad_steps(pixels, dim=1)}
        data["step_mask"] = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]

        if instruction is not None:
            sentences = [instruction] if isinstance(instruction, str) else instruction
            if not isinstance(sentences, (list, tuple)) or len(sentences) != size:
                raise InputError(
                    f"instruction: expected one sentence for each of {size} observations, got {instruction!r}."
                )
            data.update(self.tokenize_instructions(list(sentences)))
        if state is not None:
            rows = self._rows_of(state, "state", batched, lengths, (self.state_dim,))
            data["state"] = self.pad_steps([self.normalize_state(row) for row in rows])
        if actions is not None:
            shape = (self.chunk_size, self.action_dim)
            rows = self._rows_of(actions, "actions", batched, lengths, shape)
            data["actions"] = self.pad_steps([self.normalize_actions(row) for row in rows])
        return BatchFeature(data, tensor_type=return_tensors)

    def process_observations(self, observations: Sequence[Mapping], return_tensors: str = "pt") -> BatchFeature:
        """Observations as environments give them, {"images", "state", "instruction"}, -> one batch of model inputs.

        Frames and states may be windows, as in `__call__`.
        """
        self.check_observations(observations)
        return self(
            images=[as_cameras(obs["images"], self.cameras) for obs in observations],
            instruction=[obs["instruction"] for obs in observations],
            state=[obs["state"] for obs in observations] if self.state_dim else None,
            return_tensors=return_tensors,
        )

    def check_observations(self, observations: Sequence[Mapping]) -> None:
        """Raises an `InputError` that names the first observation without images, instruction or state."""
        check_observations(observations, self.state_dim)

    # ---- the parts of it, for a controller that has encoded some frames before --------------------------------------

    def frames_of_cameras(self, images, where: str = "images") -> dict[str, list]:
        """Images of one observation -> camera -> list of its T frames, oldest first, as they came."""
        images = check_cameras(images, self.cameras, where)
        frames = {}
        for camera in self.cameras:
            given = images[camera]
            listed = isinstance(given, (list, tuple))
            frames[camera] = list(given) if listed or getattr(given, "ndim", 3) == 4 else [given]
        self._check_lengths({camera: len(given) for camera, given in frames.items()}, where)
        return frames

    def process_window(self, images, where: str = "images") -> torch.Tensor:
        """{camera: frames}, T of each -> pixel_values (V, T, 3, S, S)."""
        images = check_cameras(images, self.cameras, where)
        frames = {
            camera: self.image_processor.frames_to_uint8(images[camera], f"{where}[{camera!r}]")
            for camera in self.cameras
        }
        self._check_lengths({camera: len(given) for camera, given in frames.items()}, where)
        return torch.stack([self.image_processor.to_pixels(given) for given in frames.values()])

    def state_windows(self, states: Sequence, lengths: Sequence[int]) -> torch.Tensor:
        """States of every window, (T, Ds) each, T as in `lengths` -> (B, longest, Ds), zeros at the end."""
        rows = self._rows_of(states, "state", True, list(lengths), (self.state_dim,))
        return self.pad_steps([self.normalize_state(row) for row in rows])

    @staticmethod
    def pad_steps(windows: list[torch.Tensor], dim: int = 0) -> torch.Tensor:
        """Windows of different length -> one batch, zeros at the end of dimension `dim`."""
        longest = max(window.shape[dim] for window in windows)
        if all(window.shape[dim] == longest for window in windows):
            return torch.stack(windows)
        batch = windows[0].new_zeros(len(windows), *windows[0].shape[:dim], longest, *windows[0].shape[dim + 1 :])
        for row, window in zip(batch, windows):
            row.narrow(dim, 0, window.shape[dim]).copy_(window)
        return batch

    def _check_lengths(self, lengths: Mapping[str, int], where: str) -> None:
        for camera, length in lengths.items():
            if length > self.history_frames:
                raise InputError(
                    f"{where}[{camera!r}]: {length} frames given, expected at most {self.history_frames}, the newest "
                    f"({self.history_stride} steps apart)."
                )
            if length != lengths[self.cameras[0]]:
                raise InputError(
                    f"{where}[{camera!r}]: {length} frames given, expected {lengths[self.cameras[0]]}, as camera "
                    f"{self.cameras[0]!r} has."
                )

    def _rows_of(self, values, name: str, batched: bool, lengths: list[int], shape: tuple[int, ...]):
        """States or actions of every window as float32 (T, *shape)."""
        if batched and len(values) != len(lengths):
            raise InputError(f"{name}: expected one entry for each of {len(lengths)} observations, got {len(values)}.")
        rows = []
        for i, (value, length) in enumerate(zip(values if batched else [values], lengths)):
            where = f"{name} of observation {i}" if batched else name
            row = to_float(value, where)
            wanted = (length, *shape)
            # a window of one step may come without its step, a chunk of one without its chunk
            given = tuple(row.shape)
            short = {shape} if length == 1 else set()
            if len(shape) == 2 and shape[0] == 1:
                short |= {(length, shape[1])} | ({shape[1:]} if length == 1 else set())
            if given != wanted and given not in short:
                raise InputError(f"{where}: expected {wanted} numbers, one row for each frame, got {given}.")
            rows.append(row.reshape(wanted))
        return rows

    def tokenize_instructions(self, instructions: Sequence[str], return_tensors: str = "pt") -> dict:
        """Sentences -> {"input_ids", "attention_mask"}, int64 (B, max_instruction_length)."""
        return tokenize_sentences(self.tokenizer, instructions, self.max_instruction_length, return_tensors)

    # ---- vectorised transforms, used on whole batches by training too -----------------------------------------------

    def normalize_state(self, state) -> torch.Tensor:
        """(..., Ds) robot units -> network units, float32; a binary gripper becomes 0 or 1. NaN is an error."""
        state = to_float(state, "state")
        check_size(state, "state", self.state_dim)
        arm, gripper = state, None
        if self.binary_gripper_state:
            arm, gripper = state[..., :-1], state[..., -1:]
        if self.normalization == "statistics":
            mean, std = (self._stat("state_stats", key, state.device)[: arm.shape[-1]] for key in ("mean", "std"))
            arm = standardize(arm, mean, std)
        if gripper is None:
            return arm
        low, high = self._gripper_range("state_stats", state.device)
        if self.normalization == "raw" and state.device.type == "cpu" and not bool((gripper.abs() == 1).all()):
            odd = float(gripper[gripper.abs() != 1][0])
            raise InputError(f"state: its last number is the gripper, -1 (closed) or 1 (open), got {odd:g}.")
        return torch.cat((arm, (gripper > (low + high) / 2).float()), dim=-1)

    def normalize_actions(self, actions, check: bool = True) -> torch.Tensor:
        """(..., A) robot units -> network units, float32; a binary gripper becomes 0 (closed) to 1 (open).

        Raises:
            InputError: With `check`, an action is NaN or outside of the range.
        """
        actions = to_float(actions, "actions", check)
        check_size(actions, "actions", self.action_dim)
        arm, gripper = actions, None
        if self.binary_gripper_action:
            arm, gripper = actions[..., :-1], actions[..., -1:]
        if self.normalization == "statistics":
            low, high = (self._stat("action_stats", key, actions.device)[: arm.shape[-1]] for key in ("min", "max"))
            if check:
                check_range(arm, low, high)
            arm = scale_to_unit(arm, low, high)
        if gripper is None:
            return arm
        low, high = self._gripper_range("action_stats", actions.device)
        if check:
            check_range(gripper, low, high, self.action_dim - 1)
        opened = (gripper - low) / (high - low).clamp_min(1e-9)
        return torch.cat((arm, opened.clamp(0, 1)), dim=-1)

    def unnormalize_actions(self, actions: torch.Tensor) -> torch.Tensor:
        """(..., A) network units -> float32 robot units. A binary gripper is thresholded: above 1/2 is open.

        "raw" numbers are handed on as they are, not clipped, as officially; those of "statistics" are cut to the range
        of the demonstrations.
        """
        actions = actions.float()
        check_size(actions, "actions", self.action_dim)
        arm, gripper = actions, None
        if self.binary_gripper_action:
            arm, gripper = actions[..., :-1], actions[..., -1:]
        if self.normalization == "statistics":
            low, high = (self._stat("action_stats", key, actions.device)[: arm.shape[-1]] for key in ("min", "max"))
            arm = scale_from_unit(arm, low, high)
        if gripper is None:
            return arm
        low, high = self._gripper_range("action_stats", actions.device)
        return torch.cat((arm, torch.where(gripper > 0.5, high, low)), dim=-1)

    # ---- the model's answers out ------------------------------------------------------------------------------------

    def post_process_actions(self, actions: torch.Tensor, objective: str | None = None) -> torch.Tensor:
        """What `sample_actions` returned (B, chunk, A) -> float32 in the robot's units."""
        if objective not in (None, self.action_objective):
            raise InputError(f"objective: GR-1's actions are numbers ({self.action_objective!r}), not {objective!r}.")
        return self.unnormalize_actions(actions)

    def post_process_video(self, pixels: torch.Tensor) -> torch.Tensor:
        """(..., 3, H, W), normalised as `pixel_values` are -> uint8 (..., H, W, 3), same device."""
        return self.image_processor.to_bytes(pixels)

    def gripper_range(self) -> tuple[float, float]:
        """Values of the closed and of the open gripper in an action, in the robot's units."""
        low, high = self._gripper_range("action_stats", "cpu")
        return float(low), float(high)

    # ---- private ----------------------------------------------------------------------------------------------------

    def _gripper_range(self, group: str, device) -> tuple[torch.Tensor, torch.Tensor]:
        """Values of the closed and of the open gripper, in the robot's units."""
        if self.normalization == "raw":
            return torch.tensor(-1.0, device=device), torch.tensor(1.0, device=device)
        return self._stat(group, "min", device)[-1], self._stat(group, "max", device)[-1]

    def _stat(self, group: str, key: str, device="cpu") -> torch.Tensor:
        """One statistic as a float32 tensor, or an error that says which is missing."""
        values = getattr(self, group)
        if values is None:
            raise InputError(
                f"{group}: this processor has none (processor_config.json). Build it with "
                "GR1Processor.from_dataset_stats(...), or load a fine-tuned policy."
            )
        return torch.tensor(values[key], dtype=torch.float32, device=device)


# `GR1Processor.from_pretrained` looks its image processor up in transformers' table; registered here, it is found
# however this module came to be imported.
AutoImageProcessor.register(GR1Config, image_processor_classes={"pil": GR1ImageProcessorPil}, exist_ok=True)


__all__ = ["GR1Processor"]
