"""What a folder or Hub repository holds, asked before anything large is loaded from it.

Every function takes a place: a local folder, or a repository's name with `hub_options` (`revision`, `token`,
`cache_dir`, `local_files_only`) for the download.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import is_offline_mode
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from .errors import InputError
from .modeling.saved_files import DOWNLOAD, check_format
from .registration import DEFAULT_CHECKPOINT


WRITERS = "Give a folder written by save_policy or training/finetune.py."


def find_file(place: str | os.PathLike, name: str, hub_options: Mapping | None = None) -> Path | None:
    """The local path of a file of `place`, downloaded if need be; None if it has no such file.

    Raises:
        InputError: No such repository, revision or permission, or the Hub cannot be reached.
    """
    if os.path.isdir(place):
        path = Path(place) / name
        return path if path.is_file() else None
    from transformers.utils import cached_file

    options = {key: value for key, value in (hub_options or {}).items() if key in DOWNLOAD}
    try:
        found = cached_file(str(place), name, _raise_exceptions_for_missing_entries=False, **options)
    except (OSError, ValueError) as error:
        raise InputError(f"model: {place} {_reason(error)}") from error
    return None if found is None else Path(found)


def read_config(place: str | os.PathLike, hub_options: Mapping | None = None) -> dict | None:
    """The content of the config.json of `place`; None if there is none.

    Raises:
        InputError: It is damaged, or was written by a newer version of this package; or as of `find_file`.
    """
    path = find_file(place, "config.json", hub_options)
    if path is None:
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it holds no dictionary")
    except (OSError, ValueError) as error:
        raise InputError(
            f"model: {place}/config.json is damaged ({error}). Save or download the model again."
        ) from error
    check_format(content, f"{place}/config.json")
    return content


def require_checkpoint(place: str | os.PathLike, hub_options: Mapping | None = None) -> None:
    """Raises an `InputError` unless `place` holds a policy with its processor; no weights are read for that."""
    place = str(place)
    if not os.path.isdir(place):
        _require_name(place)
    config = read_config(place, hub_options)
    if config is None:
        raise InputError(_missing(place, "config.json"))
    kind = (config.get("architectures") or [None])[0]
    check_is_policy(kind, place)
    # weights alone know neither action bins nor cameras
    if find_file(place, "processor_config.json", hub_options) is None:
        raise InputError(
            f"{_missing(place, 'processor_config.json')} Cameras, action bins and statistics stand there; those of "
            "another run would be wrong without a sign of it."
        )


def check_is_policy(kind: str | None, place: str) -> None:
    """Raises an `InputError` for a class of this package that is no policy; what it does not know may be one.

    Args:
        kind: Of `config.architectures`; None if nothing is recorded.
    """
    if kind in ("VPTRForValuePrediction", "VPTRModel", "VPDDVQVAE"):
        raise InputError(
            f"{place}: holds a {kind}, which neither acts nor imagines. A value model may guide another policy "
            "(value_model=...), or start one (training/offline_rl.py)."
            if kind != "VPDDVQVAE"
            else f"{place}: holds a {kind}, a video tokenizer: it neither acts nor imagines. Give the policy that was "
            "trained with it."
        )
    if kind in ("VPDDForVideoPrediction", "GR1ForVideoPrediction", "VPDDModel", "GR1Model"):
        policy = f"{kind[:4].rstrip('FM')}ForRobotPolicy"
        raise InputError(
            f"{place}: holds a {kind}, not a policy ({policy}). Fine-tune it on demonstrations first "
            "(training/finetune.py)."
        )


def require_pipeline(place: str | os.PathLike, hub_options: Mapping | None = None) -> None:
    """Raises an `InputError` unless `VPDDPipeline` can load `place`."""
    place = str(place)
    if not os.path.isdir(place):
        _require_name(place)
    if find_file(place, "model_index.json", hub_options) is not None:
        return
    config = read_config(place, hub_options)
    if config is None:
        raise InputError(_missing(place, "model_index.json"))
    kind = (config.get("architectures") or [config.get("model_type")])[0]
    acts = str(kind).endswith("ForRobotPolicy")
    raise InputError(
        f"{place}: holds a {kind} without model_index.json, which is no diffusion pipeline. "
        + ('Load it with RobotPolicy or pipeline("robot-policy").' if acts else "VPDDPipeline needs a VPDD model.")
    )


def _require_name(place: str) -> None:
    """A path that is no folder, told apart from the name of a repository."""
    if place == str(DEFAULT_CHECKPOINT):
        raise InputError(
            f"the checkpoint that ships with the package is missing ({place}). "
            "Name a model: a folder or a Hub repository."
        )
    if os.path.isabs(place) or place.startswith((".", "~")) or place.count("/") > 1:
        raise InputError(f"model: the folder {place} does not exist. {WRITERS}")


def _missing(place: str, name: str) -> str:
    kind = "folder" if os.path.isdir(place) else "repository"
    if kind == "repository" and is_offline_mode():
        return (
            f"model: {place} is no folder, and its {name} was not downloaded before; HF_HUB_OFFLINE is set, so the "
            "Hub is not asked."
        )
    return f"model: the {kind} {place} has no {name}. {WRITERS}"


def _reason(error: Exception) -> str:
    causes = (error, error.__cause__, error.__context__)
    if any(isinstance(cause, GatedRepoError) for cause in causes):
        return "is gated: ask for access on its page, then log in (hf auth login)."
    if any(isinstance(cause, RevisionNotFoundError) for cause in causes):
        return f"has no such revision ({_first_line(error)})."
    if any(isinstance(cause, RepositoryNotFoundError) for cause in causes):
        return (
            "is neither a folder nor a repository on the Hub. Check the name; if it is private, log in first "
            "(hf auth login, or HF_TOKEN)."
        )
    return f"is no folder, and could not be loaded from the Hub: {_first_line(error)}"


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
