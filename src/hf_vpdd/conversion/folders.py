"""The folder that a conversion writes: whole or absent, and never over something else by accident."""

import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

from ..errors import InputError


# What earlier conversions (or trainings) may have left in a folder and a new one need not write again.
_REPLACED = (
    "README.md",
    "conversion.json",
    "merges.txt",
    "model_index.json",
    "processor_config.json",
    "scheduler_config.json",
    "scheduler_state.safetensors",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
)


def check_out(out: str | os.PathLike, overwrite: bool) -> Path:
    """The output folder, before any work is done.

    Raises:
        InputError: It is a file; or not empty and either `overwrite` was not given or it holds no model.
    """
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise InputError(f"OUT: {out} is a file; name a folder.")
    if out.is_dir() and any(out.iterdir()):
        if not overwrite:
            raise InputError(f"OUT: {out} is not empty. Name another folder, or replace its model with --overwrite.")
        if not (out / "config.json").is_file():
            raise InputError(f"OUT: {out} is not empty and holds no model; --overwrite replaces models only.")
    return out


def write_folder(out: Path, write: Callable[[Path], None]) -> None:
    """Lets `write` fill a hidden folder beside `out`, then puts it in place. Foreign files in `out` stay."""
    from ..saving import move_into
    from ..training.stages.common import quiet_transformers

    out.parent.mkdir(parents=True, exist_ok=True)
    stage = out.with_name(f".{out.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        stage.mkdir()
        with quiet_transformers():
            write(stage)
        if out.is_dir() and not any(out.iterdir()):
            out.rmdir()
        if out.is_dir():
            (out / "config.json").unlink(missing_ok=True)  # first: from here on nothing loads the old folder
            for name in _REPLACED:
                (out / name).unlink(missing_ok=True)
        move_into(stage, out)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
