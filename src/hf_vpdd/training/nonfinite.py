"""The batch that made a loss or a gradient not finite: kept as tensors, so that the step can be looked at again."""

import json
from pathlib import Path
from typing import Any

import torch

from ..errors import InputError
from ..files import atomic_path, atomic_write_text
from .sampling import step_seed


def nonfinite_files(output_dir: str | Path, rank: int = 0) -> tuple[Path, Path]:
    """(record, tensors) of one process."""
    stem = "nonfinite" if rank == 0 else f"nonfinite-rank{rank}"
    return Path(output_dir) / f"{stem}.json", Path(output_dir) / f"{stem}.safetensors"


def save_nonfinite_batch(output_dir: str | Path, task, sampler, args, step: int, in_a_row: int, rank: int) -> Path:
    """Write the micro-batches of `step` as this process saw them, and what seeds their noise.

    Returns:
        The record, `nonfinite.json`; the tensors lie beside it as `nonfinite.safetensors`.
    """
    from safetensors.torch import save_file

    record, tensors = nonfinite_files(output_dir, rank)
    indices = [sampler.batch(step, micro) for micro in range(args.gradient_accumulation_steps)]
    kept = {}
    for micro, chosen in enumerate(indices):
        for name, value in task.batch(chosen).items():
            kept[f"{micro}.{name}"] = value.detach().cpu().contiguous().clone()
    with atomic_path(tensors) as temporary:
        save_file(kept, temporary)
    content = {
        "step": step, "skipped_in_a_row": in_a_row, "sample_indices": [chosen.tolist() for chosen in indices],
        "rank": rank, "tensors": tensors.name,
        "seeds": [step_seed(args.seed, step, micro, rank) for micro in range(len(indices))],
    }  # fmt: skip
    atomic_write_text(record, json.dumps(content, indent=1) + "\n")
    return record


def load_nonfinite_batch(
    output_dir: str | Path, rank: int = 0
) -> tuple[list[dict[str, torch.Tensor]], dict[str, Any]]:
    """(the micro-batches of the bad step, the record). To see the step again::

        batches, record = load_nonfinite_batch(folder)
        for batch, seed in zip(batches, record["seeds"]):
            torch.manual_seed(seed)  # dropout
            loss, _ = task.loss(model, batch, torch.Generator().manual_seed(seed))  # noise

    Skipped steps change no weights, so those of the first bad step are still the last good ones. The newest checkpoint
    lies at most `save_every` steps before; started again, the run goes on from there and meets the same batch with
    the same noise in the same step.

    Raises:
        InputError: There is none.
    """
    from safetensors.torch import load_file

    record, tensors = nonfinite_files(output_dir, rank)
    if not record.is_file() or not tensors.is_file():
        raise InputError(f"{output_dir} holds no batch of a step that was not finite ({record.name} is missing)")
    content = json.loads(record.read_text(encoding="utf-8"))
    batches: list[dict[str, torch.Tensor]] = [{} for _ in content["sample_indices"]]
    for key, value in load_file(tensors).items():
        micro, name = key.split(".", 1)
        batches[int(micro)][name] = value
    return batches, content
