"""A network of the shipped kind, small enough that a test takes milliseconds."""

import torch

from hf_vpdd.modeling.vpdd import VPDDConfig


def small_config(**overrides) -> VPDDConfig:
    vqvae = {
        "variant": "conv_2d",
        "image_size": 16,
        "clip_frames": 1,
        "codebook_size": 12,
        "codebook_dim": 8,
        "hidden_size": 16,
        "num_res_layers": 1,
        "downsample": [1, 4, 4],
    }
    text = {
        "vocab_size": 64,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 16,
        "projection_dim": 16,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": 2,
    }
    sizes = {
        "num_action_bins": 7,
        "hidden_size": 16,
        "trunk_layers": 1,
        "trunk_heads": 2,
        "trunk_head_dim": 8,
        "trunk_ff_size": 32,
        "image_channels": 16,
        "head_hidden_size": 16,
        "head_layers": 1,
        "head_heads": 2,
        "head_ff_size": 32,
        "head_keypoints": 8,
        "chunk_size": 3,
        "head_dropout": 0.0,
    }
    return VPDDConfig.tiny(**{"vqvae_config": vqvae, "text_config": text, **sizes, **overrides})


def small_batch(config: VPDDConfig, batch: int = 2, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random inputs and labels for every argument of the policy's `forward`."""
    g = torch.Generator().manual_seed(seed)
    side, views = config.vqvae_config.image_size, config.num_views
    codes = (batch, views, *config.latent_shape)
    size = config.vqvae_config.codebook_size
    actions = torch.randint(config.num_action_bins, (batch, config.chunk_size, config.action_dim), generator=g)
    ids = torch.randint(3, 60, (batch, 6), generator=g)
    ids[:, -1] = 1
    return {
        "pixel_values": torch.rand(batch, views, config.history_frames, 3, side, side, generator=g) - 0.5,
        "history_codes": torch.randint(size, codes, generator=g),
        "video_codes": torch.randint(size, codes, generator=g),
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "state": torch.randn(batch, config.state_dim, generator=g),
        "actions": actions if config.action_objective == "diffusion" else actions / 3.0 - 1.0,
        "actions_is_pad": torch.zeros(batch, config.chunk_size, dtype=torch.bool),
    }
