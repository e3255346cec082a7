"""The fifty tasks of Meta-World: names, sentences, groups. Plain data; imports no simulator.

Sentences are our own, after what each task does in Meta-World 3.1. The difficulty groups are those in which LeRobot
reports results (easy 28, medium 11, hard 6, very hard 5). Paraphrases come in two kinds that must stay apart:
`paraphrases` may be trained on, `heldout_paraphrases` are for evaluation only.
"""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from ..errors import InputError


@dataclass(frozen=True)
class TaskInfo:
    """One task: `name` ("drawer-close-v3"), the canonical `instruction`, four `paraphrases` for training, two
    `heldout_paraphrases` for evaluation, and LeRobot's `difficulty` (easy | medium | hard | very_hard)."""

    name: str
    instruction: str
    paraphrases: tuple[str, ...]
    heldout_paraphrases: tuple[str, ...]
    difficulty: str


# name without "-v3": (canonical sentence, four to train on, two held out)
_EASY = {
    "button-press": (
        "press the button on the wall",
        (
            "push the button in",
            "press the button from the front",
            "push the wall button",
            "move to the button and press it",
        ),
        ("poke the button in front of you", "give the button a push inwards"),
    ),
    "button-press-topdown": (
        "press the button from above",
        (
            "push the button down",
            "press down on the button",
            "press the button on top of the box",
            "come down on the button from above",
        ),
        ("hit the button from the top", "lower the gripper onto the button"),
    ),
    "button-press-topdown-wall": (
        "go over the wall and press the button from above",
        (
            "press the button behind the wall from above",
            "get past the wall and push the button down",
            "pass the wall, then press down on the button",
            "press down on the button beyond the wall",
        ),
        ("avoid the wall and hit the button from the top", "clear the wall and lower the gripper onto the button"),
    ),
    "button-press-wall": (
        "go around the wall and press the button",
        (
            "press the button behind the wall",
            "get past the wall and push the button in",
            "pass the wall, then press the button",
            "push the button beyond the wall",
        ),
        ("avoid the wall and poke the button", "clear the wall and push the button inwards"),
    ),
    "coffee-button": (
        "press the button of the coffee machine",
        (
            "push the coffee machine's button",
            "start the coffee machine",
            "push in the button on the coffee machine",
            "move to the coffee machine and press its button",
        ),
        ("switch the coffee machine on", "make coffee by pressing the button"),
    ),
    "dial-turn": (
        "turn the dial",
        ("rotate the dial", "spin the dial around", "turn the knob", "push the dial around"),
        ("twist the dial", "give the knob a turn"),
    ),
    "door-close": (
        "close the door",
        ("push the door shut", "shut the door", "swing the door closed", "move the door until it is closed"),
        ("make sure the door is shut", "bring the open door back to its frame"),
    ),
    "door-lock": (
        "lock the door",
        (
            "turn the lock of the door to lock it",
            "rotate the lock until the door is locked",
            "turn the lock to the locked position",
            "move the lock so that the door is locked",
        ),
        ("bolt the door", "secure the door with its lock"),
    ),
    "door-open": (
        "open the door",
        (
            "pull the door open",
            "swing the door open",
            "pull the door by its handle",
            "grab the handle and open the door",
        ),
        ("get the door to stand open", "draw the door towards you"),
    ),
    "door-unlock": (
        "unlock the door",
        (
            "turn the lock of the door to unlock it",
            "rotate the lock until the door is unlocked",
            "turn the lock to the open position",
            "move the lock so that the door is unlocked",
        ),
        ("release the door's lock", "undo the lock of the door"),
    ),
    "drawer-close": (
        "close the drawer",
        ("push the drawer in", "shut the drawer", "push the drawer closed", "slide the drawer back in"),
        ("make sure the drawer is shut", "move the drawer back into the cabinet"),
    ),
    "drawer-open": (
        "open the drawer",
        (
            "pull the drawer out",
            "pull the drawer open",
            "slide the drawer out",
            "pull on the handle to open the drawer",
        ),
        ("get the drawer to stand open", "draw the drawer towards you"),
    ),
    "faucet-close": (
        "close the faucet",
        (
            "turn the faucet off",
            "turn the faucet handle to close it",
            "shut the tap",
            "rotate the faucet until it is closed",
        ),
        ("stop the water", "twist the tap closed"),
    ),
    "faucet-open": (
        "open the faucet",
        (
            "turn the faucet on",
            "turn the faucet handle to open it",
            "open the tap",
            "rotate the faucet until it is open",
        ),
        ("let the water run", "twist the tap open"),
    ),
    "handle-press": (
        "press the handle down",
        (
            "push the handle down",
            "push down on the handle",
            "press down the handle from the front",
            "move the handle to its lowest position",
        ),
        ("lower the handle", "force the handle downwards"),
    ),
    "handle-press-side": (
        "press the handle down from the side",
        (
            "push the handle on the side down",
            "push down on the sideways handle",
            "press the sideways handle down",
            "move the sideways handle to its lowest position",
        ),
        ("lower the handle at the side", "force the sideways handle downwards"),
    ),
    "handle-pull": (
        "pull the handle up",
        (
            "lift the handle",
            "pull up on the handle",
            "raise the handle from below",
            "move the handle to its highest position",
        ),
        ("hoist the handle", "get the handle up"),
    ),
    "handle-pull-side": (
        "pull the handle up from the side",
        (
            "lift the handle on the side",
            "pull up on the sideways handle",
            "raise the sideways handle",
            "move the sideways handle to its highest position",
        ),
        ("hoist the handle at the side", "get the sideways handle up"),
    ),
    "lever-pull": (
        "pull the lever",
        (
            "move the lever",
            "swing the lever over",
            "pull the lever around its hinge",
            "move the lever to the other position",
        ),
        ("yank the lever", "get the lever to turn a quarter"),
    ),
    "peg-unplug-side": (
        "unplug the peg",
        (
            "pull the peg out of its hole",
            "pull the peg out sideways",
            "take the peg out of the box",
            "remove the peg from the hole",
        ),
        ("draw the plug out", "slide the peg free of the box"),
    ),
    "plate-slide": (
        "slide the plate into the cabinet",
        (
            "push the plate into the cabinet",
            "slide the plate into the goal",
            "move the plate forward into the cabinet",
            "push the plate over the table into the cabinet",
        ),
        ("send the dish into the cabinet", "get the plate inside"),
    ),
    "plate-slide-back": (
        "slide the plate back out of the cabinet",
        (
            "pull the plate out of the cabinet",
            "slide the plate out towards the robot",
            "move the plate backward out of the cabinet",
            "drag the plate out of the cabinet",
        ),
        ("fetch the dish from the cabinet", "get the plate back out"),
    ),
    "plate-slide-back-side": (
        "slide the plate sideways out of the cabinet",
        (
            "pull the plate out of the cabinet to the side",
            "slide the plate out on the side",
            "move the plate sideways, out of the cabinet",
            "drag the plate out sideways",
        ),
        ("fetch the dish from the cabinet at the side", "get the plate out through the side"),
    ),
    "plate-slide-side": (
        "slide the plate sideways into the cabinet",
        (
            "push the plate into the cabinet from the side",
            "slide the plate to the side, into the goal",
            "move the plate sideways into the cabinet",
            "push the plate sideways to the cabinet",
        ),
        ("send the dish sideways into the cabinet", "get the plate inside through the side"),
    ),
    "reach": (
        "reach the target",
        (
            "move to the target",
            "move the gripper to the target",
            "go to the marked point",
            "bring the gripper to the goal",
        ),
        ("touch the target point", "place your hand at the marker"),
    ),
    "reach-wall": (
        "go past the wall and reach the target",
        (
            "reach the target behind the wall",
            "move around the wall to the target",
            "pass the wall and move the gripper to the target",
            "bring the gripper to the goal beyond the wall",
        ),
        ("avoid the wall and touch the target point", "clear the wall and place your hand at the marker"),
    ),
    "window-close": (
        "close the window",
        (
            "push the window shut",
            "slide the window shut",
            "shut the window",
            "push the window handle until the window is closed",
        ),
        ("make sure the window is shut", "move the pane back to its frame"),
    ),
    "window-open": (
        "open the window",
        (
            "push the window open",
            "slide the window open",
            "push the window handle to open the window",
            "slide the window aside",
        ),
        ("let some air in through the window", "move the pane until the window stands open"),
    ),
}
_MEDIUM = {
    "basketball": (
        "put the ball into the basket",
        (
            "drop the ball through the hoop",
            "pick up the ball and put it in the basket",
            "dunk the basketball",
            "lift the ball into the hoop",
        ),
        ("score a basket", "carry the ball up to the hoop and let go"),
    ),
    "bin-picking": (
        "move the puck from one bin to the other",
        (
            "pick up the puck and put it into the other bin",
            "take the puck out of its bin and drop it into the next one",
            "put the puck in the other bin",
            "carry the puck to the other bin",
        ),
        ("swap the bin that the puck lies in", "transfer the puck between the bins"),
    ),
    "box-close": (
        "put the lid on the box",
        (
            "close the box with its lid",
            "pick up the lid and close the box",
            "place the cover on top of the box",
            "grasp the lid and put it on the box",
        ),
        ("cover the box", "make sure the box has its lid on"),
    ),
    "coffee-pull": (
        "pull the mug away from the coffee machine",
        (
            "take the mug from the coffee machine",
            "drag the mug out from under the coffee machine",
            "pull the cup towards the target",
            "move the mug away from the machine",
        ),
        ("fetch the cup from the coffee maker", "get the coffee cup out"),
    ),
    "coffee-push": (
        "push the mug under the coffee machine",
        (
            "put the mug under the coffee machine",
            "slide the mug to the coffee machine",
            "push the cup below the coffee machine",
            "move the mug to the machine",
        ),
        ("set the cup in place for coffee", "bring the cup to the coffee maker"),
    ),
    "hammer": (
        "hammer the nail in",
        (
            "hit the nail with the hammer",
            "pick up the hammer and drive in the nail",
            "use the hammer to push the nail into the wall",
            "take the hammer and strike the nail",
        ),
        ("drive the nail home", "bang the nail into the board"),
    ),
    "peg-insert-side": (
        "insert the peg into the hole",
        (
            "put the peg into the hole in the side of the box",
            "pick up the peg and insert it sideways",
            "push the peg into the box from the side",
            "plug the peg into the hole",
        ),
        ("fit the peg into its slot", "stick the peg into the opening of the box"),
    ),
    "push-wall": (
        "push the puck around the wall to the target",
        (
            "get the puck past the wall to the target",
            "move the puck around the wall to the goal",
            "push the puck to the goal behind the wall",
            "bypass the wall and push the puck there",
        ),
        ("avoid the wall and shove the puck to the marker", "slide the puck past the wall onto the marked spot"),
    ),
    "soccer": (
        "push the ball into the goal",
        (
            "kick the ball into the goal",
            "move the soccer ball into the goal",
            "roll the ball into the net",
            "shoot the ball into the goal",
        ),
        ("score a goal", "get the football into the net"),
    ),
    "sweep": (
        "sweep the cube off the table",
        (
            "push the cube off the table",
            "sweep the block to the side of the table",
            "move the cube over the edge of the table",
            "sweep the block away",
        ),
        ("clear the block from the table", "brush the cube off"),
    ),
    "sweep-into": (
        "sweep the cube into the hole",
        (
            "push the cube into the hole",
            "sweep the block into the opening of the table",
            "slide the cube until it falls into the hole",
            "move the cube into the hole",
        ),
        ("drop the block into the hole by sweeping", "brush the cube into the opening"),
    ),
}
_HARD = {
    "assembly": (
        "put the ring on the peg",
        (
            "pick up the ring and place it over the peg",
            "place the nut onto the peg",
            "grasp the nut and slide it onto the peg",
            "assemble the nut and the peg",
        ),
        ("thread the peg through the ring", "fit the nut over the pole"),
    ),
    "hand-insert": (
        "put the gripper into the hole",
        (
            "insert the hand into the hole",
            "lower the gripper into the hole in the table",
            "reach down into the hole",
            "move the hand into the opening",
        ),
        ("stick your hand into the opening of the table", "dip the gripper into the gap"),
    ),
    "pick-out-of-hole": (
        "pick the puck out of the hole",
        (
            "take the puck out of the hole",
            "lift the puck out of the hole",
            "grasp the puck in the hole and lift it to the target",
            "remove the puck from the hole",
        ),
        ("fetch the puck from the opening", "get the puck up out of the gap"),
    ),
    "pick-place": (
        "pick up the puck and move it to the target",
        (
            "lift the puck to the target",
            "grasp the puck and bring it to the goal",
            "pick the puck up and place it at the goal",
            "take the puck to the target point",
        ),
        ("carry the puck to the marker", "grab the puck and hold it at the marked point"),
    ),
    "push": (
        "push the puck to the target",
        (
            "slide the puck to the target",
            "push the puck to the goal",
            "move the puck over the table to the target",
            "push the puck onto the goal position",
        ),
        ("shove the puck to the marker", "get the puck onto the marked spot by pushing"),
    ),
    "push-back": (
        "pull the puck back to the target",
        (
            "drag the puck back to the target",
            "pull the puck to the goal",
            "move the puck backward to the target",
            "slide the puck back towards the robot",
        ),
        ("haul the puck back to the marker", "get the puck onto the marked spot by pulling"),
    ),
}
_VERY_HARD = {
    "disassemble": (
        "take the ring off the peg",
        (
            "lift the nut off the peg",
            "pull the ring up and off the peg",
            "grasp the nut and remove it from the peg",
            "take the nut and the peg apart",
        ),
        ("unthread the ring from the pole", "free the peg from the nut"),
    ),
    "pick-place-wall": (
        "carry the puck over the wall to the target",
        (
            "pick up the puck and bring it past the wall to the target",
            "lift the puck over the wall to the goal",
            "grasp the puck, pass the wall and go to the target",
            "pick the puck up and place it behind the wall",
        ),
        ("avoid the wall and take the puck to the marker", "hoist the puck across the wall to the marked point"),
    ),
    "shelf-place": (
        "put the puck on the shelf",
        (
            "pick up the puck and place it on the shelf",
            "lift the puck onto the shelf",
            "place the block on the shelf",
            "grasp the puck and set it down on the shelf",
        ),
        ("store the puck on the rack", "get the block up onto the shelf"),
    ),
    "stick-pull": (
        "pull the thermos with the stick",
        (
            "use the stick to pull the thermos",
            "pick up the stick, hook the thermos and pull it",
            "grasp the stick and drag the thermos by its handle",
            "hook the stick into the handle and pull",
        ),
        ("fetch the thermos with the help of the stick", "tow the bottle towards the target with the stick"),
    ),
    "stick-push": (
        "push the thermos with the stick",
        (
            "use the stick to push the thermos",
            "pick up the stick and push the thermos",
            "grasp the stick and shove the thermos with it",
            "take the stick and push the thermos to the target",
        ),
        ("move the bottle using the stick as a tool", "get the thermos to the marker by poking it with the stick"),
    ),
}


def _read(table: dict[str, tuple], difficulty: str) -> dict[str, TaskInfo]:
    return {f"{short}-v3": TaskInfo(f"{short}-v3", *sentences, difficulty) for short, sentences in table.items()}


METAWORLD_TASKS: dict[str, TaskInfo] = dict(
    sorted(
        (
            _read(_EASY, "easy") | _read(_MEDIUM, "medium") | _read(_HARD, "hard") | _read(_VERY_HARD, "very_hard")
        ).items()
    )
)

MT10: tuple[str, ...] = (
    "reach-v3",
    "push-v3",
    "pick-place-v3",
    "door-open-v3",
    "drawer-open-v3",
    "drawer-close-v3",
    "button-press-topdown-v3",
    "peg-insert-side-v3",
    "window-open-v3",
    "window-close-v3",
)
QUICKSTART_TASKS: tuple[str, ...] = ("button-press-topdown-v3", "drawer-close-v3", "window-open-v3")
DIFFICULTIES: tuple[str, ...] = ("easy", "medium", "hard", "very_hard")
GROUPS: dict[str, tuple[str, ...]] = {
    "mt10": MT10,
    "quickstart": QUICKSTART_TASKS,
    "all": tuple(METAWORLD_TASKS),
    **{group: tuple(t.name for t in METAWORLD_TASKS.values() if t.difficulty == group) for group in DIFFICULTIES},
}


def task_info(task: str) -> TaskInfo:
    """The entry of a task, named with or without "-v3".

    Raises:
        InputError: There is no such task; names the nearest ones.
    """
    name = str(task).strip().lower().removeprefix("metaworld-").replace("_", "-").removesuffix("-v3") + "-v3"
    if name not in METAWORLD_TASKS:
        near = difflib.get_close_matches(name, METAWORLD_TASKS, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"the tasks are {', '.join(METAWORLD_TASKS)}."
        raise InputError(f"there is no Meta-World task '{task}'; {hint}")
    return METAWORLD_TASKS[name]


def instruction(task: str) -> str:
    """The canonical sentence of a task, e.g. "close the drawer"."""
    return task_info(task).instruction


def resolve_tasks(tasks: str | Iterable[str]) -> tuple[str, ...]:
    """Task names, each once, in the order given.

    Args:
        tasks: One string of comma-separated task names and groups (mt10, quickstart, all, easy, medium, hard,
            very_hard), or a sequence of such words.

    Raises:
        InputError: A word is neither a task nor a group, or nothing was named.
    """
    words = tasks.split(",") if isinstance(tasks, str) else list(tasks)
    words = [word.strip() for word in words if word.strip()]
    if not words:
        raise InputError(f"no task was named; give task names or one of the groups {', '.join(GROUPS)}")
    names: dict[str, None] = {}
    for word in words:
        group = GROUPS.get(word.lower().replace("-", "_"))
        names.update(dict.fromkeys(group if group else (task_info(word).name,)))
    return tuple(names)
