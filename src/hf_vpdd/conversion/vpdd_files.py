"""The two kinds of official VPDD files: which one is this, and what is in it (spec vpdd.md §1.4, §5)."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from ..errors import InputError
from .torch_files import check_tensors, read_checkpoint


_COPIES = ("ema", "model")


@dataclass
class OfficialFile:
    """
    Args:
        state: Official name -> tensor, of the copy in use.
        copies: A policy file's dictionaries of tensors, "ema" and "model", or "" if it holds one without a name.
        copy: Which one `state` is.
        options: What a tokenizer's Lightning file says about its training.
        about: For conversion.json.
    """

    path: Path
    state: dict[str, torch.Tensor] = field(default_factory=dict)
    copies: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)
    copy: str = ""
    options: dict = field(default_factory=dict)
    about: dict = field(default_factory=dict)

    def choose(self, asked: str | None, default: str) -> "OfficialFile":
        """The same file with one of its copies as `state`: the one asked for, else the default, else what there is."""
        if asked is not None and asked not in self.copies:
            has = " and ".join(map(repr, filter(None, self.copies))) or "one without a name"
            raise InputError(f"--weights {asked}: {self.path} has no such copy; it holds {has}.")
        copy = next(name for name in (asked, default, *self.copies) if name in self.copies)
        about = {**self.about, "weights": copy or "the only ones"}
        return replace(self, state=self.copies[copy], copy=copy or "the only ones", about=about)


def read_tokenizer_file(path: str | Path) -> OfficialFile:
    """A Lightning file of the tokenizer, or its bare state_dict.

    Raises:
        InputError: Not readable safely, damaged, or something else.
    """
    path = Path(path)
    content = read_checkpoint(path)
    if isinstance(content, Mapping) and any(isinstance(content.get(name), Mapping) for name in _COPIES):
        raise InputError(f"--vqvae: {path} is a diffusion checkpoint ('model', 'ema'): give it with --policy.")
    about, options, state = {}, {}, content
    if isinstance(content, Mapping) and "state_dict" in content:
        state = content["state_dict"]
        options = _options(content.get("hyper_parameters"))
        about = {name: content[name] for name in ("epoch", "global_step") if isinstance(content.get(name), int)}
    state = check_tensors(state, path, "its 'state_dict'" if state is not content else "its content")
    if "codebook.embeddings" not in state or not any(name.startswith("encoder.") for name in state):
        raise InputError(f"--vqvae: {path} is not VPDD's tokenizer{_what_else(state)}; {_first_names(state)}.")
    return OfficialFile(path, state, options=options, about=about)


def read_policy_file(path: str | Path) -> OfficialFile:
    """A diffusion checkpoint `{"step", "model", "ema"}` (pre-trained or fine-tuned), or one bare state_dict.

    Raises:
        InputError: Not readable safely, damaged, or something else.
    """
    path = Path(path)
    content = read_checkpoint(path)
    if not isinstance(content, Mapping):
        raise InputError(f"--policy: {path} holds {type(content).__name__}, expected 'step', 'model' and 'ema'.")
    copies = {name: content[name] for name in _COPIES if isinstance(content.get(name), Mapping) and content[name]}
    copies = copies or {"": content.get("state_dict", content)}
    for name, state in copies.items():
        if name == "" and isinstance(state, Mapping) and "codebook.embeddings" in state:
            raise InputError(f"--policy: {path} is a video tokenizer: give it with --vqvae.")
        copies[name] = check_tensors(state, path, f"its {name!r}" if name else "its content")
        if not any(key.startswith("model.traj_model.") for key in copies[name]):
            raise InputError(
                f"--policy: {path} is not a VPDD diffusion checkpoint{_what_else(copies[name])}; "
                f"{_first_names(copies[name])}."
            )
    about = {"step": content["step"]} if isinstance(content.get("step"), int) else {}
    return OfficialFile(path, copies=copies, about=about)


def _options(hyper_parameters) -> dict:
    """`hyper_parameters["args"]` as a dictionary of plain values."""
    if isinstance(hyper_parameters, Mapping):
        hyper_parameters = hyper_parameters.get("args", hyper_parameters)
    if isinstance(hyper_parameters, argparse.Namespace):
        hyper_parameters = vars(hyper_parameters)
    if not isinstance(hyper_parameters, Mapping):
        return {}
    plain = (int, float, str, list, tuple)
    return {name: value for name, value in hyper_parameters.items() if isinstance(value, plain)}


def _what_else(state: Mapping[str, torch.Tensor]) -> str:
    """A guess at whose checkpoint this is, as an insertion, or nothing."""
    names = list(state)
    for starts, guess in (
        (("model.trunk.", "model.vqvae."), "this package's own weights, which need no conversion"),
        (("trunk.", "action_head."), "this package's own weights, which need no conversion"),
        (("model_clip.", "model_mae."), "it looks like GR-1"),
        (("visual.",), "it looks like CLIP"),
    ):
        if any(name.startswith(starts) for name in names):
            return f" ({guess})"
    return ""


def _first_names(state: Mapping[str, torch.Tensor]) -> str:
    return f"its {len(state)} tensors begin with {', '.join(sorted(state)[:3])}"
