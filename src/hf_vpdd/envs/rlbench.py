"""RLBench's tasks as a Gymnasium environment of keyframes: one step moves the arm to a pose, by planning.

    env = RLBenchEnv("close_jar")                                # CoppeliaSim starts at the first reset
    obs, info = env.reset(seed=100000, options={"variation": 3})
    obs, reward, terminated, truncated, info = env.step([0.3, 0.1, 0.9, 0, 1, 0, 0, 1])   # x y z qx qy qz qw open
    obs["images"]["front"], obs["state"], obs["instruction"]      # uint8 (128, 128, 3), float32 (4,), str

Written against the sources of RLBench 1.2 and of PerAct's fork of it; it was never run with CoppeliaSim itself (see
docs/rlbench.md). `hf-vpdd doctor rlbench` explains the installation.

A process has one CoppeliaSim, and that has one task loaded: environments share it and take turns, episode by episode.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..errors import InputError
from .rlbench_session import Session, load_rlbench, task_class
from .rlbench_tasks import CAMERAS, check_cameras, resolve_tasks


try:
    import gymnasium
except ModuleNotFoundError as error:
    raise InputError(f"RLBench needs {error.name}; install it with: pip install 'hf-vpdd[rlbench]'") from None

IMAGE_SIZE = 128
MAX_STEPS = 25  # keyframes; PerAct's limit
ACTION_DIM = 8
STATE_DIM = 4
RESET_ATTEMPTS = 3
FPS = 20  # simulator steps a second: of the pictures between two keyframes


class RLBenchEnv(gymnasium.Env):
    """One task of RLBench.

    Observations are dictionaries: `images` {camera: uint8 (H, W, 3), or (T, H, W, 3) with a history}, `state` float32
    (4,) = [gripper_open, the two finger joints (m), 1] as VPDD's RLBench policy reads it, and `instruction` (str). An
    action is a keyframe, float (8,): [x, y, z (m, world), qx, qy, qz, qw, gripper_open]; the arm goes there by
    planning, then the gripper opens (> 0.5) or closes. Collisions are not avoided (pushing needs them).

    An episode terminates with success, when the task says that it can no longer succeed, or with a pose that cannot be
    reached: that is a failure, with the reason in `info["failure"]`, and never an exception. It is truncated after
    `max_steps` keyframes.

    Args:
        task: Name of a task, e.g. "close_jar".
        cameras: Of `ALL_CAMERAS`, or one name.
        image_size: Pixels per side.
        max_steps: Keyframes until truncation.
        history_frames: Pictures per camera and observation, oldest first. The arm moves through many simulator steps
            on its way to a keyframe, and demonstrations have a picture of each; so these are the newest simulator
            steps, not keyframes. At an episode's start there is one.
        history_stride: Simulator steps between two of them.
        headless: Without CoppeliaSim's window (an X server is needed all the same).

    Raises:
        InputError: Unknown camera, an image size that cannot be drawn, RLBench is not installed or lacks the task.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": FPS}
    render_mode = "rgb_array"
    keeps_history = True  # `images` come with it

    def __init__(
        self,
        task: str,
        cameras: Sequence[str] | str = CAMERAS,
        image_size: int | None = None,
        max_steps: int | None = None,
        history_frames: int = 1,
        history_stride: int = 1,
        headless: bool = True,
    ) -> None:
        (self.task,) = resolve_tasks([task])
        self.cameras = check_cameras(cameras)
        self.image_size = IMAGE_SIZE if image_size is None else image_size
        self.max_steps = MAX_STEPS if max_steps is None else max_steps
        if not (isinstance(self.image_size, int) and 8 <= self.image_size <= 1024):
            raise InputError(f"image_size must be a whole number from 8 to 1024, but is {self.image_size!r}")
        for name, value in (
            ("max_steps", self.max_steps),
            ("history_frames", history_frames),
            ("history_stride", history_stride),
        ):
            if not (isinstance(value, int) and value >= 1):
                raise InputError(f"{name} must be a whole number of at least 1, but is {value!r}")
        self.history_frames, self.history_stride = history_frames, history_stride
        self.headless = headless
        self.rlbench = load_rlbench()
        self.task_class = task_class(self.task)

        lead = (history_frames,) if history_frames > 1 else ()
        picture = gymnasium.spaces.Box(0, 255, (*lead, self.image_size, self.image_size, 3), np.uint8)
        self.observation_space = gymnasium.spaces.Dict(
            {
                "images": gymnasium.spaces.Dict({name: picture for name in self.cameras}),
                "state": gymnasium.spaces.Box(-np.inf, np.inf, (STATE_DIM,), np.float32),
                "instruction": gymnasium.spaces.Text(1000, min_length=1, charset=_PRINTABLE),
            }
        )
        far, one = [2.0] * 3, [1.0] * 4  # metres, parts of a quaternion
        self.action_space = gymnasium.spaces.Box(
            np.array([*(-x for x in far), *(-x for x in one), 0.0], np.float32),
            np.array([*far, *one, 1.0], np.float32),
        )

        self._session: Session | None = None
        self._scene: Any = None  # RLBench's TaskEnvironment while an episode is under way
        self._random: tuple | None = None  # state of NumPy's global generator within this episode
        self._seen: Any = None  # RLBench's newest observation
        self._trail: deque[dict[str, np.ndarray]] = deque(maxlen=(history_frames - 1) * history_stride + 1)
        self._way: list[dict[str, np.ndarray]] | None = None  # every picture on the way, while filming
        self._steps = self._ticks = 0
        self._over = False
        self.instruction = ""
        self.variation = 0

    # -- episodes ----------------------------------------------------------------------------------------------------

    def reset(self, *, seed: int | None = None, options: dict | None = None, render: bool = True):
        """Starts an episode.

        RLBench draws from NumPy's global generator. It is seeded here, for the simulator alone: the state that the
        rest of the program sees is put back. So the same (task, variation, seed) draws the same scene. But RLBench
        asks a motion planner with a generator of its own whether a scene can be solved and draws again if not; an
        unlucky plan can make another scene of the same seed.

        Args:
            seed: Of the scene, of the variation and of the sentence's wording. A random one is drawn, and reported in
                `info["seed"]`, if not given.
            options: {"variation": int} chooses one; by default the seed does. {"demo": Demo} puts the scene of a
                stored demonstration of RLBench back instead (`TaskEnvironment.reset_to_demo`); the seed then chooses
                the wording alone.
            render: Ignored: RLBench's observations have pictures in any case.

        Returns:
            (observation, info) with `info` {"success": False, "seed", "task", "variation", "descriptions"}.
        """
        if seed is None:
            seed = int(np.random.default_rng().integers(2**31))
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**32:
            raise InputError(f"seed must be a whole number from 0 to 2**32 - 1, but is {seed!r}")
        seed, options = int(seed), dict(options or {})
        super().reset(seed=seed)
        if self._session is None:
            self._session = Session.join(self)
        self._scene = scene = self._session.load(self)
        own = np.random.default_rng([seed, 0])
        demo, variation = options.get("demo"), options.get("variation")
        if demo is not None:
            variation = _variation_of(demo) if variation is None else variation
        count = int(scene.variation_count())
        if variation is None:
            variation = int(own.integers(count))
        if not 0 <= variation < count:
            raise InputError(f"{self.task} has the variations 0 to {count - 1}, not {variation}")
        scene.set_variation(int(variation))
        self._random = np.random.RandomState(seed).get_state()
        with self._simulator_random():
            descriptions, self._seen = self._place(scene) if demo is None else scene.reset_to_demo(demo)
        self._watch(scene)
        self.variation = int(variation)
        self.instruction = str(descriptions[int(own.integers(len(descriptions)))])
        self._steps = self._ticks = 0
        self._over = False
        self._trail.clear()
        self._trail.append(self._pictures())
        info = {"success": False, "seed": seed, "task": self.task, "variation": self.variation}
        return self._observe(), {**info, "descriptions": list(descriptions)}

    def step(self, action: np.ndarray, render: bool = True):
        """Moves the arm to a keyframe, then the gripper.

        Args:
            action: (8,) finite. The quaternion may have any length but 0.
            render: Ignored.

        Returns:
            (observation, reward, terminated, truncated, info); `info` {"success": bool, "failure": str or None}. After
            a failed motion the observation is the last one.

        Raises:
            InputError: The action has another shape, holds a NaN or no rotation; or the episode is over, was never
                begun, or lost the simulator to another environment of this process.
        """
        action = np.asarray(action, np.float64)
        if action.shape != (ACTION_DIM,):
            raise InputError(f"an action for {self.task} has the shape ({ACTION_DIM},), but this one {action.shape}")
        self._check_playing()
        if self._over:
            raise InputError(f"the episode of {self.task} is over; call reset()")
        length = np.linalg.norm(action[3:7])
        if not np.isfinite(action).all() or length < 1e-6:
            raise InputError(
                f"the action for step {self._steps} of {self.task} must be finite, with a quaternion other than 0: "
                f"{action.tolist()}"
            )
        # RLBench compares the quaternion's length with 1 to about 1e-5.
        command = np.concatenate([action[:3], action[3:7] / length, [float(action[7] > 0.5)]])
        if self.rlbench.fork:
            command = np.append(command, 1.0)  # the fork's ninth number: ignore collisions, as upstream does
        self._steps += 1
        reward, terminated, failure = 0.0, True, None
        ticks, gripper = self._ticks, self._seen.gripper_open
        try:
            with self._simulator_random():
                self._seen, reward, terminated = self._scene.step(command)
        except self.rlbench.failures as error:
            failure = f"{type(error).__name__}: {error}"
        else:
            # A gripper that moved has changed the picture since the motion's last one; else it is the same moment.
            if self._ticks == ticks or self._seen.gripper_open != gripper:
                self._record(self._pictures())
        success = reward >= 1.0
        if terminated and not success and failure is None:
            failure = "the task can no longer succeed"
        terminated = bool(terminated) or success
        truncated = self._steps >= self.max_steps
        self._over = terminated or truncated
        return self._observe(), float(reward), terminated, truncated, {"success": success, "failure": failure}

    def step_chunk(self, actions: np.ndarray, render: bool = True, collect_frames: bool = False):
        """Moves through several keyframes and stops when the episode ends.

        Args:
            actions: (n, 8), n >= 1.
            render: Ignored.
            collect_frames: Return a picture of every simulator step on the way (for videos).

        Returns:
            As `step`, with the rewards summed and in `info` also "steps" (how many actions ran), "states" float32
            (steps, 4) and, if collected, "frames" {camera: uint8 (N, H, W, 3)}.
        """
        actions = np.asarray(actions, np.float64)
        if actions.ndim != 2 or actions.shape[1] != ACTION_DIM or len(actions) == 0:
            raise InputError(
                f"a chunk of actions for {self.task} has the shape (n, {ACTION_DIM}) with n >= 1, but this one "
                f"{actions.shape}"
            )
        self._way = [] if collect_frames else None
        total, states = 0.0, []
        try:
            for action in actions:
                observation, reward, terminated, truncated, info = self.step(action)
                total += reward
                states.append(observation["state"])
                if self._over:
                    break
            info.update(steps=len(states), states=np.stack(states))
            if collect_frames:
                way = self._way or [self._pictures()]
                info["frames"] = {name: np.stack([pictures[name] for pictures in way]) for name in self.cameras}
        finally:
            self._way = None
        return observation, total, terminated, truncated, info

    # -- what there is to see ----------------------------------------------------------------------------------------

    @property
    def state(self) -> np.ndarray:
        """float32 (4,): gripper_open (0 or 1), the two finger joints (m), 1."""
        self._check_playing()
        joints = np.asarray(self._seen.gripper_joint_positions, np.float32)
        return np.array([self._seen.gripper_open, *joints, 1.0], np.float32)

    @property
    def steps(self) -> int:
        """Keyframes of this episode so far."""
        return self._steps

    @property
    def ticks(self) -> int:
        """Pictures of this episode so far beyond the first: one of each simulator step on the way if there is a
        history or a film, else one of each keyframe."""
        return self._ticks

    def render_images(self) -> dict[str, np.ndarray]:
        """What each camera sees now: {camera: uint8 (H, W, 3)}."""
        self._check_playing()
        return self._pictures()

    def render(self) -> np.ndarray:
        """What the first camera sees now, uint8 (H, W, 3)."""
        return self.render_images()[self.cameras[0]]

    def close(self) -> None:
        """Leaves CoppeliaSim, which the last one to leave shuts down. May be called twice."""
        if self._session is not None:
            self._session.leave(self)
            self._session = self._scene = None

    # -- inside ------------------------------------------------------------------------------------------------------

    def _place(self, scene) -> tuple:
        """RLBench's reset. It gives up after 40 scenes that could not be solved; then the next ones are tried."""
        for _ in range(RESET_ATTEMPTS - 1):
            try:
                return scene.reset()
            except self.rlbench.TaskEnvironmentError:
                continue
        return scene.reset()

    def _watch(self, scene) -> None:
        """Has every simulator step of a motion look through the cameras, if someone wants the pictures."""

        def look() -> None:
            if self._trail.maxlen > 1 or self._way is not None:
                self._record(self._pictures(scene.get_observation()))

        # There is no public way; PerAct's and RLBench's own environments reach for the same method.
        scene._scene.register_step_callback(look)

    def _record(self, pictures: dict[str, np.ndarray]) -> None:
        self._trail.append(pictures)
        self._ticks += 1
        if self._way is not None:
            self._way.append(pictures)

    def _pictures(self, seen: Any = None) -> dict[str, np.ndarray]:
        seen = self._seen if seen is None else seen
        return {name: np.ascontiguousarray(getattr(seen, f"{name}_rgb"), np.uint8) for name in self.cameras}

    def _observe(self) -> dict[str, Any]:
        images = self._trail[-1]
        if self.history_frames > 1:
            moments = list(self._trail)[:: -self.history_stride][::-1]
            images = {name: np.stack([one[name] for one in moments]) for name in self.cameras}
        return {"images": images, "state": self.state, "instruction": self.instruction}

    def _check_playing(self) -> None:
        if self._scene is None:
            raise InputError(f"call reset() of {self.task} before anything else")
        if self._session.playing is not self:
            raise InputError(
                f"the episode of {self.task} is gone: {self._session.playing.task} has taken the simulator, of which "
                "a process has one; call reset(), or use one process each"
            )

    @contextmanager
    def _simulator_random(self) -> Iterator[None]:
        """Lends NumPy's global generator to the simulator, with a state of its own."""
        outside = np.random.get_state()
        np.random.set_state(self._random)
        try:
            yield
        finally:
            self._random = np.random.get_state()
            np.random.set_state(outside)


def _variation_of(demo: Any) -> int | None:
    """The variation of a stored demonstration: PerAct's say it themselves, RLBench's in their observations."""
    if hasattr(demo, "variation_number"):
        return int(demo.variation_number)
    misc = getattr(demo[0], "misc", None) or {}
    return int(misc["variation_index"]) if "variation_index" in misc else None


_PRINTABLE = frozenset(map(chr, range(32, 127)))
