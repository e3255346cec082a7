"""The small action head: one token per step of the chunk, cross-attending to the trunk."""

import torch
from torch import nn

from .attention import TimestepEmbedding, TransformerBlock
from .conditioning import embed_time
from .configuration_vpdd import VPDDConfig


class KeypointEncoder(nn.Module):
    """Raw newest frame -> image coordinates of learned, instruction-conditioned keypoints (spatial softmax).

    Positions come out below the resolution of a token, which grasping and reaching need and 8x8-pixel codes lose.
    Levine et al., arXiv 1504.00702, for the spatial softmax; FiLM (1709.07871) for the conditioning.
    """

    def __init__(self, config: VPDDConfig, width: int = 32):
        super().__init__()
        points, size = config.head_keypoints, config.head_hidden_size
        self.conv1 = nn.Conv2d(config.vqvae_config.num_channels, width, 5, stride=2, padding=2)
        self.norm1 = nn.GroupNorm(8, width)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.norm2 = nn.GroupNorm(8, 2 * width)
        self.film = nn.Linear(config.prompt_size, 4 * width)
        self.conv3 = nn.Conv2d(2 * width, points, 3, padding=1)
        self.log_temperature = nn.Parameter(torch.zeros(points))
        self.proj = nn.Sequential(nn.Linear(3 * points * config.num_views, size), nn.SiLU(), nn.Linear(size, size))
        self.activation = nn.SiLU()

    def forward(self, frames: torch.Tensor, prompt: torch.Tensor) -> torch.Tensor:
        """frames (B, V, 3, H, W), prompt (B, P) -> (B, size)."""
        batch, views = frames.shape[:2]
        hidden = self.activation(self.norm1(self.conv1(frames.flatten(0, 1))))
        hidden = self.norm2(self.conv2(hidden))
        scale, shift = self.film(prompt).repeat_interleave(views, 0)[..., None, None].chunk(2, dim=1)
        heat = self.conv3(self.activation(hidden * (1 + scale) + shift))
        height, width = heat.shape[2:]
        heat = heat.flatten(2).float()
        attention = (heat * self.log_temperature.exp()[:, None]).softmax(-1)
        rows = torch.linspace(-1, 1, height, device=heat.device)
        columns = torch.linspace(-1, 1, width, device=heat.device)
        grid = torch.stack((rows.repeat_interleave(width), columns.repeat(height)), dim=1)
        strength = (attention * heat).sum(-1, keepdim=True)  # how sure: mean activation where it looks
        points = torch.cat((attention @ grid, strength), dim=-1)
        return self.proj(points.view(batch, -1).to(frames.dtype))


class CrossAttentionHead(nn.Module):
    """p_theta2 in a small body: step tokens attend to each other, the trunk's hidden states and the current frame."""

    def __init__(self, config: VPDDConfig):
        super().__init__()
        size = config.head_hidden_size
        self.regression = config.action_objective == "regression"
        self.action_dim, self.bins = config.action_dim, config.num_action_bins
        # one table per dimension, stored as one; the last row of each is MASK
        self.action_embed = nn.Embedding(config.action_dim * (config.num_action_bins + 1), size)
        self.step_embed = nn.Parameter(torch.zeros(config.chunk_size, size))
        self.hidden_proj = nn.Linear(config.hidden_size, size)
        self.current_proj = nn.Linear(config.hidden_size, size)
        self.segment_embed = nn.Parameter(torch.zeros(2, size))
        self.prompt_proj = nn.Linear(config.prompt_size, size)
        self.state_proj = (
            nn.Sequential(nn.Linear(config.state_dim, size), nn.SiLU(), nn.Linear(size, size))
            if config.state_dim
            else None
        )
        self.keypoints = KeypointEncoder(config) if config.head_keypoints else None
        self.timestep_embed = TimestepEmbedding(size)
        self.layers = nn.ModuleList(
            TransformerBlock(config, size, config.head_heads, config.head_ff_size, config.head_dropout, cross=True)
            for _ in range(config.head_layers)
        )
        self.norm = nn.LayerNorm(size)
        classes = 1 if self.regression else config.num_action_bins
        self.action_out = nn.Linear(size, config.action_dim * classes)

    def encode_context(
        self,
        trunk_context: dict[str, torch.Tensor],
        prompt: torch.Tensor,
        state: torch.Tensor | None,
        pixel_values: torch.Tensor | None,
    ) -> dict:
        """
        Args:
            trunk_context: of the trunk, `tokens` (B, V, L, hidden). prompt: (B, P).
            state: normalised (B, state_dim). pixel_values: (B, V, T, 3, H, W).
        Returns:
            `condition` (B, size); `current`: for each layer, keys and values of the current frame's tokens.
        """
        condition = self.prompt_proj(prompt)
        if self.state_proj is not None:
            condition = condition + self.state_proj(state.to(prompt.dtype))
        if self.keypoints is not None:
            condition = condition + self.keypoints(pixel_values[:, :, -1], prompt)
        current = self.current_proj(trunk_context["tokens"].flatten(1, 2)) + self.segment_embed[1]
        return {"condition": condition, "current": [layer.keys_values(current) for layer in self.layers]}

    def forward(
        self, actions: torch.Tensor, timesteps: torch.Tensor, video_hidden: torch.Tensor, context: dict
    ) -> torch.Tensor:
        """Noisy bins (B, chunk, A), hidden (B, V, L, D) -> logits (B, chunk, A, bins) or actions (B, chunk, A)."""
        return self.decode(actions, self.encode_forecast(timesteps, video_hidden, context))

    def encode_forecast(self, timesteps: torch.Tensor, video_hidden: torch.Tensor, context: dict) -> dict:
        """What `decode` needs and actions do not change: condition at t, keys and values of forecast and frame."""
        future = self.hidden_proj(video_hidden.flatten(1, 2)) + self.segment_embed[0]
        memory = []
        for layer, current in zip(self.layers, context["current"]):
            parts = zip(layer.keys_values(future), current)
            memory.append(tuple(torch.cat(part, dim=2) for part in parts))
        time = embed_time(self.timestep_embed, timesteps, context)
        return {"condition": context["condition"][:, None] + time, "memory": memory}

    def decode(self, actions: torch.Tensor, forecast: dict) -> torch.Tensor:
        """Noisy bins (B, chunk, A) -> logits (B, chunk, A, bins) or actions (B, chunk, A)."""
        offsets = torch.arange(self.action_dim, device=actions.device) * (self.bins + 1)
        # four independent embeddings add up to variance 4; halved, the sum stays on the scale of one
        tokens = 0.5 * self.action_embed(actions + offsets).sum(2)
        tokens = tokens + self.step_embed + forecast["condition"]
        for layer, keys_values in zip(self.layers, forecast["memory"]):
            tokens = layer(tokens, keys_values)
        output = self.action_out(self.norm(tokens)).float()
        if self.regression:
            return output
        return output.view(*actions.shape, self.bins)
