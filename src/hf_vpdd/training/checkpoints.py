"""Checkpoints that are whole or absent.

`<output_dir>/checkpoint-000500/` holds ``state.pt`` (weights, average, optimiser, counters: all that resuming needs),
``model/`` (loadable with from_pretrained), the run's files, and ``checkpoint.json`` with the size and hash of each.
The folder is written under a hidden name, flushed, and renamed; a folder whose files do not match its
``checkpoint.json`` is not used, and the one before it is.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch

from ..errors import InputError
from ..files import atomic_path, file_sha256
from .best import FILE as BEST_FILE
from .disk import full_disk_named


FORMAT_VERSION = 1
_NAME = re.compile(r"^checkpoint-(\d{6,})$")


def checkpoint_name(step: int) -> str:
    return f"checkpoint-{step:06d}"


def list_checkpoints(output_dir: str | Path) -> list[Path]:
    """Checkpoint folders, newest first, valid or not."""
    folder = Path(output_dir)
    if not folder.is_dir():
        return []
    found = [p for p in folder.iterdir() if p.is_dir() and _NAME.match(p.name)]
    return sorted(found, key=lambda p: int(_NAME.match(p.name)[1]), reverse=True)


def save_checkpoint(
    output_dir: str | Path,
    step: int,
    state: dict[str, Any],
    identity: dict[str, Any],
    write_extra: Callable[[Path], None] | None = None,
    keep_last: int = 2,
    keep_steps: Collection[int] = (),
) -> Path:
    """Write `checkpoint-<step>` and prune to the newest `keep_last` and those of `keep_steps`.

    Args:
        state: tensors and plain data, for `torch.save`.
        identity: what makes a run the same run (stage, seed, dataset, ...); compared on resume.
        write_extra: is given the folder to add more files (the loadable model).
        keep_steps: of the best checkpoint, which outlives `keep_last`.

    Raises:
        InputError: the disk is full; earlier checkpoints are as they were.
    """
    final = Path(output_dir) / checkpoint_name(step)
    with full_disk_named(output_dir, tensor_bytes(state)), atomic_path(final) as temporary:
        temporary.mkdir(parents=True)
        with open(temporary / "state.pt", "wb") as file:  # by itself torch would not say why a write failed
            torch.save(state, file)
        if write_extra is not None:
            write_extra(temporary)
        files = {
            str(p.relative_to(temporary)): {"bytes": p.stat().st_size, "sha256": file_sha256(p)}
            for p in sorted(temporary.rglob("*")) if p.is_file()
        }  # fmt: skip
        content = {"format_version": FORMAT_VERSION, "step": step, "identity": identity, "files": files}
        (temporary / "checkpoint.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
        for path in temporary.rglob("*"):
            if path.is_file():
                _flush(path)
        if final.exists():  # a damaged one of the same step, passed over on resume
            shutil.rmtree(final)
    prune_checkpoints(output_dir, keep_last, keep_steps)
    return final


def prune_checkpoints(output_dir: str | Path, keep_last: int, keep_steps: Collection[int] = ()) -> None:
    """Delete all but the newest `keep_last` checkpoints and those of `keep_steps`."""
    names = {checkpoint_name(step) for step in keep_steps}
    for old in list_checkpoints(output_dir)[keep_last:]:
        if old.name not in names:
            shutil.rmtree(old, ignore_errors=True)


def tensor_bytes(state: Any) -> int:
    """Of all tensors in nested dictionaries and lists."""
    if isinstance(state, torch.Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, dict):
        return sum(map(tensor_bytes, state.values()))
    return sum(map(tensor_bytes, state)) if isinstance(state, (list, tuple)) else 0


def refuse_newer(folder: Path, content: dict[str, Any]) -> None:
    """Raises an InputError if `checkpoint.json` says that a newer version of this package wrote the checkpoint."""
    if content.get("format_version", 0) > FORMAT_VERSION:
        raise InputError(
            f"{folder} was written by a newer version of hf_vpdd (checkpoint format {content['format_version']}, this "
            f"one reads {FORMAT_VERSION}): update the package"
        )


def check_checkpoint(folder: Path) -> dict[str, Any]:
    """The content of `checkpoint.json`, after its files were compared with it.

    Raises:
        InputError: not a checkpoint, damaged, or written by a newer version of this package.
    """
    record = folder / "checkpoint.json"
    if not record.is_file():
        raise InputError(f"{folder} is no checkpoint: checkpoint.json is missing")
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{record} is damaged: {error}") from error
    refuse_newer(folder, content)
    for name, expected in content["files"].items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != expected["bytes"] or file_sha256(path) != expected["sha256"]:
            raise InputError(f"{folder} is damaged: {name} is missing or not what was written")
    return content


def load_checkpoint(
    output_dir: str | Path, resume: str, identity: dict[str, Any], warn: Callable[[str], None] = print
) -> tuple[int, dict[str, Any]] | None:
    """(step, state) to go on from, or None to start at step 0; the arguments are those of `choose_checkpoint`."""
    folder = choose_checkpoint(output_dir, resume, identity, warn)
    return None if folder is None else read_state(folder)


def choose_checkpoint(
    output_dir: str | Path, resume: str, identity: dict[str, Any], warn: Callable[[str], None] = print
) -> Path | None:
    """The checkpoint folder to go on from, its files compared with what was written; None to start at step 0.

    Args:
        resume: "auto" takes the newest valid checkpoint of `output_dir` (damaged ones are passed over with a warning),
            "no" none, anything else is a checkpoint folder, which must be valid.
        identity: of the present run; a checkpoint of another run is refused.
    """
    if resume == "no":
        return None
    candidates = list_checkpoints(output_dir) if resume == "auto" else [Path(resume)]
    for folder in candidates:
        try:
            content = check_checkpoint(folder)
        except InputError as error:
            if resume != "auto" or "newer version" in str(error):
                raise
            warn(f"{error}; trying the checkpoint before it")
            continue
        there = content["identity"]  # lacks options that came later; a run without them is a run with their defaults
        differing = {key: (there[key], value) for key, value in identity.items() if there.get(key, value) != value}
        if differing:
            options = {key.split(".")[-1] for key in differing if "." in key}
            named = {k: v for k, v in differing.items() if k.removeprefix("fingerprint of ") not in options}  # once
            listed = "; ".join(f"{k}: {a!r} there, {b!r} now" for k, (a, b) in named.items())
            raise InputError(
                f"{folder} belongs to a different run ({listed}): use --resume no to start again, or another folder"
            )
        return folder
    return None


def read_state(folder: Path, mmap: bool = False) -> tuple[int, dict[str, Any]]:
    """(step, state) of a checkpoint that was chosen.

    Args:
        mmap: leave the tensors on the disk until they are looked at: for processes that take a slice of each. Copy
            them, since the file may be pruned.
    """
    step = json.loads((folder / "checkpoint.json").read_text(encoding="utf-8"))["step"]
    return int(step), torch.load(folder / "state.pt", map_location="cpu", weights_only=True, mmap=mmap)


def remove_checkpoints(output_dir: str | Path, leftovers_only: bool = False) -> None:
    """Delete leftovers of killed saves, and unless `leftovers_only` every checkpoint of `output_dir`."""
    folder = Path(output_dir)
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if path.is_dir() and path.name.startswith(".checkpoint-") and path.name.endswith(".tmp"):
            shutil.rmtree(path, ignore_errors=True)
    if not leftovers_only:
        (folder / BEST_FILE).unlink(missing_ok=True)
        for path in list_checkpoints(folder):
            shutil.rmtree(path, ignore_errors=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
