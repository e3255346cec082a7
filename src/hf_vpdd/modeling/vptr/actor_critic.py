"""Actor and critics of V-PTR's offline RL (spec §2.2), on features of their own encoders."""

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from .configuration_vptr import VPTRConfig
from .ensemble import EnsembleLinear, OwnInitLinear


class Bottleneck(nn.Module):
    """Features (B, F) -> embedding (B, latent) in (-1, 1): Dense, LayerNorm, tanh."""

    def __init__(self, config: VPTRConfig):
        super().__init__()
        self.dense = OwnInitLinear(config.feature_size, config.latent_size)
        self.norm = nn.LayerNorm(config.latent_size, eps=1e-6)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.norm(self.dense(features)))


class Critics(nn.Module):
    """Q(s, a, task), E members on one embedding. Action and image are fed again into every layer, the task only into
    the first; the robot's state is not seen."""

    def __init__(self, config: VPTRConfig, condition_size: int):
        super().__init__()
        members, refed = config.num_critics, config.action_dim + config.latent_size
        widths = [refed + condition_size, *(size + refed for size in config.policy_hidden_sizes)]
        self.layers = nn.ModuleList(
            EnsembleLinear(members, width, size, gain=math.sqrt(2))
            for width, size in zip(widths, config.policy_hidden_sizes)
        )
        self.out = EnsembleLinear(members, widths[-1], 1, gain=0.01)

    def forward(self, embedding: torch.Tensor, actions: torch.Tensor, condition: torch.Tensor | None) -> torch.Tensor:
        """
        Args:
            embedding: (B, latent). actions: (B, A) or (B, K, A), K actions of one state. condition: (B, C) or None.
        Returns:
            Q values (E, B) or (E, B, K).
        """
        several = actions.ndim == 3
        if several:
            count = actions.shape[1]
            embedding = embedding[:, None].expand(-1, count, -1).flatten(0, 1)
            condition = None if condition is None else condition[:, None].expand(-1, count, -1).flatten(0, 1)
            batch, actions = len(actions), actions.flatten(0, 1)
        parts = [actions, embedding] if condition is None else [actions, embedding, condition]
        hidden = torch.cat(parts, dim=-1)
        refed = torch.cat((actions, embedding), dim=-1).expand(len(self.out.weight), -1, -1)
        for layer in self.layers:
            hidden = torch.cat((F.relu(layer(hidden)), refed), dim=-1)
        # Q is a sum of rewards whose differences decide: its last layer keeps the precision of its weights
        with torch.autocast(hidden.device.type, enabled=False):
            values = self.out(hidden.to(self.out.weight.dtype)).squeeze(-1).float()
        return values.unflatten(1, (batch, -1)) if several else values


@dataclass
class SquashedGaussian:
    """Actions tanh(x), x ~ N(mean, std^2), each dimension by itself. mean, std (B, A)."""

    mean: torch.Tensor
    std: torch.Tensor

    @property
    def mode(self) -> torch.Tensor:
        """tanh(mean): what is executed."""
        return torch.tanh(self.mean)

    def sample(
        self, count: int | None = None, generator: torch.Generator | None = None, noise: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Reparameterised actions and their log densities: (B, A) and (B,), or (B, count, A) and (B, count)."""
        mean, std = (self.mean, self.std) if count is None else (self.mean[:, None], self.std[:, None])
        if noise is None:
            shape = self.mean.shape if count is None else (len(self.mean), count, self.mean.shape[-1])
            source = self.mean.device if generator is None else generator.device
            noise = torch.randn(shape, generator=generator, device=source).to(self.mean)
        return self._squash(mean + std * noise, mean, std)

    def log_prob(self, actions: torch.Tensor) -> torch.Tensor:
        """Log density of actions (B, A) in (-1, 1), -> (B,)."""
        return self._squash(torch.atanh(actions.clamp(-1 + 1e-6, 1 - 1e-6)), self.mean, self.std)[1]

    @staticmethod
    def _squash(x, mean, std):
        normal = -0.5 * ((x - mean) / std) ** 2 - std.log() - 0.5 * math.log(2 * math.pi)
        # log(1 - tanh(x)^2) without the cancellation
        change = 2 * (math.log(2) - x - F.softplus(-2 * x))
        return torch.tanh(x), (normal - change).sum(-1)


class Actor(nn.Module):
    """pi(a | s, task): embedding, robot state and task -> a squashed Gaussian over actions in (-1, 1)."""

    def __init__(self, config: VPTRConfig, condition_size: int):
        super().__init__()
        self.log_std_range = float(config.log_std_min), float(config.log_std_max)
        widths = [config.latent_size + config.state_dim + condition_size, *config.policy_hidden_sizes]
        self.layers = nn.ModuleList(OwnInitLinear(i, o, gain=math.sqrt(2)) for i, o in zip(widths, widths[1:]))
        self.mean = OwnInitLinear(widths[-1], config.action_dim, gain=0.01)
        self.log_std = OwnInitLinear(widths[-1], config.action_dim, gain=0.01)

    def forward(
        self, embedding: torch.Tensor, state: torch.Tensor | None, condition: torch.Tensor | None
    ) -> SquashedGaussian:
        """embedding (B, latent), state (B, state_dim), condition (B, C)."""
        hidden = torch.cat([part for part in (embedding, state, condition) if part is not None], dim=-1)
        for layer in self.layers:
            hidden = F.relu(layer(hidden))
        # densities are differences of large numbers: float32 under autocast too
        mean, log_std = self.mean(hidden).float(), self.log_std(hidden).float()
        return SquashedGaussian(mean, log_std.clamp(*self.log_std_range).exp())
