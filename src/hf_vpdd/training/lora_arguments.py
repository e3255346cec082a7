"""The `lora_*` options, the same for every stage that trains a policy."""

from dataclasses import dataclass
from typing import Any, Literal

from ..errors import InputError
from .fields import arg, check_min


# What an option means that was not given; an adapter that is trained further keeps its own.
LORA_DEFAULTS: dict[str, Any] = {"lora_r": 8, "lora_alpha": 16, "lora_dropout": 0.0, "lora_variant": "lora"}


@dataclass
class LoraArguments:
    """Adapters instead of all weights."""

    lora: bool = arg(
        False,
        "train low-rank adapters (LoRA) on what is pre-trained, and whole what is new, instead of all weights; over a "
        "recipe with a frozen trunk, the adapters train",
    )
    lora_r: int | None = arg(None, "rank of the adapters (default: 8, or that of the adapter in init_from)")
    lora_alpha: int | None = arg(None, "scale of the adapters; the effective scale is alpha / rank (default: 16)")
    lora_dropout: float | None = arg(None, "dropout before the adapters, from 0 up to below 1 (default: 0)")
    lora_variant: Literal["lora", "rslora", "dora"] | None = arg(
        None,
        "rslora: effective scale alpha / sqrt(rank); dora: magnitude and direction apart, slower (default: lora)",
    )
    lora_target_modules: str | None = arg(
        None, "regular expression over whole module names, of layers to adapt (default: the family's own, see "
        "docs/lora.md)"
    )  # fmt: skip
    lora_modules_to_save: list[str] | None = arg(
        None, "modules trained whole and saved with the adapters (default: those that init_from does not have)"
    )

    def check_lora(self, stage: str) -> None:
        """Raises an InputError for what cannot be, or has no effect."""
        if not self.lora:
            for name in self.unused():
                # recipes of finished runs from before have these numbers written out
                if getattr(self, name) not in (None, LORA_DEFAULTS.get(name), ["action_head"]):
                    raise InputError(
                        f"{stage}.{name} has no effect without adapters: add --lora true, or leave it out"
                    )
            return
        given = [name for name in ("lora_r", "lora_alpha") if getattr(self, name) is not None]
        check_min(self, stage, **dict.fromkeys(given, 1))
        if self.lora_dropout is not None and not 0 <= self.lora_dropout < 1:
            raise InputError(f"{stage}.lora_dropout must lie in [0, 1), got {self.lora_dropout}")

    @staticmethod
    def settle(values: dict[str, Any], given: set[str]) -> None:
        """`--lora true` over a recipe whose pre-trained part is frozen: adapters are what then trains. Both given in
        the same place are a contradiction, and stay one."""
        if "lora" in given and str(values.get("lora")).lower() in ("true", "yes", "on", "1"):
            for name, frozen in (("trunk_lr_multiplier", (0, "0", "0.0")), ("freeze_encoders", (True, "true"))):
                if name not in given and values.get(name) in frozen:
                    del values[name]

    def unused(self) -> list[str]:
        """Options that say nothing about this run."""
        return [] if self.lora else [name for name in LoraArguments.__dataclass_fields__ if name != "lora"]
