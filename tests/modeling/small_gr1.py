"""A GR-1 so small that a test takes milliseconds."""

import torch

from hf_vpdd.modeling.gr1 import GR1Config


def small_gr1(**overrides) -> GR1Config:
    """The official kind (two cameras, binary gripper, frozen towers) unless overridden, without dropout."""
    sizes = {
        "vision_config": {
            "image_size": 16,
            "patch_size": 8,
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 16,
            "layer_norm_eps": 1e-6,
        },
        "text_config": {
            "vocab_size": 64,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "max_position_embeddings": 16,
            "projection_dim": 8,
            "pad_token_id": 0,
            "eos_token_id": 1,
            "bos_token_id": 2,
        },
        "history_frames": 5,
        "predict_ahead": 2,
        "hidden_size": 16,
        "trunk_layers": 2,
        "trunk_heads": 2,
        "trunk_ff_size": 32,
        "trunk_dropout": 0.0,
        "embed_dropout": 0.0,
        "num_latents": 2,
        "resampler_layers": 1,
        "resampler_heads": 2,
        "resampler_head_dim": 4,
        "resampler_ff_size": 16,
        "decoder_layers": 1,
        "decoder_heads": 2,
        "decoder_ff_size": 16,
        "initializer_range": 0.3,  # of the trunk: at 0.02 it would pass its input on, and tokens hardly mix
    }
    return GR1Config(**{**sizes, **overrides})


def small_window(config: GR1Config, batch: int = 2, steps: int = 5, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random inputs and labels for every argument of the policy's `forward`."""
    g = torch.Generator().manual_seed(seed)
    side = config.pixel_size
    ids = torch.randint(3, 60, (batch, 6), generator=g)
    ids[:, -1] = config.text_config.eos_token_id
    window = {
        "pixel_values": torch.randn(batch, config.num_views, steps, 3, side, side, generator=g),
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "step_mask": torch.ones(batch, steps, dtype=torch.bool),
        "actions": torch.randn(batch, steps, config.chunk_size, config.action_dim, generator=g),
    }
    if config.binary_gripper_action:
        window["actions"][..., -1] = (window["actions"][..., -1] > 0).float()
    if config.state_dim:
        state = torch.randn(batch, steps, config.state_dim, generator=g)
        if config.binary_gripper_state:
            state[..., -1] = (state[..., -1] > 0).float()
        window["state"] = state
    return window
