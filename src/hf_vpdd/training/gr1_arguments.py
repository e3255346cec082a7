"""Arguments of GR-1's stages. Defaults are the paper's where it has them (spec gr1.md §3.1), else those of the lab's
later code (§3.2)."""

from dataclasses import dataclass
from typing import Any, Literal

from ..errors import InputError
from .fields import arg, check_fraction, check_min
from .lora_arguments import LoraArguments


_ADAMW = {"weight_decay": 0.0, "betas": (0.9, 0.999), "schedule": "cosine", "final_learning_rate_ratio": 0.01}
# Where a stage's TrainArguments differ from the general defaults.
TRAIN_DEFAULTS: dict[str, dict[str, Any]] = {
    "gr1_pretrain": {**_ADAMW, "learning_rate": 3.6e-4, "warmup": 0.1},
    "gr1_finetune": {**_ADAMW, "learning_rate": 1e-3, "warmup": 0.05},
}


@dataclass
class Gr1PretrainArguments:
    """Options of training/pretrain.py --model gr1."""

    predict_ahead: int = arg(1, "the frame to predict, in steps of the window after each step")
    random_shift: int = arg(0, "random shift of the frames, up to so many pixels of the stored ones, one a clip")
    cache_features: bool = arg(
        False, "run the frozen image tower once over all frames and keep what it says on the disk (0.3 MB a frame at "
        "full size); needs random_shift 0"
    )  # fmt: skip
    image_model: str | None = arg(
        None,
        "weights of the image tower, which then is frozen: MAE's mae_pretrain_vit_base.pth, timm's copy, or a folder "
        "of a GR-1. Default: a tower of model.vision_config's sizes, trained here",
    )
    text_model: str | None = arg(
        None,
        "folder or Hub id of a CLIP text tower with projection, and its tokenizer, which then is frozen. Default: a "
        "tower of model.text_config's sizes and a tokenizer, both trained here",
    )
    vocab_size: int = arg(512, "largest vocabulary of the instruction tokenizer trained here")
    max_instruction_length: int = arg(24, "longest instruction, tokens")
    paraphrase_prob: float = arg(0.0, "share of samples whose instruction is replaced by a training paraphrase, 0..1")
    picture_samples: int = arg(8, "rows in the picture of predictions")

    def check(self) -> None:
        name = "gr1_pretrain"
        check_min(self, name, predict_ahead=1, random_shift=0, vocab_size=260, max_instruction_length=2)
        check_min(self, name, picture_samples=1)
        check_fraction(self, name, "paraphrase_prob")
        _check_cache(self, name)


@dataclass
class Gr1FinetuneArguments(LoraArguments):
    """Options of training/finetune.py --model gr1."""

    predict_ahead: int = arg(3, "the frame to predict, in steps of the window after each step")
    random_shift: int | None = arg(
        None,
        "random shift of the frames, up to so many pixels of the stored ones, one a clip and camera (default: a "
        "twentieth of data.image_size; 0 with cache_features)",
    )
    cache_features: bool = arg(
        False, "run the frozen image tower once over all frames and keep what it says on the disk (0.3 MB a frame at "
        "full size); needs random_shift 0"
    )  # fmt: skip
    from_scratch: bool = arg(False, "the network of init_from with random weights, but for frozen towers")
    normalization: Literal["statistics", "raw"] = arg(
        "statistics",
        "statistics: of the demonstrations, for any robot; raw: numbers as they are, grippers -1 and 1 (CALVIN)",
    )
    execute: int | None = arg(None, "steps of each predicted chunk the policy runs (default: the whole chunk)")
    paraphrase_prob: float = arg(0.0, "share of samples whose instruction is replaced by a training paraphrase, 0..1")
    picture_samples: int = arg(8, "rows in the picture of predictions")

    def check(self) -> None:
        name = "gr1_finetune"
        check_min(self, name, predict_ahead=1, picture_samples=1)
        check_fraction(self, name, "paraphrase_prob")
        self.check_lora(name)
        if self.execute is not None:
            check_min(self, name, execute=1)
        if self.random_shift is not None:
            check_min(self, name, random_shift=0)
        if self.lora and self.from_scratch:
            raise InputError("lora adapts a pre-trained trunk; from_scratch makes it random: set one of them only")
        _check_cache(self, name)

    def resolved_shift(self, image_size: int) -> int:
        """Pixels of the stored frames: GR-1's code shifts 200 by 10 and 84 by 4."""
        if self.random_shift is not None:
            return self.random_shift
        return 0 if self.cache_features else image_size // 20


def _check_cache(arguments: Any, name: str) -> None:
    if arguments.cache_features and arguments.random_shift:
        raise InputError(
            f"{name}.cache_features keeps features of the frames as they are: it needs random_shift 0, got "
            f"{arguments.random_shift}"
        )
