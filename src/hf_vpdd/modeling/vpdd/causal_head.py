"""The official Meta-World action head p_theta2: a causal transformer over forecast and actions (spec §3.2)."""

import torch
from torch import nn
from transformers import GPT2Config, GPT2Model
from transformers import initialization as init

from .causal_cache import run_prefix, run_suffix
from .conditioning import PromptEmbedding, SinusoidalTimestep, embed_time
from .configuration_vpdd import VPDDConfig


class NoPositions(nn.Module):
    """Stands in GPT-2's table of positions: this head adds its own table before the transformer. Integer zeros, so
    that a sum with them keeps the other side's dtype."""

    def forward(self, position_ids: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(position_ids)[..., None]


def build_transformer(config: VPDDConfig, length: int) -> GPT2Model:
    """GPT-2's blocks alone: no table of positions, no table of words."""
    body = GPT2Config(
        vocab_size=1,
        n_positions=length,
        n_embd=config.head_hidden_size,
        n_layer=config.head_layers,
        n_head=config.head_heads,
        n_inner=config.head_ff_size,
        activation_function="mish",
        attn_pdrop=config.head_dropout,
        resid_pdrop=config.head_dropout,
        embd_pdrop=config.head_dropout,
        bos_token_id=None,
        eos_token_id=None,
        use_cache=False,
    )
    body._attn_implementation = config._attn_implementation
    transformer = GPT2Model(body)
    transformer.wpe, transformer.wte = NoPositions(), None
    return transformer


def action_groups(config: VPDDConfig) -> list[int]:
    """How many consecutive action dimensions each output layer serves."""
    groups = config.head_action_groups or [1] * config.action_dim
    if sum(groups) != config.action_dim:
        raise ValueError(f"head_action_groups {groups} must add up to action_dim = {config.action_dim}")
    return groups


def output_layer(size: int, classes: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(size, size), nn.Mish(), nn.Linear(size, classes))


class CausalHead(nn.Module):
    """p_theta2. The sequence is [t, instruction, V*L forecast states, chunk*A noisy actions], read causally: an action
    sees the whole forecast and the actions before it, as they are at this noise level.

    A noisy action enters as the *number* of its bin, through a perceptron; MASK is the number of bins. The robot's
    state is not read.
    """

    def __init__(self, config: VPDDConfig):
        super().__init__()
        size = config.head_hidden_size
        self.regression = config.action_objective == "regression"
        self.action_tokens = config.chunk_size * config.action_dim
        length = self.sequence_length(config)
        if config.head_position_rows < length:
            raise ValueError(
                f"the {config.action_head} head reads {length} positions but head_position_rows is "
                f"{config.head_position_rows}: raise it"
            )
        self.timestep_embed = SinusoidalTimestep(size, config.timestep_ff_size)
        self.prompt_embed = PromptEmbedding(config.prompt_size, size)
        self.position_embed = nn.Parameter(torch.zeros(config.head_position_rows, size))
        self.input_norm = nn.LayerNorm(size)
        self.transformer = build_transformer(config, length)
        self.groups = action_groups(config)
        self.build_inputs(config)
        self.build_outputs(config, 1 if self.regression else config.num_action_bins)

    @staticmethod
    def sequence_length(config: VPDDConfig) -> int:
        return 2 + config.num_views * config.video_tokens + config.chunk_size * config.action_dim

    def build_inputs(self, config: VPDDConfig) -> None:
        size = config.head_hidden_size
        if config.hidden_size != size:
            raise ValueError(
                "the causal head reads the trunk's states as they are: "
                f"head_hidden_size ({size}) must equal hidden_size ({config.hidden_size})"
            )
        self.action_embed = nn.Sequential(
            nn.Linear(1, size), nn.Mish(), nn.Linear(size, size), nn.Mish(), nn.Linear(size, size)
        )

    def build_outputs(self, config: VPDDConfig, classes: int) -> None:
        self.action_out = nn.ModuleList(output_layer(config.head_hidden_size, classes) for _ in self.groups)

    @torch.no_grad()
    def init_own_parameters(self) -> None:
        init.zeros_(self.position_embed)

    def encode_context(
        self,
        trunk_context: dict[str, torch.Tensor],
        prompt: torch.Tensor,
        state: torch.Tensor | None,
        pixel_values: torch.Tensor | None,
    ) -> dict[str, torch.Tensor]:
        """prompt (B, P) -> `condition` (B, 1, size) and `before`, the fixed tokens between t and the video."""
        condition = self.prompt_embed(prompt)[:, None]
        return {"condition": condition, "before": condition * condition}

    def embed_video(self, video_hidden: torch.Tensor) -> torch.Tensor:
        """Forecast states (B, V, L, hidden) -> video tokens (B, V*L, size)."""
        return video_hidden.flatten(1, 2)

    def embed_actions(self, actions: torch.Tensor) -> torch.Tensor:
        """Bins int64 (B, chunk*A) -> (B, chunk*A, size)."""
        return self.action_embed(actions[..., None].to(self.action_embed[0].weight.dtype))

    def forward(
        self,
        actions: torch.Tensor,
        timesteps: torch.Tensor,
        video_hidden: torch.Tensor,
        context: dict[str, torch.Tensor],
    ) -> torch.Tensor:
        """Noisy bins int64 (B, chunk, A), states (B, V, L, hidden) -> logits (B, chunk, A, bins).

        For regression (B, chunk, A), the actions themselves.
        """
        if not self.training:
            return self.decode(actions, self.encode_forecast(timesteps, video_hidden, context))
        time = embed_time(self.timestep_embed, timesteps, context)
        prefix = self._prefix(time, video_hidden, context)
        suffix = self._suffix(actions, time * context["condition"], prefix.shape[1])
        tokens = torch.cat((prefix, suffix), dim=1)
        hidden = self.transformer(inputs_embeds=tokens, use_cache=False).last_hidden_state
        return self._output(hidden[:, -self.action_tokens :], actions)

    def encode_forecast(
        self, timesteps: torch.Tensor, video_hidden: torch.Tensor, context: dict[str, torch.Tensor]
    ) -> dict:
        """What `decode` needs and actions do not change: keys and values of the whole prefix at one t. Exact."""
        time = embed_time(self.timestep_embed, timesteps, context)
        prefix = self._prefix(time, video_hidden, context)
        return {"scale": time * context["condition"], "cache": run_prefix(self.transformer, prefix)}

    def decode(self, actions: torch.Tensor, forecast: dict) -> torch.Tensor:
        """Noisy bins int64 (B, chunk, A) -> logits (B, chunk, A, bins), at the cost of the action tokens alone."""
        cache = forecast["cache"]
        tokens = self._suffix(actions, forecast["scale"], cache[0][0].shape[2])
        return self._output(run_suffix(self.transformer, tokens, cache), actions)

    def _prefix(
        self, time: torch.Tensor, video_hidden: torch.Tensor, context: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        """The tokens [t, instruction, (state), video, (patches)] as the transformer reads them, (B, P, size).

        The parts of `context` other than `condition` are multiplied by it already, once a plan.
        """
        condition = context["condition"]
        video = context["video"] if "video" in context else condition * self.embed_video(video_hidden)
        parts = [condition * time, context["before"], video]
        if "after" in context:
            parts.append(context["after"])
        tokens = time * torch.cat(parts, dim=1)
        return self.input_norm(tokens + self.position_embed[: tokens.shape[1]])

    def _suffix(self, actions: torch.Tensor, scale: torch.Tensor, start: int) -> torch.Tensor:
        """The action tokens as the transformer reads them, (B, chunk*A, size); `start` is their first position."""
        tokens = scale * self.embed_actions(actions.flatten(1))
        return self.input_norm(tokens + self.position_embed[start : start + tokens.shape[1]])

    def _output(self, hidden: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        hidden = hidden.unflatten(1, actions.shape[1:])
        groups = zip(self.action_out, hidden.split(self.groups, dim=2))
        output = torch.cat([layer(states) for layer, states in groups], dim=2).float()
        return output.squeeze(-1) if self.regression else output
