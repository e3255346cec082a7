"""How a run joins the other processes of its group, and how they agree on where to go on."""

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from ..errors import InputError
from .checkpoints import choose_checkpoint, read_state


# The main process decodes, tokenizes, evaluates and saves while the others wait for it.
PATIENCE = timedelta(hours=4)


def join_processes():
    """The group of processes of this run (accelerate's `PartialState`), joined at the first call."""
    from accelerate import PartialState

    if PartialState._shared_state:
        return PartialState()
    cpu = os.environ.get("ACCELERATE_USE_CPU", "false").lower() in ("1", "true", "yes", "on")
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return PartialState(cpu=cpu)
    if not cpu and torch.accelerator.is_available():
        return PartialState(timeout=PATIENCE)
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
        return PartialState(backend="gloo", timeout=PATIENCE)
    # Without being told, accelerate starts no group where there is no GPU, and every process trains by itself.
    os.environ["ACCELERATE_USE_CPU"] = "true"
    return PartialState(cpu=True, timeout=PATIENCE)


def leave_processes() -> None:
    """The end of a script that all processes have reached."""
    from accelerate import PartialState

    if PartialState._shared_state:
        PartialState().destroy_process_group()


def main_process_first():
    """Context in which one process fills a cache before the others read it."""
    return join_processes().main_process_first()


def load_checkpoint_everywhere(
    accelerator, output_dir: Path, resume: str, identity: dict[str, Any], warn: Callable[[str], None], mmap: bool
) -> tuple[int, dict[str, Any]] | None:
    """(step, state) to go on from, or None to start at step 0; the same on every process.

    The main process chooses the checkpoint and compares its hashes, all read it: the folder has to be one that every
    machine sees.

    Args:
        mmap: see `read_state`; the others are those of `choose_checkpoint`.

    Raises:
        InputError: as `load_checkpoint`, on every process; or one of them does not see the folder.
    """
    answer: list[Any] = [None, None]
    if accelerator.is_main_process:
        try:
            chosen = choose_checkpoint(output_dir, resume, identity, warn)
            answer[0] = None if chosen is None else str(chosen.resolve())
        except InputError as error:
            answer[1] = str(error)
    if accelerator.num_processes > 1:
        torch.distributed.broadcast_object_list(answer, src=0)
    folder, problem = answer
    if problem is not None:
        raise InputError(problem)
    if folder is None:
        return None
    if not (Path(folder) / "state.pt").is_file():
        raise InputError(
            f"process {accelerator.process_index} does not see {folder}, which the main process goes on from: put "
            "output_dir on a disk that all machines share"
        )
    return read_state(Path(folder), mmap)
