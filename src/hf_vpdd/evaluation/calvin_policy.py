"""What a policy needs of CALVIN, and how one robot's history and plans are kept while a chain runs.

CALVIN's robot reports 15 numbers. A policy that takes 7 of them is one like GR-1: pose of the gripper (6) and its last
command. Cameras answer to the names of the data too: `rgb_static` is `static`.
"""

import hashlib
import inspect
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..envs.calvin import ACTION_DIM, CAMERAS, STATE_DIM
from ..errors import InputError
from .policies import NullPolicy, actions_to_run, load_policy


GR1_STATE = (0, 1, 2, 3, 4, 5, 14)  # of the 15: gripper's pose, and its last command


def load_calvin_policy(name: str, **options: Any):
    """A policy by name: `null` (holds still, gripper open), or the folder (or Hub name) of a checkpoint.

    Raises:
        InputError: `expert` (CALVIN has none), or no such checkpoint.
    """
    if name == "expert":
        raise InputError("CALVIN has no policy 'expert'; give the folder of a checkpoint, or null")
    if name == "null":
        policy = NullPolicy(action_dim=ACTION_DIM)
        policy.chunk[:, -1] = 1.0
        return policy
    return load_policy(name, **options)


@dataclass(frozen=True)
class Needs:
    """What a policy wants to see and how it acts.

    Attributes:
        cameras: The policy's name of each camera -> CALVIN's; empty for a policy that looks at nothing.
        state: Which of the robot's 15 numbers.
        execute: Steps of each plan to carry out.
        history_frames, history_stride: Its window, and the steps between two frames of it.
        state_history: The window holds states too.
    """

    cameras: Mapping[str, str]
    state: tuple[int, ...]
    execute: int
    history_frames: int = 1
    history_stride: int = 1
    state_history: bool = False

    @classmethod
    def of(cls, policy: Any, execute: int | None = None) -> "Needs":
        """What this policy needs.

        Raises:
            InputError: A camera that CALVIN lacks, states of neither 7 nor 15 numbers, actions of other than 7, or
                `execute` beyond the plan.
        """
        execute = actions_to_run(policy, execute)
        processor = getattr(policy, "processor", None)
        if processor is None:
            return cls({}, tuple(range(STATE_DIM)), execute)
        actions = getattr(processor, "robot_action_dim", None) or getattr(processor, "action_dim", None)
        if actions not in (None, ACTION_DIM):
            raise InputError(
                f"the policy acts with {actions} numbers, but CALVIN's robot takes {ACTION_DIM} (relative pose and "
                "gripper); it was trained on another robot"
            )
        return cls(
            {camera: calvin_camera(camera) for camera in processor.cameras},
            state_columns(getattr(processor, "state_dim", None)),
            execute,
            int(processor.history_frames),
            int(processor.history_stride),
            bool(getattr(processor, "state_history", False)),
        )


def calvin_camera(name: str) -> str:
    """CALVIN's camera that a policy means by `static`, `rgb_static` or `observation.images.rgb_static`.

    Raises:
        InputError: None of its cameras.
    """
    short = name.rsplit(".", 1)[-1].removeprefix("rgb_")
    if short not in CAMERAS:
        known = ", ".join(f"rgb_{camera}" for camera in CAMERAS)
        raise InputError(f"the policy looks through camera '{name}', but CALVIN has {known}")
    return short


def state_columns(size: int | None) -> tuple[int, ...]:
    """Which of the robot's 15 numbers a policy with states of this size is given.

    Raises:
        InputError: Neither 7 nor 15 (nor none at all).
    """
    if size in (None, 0, STATE_DIM):
        return tuple(range(STATE_DIM))
    if size != len(GR1_STATE):
        raise InputError(
            f"the policy takes states of {size} numbers; of CALVIN's robot it can have {len(GR1_STATE)} (pose of the "
            f"gripper and its last command, as GR-1) or all {STATE_DIM}"
        )
    return GR1_STATE


@dataclass
class Request:
    """One robot that needs a plan: what it saw, and from which text its random draws are seeded."""

    observation: dict[str, Any]
    seed: str


class Planner:
    """The policy, asked for plans of one robot or of several at once.

    Args:
        policy: See `policies`.
        needs: Its `Needs`.
        seed: Of its random draws.
    """

    def __init__(self, policy: Any, needs: Needs, seed: int = 0) -> None:
        self.policy, self.needs, self.seed = policy, needs, seed
        self._seeded = "generator" in inspect.signature(policy.predict).parameters

    def plan(self, requests: Sequence[Request]) -> tuple[np.ndarray, float]:
        """float32 (B, execute, 7): gripper -1 or 1, the rest as the policy says; and each robot's share of the time,
        in ms.

        Raises:
            InputError: Actions of another shape, or that are not finite.
        """
        began = time.perf_counter()
        options = {"generator": [self._generator(request.seed) for request in requests]} if self._seeded else {}
        output = self.policy.predict([request.observation for request in requests], **options)
        actions = output.actions
        actions = np.asarray(actions.detach().cpu() if hasattr(actions, "detach") else actions, np.float32)
        each_ms = 1000 * (time.perf_counter() - began) / len(requests)
        wanted = (len(requests), self.needs.execute, ACTION_DIM)
        if actions.ndim != 3 or actions[:, : self.needs.execute].shape != wanted:
            raise InputError(f"the policy returned actions of shape {actions.shape}; expected at least {wanted}")
        actions = actions[:, : self.needs.execute].copy()
        if not np.isfinite(actions).all():
            raise InputError(f"the policy returned actions that are not finite, for {requests[0].seed}")
        actions[..., -1] = np.where(actions[..., -1] > 0, 1.0, -1.0)  # of the pose nothing is clipped, as officially
        return actions, each_ms

    def forget(self, owner: tuple) -> None:
        """Lets a policy that keeps what it has encoded drop this subtask."""
        forget = getattr(self.policy, "forget", None)
        if forget is not None:
            forget([owner])

    def _generator(self, text: str):
        import torch

        digest = hashlib.blake2b(f"{self.seed}/{text}".encode(), digest_size=8).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


class Pilot:
    """History and plan of one robot during one subtask.

    Args:
        needs: Of the policy.
        owner: Names the subtask, e.g. ("calvin", chain, index): frames are kept, and draws seeded, under it.
        ask: Gives a plan (execute, 7) for a `Request`.
    """

    def __init__(self, needs: Needs, owner: tuple, ask: Callable[[Request], np.ndarray]) -> None:
        self.needs, self.owner, self._ask = needs, owner, ask
        span = (needs.history_frames - 1) * needs.history_stride + 1
        self._moments: deque[tuple[int, dict, np.ndarray]] = deque(maxlen=span)
        self._queue: deque[np.ndarray] = deque()
        self.plans = 0

    def looks(self) -> bool:
        """Whether the picture that follows the action just given will be looked at."""
        return bool(self.needs.cameras) and (self.needs.history_frames > 1 or not self._queue)

    def act(self, observation: Mapping[str, Any]) -> np.ndarray:
        """The action (7,) for what CALVIN shows now; to be called at every step."""
        images, state = observation["images"], np.asarray(observation["state"])[list(self.needs.state)]
        if images or not self.needs.cameras:
            seen = {name: images[camera] for name, camera in self.needs.cameras.items()}
            self._moments.append((self._moments[-1][0] + 1 if self._moments else 0, seen, state))
        if not self._queue:
            self._queue.extend(self._ask(self._request(observation["instruction"])))
            self.plans += 1
        return self._queue.popleft()

    def _request(self, sentence: str) -> Request:
        moments = list(self._moments)[:: -self.needs.history_stride][: self.needs.history_frames][::-1]
        window = self.needs.history_frames > 1
        images = {
            name: np.stack([seen[name] for _, seen, _ in moments]) if window else moments[-1][1][name]
            for name in self.needs.cameras
        }
        states = np.stack([state for *_, state in moments])
        observation = {
            "images": images,
            "state": states if window and self.needs.state_history else states[-1],
            "instruction": sentence,
        }
        if window:
            observation["frame_keys"] = [(self.owner, step) for step, *_ in moments]
        return Request(observation, "/".join(map(str, (*self.owner, self.plans))))
