"""Attention and pre-norm blocks that the small trunk and the small action head share."""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


def eager_attention_forward(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
    """Explicit softmax attention. About twice as fast to train as SDPA in bfloat16 on a CPU."""
    weights = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = F.softmax(weights, dim=-1)
    weights = F.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


class MultiHeadAttention(nn.Module):
    """Self-attention, or cross-attention to a context whose `keys_values` are given."""

    is_causal = False

    def __init__(self, config, size: int, heads: int, dropout: float = 0.0):
        super().__init__()
        self.config = config
        self.head_dim = size // heads
        self.scaling = self.head_dim**-0.5
        self.dropout = dropout
        self.q_proj = nn.Linear(size, size)
        self.k_proj = nn.Linear(size, size)
        self.v_proj = nn.Linear(size, size)
        self.o_proj = nn.Linear(size, size)

    def _split(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.view(*tensor.shape[:2], -1, self.head_dim).transpose(1, 2)

    def keys_values(self, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, M, D) -> keys and values, each (B, heads, M, head size)."""
        return self._split(self.k_proj(context)), self._split(self.v_proj(context))

    def forward(
        self, hidden: torch.Tensor, keys_values: tuple[torch.Tensor, torch.Tensor] | None = None
    ) -> torch.Tensor:
        """hidden (B, L, D), `keys_values` of a context -> (B, L, D)."""
        keys, values = self.keys_values(hidden) if keys_values is None else keys_values
        attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        output, _ = attend(
            self,
            self._split(self.q_proj(hidden)),
            keys,
            values,
            None,
            scaling=self.scaling,
            dropout=self.dropout if self.training else 0.0,
        )
        return self.o_proj(output.reshape(*hidden.shape))


class TransformerBlock(GradientCheckpointingLayer):
    """Pre-norm: self-attention, optional cross-attention, feed-forward."""

    # Methods besides `forward` that read weights: where blocks are gathered one by one (FSDP2), for them too.
    weight_methods = ("keys_values",)

    def __init__(self, config, size: int, heads: int, ff_size: int, dropout: float, cross: bool = False):
        super().__init__()
        self.self_norm = nn.LayerNorm(size)
        self.self_attn = MultiHeadAttention(config, size, heads, dropout)
        if cross:
            self.cross_norm = nn.LayerNorm(size)
            self.cross_attn = MultiHeadAttention(config, size, heads, dropout)
        self.ff_norm = nn.LayerNorm(size)
        self.fc1 = nn.Linear(size, ff_size)
        self.fc2 = nn.Linear(ff_size, size)
        self.dropout = nn.Dropout(dropout)
        self.cross = cross

    def keys_values(self, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What `forward` wants of a context (B, M, D); see [`MultiHeadAttention.keys_values`]."""
        return self.cross_attn.keys_values(context)

    def forward(
        self, hidden: torch.Tensor, keys_values: tuple[torch.Tensor, torch.Tensor] | None = None
    ) -> torch.Tensor:
        """`keys_values`: of the context, where there is cross-attention."""
        hidden = hidden + self.dropout(self.self_attn(self.self_norm(hidden)))
        if self.cross:
            hidden = hidden + self.dropout(self.cross_attn(self.cross_norm(hidden), keys_values))
        return hidden + self.dropout(self.fc2(F.gelu(self.fc1(self.ff_norm(hidden)))))


class TimestepEmbedding(nn.Module):
    """Diffusion time t in 0..T-1 -> (B, size): sinusoids of t, then a two-layer perceptron."""

    def __init__(self, size: int):
        super().__init__()
        self.half = size // 2
        self.mlp = nn.Sequential(nn.Linear(2 * self.half, size), nn.SiLU(), nn.Linear(size, size))

    def forward(self, timesteps: torch.Tensor) -> torch.Tensor:
        steps = torch.arange(self.half, device=timesteps.device, dtype=torch.float32)
        angles = timesteps.float()[:, None] * torch.exp(-steps * (9.210340371976184 / max(1, self.half - 1)))
        waves = torch.cat((angles.sin(), angles.cos()), dim=-1)
        return self.mlp(waves.to(self.mlp[0].weight.dtype))
