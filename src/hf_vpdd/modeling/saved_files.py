"""What every saved config, processor and model of this package carries beside its own numbers.

* `hf_vpdd_auto.py` and `auto_map`, so that `AutoModel.from_pretrained(NAME, trust_remote_code=True)` and
  `pipeline("robot-policy", NAME, trust_remote_code=True)` work in a process that never imported hf_vpdd.
* The version that wrote the folder. A folder of a newer format is refused by name, not by some missing key later on.
* A card of this package on the Hub, where transformers would write its own.
"""

import json
import os
from pathlib import Path

from huggingface_hub import HfApi, ModelCard, constants, get_token
from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError

from ..errors import InputError
from ..version import __version__


# Raised when older versions of this package can no longer read what this one saves.
FORMAT_VERSION = 1
DOWNLOAD = ("revision", "token", "cache_dir", "local_files_only", "force_download", "subfolder")
SHIM = "hf_vpdd_auto"
SHIM_TEXT = '''"""Lets transformers load this repository in one line, without `import hf_vpdd`:

    AutoModel.from_pretrained("THIS/REPOSITORY", trust_remote_code=True)

There is no model code here: the classes are those of the installed package.
"""

try:
    import hf_vpdd
except ImportError as error:
    raise ImportError("This model needs the package hf-vpdd: pip install hf-vpdd") from error

hf_vpdd.register()


def __getattr__(name):
    return getattr(hf_vpdd, name)
'''
TOKEN_HELP = (
    "Make one with write access at {endpoint}/settings/tokens, then `hf auth login`, or set HF_TOKEN. `hf-vpdd push "
    "--dry-run` needs none."
)
PUSHING = ("repo_id", "commit_message", "commit_description", "private", "token", "revision", "create_pr", "tags")
# keys of a saved file that say something of the file, nothing of the network
FILE_KEYS = ("auto_map", "hf_vpdd_version", "hf_vpdd_format")


def complete_config(saved: dict, class_name: str) -> dict:
    """The content of a config.json with what a folder on the Hub needs, and without the saver's own paths.

    Args:
        class_name: Of the config, e.g. "VPDDConfig".
    """
    return without_paths(saved) | {
        "auto_map": {"AutoConfig": f"{SHIM}.{class_name}"},
        "hf_vpdd_version": __version__,
        "hf_vpdd_format": FORMAT_VERSION,
    }


def complete_processor(saved: dict, class_name: str) -> dict:
    """Likewise of a processor_config.json."""
    return without_paths(saved) | {"auto_map": {"AutoProcessor": f"{SHIM}.{class_name}"}}


def without_paths(saved: dict) -> dict:
    """Leaves out where on the saver's disk a part once lay (`_name_or_path` of nested configs)."""
    kept = {key: without_paths(value) if isinstance(value, dict) else value for key, value in saved.items()}
    return {key: value for key, value in kept.items() if key != "_name_or_path"}


def check_format(saved: dict, place: str = "") -> None:
    """Raises an `InputError` for the content of a config.json that a newer version of this package wrote."""
    found = saved.get("hf_vpdd_format", 1)
    if not isinstance(found, int) or found > FORMAT_VERSION:
        raise InputError(
            f"{place or 'config.json'}: saved by hf_vpdd {saved.get('hf_vpdd_version', 'of unknown version')} in "
            f"format {found}; this is hf_vpdd {__version__}, which reads up to format {FORMAT_VERSION}. Update it: "
            "pip install -U hf-vpdd"
        )


class SavedConfig:
    """Mixin of the configs: what `save_pretrained` adds to config.json, and what loading does with it."""

    @classmethod
    def register_for_auto_class(cls, auto_class="AutoConfig"):
        """Nothing: transformers would copy the class's source into every folder saved from then on."""

    def to_json_file(self, json_file_path: str | os.PathLike, *args, **kwargs) -> None:
        super().to_json_file(json_file_path, *args, **kwargs)
        if Path(json_file_path).name == "config.json":
            _complete(Path(json_file_path), complete_config, type(self).__name__)

    @classmethod
    def from_dict(cls, config_dict: dict, **kwargs):
        check_format(config_dict, f"{kwargs['name_or_path']}/config.json" if kwargs.get("name_or_path") else "")
        # Of the shim only the config is remote: from here on transformers finds the registered classes itself.
        return super().from_dict({k: v for k, v in config_dict.items() if k not in FILE_KEYS}, **kwargs)


def require_token(token: str | bool | None = None) -> str:
    """The token to push with.

    Raises:
        InputError: There is none.
    """
    token = get_token() if token in (None, True) else token
    if not token:
        raise InputError("No token for the Hub. " + TOKEN_HELP.format(endpoint=constants.ENDPOINT))
    return token


class HubCard:
    """Mixin: pushes end with a card of this package, unless the repository has one already that is not a stock one."""

    def own_card(self, repo_id: str) -> str:
        raise NotImplementedError

    def save_pretrained(self, save_directory: str | os.PathLike, *args, push_to_hub: bool = False, **kwargs):
        """As in transformers; with `push_to_hub` the folder's name is the repository's, unless `repo_id` is given."""
        pushing = {name: kwargs.pop(name) for name in PUSHING if name in kwargs} if push_to_hub else {}
        files = super().save_pretrained(save_directory, *args, **kwargs)
        if push_to_hub:
            repo_id = pushing.pop("repo_id", os.path.basename(os.path.normpath(save_directory)))
            self.push_to_hub(repo_id, **pushing)
        return files

    def push_to_hub(self, repo_id: str, *, token=None, revision=None, create_pr: bool = False, **kwargs):
        """As in transformers, whose stock card is then replaced by this package's own."""
        token = require_token(token)
        keep = create_pr or has_own_card(repo_id, token, revision)
        commit = super().push_to_hub(repo_id, token=token, revision=revision, create_pr=create_pr, **kwargs)
        if not keep:
            repo_id = getattr(getattr(commit, "repo_url", None), "repo_id", None) or repo_id
            HfApi(token=token).upload_file(
                path_or_fileobj=self.own_card(repo_id).encode(),
                path_in_repo="README.md",
                repo_id=repo_id,
                revision=revision,
                commit_message="Card",
            )
        return commit


def has_own_card(repo_id: str, token=None, revision=None) -> bool:
    """Whether a Hub repository has a README.md that somebody wrote, or this package."""
    if "/" not in repo_id:  # in the user's own name space, which the card's address has to name
        repo_id = f"{HfApi(token=token).whoami()['name']}/{repo_id}"
    try:
        path = HfApi(token=token).hf_hub_download(repo_id, "README.md", revision=revision)
    except (EntryNotFoundError, RepositoryNotFoundError):
        return False
    return ModelCard.load(path).data.library_name not in (None, "transformers", "diffusers")


class SavedProcessor(HubCard):
    """Mixin of the processors."""

    @classmethod
    def register_for_auto_class(cls, auto_class="AutoProcessor"):
        """Nothing, as of `SavedConfig`."""

    def to_json_file(self, json_file_path: str | os.PathLike) -> None:
        super().to_json_file(json_file_path)
        if Path(json_file_path).name == "processor_config.json":
            _complete(Path(json_file_path), complete_processor, type(self).__name__)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs):
        """As in transformers, which would make up a processor without statistics where none was saved."""
        from transformers.utils import cached_file  # here: `hf-vpdd push` reads this file without transformers

        place = str(pretrained_model_name_or_path)
        options = {name: kwargs[name] for name in DOWNLOAD if kwargs.get(name) is not None}
        if cached_file(place, "processor_config.json", _raise_exceptions_for_missing_entries=False, **options) is None:
            raise InputError(
                f"{place} has no processor_config.json: it was saved without its processor (cameras, statistics, "
                "words). Save both with save_policy(folder, model, processor), or copy the file of the same run."
            )
        return super().from_pretrained(pretrained_model_name_or_path, **kwargs)

    def own_card(self, repo_id: str) -> str:
        return (
            f"{card_header('robotics')}\n# {repo_id}\n\nThe {type(self).__name__} of a robot policy: cameras, picture "
            f"size, words and statistics, saved with hf_vpdd {__version__}.\n\n```python\nfrom transformers import "
            f'AutoProcessor\n\nprocessor = AutoProcessor.from_pretrained("{repo_id}", trust_remote_code=True)\n```\n'
        )


class SavedModel(HubCard):
    """Mixin of the models."""

    def own_card(self, repo_id: str) -> str:
        return minimal_card(self, repo_id)


def minimal_card(model, repo_id: str = "REPOSITORY") -> str:
    """A README for a model that has no card of its own yet.

    Args:
        repo_id: Its name on the Hub.
    """
    name = type(model).__name__
    lines = [f"from hf_vpdd import {name}", "", f'model = {name}.from_pretrained("{repo_id}")']
    if hasattr(model, "sample_actions"):
        lines = [
            "from transformers import pipeline",
            "",
            f'policy = pipeline("robot-policy", "{repo_id}", trust_remote_code=True)  # needs: pip install hf-vpdd',
        ]
    elif hasattr(model, "scheduler"):
        lines = [
            "from hf_vpdd import VPDDPipeline",
            "",
            f'pipe = VPDDPipeline.from_pretrained("{repo_id}")  # imagines video; it knows no actions yet',
        ]
    adapted, base_model, tags = "", None, ["robotics", "video-pretraining", model.config.model_type]
    if getattr(model, "peft_config", None) and (base := getattr(model, "adapter_base", None)) is not None:
        # of a folder the last name only: where it lies on this machine is nobody's business
        where = f"{base.name} at {base.revision}" if base.revision else Path(base.name).name
        adapted = f" This is a LoRA adapter on {where}."
        tags, base_model = [*tags, "lora"], base.name if base.revision else None
    title = name if repo_id == "REPOSITORY" else repo_id.split("/")[-1]
    return (
        f"{card_header(*tags, base_model=base_model)}\n# {title}\n\nA {name}, saved with hf_vpdd {__version__}."
        f"{adapted} No evaluation is recorded here.\n\n```python\n" + "\n".join(lines) + "\n```\n"
    )


def card_header(*tags: str, base_model: str | None = None) -> str:
    base = f"base_model: {base_model}\n" if base_model else ""
    tags = "".join(f"- {tag}\n" for tag in tags)
    return f"---\nlibrary_name: hf_vpdd\npipeline_tag: robotics\n{base}tags:\n{tags}---\n"


def write_shim(folder: Path) -> None:
    (folder / f"{SHIM}.py").write_text(SHIM_TEXT, encoding="utf-8")


def _complete(path: Path, complete, class_name: str) -> None:
    saved = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(complete(saved, class_name), indent=2, sort_keys=True) + "\n", encoding="utf-8")
    write_shim(path.parent)
