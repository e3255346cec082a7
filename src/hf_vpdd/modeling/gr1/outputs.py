"""What the GR-1 models return. Shapes: see `modeling_gr1`."""

from dataclasses import dataclass

import torch
from transformers.utils import ModelOutput


@dataclass
class GR1ModelOutput(ModelOutput):
    """The trunk's states after its last norm; None where the tokens were not asked for.

    Args:
        last_hidden_state: (B, T, tokens of a step, hidden), in the order of `StepLayout`.
        action_hidden_states: (B, T, chunk, hidden), the [ACT] tokens.
        frame_hidden_states: (B, V, T, num_latents + 1, hidden), the [OBS] tokens.
    """

    last_hidden_state: torch.FloatTensor | None = None
    action_hidden_states: torch.FloatTensor | None = None
    frame_hidden_states: torch.FloatTensor | None = None


@dataclass
class GR1Output(ModelOutput):
    """`loss`, its unweighted parts (scalars; None without labels), and what they were computed from.

    Args:
        view_losses: (V,), the video loss of each camera; `video_loss` is their sum.
        arm_actions: (B, T, chunk, arm_dim), in the units the network was trained in (see the processor).
        gripper_logits: (B, T, chunk), above 0 for open; None without a binary gripper.
        frame_patches: (B, V, T, P, numbers of a patch), the frame `predict_ahead` steps after each step. When
            training, only of the steps that have a target: the first T - predict_ahead.
    """

    loss: torch.FloatTensor | None = None
    arm_loss: torch.FloatTensor | None = None
    gripper_loss: torch.FloatTensor | None = None
    video_loss: torch.FloatTensor | None = None
    view_losses: torch.FloatTensor | None = None
    arm_actions: torch.FloatTensor | None = None
    gripper_logits: torch.FloatTensor | None = None
    frame_patches: torch.FloatTensor | None = None


@dataclass
class GR1SampleOutput(ModelOutput):
    """`actions` (B, chunk, A) of the newest step, network units; a binary gripper is the probability of open.

    `video` (B, V, 1, 3, H, W): the forecast frame, normalised as `pixel_values` are; None unless asked for.
    """

    actions: torch.FloatTensor | None = None
    video: torch.FloatTensor | None = None


__all__ = ["GR1ModelOutput", "GR1Output", "GR1SampleOutput"]
