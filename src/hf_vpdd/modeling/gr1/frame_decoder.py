"""Future frames: the decoder, and patches <-> pixels (spec §1.4, items 10 and 11)."""

import torch
from torch import nn
from transformers import initialization as init

from ..vpdd.attention import TransformerBlock
from .configuration_gr1 import GR1Config


def patchify(frames: torch.Tensor, patch_size: int) -> torch.Tensor:
    """(..., C, H, W) -> (..., patches, patch_size * patch_size * C): patches row by row, channels last within one."""
    frames = frames.unflatten(-1, (-1, patch_size)).unflatten(-3, (-1, patch_size))  # ..., C, rows, p, columns, p
    return frames.movedim(-5, -1).transpose(-4, -3).flatten(-3).flatten(-3, -2)


def unpatchify(patches: torch.Tensor, patch_size: int, channels: int = 3) -> torch.Tensor:
    """The inverse of `patchify`, for square frames."""
    rows = round(patches.shape[-2] ** 0.5)
    patches = patches.unflatten(-1, (patch_size, patch_size, channels)).unflatten(-4, (rows, rows))
    return patches.movedim(-1, -5).transpose(-3, -2).flatten(-2).flatten(-3, -2)


def patch_statistics(patches: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and scale of every patch (..., 1). As officially: unbiased variance, and the small number outside the
    root (MAE has it inside)."""
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    return mean, variance.sqrt() + 1e-6


def sincos_positions(size: int, rows: int) -> torch.Tensor:
    """(rows * rows, size), float32: MAE's fixed table. First half of the channels column, second half row; each half
    [sin, cos] of the coordinate times 10000^(-k / (size / 4))."""
    quarter = size // 4
    frequency = 10000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    angles = torch.arange(rows, dtype=torch.float64)[:, None] * frequency
    waves = torch.cat((angles.sin(), angles.cos()), dim=-1)
    column, row = waves.repeat(rows, 1), waves.repeat_interleave(rows, dim=0)
    return torch.cat((column, row), dim=-1).float()


class FrameDecoder(nn.Module):
    """The trunk's [OBS] states -> patches of the frame `predict_ahead` steps later. One decoder for all cameras."""

    def __init__(self, config: GR1Config):
        super().__init__()
        size = config.hidden_size
        self.rows = config.vision_config.image_size // config.vision_config.patch_size
        self.embed = nn.Linear(size, size)
        self.mask_token = nn.Parameter(torch.empty(size))
        self.register_buffer("position_embed", torch.empty(self.rows**2, size))
        self.layers = nn.ModuleList(
            TransformerBlock(config, size, config.decoder_heads, config.decoder_ff_size, dropout=0.0)
            for _ in range(config.decoder_layers)
        )
        self.norm = nn.LayerNorm(size)
        self.out = nn.Linear(size, config.patch_pixels)

    @torch.no_grad()
    def init_own_parameters(self) -> None:
        init.zeros_(self.mask_token)
        init.copy_(self.position_embed, sincos_positions(self.position_embed.shape[1], self.rows))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """[OBS] states (..., tokens, size) -> patches (..., patches, numbers of a patch)."""
        tokens = self.embed(hidden.flatten(0, -3))
        asked = self.mask_token + self.position_embed.to(tokens.dtype)
        tokens = torch.cat((tokens, asked.expand(len(tokens), -1, -1)), dim=1)
        for layer in self.layers:
            tokens = layer(tokens)
        patches = self.out(self.norm(tokens[:, -len(asked) :]))
        return patches.unflatten(0, hidden.shape[:-2])
