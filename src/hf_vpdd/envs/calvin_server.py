"""The other end of `envs.calvin`: runs in CALVIN's own Python, holds one simulated table and answers requests.

    PYTHON calvin_server.py SOCKET_NUMBER PARENT_PROCESS

`envs.calvin_process` starts it so, by its path, with one end of a socket pair inherited. It needs Python 3.8 or newer,
NumPy and what calvin_env needs; it must not import hf_vpdd, which is not installed there.

Requests ("do") and what comes back, always one frame for one frame; {"error": text, "kind": class} if it failed:

    start   settings                            -> {cameras, tasks, sentences, versions, ...}; the first request
    reset   {seed?} + arrays robot_obs, scene_obs (both or neither) -> observation
    begin   {task}                              -> {}; the oracle measures from the present state on
    step    {render} + array action (7,)        -> observation, {solved: names}
    look    {}                                  -> observation
"""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
import threading
import time
import traceback
from pathlib import Path

import numpy as np


HERE = Path(__file__).resolve().parent
ANNOTATIONS = "calvin_models/conf/annotations/new_playtable_validation.yaml"
TRAINING_ANNOTATIONS = "calvin_models/conf/annotations/new_playtable.yaml"
ORACLE = "calvin_models/conf/callbacks/rollout/tasks/new_playtable_tasks.yaml"


class BadInput(Exception):
    """What the user gave is wrong, in the user's words."""


def main(arguments: list[str]) -> None:
    descriptor, parent = int(arguments[0]), int(arguments[1])
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    # The folder of a script is searched first for modules; ours has names that others may want ("tasks", "renderer").
    sys.path[:] = [entry for entry in sys.path if not entry or Path(entry).resolve() != HERE]
    wire = _load("calvin_wire", HERE / "calvin_wire.py")
    serve(socket.socket(fileno=descriptor), wire)


def serve(connection, wire) -> None:
    """Answers requests until the other side is gone."""
    table = None
    while True:
        try:
            request, arrays = wire.receive(connection)
        except wire.WireError:
            return
        try:
            what = request.pop("do", None)
            if what == "start" and table is None:
                table = Table(**request)
                answer = table.description, {}
            elif table is None or what not in ("reset", "begin", "step", "look"):
                raise BadInput(f"there is no request {what!r} now")
            else:
                answer = getattr(table, what)(**request, **arrays)
        except BaseException as error:  # also SystemExit, with which calvin_env ends when EGL fails
            if isinstance(error, KeyboardInterrupt):
                return
            traceback.print_exc()
            reason = str(error) or "no reason given"
            answer = {"error": reason, "kind": type(error).__name__}, {}
        wire.send(connection, *answer)


class Table:
    """CALVIN's robot, table and oracle.

    Args:
        root: A checkout of mees/calvin with its submodule calvin_env.
        cameras: Names in the simulator's configuration.
        renderer: "tiny" (PyBullet's own, slow to look at but everywhere the same) or "egl" (OpenGL).
        dataset: A folder of CALVIN's data whose `validation/.hydra/merged_config.yaml` describes the world, or that
            holds `.hydra/merged_config.yaml` itself; None takes calvin_env's own configuration of `scene`.
        scene: "A" .. "D", without a dataset.
        stale: Keep what the official evaluation leaves over between resets.
    """

    def __init__(self, root, cameras, renderer, dataset=None, scene="D", stale=False):
        self.root, self.renderer, self.stale = Path(root), renderer, stale
        os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")  # a machine without git need not complain
        if (self.root / "calvin_env" / "calvin_env").is_dir():
            sys.path.insert(0, str(self.root / "calvin_env"))
        import hydra
        import pybullet
        from calvin_env.envs import play_table_env
        from omegaconf import OmegaConf

        self.yaml = OmegaConf.load
        play_table_env.get_git_commit_hash = lambda path: "not asked"  # it fails outside of a git checkout
        config = self._of_dataset(Path(dataset)) if dataset else self._of_scene(Path(play_table_env.__file__), scene)
        unknown = [name for name in cameras if name not in config.cameras]
        if unknown:
            raise BadInput(f"this world has no camera '{unknown[0]}'; it has {', '.join(config.cameras)}")
        config.cameras = {name: config.cameras[name] for name in cameras}
        config.env.use_egl = renderer == "egl"
        oracle = self.yaml(self._file(ORACLE))
        sentences = self.yaml(self._file(ANNOTATIONS))
        self.oracle = hydra.utils.instantiate(oracle)
        start = time.monotonic()
        self.env = hydra.utils.instantiate(config.env, show_gui=False, use_vr=False, use_scene_info=True)
        made = time.monotonic() - start
        # With OpenGL the first picture of a process differs from later ones of the same scene; nobody is to see it.
        self.env.get_camera_obs()
        self.worlds, self.task, self.since = 0, None, None
        self.images = {}
        self.description = {
            "cameras": {name: [int(config.cameras[name].height), int(config.cameras[name].width)] for name in cameras},
            "tasks": list(self.oracle.tasks),
            "sentences": {str(task): str(said[0]) for task, said in sentences.items()},
            "training_sentences": {
                str(task): [str(one) for one in said]
                for task, said in self.yaml(self._file(TRAINING_ANNOTATIONS)).items()
            },
            "config": OmegaConf.to_yaml(config),
            "versions": {
                "python": sys.version.split()[0],
                "numpy": np.__version__,
                "pybullet_api": int(pybullet.getAPIVersion()),
                "pybullet": _version("pybullet"),
            },
            "seconds": made,
        }

    # -- requests ----------------------------------------------------------------------------------------------------

    def reset(self, seed=None, robot_obs=None, scene_obs=None):
        env = self.env
        if seed is not None:
            env.seed(seed)
            env.scene.np_random = env.np_random
        if not self.stale:
            # A new world: calvin_env's own reset leaves contacts, joint speeds and the last gripper command of the
            # episode before, so that what happens next would depend on it.
            env.load()
            env.robot.gripper_action = 1
        if seed is not None:
            for one in env.scene.movable_objects:
                one.np_random = env.np_random
        if robot_obs is not None and not self.stale:
            env.robot.gripper_action = 1 if robot_obs[14] > 0 else -1
        env.reset(robot_obs=robot_obs, scene_obs=scene_obs)
        self.worlds += 1
        self.begin(None)
        return self._observation()

    def begin(self, task):
        if task is not None and task not in self.oracle.tasks:
            raise BadInput(f"CALVIN has no task '{task}'; it has {', '.join(self.oracle.tasks)}")
        self.task, self.since = task, self.env.get_info()
        return {}, {}

    def step(self, action, render=True):
        # As the official evaluation: single precision, a gripper command above 0 opens, nothing is clipped.
        action = np.asarray(action, np.float32).copy()
        action[6] = 1.0 if action[6] > 0 else -1.0
        cameras = self.env.cameras
        if not render:
            self.env.cameras = []
        try:
            _, _, _, info = self._step(action)
        finally:
            self.env.cameras = cameras
        solved = self.oracle.get_task_info(self.since, info)
        message, arrays = self._observation(render)
        message["solved"] = sorted(solved)
        return message, arrays

    def look(self):
        return self._observation()

    # -- inside ------------------------------------------------------------------------------------------------------

    def _step(self, action):
        """`env.step`, of whose pictures `_observation` makes use instead of drawing them again."""
        observation, reward, done, info = self.env.step(action)
        self.images = observation["rgb_obs"]
        return observation, reward, done, info

    def _observation(self, render=True):
        state = self.env.get_state_obs()
        arrays = {
            "robot_obs": np.asarray(state["robot_obs"], np.float64),
            "scene_obs": np.asarray(state["scene_obs"], np.float64),
            "target": np.array([*self.env.robot.target_pos, *self.env.robot.target_orn], np.float64),
        }
        if render:
            images = self.images or self.env.get_camera_obs()[0]
            arrays.update({name: np.ascontiguousarray(image, np.uint8) for name, image in images.items()})
        self.images = {}
        return {"worlds": self.worlds}, arrays

    def _file(self, inside):
        path = self.root / inside
        if not path.is_file():
            raise BadInput(f"{path} is missing: {self.root} is no checkout of github.com/mees/calvin")
        return path

    def _of_dataset(self, folder):
        for path in (
            folder / "validation" / ".hydra" / "merged_config.yaml",
            folder / ".hydra" / "merged_config.yaml",
        ):
            if path.is_file():
                return self.yaml(path)
        raise BadInput(f"{folder} has no validation/.hydra/merged_config.yaml: it is no folder of CALVIN's data")

    def _of_scene(self, module, scene):
        """What hydra would compose of calvin_env's files for data collection, with the two cameras of the data."""
        from omegaconf import OmegaConf

        conf = module.parents[2] / "conf"
        if not conf.is_dir():
            raise BadInput(f"{conf} is missing: calvin_env must come from a checkout, with its conf and data folders")
        robot = OmegaConf.merge(
            self.yaml(conf / "robot" / "panda.yaml"), self.yaml(conf / "robot" / "panda_longer_finger.yaml")
        )
        robot.pop("defaults")
        return OmegaConf.create(
            {
                "data_path": "data",
                "use_vr": False,
                "cameras": {
                    name: self.yaml(conf / "cameras" / "cameras" / (name + ".yaml")) for name in ("static", "gripper")
                },
                "scene": self.yaml(conf / "scene" / ("calvin_scene_" + scene + ".yaml")),
                "robot": robot,
                "env": self.yaml(conf / "env" / "play_table_env.yaml"),
            }
        )


def _version(name: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "unknown"


def _load(name: str, path: Path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _end_with(parent: int) -> None:
    """Ends this process when the one that started it is gone, also while the simulator is busy or was never asked.

    The closed socket says so too, but not if a child of the parent inherited the other end.
    """
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
