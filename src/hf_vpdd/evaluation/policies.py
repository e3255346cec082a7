"""What can be evaluated: a checkpoint, the simulator's scripted expert, or nothing at all.

A policy for `rollout` is any object with

    predict(observations, return_video=False[, generator=None][, committed_actions=None]) -> an object with
        .actions  float32 (B, chunk, A) in robot units, and
        .video    uint8 (B, T, H, W, 3) or None: the future it imagined

where an observation is {"images": {camera: uint8 (H, W, 3) or (T, H, W, 3)}, "state": float32 (Ds,), "instruction":
str}. One with `real_time` set is given what its last plan still holds as `committed_actions` (B, n, A). What it wants
to see is read from its `processor`, if it has one. `hf_vpdd.policy.RobotPolicy` is such a policy.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..files import file_sha256
from .episodes import PROTOCOLS
from .simulators import View


@dataclass
class Plan:
    """What the policies of this file return: `actions` float32 (B, chunk, A), and no video."""

    actions: np.ndarray
    video: None = None


class NullPolicy:
    """Stands still: action 0 in every dimension. The floor of any comparison, and the load of the rollout
    benchmark."""

    name = "null"
    execute = 8

    def __init__(self, chunk_size: int = 8, action_dim: int = 4) -> None:
        self.chunk = np.zeros((chunk_size, action_dim), np.float32)

    def predict(self, observations: Sequence[Mapping], return_video: bool = False) -> Plan:
        return Plan(np.repeat(self.chunk[None], len(observations), axis=0))


class ExpertPolicy:
    """Meta-World's scripted policies, which look at the simulator's own positions: the ceiling of most comparisons.

    They act within the simulator's process, one step at a time and without pictures, so there is no `predict`.
    """

    name = "expert"
    acts_in_simulator = True
    execute = 1


def load_policy(name: str, **kwargs: Any):
    """A policy by name: `expert`, `null`, or the folder (or Hub name) of a checkpoint.

    Args:
        name: What to load.
        kwargs: Passed on to `RobotPolicy.from_pretrained`.

    Raises:
        InputError: There is no such folder, it holds no checkpoint, or its processor has no statistics.
    """
    if name == "expert":
        return ExpertPolicy()
    if name == "null":
        return NullPolicy()
    from ..policy import RobotPolicy

    try:
        return RobotPolicy.from_pretrained(name, **kwargs)
    except InputError:
        raise
    except OSError as error:  # transformers' long way of saying that neither folder nor Hub has it
        raise InputError(
            f"policy {name!r}: there is no such folder, and it could not be loaded from the Hub. Give the folder of a "
            f"checkpoint, owner/name on the Hub, expert or null ({type(error).__name__}: {str(error).splitlines()[0]})"
        ) from error


def imagines(policy: Any) -> bool:
    """Whether the policy can show the future that its actions come from; behaviour cloning cannot."""
    model = getattr(policy, "model", None)
    config = getattr(model, "config", None)
    return getattr(model, "imagines_video", getattr(config, "action_objective", None) == "diffusion")


def actions_to_run(policy: Any, execute: int | None = None) -> int:
    """How many actions of each chunk are run before the policy plans again: `execute` if given, else the policy's
    own."""
    own = getattr(policy, "execute", None) or getattr(getattr(policy, "processor", None), "execute", None)
    chunk = getattr(getattr(policy, "processor", None), "chunk_size", None)
    count = execute if execute is not None else own or chunk or 1
    if chunk and not 1 <= count <= chunk:
        raise InputError(f"execute={count}: the policy plans chunks of {chunk} actions; run 1 to {chunk} of them")
    if count < 1:
        raise InputError(f"execute={count}: at least 1 action of each plan must be run")
    return count


def predict_ahead(policy: Any) -> int:
    """How many environment steps after its plan the imagined picture lies; 0 if the policy does not say."""
    config = getattr(getattr(policy, "model", None), "config", None)
    return int(getattr(config, "predict_ahead", 0))


def view_for(policy: Any, protocol: str = "lean", max_steps: int | None = None) -> View:
    """What to show to a policy under a protocol: its own cameras, picture size and history.

    Under `lerobot-mt50` pictures have the protocol's 480 pixels and the policy's processor resizes them.
    """
    processor = getattr(policy, "processor", None)
    if processor is None:
        cameras = PROTOCOLS[protocol].simulator.cameras if protocol in PROTOCOLS else ()
        return View(protocol=protocol, cameras=cameras, max_steps=max_steps)
    return View(
        protocol=protocol,
        cameras=tuple(processor.cameras),
        image_size=None if protocol == "lerobot-mt50" else int(processor.image_size),
        max_steps=max_steps,
        history_frames=int(processor.history_frames),
        history_stride=int(processor.history_stride),
        state_history=bool(getattr(processor, "state_history", False)),
    )


def identity(policy: Any, name: str, checkpoint: str | os.PathLike | None = None) -> dict[str, Any]:
    """What tells this policy from another: its sampling, and the SHA-256 of its checkpoint's files or else its
    name."""
    found: dict[str, Any] = {}
    if sampling := getattr(policy, "sampling", None):
        found["sampling"] = dict(sampling)
    if getattr(policy, "real_time", False):
        found["real_time"] = True
    if (ranker := getattr(policy, "ranker", None)) is not None:
        found["value_planning"] = {"num_candidates": policy.num_candidates, "value_model": ranker.fingerprint}
    if checkpoint is not None and (folder := Path(checkpoint)).is_dir():
        for file in sorted([*folder.glob("*.safetensors"), *folder.glob("*config.json"), *folder.glob("tokenizer*")]):
            found[file.name] = file_sha256(file)
    else:
        found["name"] = name
    return found
