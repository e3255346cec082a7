"""Meta-World's fifty tasks as a Gymnasium environment with pictures, a sentence and reproducible episodes.

    env = MetaWorldEnv("drawer-close", cameras=("corner2",), image_size=96)
    obs, info = env.reset(seed=100000)       # the same start and goal in every process and order
    obs, reward, terminated, truncated, info = env.step(action)
    obs["images"]["corner2"], obs["state"], obs["instruction"]             # uint8 (96, 96, 3), float32 (4,), str

Three protocols say how pictures are made and how long an episode is:

    lean          ours: no shadows, mirrors or multisampling (5 instead of 84 ms a picture); corner2 sees VPDD's crop
    vpdd          the paper's evaluation: stock rendering at 480, turned, cropped [110:370], resized; 200 steps
    lerobot-mt50  LeRobot's: corner2 moved closer, stock rendering at 480x480, both axes flipped; 500 steps

Numbers under `lean` are not comparable with numbers under the other two.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import InputError
from .gl import configure_gl
from .protocols import ACTION_DIM, FPS, PROTOCOLS, STATE_DIM, UPSIDE_DOWN, VPDD_CROP_FOVY, check_cameras
from .tasks import task_info


try:
    import gymnasium
except ModuleNotFoundError as error:
    raise InputError(f"Meta-World needs {error.name}; install it with: pip install 'hf-vpdd[metaworld]'") from None

# What a perturbation or an episode may change in a model; put back at every reset so that episodes cannot leak.
_MODEL_FIELDS = (
    "body_pos body_quat geom_pos geom_size geom_rgba site_pos site_quat site_rgba cam_pos cam_quat cam_fovy "
    "light_pos light_dir light_diffuse light_ambient light_specular geom_matid mat_rgba mat_reflectance"
).split()


class MetaWorldEnv(gymnasium.Env):
    """One task of Meta-World.

    Observations are dictionaries: `images` {camera: uint8 (H, W, 3)}, `state` float32 (4,) (end effector x, y, z in
    metres, gripper opening 0..1) and `instruction` (str). Actions are float32 (4,) in [-1, 1]. An episode never
    terminates; it is truncated after `max_steps`. `info["success"]` is momentary: score an episode by whether it was
    ever true.

    Args:
        task: Task name, with or without "-v3".
        cameras: Names of cameras (see `protocols.CAMERAS`), or one name.
        image_size: Pixels per side; the protocol's own size if not given.
        protocol: "lean", "vpdd" or "lerobot-mt50".
        max_steps: Steps until truncation; the protocol's own number if not given.
        perturbation: A name of `perturbations.PERTURBATIONS`: changes what is seen, never the physics, the same way
            for the same (task, seed).
        instruction: Sentence to put into observations instead of the canonical one.
        camera: Same as `cameras` for a single one.

    Raises:
        InputError: Unknown task, camera, protocol or perturbation; an image size that cannot be drawn.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": FPS}
    render_mode = "rgb_array"

    def __init__(
        self,
        task: str,
        cameras: Sequence[str] | str = ("corner2",),
        image_size: int | None = None,
        protocol: str = "lean",
        max_steps: int | None = None,
        perturbation: str | None = None,
        instruction: str | None = None,
        camera: str | None = None,
    ) -> None:
        info = task_info(task)
        if protocol not in PROTOCOLS:
            raise InputError(f"there is no protocol '{protocol}'; the protocols are {', '.join(PROTOCOLS)}")
        self.task, self.protocol = info.name, protocol
        self.instruction = info.instruction if instruction is None else instruction
        if not isinstance(self.instruction, str) or not self.instruction.strip():
            raise InputError(
                f"instruction must be a sentence, but is {instruction!r}; leave it out for the task's own"
            )
        self._rules = PROTOCOLS[protocol]
        self.cameras = check_cameras(camera or cameras)
        self.image_size = self._rules.image_size if image_size is None else image_size
        self.max_steps = self._rules.max_steps if max_steps is None else max_steps
        if not (isinstance(self.image_size, int) and 8 <= self.image_size <= 1024):
            raise InputError(f"image_size must be a whole number from 8 to 1024, but is {self.image_size!r}")
        if not (isinstance(self.max_steps, int) and self.max_steps >= 1):
            raise InputError(f"max_steps must be a whole number of at least 1, but is {self.max_steps!r}")

        size = self.image_size
        self.observation_space = gymnasium.spaces.Dict(
            {
                "images": gymnasium.spaces.Dict(
                    {name: gymnasium.spaces.Box(0, 255, (size, size, 3), np.uint8) for name in self.cameras}
                ),
                "state": gymnasium.spaces.Box(-np.inf, np.inf, (STATE_DIM,), np.float32),
                "instruction": gymnasium.spaces.Text(1000, min_length=1, charset=_PRINTABLE | set(self.instruction)),
            }
        )
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (ACTION_DIM,), np.float32)

        configure_gl()
        self._perturbation = None
        if perturbation is not None:
            from .perturbations import get_perturbation

            self._perturbation = get_perturbation(perturbation)
            self._perturbation.check(self.task, self.cameras)
        self.perturbation = perturbation
        self._sim = self._build()
        self._expert = None
        self._renderer = None
        self._raw_obs: np.ndarray | None = None  # privileged: holds positions of objects and goal
        self._steps = 0

    # -- episodes ----------------------------------------------------------------------------------------------------

    def reset(self, *, seed: int | None = None, options: dict | None = None, render: bool = True):
        """Starts an episode.

        Args:
            seed: Fixes start and goal (and the perturbation): the same (task, seed) is the same episode in any process
                and after any other episodes. A random one is drawn, and reported in `info["seed"]`, if not given.
            options: Ignored (Gymnasium's interface).
            render: Put pictures into the observation.

        Returns:
            (observation, info) with `info` {"success": False, "seed": int, "task": str}.
        """
        if seed is None:
            seed = int(np.random.default_rng().integers(2**31))
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
            raise InputError(f"seed must be a whole number of at least 0, but is {seed!r}")
        seed, sim = int(seed), self._sim
        super().reset(seed=seed)
        self._restore_model()
        # Meta-World ignores reset(seed=...). `seeded_rand_vec` makes it draw start and goal from the generator that
        # `seed` sets. It also runs its reset twice and only clears the physics in between: clear it before, too.
        import mujoco

        mujoco.mj_resetData(sim.model, sim.data)
        sim.seed(seed)
        self._raw_obs, _ = sim.reset()
        self._expert = None
        self._steps = 0
        if self._perturbation is not None:
            self._perturbation.apply(sim.model, sim.data, self.task, self.cameras, seed)
        if self._rules.lean:
            # Some tasks move their goal marker after the last update of positions: the first stock picture shows the
            # marker of the draw before. This updates what is drawn and no state of the physics.
            mujoco.mj_kinematics(sim.model, sim.data)
            mujoco.mj_camlight(sim.model, sim.data)
        return self._observe(render), {"success": False, "seed": seed, "task": self.task}

    def step(self, action: np.ndarray, render: bool = True):
        """Runs one control step (0.0125 s).

        Args:
            action: (4,) finite; values outside [-1, 1] are clipped, as the simulator does.
            render: Put pictures into the observation. Without them a step is about 20 times cheaper.

        Returns:
            (observation, reward, terminated, truncated, info); `terminated` is always False.

        Raises:
            InputError: The action has another shape or holds a NaN, or the episode is over or was never begun.
        """
        action = np.asarray(action, np.float32)
        if action.shape != (ACTION_DIM,):
            raise InputError(f"an action for {self.task} has the shape ({ACTION_DIM},), but this one {action.shape}")
        reward, info = self._advance(action)
        return self._observe(render), reward, False, self._steps >= self.max_steps, info

    def step_chunk(self, actions: np.ndarray, render: bool = True, collect_frames: bool = False):
        """Runs several actions, stops at the first success or at the step limit, and renders once, at the end.

        Args:
            actions: (n, 4), n >= 1.
            render: Put pictures of the last state into the observation.
            collect_frames: Render after every step and return all pictures (for videos).

        Returns:
            As `step`, with the rewards summed and in `info` also "steps" (how many actions ran), "states" float32
            (steps, 4) and, if collected, "frames" {camera: uint8 (steps, H, W, 3)}.
        """
        actions = np.asarray(actions, np.float32)
        if actions.ndim != 2 or actions.shape[1] != ACTION_DIM or len(actions) == 0:
            raise InputError(
                f"a chunk of actions for {self.task} has the shape (n, {ACTION_DIM}) with n >= 1, but this one "
                f"{actions.shape}"
            )
        total, frames, states = 0.0, [], []
        for action in actions:
            reward, info = self._advance(action)
            total += reward
            states.append(self.state)
            if collect_frames:
                frames.append(self.render_images())
            if info["success"] or self._steps >= self.max_steps:
                break
        obs = self._observe(render and not collect_frames)
        info.update(steps=len(states), states=np.stack(states))
        if collect_frames:
            obs["images"] = frames[-1]
            info["frames"] = {name: np.stack([frame[name] for frame in frames]) for name in self.cameras}
        return obs, total, False, self._steps >= self.max_steps, info

    # -- what there is to see ----------------------------------------------------------------------------------------

    @property
    def state(self) -> np.ndarray:
        """float32 (4,): end effector x, y, z (m), gripper opening (0 closed .. 1 open)."""
        self._check_begun()
        return self._raw_obs[:STATE_DIM].astype(np.float32)

    @property
    def steps(self) -> int:
        """Steps taken in this episode."""
        return self._steps

    def render_images(self) -> dict[str, np.ndarray]:
        """What each camera sees now: {camera: uint8 (H, W, 3)}, upright, contiguous."""
        self._check_begun()
        if self._renderer is None:
            self._renderer = self._make_renderer()
        return {name: self._picture(name) for name in self.cameras}

    def render(self) -> np.ndarray:
        """What the first camera sees now, uint8 (H, W, 3)."""
        return self.render_images()[self.cameras[0]]

    def expert_action(self) -> np.ndarray:
        """What Meta-World's scripted policy does in this state, float32 (4,) clipped to [-1, 1].

        It looks at the simulator's own positions of objects and goal, which observations do not contain.
        """
        self._check_begun()
        if self._expert is None:  # a new one for every episode: some could keep a memory
            from metaworld.policies import ENV_POLICY_MAP

            self._expert = ENV_POLICY_MAP[self.task]()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "Constant(s) may be too high": that is what the clipping is for
            action = self._expert.get_action(self._raw_obs)
        return np.clip(np.asarray(action, np.float32), -1.0, 1.0)

    def close(self) -> None:
        """Frees the GL context. May be called twice."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    # -- inside ------------------------------------------------------------------------------------------------------

    def _build(self):
        """Meta-World's environment object, set to draw from a seed and to show the goal to the expert."""
        try:
            from metaworld.env_dict import ALL_V3_ENVIRONMENTS
        except ModuleNotFoundError as error:
            # `packaging` is one of them: gymnasium's MuJoCo part imports it and does not require it
            hint = "install it with: pip install 'hf-vpdd[metaworld]'"
            raise InputError(f"Meta-World needs {error.name}; {hint}") from None

        sim_class = ALL_V3_ENVIRONMENTS[self.task]
        if self._perturbation is not None and self._perturbation.edits_model:
            sim_class = self._perturbation.edited(sim_class)
        sim = sim_class()
        sim._partially_observable = False
        # Cached with the goal's bounds at zero: every step would clip the goal away.
        sim.__dict__.pop("sawyer_observation_space", None)
        sim.observation_space = sim.sawyer_observation_space
        sim._freeze_rand_vec = False
        sim.seeded_rand_vec = True
        sim._set_task_called = True
        sim.max_path_length = max(sim.max_path_length, self.max_steps)

        model, rules = sim.model, self._rules
        if rules.lean:
            model.vis.quality.offsamples = 0
            model.vis.quality.shadowsize = 0
            model.mat_reflectance[:] = 0
            model.cam_fovy[model.camera("corner2").id] = VPDD_CROP_FOVY
        for name, position in rules.camera_positions:
            model.cam_pos[model.camera(name).id] = position
        size = rules.render_size or self.image_size * rules.supersample
        model.vis.global_.offwidth = model.vis.global_.offheight = size
        self._pristine = {field: np.array(getattr(model, field)) for field in _MODEL_FIELDS}
        head = model.vis.headlight
        self._pristine_headlight = [np.array(light) for light in (head.ambient, head.diffuse, head.specular)]
        return sim

    def _restore_model(self) -> None:
        model = self._sim.model
        for field, value in self._pristine.items():
            getattr(model, field)[:] = value
        head = model.vis.headlight
        for light, value in zip((head.ambient, head.diffuse, head.specular), self._pristine_headlight):
            light[:] = value

    def _check_begun(self) -> None:
        if self._raw_obs is None:
            raise InputError(f"call reset() of {self.task} before anything else")

    def _advance(self, action: np.ndarray) -> tuple[float, dict[str, Any]]:
        self._check_begun()
        if self._steps >= self.max_steps:
            raise InputError(f"the episode of {self.task} is over after {self.max_steps} steps; call reset()")
        if not np.isfinite(action).all():
            raise InputError(f"the action for step {self._steps} of {self.task} is not finite: {action.tolist()}")
        self._raw_obs, reward, _, _, info = self._sim.step(np.clip(action, -1.0, 1.0))
        self._steps += 1
        info["success"] = bool(info["success"] > 0)
        return float(reward), info

    def _observe(self, render: bool) -> dict[str, Any]:
        images = self.render_images() if render else {}
        return {"images": images, "state": self.state, "instruction": self.instruction}

    def _make_renderer(self):
        from .renderer import OffscreenRenderer

        size = self._rules.render_size or self.image_size * self._rules.supersample
        return OffscreenRenderer(self._sim.model, self._sim.data, size, size)

    def _picture(self, camera: str) -> np.ndarray:
        rows = self._renderer.draw(self._sim.model.camera(camera).id)
        # OpenGL's first row is the lowest. For a camera that hangs upside-down, turning by 180 degrees on top of that
        # leaves only the columns to swap.
        picture = rows[:, ::-1] if camera in UPSIDE_DOWN else rows[::-1]
        if self._rules.crop is not None:
            low, high = self._rules.crop
            picture = picture[low:high, low:high]
        factor, rest = divmod(picture.shape[0], self.image_size)
        return box_mean(picture, factor) if rest == 0 else resize_bilinear(picture, self.image_size)


def expert_action(env: MetaWorldEnv) -> np.ndarray:
    """Same as `env.expert_action()`."""
    return env.expert_action()


def box_mean(picture: np.ndarray, factor: int) -> np.ndarray:
    """uint8 (H, W, 3) averaged over blocks of factor x factor pixels, rounded; contiguous."""
    if factor == 1:
        return np.ascontiguousarray(picture)
    kind = np.uint16 if factor <= 16 else np.uint32  # 16 x 16 x 255 is what 16 bits can hold
    total = np.full((picture.shape[0] // factor, picture.shape[1] // factor, 3), factor * factor // 2, kind)
    for row in range(factor):
        for column in range(factor):
            total += picture[row::factor, column::factor]
    return (total // (factor * factor)).astype(np.uint8)


def resize_bilinear(picture: np.ndarray, size: int) -> np.ndarray:
    """uint8 (H, H, 3) to (size, size, 3) as VPDD does it: bilinear, no antialiasing, corners not aligned."""
    if picture.shape[0] == size:
        return np.ascontiguousarray(picture)
    position = np.clip((np.arange(size) + 0.5) * (picture.shape[0] / size) - 0.5, 0, picture.shape[0] - 1)
    low = np.floor(position).astype(np.intp)
    high = np.minimum(low + 1, picture.shape[0] - 1)
    weight = (position - low).astype(np.float32)
    rows = picture[low] * (1 - weight)[:, None, None] + picture[high] * weight[:, None, None]
    mixed = rows[:, low] * (1 - weight)[None, :, None] + rows[:, high] * weight[None, :, None]
    return np.rint(mixed).astype(np.uint8)


_PRINTABLE = frozenset(map(chr, range(32, 127)))
