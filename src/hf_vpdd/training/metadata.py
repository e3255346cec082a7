"""What a run was: resolved recipe, versions, git revision, dataset fingerprint, written beside every checkpoint."""

import json
import platform
import sys
from pathlib import Path
from typing import Any

import yaml

from ..files import atomic_write_text
from ..provenance import package_versions, source_revision
from ..version import __version__
from .arguments import Recipe


PACKAGES = ("torch", "transformers", "diffusers", "accelerate", "peft", "tokenizers", "safetensors", "numpy", "av")


def versions() -> dict[str, str]:
    """Of this package, Python and what is installed of `PACKAGES`."""
    found = {"hf_vpdd": __version__, "python": platform.python_version(), **package_versions(PACKAGES)}
    return {name: version for name, version in found.items() if version is not None}


def run_record(recipe: Recipe, fingerprints: dict[str, str], **more: Any) -> dict[str, Any]:
    """
    Args:
        fingerprints: e.g. `{"dataset": ..., "vqvae": ...}`.
        more: further facts, e.g. number of parameters, processes, device.
    """
    return {
        "stage": recipe.stage, "seed": recipe.train.seed, "recipe": recipe.to_dict(), "fingerprints": fingerprints,
        "versions": versions(), "git_revision": source_revision(), "command": sys.argv, **more,
    }  # fmt: skip


def write_run_files(folder: str | Path, record: dict[str, Any]) -> None:
    """`run.json` with everything, `recipe.yaml` ready for --config."""
    folder = Path(folder)
    atomic_write_text(folder / "run.json", json.dumps(record, indent=1, default=str) + "\n")
    atomic_write_text(folder / "recipe.yaml", yaml.safe_dump(record["recipe"], sort_keys=False))
