"""The small tokenizer: 2-D convolutions, each frame encoded by itself."""

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer


def _groups(channels: int) -> int:
    return max(g for g in (8, 4, 2, 1) if channels % g == 0)


class ResidualBlock2d(GradientCheckpointingLayer):
    def __init__(self, channels: int):
        super().__init__()
        self.norm1 = nn.GroupNorm(_groups(channels), channels)
        self.conv1 = nn.Conv2d(channels, channels // 2, 3, padding=1)
        self.norm2 = nn.GroupNorm(_groups(channels // 2), channels // 2)
        self.conv2 = nn.Conv2d(channels // 2, channels, 1)
        self.activation = nn.SiLU()

    def forward(self, hidden):
        residual = self.conv1(self.activation(self.norm1(hidden)))
        return hidden + self.conv2(self.activation(self.norm2(residual)))


def _stage_widths(config) -> list[int]:
    """Channels at each resolution, narrow where there are many pixels; one entry per halving."""
    halvings = config.downsample[1].bit_length() - 1
    return [max(16, config.hidden_size >> max(0, halvings - 1 - i)) for i in range(halvings)]


class FrameEncoder(nn.Module):
    """(B, 3, T, H, W) -> (B, hidden, T, h, w)."""

    def __init__(self, config):
        super().__init__()
        widths = _stage_widths(config)
        self.downs = nn.ModuleList(
            nn.Conv2d(i, o, 4, stride=2, padding=1) for i, o in zip([config.num_channels, *widths[:-1]], widths)
        )
        self.res_stack = nn.ModuleList(ResidualBlock2d(widths[-1]) for _ in range(config.num_res_layers))
        self.norm = nn.GroupNorm(_groups(widths[-1]), widths[-1])
        self.activation = nn.SiLU()

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        batch, channels, frames, height, width = video.shape
        hidden = video.transpose(1, 2).reshape(batch * frames, channels, height, width)
        for down in self.downs[:-1]:
            hidden = self.activation(down(hidden))
        hidden = self.downs[-1](hidden)
        for block in self.res_stack:
            hidden = block(hidden)
        hidden = self.activation(self.norm(hidden))
        return hidden.view(batch, frames, *hidden.shape[1:]).transpose(1, 2)


class FrameDecoder(nn.Module):
    """(B, hidden, T, h, w) -> (B, 3, T, H, W)."""

    def __init__(self, config):
        super().__init__()
        widths = _stage_widths(config)[::-1]
        self.res_stack = nn.ModuleList(ResidualBlock2d(widths[0]) for _ in range(config.num_res_layers))
        self.norm = nn.GroupNorm(_groups(widths[0]), widths[0])
        self.activation = nn.SiLU()
        self.ups = nn.ModuleList(
            nn.ConvTranspose2d(i, o, 4, stride=2, padding=1)
            for i, o in zip(widths, [*widths[1:], config.num_channels])
        )

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        batch, channels, frames, height, width = latents.shape
        hidden = latents.transpose(1, 2).reshape(batch * frames, channels, height, width)
        for block in self.res_stack:
            hidden = block(hidden)
        hidden = self.activation(self.norm(hidden))
        for up in self.ups[:-1]:
            hidden = self.activation(up(hidden))
        hidden = self.ups[-1](hidden)
        return hidden.view(batch, frames, *hidden.shape[1:]).transpose(1, 2)
