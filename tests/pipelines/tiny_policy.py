"""A random policy with a matching processor, and observations for it."""

import numpy as np
import torch

from hf_vpdd.modeling.vpdd import VPDDForRobotPolicy
from hf_vpdd.modeling.vpdd.processing_vpdd import VPDDProcessor, train_tokenizer
from tests.modeling.small import small_config


SENTENCES = ["press the button from above", "close the drawer", "open the window"]
TEXT = {
    "vocab_size": 300,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 24,
    "projection_dim": 16,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
}


def demonstrations(steps: int = 500) -> tuple[np.ndarray, np.ndarray]:
    """Actions like a clipped expert's, (N, 4): much mass at -1 and 1, a gripper with few values; and states (N, 4)."""
    rng = np.random.default_rng(0)
    actions = np.clip(rng.normal(0, 1, (steps, 4)), -1, 1)
    actions[:, 3] = rng.choice([-1.0, 0.1, 0.6, 1.0], steps)
    state = rng.normal([0.0, 0.6, 0.2, 1.0], [0.2, 0.1, 0.1, 0.3], (steps, 4))
    return actions.astype(np.float32), state.astype(np.float32)


def tiny_processor(**options) -> VPDDProcessor:
    actions, state = demonstrations()
    options = {"num_action_bins": 7, "image_size": 16, "chunk_size": 3, "max_instruction_length": 20, **options}
    return VPDDProcessor.from_dataset_stats(actions, state, train_tokenizer(SENTENCES, 300), **options)


def tiny_policy(seed: int = 0, history_frames: int = 1, objective: str = "diffusion", cameras=("corner2",)):
    """(model, processor), random weights that depend on the seed alone."""
    torch.manual_seed(seed)
    config = small_config(text_config=TEXT, action_objective=objective, num_views=len(cameras))
    if history_frames > 1:
        vqvae = {**config.vqvae_config.to_dict(), "clip_frames": history_frames}
        config = small_config(
            text_config=TEXT,
            action_objective=objective,
            num_views=len(cameras),
            history_frames=history_frames,
            vqvae_config=vqvae,
        )
    processor = tiny_processor(history_frames=history_frames, action_objective=objective, cameras=cameras)
    return VPDDForRobotPolicy(config).eval(), processor


def observation(seed: int = 0, cameras=("corner2",), size: int = 24) -> dict:
    rng = np.random.default_rng(seed)
    return {
        "images": {camera: rng.integers(0, 256, (size, size, 3), dtype=np.uint8) for camera in cameras},
        "state": rng.normal(size=4).astype(np.float32),
        "instruction": SENTENCES[seed % len(SENTENCES)],
    }
