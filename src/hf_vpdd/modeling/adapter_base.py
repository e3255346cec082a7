"""Which model an adapter was trained on: `adapter_base.json` in the adapter's folder.

peft records a name alone (`base_model_name_or_path`). A name does not tell a folder from what stood there last week,
and a robot must not act with an adapter on other weights: hence the commit of a Hub repository, or the hashes of a
folder's weight files.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from transformers import PreTrainedConfig

from ..errors import InputError
from ..files import file_sha256


ADAPTER_BASE = "adapter_base.json"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
_DOWNLOAD = ("token", "cache_dir", "local_files_only", "force_download")


@dataclass
class AdapterBase:
    """The model under an adapter.

    Args:
        name: Hub id or folder, as training was told.
        revision: Commit of a Hub repository; None for a folder.
        architecture: Class that the base was saved by, e.g. `VPDDForVideoPrediction`.
        weights: Name and SHA-256 of a folder's weight files; empty for a Hub repository, whose commit says it all.
        relative: The folder as seen from the adapter's, so that both can be moved together.
    """

    name: str
    revision: str | None = None
    architecture: str | None = None
    weights: dict[str, str] = field(default_factory=dict)
    relative: str | None = None

    @classmethod
    def of(cls, name: str | os.PathLike, revision: str | None = None, folder: str | os.PathLike | None = None):
        """The record of a base.

        Args:
            name: Folder or Hub id. revision: commit of the latter. folder: where its files lie, if not at `name`.
        """
        place = Path(folder or name)
        architecture = (_config_of(place).get("architectures") or [None])[0]
        weights = {} if revision else weight_hashes(place)
        return cls(str(name), revision, architecture, weights)

    @classmethod
    def read(cls, adapter: Path) -> "AdapterBase":
        """The record in an adapter's folder."""
        content = json.loads((adapter / ADAPTER_BASE).read_text(encoding="utf-8"))
        known = {name: content.get(name) for name in cls.__dataclass_fields__}
        return cls(**{**known, "weights": known["weights"] or {}})

    def write(self, adapter: Path, home: Path | None = None) -> None:
        """Into an adapter's folder, which will end up at `home`."""
        relative = self.relative
        if not self.revision and Path(self.name).is_dir():
            relative = os.path.relpath(Path(self.name).resolve(), Path(home or adapter).resolve())
        content = {**asdict(self), "relative": relative}
        (adapter / ADAPTER_BASE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    def find(self, adapter: Path, source: str) -> tuple[str, str | None]:
        """Where the base is: (folder or Hub id, revision).

        Args:
            adapter: The adapter's folder. source: what the user called it.

        Raises:
            InputError: It is gone, or other weights have taken its place.
        """
        if self.revision:
            return self.name, self.revision
        places = [Path(self.name).expanduser()]
        if self.relative:
            places.append((adapter / self.relative).resolve())
        found = [place for place in places if (place / "config.json").is_file()]
        if not found:
            raise InputError(
                f"{source}: the base model of this adapter, {self.name}, is not there. Bring it back, or say where it "
                "is: base_model=FOLDER in Python, --base FOLDER of hf-vpdd merge"
            )
        for place in found:
            if not self.weights or weight_hashes(place) == self.weights:
                return str(place), None
        raise InputError(
            f"{source}: the weights in {found[0]} are not those this adapter was trained on (another hash): has that "
            "model been trained again? If they are meant all the same (a copy in half precision, say), name them with "
            "base_model=FOLDER in Python, --base FOLDER of hf-vpdd merge"
        )


def weight_hashes(folder: Path) -> dict[str, str]:
    """Name and SHA-256 of the weight files of a saved model."""
    files = [path for path in folder.glob("model*.safetensors") if path.is_file()]
    return {path.name: file_sha256(path) for path in sorted(files)}


def adapter_folder(source: str | os.PathLike, options: Mapping) -> Path | None:
    """The folder of one of this package's adapters, downloaded if `source` is a Hub id; None if it is something else.

    Args:
        options: `revision`, `token`, `cache_dir`, ... for the download.
    """
    from transformers.utils import cached_file

    if os.path.isdir(source):
        folder = Path(source)
        return folder if (folder / ADAPTER_CONFIG).is_file() and (folder / ADAPTER_BASE).is_file() else None
    options = {name: options[name] for name in (*_DOWNLOAD, "revision") if options.get(name) is not None}
    for name in (ADAPTER_CONFIG, ADAPTER_BASE):
        quiet = dict.fromkeys(("gated_repo", "missing_entries", "connection_errors"), False)
        flags = {f"_raise_exceptions_for_{kind}": value for kind, value in quiet.items()}
        try:
            if cached_file(str(source), name, **options, **flags) is None:
                return None
        except OSError:  # no such repository: what is asked for next says so
            return None
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(str(source), **options))


def hub_options(options: Mapping) -> dict:
    """Those of `options` that say how to download, without the revision."""
    return {name: options[name] for name in _DOWNLOAD if options.get(name) is not None}


def check_family(adapter: dict, base: str, base_config: dict, source: str) -> None:
    """Raises an InputError if the base is of another family, or an adapter itself."""
    wanted, found = adapter.get("model_type"), base_config.get("model_type")
    if wanted != found:
        raise InputError(
            f"the base model does not match the adapter: {source} is for a model of type {wanted!r}, {base} holds one "
            f"of type {found!r}"
        )


def mismatch(adapter: dict, base: str, base_config: dict, source: str, why: str) -> InputError:
    """What to say when the weights of a base do not fit: the sizes of both."""
    ignored = {"architectures", "transformers_version", "dtype", "_name_or_path"}
    sizes = [
        f"{name} {_short(adapter.get(name))} in the adapter, {_short(base_config.get(name))} in the base"
        for name in sorted(adapter.keys() & base_config.keys())
        if name not in ignored and adapter[name] != base_config[name]
    ]
    told = "; ".join(sizes[:8]) or why
    return InputError(
        f"the base model does not match the adapter: {source} was trained on a model of other sizes than {base} has "
        f"({told})"
    )


def read_config(path: str, revision: str | None, options: Mapping, source: str) -> dict:
    """config.json of a base as a dictionary.

    Raises:
        InputError: There is none.
    """
    try:
        config, _ = PreTrainedConfig.get_config_dict(path, revision=revision, **hub_options(options))
    except OSError as error:
        raise InputError(
            f"{source}: its base model {path} was not found: neither a folder with a saved model nor on the Hub. Say "
            "where it is: base_model=FOLDER in Python, --base FOLDER of hf-vpdd merge"
        ) from error
    if not config:
        raise InputError(f"{source}: its base model {path} has no config.json: name a folder with a saved model")
    return config


def _config_of(folder: Path) -> dict:
    file = folder / "config.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _short(value) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
