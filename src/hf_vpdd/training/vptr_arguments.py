"""Arguments of V-PTR's stages. Defaults are the official ones (spec vptr.md §1.3, §2.1)."""

from dataclasses import dataclass
from typing import Any, Literal

from ..errors import InputError
from .fields import arg, check_fraction, check_min
from .lora_arguments import LoraArguments


_ADAM = {"weight_decay": 0.0, "betas": (0.9, 0.999), "clip": 0.0, "schedule": "constant", "warmup": 0.0}
# Where a stage's TrainArguments differ from the general defaults: plain Adam, no clipping, no schedule.
TRAIN_DEFAULTS: dict[str, dict[str, Any]] = {
    "value_pretrain": {**_ADAM, "learning_rate": 5e-5, "eps": 3.125e-4, "batch_size": 64},
    "offline_rl": {**_ADAM, "learning_rate": 3e-4, "batch_size": 64},
}

INITS = ("vptr", "vip", "tcn", "r3m", "scratch")


@dataclass
class ValueArguments:
    """Options of training/pretrain.py --model vptr."""

    objective: Literal["icvf", "vip", "tcn"] = arg(
        "icvf", "what the encoder learns by: ICVF, V-PTR's; or for comparison VIP's, or R3M's time-contrastive one"
    )
    discount: float = arg(0.99, "discount of ICVF, (0, 1)")
    expectile: float = arg(0.9, "expectile of ICVF, (0, 1)")
    target_rate: float = arg(0.005, "rate of the slow network, (0, 1]")
    min_q: bool = arg(True, "advantage from the smaller head of the next state (false: their mean)")
    no_intent: bool = arg(False, "ablation: all intents are the same")
    p_random: float = arg(0.3, "share of goals that are any frame of the data")
    p_trajectory: float = arg(0.5, "share of goals that are a later frame of the clip")
    p_current: float = arg(0.2, "share of goals that are the present frame; the three sum to one")
    p_same: float = arg(0.5, "share of samples whose outcome is the intent")
    intent_same_clip: bool = arg(False, "the intent never comes from another clip")
    clip_first: bool = arg(True, "every clip weighs the same (false: every frame)")
    geometric: float | None = arg(
        None, "goals a geometric number of steps ahead, with this discount (default: uniform)"
    )
    max_distance: int | None = arg(None, "goals in the clip lie at most so many frames ahead")
    step_frames: int = arg(
        1, "a step is so many frames of the video; temporal differences carry a value one step back at a time"
    )
    crop_padding: int = arg(16, "random crop with so many pixels of edge padding (ICVF: independent for each image)")
    vip_discount: float = arg(0.98, "discount of VIP, (0, 1)")
    negatives: int = arg(3, "shuffles of the batch (VIP), other clips (TCN)")
    embedding_penalty: float | None = arg(
        None, "weight of the embedding's mean L1 and L2 norms (default: VIP 1e-3, TCN 1e-5)"
    )
    value_limit: float = arg(
        10.0, "stop when the largest value is beyond this multiple of the bound 1 / (1 - discount): it diverges"
    )
    vocab_size: int = arg(512, "largest vocabulary of the tokenizer trained for intents in words")
    max_instruction_length: int = arg(24, "longest instruction, tokens")
    eval_clips: int = arg(16, "held-out clips whose value order is measured")

    def check(self) -> None:
        name = "value_pretrain"
        check_fraction(self, name, "p_random", "p_trajectory", "p_current", "p_same", "target_rate")
        for option in ("discount", "expectile", "vip_discount"):
            if not 0 < getattr(self, option) < 1:
                raise InputError(f"{name}.{option} must lie in (0, 1), got {getattr(self, option)}")
        if abs(self.p_random + self.p_trajectory + self.p_current - 1) > 1e-6:
            raise InputError(
                f"{name}: p_random, p_trajectory and p_current must sum to one, got {self.p_random}, "
                f"{self.p_trajectory}, {self.p_current}"
            )
        check_min(self, name, crop_padding=0, negatives=1, value_limit=1, vocab_size=260, max_instruction_length=2)
        check_min(self, name, eval_clips=1, step_frames=1)

    @property
    def penalty(self) -> float:
        if self.embedding_penalty is not None:
            return self.embedding_penalty
        return {"icvf": 0.0, "vip": 1e-3, "tcn": 1e-5}[self.objective]


@dataclass
class OfflineRLArguments(LoraArguments):
    """Options of training/offline_rl.py --model vptr."""

    objective: Literal["cql", "bc"] = arg("cql", "conservative Q-learning with the Cal-QL bound, or behaviour cloning")
    init: str = arg(
        "vptr",
        "where both encoders start: vptr, vip or tcn (r3m), from value_pretrain's folder (init_from, or vptr:FOLDER); "
        "or scratch",
    )
    freeze_encoders: bool = arg(False, "the encoders stay as they are")
    target_root: list[str] = arg([], "LeRobot dataset folder(s) of target demonstrations (comma-separated)")
    target_tasks: list[str] | None = arg(None, "target tasks, instructions or names; of data.root without target_root")
    target_episodes: int | None = arg(None, "demonstrations of each target task (default: all that are not held out)")
    prior_steps: int | None = arg(
        None, "steps of phase 2, on prior data alone (default: half of the steps; all of them without a target)"
    )
    mixing: float = arg(0.9, "share of prior data in the batches of phase 3, rounded down to whole samples, 0..1")
    skip_multitask: bool = arg(False, "ablation: no prior data at all, every step is on the target demonstrations")
    alpha: float = arg(5.0, "weight of the conservative term")
    discount: float = arg(0.96, "discount, (0, 1)")
    target_rate: float = arg(0.005, "rate of the slow critics, (0, 1]")
    num_actions: int = arg(4, "policy actions and random actions per state in the conservative term")
    target_entropy: float | None = arg(None, "entropy that the temperature holds (default: minus the action size)")
    bound_with_returns: bool = arg(True, "Cal-QL: do not push policy actions below the demonstration's return")
    max_backup: bool = arg(True, "bootstrap from the best of the next actions (false: from one)")
    actor_lr_multiplier: float = arg(1 / 3, "learning rate of the actor / learning_rate, which is the critics'")
    temperature_lr_multiplier: float = arg(1.0, "learning rate of the temperature / learning_rate")
    final_steps: int = arg(3, "last steps of a demonstration that are rewarded and terminal")
    success_reward: float = arg(10.0, "reward of these steps")
    step_reward: float = arg(-1.0, "reward of all others")
    action_labels: Literal["recorded", "state_difference"] = arg(
        "recorded",
        "actions as recorded; or differences of the next state and this one, but for the last number, the gripper",
    )
    action_low: list[float] | None = arg(None, "lowest action per dimension, or one number (default: the data's)")
    action_high: list[float] | None = arg(None, "highest action per dimension, or one number (default: the data's)")
    action_limit: float = arg(0.99, "scaled actions are cut to +- this, (0, 1)")
    crop_padding: int = arg(4, "random crop with so many pixels of edge padding, 0: none")
    jitter_probability: float = arg(0.8, "share of images with changed colours, 0..1")
    jitter: list[float] = arg([0.2, 0.1, 0.1, 0.03], "strength of brightness, contrast, saturation and hue")
    vocab_size: int = arg(512, "largest vocabulary of the tokenizer trained for condition text")
    max_instruction_length: int = arg(24, "longest instruction, tokens")
    value_limit: float = arg(
        20.0, "stop when the mean Q of the data is beyond this multiple of the largest return possible: it diverges"
    )

    def check(self) -> None:
        name = "offline_rl"
        kind = self.init.split(":", 1)[0]
        if kind not in INITS:
            raise InputError(f"{name}.init must be one of {', '.join(INITS)} (or KIND:FOLDER), got {self.init!r}")
        if kind == "scratch" and self.freeze_encoders:
            raise InputError(f"{name}: freeze_encoders with init scratch would freeze random encoders")
        if self.lora and kind == "scratch":
            raise InputError(f"{name}: lora adapts pre-trained encoders; with init scratch they are random")
        if self.lora and self.freeze_encoders:
            raise InputError(
                f"{name}: lora trains adapters on the encoders, but freeze_encoders says they stay as they are: set "
                "one of them only"
            )
        self.check_lora(name)
        check_fraction(self, name, "mixing", "jitter_probability", "target_rate")
        for option in ("discount", "action_limit"):
            if not 0 < getattr(self, option) < 1:
                raise InputError(f"{name}.{option} must lie in (0, 1), got {getattr(self, option)}")
        check_min(self, name, alpha=0, num_actions=1, final_steps=1, crop_padding=0, actor_lr_multiplier=0)
        check_min(self, name, temperature_lr_multiplier=0, vocab_size=260, max_instruction_length=2, value_limit=1)
        if not self.success_reward > self.step_reward:
            raise InputError(f"{name}.success_reward must be above step_reward, got {self.success_reward}")
        if len(self.jitter) != 4 or min(self.jitter) < 0 or self.jitter[3] > 0.5:
            raise InputError(f"{name}.jitter must be four numbers from 0 up (hue at most 0.5), got {self.jitter}")
        if self.prior_steps is not None:
            check_min(self, name, prior_steps=0)
        if self.target_episodes is not None:
            check_min(self, name, target_episodes=1)
        has_target = bool(self.target_root or self.target_tasks)
        if self.skip_multitask and not has_target:
            raise InputError(f"{name}.skip_multitask trains on the target alone: name target_tasks or target_root")
        if self.skip_multitask and self.prior_steps:
            raise InputError(f"{name}: skip_multitask leaves the prior data out, prior_steps asks for it")
        if not has_target and (self.prior_steps is not None or self.target_episodes is not None):
            raise InputError(f"{name}: prior_steps and target_episodes need a target: target_tasks or target_root")

    @property
    def init_kind(self) -> str:
        kind = self.init.split(":", 1)[0]
        return "tcn" if kind == "r3m" else kind

    @property
    def init_folder(self) -> str | None:
        """The folder named after the colon."""
        return self.init.split(":", 1)[1] if ":" in self.init else None
