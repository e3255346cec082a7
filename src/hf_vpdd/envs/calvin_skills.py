"""Scripted hands for some of CALVIN's tasks, in scene D, from the neutral pose.

    for action in skill_actions("open_drawer", info):       # a generator; send it the newest info
        ...

CALVIN's data are a person's play, and large. These few motions, which know where things are, make small data of the
same form where no download is wanted: for tests, for trying a training out, for a first look. They are no benchmark.
"""

from collections.abc import Callable, Generator, Mapping
from typing import Any

import numpy as np

from ..errors import InputError


STEP_M = 0.02  # an action of 1
STEP_RAD = 0.05
NEAR = 0.005  # m; less, and somebody who adds noise never arrives
NEUTRAL = np.array(
    [0.02586889, -0.2313129, 0.5712808, 3.09045411, -0.02908596, 1.50013585, 0.07999963]
    + [-1.21779124, 1.03987629, 2.11978254, -2.34205014, -0.87015899, 1.64119093, 0.55344928, 1.0]
)
TABLE = 0.46  # height of a block's centre on the table, m
BLOCKS = {"red": 6, "blue": 12, "pink": 18}  # where a block's six numbers begin in scene_obs

# A motion: (position (3,) in m, gripper 1 open / -1 closed, speed as part of the largest, steps to wait there)
Motion = tuple[np.ndarray, int, float, int]


def _at(x: float, y: float, z: float, gripper: int = -1, speed: float = 1.0, wait: int = 0) -> Motion:
    return np.array([x, y, z]), gripper, speed, wait


def _press_button(scene: np.ndarray) -> list[Motion]:
    return [_at(-0.12, -0.12, 0.56), _at(-0.12, -0.12, 0.45, speed=0.6, wait=4), _at(-0.12, -0.12, 0.56)]


def _open_drawer(scene: np.ndarray) -> list[Motion]:
    y = -0.205 - scene[1]  # behind the handle
    return [_at(0.18, y, 0.52), _at(0.18, y, 0.365, speed=0.6), _at(0.18, y - 0.21, 0.365, speed=0.7, wait=2)]


def _close_drawer(scene: np.ndarray) -> list[Motion]:
    y = -0.31 - scene[1]  # in front of the handle
    return [_at(0.18, y, 0.52), _at(0.18, y, 0.365, speed=0.8), _at(0.18, -0.26, 0.365, speed=0.7, wait=2)]


def _slide(direction: int) -> Callable[[np.ndarray], list[Motion]]:
    def motions(scene: np.ndarray) -> list[Motion]:
        x = 0.04 - scene[0]  # the handle's
        start, end = x - 0.07 * direction, x + 0.26 * direction
        return [_at(start, -0.12, 0.62), _at(start, 0.01, 0.57), _at(end, 0.01, 0.57, speed=0.7, wait=2)]

    return motions


def _switch_off(scene: np.ndarray) -> list[Motion]:
    return [
        _at(0.3, 0.0, 0.70),
        _at(0.3, 0.10, 0.70),
        _at(0.3, 0.10, 0.65, speed=0.6),
        _at(0.3, 0.045, 0.555, speed=0.4, wait=4),
    ]


def _switch_on(scene: np.ndarray) -> list[Motion]:
    """The lever slides backwards and up; shoved backwards, with the fingers rising along, it goes."""
    return [
        _at(0.3, -0.10, 0.55),
        _at(0.3, -0.06, 0.485, speed=0.6),
        _at(0.3, 0.0, 0.485, speed=0.4),
        _at(0.3, 0.08, 0.61, speed=0.3, wait=4),
    ]


def _push(colour: str, direction: int) -> Callable[[np.ndarray], list[Motion]]:
    def motions(scene: np.ndarray) -> list[Motion]:
        x, y = scene[BLOCKS[colour] :][:2]
        start, end = x - 0.08 * direction, x + 0.13 * direction
        return [
            _at(start, y, 0.55),
            _at(start, y, TABLE - 0.005, speed=0.7),
            _at(end, y, TABLE - 0.005, speed=0.6, wait=3),
        ]

    return motions


def _lift(colour: str) -> Callable[[np.ndarray], list[Motion]]:
    def motions(scene: np.ndarray) -> list[Motion]:
        x, y = scene[BLOCKS[colour] :][:2]
        return [
            _at(x, y, 0.55, gripper=1),
            _at(x, y, TABLE - 0.005, gripper=1, speed=0.6, wait=3),
            _at(x, y, TABLE - 0.005, gripper=-1, wait=10),
            _at(x, y, 0.60, gripper=-1, speed=0.6, wait=3),
        ]

    return motions


SKILLS: dict[str, Callable[[np.ndarray], list[Motion]]] = {
    "turn_on_led": _press_button,
    "turn_off_led": _press_button,
    "open_drawer": _open_drawer,
    "close_drawer": _close_drawer,
    "move_slider_left": _slide(-1),
    "move_slider_right": _slide(1),
    "turn_on_lightbulb": _switch_on,
    "turn_off_lightbulb": _switch_off,
    **{f"push_{colour}_block_{side}": _push(colour, sign) for colour in BLOCKS for side, sign in
       (("left", -1), ("right", 1))},
    **{f"lift_{colour}_block_table": _lift(colour) for colour in BLOCKS},
}  # fmt: skip


def starting_scene(task: str, generator: np.random.Generator) -> np.ndarray:
    """scene_obs (24,) in which this task can be done: things where they must be, the blocks here and there."""
    scene = np.zeros(24)
    wanted = {
        "move_slider_right": (0, 1),
        "move_slider_left": (0, 0),
        "close_drawer": (1, 1),
        "open_drawer": (1, 0),
        "turn_off_lightbulb": (4, 1),
        "turn_on_lightbulb": (4, 0),
        "turn_off_led": (5, 1),
        "turn_on_led": (5, 0),
    }
    for index in (0, 1, 4, 5):
        scene[index] = generator.integers(2)
    if task in wanted:
        index, value = wanted[task]
        scene[index] = value
    scene[3] = scene[4]  # the switch is where its light says
    scene[[0, 1, 3]] *= 0.28, 0.22, 0.088  # how far slider, drawer and switch go
    places = np.array([[0.03, -0.115], [0.15, -0.115], [0.27, -0.115]])
    for (x, y), first in zip(generator.permutation(places), BLOCKS.values(), strict=True):
        turn = np.pi / 2 + generator.uniform(-0.25, 0.25)
        scene[first : first + 6] = [x + generator.uniform(-0.01, 0.01), y, TABLE, 0, 0, turn]
    return scene


def skill_actions(task: str, info: Mapping[str, Any]) -> Generator[np.ndarray, Mapping[str, Any], None]:
    """The actions of a scripted motion; send the generator `CalvinEnv.step`'s newest info after each.

    Args:
        task: Of `SKILLS`.
        info: Of `CalvinEnv.reset` or the last `step`.

    Yields:
        float (7,) in [-1, 1], as `CalvinEnv.step` takes it.

    Raises:
        InputError: There is no script for this task.
    """
    if task not in SKILLS:
        raise InputError(f"there is no scripted motion for '{task}'; there are {', '.join(SKILLS)}")
    upright = NEUTRAL[3:6]
    for goal, gripper, speed, wait in SKILLS[task](np.asarray(info["scene_obs"])):
        waited = 0
        while True:
            away = goal - info["target"][:3]
            turn = (upright - info["target"][3:6] + np.pi) % (2 * np.pi) - np.pi
            arrived = np.abs(away).max() < NEAR
            if arrived and waited >= wait:
                break
            waited += arrived
            move = away / STEP_M
            move *= min(1.0, speed / max(np.abs(move).max(), 1e-9))
            sent = yield np.r_[move, np.clip(turn / STEP_RAD, -1, 1), gripper]
            info = info if sent is None else sent
