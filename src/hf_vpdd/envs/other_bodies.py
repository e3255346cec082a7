"""Scenes with other bodies than the robot that is to learn: foreign video, where no human video can be had.

    scene = BodyScene("kitchen-microwave", image_size=64)
    scene.film(seed=1000, noise=0.2, length=96)          # uint8 (96, 64, 64, 3), 80 pictures a second

Three bodies of gymnasium-robotics (pip install 'hf-vpdd[embodiment]'): Fetch's arm, the Adroit hand and a Franka arm
in a kitchen. Each task has a script: a few points that the gripper or palm passes, chosen by where the objects stand,
joined by minimum-jerk motion and disturbed by slow noise. No script checks whether it succeeded: the hand that misses
the handle is video, too. What is recorded has neither states nor actions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InputError
from .gl import configure_gl
from .protocols import FPS


STEPS_PER_PICTURE = 6  # of 1/480 s: 80 pictures a second, as in Meta-World, at nearly the bodies' own 2 ms
NOISE_MEMORY = 0.97  # correlation of the noise from one picture to the next: a sway, not a tremor
CAMERA = "front"  # the one camera of all scenes, aimed by us

Vector = Sequence[float] | np.ndarray


@dataclass(frozen=True)
class Waypoint:
    """Where the gripper (or palm) shall be, `seconds` after the point before, with how closed a hand."""

    position: Vector  # x, y, z in metres
    grip: float  # 0 open .. 1 closed
    seconds: float


@dataclass(frozen=True)
class BodyTask:
    """One scene and what is done there.

    Args:
        source: The body: fetch, adroit or kitchen. environment: its Gymnasium id.
        instruction: The sentence of the recordings.
        view: (look-at point, distance in m, azimuth and elevation in degrees) of the camera.
        script: (scene, generator) -> waypoints, called after the reset.
    """

    source: str
    environment: str
    instruction: str
    view: tuple[Vector, float, float, float]
    script: Callable[["BodyScene", np.random.Generator], list[Waypoint]]


class BodyScene:
    """One task of another body, filmed by one camera.

    Args:
        task: A name of `BODY_TASKS`.
        image_size: Pixels per side. supersample: drawn this many times larger and averaged.

    Raises:
        InputError: No such task, or gymnasium-robotics is not installed.
    """

    def __init__(self, task: str, image_size: int = 96, supersample: int = 2):
        if task not in BODY_TASKS:
            raise InputError(f"there is no scene '{task}'; the scenes are {', '.join(BODY_TASKS)}")
        if not (isinstance(image_size, int) and 8 <= image_size <= 1024):
            raise InputError(f"image_size must be a whole number from 8 to 1024, but is {image_size!r}")
        self.task, self.about = task, BODY_TASKS[task]
        self.image_size, self.supersample = image_size, supersample
        configure_gl()
        self.env = _make(self.about.environment)
        self.model, self.data = self.env.model, self.env.data
        self.model.opt.timestep = 1 / (FPS * STEPS_PER_PICTURE)
        self._body = {"fetch": _Fetch, "adroit": _Adroit, "kitchen": _Kitchen}[self.about.source](self)
        self._prepare_pictures()
        self._renderer = None

    def site(self, name: str) -> np.ndarray:
        """Position of a site of the model, float64 (3,)."""
        return self.data.site(name).xpos.copy()

    @property
    def tip(self) -> np.ndarray:
        """Position of the gripper or palm, float64 (3,)."""
        return self.site(self._body.tip)

    def film(self, seed: int, noise: float = 0.2, length: int = 96) -> np.ndarray:
        """One episode.

        Args:
            seed: Of the scene, the script's choices and the noise: the same seed gives the same motion.
            noise: Standard deviation of the disturbance of the path, in units of 5 cm (and of half a grip).
            length: Pictures.

        Returns:
            uint8 (length, S, S, 3) RGB.
        """
        frames = np.empty((length, self.image_size, self.image_size, 3), np.uint8)
        for index, _ in zip(range(length), self.motion(seed, noise)):
            frames[index] = self.picture()
        return frames

    def motion(self, seed: int, noise: float = 0.2):
        """Moves the body, one picture's time at a step, without end; yields the tip's position each time."""
        import mujoco

        generator = np.random.default_rng(seed)
        self.env.reset(seed=seed)
        self._body.begin(generator)
        mujoco.mj_forward(self.model, self.data)
        points = self.about.script(self, generator)
        start = Waypoint(self.tip, points[0].grip, 0.0)
        sway = noise * generator.standard_normal(4)
        for step in range(10**9):
            yield self.tip
            position, grip = _between(start, points, (step + 1) / FPS)
            # grows from nothing, so that an episode does not begin with a jump
            shown = sway * min(1.0, step / 20)
            self._body.follow(position + 0.05 * shown[:3], float(np.clip(grip + 0.5 * shown[3], 0, 1)))
            mujoco.mj_step(self.model, self.data, STEPS_PER_PICTURE)
            sway = NOISE_MEMORY * sway + np.sqrt(1 - NOISE_MEMORY**2) * noise * generator.standard_normal(4)

    def picture(self) -> np.ndarray:
        """What the camera sees now, uint8 (S, S, 3)."""
        if self._renderer is None:
            from .metaworld import box_mean  # which needs gymnasium
            from .renderer import OffscreenRenderer

            self._box_mean = box_mean
            side = self.image_size * self.supersample
            self._renderer = OffscreenRenderer(self.model, self.data, side, side)
        return self._box_mean(self._renderer.draw(0)[::-1], self.supersample)

    def close(self) -> None:
        """Frees the GL context. May be called twice."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _prepare_pictures(self) -> None:
        """Lean pictures as in Meta-World's protocol of that name, and camera 0 where we want it."""
        model = self.model
        model.vis.quality.offsamples = 0
        model.vis.quality.shadowsize = 0
        model.mat_reflectance[:] = 0
        model.vis.global_.offwidth = model.vis.global_.offheight = self.image_size * self.supersample
        lookat, distance, azimuth, elevation = self.about.view
        a, e = np.deg2rad(azimuth), np.deg2rad(elevation)
        forward = np.array([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)])
        right = np.array([np.sin(a), -np.cos(a), 0.0])
        model.cam_bodyid[0], model.cam_mode[0], model.cam_fovy[0] = 0, 0, 45.0
        model.cam_pos[0] = np.asarray(lookat) - distance * forward
        model.cam_quat[0] = _quaternion(np.stack((right, np.cross(right, forward), -forward), axis=1))


def body_tasks(source: str, names: str | Sequence[str] = "all") -> tuple[str, ...]:
    """Names of scenes of one body: "all", or "door,hammer", with or without the body in front.

    Raises:
        InputError: No such body or scene.
    """
    sources = sorted({about.source for about in BODY_TASKS.values()})
    if source not in sources:
        raise InputError(f"there is no source '{source}'; the other bodies are {', '.join(sources)}")
    known = [name for name, about in BODY_TASKS.items() if about.source == source]
    asked = [part.strip() for part in names.split(",") if part.strip()] if isinstance(names, str) else list(names)
    if asked == ["all"]:
        return tuple(known)
    found = [name if name.startswith(f"{source}-") else f"{source}-{name}" for name in asked]
    for name, given in zip(found, asked):
        if name not in known:
            raise InputError(f"{source} has no scene '{given}'; it has {', '.join(known)}")
    if not found or len(set(found)) != len(found):
        raise InputError(f"name each scene once and at least one, not {asked}")
    return tuple(found)


# -- bodies: how each follows a point --------------------------------------------------------------------------------


class _Fetch:
    """A body welded to a mocap point: the gripper goes where the point is put."""

    tip = "robot0:grip"

    def __init__(self, scene: BodyScene):
        self.scene = scene

    def begin(self, generator: np.random.Generator) -> None:
        # the environment shows its goal only when it draws by itself
        scene = self.scene
        site = scene.model.site("target0").id
        shift = scene.data.site_xpos[site] - scene.model.site_pos[site]
        scene.model.site_pos[site] = scene.env.goal - shift
        scene.data.mocap_pos[0] = scene.data.body("robot0:gripper_link").xpos
        self.offset = scene.data.mocap_pos[0] - scene.tip

    def follow(self, position: np.ndarray, grip: float) -> None:
        data = self.scene.data
        data.mocap_pos[0] = position + self.offset
        data.mocap_quat[0] = (1.0, 0.0, 1.0, 0.0)
        data.ctrl[:] = 0.05 * (1 - grip)


class _Jointed:
    """A body with position servos: damped least squares over the arm's joints, step by step."""

    tip: str
    gain, damping, lead = 0.15, 0.1, 0.15

    def __init__(self, scene: BodyScene):
        model = scene.model
        self.scene = scene
        joints = model.actuator_trnid[:, 0]
        names = [model.joint(j).name for j in joints]
        self.arm = np.array([i for i, name in enumerate(names) if self.is_arm(name)], int)
        self.address, self.column = model.jnt_qposadr[joints], model.jnt_dofadr[joints]
        self.low, self.high = model.actuator_ctrlrange.T.copy()
        self.names = names

    def is_arm(self, joint: str) -> bool:
        raise NotImplementedError

    def hand(self, grip: float) -> None:
        raise NotImplementedError

    def begin(self, generator: np.random.Generator) -> None:
        self.command = self.scene.data.qpos[self.address].copy()

    def follow(self, position: np.ndarray, grip: float) -> None:
        import mujoco

        scene = self.scene
        model, data, arm = scene.model, scene.data, self.arm
        if len(arm):
            jacobian = np.empty((3, model.nv))
            mujoco.mj_jacSite(model, data, jacobian, None, model.site(self.tip).id)
            part = jacobian[:, self.column[arm]]
            error = position - scene.tip
            change = part.T @ np.linalg.solve(part @ part.T + self.damping**2 * np.eye(3), error)
            now = data.qpos[self.address[arm]]
            # a command that runs away from a blocked arm would come back as a blow
            wanted = np.clip(self.command[arm] + self.gain * change, now - self.lead, now + self.lead)
            self.command[arm] = wanted
        self.hand(grip)
        data.ctrl[:] = np.clip(self.command, self.low, self.high)


class _Adroit(_Jointed):
    tip = "S_grasp"

    def is_arm(self, joint: str) -> bool:
        return joint.startswith(("ARR", "ART", "WRJ"))

    def begin(self, generator: np.random.Generator) -> None:
        super().begin(generator)
        # fingers close one after the other, in an order of their own in every episode
        self.phase = {name: generator.uniform(0, 0.25) for name in ("FF", "MF", "RF", "LF", "TH")}
        self.spread = generator.uniform(-0.5, 0.5)

    def hand(self, grip: float) -> None:
        for i, name in enumerate(self.names):
            finger, joint = name[:2], name[2:]
            if finger not in self.phase:
                continue
            closed = np.clip((grip - self.phase[finger]) / (1 - self.phase[finger]), 0, 1)
            if finger == "TH":
                goal = {"J4": closed, "J3": 0.9 * closed, "J0": -0.8 * closed}.get(joint, 0.0)
            else:
                goal = {"J2": 1.3, "J1": 1.2, "J0": 0.9, "J4": 0.3}.get(joint, 0.0) * closed
                goal += 0.3 * self.spread * (joint == "J3") * (1 - closed)
            self.command[i] = goal


class _Kitchen(_Jointed):
    tip = "end_effector"
    damping = 0.08

    def is_arm(self, joint: str) -> bool:
        return "panda0_joint" in joint

    def begin(self, generator: np.random.Generator) -> None:
        # the environment always begins in one pose
        data = self.scene.data
        data.qpos[self.address[self.arm]] += generator.uniform(-0.15, 0.15, len(self.arm))
        super().begin(generator)

    def hand(self, grip: float) -> None:
        fingers = np.setdiff1d(np.arange(len(self.names)), self.arm)
        self.command[fingers] = 0.04 * (1 - grip)


# -- scripts ---------------------------------------------------------------------------------------------------------


def _near(generator: np.random.Generator, point: Vector, by: float = 0.02) -> np.ndarray:
    return np.asarray(point, float) + generator.uniform(-by, by, 3)


def _fetch_reach(scene, generator):
    rest = scene.tip
    others = [rest + generator.uniform((-0.15, -0.2, -0.1), (0.12, 0.2, 0.15)) for _ in range(2)]
    return [Waypoint(others[0], 0.5, 0.35), Waypoint(others[1], 0.2, 0.35), Waypoint(scene.env.goal, 1.0, 0.4)]


def _fetch_push(scene, generator):
    block, goal = scene.site("object0"), scene.env.goal.copy()
    goal[2] = block[2]
    way = (goal - block) / max(np.linalg.norm(goal - block), 1e-6)
    behind = block - 0.09 * way
    return [
        Waypoint(behind + (0, 0, 0.08), 1.0, 0.35), Waypoint(_near(generator, behind, 0.005), 1.0, 0.2),
        Waypoint(goal - 0.05 * way, 1.0, 0.45), Waypoint(goal - 0.1 * way + (0, 0, 0.12), 1.0, 0.25),
    ]  # fmt: skip


def _fetch_pick(scene, generator):
    block, goal = scene.site("object0"), scene.env.goal
    return [
        Waypoint(block + (0, 0, 0.1), 0.0, 0.35), Waypoint(block + (0, 0, 0.005), 0.0, 0.25),
        Waypoint(block + (0, 0, 0.005), 1.0, 0.15), Waypoint(_near(generator, goal + (0, 0, 0.05)), 1.0, 0.45),
    ]  # fmt: skip


def _adroit_door(scene, generator):
    handle = scene.site("S_handle")
    return [
        Waypoint(_near(generator, handle + (0, -0.08, 0)), 0.0, 0.4), Waypoint(handle + (0, -0.02, 0), 0.0, 0.2),
        Waypoint(handle + (-0.02, -0.02, -0.03), 1.0, 0.2), Waypoint(handle + (-0.15, -0.3, -0.05), 1.0, 0.5),
    ]  # fmt: skip


def _adroit_hammer(scene, generator):
    tip, tool = scene.tip, scene.data.body("Object").xpos.copy()
    high = tip + generator.uniform((-0.12, -0.02, 0.04), (0.12, 0.06, 0.12))
    return [
        Waypoint(tool + (0, 0, 0.06), 0.1, 0.35), Waypoint(tool + (0, 0, 0.03), 1.0, 0.25),
        Waypoint(high, 1.0, 0.3), Waypoint(_near(generator, tip + (0, 0.03, -0.04), 0.05), 1.0, 0.2),
        Waypoint(_near(generator, high, 0.05), 0.9, 0.2),
    ]  # fmt: skip


def _adroit_relocate(scene, generator):
    ball, goal = scene.data.body("Object").xpos.copy(), scene.site("target")
    return [
        Waypoint(_near(generator, ball + (0, -0.02, 0.12)), 0.0, 0.4), Waypoint(ball + (0, -0.02, 0.05), 0.1, 0.2),
        Waypoint(ball + (0, -0.02, 0.04), 1.0, 0.2), Waypoint(goal, 1.0, 0.45),
    ]  # fmt: skip


def _adroit_pen(scene, generator):
    # The hand stands; wrist and fingers turn the pen. The next grip begins before the last is complete.
    grips = generator.uniform(0.15, 0.5, 6)
    return [Waypoint(_near(generator, scene.tip, 0.015), grip, 0.22) for grip in grips]


def _kitchen_microwave(scene, generator):
    handle = scene.site("microhandle_site")
    return [
        Waypoint(_near(generator, handle + (0.02, -0.12, 0.0)), 0.0, 0.4),
        Waypoint(handle + (0.02, -0.03, 0), 0.0, 0.25), Waypoint(handle + (0.02, -0.02, 0), 1.0, 0.1),
        Waypoint(_near(generator, handle + (-0.15, -0.25, 0)), 1.0, 0.6),
    ]  # fmt: skip


def _kitchen_kettle(scene, generator):
    handle = scene.site("kettle_site")
    return [
        Waypoint(_near(generator, handle + (0, -0.1, 0.08)), 0.0, 0.35), Waypoint(handle + (0, -0.02, 0.0), 0.0, 0.25),
        Waypoint(handle, 1.0, 0.1), Waypoint(_near(generator, handle + (0.1, 0.25, 0.05), 0.05), 1.0, 0.6),
    ]  # fmt: skip


def _kitchen_slide(scene, generator):
    handle = scene.site("slide_site")
    return [
        Waypoint(_near(generator, handle + (-0.08, -0.12, -0.05)), 1.0, 0.5),
        Waypoint(handle + (-0.06, 0.0, -0.02), 1.0, 0.25),
        Waypoint(_near(generator, handle + (0.3, 0.0, 0.0)), 1.0, 0.55),
    ]  # fmt: skip


_FETCH_VIEW = ((1.3, 0.75, 0.5), 1.0, 145.0, -30.0)
_ADROIT_VIEW = ((0.0, -0.05, 0.2), 1.0, 60.0, -30.0)
_KITCHEN_VIEW = ((-0.3, 0.4, 2.05), 1.7, 70.0, -25.0)
_PICK = "FetchPickAndPlace-v4"  # has fingers that move and a block, which reaching and pushing may have, too

BODY_TASKS: dict[str, BodyTask] = {
    "fetch-reach": BodyTask("fetch", _PICK, "move the gripper to the red ball", _FETCH_VIEW, _fetch_reach),
    "fetch-push": BodyTask("fetch", _PICK, "push the block to the red ball", _FETCH_VIEW, _fetch_push),
    "fetch-pick": BodyTask("fetch", _PICK, "pick up the block", _FETCH_VIEW, _fetch_pick),
    "adroit-door": BodyTask("adroit", "AdroitHandDoor-v1", "open the door with the hand",
                            ((0.0, 0.0, 0.25), 1.2, 60.0, -25.0), _adroit_door),
    "adroit-hammer": BodyTask("adroit", "AdroitHandHammer-v1", "swing the hammer", _ADROIT_VIEW, _adroit_hammer),
    "adroit-relocate": BodyTask("adroit", "AdroitHandRelocate-v1", "carry the ball with the hand", _ADROIT_VIEW,
                                _adroit_relocate),
    "adroit-pen": BodyTask("adroit", "AdroitHandPen-v1", "turn the pen in the hand",
                           ((0.0, -0.15, 0.22), 0.65, 60.0, -35.0), _adroit_pen),
    "kitchen-microwave": BodyTask("kitchen", "FrankaKitchen-v1", "pull the microwave open", _KITCHEN_VIEW,
                                  _kitchen_microwave),
    "kitchen-kettle": BodyTask("kitchen", "FrankaKitchen-v1", "move the kettle to another burner", _KITCHEN_VIEW,
                               _kitchen_kettle),
    "kitchen-slide": BodyTask("kitchen", "FrankaKitchen-v1", "slide the cabinet door to the side", _KITCHEN_VIEW,
                              _kitchen_slide),
}  # fmt: skip


# -- small maths -----------------------------------------------------------------------------------------------------


def _between(start: Waypoint, points: Sequence[Waypoint], seconds: float) -> tuple[np.ndarray, float]:
    """Position and grip at a time: minimum-jerk from point to point, the last one held."""
    before = start
    for point in points:
        if seconds < point.seconds:
            u = seconds / point.seconds
            share = u**3 * (10 - 15 * u + 6 * u**2)
            position = (1 - share) * np.asarray(before.position) + share * np.asarray(point.position)
            return position, (1 - share) * before.grip + share * point.grip
        seconds -= point.seconds
        before = point
    return np.asarray(before.position, float), before.grip


def _quaternion(rotation: np.ndarray) -> np.ndarray:
    """(w, x, y, z) of a rotation matrix (3, 3)."""
    import mujoco

    quaternion = np.empty(4)
    mujoco.mju_mat2Quat(quaternion, np.ascontiguousarray(rotation).ravel())
    return quaternion


def _make(environment: str) -> Any:
    try:
        import gymnasium
    except ModuleNotFoundError as error:
        raise InputError(_missing(error)) from None
    level = gymnasium.logger.min_level
    gymnasium.logger.min_level = gymnasium.logger.ERROR  # hints about rewards of other versions; none are used here
    try:
        import gymnasium_robotics

        gymnasium.register_envs(gymnasium_robotics)
        return gymnasium.make(environment, disable_env_checker=True).unwrapped
    except ModuleNotFoundError as error:
        raise InputError(_missing(error)) from None
    finally:
        gymnasium.logger.min_level = level


def _missing(error: ModuleNotFoundError) -> str:
    return f"video of other bodies needs {error.name}; install it with: pip install 'hf-vpdd[embodiment]'"
