"""Where recordings come from: Meta-World's experts (states and actions, too) and other bodies (video alone).

A source says which tasks and cameras there are, opens the simulator of a task and plays one episode in it. What is the
same for all of them (folders, workers, resuming, the dataset) is in `recording`.
"""

import zlib
from typing import Any, NamedTuple

import numpy as np

from ..envs.protocols import check_cameras
from ..envs.tasks import resolve_tasks, task_info
from ..errors import InputError


NOISE_MEMORY = 0.5  # correlation of the expert's noise from one step to the next
STEPS_AFTER_SUCCESS = 12  # the end of a demonstration should look like an end
MAX_ATTEMPTS = 20  # seeds tried until the expert succeeds


class Played(NamedTuple):
    """One episode: images {camera: uint8 (T, H, W, 3)}, columns {feature: (T, ...)}, what to note down about it."""

    images: dict[str, np.ndarray]
    columns: dict[str, np.ndarray]
    note: dict[str, Any]


class MetaWorldSource:
    """Scripted experts of Meta-World under noise, with the labels they would give without."""

    robot_type = "sawyer"
    default_cameras = ("corner2",)
    default_steps = 200
    has_actions = True
    features = {
        "observation.state": {"names": ["x", "y", "z", "gripper"]},
        "action": {"names": ["dx", "dy", "dz", "gripper"]},
    }

    def check(self, given: dict[str, Any]) -> None:
        """Resolve `tasks` and `cameras` of a plan that is being made."""
        given.update(tasks=resolve_tasks(given["tasks"]), cameras=check_cameras(given["cameras"]))

    def sentence(self, plan, task: str, episode: int) -> str:
        info = task_info(task)
        if not plan.paraphrases:
            return info.instruction
        choices = (info.instruction, *info.paraphrases)
        return choices[keyed_generator(plan.seed, task, "sentence", episode).integers(len(choices))]

    def open(self, plan, task: str):
        from ..envs.metaworld import MetaWorldEnv

        return MetaWorldEnv(
            task, cameras=plan.cameras, image_size=plan.image_size, protocol=plan.protocol, max_steps=plan.max_steps
        )

    def play(self, plan, env, task: str, episode: int) -> Played:
        for attempt in range(MAX_ATTEMPTS):
            seed, level = plan.attempt_seed(episode, attempt), plan.noise_level(task, episode, attempt)
            demonstration = demonstrate(env, seed, level, keyed_generator(plan.seed, task, "noise", seed))
            if demonstration is not None:
                break
        else:
            raise InputError(
                f"the expert of {task} failed {MAX_ATTEMPTS} times at episode {episode} within {plan.max_steps} "
                f"steps, in the end with noise {level}; record with less noise or more max_steps"
            )
        columns = {"observation.state": demonstration["state"]}
        if plan.actions:
            columns["action"] = demonstration["action"]
        return Played(demonstration["images"], columns, {"seed": seed, "noise": level, "failures": attempt})


class OtherBodySource:
    """Scripted motion of another body: pictures and a sentence, no states, no actions, no success to wait for."""

    default_steps = 96  # every episode has so many pictures
    has_actions = False
    features: dict[str, dict] = {}

    def __init__(self, body: str):
        from ..envs.other_bodies import CAMERA

        self.robot_type = body
        self.default_cameras = (CAMERA,)

    def check(self, given: dict[str, Any]) -> None:
        from ..envs.other_bodies import body_tasks

        given["tasks"] = body_tasks(self.robot_type, given["tasks"])
        cameras = (given["cameras"],) if isinstance(given["cameras"], str) else tuple(given["cameras"])
        if cameras != self.default_cameras:
            raise InputError(f"{self.robot_type} has one camera, {self.default_cameras[0]!r}, not {list(cameras)}")
        given["cameras"] = cameras
        if given["paraphrases"] or given["protocol"] != "lean":
            raise InputError(f"{self.robot_type} has neither paraphrases nor other protocols than 'lean'")

    def sentence(self, plan, task: str, episode: int) -> str:
        from ..envs.other_bodies import BODY_TASKS

        return BODY_TASKS[task].instruction

    def open(self, plan, task: str):
        from ..envs.other_bodies import BodyScene

        return BodyScene(task, plan.image_size)

    def play(self, plan, env, task: str, episode: int) -> Played:
        seed, level = plan.attempt_seed(episode, 0), plan.noise_level(task, episode, 0)
        frames = env.film(seed, level, plan.max_steps)
        return Played({plan.cameras[0]: frames}, {}, {"seed": seed, "noise": level, "failures": 0})


SOURCES = {
    "metaworld": MetaWorldSource(),
    **{body: OtherBodySource(body) for body in ("fetch", "adroit", "kitchen")},
}


def demonstrate(env, seed: int, noise: float, generator: np.random.Generator) -> dict | None:
    """Lets the expert do one episode under noise.

    Args:
        env: A `MetaWorldEnv`.
        seed: Of the start and the goal.
        noise: Stationary standard deviation of the AR(1) noise on the position commands, in action units.
        generator: Of the noise.

    Returns:
        None if the expert did not succeed in time, else a dictionary: "images" {camera: uint8 (T, H, W, 3)}, "state"
        and "action" float32 (T, 4). Row t is what was seen before step t and what the expert, without noise, would do
        then.
    """
    # Without pictures first: a failed attempt costs a twentieth. The same seed and commands give the same episode.
    obs, _ = env.reset(seed=seed, render=False)
    states, labels, executed = [], [], []
    drift = noise * generator.standard_normal(3)
    remaining = None
    while remaining != 0:
        clean = env.expert_action()
        states.append(obs["state"])
        labels.append(clean)
        executed.append(clean + np.append(drift, 0).astype(np.float32))
        drift = NOISE_MEMORY * drift + np.sqrt(1 - NOISE_MEMORY**2) * noise * generator.standard_normal(3)
        obs, _, _, truncated, info = env.step(executed[-1], render=False)
        if remaining is not None:
            remaining -= 1
        elif info["success"]:
            remaining = STEPS_AFTER_SUCCESS
        if truncated:
            break
    if remaining is None:
        return None

    images = {name: np.empty((len(labels), env.image_size, env.image_size, 3), np.uint8) for name in env.cameras}
    obs, _ = env.reset(seed=seed, render=False)
    for index, action in enumerate(executed):
        if not np.array_equal(obs["state"], states[index]):
            raise RuntimeError(f"{env.task} with seed {seed} went another way when replayed, at step {index}")
        for name, picture in env.render_images().items():
            images[name][index] = picture
        obs, *_ = env.step(action, render=False)
    return {"images": images, "state": np.stack(states), "action": np.stack(labels)}


def keyed_generator(*key: int | str) -> np.random.Generator:
    """A generator of its own for every key. Python's `hash` of a string differs between processes; CRC does not."""
    return np.random.default_rng([zlib.crc32(part.encode()) if isinstance(part, str) else part for part in key])
