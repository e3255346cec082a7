"""Recipes of V-PTR's stages that take seconds, on the small dataset."""

from pathlib import Path

from .small_data import SIZE


TEXT = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "projection_dim": 16,
}  # fmt: skip


def vptr_experiment(data: Path, output_dir: Path) -> dict:
    return {
        "family": "vptr",
        "output_dir": str(output_dir),
        "data": {"root": [str(data)], "image_size": SIZE, "val_episodes_per_task": 1},
        "train": {
            "steps": 6, "batch_size": 8, "log_every": 2, "save_every": 3, "eval_every": 3, "eval_samples": 12,
            "progress": False, "tracker": "none", "learning_rate": 1e-3,
        },
        "model": {
            "encoder": "impala", "impala_widths": [4, 8], "impala_blocks": 1, "value_hidden_sizes": [16, 8],
            "latent_size": 16, "policy_hidden_sizes": [32, 32],
        },
        "value_pretrain": {"crop_padding": 2, "eval_clips": 2},
        "offline_rl": {"crop_padding": 2},
    }  # fmt: skip
