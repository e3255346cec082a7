"""The options of a training run, section by section, with their defaults, help lines and checks.

`DataArguments` and `TrainArguments` (train_arguments.py) are shared by all stages; each stage has a class of its own
besides.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from ..errors import InputError
from .fields import arg as _arg
from .fields import check_fraction as _check_fraction
from .fields import check_min as _check_min
from .lora_arguments import LoraArguments
from .train_arguments import TrainArguments


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
class FinetuneArguments(LoraArguments):
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

    def check(self) -> None:
        _check_min(self, "finetune", trunk_lr_multiplier=0, state_noise=0, color_jitter=0)
        _check_min(self, "finetune", cotrain_samples=0)
        _check_fraction(self, "finetune", "paraphrase_prob")
        self.check_lora("finetune")
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


__all__ = ["DataArguments", "FinetuneArguments", "PretrainArguments", "TrainArguments", "VQVAEArguments"]
