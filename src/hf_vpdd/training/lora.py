"""Training of LoRA adapters, the same for every stage: from which model, on which layers, what else, how saved.

The policy stays the object it was: peft's layers are put into it, its own weights are frozen. Checkpoints hold what is
trained and nothing else; the rest comes from `init_from`, whose hash is part of a run's identity.
"""

import os
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn
from transformers.pytorch_utils import Conv1D

from ..errors import InputError
from ..modeling.adapter_base import ADAPTER_CONFIG, AdapterBase, adapter_folder
from ..modeling.adapters import adapters_of, attach, merge_adapters, quiet_peft, require_peft
from ..modeling.lora_targets import LORA_TARGETS
from .lora_arguments import LORA_DEFAULTS, LoraArguments


_ADAPTABLE = (nn.Linear, nn.Conv2d, nn.Conv3d, Conv1D)


@dataclass
class Start:
    """What a stage starts from.

    Args:
        name: As `init_from` says.
        folder: Where configuration and processor are.
        weights: Where the weights are: the same folder, or of an adapter its base's.
        base: The model that adapters trained from here belong to.
        adapter: The folder again, if it holds an adapter.
    """

    name: str
    folder: Path
    weights: Path
    base: AdapterBase
    adapter: Path | None = None


def starting_point(init_from: str | Path | Start | None, stage: str) -> Start:
    """The model, or adapter, that `init_from` names: a folder, or on the Hub `owner/name` or `owner/name@revision`. A
    `Start` is given back.

    Raises:
        InputError: There is none, or the base of the adapter is gone or not what it was.
    """
    from .stages.common import require_model_folder

    if isinstance(init_from, Start):
        return init_from
    init_from = None if init_from is None else str(init_from)
    place, revision = init_from, None
    if (
        init_from is not None
        and not os.path.isdir(init_from)
        and re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", init_from)
    ):
        place, revision = _download(init_from, stage)
    folder = require_model_folder(place, stage)
    name = init_from.split("@")[0] if revision else init_from
    if not (folder / ADAPTER_CONFIG).is_file():
        return Start(init_from, folder, folder, AdapterBase.of(name, revision, folder))
    if adapter_folder(folder, {}) is None:
        raise InputError(
            f"init_from: {folder} is an adapter without adapter_base.json, which names its base: merge it"
        )
    require_peft("init_from")
    base = AdapterBase.read(folder)
    path, base_revision = base.find(folder, init_from)
    if base_revision:
        path = _download(f"{path}@{base_revision}", stage)[0]
    return Start(init_from, folder, require_model_folder(path, stage), base, folder)


def _download(name: str, stage: str) -> tuple[str, str | None]:
    """(folder, commit) of `owner/name[@revision]`; the name itself if the Hub has no such thing."""
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    repository, _, revision = name.partition("@")
    try:
        folder = snapshot_download(repository, revision=revision or None)
        commit = Path(folder).name  # the cache calls a snapshot by its commit
        if not re.fullmatch(r"[0-9a-f]{40}", commit) and not constants.HF_HUB_OFFLINE:
            commit = HfApi().model_info(repository, revision=revision or None).sha
        return folder, commit
    except (LocalEntryNotFoundError, RepositoryNotFoundError, HfHubHTTPError, OSError) as error:
        raise InputError(
            f"init_from: {name} is neither a folder nor could it be fetched from the Hub, so {stage} has nothing to "
            f"start from ({type(error).__name__}: {str(error).splitlines()[0]})"
        ) from error


def add_lora(
    policy: nn.Module,
    options: LoraArguments,
    start: Start,
    missing: Sequence[str] = (),
    parameters: Sequence[str] = (),
) -> None:
    """Puts adapters into `policy` and freezes all else but the modules that are trained whole. An adapter that `start`
    holds goes on from its weights; without `options.lora` it is merged, and everything that trained before does.

    The options that were not given are filled in, so that the run's record says what was done.

    Args:
        policy: Loaded from `start.weights`.
        missing: Names of the parameters that these lack, which therefore start random.
        parameters: Names of parameters outside of any module that are to be trained too; no adapter keeps them.

    Raises:
        InputError: No layer matches, a new part would not be saved, options that the adapter in `start` contradicts.
    """
    if not options.lora:
        if start.adapter is not None:
            merge_start(policy, start, missing)
        return
    require_peft("--lora")
    if start.adapter is not None:
        _go_on(policy, options, start, missing)
    else:
        _begin(policy, options, start, missing)
    policy.adapter_base = start.base
    for name in parameters:
        policy.get_parameter(name).requires_grad_(True)


def merge_start(policy: nn.Module, start: Start, missing: Sequence[str] = ()) -> None:
    """The adapter of `start` added to the weights, which are trainable as before."""
    trainable = {name: parameter.requires_grad for name, parameter in policy.named_parameters()}
    attach(policy, start.adapter, "default", start.name, missing)
    merge_adapters(policy)
    for name, parameter in policy.named_parameters():
        parameter.requires_grad_(trainable[name])


def _begin(policy: nn.Module, options: LoraArguments, start: Start, missing: Sequence[str]) -> None:
    from peft import LoraConfig

    for name, value in LORA_DEFAULTS.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    new = modules_of(missing, policy)
    if options.lora_modules_to_save is None:
        options.lora_modules_to_save = new
    _check_whole(policy, options.lora_modules_to_save, new, start)
    config = LoraConfig(
        r=options.lora_r, lora_alpha=options.lora_alpha, lora_dropout=options.lora_dropout,
        target_modules=_targets(policy, options), modules_to_save=options.lora_modules_to_save or None,
        use_rslora=options.lora_variant == "rslora", use_dora=options.lora_variant == "dora",
    )  # fmt: skip
    try:
        with quiet_peft():
            policy.add_adapter(config)
    except (ValueError, NotImplementedError, TypeError) as error:
        raise InputError(
            f"peft cannot put adapters (lora_variant {options.lora_variant}) on the layers that lora_target_modules "
            f"names: {error}"
        ) from error
    policy.train()
    for name, module in policy.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training and not _within(name, new):
            raise InputError(
                f"lora: {name} is a {type(module).__name__}, whose running statistics would change while its weights "
                "stay; an adapter cannot keep them. This network has to be trained whole"
            )


def _go_on(policy: nn.Module, options: LoraArguments, start: Start, missing: Sequence[str]) -> None:
    attach(policy, start.adapter, "default", start.name, missing, trainable=True)
    config = policy.peft_config["default"]
    variant = "dora" if config.use_dora else "rslora" if config.use_rslora else "lora"
    targets = config.target_modules
    own = {
        "lora_r": config.r, "lora_alpha": config.lora_alpha, "lora_dropout": config.lora_dropout,
        "lora_variant": variant, "lora_modules_to_save": sorted(config.modules_to_save or ()),
        "lora_target_modules": targets if isinstance(targets, str) else None,
    }  # fmt: skip
    for name, value in own.items():
        given = getattr(options, name)
        given = sorted(given) if isinstance(given, list) else given
        if given is not None and given != value and not (name == "lora_target_modules" and value is None):
            raise InputError(
                f"{name} is {given!r}, the adapter in {start.name} has {value!r}: leave it out to train that adapter "
                "further, or merge it (hf-vpdd merge) and start a new one from the merged model"
            )
        setattr(options, name, value if given is None else getattr(options, name))


def _targets(policy: nn.Module, options: LoraArguments) -> str | list[str]:
    """What peft is to adapt: the family's expression, or of one that the user gave the layers it means."""
    pattern = options.lora_target_modules or LORA_TARGETS.get(policy.config.model_type)
    try:
        named = [(name, module) for name, module in policy.named_modules() if pattern and re.fullmatch(pattern, name)]
    except re.error as error:
        raise InputError(f"lora_target_modules: {pattern!r} is no regular expression: {error}") from error
    layers = [(name, module) for name, module in named if isinstance(module, _ADAPTABLE)]
    # a layer that does something else with its weights cannot be merged with an adapter
    own_way = [(name, module) for name, module in layers if not _is_plain(module)]
    if own_way:
        raise InputError(
            f"lora_target_modules: {own_way[0][0]} is a {type(own_way[0][1]).__name__}, which does not use its "
            "weights as they are; adapters cannot be merged into it. Name other layers"
        )
    whole = options.lora_modules_to_save or ()
    layers = [name for name, _ in layers if not _within(name, whole)]
    if not layers:
        some = [
            name
            for name, module in policy.named_modules()
            if isinstance(module, _ADAPTABLE) and _is_plain(module) and module.weight.requires_grad
        ]
        some = [name for name in some if not _within(name, whole)]
        raise InputError(
            f"lora_target_modules: {pattern!r} matches no layer that can be adapted; there are "
            + (f"{len(some)}, such as {', '.join(some[:: max(1, len(some) // 4)][:4])}" if some else "none")
            + ". (Layers that normalise their weights, like those of V-PTR's encoder bit, cannot be)"
        )
    return layers if options.lora_target_modules else pattern


def _is_plain(module: nn.Module) -> bool:
    kind = next(kind for kind in _ADAPTABLE if isinstance(module, kind))
    return type(module).forward is kind.forward


def _within(name: str, modules: Sequence[str]) -> bool:
    """As peft sees it."""
    return any(re.match(rf"(^|.*\.){re.escape(module)}($|\..*)", name) for module in modules)


def _check_whole(policy: nn.Module, wanted: Sequence[str], new: Sequence[str], start: Start) -> None:
    inside = [name for name, _ in policy.named_modules()]
    for name in wanted:
        if not any(one == name or one.endswith("." + name) for one in inside):
            known = [name for name, _ in policy.named_children()]
            raise InputError(f"lora_modules_to_save: {name!r} is no part of the model; it has: {', '.join(known)}")
    lost = [name for name in new if not _within(name, wanted)]
    if lost:
        raise InputError(
            f"lora_modules_to_save must name {', '.join(lost)} too: {start.name} has no weights for it, so it starts "
            "random and would be lost (or leave the option out)"
        )


def modules_of(parameters: Sequence[str], policy: nn.Module) -> list[str]:
    """The largest modules that are made of nothing but these parameters; at least the module each lies in."""
    there = set(parameters)
    every = [name for name, _ in policy.named_parameters()]
    found = set()
    for name in parameters:
        place = name.rpartition(".")[0]
        while (above := place.rpartition(".")[0]) and all(p in there for p in every if p.startswith(above + ".")):
            place = above
        found.add(place)
    return sorted(name for name in found if not any(name.startswith(other + ".") for other in found))


def trained_weights(model: nn.Module) -> dict:
    """Of a model with adapters what training changes, on the way to a checkpoint; of others everything."""
    state = model.state_dict()
    if not any(adapters_of(module) for module in model.modules()):
        return state
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    return {name: tensor for name, tensor in state.items() if name in trained}


def load_trained_weights(model: nn.Module, weights: dict) -> None:
    """The way back. Adapters are found by name, each and every one: a run that silently went on with fresh ones would
    look like any other."""
    if not any(adapters_of(module) for module in model.modules()):
        model.load_state_dict(weights)
        return
    # checkpoints of earlier versions: peft's own wrapper around, and the frozen weights too
    weights = {name.removeprefix("base_model.model."): tensor for name, tensor in weights.items()}
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    absent = sorted(trained - weights.keys())
    if absent:
        raise InputError(
            f"the checkpoint has no weights for {len(absent)} of the {len(trained)} trained tensors, first "
            f"{absent[0]}: it is of another run; use --resume no to start again"
        )
    wrong = model.load_state_dict(weights, strict=False).unexpected_keys
    if wrong:
        raise InputError(f"the checkpoint has weights for {wrong[0]}, which this model has not: it is of another run")


def merged_copy(policy: nn.Module) -> nn.Module:
    """The policy with its adapter merged in; merging `policy` itself has no exact way back."""
    import copy

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return merge_adapters(copy.deepcopy(policy))
