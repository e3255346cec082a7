"""Perceiver resampler: the patches of an image -> a few tokens (spec §1.2). Shared by all cameras."""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ..vpdd.attention import eager_attention_forward
from .configuration_gr1 import GR1Config


class ResamplerAttention(nn.Module):
    """Latents ask patches and latents. Pre-norm, no biases, no residual; the inner width is heads x head_dim."""

    is_causal = False

    def __init__(self, config: GR1Config):
        super().__init__()
        self.config = config
        self.head_dim = config.resampler_head_dim
        self.scaling = self.head_dim**-0.5
        size, inner = config.vision_config.hidden_size, config.resampler_heads * config.resampler_head_dim
        self.patch_norm = nn.LayerNorm(size)
        self.latent_norm = nn.LayerNorm(size)
        self.q_proj = nn.Linear(size, inner, bias=False)
        self.kv_proj = nn.Linear(size, 2 * inner, bias=False)  # keys first
        self.o_proj = nn.Linear(inner, size, bias=False)

    def forward(self, latents: torch.Tensor, patches: torch.Tensor) -> torch.Tensor:
        """latents (N, L, D), patches (N, P, D) -> (N, L, D)."""
        latents = self.latent_norm(latents)
        key, value = self.kv_proj(torch.cat((self.patch_norm(patches), latents), dim=1)).chunk(2, dim=-1)

        def split(tensor):
            return tensor.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

        attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        output, _ = attend(self, split(self.q_proj(latents)), split(key), split(value), None, scaling=self.scaling)
        return self.o_proj(output.flatten(2))


class ResamplerLayer(GradientCheckpointingLayer):
    """Attention and feed-forward, each around a skip connection."""

    def __init__(self, config: GR1Config):
        super().__init__()
        size = config.vision_config.hidden_size
        self.attention = ResamplerAttention(config)
        self.ff_norm = nn.LayerNorm(size)
        self.fc1 = nn.Linear(size, config.resampler_ff_size, bias=False)
        self.fc2 = nn.Linear(config.resampler_ff_size, size, bias=False)

    def forward(self, latents: torch.Tensor, patches: torch.Tensor) -> torch.Tensor:
        latents = latents + self.attention(latents, patches)
        return latents + self.fc2(F.gelu(self.fc1(self.ff_norm(latents))))


class PerceiverResampler(nn.Module):
    """Patches (N, P, D) -> latents (N, num_latents, D)."""

    def __init__(self, config: GR1Config):
        super().__init__()
        size = config.vision_config.hidden_size
        self.latents = nn.Parameter(torch.empty(config.num_latents, size))
        self.media_embed = nn.Parameter(torch.empty(size))
        self.layers = nn.ModuleList(ResamplerLayer(config) for _ in range(config.resampler_layers))
        self.norm = nn.LayerNorm(size)

    @torch.no_grad()
    def init_own_parameters(self) -> None:
        init.normal_(self.latents)
        init.normal_(self.media_embed)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        patches = patches + self.media_embed
        latents = self.latents.expand(len(patches), -1, -1)
        for layer in self.layers:
            latents = layer(latents, patches)
        return self.norm(latents)
