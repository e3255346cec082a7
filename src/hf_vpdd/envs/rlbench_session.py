"""The one CoppeliaSim of a process, and RLBench's classes, found or explained."""

import importlib
import inspect
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from ..errors import InputError
from . import rlbench_setup
from .rlbench_tasks import ALL_CAMERAS, FORK_TASKS, class_name, hint


class Session:
    """The CoppeliaSim of this process."""

    current: "Session | None" = None

    def __init__(self, env: Any) -> None:
        if problems := rlbench_setup.missing():
            found = "; ".join(f"{part.name}: {part.found}" for part in problems)
            raise InputError(f"CoppeliaSim cannot be started ({found}). `hf-vpdd doctor rlbench` tells what to do")
        rlbench = env.rlbench
        self.settings = (env.cameras, env.image_size, env.headless)
        self.members: list = []
        self.playing: Any = None
        self._task: Any = None
        mode = rlbench.MoveArmThenGripper(rlbench.EndEffectorPoseViaPlanning(), rlbench.Discrete())
        self._environment = rlbench.Environment(
            mode, obs_config=_observation_config(rlbench, env.cameras, env.image_size), headless=env.headless
        )
        self._environment.launch()

    @classmethod
    def join(cls, env: Any) -> "Session":
        """The running session, or a new one.

        Raises:
            InputError: One runs with other cameras or another image size; or CoppeliaSim cannot be started.
        """
        session = cls.current or cls(env)
        settings = (env.cameras, env.image_size, env.headless)
        if session.settings != settings:
            raise InputError(
                f"CoppeliaSim runs in this process with cameras, image size, headless = {session.settings}, not "
                f"{settings}: close the other environments first, or use another process"
            )
        cls.current = session
        session.members.append(env)
        return session

    def load(self, env: Any) -> Any:
        """RLBench's TaskEnvironment of this environment's task; whoever played before loses the simulator."""
        if self._task is None or self.playing.task != env.task:
            self._task = self._environment.get_task(env.task_class)
        self.playing = env
        return self._task

    def leave(self, env: Any) -> None:
        self.members.remove(env)
        if not self.members:
            self._environment.shutdown()
            type(self).current = None


def load_rlbench() -> SimpleNamespace:
    """The classes of RLBench and PyRep that are used here."""
    try:
        from pyrep.const import RenderMode
        from pyrep.errors import ConfigurationPathError, IKError
        from rlbench.action_modes.action_mode import MoveArmThenGripper
        from rlbench.action_modes.arm_action_modes import EndEffectorPoseViaPlanning
        from rlbench.action_modes.gripper_action_modes import Discrete
        from rlbench.backend.exceptions import InvalidActionError, TaskEnvironmentError
        from rlbench.environment import Environment
        from rlbench.observation_config import CameraConfig, ObservationConfig
    except ImportError as error:  # also a library of CoppeliaSim that does not load
        folder = rlbench_setup.package_folder("pyrep")
        if folder is not None and rlbench_setup.is_unrelated_pyrep(folder):
            raise InputError(
                "RLBench needs PyRep from its repository; the `pyrep` that is installed is PyPI's, an unrelated "
                "project: pip uninstall pyrep, then see `hf-vpdd doctor rlbench`"
            ) from error
        raise InputError(
            f"RLBench cannot be imported ({error}); `hf-vpdd doctor rlbench` explains how to install it"
        ) from error
    return SimpleNamespace(
        RenderMode=RenderMode,
        MoveArmThenGripper=MoveArmThenGripper,
        EndEffectorPoseViaPlanning=EndEffectorPoseViaPlanning,
        Discrete=Discrete,
        Environment=Environment,
        CameraConfig=CameraConfig,
        ObservationConfig=ObservationConfig,
        TaskEnvironmentError=TaskEnvironmentError,
        failures=(IKError, ConfigurationPathError, InvalidActionError),
        fork="ignore_collisions" in inspect.signature(EndEffectorPoseViaPlanning.action).parameters,
    )


def task_class(task: str) -> type:
    try:
        return getattr(importlib.import_module(f"rlbench.tasks.{task}"), class_name(task))
    except (ModuleNotFoundError, AttributeError) as error:
        where = "it is in PerAct's fork only, see `hf-vpdd doctor rlbench`" if task in FORK_TASKS else hint(task)
        raise InputError(f"the installed RLBench has no task '{task}'; {where or 'see its folder tasks/'}") from error


def _observation_config(rlbench: SimpleNamespace, cameras: Sequence[str], image_size: int):
    """Colour pictures of these cameras and the robot's own state; no depth, no masks, nothing of the other cameras."""

    def camera(used: bool):
        config = rlbench.CameraConfig(
            depth=False,
            point_cloud=False,
            mask=False,
            image_size=(image_size, image_size),
            render_mode=rlbench.RenderMode.OPENGL,  # as in PerAct's demonstrations; RLBench's default has shadows
        )
        if not used:
            config.set_all(False)
        return config

    return rlbench.ObservationConfig(
        **{f"{name}_camera": camera(name in cameras) for name in ALL_CAMERAS},
        joint_forces=False,
        gripper_joint_positions=True,
    )
