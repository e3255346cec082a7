"""A random GR-1 with a matching processor, episodes for it, and the controller it is compared with."""

import numpy as np
import torch

from hf_vpdd.modeling.gr1 import GR1ForRobotPolicy
from hf_vpdd.modeling.gr1.processing_gr1 import GR1Processor
from hf_vpdd.modeling.vpdd.instruction_tokenizer import train_tokenizer
from tests.modeling.small_gr1 import small_gr1
from tests.pipelines.tiny_policy import SENTENCES, TEXT


CAMERAS = ("rgb_static", "rgb_gripper")


def tiny_gr1_policy(seed: int = 0, history_stride: int = 1, execute=None, **overrides):
    """(model, processor) of the official kind, random weights that depend on the seed alone."""
    torch.manual_seed(seed)
    config = small_gr1(text_config=TEXT, **overrides)
    processor = GR1Processor(
        tokenizer=train_tokenizer(SENTENCES, 300), image_size=config.pixel_size, max_instruction_length=20,
        cameras=CAMERAS[: config.num_views], history_frames=config.history_frames, history_stride=history_stride,
        chunk_size=config.chunk_size, execute=execute, state_dim=config.state_dim,
    )  # fmt: skip
    return GR1ForRobotPolicy(config).eval(), processor


def gr1_episode(steps: int, seed: int = 0, cameras=CAMERAS, sentence: int = 0) -> list[dict]:
    """Observations of `steps` steps; the cameras' pictures differ in size, as CALVIN's do."""
    rng = np.random.default_rng(seed)
    state = rng.normal(size=(steps, 7)).astype(np.float32)
    state[:, 6] = rng.choice([-1, 1], steps)
    return [
        {
            "images": {
                camera: rng.integers(0, 256, (side, side, 3), np.uint8) for camera, side in zip(cameras, (20, 14))
            },
            "state": state[step],
            "instruction": SENTENCES[sentence],
        }
        for step in range(steps)
    ]  # fmt: skip


@torch.no_grad()
def plain_actions(model, processor, episode: list[dict]) -> np.ndarray:
    """The released controller: at every step the whole window through the whole network. (steps, chunk, A) in network
    units, gripper as a probability."""
    actions = []
    for step in range(len(episode)):
        window = episode[: step + 1][:: -processor.history_stride][: processor.history_frames][::-1]
        inputs = processor(
            images={camera: [obs["images"][camera] for obs in window] for camera in processor.cameras},
            instruction=window[-1]["instruction"],
            state=np.stack([obs["state"] for obs in window]) if processor.state_dim else None,
        )
        output = model(**inputs)
        action = output.arm_actions[0, -1]
        if output.gripper_logits is not None:
            action = torch.cat((action, output.gripper_logits[0, -1].sigmoid()[..., None]), dim=-1)
        actions.append(action.numpy())
    return np.stack(actions)
