"""RLBench's names that the adapter uses, over a world of one point. See the README beside."""

import os
import sys
from types import ModuleType

import numpy as np
from pyrep.const import RenderMode
from pyrep.errors import ConfigurationPathError, IKError


__version__ = "1.2.0"

CALLS: list[tuple] = []  # what was called, in order
PATH_STEPS = 5  # simulator steps from one keyframe to the next
CAMERAS = ("left_shoulder", "right_shoulder", "overhead", "wrist", "front")
FORK = os.environ.get("RLBENCH_STANDIN_FORK") == "1"


class InvalidActionError(Exception):
    pass


class TaskEnvironmentError(Exception):
    pass


class CameraConfig:
    def __init__(
        self,
        rgb=True,
        rgb_noise=None,
        depth=True,
        depth_noise=None,
        point_cloud=True,
        mask=True,
        image_size=(128, 128),
        render_mode=RenderMode.OPENGL3,
        masks_as_one_channel=True,
        depth_in_meters=False,
    ):
        self.rgb, self.depth, self.point_cloud, self.mask = rgb, depth, point_cloud, mask
        self.image_size, self.render_mode = image_size, render_mode

    def set_all(self, value):
        self.rgb = self.depth = self.point_cloud = self.mask = value


class ObservationConfig:
    def __init__(
        self,
        left_shoulder_camera=None,
        right_shoulder_camera=None,
        overhead_camera=None,
        wrist_camera=None,
        front_camera=None,
        joint_velocities=True,
        joint_positions=True,
        joint_forces=True,
        gripper_open=True,
        gripper_pose=True,
        gripper_matrix=False,
        gripper_joint_positions=False,
        gripper_touch_forces=False,
        wrist_camera_matrix=False,
        record_gripper_closing=False,
        task_low_dim_state=False,
    ):
        vars(self).update({name: value for name, value in locals().items() if name != "self"})


class Observation:
    """Attributes as RLBench's; what was not configured is None."""

    def __init__(self, **values):
        for camera in CAMERAS:
            for kind in ("rgb", "depth", "mask", "point_cloud"):
                setattr(self, f"{camera}_{kind}", values.pop(f"{camera}_{kind}", None))
        for name in (
            "joint_velocities joint_positions joint_forces gripper_open gripper_pose gripper_matrix "
            "gripper_joint_positions gripper_touch_forces task_low_dim_state misc"
        ).split():
            setattr(self, name, values.pop(name, None))
        assert not values, values


class Demo:
    def __init__(self, observations, random_seed=None, num_reset_attempts=None):
        self._observations, self.random_seed, self.num_reset_attempts = observations, random_seed, num_reset_attempts

    def __getitem__(self, index):
        return self._observations[index]

    def restore_state(self):
        np.random.set_state(self.random_seed)


class Scene:
    """The arm, the target, and what can be seen of them."""

    def __init__(self, config):
        self.config, self._step_callback = config, None
        self.task, self.ticks, self.fail_next_resets = None, 0, 0

    def register_step_callback(self, func):
        self._step_callback = func

    def init_episode(self, variation):
        self.pose, self.gripper, self.ticks = np.array([0.2, 0.0, 1.2, 0.0, 1.0, 0.0, 0.0]), 1.0, 0
        self.target = np.random.uniform([0.1, -0.3, 0.8], [0.4, 0.3, 1.0])
        return self.task.init_episode(variation)

    def step(self):
        self.ticks += 1
        if self._step_callback is not None:
            self._step_callback()

    def get_observation(self):
        """Pictures: red counts the simulator steps, green says which camera, blue where the target is."""
        pictures = {}
        for index, camera in enumerate(CAMERAS):
            config = getattr(self.config, f"{camera}_camera")
            assert not (config.depth or config.mask or config.point_cloud), "nobody looks at these"
            if config.rgb:
                picture = np.zeros((*config.image_size, 3), np.uint8)
                picture[:] = self.ticks, index, int(255 * self.target[0])
                pictures[f"{camera}_rgb"] = picture
        finger = 0.04 * self.gripper
        return Observation(
            **pictures,
            joint_velocities=np.zeros(7),
            joint_positions=np.zeros(7),
            gripper_open=self.gripper,
            gripper_pose=self.pose.copy(),
            gripper_joint_positions=np.array([finger, finger]) if self.config.gripper_joint_positions else None,
            misc={"variation_index": self.task.variation},
        )


def _assert_shape(action, expected):
    if np.shape(action) != expected:
        raise InvalidActionError(f"Expected the action shape to be: {expected}, but was shape: {np.shape(action)}")


def _move(scene, action):
    _assert_shape(action, (7,))
    if not np.isclose(np.linalg.norm(action[3:]), 1.0):
        raise InvalidActionError("Action contained non unit quaternion!")
    if not (np.array([-0.4, -0.6, 0.6]) < action[:3]).all() or not (action[:3] < np.array([0.8, 0.6, 1.8])).all():
        raise InvalidActionError("A path could not be found because the target is outside of workspace.")
    if action[2] > 1.7:
        raise IKError("IK failed. Perhaps the distance was between the tip  and target was too large.")
    if action[2] > 1.6:
        raise ConfigurationPathError("Could not create path.")
    for _ in range(PATH_STEPS):
        scene.step()
    scene.pose = np.array(action, float)


class EndEffectorPoseViaPlanning:
    def __init__(self, absolute_mode=True, frame="world", collision_checking=False):
        assert absolute_mode and not collision_checking

    if FORK:

        def action(self, scene, action, ignore_collisions=True):
            assert ignore_collisions is True
            _move(scene, action)

    else:

        def action(self, scene, action):
            _move(scene, action)


class Discrete:
    def __init__(self, attach_grasped_objects=True, detach_before_open=True):
        pass

    def action(self, scene, action):
        _assert_shape(action, (1,))
        assert action[0] in (0.0, 1.0)
        scene.gripper = float(action[0] > 0.5)


class MoveArmThenGripper:
    def __init__(self, arm_action_mode, gripper_action_mode):
        self.arm_action_mode, self.gripper_action_mode = arm_action_mode, gripper_action_mode

    def action(self, scene, action):
        if FORK:
            assert len(action) == 9
            self.arm_action_mode.action(scene, np.array(action[:7]), bool(action[8:9]))
        else:
            self.arm_action_mode.action(scene, np.array(action[:7]))
        self.gripper_action_mode.action(scene, np.array(action[7:8] if FORK else action[7:]))


class TaskEnvironment:
    def __init__(self, scene, task, action_mode):
        self._scene, self._task, self._action_mode = scene, task, action_mode
        self._variation_number, self._reset_called = 0, False
        scene.task = task

    def variation_count(self):
        return self._task.variation_count()

    def set_variation(self, v):
        CALLS.append(("set_variation", v))
        if v >= self.variation_count():
            raise TaskEnvironmentError(f"Requested variation {v}, but there are only {self.variation_count()}.")
        self._variation_number = v

    def reset(self, demo=None):
        CALLS.append(("reset", self._variation_number))
        if self._scene.fail_next_resets:
            self._scene.fail_next_resets -= 1
            np.random.uniform(size=3)
            raise TaskEnvironmentError("Could not place the task in the scene.")
        descriptions = self._scene.init_episode(self._variation_number)
        self._reset_called = True
        return descriptions, self._scene.get_observation()

    def reset_to_demo(self, demo):
        demo.restore_state()
        self.set_variation(demo[0].misc["variation_index"])
        return self.reset(demo)

    def get_observation(self):
        return self._scene.get_observation()

    def step(self, action):
        CALLS.append(("step", np.array(action)))
        if not self._reset_called:
            raise RuntimeError("Call 'reset' before calling 'step' on a task.")
        self._action_mode.action(self._scene, action)
        success = np.linalg.norm(self._scene.pose[:3] - self._scene.target) < 0.05 and self._scene.gripper == 0
        fallen = self._scene.pose[2] < 0.65
        return self._scene.get_observation(), float(success), bool(success or fallen)


class Environment:
    running = False  # CoppeliaSim: one a process

    def __init__(self, action_mode, dataset_root="", obs_config=None, headless=False):
        self._action_mode, self._config, self._pyrep = action_mode, obs_config, None
        assert headless, "no window in tests"

    def launch(self):
        CALLS.append(("launch",))
        assert not Environment.running, "CoppeliaSim crashes if it is started twice"
        assert os.path.isdir(os.environ["COPPELIASIM_ROOT"]) and os.environ["DISPLAY"]
        Environment.running = True
        self._scene = Scene(self._config)

    def get_task(self, task_class):
        CALLS.append(("get_task", task_class.__name__))
        return TaskEnvironment(self._scene, task_class(), self._action_mode)

    def shutdown(self):
        CALLS.append(("shutdown",))
        Environment.running = False


class CloseJar:
    COLOURS = ("red", "maroon", "lime")

    def variation_count(self):
        return len(self.COLOURS)

    def init_episode(self, index):
        self.variation, colour = index, self.COLOURS[index]
        return [f"close the {colour} jar", f"screw on the {colour} jar lid", f"put the lid on the {colour} jar"]


class TurnTap:
    def variation_count(self):
        return np.int64(2)

    def init_episode(self, index):
        self.variation = index
        return [f"turn {('left', 'right')[index]} tap"]


def _module(name, **members):
    module = sys.modules[name] = ModuleType(name)
    vars(module).update(members)


_module("rlbench.action_modes")
_module("rlbench.action_modes.action_mode", MoveArmThenGripper=MoveArmThenGripper)
_module("rlbench.action_modes.arm_action_modes", EndEffectorPoseViaPlanning=EndEffectorPoseViaPlanning)
_module("rlbench.action_modes.gripper_action_modes", Discrete=Discrete)
_module("rlbench.backend")
_module("rlbench.backend.exceptions", InvalidActionError=InvalidActionError, TaskEnvironmentError=TaskEnvironmentError)
_module("rlbench.environment", Environment=Environment)
_module("rlbench.observation_config", CameraConfig=CameraConfig, ObservationConfig=ObservationConfig)
_module("rlbench.tasks")
_module("rlbench.tasks.close_jar", CloseJar=CloseJar)
_module("rlbench.tasks.turn_tap", TurnTap=TurnTap)
