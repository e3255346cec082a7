"""Low-rank adapters on the trunk, with the action head (and what else is new) trained whole (peft)."""

import copy
import re
import warnings
from collections.abc import Callable
from pathlib import Path

from torch import nn
from transformers.pytorch_utils import Conv1D

from ..errors import InputError


# All linear layers of the trunk. A regular expression, since suffix lists would also hit the frozen towers.
DEFAULT_TARGETS = r"model\.trunk\..*"


def add_lora(policy: nn.Module, options) -> nn.Module:
    """The policy as a `PeftModel`: everything frozen but the adapters and `lora_modules_to_save`.

    Args:
        options: The `lora_*` options of a stage.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise InputError("--lora needs peft: pip install hf-vpdd[lora]") from error
    pattern = options.lora_target_modules or getattr(policy, "_lora_target_modules", None) or DEFAULT_TARGETS
    linear = {name: type(m) for name, m in policy.named_modules() if isinstance(m, (nn.Linear, Conv1D))}
    targets = [name for name in linear if re.fullmatch(pattern, name)]
    if not targets:
        raise InputError(f"lora_target_modules {pattern!r} matches no linear layer of the model")
    known = [name for name, _ in policy.named_children()]
    inside = [name for name, _ in policy.named_modules()]
    for name in options.lora_modules_to_save:
        if not any(one == name or one.endswith("." + name) for one in inside):
            raise InputError(f"lora_modules_to_save: {name!r} is no part of the model; it has: {', '.join(known)}")
    config = LoraConfig(
        r=options.lora_r, lora_alpha=options.lora_alpha, lora_dropout=options.lora_dropout, target_modules=targets,
        modules_to_save=options.lora_modules_to_save or None,
        fan_in_fan_out=all(linear[name] is Conv1D for name in targets),  # GPT-2's layers keep their weights (in, out)
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")  # peft's own use of an old name
        return get_peft_model(policy, config)


def save_adapter(model: nn.Module, folder: Path, base: str | None) -> None:
    """Adapter files only; `base` is recorded as the model they belong to."""
    from .stages.common import write_folder

    if base is not None:
        model.peft_config["default"].base_model_name_or_path = str(base)
    write_folder(folder, model.save_pretrained)


def save_merged(model: nn.Module, save: Callable[[nn.Module], None]) -> None:
    """Give `save` a copy of the policy with the adapters merged in; merging `model` itself has no exact way back."""
    save(copy.deepcopy(model).merge_and_unload())
