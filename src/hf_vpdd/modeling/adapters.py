"""LoRA adapters: loading them onto their base, writing their folders, merging them.

A folder of an adapter is that of a policy with other weights: `config.json` and everything of the processor are the
policy's, `adapter_model.safetensors` and `adapter_config.json` (peft's layout) stand in place of the weights, and
`adapter_base.json` says what they belong to. `AutoModel`, `RobotPolicy`, the pipelines and `peft` itself load it.
"""

import copy
import os
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import nn

from ..errors import InputError
from .adapter_base import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    AdapterBase,
    adapter_folder,
    check_family,
    mismatch,
    read_config,
)
from .quiet import quiet_transformers


class AdapterLoadingMixin:
    """`from_pretrained` of a class whose adapters change more than layers: the policy has another configuration than
    its base, and parts that the base lacks."""

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path, *args, base_model: str | os.PathLike | None = None, **kwargs
    ):
        """As in transformers; of an adapter's folder (or Hub repository), its base with the adapter attached.

        Args:
            base_model: Folder or Hub id of the base, for an adapter whose own is not where it was in training.

        Raises:
            InputError: The base is gone, was trained again since, or does not fit the adapter.
        """
        given = kwargs.get("adapter_kwargs") or {}
        source = given.get("_adapter_model_path") or pretrained_model_name_or_path  # AutoModel has put the base there
        folder = None
        if source is not None and kwargs.get("state_dict") is None:
            revision = given.get("revision", kwargs.get("revision"))
            folder = adapter_folder(source, {**kwargs, "revision": revision})
        if folder is None:
            if base_model is not None:
                raise InputError(f"base_model: {source} is no adapter of this package, so it has no base")
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        return _load_adapted(cls, str(source), folder, kwargs, base_model)

    @classmethod
    def load_base(cls, path, config, **kwargs):
        """(model, names of the parameters that started random) of a base, for an adapter to be put on."""
        model, info = super().from_pretrained(path, config=config, output_loading_info=True, **kwargs)
        return model, [*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])]


def _load_adapted(cls, source: str, folder: Path, kwargs: dict, base_model):
    require_peft(source)
    config, adapter_name = kwargs.pop("config", None), kwargs.pop("adapter_name", None) or "default"
    told, from_auto = kwargs.pop("output_loading_info", False), kwargs.pop("_from_auto", False)
    for name in ("adapter_kwargs", "revision"):
        kwargs.pop(name, None)
    adapter = read_config(str(folder), None, {}, source)
    cls = _class_for(cls, adapter, source, from_auto)
    if config is None or not os.path.isdir(source):  # for a Hub id, AutoModel has read the base's
        config = cls.config_class.from_pretrained(folder)
    base = AdapterBase.read(folder)
    path, revision = base.find(folder, source) if base_model is None else (str(base_model), None)
    if os.path.isfile(os.path.join(path, ADAPTER_CONFIG)):
        raise InputError(f"base_model: {path} is an adapter itself; merge it first (hf-vpdd merge), or name its base")
    base_config = read_config(path, revision, kwargs, source)
    check_family(adapter, path, base_config, source)
    try:
        with quiet_transformers():
            model, missing = cls.load_base(path, config, revision=revision, **kwargs)
    except (RuntimeError, ValueError) as error:
        raise mismatch(adapter, path, base_config, source, str(error)) from error
    attach(model, folder, adapter_name, source, missing)
    model.name_or_path = model.config._name_or_path = source
    model.adapter_folder = str(folder)
    model.adapter_base = base if base_model is None else AdapterBase(path, architecture=base.architecture)
    if base_model is not None and os.path.isdir(path):
        model.adapter_base = AdapterBase.of(path)
    if told:  # anything else would have been an error
        return model, {name: set() for name in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")}
    return model


def attach(model, folder: Path, name: str, source: str, missing=(), trainable: bool = False) -> None:
    """Puts the adapter of a folder on a loaded model of its base, and switches to it.

    By peft's functions: transformers' own `load_adapter` (5.23) leaves DoRA's magnitudes as they start, without a word
    that a program could see.

    Args:
        missing: Parameters of `model` that its own checkpoint lacked.

    Raises:
        InputError: Adapter and model differ in their layers or sizes.
    """
    from peft import PeftConfig, get_peft_model_state_dict, inject_adapter_in_model, set_peft_model_state_dict

    how = PeftConfig.from_pretrained(str(folder))
    random = [key for key in missing if not covered(key, how.modules_to_save or ())]
    if random:
        raise InputError(
            f"the base model does not match the adapter: {source} needs {', '.join(sorted(random)[:3])} of it, which "
            "the base has not (or in another shape)"
        )
    how.inference_mode = not trainable
    weights = load_file(folder / ADAPTER_WEIGHTS)
    weights = {key.removeprefix("base_model.model."): tensor for key, tensor in weights.items()}
    try:
        with quiet_peft():
            inject_adapter_in_model(how, model, name)
            model._hf_peft_config_loaded = True
            wanted = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False).keys()
            wrong = sorted(wanted ^ weights.keys())
            if not wrong:
                set_peft_model_state_dict(model, weights, adapter_name=name)
    except (RuntimeError, ValueError) as error:
        raise InputError(f"the base model does not match the adapter {source}: {error}") from error
    if wrong:
        raise InputError(
            f"the base model does not match the adapter {source}: {len(wrong)} tensors are in one and not in the "
            f"other, first {', '.join(wrong[:3])}"
        )
    model.set_adapter(name)
    if not trainable:
        model.requires_grad_(False).eval()


def require_same_base(model: nn.Module, folder: Path, source: str) -> None:
    """Raises an InputError if the adapter in `folder` was trained on another model than `model` is (or, of one with an
    adapter on it, than its base is), as far as that can be told."""
    base, kind = AdapterBase.read(folder), type(model).__name__
    mine = getattr(model, "adapter_base", None)
    if mine is None:
        revision = getattr(model.config, "_commit_hash", None)
        if not revision and not os.path.isdir(model.name_or_path):
            return  # made in Python: sizes will have to do
        mine = AdapterBase.of(model.name_or_path, revision)
        mine.architecture = kind
    differ = base.architecture != mine.architecture
    if base.revision and mine.revision:
        differ = differ or base.revision != mine.revision
    elif base.weights and mine.weights:
        differ = differ or base.weights != mine.weights
    if differ:
        raise InputError(
            f"the model does not match the adapter: {source} was trained on {base.name} ({base.architecture}), this "
            f"is {mine.name} ({mine.architecture}), or the one has been trained again since. An adapter can be loaded "
            "together with its own base by from_pretrained"
        )


def covered(parameter: str, modules) -> bool:
    """Whether a parameter lies in one of these modules, named in full or by their end as in peft."""
    return any(f".{module}." in f".{parameter}" for module in modules)


def adapters_of(model: nn.Module) -> list[str]:
    """Names of the adapters on a model."""
    return list(getattr(model, "peft_config", None) or ())


def active_adapter(model: nn.Module) -> str:
    """The one adapter that acts.

    Raises:
        InputError: Several do.
    """
    active = model.active_adapters()
    if len(active) != 1:
        raise InputError(f"{len(active)} adapters are active ({', '.join(active)}): choose one with set_adapter")
    return active[0]


def write_adapter(folder: Path, model: nn.Module, home: Path | None = None) -> None:
    """The active adapter of `model` and the policy's configuration into `folder`, which will end up at `home`."""
    from peft import get_peft_model_state_dict

    name = active_adapter(model)
    folder.mkdir(parents=True, exist_ok=True)
    base = getattr(model, "adapter_base", None)
    if base is None:  # put there by the user
        base = AdapterBase.of(model.name_or_path, getattr(model.config, "_commit_hash", None))
    weights = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    weights = {f"base_model.model.{key}": value.detach().cpu().contiguous() for key, value in weights.items()}
    save_file(weights, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    how = copy.copy(model.peft_config[name])
    how.base_model_name_or_path, how.revision, how.inference_mode = base.name, base.revision, True
    how.auto_mapping = {"base_model_class": type(model).__name__, "parent_library": type(model).__module__}
    how.save_pretrained(str(folder))
    config = copy.deepcopy(model.config)
    config.architectures, config.dtype = [type(model).__name__], model.dtype
    config.save_pretrained(folder)
    base.write(folder, home)


def merge_adapters(model: nn.Module) -> nn.Module:
    """Adds the active adapter to the weights of `model`, in place, and takes all adapters off it. It computes the same
    up to rounding, at the speed of a model without adapters.

    Raises:
        InputError: There is no adapter, or the sum is not finite.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    if not adapters_of(model):
        raise InputError("merge: this model has no adapter")
    name = active_adapter(model)
    for place, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            try:
                module.merge(safe_merge=True, adapter_names=[name])
            except ValueError as error:
                raise InputError(f"merge: the adapter of {place} gives weights that are not finite") from error
            plain = module.get_base_layer()
        elif isinstance(module, ModulesToSaveWrapper):
            plain = module.modules_to_save[name] if name in module.modules_to_save else module.original_module
        else:
            continue
        parent, _, own = place.rpartition(".")
        setattr(model.get_submodule(parent), own, plain)
    del model.peft_config
    model._hf_peft_config_loaded = False
    return model


def require_peft(what: str) -> None:
    """Raises an InputError where peft is not installed."""
    from importlib.util import find_spec

    if find_spec("peft") is None:
        raise InputError(f"{what}: adapters need peft: pip install 'hf-vpdd[lora]'")


@contextmanager
def quiet_peft():
    """Without peft's warnings about what is meant so: which way round GPT-2's layers keep their weights (it finds out
    by itself), a second adapter on a model, an active one taken off."""
    with warnings.catch_warnings():
        for message in (".*fan_in_fan_out.*", "Already found a `peft_config`", "Adapter .* was active"):
            warnings.filterwarnings("ignore", message=message)
        yield


def _class_for(cls, adapter: dict, source: str, from_auto: bool):
    """The class that the adapter was trained in; AutoModel may have chosen by the base."""
    name = (adapter.get("architectures") or [cls.__name__])[0]
    if adapter.get("model_type") != cls.config_class.model_type:
        raise InputError(
            f"{source} is an adapter of a {adapter.get('model_type')!r} model ({name}), {cls.__name__} is of another "
            "family: load it with AutoModel, or with its own class"
        )
    if name == cls.__name__:
        return cls
    if not from_auto:
        raise InputError(f"{source} is an adapter of a {name}, not of a {cls.__name__}")
    return getattr(sys.modules[cls.__module__], name)
