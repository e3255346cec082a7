"""The official tokenizer body: 3-D convolutions and axial attention (VideoGPT, arXiv 2104.10157; VPDD spec §1.1).

No position enters anywhere, so the same weights encode clips of any length and size that `downsample` divides.
"""

from contextlib import contextmanager, nullcontext
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F
from transformers.modeling_layers import GradientCheckpointingLayer


class AxialAttention(nn.Module):
    """Multi-head attention along one axis; the other axes are batch."""

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(channels, channels, bias=False)
        self.k_proj = nn.Linear(channels, channels, bias=False)
        self.v_proj = nn.Linear(channels, channels, bias=False)
        self.o_proj = nn.Linear(channels, channels)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(..., length, C) -> (..., length, C)."""
        value = self.v_proj(hidden)
        if hidden.shape[-2] == 1 and not torch.is_grad_enabled():
            return self.o_proj(
                value
            )  # attention over one position is the identity; training keeps every weight in use
        rows = hidden.flatten(0, -3)

        def split(tensor):
            return tensor.reshape(len(rows), -1, self.heads, tensor.shape[-1] // self.heads).transpose(1, 2)

        output = F.scaled_dot_product_attention(split(self.q_proj(rows)), split(self.k_proj(rows)), split(value))
        return self.o_proj(output.transpose(1, 2).reshape(hidden.shape))


class AxialAttentionBlock(nn.Module):
    """Sum of independent attentions over width, height and time. (B, C, T, H, W) -> the same shape."""

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.attn_w = AxialAttention(channels, heads)
        self.attn_h = AxialAttention(channels, heads)
        self.attn_t = AxialAttention(channels, heads)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        hidden = hidden.movedim(1, -1)
        over_height = self.attn_h(hidden.transpose(2, 3)).transpose(2, 3)
        over_time = self.attn_t(hidden.transpose(1, 3)).transpose(1, 3)
        return (self.attn_w(hidden) + over_height + over_time).movedim(-1, 1)


class AttentionResidualBlock(GradientCheckpointingLayer):
    """Pre-activation bottleneck of two convolutions, then axial attention, around a skip connection.

    With gradient checkpointing the backward pass runs the block a second time; batch norm must not count that batch
    twice.
    """

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.norm1 = nn.BatchNorm3d(channels)
        self.conv1 = nn.Conv3d(channels, channels // 2, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm3d(channels // 2)
        self.conv2 = nn.Conv3d(channels // 2, channels, 1, bias=False)
        self.norm3 = nn.BatchNorm3d(channels)
        self.attention = AxialAttentionBlock(channels, heads)

    @property
    def _gradient_checkpointing_func(self):
        return partial(self._checkpoint, context_fn=lambda: (nullcontext(), self._statistics_kept()))

    @_gradient_checkpointing_func.setter
    def _gradient_checkpointing_func(self, function) -> None:
        self._checkpoint = function

    @contextmanager
    def _statistics_kept(self):
        norms = (self.norm1, self.norm2, self.norm3)
        before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
        for norm in norms:  # the same operations as in the first pass, with no weight
            norm.momentum, norm.num_batches_tracked = 0.0, None
        try:
            yield
        finally:
            for norm, (momentum, count) in zip(norms, before):
                norm.momentum, norm.num_batches_tracked = momentum, count

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        residual = self.conv1(F.relu(self.norm1(hidden)))
        residual = self.conv2(F.relu(self.norm2(residual)))
        return hidden + self.attention(F.relu(self.norm3(residual)))


def _stages(downsample) -> list[tuple[int, int, int]]:
    """Strides of each convolution: (4, 4, 4) -> two of (2, 2, 2); an axis that is done early goes on with 1."""
    halvings = [stride.bit_length() - 1 for stride in downsample]
    return [tuple(2 if stage < axis else 1 for axis in halvings) for stage in range(max(halvings))]


def _kernel(strides: tuple[int, ...]) -> dict:
    """Kernel 4 where an axis is halved (or doubled), 3 where it is kept; one pixel of padding fits both."""
    return {"kernel_size": tuple(4 if stride == 2 else 3 for stride in strides), "stride": strides, "padding": 1}


class AxialEncoder(nn.Module):
    """(B, 3, T, H, W) -> (B, hidden, t, h, w)."""

    def __init__(self, config):
        super().__init__()
        size, stages = config.hidden_size, _stages(config.downsample)
        widths = [config.num_channels, *[size] * len(stages)]
        self.convs = nn.ModuleList(nn.Conv3d(i, size, **_kernel(strides)) for i, strides in zip(widths, stages))
        self.conv_last = nn.Conv3d(widths[len(stages)], size, 3, padding=1)
        self.res_stack = nn.ModuleList(
            AttentionResidualBlock(size, config.num_attention_heads) for _ in range(config.num_res_layers)
        )
        self.norm = nn.BatchNorm3d(size)

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        hidden = video
        for conv in self.convs:
            hidden = F.relu(conv(hidden))
        hidden = self.conv_last(hidden)
        for block in self.res_stack:
            hidden = block(hidden)
        return F.relu(self.norm(hidden))


class AxialDecoder(nn.Module):
    """(B, hidden, t, h, w) -> (B, 3, T, H, W); no output activation."""

    def __init__(self, config):
        super().__init__()
        size, stages = config.hidden_size, _stages(config.downsample)[::-1]
        self.res_stack = nn.ModuleList(
            AttentionResidualBlock(size, config.num_attention_heads) for _ in range(config.num_res_layers)
        )
        self.norm = nn.BatchNorm3d(size)
        widths = [*[size] * (len(stages) - 1), config.num_channels]
        self.convts = nn.ModuleList(
            nn.ConvTranspose3d(size, o, **_kernel(strides)) for o, strides in zip(widths, stages)
        )

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        hidden = latents
        for block in self.res_stack:
            hidden = block(hidden)
        hidden = F.relu(self.norm(hidden))
        for convt in self.convts[:-1]:
            hidden = F.relu(convt(hidden))
        return self.convts[-1](hidden)
