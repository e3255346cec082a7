"""RLBench's tasks and cameras by name: which ones the papers use. Plain data; imports no simulator."""

import difflib
import re
from collections.abc import Iterable, Sequence

from ..errors import InputError


# PerAct's eighteen. `open_drawer` is the one that VPDD's code leaves out.
PERACT_TASKS: tuple[str, ...] = (
    "close_jar",
    "insert_onto_square_peg",
    "light_bulb_in",
    "meat_off_grill",
    "open_drawer",
    "place_cups",
    "place_shape_in_shape_sorter",
    "place_wine_at_rack_location",
    "push_buttons",
    "put_groceries_in_cupboard",
    "put_item_in_drawer",
    "put_money_in_safe",
    "reach_and_drag",
    "slide_block_to_color_target",
    "stack_blocks",
    "stack_cups",
    "sweep_to_dustpan_of_size",
    "turn_tap",
)
# Seventeen are listed in VPDD's code, the paper scores sixteen of them; which one it drops is not known.
VPDD_TASKS: tuple[str, ...] = tuple(task for task in PERACT_TASKS if task != "open_drawer")
# In PerAct's fork of RLBench only.
FORK_TASKS: tuple[str, ...] = (
    "place_wine_at_rack_location",
    "slide_block_to_color_target",
    "sweep_to_dustpan_of_size",
)

# In the order of VPDD's views.
CAMERAS = ("front", "left_shoulder", "right_shoulder", "wrist")
ALL_CAMERAS = (*CAMERAS, "overhead")

GROUPS: dict[str, tuple[str, ...]] = {"peract18": PERACT_TASKS, "vpdd17": VPDD_TASKS}


def resolve_tasks(tasks: str | Iterable[str]) -> tuple[str, ...]:
    """Task names, each once, in the order given. RLBench has over a hundred tasks: any well-formed name is taken, and
    the installed simulator says whether it knows it.

    Args:
        tasks: Comma-separated task names ("close_jar") and groups (peract18, vpdd17), or a sequence of such words.

    Raises:
        InputError: Nothing was named, or a word cannot be a task's name.
    """
    words = tasks.split(",") if isinstance(tasks, str) else list(tasks)
    words = [word.strip() for word in words if word.strip()]
    if not words:
        raise InputError(f"no task was named; give RLBench's task names or one of the groups {', '.join(GROUPS)}")
    names: dict[str, None] = {}
    for word in words:
        name = word.lower().replace("-", "_").removesuffix(".py")
        if name not in GROUPS and not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)+", name):
            raise InputError(f"RLBench has no task '{word}'; {hint(name)}names look like close_jar")
        names.update(dict.fromkeys(GROUPS.get(name, (name,))))
    return tuple(names)


def class_name(task: str) -> str:
    """The class of a task's module: "close_jar" -> "CloseJar"."""
    return "".join(word[0].upper() + word[1:] for word in task.split("_"))


def hint(task: str) -> str:
    """ "did you mean …? " with the nearest of the known names, or nothing."""
    near = difflib.get_close_matches(task, [*PERACT_TASKS, *GROUPS], n=2, cutoff=0.6)
    return f"did you mean {' or '.join(near)}? " if near else ""


def check_cameras(cameras: Sequence[str] | str) -> tuple[str, ...]:
    """The camera names as a tuple.

    Raises:
        InputError: A name that RLBench lacks, or one given twice, or none.
    """
    names = (cameras,) if isinstance(cameras, str) else tuple(cameras)
    for name in names:
        if name not in ALL_CAMERAS:
            raise InputError(f"RLBench has no camera '{name}'; the cameras are {', '.join(ALL_CAMERAS)}")
    if not names or len(set(names)) != len(names):
        raise InputError(f"name each camera once and at least one, not {list(names)}")
    return names
