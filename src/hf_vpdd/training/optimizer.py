"""AdamW with the parameter groups of this package."""

import torch
from torch import nn

from ..errors import InputError
from .arguments import TrainArguments


def parameter_groups(model: nn.Module, weight_decay: float, multipliers: dict[str, float] | None = None) -> list[dict]:
    """Groups of the trainable parameters by (learning-rate multiplier, decay or not).

    Norms, biases, embeddings and free-standing parameters (positions, latents) are not decayed.

    Args:
        multipliers: prefix of parameter names -> learning-rate multiplier; the longest matching prefix counts, else 1.
    """
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    prefixes = sorted((multipliers or {}).items(), key=lambda item: -len(item[0]))
    groups: dict[tuple[float, bool], list] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        multiplier = next((value for prefix, value in prefixes if name.startswith(prefix)), 1.0)
        is_matrix = parameter.ndim >= 2 and "weight" in name.rsplit(".", 1)[-1]
        is_matrix = is_matrix and "lora_magnitude_vector" not in name  # DoRA's, one number for each output
        decays = is_matrix and id(parameter) not in embeddings
        groups.setdefault((multiplier, decays), []).append(parameter)
    return [
        {"params": parameters, "lr_multiplier": multiplier, "weight_decay": weight_decay if decays else 0.0}
        for (multiplier, decays), parameters in groups.items()
    ]


def build_optimizer(
    model: nn.Module, args: TrainArguments, multipliers: dict[str, float] | None = None
) -> torch.optim.AdamW:
    """AdamW, fused where the device has it (CPU and CUDA do): one kernel, which skips a step without a device sync."""
    groups = parameter_groups(model, args.weight_decay, multipliers)
    if not groups:
        raise InputError("nothing to train: every parameter is frozen")
    device = groups[0]["params"][0].device.type
    return torch.optim.AdamW(
        groups, lr=args.learning_rate, betas=tuple(args.betas), eps=args.eps, fused=device in ("cpu", "cuda")
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["lr_multiplier"]


def guarded_step(optimizer: torch.optim.Optimizer, bad: torch.Tensor) -> None:
    """One step unless `bad` (0-dim bool, on the device) says that the gradients are not to be used; clears them."""
    inner = getattr(optimizer, "optimizer", optimizer)  # as it is, or wrapped by accelerate
    if inner.defaults.get("fused"):
        # The fused kernel leaves weights, moments and step count alone when found_inf is 1 (made for GradScaler).
        inner.grad_scale, inner.found_inf = None, bad.float()
        optimizer.step()
    elif not bool(bad):
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
