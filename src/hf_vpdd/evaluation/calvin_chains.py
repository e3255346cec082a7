"""The 1000 chains of CALVIN's long-horizon benchmark, and the scene that each begins with (gr1.md §4.1).

    chain = official_chains()[3]
    chain.tasks          # five names, done one after the other
    robot_obs, scene_obs = starting_scene(chain.start)

The benchmark draws them with NumPy's legacy generator, and seeds each scene by a hash of its description that it takes
from a C++ library which no longer builds. Both are computed here; the chains are the official ones, in their order.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np

from ..errors import InputError
from .calvin_draws import DRAWN


CHAINS, CHAIN_LENGTH = 1000, 5
COLOURS = ("red", "blue", "pink")

# A scene in words, in the benchmark's order: the hash below reads the values in this order.
_SYMBOLS = {
    "led": (0, 1),
    "lightbulb": (0, 1),
    "slider": ("right", "left"),
    "drawer": ("closed", "open"),
    "red_block": ("table", "slider_right", "slider_left"),
    "blue_block": ("table", "slider_right", "slider_left"),
    "pink_block": ("table", "slider_right", "slider_left"),
    "grasped": (0,),
}

# Where the arm begins: gripper's position (m) and Euler angles (rad), opening (m), seven joints (rad), gripper open.
NEUTRAL_ROBOT_OBS = (
    0.02586889, -0.2313129, 0.5712808, 3.09045411, -0.02908596, 1.50013585, 0.07999963,
    -1.21779124, 1.03987629, 2.11978254, -2.34205014, -0.87015899, 1.64119093, 0.55344928, 1.0,
)  # fmt: skip
# Of a block, in metres.
_ON_SLIDER = {
    "slider_left": (-2.40851662e-01, 9.24044687e-02, 4.60990009e-01),
    "slider_right": (7.03416330e-02, 9.24044687e-02, 4.60990009e-01),
}
_ON_TABLE = (
    (5.00000896e-02, -1.20000177e-01, 4.59990009e-01),
    (2.29995412e-01, -1.19995140e-01, 4.59990010e-01),
)


@dataclass(frozen=True)
class Chain:
    """Five tasks in a row.

    Attributes:
        number: Its place in the benchmark, 0..999.
        start: The scene in words, e.g. {"led": 0, "slider": "left", "red_block": "table", ...}.
        tasks: Five names, no two of one kind.
    """

    number: int
    start: Mapping[str, int | str]
    tasks: tuple[str, ...]


@dataclass(frozen=True)
class _Change:
    """One way to do a task: what must hold before (a value, or a tuple of which one), and what holds afterwards."""

    before: Mapping[str, int | str | tuple[str, ...]]
    after: Mapping[str, int | str]

    def apply(self, scene: Mapping) -> dict | None:
        """The scene afterwards; None if it cannot be done in this one."""
        for name, wanted in self.before.items():
            if scene[name] not in (wanted if isinstance(wanted, tuple) else (wanted,)):
                return None
        return {**scene, **self.after}


def _free_hand(before: Mapping, after: Mapping) -> _Change:
    return _Change({**before, "grasped": 0}, after)


def _full_hand(before: Mapping, after: Mapping) -> _Change:
    return _Change({**before, "grasped": 1}, {**after, "grasped": 0})


def _task_table() -> dict[str, tuple[int, tuple[_Change, ...]]]:
    """Task -> (its kind, the ways to do it), in the benchmark's order: the draws below depend on it."""
    table: dict[str, tuple[int, tuple[_Change, ...]]] = {}
    blocks = [f"{colour}_block" for colour in COLOURS]
    for verb in ("rotate", "push"):
        for block in blocks:
            for way in ("right", "left"):
                table[f"{verb}_{block}_{way}"] = 1, (_free_hand({block: "table"}, {block: "table"}),)
    for way, other in (("left", "right"), ("right", "left")):
        table[f"move_slider_{way}"] = 2, (_free_hand({"slider": other}, {"slider": way}),)
    for name, other, state in (("open", "closed", "open"), ("close", "open", "closed")):
        table[f"{name}_drawer"] = 3, (_free_hand({"drawer": other}, {"drawer": state}),)
    for block in blocks:
        held = {block: "grasped", "grasped": 1}
        table[f"lift_{block}_table"] = 4, (_free_hand({block: "table"}, held),)
        # The door hides the block on the side that it stands at.
        table[f"lift_{block}_slider"] = (
            5,
            tuple(
                _free_hand({block: f"slider_{side}", "slider": door}, held)
                for side, door in (("left", "right"), ("right", "left"))
            ),
        )
        table[f"lift_{block}_drawer"] = 6, (_free_hand({block: "drawer", "drawer": "open"}, held),)
    table["place_in_slider"] = (
        7,
        tuple(
            _full_hand({block: "grasped", "slider": door}, {block: f"slider_{door}"})
            for block in blocks
            for door in ("right", "left")
        ),
    )
    table["place_in_drawer"] = (
        7,
        tuple(_full_hand({block: "grasped", "drawer": "open"}, {block: "drawer"}) for block in blocks),
    )
    pairs = [(top, bottom) for top in blocks for bottom in blocks if top != bottom]
    table["stack_block"] = (
        10,
        tuple(
            _full_hand({top: "grasped", bottom: "table"}, {top: "stacked_top", bottom: "stacked_bottom"})
            for top, bottom in pairs
        ),
    )
    table["unstack_block"] = (
        11,
        tuple(
            _free_hand({top: "stacked_top", bottom: "stacked_bottom"}, {top: "table", bottom: "table"})
            for top, bottom in pairs
        ),
    )
    for lamp in ("lightbulb", "led"):
        for name, state in (("on", 1), ("off", 0)):
            table[f"turn_{name}_{lamp}"] = 8, (_free_hand({lamp: 1 - state}, {lamp: state}),)
    away = ("slider_right", "slider_left")
    table["push_into_drawer"] = (
        9,
        tuple(
            _Change(
                {
                    block: "table",
                    **{other: away for other in blocks if other != block},
                    "drawer": "open",
                    "grasped": 0,
                },
                {block: "drawer", "grasped": 0},
            )
            for block in blocks
        ),
    )
    return table


_TASKS = _task_table()
TASKS: tuple[str, ...] = tuple(_TASKS)  # the 34 names


@lru_cache(maxsize=1)
def official_chains() -> tuple[Chain, ...]:
    """The 1000 chains, in the official order."""
    scenes = starting_scenes()
    words = [
        (scenes[scene], tuple(TASKS["0123456789abcdefghijklmnopqrstuvwxyz".index(letter)] for letter in word))
        for scene, line in enumerate(DRAWN)
        for word in line.split()
    ]
    order = list(range(CHAINS))
    np.random.RandomState(0).shuffle(order)
    return tuple(Chain(place, *words[index]) for place, index in enumerate(order))


def starting_scenes() -> list[dict[str, int | str]]:
    """The 192 scenes in words that chains begin with, in the benchmark's order: one or two blocks on the table, no
    two at one place of the slider."""
    return [dict(zip(_SYMBOLS, values)) for values in product(*_SYMBOLS.values()) if _is_possible(values)]


def draw_chains(scene: int) -> list[tuple[str, ...]]:
    """The chains of one of the 192 scenes, drawn as the benchmark does: five tasks blindly, until they can be done.

    That takes thousands of draws a chain, which is why `official_chains` reads what this returned.
    """
    start = starting_scenes()[scene]
    share = CHAINS // 192 + (scene < CHAINS % 192)
    random = np.random.RandomState(scene)
    found: list[tuple[str, ...]] = []
    first = {task for task in TASKS if is_feasible(start, (task,))}
    while len(found) < share:
        tasks = tuple(TASKS[index] for index in random.permutation(len(TASKS))[:CHAIN_LENGTH].tolist())
        if tasks[0] in first and is_feasible(start, tasks):
            found.append(tasks)
    return found


def chains_of_shard(chains: int = CHAINS, shard: int = 1, shards: int = 1) -> list[Chain]:
    """The first `chains` of the benchmark, of which shard `shard` of `shards` (from 1) has every `shards`-th.

    Raises:
        InputError: Not 1..1000 chains, or no such shard.
    """
    if not 1 <= chains <= CHAINS:
        raise InputError(f"chains must lie in 1..{CHAINS}, the benchmark's number; got {chains}")
    if not 1 <= shard <= shards:
        raise InputError(f"shard {shard}/{shards}: the first number must lie in 1..{max(shards, 1)}")
    return list(official_chains()[:chains][shard - 1 :: shards])


def is_feasible(start: Mapping[str, int | str], tasks: Iterable[str]) -> bool:
    """Whether the tasks can be done one after the other from this scene, each in exactly one way, and no two are of
    one kind."""
    tasks = tuple(tasks)
    kinds = {_TASKS[task][0] for task in tasks}
    scene = dict(start)
    for task in tasks:
        after = [found for change in _TASKS[task][1] if (found := change.apply(scene)) is not None]
        if len(after) != 1:
            return False
        scene = after[0]
    return len(kinds) == len(tasks)


def scene_seed(start: Mapping[str, int | str]) -> int:
    """The seed of a scene's random part: 32-bit FNV-1 from 0 over the UTF-16 (little endian) text of its values, as a
    Python dictionary prints them."""
    seed = 0
    for byte in f"dict_values({list(start.values())!r})".encode("utf-16-le"):
        seed = (seed * 0x01000193 & 0xFFFFFFFF) ^ byte
    return seed


def starting_scene(start: Mapping[str, int | str]) -> tuple[np.ndarray, np.ndarray]:
    """What to reset the simulator to.

    Args:
        start: The scene in words, `Chain.start`.

    Returns:
        robot_obs float64 (15,), the same for all; scene_obs float64 (24,): slider, drawer (m), button, switch, bulb,
        LED (0 or 1), and of each block position (m) and Euler angles (rad).
    """
    random = np.random.RandomState(scene_seed(start))
    places = list(_ON_TABLE)
    random.shuffle(places)
    scene = np.zeros(24)
    scene[0] = 0.28 if start["slider"] == "left" else 0.0
    scene[1] = 0.22 if start["drawer"] == "open" else 0.0
    scene[3] = 0.088 if start["lightbulb"] == 1 else 0.0
    scene[4], scene[5] = start["lightbulb"], start["led"]
    # Two blocks at most lie on the table. Pink takes the second place, blue what red leaves.
    on_table = {"red": 0, "blue": 1 if start["red_block"] == "table" else 0, "pink": 1}
    for index, colour in enumerate(COLOURS):
        place = start[f"{colour}_block"]
        first = 6 + 6 * index
        scene[first : first + 3] = places[on_table[colour]] if place == "table" else _ON_SLIDER[place]
        scene[first + 5] = random.uniform(np.pi / 2 - np.pi / 8, np.pi / 2 + np.pi / 8)
    return np.array(NEUTRAL_ROBOT_OBS), scene


def _is_possible(values: tuple) -> bool:
    return values.count("table") in (1, 2) and values.count("slider_right") < 2 and values.count("slider_left") < 2
