"""A small dataset: two tasks, a square that moves, a dot that stands still, elsewhere in each episode; a recipe."""

from pathlib import Path

import numpy as np

from hf_vpdd.data import LeRobotWriter


TASKS = ("press the button from above", "close the drawer")
SIZE = 32


def write_dataset(
    root: Path,
    episodes_per_task: int = 4,
    actions: bool = True,
    length: int = 18,
    cameras: tuple[str, ...] = ("corner2",),
    state: bool = True,
    fps: int = 80,
    tasks: list[str] = TASKS,
    size: int = SIZE,
) -> Path:
    """Every further camera sees the first one's picture turned by a quarter."""
    rng = np.random.default_rng(0)
    writer = LeRobotWriter(root, fps=fps, robot_type="sawyer")
    for episode in range(2 * episodes_per_task):
        task = episode % 2
        start, frames = int(rng.integers(2, 8)), np.full((length, SIZE, SIZE, 3), 70, np.uint8)
        frames[:, 26:29, 4 + 2 * episode : 7 + 2 * episode] = (20, 220, 40)  # stands still, elsewhere in each episode
        for t in range(length):
            frames[t, 8 + 8 * task : 15 + 8 * task, start + t // 2 : start + 7 + t // 2] = (220, 60 * task, 50)
        frames = frames.repeat(size // SIZE, axis=1).repeat(size // SIZE, axis=2)
        columns = {
            f"observation.images.{camera}": np.ascontiguousarray(np.rot90(frames, number, (1, 2)))
            for number, camera in enumerate(cameras)
        }
        joints = np.cumsum(rng.normal(size=(length, 4)), 0).astype(np.float32) * 0.01
        if state:
            columns["observation.state"] = joints
        if actions:
            columns["action"] = np.clip(rng.normal(scale=1 + episode, size=(length, 4)), -1, 1).astype(np.float32)
        writer.add_episode(columns, tasks[task])
    writer.finalize()
    return root


def experiment(data: Path, output_dir: Path) -> dict:
    """A recipe of all three stages that takes seconds."""
    return {
        "output_dir": str(output_dir),
        "data": {"root": [str(data)], "image_size": SIZE, "val_episodes_per_task": 1},
        "train": {
            "steps": 6, "batch_size": 8, "log_every": 3, "save_every": 3, "eval_every": 3, "eval_samples": 12,
            "ema_decay": 0.5, "mixed_precision": "bf16", "progress": False, "learning_rate": 2e-3,
        },
        "vqvae": {
            "model": {
                "variant": "conv_2d", "clip_frames": 1, "downsample": [1, 8, 8], "codebook_size": 32,
                "codebook_dim": 8, "hidden_size": 16, "num_res_layers": 1,
            },
        },
        "model": {
            "text_config": {
                "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
                "projection_dim": 16,
            },
            "trunk": "fused", "action_head": "cross_attention", "predict_ahead": 8, "chunk_size": 4,
            "num_action_bins": 9, "hidden_size": 32, "trunk_layers": 1, "trunk_heads": 2, "trunk_head_dim": 16,
            "trunk_ff_size": 32, "trunk_dropout": 0.1,
            "image_channels": 8, "head_hidden_size": 32, "head_layers": 1, "head_heads": 2,
            "head_ff_size": 32, "head_keypoints": 4, "replace_mass": 0.02, "truncation": None, "loss_type": "ce",
            "changed_token_weight": 5.0, "full_mask_fraction": 0.25,
        },
        "pretrain": {"paraphrase_prob": 0.5, "color_jitter": 0.2},
        "finetune": {"data": {"episodes_per_task": 1}, "trunk_lr_multiplier": 0.2, "state_noise": 0.02},
    }  # fmt: skip
