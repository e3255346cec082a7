"""Small policies for the tests of evaluation: plain NumPy, the same interface as `RobotPolicy`."""

from types import SimpleNamespace

import numpy as np

from hf_vpdd.evaluation.policies import Plan


class Watcher:
    """Acts on all that it sees: picture, state and sentence. So a wrong picture, a mixed-up seat or a wrong history
    changes its actions, and with them the episode's reward."""

    def __init__(self, chunk: int = 4, history_frames: int = 1, history_stride: int = 1, fail_at: int | None = None):
        self.execute = chunk
        self.processor = SimpleNamespace(
            cameras=("corner2",),
            image_size=24,
            chunk_size=chunk,
            execute=None,
            history_frames=history_frames,
            history_stride=history_stride,
        )
        self.batches: list[int] = []
        self.observations: list[dict] = []
        self.fail_at = fail_at

    def predict(self, observations, return_video=False):
        self.batches.append(len(observations))
        self.observations += observations
        if self.fail_at is not None and len(self.batches) > self.fail_at:
            raise KeyboardInterrupt
        return Plan(np.stack([self.act(observation) for observation in observations]))

    def act(self, observation) -> np.ndarray:
        picture = observation["images"]["corner2"].astype(np.float64)
        features = [
            picture.mean(),
            picture[..., :12, :].mean(),
            picture[..., 0].mean(),
            observation["state"].sum() * 100,
        ]
        features[0] += len(observation["instruction"])
        chunk = np.sin(np.outer(np.arange(1, self.execute + 1), features))
        return chunk.astype(np.float32)


class Dreamer(Watcher):
    """A watcher that returns an imagined picture: plain grey, lighter from plan to plan of an episode."""

    model = SimpleNamespace(config=SimpleNamespace(action_objective="diffusion", predict_ahead=8))

    def predict(self, observations, return_video=False):
        plan = super().predict(observations)
        if return_video:
            plan.video = np.full((len(observations), 1, 24, 24, 3), 10 * len(self.batches), np.uint8)
        return plan
