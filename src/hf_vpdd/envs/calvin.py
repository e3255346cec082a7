"""CALVIN's table as a Gymnasium environment; the simulator runs in a process and a Python environment of its own.

    env = CalvinEnv(python="~/calvin_venv/bin/python", calvin_root="~/calvin")
    obs, info = env.reset(options={"robot_obs": robot_obs, "scene_obs": scene_obs})
    env.begin_subtask("open_drawer", env.sentences()["open_drawer"])
    obs, reward, terminated, truncated, info = env.step([0, 0, -1, 0, 0, 0, 1])   # relative pose, gripper
    obs["images"]["static"], obs["state"], obs["instruction"]      # uint8 (200, 200, 3), float32 (15,), str

`hf-vpdd doctor calvin` explains the installation; HF_VPDD_CALVIN_PYTHON and HF_VPDD_CALVIN_ROOT stand in for the two
arguments. Written against calvin_env at 797142c (its last commit) and run with it on Python 3.11.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from . import calvin_setup
from .calvin_process import SERVER, START_SECONDS, CalvinProcess, CalvinServerError


try:
    import gymnasium
except ModuleNotFoundError as error:
    raise InputError(f"CALVIN needs {error.name}; install it with: pip install 'hf-vpdd[calvin]'") from None

CAMERAS = ("static", "gripper")
RENDERERS = ("tiny", "egl")
SCENES = ("A", "B", "C", "D")
MAX_STEPS = 360  # a subtask's, in the official evaluation
STATE_DIM = 15
SCENE_DIM = 24
ACTION_DIM = 7
FPS = 30
# With OpenGL every new world leaks about 13 MB in PyBullet 3.2.7 (measured); so the process is renewed now and then.
WORLDS_OF_EGL = 40

__all__ = ["CAMERAS", "CalvinEnv", "CalvinServerError", "FPS", "MAX_STEPS", "RENDERERS"]


class CalvinEnv(gymnasium.Env):
    """CALVIN's robot at its table, with the benchmark's oracle.

    Observations are dictionaries: `images` {camera: uint8 (H, W, 3)}, in the data "static" 200 x 200 and "gripper"
    84 x 84; `state` float32 (15,) = tcp x y z (m), tcp euler x y z (rad), gripper width (m), seven joints (rad), last
    gripper command (-1 closed, 1 open); and `instruction` (str, or None outside of a subtask). An action is one of the
    data's `rel_actions`, float (7,): dx dy dz (1 = 2 cm), d(euler) (1 = 0.05 rad) of the *target* pose in the world's
    frame, and the gripper (> 0 opens, else closes); as in the official evaluation nothing is clipped. 30 steps are a
    second.

    Each `reset` makes a new world, so that what follows depends on the arguments of `reset` and the actions alone: two
    runs, in one process or in several, in whatever order, are equal bit for bit. calvin_env's own reset leaves
    contacts, joint speeds of the table and the last gripper command of the episode before; `keep_stale_gripper` takes
    that one, as the official evaluation does.

    The world goes on after a success or a truncation, until the next `reset`: chains of subtasks need it.

    Args:
        cameras: Of `CAMERAS`, in the order wanted. Each costs time: see `step`.
        renderer: "tiny", PyBullet's own software renderer, needs nothing. "egl" is what CALVIN's data and numbers were
            made with; without a GPU Mesa's llvmpipe does it. The two differ by about 20/255 on average, so take "egl"
            for a policy that was trained on CALVIN's data.
        python: Interpreter of CALVIN's environment; else HF_VPDD_CALVIN_PYTHON.
        calvin_root: Checkout of github.com/mees/calvin with submodules; else HF_VPDD_CALVIN_ROOT.
        dataset: Folder of CALVIN's data (task_X_Y); its validation/.hydra/merged_config.yaml then describes the world.
        keep_stale_gripper: See above.
        max_steps: Steps of a subtask until `truncated`.
        scene: "A", "B", "C" or "D", if there is no `dataset`. The benchmark is played in D.
        start_seconds, answer_seconds: How long the simulator may take to start, and for one answer.
        server: The script that the other Python runs.

    Raises:
        InputError: An unknown camera, renderer or scene; something is not installed, or refuses to start.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": FPS}
    render_mode = "rgb_array"

    def __init__(
        self,
        cameras: Sequence[str] | str = CAMERAS,
        renderer: str = "tiny",
        python: str | os.PathLike | None = None,
        calvin_root: str | os.PathLike | None = None,
        dataset: str | os.PathLike | None = None,
        keep_stale_gripper: bool = False,
        max_steps: int = MAX_STEPS,
        scene: str = "D",
        start_seconds: float = START_SECONDS,
        answer_seconds: float = 120.0,
        server: str | os.PathLike = SERVER,
    ) -> None:
        self.cameras = check_cameras(cameras)
        self.renderer = _one_of("renderer", renderer, RENDERERS)
        self.scene = _one_of("scene", scene, SCENES)
        if isinstance(max_steps, bool) or not isinstance(max_steps, int) or max_steps < 1:
            raise InputError(f"max_steps must be a whole number of at least 1, but is {max_steps!r}")
        self.max_steps, self.keep_stale_gripper = max_steps, keep_stale_gripper
        self.python = calvin_setup.find_python(python)
        self.calvin_root = calvin_setup.find_root(calvin_root)
        self.dataset = None if dataset is None else _folder(dataset)
        self._options = {"start_seconds": start_seconds, "answer_seconds": answer_seconds, "server": server}
        self._process: CalvinProcess | None = None
        self._start()

        shapes = {name: (*size, 3) for name, size in self._description["cameras"].items()}
        self.observation_space = gymnasium.spaces.Dict(
            {
                "images": gymnasium.spaces.Dict(
                    {name: gymnasium.spaces.Box(0, 255, shapes[name], np.uint8) for name in self.cameras}
                ),
                "state": gymnasium.spaces.Box(-np.inf, np.inf, (STATE_DIM,), np.float32),
            }
        )
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (ACTION_DIM,), np.float32)
        self._seen: dict[str, Any] | None = None
        self.task: str | None = None
        self.instruction: str | None = None
        self.steps = 0  # of the current subtask

    # -- what the benchmark knows ------------------------------------------------------------------------------------

    def tasks(self) -> tuple[str, ...]:
        """The oracle's 34 task names."""
        return tuple(self._description["tasks"])

    def sentences(self) -> dict[str, str]:
        """What the official evaluation says for each task."""
        return dict(self._description["sentences"])

    def training_sentences(self) -> dict[str, tuple[str, ...]]:
        """The sentences of CALVIN's training data for each task; none of them is in the evaluation."""
        return {task: tuple(said) for task, said in self._description["training_sentences"].items()}

    @property
    def config(self) -> str:
        """The world's configuration, YAML as in a data folder's .hydra/merged_config.yaml."""
        return self._description["config"]

    @property
    def versions(self) -> dict[str, Any]:
        """Of what runs on the other side: python, numpy, pybullet."""
        return dict(self._description["versions"])

    # -- episodes ----------------------------------------------------------------------------------------------------

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """A new world; no subtask is under way.

        Args:
            seed: Of the places of blocks that `options` do not give; drawn if there is none.
            options: {"robot_obs": (15,), "scene_obs": (24,)}, as in the data and for the official chains; both or
                neither. scene_obs: slider, drawer, button, switch (joints), lightbulb, led (0 or 1), then position
                (3) and euler angles (3) of the red, the blue and the pink block.

        Returns:
            (observation, info) with `info` as that of `step`, and "seed".

        Raises:
            InputError: Arrays of another shape, with a NaN, or lights that are neither on nor off.
            CalvinServerError: The simulator died in this call. (If it died before, this call has started a new one.)
        """
        arrays = _placement(dict(options or {}))
        if seed is None:
            seed = int(np.random.default_rng().integers(2**31))
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**32:
            raise InputError(f"seed must be a whole number from 0 to 2**32 - 1, but is {seed!r}")
        super().reset(seed=int(seed))
        worn = self.renderer == "egl" and self._worlds >= WORLDS_OF_EGL and not self.keep_stale_gripper
        if self._process is None or not self._process.alive or worn:
            self._start()
        self.task = self.instruction = self._seen = None
        self.steps = 0
        answer, found = self._process.ask("reset", arrays=arrays, seed=int(seed))
        self._worlds = int(answer["worlds"])
        self._observe(found)
        return self._observation(), {**self._info(), "seed": int(seed)}

    def begin_subtask(self, task: str, instruction: str) -> dict[str, Any]:
        """From here on the oracle compares with the present state, and observations say `instruction`.

        Returns:
            The present observation, with the new instruction.

        Raises:
            InputError: Unknown task, or there was no `reset`.
        """
        self._check_playing()
        if task not in self._description["tasks"]:
            raise InputError(f"CALVIN has no task '{task}'; it has {', '.join(self.tasks())}")
        if not isinstance(instruction, str) or not instruction:
            raise InputError(f"the instruction for {task} must be a sentence, but is {instruction!r}")
        self._ask("begin", task=task)
        self.task, self.instruction, self.steps = task, instruction, 0
        if not self._seen["images"]:
            self._observe(self._ask("look")[1])
        return self._observation()

    def step(self, action: np.ndarray, render: bool = True):
        """Moves on by 1/30 s.

        Args:
            action: (7,), finite; see the class.
            render: Put pictures into the observation; without, `images` is empty and a step is about ten times
                cheaper.

        Returns:
            (observation, reward, terminated, truncated, info): reward 1.0 and terminated with the subtask's success,
            truncated with `max_steps` since it began. `info` {"success": bool, "solved": names of all tasks that the
            oracle sees as done since the subtask began, "robot_obs" float64 (15,), "scene_obs" float64 (24,),
            "target" float64 (6,): the pose that the arm is sent to}.

        Raises:
            InputError: The action has another shape or a NaN, or there was no `reset`.
            CalvinServerError: The simulator died.
        """
        action = np.asarray(action)
        if action.shape != (ACTION_DIM,) or action.dtype.kind not in "fiu":
            raise InputError(
                f"an action for CALVIN is {ACTION_DIM} numbers, but this one has the shape {action.shape} and the "
                f"type {action.dtype}"
            )
        if not np.isfinite(action).all():
            raise InputError(f"the action for step {self.steps} is not finite: {action.tolist()}")
        self._check_playing()
        answer, found = self._ask("step", {"action": action.astype(np.float32)}, render=bool(render))
        self.steps += 1
        self._observe(found)
        info = self._info(tuple(answer["solved"]))
        truncated = not info["success"] and self.steps >= self.max_steps
        return self._observation(), float(info["success"]), info["success"], truncated, info

    # -- what there is to see ----------------------------------------------------------------------------------------

    @property
    def state(self) -> np.ndarray:
        """float32 (15,); see the class."""
        self._check_playing()
        return self._seen["robot_obs"].astype(np.float32)

    def render_images(self) -> dict[str, np.ndarray]:
        """What each camera sees now: {camera: uint8 (H, W, 3)}."""
        self._check_playing()
        if not self._seen["images"]:
            self._observe(self._ask("look")[1])
        return {name: self._seen["images"][name].copy() for name in self.cameras}

    def render(self) -> np.ndarray:
        """What the static camera sees now (the first camera, if there is no static one)."""
        return self.render_images()["static" if "static" in self.cameras else self.cameras[0]]

    @property
    def server_pid(self) -> int | None:
        """Process number of the simulator; None when it is not running."""
        return self._process.pid if self._process is not None else None

    def close(self) -> None:
        """Ends the simulator's process. May be called twice."""
        if self._process is not None:
            self._process.close()
            self._process = None
        self._seen = None

    # -- inside ------------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        if self._process is not None:
            self._process.close()
            self._process = None
        settings = {
            "root": str(self.calvin_root),
            "cameras": list(self.cameras),
            "renderer": self.renderer,
            "dataset": None if self.dataset is None else str(self.dataset),
            "scene": self.scene,
            "stale": bool(self.keep_stale_gripper),
        }
        self._process = CalvinProcess(self.python, settings, **self._options)
        self._description = self._process.description
        self._worlds = 0

    def _ask(self, what: str, arrays: dict | None = None, **message):
        try:
            return self._process.ask(what, arrays=arrays, **message)
        except CalvinServerError:
            self._seen = None  # the episode is gone with it
            raise

    def _observe(self, found: dict[str, np.ndarray]) -> None:
        self._seen = {
            **{name: found[name] for name in ("robot_obs", "scene_obs", "target")},
            "images": {name: found[f"rgb_{name}"] for name in self.cameras if f"rgb_{name}" in found},
        }

    def _observation(self) -> dict[str, Any]:
        return {"images": dict(self._seen["images"]), "state": self.state, "instruction": self.instruction}

    def _info(self, solved: tuple[str, ...] = ()) -> dict[str, Any]:
        seen = {name: self._seen[name] for name in ("robot_obs", "scene_obs", "target")}
        return {"success": self.task is not None and self.task in solved, "solved": solved, **seen}

    def _check_playing(self) -> None:
        if self._seen is None or self._process is None:
            raise InputError("call reset() of CALVIN's environment before anything else, and again after it died")


def check_cameras(cameras: Sequence[str] | str) -> tuple[str, ...]:
    """The camera names as a tuple.

    Raises:
        InputError: A name that CALVIN's data lack, or one given twice, or none.
    """
    names = (cameras,) if isinstance(cameras, str) else tuple(cameras)
    for name in names:
        if name not in CAMERAS:
            raise InputError(f"CALVIN has no camera '{name}'; the cameras are {', '.join(CAMERAS)}")
    if not names or len(set(names)) != len(names):
        raise InputError(f"name each camera once and at least one, not {list(names)}")
    return names


def _placement(options: dict) -> dict[str, np.ndarray]:
    unknown = sorted(set(options) - {"robot_obs", "scene_obs"})
    if unknown:
        raise InputError(f"reset of CALVIN knows the options robot_obs and scene_obs, not {unknown[0]}")
    if not options:
        return {}
    arrays = {}
    for name, size in (("robot_obs", STATE_DIM), ("scene_obs", SCENE_DIM)):
        if options.get(name) is None:
            raise InputError(f"reset of CALVIN needs robot_obs and scene_obs or neither; {name} is missing")
        array = np.asarray(options[name], np.float64)
        if array.shape != (size,):
            raise InputError(f"{name} must have the shape ({size},), but has {array.shape}")
        if not np.isfinite(array).all():
            raise InputError(f"{name} must be finite, but is {array.tolist()}")
        arrays[name] = array
    lights = arrays["scene_obs"][4:6]
    if not np.isin(lights, (0.0, 1.0)).all():
        raise InputError(f"scene_obs[4:6], the lights, must be 0 or 1, but are {lights.tolist()}")
    return arrays


def _one_of(name: str, value: str, known: Sequence[str]) -> str:
    if value not in known:
        raise InputError(f"CALVIN has no {name} '{value}'; there are {', '.join(known)}")
    return value


def _folder(path: str | os.PathLike) -> Path:
    folder = Path(path).expanduser().resolve()
    if not folder.is_dir():
        raise InputError(f"the folder of CALVIN's data, {folder}, does not exist")
    return folder
