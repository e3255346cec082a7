"""Checks of what callers hand over: one clear sentence instead of a failed broadcast deep inside."""

import torch

from ...errors import InputError


def check_batch(**tensors: torch.Tensor | None) -> int:
    """The batch size that all tensors (None: not given) agree on.

    Raises:
        InputError: They do not.
    """
    sizes = {name: len(tensor) for name, tensor in tensors.items() if tensor is not None}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise InputError(f"batch sizes differ: {listed}. Give every input one row for each observation.")
    return next(iter(sizes.values()))


def check_codes(name: str, codes: torch.Tensor | None, shape: tuple[int, ...], size: int) -> None:
    """Video codes (B, V, t, h, w) that fit the model. Their values are looked at on the CPU only: a GPU would wait.

    Raises:
        InputError: Shape, type or values are wrong.
    """
    if codes is None:
        return
    if codes.is_floating_point() or tuple(codes.shape[1:]) != shape:
        want = ", ".join(map(str, shape))
        raise InputError(f"{name}: expected integer codes (B, {want}), got {codes.dtype} {tuple(codes.shape)}.")
    if codes.is_cpu and codes.numel() and not torch.compiler.is_compiling():
        low, high = int(codes.min()), int(codes.max())
        if low < 0 or high >= size:
            raise InputError(f"{name}: codes {low}..{high} are outside of this tokenizer's 0..{size - 1}.")
