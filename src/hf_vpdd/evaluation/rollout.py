"""Runs a list of episodes: simulators in processes, plans in batches, the two at the same time.

    with Simulators(view_for(policy), workers=2, seats=16) as simulators:
        for result, film in rollout(policy, make_episodes("mt10", 10), simulators):
            print(result["task"], result["seed"], result["success"])

While the workers simulate one half of the running episodes, the parent plans for the other half, which arrived before:
half the seats make a batch, and nobody waits for the slowest. So batches differ from run to run, but episodes do not:
an episode's start comes from its seed alone, and every plan draws from a generator of its own, seeded by the episode
and the number of the plan.
"""

import dataclasses
import hashlib
import inspect
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import InputError
from .episodes import Episode
from .policies import actions_to_run, imagines
from .simulators import Seen, Simulators


@dataclass
class Film:
    """What it takes to film a finished episode: its actions, and what was imagined on the way.

    Attributes:
        episode: Which one.
        success: How it ended.
        actions: float32 (n, A), those that were run.
        plan_steps: int64 (P,), the environment step at which each plan was made.
        imagined: uint8 (P, H, W, 3), the last picture of the future that each plan imagined, as the first camera would
            see it; None if it imagined none.
        frames: uint8 (N, H, W, 3), what the first camera saw, every `FILM_EVERY` ticks and at the end (see
            `simulators.Seen`); `plan_steps` then count ticks. None where running the actions again is the episode.
    """

    episode: Episode
    success: bool
    actions: np.ndarray
    plan_steps: np.ndarray
    imagined: np.ndarray | None
    frames: np.ndarray | None = None


_numbers = itertools.count()


@dataclass
class _Play:
    """One episode under way, as the parent sees it. `number`: of all plays of this process."""

    episode: Episode
    film: bool
    seen: Seen | None = None
    actions: list[np.ndarray] = field(default_factory=list)  # chunks as sent
    plan_steps: list[int] = field(default_factory=list)
    imagined: list[np.ndarray] = field(default_factory=list)
    left: np.ndarray | None = None  # of the latest plan, what `execute` leaves over; kept for real-time chunking
    plan_ms: float = 0.0
    reward: float = 0.0
    number: int = field(default_factory=_numbers.__next__)


FILM_EVERY = 2  # ticks from one frame of a film to the next
# One more environment of a task costs 0.35 s; it pays when it will run this many episodes.
EPISODES_PER_ENVIRONMENT = 3


class _Queue:
    """Hands out episodes so that a seat keeps its task, and its environment, as long as there are episodes of it."""

    def __init__(self, episodes: Iterable[Episode]) -> None:
        self.waiting: dict[tuple, deque[Episode]] = {}
        for episode in episodes:
            self.waiting.setdefault((episode.task, episode.scene), deque()).append(episode)

    def take(self, last: tuple | None, running: list[tuple]) -> Episode | None:
        """The next episode for a seat, or None if it is better left empty.

        Args:
            last: The (task, scene) that the seat had before.
            running: The (task, scene) of every other running seat.
        """
        if not self.waiting.get(last):
            share = {
                key: len(queue) / (1 + running.count(key))
                for key, queue in self.waiting.items()
                if queue and (key not in running or len(queue) / (1 + running.count(key)) >= EPISODES_PER_ENVIRONMENT)
            }
            if not share:
                return None
            # A task that nobody plays yet goes first, or the largest would leave no seat to the others.
            last = max(share, key=lambda key: (key not in running, share[key]))
        return self.waiting[last].popleft()


def rollout(
    policy: Any,
    episodes: Iterable[Episode],
    simulators: Simulators,
    execute: int | None = None,
    seed: int = 0,
    film: Callable[[Episode], bool] = lambda episode: False,
) -> Iterator[tuple[dict[str, Any], Film | None]]:
    """Runs every episode once and yields each when it is over, in the order in which they end.

    Args:
        policy: See `policies`.
        episodes: What to run.
        simulators: Started workers.
        execute: Actions of each chunk to run before planning again; the policy's own number if not given.
        seed: Of the policy's draws.
        film: Asked at an episode's start: keep what is needed to film it? The policy is then asked for its video, too.

    Yields:
        (result, film or None). A result has the episode's `task`, `seed`, `instruction` and `perturbation`, and
        `success` (bool, at any step), `steps`, `plans`, `reward` (sum of the simulator's) and `plan_ms` (the
        episode's share of the wall time of its plans: a batch of n costs each member 1/n); also `said`, the sentence,
        where the simulator chose it, and `failure`, the reason, of an episode that ended before its time.

    Raises:
        InputError: The policy's actions do not fit, or the simulator refused the episode.
        RuntimeError: A worker died.
    """
    inside = getattr(policy, "acts_in_simulator", False)
    execute = actions_to_run(policy, execute)
    replays = simulators.view.simulator.replays
    seeded = not inside and "generator" in inspect.signature(policy.predict).parameters
    forget = getattr(policy, "forget", None)  # of a policy that keeps what it has encoded
    queue = _Queue(episodes)
    plays: dict[int, _Play] = {}
    ready: list[int] = []

    def begin(seat: int, last: tuple | None) -> None:
        running = [(play.episode.task, play.episode.scene) for play in plays.values()]
        episode = queue.take(last, running)
        if episode is not None:
            play = plays[seat] = _Play(episode, film(episode))
            film_every = FILM_EVERY if play.film and not replays else 0
            start = (episode.task, episode.seed, episode.scene, episode.variation, film_every)
            simulators.send("begin", seat, *start)

    for seat in simulators.seats:
        begin(seat, None)
    while plays:
        enough = len(ready) >= (len(plays) + 1) // 2
        for seen in simulators.receive(block=not enough):
            seat, play = seen.seat, plays[seen.seat]
            play.seen = seen
            play.reward += seen.reward
            if seen.actions is not None:
                play.actions.append(seen.actions)
            if seen.over:
                del plays[seat]
                if forget is not None:
                    forget([_owner(play)])
                yield _result(play), _film(play) if play.film else None
                begin(seat, (play.episode.task, play.episode.scene))
            elif inside:
                simulators.send("play_expert", seat)
            else:
                ready.append(seat)
        if ready and (len(ready) >= (len(plays) + 1) // 2 or not simulators.outstanding):
            for group in _groups(policy, [plays[seat] for seat in ready]):
                _plan(policy, group, execute, seed, seeded)
            for seat in ready:
                simulators.send("act", seat, plays[seat].actions[-1])
            ready.clear()


def _groups(policy: Any, plays: list[_Play]) -> list[list[_Play]]:
    """Who may plan in one batch. With real-time chunking (`policy.real_time`) an episode's first plan has nothing
    committed, and the others have."""
    if not getattr(policy, "real_time", False):
        return [plays]
    groups = [play for play in plays if play.left is None], [play for play in plays if play.left is not None]
    return [group for group in groups if group]


def _plan(policy: Any, plays: list[_Play], execute: int, seed: int, seeded: bool) -> None:
    """One call of the policy for all these episodes; appends to each its next chunk."""
    observations = [_observation(play) for play in plays]
    filmed = any(play.film for play in plays) and imagines(policy)
    began = time.perf_counter()
    options = {"generator": [_generator(play, seed) for play in plays]} if seeded else {}
    if plays[0].left is not None:
        options["committed_actions"] = np.stack([play.left for play in plays])
    output = policy.predict(observations, return_video=filmed, **options)
    actions, video = _array(output.actions), _array(output.video)
    each_ms = 1000 * (time.perf_counter() - began) / len(plays)
    if actions.ndim != 3 or len(actions) != len(plays) or actions.shape[1] < execute:
        raise InputError(
            f"the policy returned actions of shape {actions.shape} for {len(plays)} observations; expected "
            f"({len(plays)}, at least {execute}, action dimensions)"
        )
    for index, play in enumerate(plays):
        play.actions.append(np.ascontiguousarray(actions[index, :execute], np.float32))
        if getattr(policy, "real_time", False) and execute < actions.shape[1]:
            play.left = actions[index, execute:].copy()
        play.plan_steps.append(play.seen.ticks)
        play.plan_ms += each_ms
        if play.film and video is not None:
            last = video[index, -1]  # the cameras side by side; a copy: the batch's video would stay in memory
            play.imagined.append(last[:, : last.shape[0]].copy())


def _observation(play: _Play) -> dict[str, Any]:
    seen = play.seen
    observation = {
        "images": seen.images,
        "state": seen.state,
        "instruction": play.episode.instruction or seen.instruction,
    }
    if seen.frame_steps is not None:
        observation["frame_keys"] = [(_owner(play), step) for step in seen.frame_steps]
    return observation


def _owner(play: _Play) -> tuple[str, int]:
    """Names the episode to a policy that keeps what it has encoded; no environment of `select_action` has such an
    id."""
    return "rollout", play.number


def _generator(play: _Play, seed: int):
    import torch

    episode = play.episode
    text = f"{seed}/{episode.task}/{episode.seed}/{episode.perturbation}/{len(play.plan_steps)}"
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def _array(values: Any) -> np.ndarray | None:
    if values is None:
        return None
    return values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)


def _result(play: _Play) -> dict[str, Any]:
    told = {"failure": play.seen.failure, "said": None if play.episode.instruction else play.seen.instruction}
    return {
        **play.episode.to_dict(),
        "success": play.seen.success,
        "steps": play.seen.steps,
        "plans": len(play.plan_steps),
        "reward": round(play.reward, 4),
        "plan_ms": round(play.plan_ms, 3),
        **{name: value for name, value in told.items() if value},
    }


def _film(play: _Play) -> Film:
    said = play.episode.instruction or play.seen.instruction
    return Film(
        episode=dataclasses.replace(play.episode, instruction=said),
        success=play.seen.success,
        actions=np.concatenate(play.actions)[: play.seen.steps],
        plan_steps=np.asarray(play.plan_steps, np.int64),
        imagined=np.stack(play.imagined) if play.imagined else None,
        frames=play.seen.frames,
    )
