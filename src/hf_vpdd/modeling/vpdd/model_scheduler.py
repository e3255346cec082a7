"""The diffusion of a VPDD model: what its config says, or the sampler that was saved beside its weights."""

import json
import os
from collections.abc import Mapping

from transformers.utils import cached_file

from ...errors import InputError
from ...schedulers import SAMPLERS, MaskAndReplaceScheduler
from ..saved_files import DOWNLOAD
from .configuration_vpdd import VPDDConfig


def build_scheduler(config: VPDDConfig) -> MaskAndReplaceScheduler:
    return MaskAndReplaceScheduler(
        num_train_timesteps=config.num_train_timesteps,
        alpha_bar_start=config.alpha_bar_start,
        alpha_bar_end=config.alpha_bar_end,
        replace_mass=config.replace_mass,
        truncation=config.truncation,
        auxiliary_weight=config.auxiliary_weight,
    )


def saved_scheduler(place: str | os.PathLike, config: VPDDConfig, options: Mapping) -> MaskAndReplaceScheduler | None:
    """The scheduler_config.json of a folder or Hub repository; None if there is none, or it says what `config` says.

    Also None where the caller loads the weights with another diffusion than they were saved with (fine-tuning with
    another number of noise levels, say): a changed config says more than the file.

    Args:
        config: Of the loaded model.
        options: `revision`, `token`, ... of the download.

    Raises:
        InputError: The file is damaged, or of a kind that does not denoise tokens.
    """
    options = {name: options[name] for name in DOWNLOAD if options.get(name) is not None}
    quiet = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    path = cached_file(str(place), "scheduler_config.json", **quiet, **options)
    if path is None:
        return None
    try:
        with open(path, encoding="utf-8") as file:
            saved = json.load(file)
        kind = saved.get("_class_name")
    except (ValueError, AttributeError) as error:
        raise InputError(f"{place}/scheduler_config.json is damaged ({error}). Save the model again.") from error
    kinds = {sampler.__name__: sampler for sampler in SAMPLERS.values()}
    if kind not in kinds:
        raise InputError(
            f"{place}/scheduler_config.json: {kind!r} does not denoise tokens; expected one of {', '.join(kinds)}."
        )
    scheduler, own = kinds[kind].from_config(saved), build_scheduler(config)
    if type(scheduler) is type(own) and _numbers(scheduler) == _numbers(own):
        return None
    as_saved = build_scheduler(VPDDConfig.from_pretrained(place, **options))
    return scheduler if _numbers(as_saved) == _numbers(own) else None


def _numbers(scheduler: MaskAndReplaceScheduler) -> dict:
    return {key: value for key, value in scheduler.config.items() if not key.startswith("_")}
