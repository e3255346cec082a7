"""What a run was: resolved recipe, versions, git revision, dataset fingerprint, written beside every checkpoint."""

import json
import platform
import subprocess
import sys
from importlib import metadata as package_metadata
from pathlib import Path
from typing import Any

import yaml

from ..files import atomic_write_text
from ..version import __version__
from .arguments import Recipe


PACKAGES = ("torch", "transformers", "diffusers", "accelerate", "peft", "tokenizers", "safetensors", "numpy", "av")


def git_revision() -> str | None:
    """Commit of the checkout this package is imported from (`+dirty` if files differ); None for an installed copy."""
    here = Path(__file__).resolve().parent
    try:
        run = ["git", "-C", str(here)]
        revision = subprocess.run([*run, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True)
        status = subprocess.run(
            [*run, "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return revision.stdout.strip() + ("+dirty" if status.stdout.strip() else "")


def versions() -> dict[str, str]:
    found = {"hf_vpdd": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = package_metadata.version(name)
        except package_metadata.PackageNotFoundError:
            continue
    return found


def run_record(recipe: Recipe, fingerprints: dict[str, str], **more: Any) -> dict[str, Any]:
    """
    Args:
        fingerprints: e.g. `{"dataset": ..., "vqvae": ...}`.
        more: further facts, e.g. number of parameters, processes, device.
    """
    return {
        "stage": recipe.stage, "seed": recipe.train.seed, "recipe": recipe.to_dict(), "fingerprints": fingerprints,
        "versions": versions(), "git_revision": git_revision(), "command": sys.argv, **more,
    }  # fmt: skip


def write_run_files(folder: str | Path, record: dict[str, Any]) -> None:
    """`run.json` with everything, `recipe.yaml` ready for --config."""
    folder = Path(folder)
    atomic_write_text(folder / "run.json", json.dumps(record, indent=1, default=str) + "\n")
    atomic_write_text(folder / "recipe.yaml", yaml.safe_dump(record["recipe"], sort_keys=False))
