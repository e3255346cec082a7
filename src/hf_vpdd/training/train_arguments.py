"""Options of the loop, shared by all stages."""

from dataclasses import dataclass
from typing import Literal

from ..errors import InputError
from .fields import check_min, grouped


_OPTIMISATION = grouped("optimisation")
_PRECISION = grouped("precision, memory and speed")
_SAVING = grouped("checkpoints")
_EVALUATION = grouped("validation and rollouts in the simulator")
_LOGGING = grouped("logging")


@dataclass
class TrainArguments:
    """Optimisation, precision, saving and logging."""

    steps: int = _OPTIMISATION(1000, "optimiser steps")
    batch_size: int = _OPTIMISATION(32, "samples per process and micro-batch")
    gradient_accumulation_steps: int = _OPTIMISATION(1, "micro-batches per optimiser step")
    learning_rate: float = _OPTIMISATION(1e-3, "peak learning rate, per step")
    schedule: Literal["onecycle", "cosine", "constant", "wsd"] = _OPTIMISATION("onecycle", "learning-rate schedule")
    warmup: float = _OPTIMISATION(0.05, "warm-up: a fraction of the steps if below 1, else a number of steps")
    decay: float = _OPTIMISATION(
        0.2, "wsd only: length of the final decay, a fraction of the steps if below 1, else steps"
    )
    final_learning_rate_ratio: float = _OPTIMISATION(
        0.0, "learning rate at the last step / peak (not for constant), 0..1"
    )
    weight_decay: float = _OPTIMISATION(0.05, "AdamW weight decay; never on norms, biases and embeddings")
    betas: tuple[float, float] = _OPTIMISATION((0.9, 0.95), "AdamW betas")
    eps: float = _OPTIMISATION(1e-8, "AdamW epsilon")
    clip: float = _OPTIMISATION(1.0, "largest gradient norm (0 = no clipping)")
    ema_decay: float = _OPTIMISATION(
        0.0, "exponential moving average of the weights per step; its weights are what is saved (0 = off)"
    )
    ema_every: int = _OPTIMISATION(1, "steps between two updates of the average")
    ema_start: int = _OPTIMISATION(
        0, "until this step the average is a copy of the weights (0: no copy, but a decay that rises from 0.18)"
    )
    seed: int = _OPTIMISATION(0, "seed of initialisation, batches and noise")
    max_nonfinite: int = _OPTIMISATION(
        20, "stop after this many skipped steps in a row (loss or gradient not finite), with their batch saved"
    )
    mixed_precision: Literal["no", "bf16", "fp16"] = _PRECISION(
        "no", "autocast precision; bf16 works on CPU too, fp16 (with loss scaling) needs a GPU"
    )
    channels_last: bool = _PRECISION(True, "keep 2-D convolution weights channels-last (bf16 on CPU is slow without)")
    gradient_checkpointing: bool = _PRECISION(
        False, "recompute activations in the backward pass: less memory, more time"
    )
    compile: bool = _PRECISION(False, "torch.compile the model")
    num_threads: int = _PRECISION(
        1, "CPU threads of torch per process (0 = torch's default); 1 is fastest on shared cores"
    )
    save_every: int = _SAVING(500, "steps between checkpoints (0 = none; the final model is always saved)")
    keep_last: int = _SAVING(2, "newest checkpoints kept")
    keep_best: str = _SAVING(
        "true",
        "also keep the best checkpoint, named in best.json: true = by the stage's own validation metric; a metric "
        "(loss, psnr, rollout/success, ...; max:NAME or min:NAME says which way); false = no",
    )
    eval_every: int = _EVALUATION(500, "steps between evaluations on held-out episodes (0 = only at the end)")
    eval_samples: int = _EVALUATION(256, "held-out samples per evaluation")
    eval_videos: int = _EVALUATION(
        1, "held-out episodes shown as a short video at each evaluation, by models that predict pictures (0 = none)"
    )
    rollout_every: int = _EVALUATION(
        0, "policies: steps between rollouts in the simulator, with the weights that would be saved (0 = none)"
    )
    rollout_episodes: int = _EVALUATION(5, "episodes of each task per rollout")
    rollout_tasks: list[str] | None = _EVALUATION(
        None, "tasks of the simulator, or groups of them (default: those whose instruction is in the training data)"
    )
    rollout_protocol: str = _EVALUATION("lean", "evaluation protocol, which names the simulator: see hf-vpdd eval")
    rollout_max_steps: int | None = _EVALUATION(
        None, "environment steps after which an episode has failed (default: the protocol's)"
    )
    rollout_workers: int = _EVALUATION(1, "simulator processes (0 = simulate in this process)")
    rollout_videos: int = _EVALUATION(1, "successes, and failures, filmed of each task and rollout (0 = none)")
    log_every: int = _LOGGING(20, "steps between log lines")
    tracker: str = _LOGGING(
        "tensorboard",
        "where curves, pictures and videos go besides metrics.jsonl: tensorboard, trackio, wandb, several of them "
        "(a,b), or none",
    )
    tracker_project: str = _LOGGING("hf-vpdd", "project name given to the trackers")
    run_name: str | None = _LOGGING(None, "run name given to trackio and wandb (default: last parts of output_dir)")
    progress: bool = _LOGGING(True, "show a progress bar: steps/s, time left, loss, samples/s, memory")

    def check(self) -> None:
        check_min(
            self, "train", steps=1, batch_size=1, gradient_accumulation_steps=1, warmup=0, weight_decay=0, clip=0,
            num_threads=0, save_every=0, keep_last=1, log_every=1, eval_every=0, eval_samples=1, eval_videos=0,
            max_nonfinite=1, seed=0, ema_every=1, ema_start=0, rollout_every=0, rollout_episodes=1, rollout_workers=0,
            rollout_videos=0,
        )  # fmt: skip
        if self.learning_rate <= 0:
            raise InputError(f"train.learning_rate must be above 0, got {self.learning_rate}")
        if not 0 <= self.ema_decay < 1:
            raise InputError(f"train.ema_decay must lie in [0, 1), got {self.ema_decay}")
        if not 0 <= self.final_learning_rate_ratio <= 1:
            raise InputError(
                f"train.final_learning_rate_ratio must lie in [0, 1], got {self.final_learning_rate_ratio}"
            )
        if any(not 0 <= beta < 1 for beta in self.betas):
            raise InputError(f"train.betas must lie in [0, 1), got {self.betas}")
        if self.warmup > self.steps:
            raise InputError(f"train.warmup ({self.warmup:g} steps) is longer than train.steps ({self.steps})")
        if self.schedule == "wsd" and self.warmup_steps + self.decay_steps > self.steps:
            raise InputError(
                f"train.warmup and train.decay take {self.warmup_steps + self.decay_steps:g} steps together, "
                f"train.steps is {self.steps}"
            )
        self._check_without_effect()

    def _check_without_effect(self) -> None:
        """Options that were set and would change nothing: whoever set them expects something else."""
        ema = [name for name, default in (("ema_every", 1), ("ema_start", 0)) if getattr(self, name) != default]
        if ema and not self.ema_decay:
            raise InputError(f"train.{ema[0]} is about the average of the weights, which train.ema_decay 0 turns off")
        if self.decay != 0.2 and self.schedule != "wsd":
            raise InputError(f"train.decay is for the schedule wsd, train.schedule is {self.schedule}")
        rollouts = [name for name in ("rollout_tasks", "rollout_max_steps") if getattr(self, name) is not None]
        if rollouts and not self.rollout_every:
            raise InputError(f"train.{rollouts[0]} is set but no rollouts are asked for: give train.rollout_every too")
        if self.rollout_max_steps is not None:
            check_min(self, "train", rollout_max_steps=1)

    @property
    def warmup_steps(self) -> float:
        return self.warmup * self.steps if self.warmup < 1 else self.warmup

    @property
    def decay_steps(self) -> float:
        return self.decay * self.steps if self.decay < 1 else self.decay
