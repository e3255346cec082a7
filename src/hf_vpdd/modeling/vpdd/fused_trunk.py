"""The small trunk: every future token is fused with the current frame's feature at the same place."""

import torch
from torch import nn

from .attention import TimestepEmbedding, TransformerBlock
from .conditioning import embed_time
from .configuration_vpdd import VPDDConfig


class GridImageEncoder(nn.Module):
    """Raw newest frame (N, 3, H, W) -> features on the code grid (N, h*w, hidden).

    The codebook loses what is smaller than a token; this keeps it (a target dot of two pixels, a gripper's opening).
    """

    def __init__(self, config: VPDDConfig):
        super().__init__()
        width, stride = config.image_channels, config.vqvae_config.downsample[1]
        halvings = stride.bit_length() - 1
        widths = [max(8, width >> max(0, halvings - 1 - i)) for i in range(halvings)]
        self.convs = nn.ModuleList(
            nn.Conv2d(i, o, 4, stride=2, padding=1)
            for i, o in zip([config.vqvae_config.num_channels, *widths[:-1]], widths)
        )
        self.norms = nn.ModuleList(nn.GroupNorm(min(8, o), o) for o in widths)
        self.proj = nn.Conv2d(widths[-1], config.hidden_size, 3, padding=1)
        self.activation = nn.SiLU()

    def forward(self, frame: torch.Tensor) -> torch.Tensor:
        hidden = frame
        for conv, norm in zip(self.convs, self.norms):
            hidden = self.activation(norm(conv(hidden)))
        return self.proj(hidden).flatten(2).transpose(1, 2)


class FusedTrunk(nn.Module):
    """p_theta1 in a small body. All shapes have N = batch x views rows.

    `encode_context` holds what does not change during a plan (instruction, current frame); `forward` is run once per
    denoising step.
    """

    def __init__(self, config: VPDDConfig):
        super().__init__()
        time, height, width = config.latent_shape
        size, codes = config.hidden_size, config.vqvae_config.codebook_size
        self.tokens = config.video_tokens
        self.code_embed = nn.Embedding(codes + 1, size)  # the last row is MASK
        self.history_proj = nn.Linear(config.vqvae_config.codebook_dim, size)
        self.image_encoder = GridImageEncoder(config) if config.image_channels else None
        self.row_embed = nn.Parameter(torch.zeros(height, 1, size))
        self.column_embed = nn.Parameter(torch.zeros(1, width, size))
        self.time_embed = nn.Parameter(torch.zeros(time, 1, 1, size))
        self.prompt_proj = nn.Linear(config.prompt_size, size)
        self.timestep_embed = TimestepEmbedding(size)
        self.input_norm = nn.LayerNorm(size)
        self.layers = nn.ModuleList(
            TransformerBlock(config, size, config.trunk_heads, config.trunk_ff_size, config.trunk_dropout)
            for _ in range(config.trunk_layers)
        )
        self.norm = nn.LayerNorm(size)
        self.code_head = nn.Linear(size, codes)

    def encode_context(
        self,
        history_codes: torch.Tensor,
        pixel_values: torch.Tensor | None,
        prompt: torch.Tensor,
        codebook: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """
        Args:
            history_codes: int64 (N, t, h, w). pixel_values: (N, T, 3, H, W), needed when `image_channels > 0`.
            prompt: (N, P). codebook: (K, D), the tokenizer's.
        Returns:
            `tokens` (N, L, hidden): the current frame on the code grid, before any noise; `prompt` (N, 1, hidden).
        """
        history = torch.nn.functional.embedding(history_codes.flatten(1), codebook.to(self.history_proj.weight.dtype))
        tokens = self.history_proj(history)
        if self.image_encoder is not None:
            tokens = tokens + self.image_encoder(pixel_values[:, -1]).repeat(1, self.tokens // self._grid, 1)
        position = (self.time_embed + self.row_embed + self.column_embed).flatten(0, 2)
        return {"tokens": tokens + position, "prompt": self.prompt_proj(prompt)[:, None]}

    @property
    def _grid(self) -> int:
        return self.row_embed.shape[0] * self.column_embed.shape[1]

    def forward(
        self, codes: torch.Tensor, timesteps: torch.Tensor, context: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Noisy codes int64 (N, L), timesteps (N,) -> code logits (N, L, K) and hidden states (N, L, hidden)."""
        condition = context["prompt"] + embed_time(self.timestep_embed, timesteps, context)
        tokens = self.code_embed(codes) + context["tokens"] + condition
        hidden = self.input_norm(torch.cat((condition, tokens), dim=1))
        for layer in self.layers:
            hidden = layer(hidden)
        hidden = self.norm(hidden[:, 1:])
        return self.code_head(hidden), hidden
