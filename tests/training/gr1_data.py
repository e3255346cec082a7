"""A recipe of GR-1's stages that takes seconds, on the small dataset."""

from pathlib import Path

from .small_data import SIZE


CAMERAS = ["corner2", "wrist"]


def gr1_experiment(data: Path, output_dir: Path) -> dict:
    return {
        "family": "gr1",
        "output_dir": str(output_dir),
        "data": {"root": [str(data)], "image_size": SIZE, "val_episodes_per_task": 1, "camera": CAMERAS},
        "train": {
            "steps": 2, "batch_size": 4, "log_every": 1, "save_every": 0, "eval_every": 0, "eval_samples": 6,
            "ema_decay": 0.5, "progress": False, "tracker": "none", "learning_rate": 2e-3,
        },
        "model": {
            "vision_config": {
                "image_size": 16, "patch_size": 8, "hidden_size": 16, "num_hidden_layers": 1,
                "num_attention_heads": 2, "intermediate_size": 16,
            },
            "text_config": {
                "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                "projection_dim": 8,
            },
            "history_frames": 4, "hidden_size": 16, "trunk_layers": 2, "trunk_heads": 2, "trunk_ff_size": 32,
            "num_latents": 2, "resampler_layers": 1, "resampler_heads": 2, "resampler_head_dim": 4,
            "resampler_ff_size": 16, "decoder_layers": 1, "decoder_heads": 2, "decoder_ff_size": 16,
            "chunk_size": 3, "binary_gripper_state": False, "binary_gripper_action": False,
        },
        "gr1_pretrain": {"random_shift": 1},
        "gr1_finetune": {"predict_ahead": 2},
    }  # fmt: skip
