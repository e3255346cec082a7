"""The options of a training run, section by section, with their defaults, help lines and checks.

`DataArguments` and `TrainArguments` are shared by all stages; each stage has a class of its own besides.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from ..errors import InputError
from .fields import arg as _arg
from .fields import check_fraction as _check_fraction
from .fields import check_min as _check_min


@dataclass
class DataArguments:
    """Which recordings, and which of their episodes."""

    root: list[str] = _arg(
        [],
        "dataset folder(s): LeRobot, CALVIN, or for video stages folders or lists of videos; several are concatenated "
        "(comma-separated on the command line; also --data_dir)",
    )
    camera: Any = _arg(
        "corner2",
        "camera, or several in the order in which the model sees them (a,b); {root: camera, ...} where the roots name "
        "them differently",
    )
    fps: Any = _arg(
        None,
        "frames per second that videos are cut into, a number or {root: number, ...} (default: their own rate; robot "
        "datasets have theirs)",
    )
    weights: list[float] | None = _arg(
        None, "share of the samples that each root gets, in any unit (default: as many as it has)"
    )
    image_size: int = _arg(
        64,
        "side of the square images, pixels; frames are resized once, when the store is built (a tokenizer that reads "
        "smaller ones gets them resized)",
    )
    tasks: list[str] | None = _arg(None, "only these instructions or task names of the dataset (default: all)")
    episodes_per_task: int | None = _arg(
        None, "k: episodes of each task to train on (default: all that are not held out)"
    )
    demo_draw: int = _arg(0, "which k: draw d takes episodes d*k .. (d+1)*k-1 of each task")
    val_episodes_per_task: int = _arg(5, "last episodes of each task, held out of training in every stage")
    history_stride: int = _arg(1, "frames between two history frames of the model")
    targets: Literal["steps", "keyframes"] = _arg(
        "steps", "actions of a chunk: those of the next steps, or those of the next keyframes (RLBench)"
    )
    frame_stride: int = _arg(1, "train on windows that start at every n-th frame")
    cache_dir: str | None = _arg(None, "folder of decoded frames and tokens (default: beside the dataset)")
    codes: list[str] | None = _arg(
        None,
        "folder(s) of video codes by `hf-vpdd tokenize`; VPDD's pretrain and finetune read no video then, except what "
        "the model sees besides (default: those beside the dataset, made if they are not there)",
    )

    def check(self) -> None:
        if not self.root:
            raise InputError("data.root is empty: name the folder of a LeRobot dataset, e.g. --root data/metaworld "
                             "(make one with `hf-vpdd record --out data/metaworld`)")  # fmt: skip
        for root in self.root:
            self.cameras(root)
        for folder in self.codes or ():
            if not Path(folder).is_dir():
                raise InputError(
                    f"data.codes: {folder} is no folder; make it: hf-vpdd tokenize DATASET --vqvae CKPT --out {folder}"
                )
        if self.codes == []:
            raise InputError("data.codes is empty: name a folder of hf-vpdd tokenize, or leave it out")
        self._check_weights()
        self._check_fps()
        _check_min(self, "data", image_size=8, demo_draw=0, val_episodes_per_task=0, history_stride=1, frame_stride=1)
        if self.episodes_per_task is not None:
            _check_min(self, "data", episodes_per_task=1)
        elif self.demo_draw:
            raise InputError("data.demo_draw needs data.episodes_per_task (draw d takes episodes d*k .. (d+1)*k-1)")

    def __post_init__(self) -> None:
        self.camera = _camera_value(self.camera)
        if isinstance(self.fps, str):  # from a command line
            try:
                self.fps = yaml.safe_load(self.fps)
            except yaml.YAMLError as error:
                raise InputError(f"data.fps is neither a number nor a mapping in YAML: {self.fps!r}") from error

    def cameras(self, root: str) -> list[str]:
        """Names of the cameras of one root."""
        chosen = self.camera
        if isinstance(chosen, dict):
            unknown = [name for name in chosen if name not in self.root]
            if unknown:
                raise InputError(f"data.camera names {unknown[0]!r}, which is not in data.root: {self.root}")
            if root not in chosen:
                raise InputError(f"data.camera names no camera of {root!r}: it has {sorted(chosen)}")
            chosen = chosen[root]
        return [chosen] if isinstance(chosen, str) else list(chosen)

    def rate(self, root: str) -> float | None:
        """Frames per second that one root is cut into, None for its own."""
        return self.fps.get(root) if isinstance(self.fps, dict) else self.fps

    def _check_fps(self) -> None:
        unknown = [name for name in self.fps if name not in self.root] if isinstance(self.fps, dict) else []
        if unknown:
            raise InputError(f"data.fps names {unknown[0]!r}, which is not in data.root: {self.root}")
        for value in self.fps.values() if isinstance(self.fps, dict) else [self.fps]:
            if value is not None and (isinstance(value, (bool, str)) or not value > 0):
                raise InputError(f"data.fps must be a number above 0, or {{root: number}}; got {self.fps!r}")

    def _check_weights(self) -> None:
        if self.weights is None:
            return
        if len(self.weights) != len(self.root):
            raise InputError(f"data.weights has {len(self.weights)} numbers for the {len(self.root)} of data.root")
        if min(self.weights) < 0 or not sum(self.weights) > 0:
            raise InputError(f"data.weights must be 0 or more, and one above 0; got {self.weights}")


@dataclass
class TrainArguments:
    """Optimisation, precision, saving and logging."""

    steps: int = _arg(1000, "optimiser steps")
    batch_size: int = _arg(32, "samples per process and micro-batch")
    gradient_accumulation_steps: int = _arg(1, "micro-batches per optimiser step")
    learning_rate: float = _arg(1e-3, "peak learning rate")
    schedule: Literal["onecycle", "cosine", "constant", "wsd"] = _arg("onecycle", "learning-rate schedule")
    warmup: float = _arg(0.05, "warm-up: a fraction of the steps if below 1, else a number of steps")
    decay: float = _arg(0.2, "wsd only: length of the final decay, a fraction of the steps if below 1, else steps")
    final_learning_rate_ratio: float = _arg(0.0, "learning rate at the last step / peak (not for constant), 0..1")
    weight_decay: float = _arg(0.05, "AdamW weight decay; never on norms, biases and embeddings")
    betas: tuple[float, float] = _arg((0.9, 0.95), "AdamW betas")
    eps: float = _arg(1e-8, "AdamW epsilon")
    clip: float = _arg(1.0, "largest gradient norm (0 = no clipping)")
    ema_decay: float = _arg(
        0.0, "exponential moving average of the weights per step; its weights are what is saved (0 = off)"
    )
    ema_every: int = _arg(1, "steps between two updates of the average")
    ema_start: int = _arg(
        0, "until this step the average is a copy of the weights (0: no copy, but a decay that rises from 0.18)"
    )
    mixed_precision: Literal["no", "bf16"] = _arg("no", "autocast precision; bf16 works on CPU too")
    channels_last: bool = _arg(True, "keep 2-D convolution weights channels-last (bf16 on CPU is slow without)")
    gradient_checkpointing: bool = _arg(False, "recompute activations in the backward pass: less memory, more time")
    compile: bool = _arg(False, "torch.compile the model")
    seed: int = _arg(0, "seed of initialisation, batches and noise")
    num_threads: int = _arg(1, "CPU threads of torch per process (0 = torch's default); 1 is fastest on shared cores")
    save_every: int = _arg(500, "steps between checkpoints (0 = none; the final model is always saved)")
    keep_last: int = _arg(2, "checkpoints kept")
    log_every: int = _arg(20, "steps between log lines")
    eval_every: int = _arg(500, "steps between evaluations on held-out episodes (0 = only at the end)")
    eval_samples: int = _arg(256, "held-out samples per evaluation")
    max_nonfinite: int = _arg(20, "stop after this many skipped steps in a row (loss or gradient not finite)")
    tracker: Literal["tensorboard", "none"] = _arg("tensorboard", "where curves and pictures go besides metrics.jsonl")
    progress: bool = _arg(True, "show a progress bar")

    def check(self) -> None:
        _check_min(
            self, "train", steps=1, batch_size=1, gradient_accumulation_steps=1, warmup=0, weight_decay=0, clip=0,
            num_threads=0, save_every=0, keep_last=1, log_every=1, eval_every=0, eval_samples=1, max_nonfinite=1,
            seed=0, ema_every=1, ema_start=0,
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


@dataclass
class VQVAEArguments:
    """Options of training/train_vqvae.py."""

    pixel_weighting: Literal["variance", "deviation", "none"] = _arg(
        "variance",
        "which pixels count more: variance = those that change within their episode; deviation = those that differ "
        "from the mean picture of their task (also small things that stand still)",
    )
    pixel_weight_strength: float = _arg(1.0, "extra weight of a pixel of average variance or deviation (0 = none)")
    pixel_weight_cap: float = _arg(20.0, "largest variance or deviation counted, in multiples of the mean")
    color_jitter: float = _arg(
        0.0, "random brightness, contrast and colour of the training images, relative strength 0..1"
    )
    picture_samples: int = _arg(8, "frames in the picture of reconstructions")

    def check(self) -> None:
        _check_min(self, "vqvae", pixel_weight_strength=0, pixel_weight_cap=1, color_jitter=0, picture_samples=1)


@dataclass
class PretrainArguments:
    """Options of training/pretrain.py."""

    paraphrase_prob: float = _arg(0.0, "share of samples whose instruction is replaced by a training paraphrase, 0..1")
    color_jitter: float = _arg(
        0.0, "random brightness, contrast and colour of the pixels the model sees, strength 0..1"
    )
    text_model: str | None = _arg(
        None,
        "folder or Hub id of a CLIP text tower with projection, and its tokenizer; it stays as it is (the paper: CLIP "
        "RN50's). Default: a tower of model.text_config's sizes and a tokenizer, both trained here",
    )
    vocab_size: int = _arg(512, "largest vocabulary of the instruction tokenizer trained here")
    max_instruction_length: int = _arg(24, "longest instruction, tokens")
    picture_samples: int = _arg(8, "rows in the picture of predictions")

    def check(self) -> None:
        _check_fraction(self, "pretrain", "paraphrase_prob")
        _check_min(self, "pretrain", color_jitter=0, vocab_size=260, max_instruction_length=2, picture_samples=1)


@dataclass
class FinetuneArguments:
    """Options of training/finetune.py. The comparison arms combine from_scratch, objective and trunk_lr_multiplier."""

    from_scratch: bool = _arg(False, "same network and VQ-VAE as init_from, but the video trunk starts random")
    objective: Literal["diffusion", "regression"] | None = _arg(
        None, "diffusion of action tokens, or behaviour cloning by regression (default: the model's action_objective)"
    )
    trunk_lr_multiplier: float = _arg(1.0, "learning rate of the video trunk / learning_rate; 0 freezes it")
    video_loss_weight: float | None = _arg(
        None,
        "weight of the video loss beside the action loss (default: 0.3; 0 if the trunk is frozen or for regression)",
    )
    state_noise: float = _arg(0.0, "standard deviation of noise on the robot state, normalised units")
    paraphrase_prob: float = _arg(0.0, "share of samples whose instruction is replaced by a training paraphrase, 0..1")
    color_jitter: float = _arg(
        0.0, "random brightness, contrast and colour of the pixels the model sees, strength 0..1"
    )
    cotrain_samples: int = _arg(
        0,
        "samples of all training episodes added to each batch for the video loss; their actions are not read (needs a "
        "trunk that trains)",
    )
    action_layout: Literal["vector", "pose"] = _arg(
        "vector",
        "what an action of the dataset is: as many numbers as it has tokens; or a pose with quaternion and gripper, 8 "
        "numbers for 7 tokens (RLBench)",
    )
    execute: int | None = _arg(None, "steps of each predicted chunk the policy runs (default: the whole chunk)")
    lora: bool = _arg(False, "train low-rank adapters on the trunk (and the whole action head) instead of all weights")
    lora_r: int = _arg(8, "rank of the adapters")
    lora_alpha: int = _arg(16, "scale of the adapters (effective scale alpha / r)")
    lora_dropout: float = _arg(0.0, "dropout before the adapters, 0..1")
    lora_target_modules: str | None = _arg(
        None,
        "regular expression over module names (default: the model's own choice, else all linear layers of the trunk)",
    )
    lora_modules_to_save: list[str] = _arg(["action_head"], "modules trained whole and saved with the adapters")

    def check(self) -> None:
        _check_min(self, "finetune", trunk_lr_multiplier=0, state_noise=0, color_jitter=0, lora_r=1, lora_alpha=1)
        _check_min(self, "finetune", cotrain_samples=0)
        _check_fraction(self, "finetune", "paraphrase_prob")
        _check_fraction(self, "finetune", "lora_dropout")
        if self.video_loss_weight is not None:
            _check_min(self, "finetune", video_loss_weight=0)
        if self.execute is not None:
            _check_min(self, "finetune", execute=1)
        frozen = self.trunk_lr_multiplier == 0
        if frozen and self.from_scratch:
            raise InputError(
                "from_scratch with trunk_lr_multiplier 0 would freeze a random trunk: set one of them only"
            )
        if frozen and self.video_loss_weight:
            raise InputError("video_loss_weight needs a trunk that trains, but trunk_lr_multiplier 0 freezes it: "
                             "drop video_loss_weight or raise trunk_lr_multiplier")  # fmt: skip
        if self.cotrain_samples and (frozen or self.objective == "regression"):
            raise InputError(
                "cotrain_samples trains the video loss, which a frozen trunk (trunk_lr_multiplier 0) and objective "
                "regression do not have: leave it out"
            )
        if self.lora and self.from_scratch:
            raise InputError("lora adapts a pre-trained trunk; from_scratch makes it random: set one of them only")
        if self.lora and frozen:
            raise InputError(
                "lora trains adapters on the trunk, but trunk_lr_multiplier 0 freezes it: set one of them only"
            )

    @property
    def resolved_video_loss_weight(self) -> float:
        if self.video_loss_weight is not None:
            return self.video_loss_weight
        return 0.0 if self.trunk_lr_multiplier == 0 or self.objective == "regression" else 0.3


def _camera_value(value: Any, nested: bool = False) -> str | list[str] | dict:
    """A camera, a list of them, or a mapping of roots to those; text from a command line may spell either."""
    if isinstance(value, str):
        if value.lstrip().startswith("{") and not nested:
            try:
                return _camera_value(yaml.safe_load(value))
            except yaml.YAMLError as error:
                raise InputError(f"data.camera is not a mapping in YAML: {value!r}") from error
        names = [name.strip() for name in value.split(",") if name.strip()]
        if names:
            return names[0] if len(names) == 1 else names
    elif isinstance(value, (list, tuple)) and value and all(isinstance(name, str) for name in value):
        if len(set(value)) < len(value):
            raise InputError(f"data.camera names a camera twice: {', '.join(value)}")
        return list(value)
    elif isinstance(value, dict) and value and not nested:
        return {str(root): _camera_value(cameras, nested=True) for root, cameras in value.items()}
    raise InputError(f"data.camera must be a name, a list of names, or {{root: name or names}}; got {value!r}")
