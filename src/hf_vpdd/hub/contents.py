"""What a folder holds that can go to the Hub: a model with its processor, an adapter, a dataset; checked beforehand.

Only files of known names are taken. Checkpoints to resume from, logs and whatever else lies in the folder of a run
stay at home, and so do the saver's own paths.
"""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..modeling.saved_files import SHIM, SHIM_TEXT, check_format, complete_config, complete_processor
from .paths import shorten_paths


WEIGHTS = ("model*.safetensors", "model.safetensors.index.json")
PROCESSOR = (
    "processor_config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json", "vocab.json",
    "merges.txt", "special_tokens_map.json", "added_tokens.json",
)  # fmt: skip
PIPELINE = ("scheduler_config.json", "scheduler_state.safetensors", "model_index.json")
ADAPTER_BASE = "adapter_base.json"  # which weights an adapter was trained on
ADAPTER = ("adapter_model.safetensors", "adapter_config.json", ADAPTER_BASE)
RECORDS = ("run.json", "training.json", "conversion.json")
DATASET = ("meta", "data", "videos")
# Models that need nothing but their weights; all others know their cameras, words and statistics by a processor.
WITHOUT_PROCESSOR = ("VPDDVQVAE",)
READS_WORDS = ("VPDDProcessor", "GR1Processor")


@dataclass
class Contents:
    """What is to be pushed.

    Args:
        folder: Where it lies.
        kind: "model", "adapter" or "dataset".
        files: Name in the repository -> path, or the bytes themselves where they are not pushed as they lie.
        architecture: Class of the model; of an adapter, what peft calls its base.
        config: config.json, or meta/info.json of a dataset.
        processor: processor_config.json, {} if there is none.
        run: run.json of training, {} if there is none. training: its training.json.
        card: The text of a README.md that lies there.
        adapter: adapter_config.json. base: Hub name of its base. base_record: its adapter_base.json, if there is one.
    """

    folder: Path
    kind: str
    files: dict[str, Path | bytes]
    architecture: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    processor: dict[str, Any] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    card: str | None = None
    adapter: dict[str, Any] = field(default_factory=dict)
    base: str | None = None
    base_record: dict[str, Any] | None = None

    @property
    def num_bytes(self) -> int:
        return sum(len(file) if isinstance(file, bytes) else file.stat().st_size for file in self.files.values())

    def parameters(self) -> int:
        """Numbers in the weights' files; only the headers are read."""
        return sum(
            _numbers_in(path)
            for name, path in self.files.items()
            if isinstance(path, Path) and fnmatch(name, "*model*.safetensors")
        )


def look_into(folder: str | Path, base_model: str | None = None) -> Contents:
    """The contents of a folder, whole and valid.

    Args:
        base_model: For an adapter: the Hub name of the model it belongs to, where the files name a folder.

    Raises:
        InputError: The folder holds nothing to push, or a file is missing or damaged, or it was written by a newer
            version; the message names the file and what to do.
    """
    folder = Path(folder)
    if not folder.exists():
        raise InputError(f"{folder} does not exist. Give the folder of a finished run, a saved model or a dataset.")
    if not folder.is_dir():
        raise InputError(f"{folder} is a file. Give the folder it lies in.")
    if (folder / "meta" / "info.json").is_file():
        return _dataset(folder)
    if (folder / "adapter_config.json").is_file():
        return _adapter(folder, base_model)
    if (folder / "config.json").is_file():
        return _model(folder)
    newest = max(folder.glob("checkpoint-*/model"), default=None, key=lambda path: path.parent.name)
    if newest is not None:
        raise InputError(
            f"{folder} holds a run that is not finished: there is no config.json. Let it end (--resume auto), or push "
            f"what it has saved last: {newest}"
        )
    raise InputError(
        f"{folder} holds nothing to push: no config.json (a model), adapter_config.json (an adapter) or "
        "meta/info.json (a dataset)."
    )


def _model(folder: Path) -> Contents:
    config = read_json(folder / "config.json")
    check_format(config, str(folder / "config.json"))
    architecture = (config.get("architectures") or [""])[0]
    if not architecture or config.get("model_type") not in ("vpdd", "vpdd_vqvae", "gr1", "vptr"):
        raise InputError(
            f"{folder}/config.json: {architecture or config.get('model_type')!r} is no model of this package; push it "
            "with its own library."
        )
    files = {path.name: path for pattern in (*WEIGHTS, *PIPELINE) for path in sorted(folder.glob(pattern))}
    _check_weights(folder, files)
    processor, files_of_processor = _processor(folder)
    if not processor and architecture not in WITHOUT_PROCESSOR:
        raise InputError(
            f"{folder}: processor_config.json is missing, and a {architecture} is of no use without its cameras, "
            "statistics and words. Save the model with save_policy(folder, model, processor), or copy the processor's "
            "files of the same run."
        )
    contents = Contents(folder, "model", files | files_of_processor, architecture, config, processor)
    contents.files["config.json"] = _json(complete_config(config, _config_class(config)))
    return _with_records(contents, folder)


def _adapter(folder: Path, base_model: str | None) -> Contents:
    """Of this package (with config.json and adapter_base.json), or as peft alone writes it."""
    adapter = read_json(folder / "adapter_config.json")
    weights = folder / "adapter_model.safetensors"
    if not weights.is_file():
        raise InputError(f"{folder}: adapter_model.safetensors is missing. Save the adapter again.")
    _numbers_in(weights)
    base = base_model or adapter.get("base_model_name_or_path")
    record = read_json(folder / ADAPTER_BASE) if (folder / ADAPTER_BASE).is_file() else None
    # A folder may be named relative to where the training ran, and then look like a Hub name from here.
    of_folder = record is not None and not record.get("revision") and not base_model
    if not base or of_folder or Path(base).exists() or str(base).startswith(("/", ".", "~")) or base.count("/") > 1:
        raise InputError(
            f"{folder}/adapter_config.json: the adapter's base is {base!r}, which nobody else has. Push that model "
            "first, then name it: --base-model USER/NAME"
        )
    processor, files = _processor(folder)
    if not processor:  # of a finished run, the merged policy with its processor may lie one folder up
        processor, files = _processor(folder.parent)
    if not processor:
        raise InputError(
            f"{folder}: processor_config.json is missing, here and one folder up. The adapter was trained with these "
            "statistics; copy the processor's files of its run."
        )
    files |= {name: folder / name for name in PIPELINE if (folder / name).is_file()}
    architecture = (adapter.get("auto_mapping") or {}).get("base_model_class") or ""
    config: dict[str, Any] = {}
    if (folder / "config.json").is_file():
        config = read_json(folder / "config.json")
        check_format(config, str(folder / "config.json"))
        architecture = (config.get("architectures") or [architecture])[0]
        files["config.json"] = _json(complete_config(config, _config_class(config)))
    contents = Contents(folder, "adapter", files | {weights.name: weights}, architecture, config, processor)
    contents.adapter, contents.base, contents.base_record = adapter, str(base), record
    place_on_base(contents, adapter.get("revision") if base_model is None else None)
    return _with_records(contents, folder, folder.parent)


def place_on_base(contents: Contents, revision: str | None) -> None:
    """Makes an adapter's files name its base on the Hub, at a commit of it (None: the newest)."""
    adapter = contents.adapter | {"base_model_name_or_path": contents.base, "revision": revision}
    contents.files["adapter_config.json"] = _json(adapter)
    if contents.base_record is not None:
        at = {"name": contents.base, "revision": revision or "main", "weights": {}, "relative": None}
        contents.files[ADAPTER_BASE] = _json(contents.base_record | at)


def _dataset(folder: Path) -> Contents:
    info = read_json(folder / "meta" / "info.json")
    for name in ("codebase_version", "features", "total_episodes", "total_frames", "fps"):
        if name not in info:
            raise InputError(f"{folder}/meta/info.json has no {name!r}: this is no LeRobot dataset.")
    files = {
        path.relative_to(folder).as_posix(): path
        for name in DATASET
        for path in sorted((folder / name).rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }
    if not any(name.startswith("data/") for name in files):
        raise InputError(f"{folder}/data is missing or empty; the dataset is not whole. Write or download it again.")
    for name in [name for name in files if name.startswith("meta/") and name.endswith((".json", ".jsonl"))]:
        text = files[name].read_text(encoding="utf-8")
        if (short := shorten_paths(text)) != text:  # where the recordings lay that it was converted from
            files[name] = short.encode()
    card = folder / "README.md"
    return Contents(
        folder, "dataset", files, "", info, card=card.read_text(encoding="utf-8") if card.is_file() else None
    )


def _with_records(contents: Contents, *folders: Path) -> Contents:
    """Adds what training wrote, without its paths, and the card that lies there."""
    places = (*folders, contents.folder.parent) if contents.folder.name == "model" else folders
    for name in RECORDS:
        path = next((place / name for place in places if (place / name).is_file()), None)
        if path is None:
            continue
        found = read_json(path)
        contents.files[name] = _json(shorten_paths(found))
        if name != "conversion.json":
            setattr(contents, path.stem, found)
    contents.files[f"{SHIM}.py"] = SHIM_TEXT.encode()
    card = contents.folder / "README.md"
    contents.card = card.read_text(encoding="utf-8") if card.is_file() else None
    return contents


def _processor(folder: Path) -> tuple[dict[str, Any], dict[str, Path | bytes]]:
    """(processor_config.json, its files by name); ({}, {}) without one."""
    path = folder / "processor_config.json"
    if not path.is_file():
        return {}, {}
    processor = read_json(path)
    files: dict[str, Path | bytes] = {name: folder / name for name in PROCESSOR if (folder / name).is_file()}
    kind = processor.get("processor_class", "")
    if kind in READS_WORDS and "tokenizer_config.json" not in files:
        raise InputError(
            f"{folder}: tokenizer_config.json is missing, and the {kind} reads instructions. Copy the tokenizer's "
            "files of the same run."
        )
    files["processor_config.json"] = _json(complete_processor(processor, kind))
    return processor, files


def _check_weights(folder: Path, files: Mapping[str, Path]) -> None:
    index = files.get("model.safetensors.index.json")
    wanted = ["model.safetensors"] if index is None else sorted(set(read_json(index)["weight_map"].values()))
    for name in wanted:
        if name not in files:
            raise InputError(f"{folder}: {name} is missing. Save or download the model again.")
        _numbers_in(files[name])


def _numbers_in(path: Path) -> int:
    """Numbers in a safetensors file, by its header."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > path.stat().st_size:
                raise ValueError("cut short")
            header = json.loads(file.read(length))
        tensors = [entry for name, entry in header.items() if name != "__metadata__"]
        if 8 + length + max((entry["data_offsets"][1] for entry in tensors), default=0) > path.stat().st_size:
            raise ValueError("cut short")
        return sum(_product(entry["shape"]) for entry in tensors)
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        raise InputError(f"{path} is damaged ({error}). Save or download it again.") from error


def _product(shape: list[int]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


def _config_class(config: Mapping[str, Any]) -> str:
    names = {"vpdd": "VPDDConfig", "vpdd_vqvae": "VPDDVQVAEConfig", "gr1": "GR1Config", "vptr": "VPTRConfig"}
    if config.get("model_type") not in names:
        raise InputError(f"config.json: {config.get('model_type')!r} is no model of this package.")
    return names[config["model_type"]]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file with a dictionary, or an `InputError` that names it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it holds no dictionary")
        return content
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is damaged ({error}). Save or download it again.") from error


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()


def is_weight(name: str) -> bool:
    """Whether a file of a repository is of the kind that a new model replaces."""
    return any(fnmatch(name, pattern) for pattern in (*WEIGHTS, *PIPELINE, *ADAPTER))
