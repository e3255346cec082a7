"""Intent-conditioned values V(s, s+, z) on features of the shared encoder (spec §1.1). E heads, B rows."""

import torch
from torch import nn

from .configuration_vptr import VPTRConfig
from .ensemble import EnsembleLinear, EnsembleMLP


class MultilinearHeads(nn.Module):
    """V = < A(t * phi(s)), B(t * psi(s+)) >, t = T(psi(z)). The intent goes through psi, like any goal.

    So T(z) of the paper, a matrix, is diag(t) A'B diag(t) plus bias terms, never formed.
    """

    def __init__(self, config: VPTRConfig, feature_size: int):
        super().__init__()
        members, sizes = config.num_value_heads, config.value_hidden_sizes

        def perceptron(in_size: int) -> EnsembleMLP:
            return EnsembleMLP(members, in_size, sizes, config.value_layer_norm)

        self.phi, self.psi, self.intent = perceptron(feature_size), perceptron(feature_size), perceptron(sizes[-1])
        self.state_map = EnsembleLinear(members, sizes[-1], sizes[-1], gain="lecun")
        self.goal_map = EnsembleLinear(members, sizes[-1], sizes[-1], gain="lecun")

    def represent_state(self, features: torch.Tensor) -> torch.Tensor:
        """phi: features (B, F) of a state -> (E, B, d)."""
        return self.phi(features)

    def represent_goal(self, features: torch.Tensor) -> torch.Tensor:
        """psi: features (B, F) of an outcome or an intent -> (E, B, d)."""
        return self.psi(features)

    def value(self, phi: torch.Tensor, psi: torch.Tensor, intent_psi: torch.Tensor) -> torch.Tensor:
        """(E, B, d) each -> values (E, B)."""
        scale = self.intent(intent_psi)
        return (self.state_map(scale * phi) * self.goal_map(scale * psi)).sum(-1)


class MonolithicHeads(nn.Module):
    """V = MLP([f(s), f(s+), f(z)]): no representation apart from the encoder's."""

    def __init__(self, config: VPTRConfig, feature_size: int):
        super().__init__()
        self.members = config.num_value_heads
        self.net = EnsembleMLP(
            self.members, 3 * feature_size, config.value_hidden_sizes, config.value_layer_norm, out_size=1
        )

    def represent_state(self, features: torch.Tensor) -> torch.Tensor:
        """The features themselves, (B, F) -> (E, B, F)."""
        return features.expand(self.members, -1, -1)

    represent_goal = represent_state

    def value(self, phi: torch.Tensor, psi: torch.Tensor, intent_psi: torch.Tensor) -> torch.Tensor:
        """(E, B, F) each -> values (E, B)."""
        return self.net(torch.cat((phi, psi, intent_psi), dim=-1)).squeeze(-1)


class DistanceHead(nn.Module):
    """V = -||e(s) - e(s+)||_2 of one linear embedding e; the intent plays no part. For VIP and TCN (spec §5)."""

    def __init__(self, config: VPTRConfig, feature_size: int):
        super().__init__()
        self.embedding = nn.Linear(feature_size, config.value_hidden_sizes[-1])

    def represent_state(self, features: torch.Tensor) -> torch.Tensor:
        """(B, F) -> (1, B, d)."""
        return self.embedding(features)[None]

    represent_goal = represent_state

    def value(self, phi: torch.Tensor, psi: torch.Tensor, intent_psi: torch.Tensor | None = None) -> torch.Tensor:
        """(1, B, d) each -> values (1, B)."""
        return -distance(phi, psi)


def distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Euclidean distance over the last axis, with a gradient of zero (not NaN) where the points coincide."""
    squares = (a - b).square().sum(-1)
    same = squares == 0
    return torch.where(same, 0.0, torch.where(same, 1.0, squares).sqrt())


def build_value_heads(config: VPTRConfig, feature_size: int | None = None) -> nn.Module:
    """The heads named by `config.value_head`, on features of the encoder (or of another size)."""
    heads = {"multilinear": MultilinearHeads, "monolithic": MonolithicHeads, "distance": DistanceHead}
    return heads[config.value_head](config, feature_size or config.feature_size)
