"""A table like CALVIN's in a few lines, and policies that act on all they are shown."""

from types import SimpleNamespace

import numpy as np

from hf_vpdd.envs.calvin import CalvinServerError
from hf_vpdd.evaluation.calvin_chains import TASKS
from hf_vpdd.evaluation.policies import Plan


class ToyCalvin:
    """What `CalvinEnv` promises: pictures show the state, a subtask is done once the hand has gone far enough since it
    began, how far depends on the task. Pictures come only when asked for."""

    def __init__(self, cameras=("static", "gripper"), die_in=()):
        self.cameras, self.die_in, self.closed, self.looked = cameras, list(die_in), False, 0

    def sentences(self):
        return {task: f"please {task.replace('_', ' ')}" for task in TASKS}

    def reset(self, seed=None, options=None):
        self.chain, self.scene = seed, options["scene_obs"].copy()
        self.robot = options["robot_obs"].copy()
        return self._observation(True), {}

    def begin_subtask(self, task, instruction):
        self.instruction, self.steps, self.gone = instruction, 0, 0.0
        self.far = 1.5 + 0.075 * TASKS.index(task)
        return self._observation(True)

    def step(self, action, render=True):
        assert action.shape == (7,) and action.dtype == np.float32 and abs(action[6]) == 1
        if self.chain in self.die_in:
            self.die_in.remove(self.chain)
            raise CalvinServerError("the toy died")
        self.steps += 1
        self.robot[:6] += 0.02 * action[:6]
        self.robot[14] = action[6]
        self.gone += abs(float(action[0]))
        self.scene[6] += 0.01 * action[1]
        success = self.gone > self.far
        info = {"success": success, "robot_obs": self.robot.copy(), "scene_obs": self.scene.copy()}
        return self._observation(render), float(success), success, False, info

    def render_images(self):
        return self._observation(True)["images"]

    def close(self):
        self.closed = True

    def _observation(self, render):
        images = {}
        if render:
            self.looked += 1
            for camera, side in (("static", 20), ("gripper", 14)):
                if camera in self.cameras:
                    picture = np.full((side, side, 3), 40, np.uint8)
                    picture[:, : side // 2] = int(1000 * abs(self.robot[0] + self.scene[11])) % 251
                    images[camera] = picture
        return {"images": images, "state": self.robot.astype(np.float32), "instruction": self.instruction_or_none}

    @property
    def instruction_or_none(self):
        return getattr(self, "instruction", None)


class Seer:
    """Plans from pictures, states, sentence and its own draws: a mixed-up robot changes what it does."""

    def __init__(self, chunk=2, cameras=("rgb_static", "rgb_gripper"), history_frames=1, state_dim=7, stop_at=None):
        self.processor = SimpleNamespace(
            cameras=cameras, image_size=24, chunk_size=chunk, execute=None, history_frames=history_frames,
            history_stride=1, state_history=history_frames > 1, state_dim=state_dim, action_dim=7,
        )  # fmt: skip
        self.chunk, self.seen, self.forgotten, self.stop_at = chunk, [], [], stop_at

    def predict(self, observations, return_video=False, generator=None):
        self.seen += observations
        if self.stop_at is not None and len(self.seen) > self.stop_at:
            raise KeyboardInterrupt
        return Plan(np.stack([self._act(obs, draw) for obs, draw in zip(observations, generator)]))

    def forget(self, owners):
        self.forgotten += owners

    def _act(self, obs, draw):
        import torch

        features = [float(np.asarray(image, np.float64).mean()) for image in obs["images"].values()]
        features += [float(np.asarray(obs["state"], np.float64).sum()), len(obs["instruction"])]
        wave = np.sin(np.outer(np.arange(1, self.chunk + 1), np.arange(7) + sum(features)))
        return (0.5 * wave + 0.1 * torch.randn(self.chunk, 7, generator=draw).numpy()).astype(np.float32)
