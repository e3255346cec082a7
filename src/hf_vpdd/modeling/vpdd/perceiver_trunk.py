"""The official trunk p_theta1: a Perceiver-IO over history and noisy future codes (VPDD §3.2; spec §3.1)."""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .attention import eager_attention_forward
from .conditioning import PromptEmbedding, SinusoidalTimestep, embed_time
from .configuration_vpdd import VPDDConfig


class PerceiverAttention(nn.Module):
    """Pre-norm attention whose inner width (heads x head_dim) need not be the width of the tokens. No residual."""

    is_causal = False

    def __init__(self, config: VPDDConfig, cross: bool, dropout: float):
        super().__init__()
        self.config = config
        self.head_dim = config.trunk_head_dim
        self.scaling = self.head_dim**-0.5
        self.dropout = dropout
        size, inner = config.hidden_size, config.trunk_heads * config.trunk_head_dim
        self.norm = nn.LayerNorm(size)
        self.context_norm = nn.LayerNorm(size) if cross else None
        self.q_proj = nn.Linear(size, inner, bias=False)
        self.kv_proj = nn.Linear(size, 2 * inner, bias=False)  # keys first
        self.o_proj = nn.Linear(inner, size)

    def forward(self, hidden: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        """hidden (N, L, D), context (N, M, D) for cross-attention -> (N, L, D). One row of `hidden` serves all of
        `context`."""
        hidden = self.norm(hidden)
        context = hidden if self.context_norm is None else self.context_norm(context)

        def split(tensor):
            return tensor.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

        key, value = self.kv_proj(context).chunk(2, dim=-1)
        attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        output, _ = attend(
            self,
            split(self.q_proj(hidden)).expand(len(key), -1, -1, -1),
            split(key),
            split(value),
            None,
            scaling=self.scaling,
            dropout=self.dropout if self.training else 0.0,
        )
        return self.o_proj(output.flatten(2))


class GatedFeedForward(nn.Module):
    """Pre-norm GEGLU. No residual."""

    def __init__(self, size: int, ff_size: int):
        super().__init__()
        self.norm = nn.LayerNorm(size)
        self.fc1 = nn.Linear(size, 2 * ff_size)  # values first, then gates
        self.fc2 = nn.Linear(ff_size, size)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        value, gate = self.fc1(self.norm(hidden)).chunk(2, dim=-1)
        return self.fc2(value * F.gelu(gate))


class PerceiverBlock(GradientCheckpointingLayer):
    """Attention and feed-forward, each around a skip connection; reads `context` when built with `cross`."""

    def __init__(self, config: VPDDConfig, cross: bool = False):
        super().__init__()
        self.attention = PerceiverAttention(config, cross, config.trunk_dropout)
        self.feed_forward = GatedFeedForward(config.hidden_size, config.trunk_ff_size)

    def forward(self, hidden: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        hidden = hidden + self.attention(hidden, context)
        return hidden + self.feed_forward(hidden)


class PerceiverTrunk(nn.Module):
    """p_theta1. All shapes have N = batch x views rows; views do not see each other.

    The sequence is [t, instruction, L history codes, L noisy codes], scaled by the instruction and by t. What does not
    depend on the noise is computed once a plan in `encode_context`; only the queries of the noisy codes are decoded.
    """

    def __init__(self, config: VPDDConfig):
        super().__init__()
        size, code_size = config.hidden_size, config.vqvae_config.codebook_dim
        self.tokens = config.video_tokens
        rows = 2 + 2 * self.tokens
        if config.trunk_position_rows < rows:
            raise ValueError(
                f"the Perceiver reads {rows} positions (2 + 2 x {self.tokens} codes) but trunk_position_rows is "
                f"{config.trunk_position_rows}: raise it"
            )
        self.timestep_embed = SinusoidalTimestep(size, config.timestep_ff_size)
        self.prompt_embed = PromptEmbedding(config.prompt_size, size)
        self.history_embed = nn.Sequential(
            nn.LayerNorm(code_size),
            nn.Linear(code_size, config.history_ff_size),
            nn.Mish(),
            nn.Linear(config.history_ff_size, size),
        )
        self.code_embed = nn.Linear(code_size, size)
        self.position_embed = nn.Parameter(torch.zeros(config.trunk_position_rows, size))
        self.input_norm = nn.LayerNorm(size)
        self.latents = nn.Parameter(torch.zeros(config.num_latents, size))
        self.reader = PerceiverBlock(config, cross=True)
        self.layers = nn.ModuleList(PerceiverBlock(config) for _ in range(config.trunk_layers))
        self.decoder = PerceiverAttention(config, cross=True, dropout=0.0)
        self.code_head = nn.Linear(size, config.vqvae_config.codebook_size)

    @torch.no_grad()
    def init_own_parameters(self) -> None:
        init.zeros_(self.position_embed)
        init.normal_(self.latents)

    def encode_context(
        self,
        history_codes: torch.Tensor,
        pixel_values: torch.Tensor | None,
        prompt: torch.Tensor,
        codebook: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """
        Args:
            history_codes: int64 (N, t, h, w). pixel_values: not read. prompt: (N, P).
            codebook: (K, D), the tokenizer's.
        Returns:
            `tokens` (N, L, hidden): the current clip; `codes` (N, L, D): its rows of the codebook;
            `condition` (N, 1, hidden): the instruction; `fixed` (N, 1 + L, hidden): instruction and history as they
            stand in the sequence before the scaling by t; `code_table` (K + 1, hidden): every code embedded. MASK,
            the last row, is the zero vector of the codebook (spec §1.2).
        """
        codebook = codebook.to(self.code_embed.weight.dtype)
        codes = F.embedding(history_codes.flatten(1), codebook)
        tokens = self.history_embed(codes)
        condition = self.prompt_embed(prompt)[:, None]
        table = torch.cat((self.code_embed(codebook), self.code_embed.bias[None]))
        return {
            "tokens": tokens,
            "codes": codes,
            "condition": condition,
            "fixed": condition * torch.cat((condition, tokens), dim=1),
            "code_table": table,
        }

    def forward(
        self, codes: torch.Tensor, timesteps: torch.Tensor, context: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Noisy codes int64 (N, L), timesteps (N,) -> code logits (N, L, K) and hidden states (N, L, hidden)."""
        time, condition = embed_time(self.timestep_embed, timesteps, context), context["condition"]
        noisy = F.embedding(codes, context["code_table"])
        # 1. the sequence
        tokens = time * torch.cat((condition * time, context["fixed"], condition * noisy), dim=1)
        tokens = self.input_norm(tokens + self.position_embed[: tokens.shape[1]])
        # 2. read it into the latents, and think there
        latents = self.reader(self.latents[None], tokens)
        for layer in self.layers:
            latents = layer(latents)
        # 3. ask the latents at the noisy positions only
        hidden = self.decoder(tokens[:, -self.tokens :], latents)
        return self.code_head(hidden), hidden
