"""The layout of a saved policy, decided for good: one folder, everything at its root, weights once.

    config.json  model.safetensors  processor_config.json  tokenizer.json  tokenizer_config.json
    scheduler_config.json  model_index.json  README.md  hf_vpdd_auto.py

`AutoModel`, `AutoProcessor`, `pipeline("robot-policy")`, `RobotPolicy` and `VPDDPipeline` all load this folder:
diffusers looks for a component at the root when there is no sub-folder of its name. `hf_vpdd_auto.py` lets
`AutoModel.from_pretrained(FOLDER, trust_remote_code=True)` do without `import hf_vpdd` (see `modeling.saved_files`).

A policy with a LoRA adapter on it is saved as that adapter: `adapter_model.safetensors`, `adapter_config.json` and
`adapter_base.json` stand in place of the weights, all else is the same, and the same five load it.
"""

import json
import os
import secrets
import shutil
from pathlib import Path

from .errors import InputError
from .modeling.adapters import adapters_of, write_adapter
from .modeling.saved_files import minimal_card


def save_policy(
    directory: str | os.PathLike,
    model,
    processor,
    card: str | None = None,
    scheduler=None,
    max_shard_size: str | int = "5GB",
    home: str | os.PathLike | None = None,
) -> Path:
    """Writes model, processor, scheduler and pipeline index into one folder; whole or (if killed) not at all.

    Args:
        directory: Created if absent. In an existing folder the files of the same names and older weights are replaced,
            others stay.
        model: A `VPDDForRobotPolicy`, or a `VPDDForVideoPrediction`, which only `VPDDPipeline` can put to use.
        processor: Its `VPDDProcessor`.
        card: Text of README.md, with its YAML header. Default: a README that is there stays, else a minimal one.
        scheduler: Default: the model's own, if it has one.
        max_shard_size: Weights larger than this are split.
        home: Where the folder will be moved to, if not `directory` (an adapter remembers the way to its base).

    Returns:
        The folder.
    """
    directory = Path(directory)
    if directory.exists() and not directory.is_dir():
        raise InputError(f"directory: {directory} is a file; give a folder to save the policy in.")
    if processor is None:
        raise InputError("processor: missing. A policy is saved with its action bins and statistics.")
    scheduler = getattr(model, "scheduler", None) if scheduler is None else scheduler
    directory.parent.mkdir(parents=True, exist_ok=True)
    # A sibling, so that the renames stay on one disk; hidden, so that nobody takes a half-written one for a policy.
    stage = directory.with_name(f".{directory.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        if adapters_of(model):
            write_adapter(stage, model, Path(home or directory))
        else:
            model.save_pretrained(stage, max_shard_size=max_shard_size)
        processor.save_pretrained(stage)
        if scheduler is not None:  # GR-1 and V-PTR have none, and therefore no diffusers pipeline
            scheduler.save_pretrained(stage)
            (stage / "model_index.json").write_text(
                json.dumps(model_index(model, scheduler, processor), indent=2, sort_keys=True) + "\n", encoding="utf-8"
            )
        if card is not None or not (directory / "README.md").exists():
            (stage / "README.md").write_text(minimal_card(model) if card is None else card, encoding="utf-8")
        move_into(stage, directory)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    return directory


def model_index(model, scheduler, processor) -> dict:
    """diffusers' model_index.json: which class of which module each component is."""
    import diffusers

    components = {"model": model, "scheduler": scheduler, "processor": processor}
    index: dict = {name: [type(part).__module__, type(part).__name__] for name, part in components.items()}
    return {"_class_name": "VPDDPipeline", "_diffusers_version": diffusers.__version__, **index}


def open_weights(folder: Path) -> None:
    """Gives weights the permissions of their config: safetensors makes files that nobody else on the machine can read,
    whatever the umask says."""
    if (folder / "config.json").is_file():
        mode = (folder / "config.json").stat().st_mode
        for path in folder.glob("*.safetensors"):
            path.chmod(mode)


def move_into(stage: Path, directory: Path) -> None:
    """Moves the finished files of a model to their place, older weights of another name away; config.json last, since
    without it nothing loads the folder."""
    open_weights(stage)
    if not directory.exists():
        os.replace(stage, directory)
        return
    files = sorted(stage.iterdir(), key=lambda path: (path.name == "config.json", path.name))
    names = {path.name for path in files}
    # The old config goes first: a run killed between here and the end leaves what nothing loads, not a mixture.
    (directory / "config.json").unlink(missing_ok=True)
    for old in directory.iterdir():
        weights = old.name.startswith("model") and old.name.endswith((".safetensors", ".safetensors.index.json"))
        adapter = old.name.startswith("adapter_") and old.is_file()
        if (weights or adapter or old.name == "model_index.json") and old.name not in names:
            old.unlink()
    for path in files:
        os.replace(path, directory / path.name)
