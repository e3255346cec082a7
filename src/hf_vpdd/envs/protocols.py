"""What a Meta-World observation is: cameras, sizes, and the protocols (how pictures are made)."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import InputError


STATE_DIM = 4  # end effector x, y, z (m) and gripper opening (0 closed .. 1 open)
ACTION_DIM = 4  # end effector dx, dy, dz (1 = 1 cm a step) and gripper effort (-1 opens .. 1 closes)
FPS = 80  # one picture per step of 0.0125 s
# Seeds from here on are for evaluation: recordings start at 1000 and never reach them, so nothing was trained on them.
FIRST_EVALUATION_SEED = 100_000
CAMERAS = ("corner2", "corner", "corner3", "corner4", "topview", "behindGripper", "gripperPOV")
UPSIDE_DOWN = ("corner", "corner2", "corner3", "corner4")  # Meta-World's XML rolls these by 180 degrees
# Field of view (degrees) that shows the rows and columns 110..369 of a 480-pixel picture of corner2 (VPDD's crop).
VPDD_CROP_FOVY = 34.7322


@dataclass(frozen=True)
class Protocol:
    """How pictures are made and when an episode ends.

    Args:
        max_steps: Steps until `truncated`.
        image_size: Pixels per side unless the user asks for another size.
        render_size: Pixels per side that the simulator draws; None draws for the wanted size (see `supersample`).
        supersample: With `render_size` None, draw this many times larger and average: without multisampling a target
            of one or two pixels would otherwise flicker as it moves.
        lean: Switch shadows, multisampling and mirrors off, and narrow corner2 to VPDD's crop.
        crop: Rows and columns to keep of what was drawn, after turning it upright.
        camera_positions: Cameras moved to another place, {name: (x, y, z)} in metres.
    """

    max_steps: int
    image_size: int
    render_size: int | None = None
    supersample: int = 1
    lean: bool = False
    crop: tuple[int, int] | None = None
    camera_positions: tuple[tuple[str, tuple[float, float, float]], ...] = ()


PROTOCOLS = {
    "lean": Protocol(max_steps=200, image_size=96, supersample=2, lean=True),
    "vpdd": Protocol(max_steps=200, image_size=96, render_size=480, crop=(110, 370)),
    "lerobot-mt50": Protocol(
        max_steps=500, image_size=480, render_size=480, camera_positions=(("corner2", (0.75, 0.075, 0.7)),)
    ),
}


def check_cameras(cameras: Sequence[str] | str) -> tuple[str, ...]:
    """The camera names as a tuple.

    Raises:
        InputError: A name that Meta-World lacks (it would silently show a free camera), or one given twice, or none.
    """
    names = (cameras,) if isinstance(cameras, str) else tuple(cameras)
    for name in names:
        if name not in CAMERAS:
            lower = {known.lower(): known for known in CAMERAS}
            near = difflib.get_close_matches(str(name).lower().replace("_", ""), lower, n=1, cutoff=0.6)
            hint = f"did you mean {lower[near[0]]}? " if near else ""
            raise InputError(f"Meta-World has no camera '{name}'; {hint}the cameras are {', '.join(CAMERAS)}")
    if not names or len(set(names)) != len(names):
        raise InputError(f"name each camera once and at least one, not {list(names)}")
    return names
