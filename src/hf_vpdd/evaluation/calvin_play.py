"""One chain in CALVIN: up to five subtasks, each until the oracle is content or its steps are used up."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .calvin_chains import Chain, starting_scene
from .calvin_policy import Needs, Pilot, Request


FILM_EVERY = 4  # steps from one frame of a film to the next


@dataclass
class ChainFilm:
    """What was seen of a chain, every `FILM_EVERY` steps and at the end of each subtask.

    Attributes:
        frames: Per frame the pictures of all cameras, {name: uint8 (H, W, 3)}.
        captions: Per frame (index of the subtask, steps since it began).
        sentences: What was said at each subtask.
    """

    frames: list[dict[str, np.ndarray]] = field(default_factory=list)
    captions: list[tuple[int, int]] = field(default_factory=list)
    sentences: list[str] = field(default_factory=list)

    def take(self, images: Mapping[str, np.ndarray], subtask: int, step: int) -> None:
        self.frames.append({name: image.copy() for name, image in images.items()})
        self.captions.append((subtask, step))


def play_chain(
    env: Any,
    chain: Chain,
    needs: Needs,
    ask: Callable[[Request], tuple[np.ndarray, float]],
    max_steps: int = 360,
    film: bool = False,
    forget: Callable[[tuple], None] = lambda owner: None,
) -> tuple[dict[str, Any], ChainFilm | None]:
    """Runs one chain as the official evaluation does: history and plan are empty at the start of every subtask, the
    scene is not reset between them, and the first subtask that fails ends the chain.

    Args:
        env: A `CalvinEnv`.
        chain: Which one.
        needs: Of the policy.
        ask: Gives (actions (execute, 7), ms) for a request.
        max_steps: Of a subtask.
        film: Keep pictures.
        forget: Told the name of each subtask that is over.

    Returns:
        (result, film or None). The result is plain JSON: `chain` (its number), `tasks` (five), `done` (how many in a
        row, 0..5), `subtasks` (those tried: task, success, steps), `steps`, `plans`, `plan_ms`, and `digest`, a hash
        of all actions and of the robot's and the scene's states: two runs with one digest were the same to the last
        bit.
    """
    robot_obs, scene_obs = starting_scene(chain.start)
    sentences = env.sentences()
    env.reset(seed=chain.number, options={"robot_obs": robot_obs, "scene_obs": scene_obs})
    digest, shown = hashlib.blake2b(digest_size=16), ChainFilm() if film else None
    subtasks, plans, plan_ms = [], 0, 0.0

    def timed(request: Request) -> np.ndarray:
        nonlocal plan_ms
        actions, ms = ask(request)
        plan_ms += ms
        return actions

    for index, task in enumerate(chain.tasks):
        observation = env.begin_subtask(task, sentences[task])
        owner = subtask_name(chain, index)
        pilot = Pilot(needs, owner, timed)
        if shown is not None:
            shown.sentences.append(sentences[task])
            shown.take(observation["images"], index, 0)
        success = False
        for step in range(1, max_steps + 1):
            action = pilot.act(observation)
            filmed = shown is not None and (step % FILM_EVERY == 0 or step == max_steps)
            observation, _, success, _, info = env.step(action, render=filmed or pilot.looks())
            digest.update(action.tobytes() + info["robot_obs"].tobytes() + info["scene_obs"].tobytes())
            if shown is not None and (filmed or success):
                shown.take(observation["images"] or env.render_images(), index, step)
            if success:
                break
        subtasks.append({"task": task, "success": bool(success), "steps": step})
        plans += pilot.plans
        forget(owner)
        if not success:
            break
    result = {
        "chain": chain.number,
        "tasks": list(chain.tasks),
        "done": sum(one["success"] for one in subtasks),
        "subtasks": subtasks,
        "steps": sum(one["steps"] for one in subtasks),
        "plans": plans,
        "plan_ms": round(plan_ms, 1),
        "digest": digest.hexdigest(),
    }
    return result, shown


def subtask_name(chain: Chain, index: int) -> tuple[str, int, int]:
    """Under which a policy keeps what it has encoded of this subtask, and its draws are seeded."""
    return "calvin", chain.number, index
