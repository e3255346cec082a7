"""What the loop needs to know of a stage: a `Task`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from .arguments import TrainArguments
from .lora import load_trained_weights, trained_weights
from .sampling import IndexSampler


@dataclass
class Evaluation:
    """Held-out metrics, and pictures as uint8 (H, W, 3)."""

    metrics: dict[str, float] = field(default_factory=dict)
    pictures: dict[str, np.ndarray] = field(default_factory=dict)


class Task:
    """What the loop needs to know of a stage. A stage sets the attributes and overrides the methods it needs."""

    model: nn.Module
    num_samples: int
    fingerprints: dict[str, str]
    has_unused_parameters = False  # some trainable parameters get no gradient: DDP has to be told
    learning_rate_multipliers: dict[str, float] | None = None  # parameter name prefix -> multiplier
    sample_groups: np.ndarray | None = None  # int (num_samples,), and the share of each group: see IndexSampler
    group_weights: list[float] | None = None
    own_optimizers = False  # the task takes its steps by itself (`step`): the loop builds no optimiser

    def sampler(self, args: TrainArguments, rank: int, world_size: int):
        """What says which samples are in the batch of a step: `sampler.batch(step, micro)` -> int64 indices."""
        return IndexSampler(
            self.num_samples, args.batch_size, args.seed, rank, world_size, args.gradient_accumulation_steps,
            self.sample_groups, self.group_weights,
        )  # fmt: skip

    def on_device(self, device: torch.device, args: TrainArguments) -> None:
        """The model has been moved to `device`: make what lives beside it (slow copies, own optimisers)."""

    def before_update(self, model: nn.Module) -> None:
        """The gradients are there, the weights are still those they were computed with."""

    def step(
        self, batch: dict[str, torch.Tensor], generator: torch.Generator, learning_rate_factor: float, average
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """With `own_optimizers`: one whole optimisation step.

        Args:
            learning_rate_factor: of the schedule.
            average: list of gradients -> their means over all processes; None if there is one process.

        Returns:
            0-dim tensors to log (`loss` and `grad_norm` among them), and 0-dim bool: was it skipped as not finite?
        """
        raise NotImplementedError

    def check(self, values: dict[str, float]) -> None:
        """The means since the last log line, named as the losses are: raise `InputError` to end a run that has gone
        wrong in a way that its numbers show."""

    def train_mode(self, model: nn.Module) -> None:
        model.train()

    def batch(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        """CPU tensors of the samples `indices`; may run in a thread."""
        raise NotImplementedError

    def loss(
        self, model: nn.Module, batch: dict[str, torch.Tensor], generator: torch.Generator
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Scalar loss and detached 0-dim tensors to log. `model` may be wrapped (DDP): call it, not its parts."""
        raise NotImplementedError

    def evaluate(self, model: nn.Module, generator: torch.Generator, device: torch.device, final: bool) -> Evaluation:
        return Evaluation()

    def save_model(self, folder: Path, model: nn.Module, final: bool) -> None:
        """Write what users load. `final` is False inside a checkpoint."""
        raise NotImplementedError

    def model_state(self, model: nn.Module) -> dict[str, torch.Tensor]:
        """What a checkpoint keeps of the model: everything, or of adapters themselves and what is trained beside."""
        return trained_weights(model)

    def load_model_state(self, model: nn.Module, weights: dict[str, torch.Tensor]) -> None:
        load_trained_weights(model, weights)

    def state_dict(self) -> dict[str, Any]:
        """State besides weights and optimiser that training changes."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class DiffusionTask(Task):
    """A task whose model draws noise levels by how much each was worth: that history has to outlive a stop."""

    @property
    def scheduler(self):
        return self.model.scheduler

    def state_dict(self) -> dict[str, Any]:
        return {"scheduler": self.scheduler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if "scheduler" in state:  # not in checkpoints of earlier versions
            self.scheduler.load_state_dict(state["scheduler"])
