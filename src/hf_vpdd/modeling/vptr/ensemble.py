"""Several independent perceptrons computed as one: the parameters of all members are stacked in the first axis."""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init


class EnsembleLinear(nn.Module):
    """E affine maps. (B, in), shared, or (E, B, in), one for each -> (E, B, out)."""

    def __init__(self, members: int, in_features: int, out_features: int, gain: str | float = "xavier"):
        super().__init__()
        self.gain = gain
        self.weight = nn.Parameter(torch.empty(members, out_features, in_features))
        self.bias = nn.Parameter(torch.empty(members, out_features))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        if hidden.ndim == 2:
            hidden = hidden.expand(len(self.weight), -1, -1)
        return torch.baddbmm(self.bias[:, None], hidden, self.weight.transpose(1, 2))

    @torch.no_grad()
    def init_own_parameters(self) -> None:
        """`"xavier"` uniform, `"lecun"` normal (variance 1 / in), or orthogonal with a number as gain."""
        init.zeros_(self.bias)
        for weight in self.weight:
            if self.gain == "xavier":
                init.xavier_uniform_(weight)
            elif self.gain == "lecun":
                init.trunc_normal_(weight, std=weight.shape[1] ** -0.5)
            else:
                init.orthogonal_(weight, gain=self.gain)


class OwnInitLinear(nn.Linear):
    """A Linear with an initialisation of its own: orthogonal with a number as gain, else Xavier normal; bias 0.

    It is a class because transformers leaves modules without parameters of their own (like the actor) out when it
    initialises, so a layer's start has to be known to the layer.
    """

    def __init__(self, in_features: int, out_features: int, gain: float | None = None):
        self.gain = gain
        super().__init__(in_features, out_features)

    @torch.no_grad()
    def init_own_parameters(self) -> None:
        init.zeros_(self.bias)
        if self.gain is None:
            init.xavier_normal_(self.weight)
        else:
            init.orthogonal_(self.weight, gain=self.gain)


class EnsembleNorm(nn.Module):
    """LayerNorm with parameters for each member. (E, B, D) -> (E, B, D)."""

    def __init__(self, members: int, size: int, eps: float = 1e-6):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(members, size))
        self.bias = nn.Parameter(torch.zeros(members, size))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        normed = F.layer_norm(hidden, hidden.shape[-1:], eps=self.eps)
        return normed * self.weight[:, None] + self.bias[:, None]

    @torch.no_grad()
    def init_own_parameters(self) -> None:
        init.ones_(self.weight)
        init.zeros_(self.bias)


class EnsembleMLP(nn.Module):
    """E perceptrons. `layer_norm`: GELU (tanh form), then LayerNorm, in place of ReLU. With `out_size` one more layer
    follows, without activation; else the last layer is activated like the others (spec §1.1)."""

    def __init__(self, members: int, in_size: int, sizes: list[int], layer_norm: bool, out_size: int | None = None):
        super().__init__()
        widths = [in_size, *sizes]
        self.layers = nn.ModuleList(EnsembleLinear(members, i, o) for i, o in zip(widths, sizes))
        self.norms = nn.ModuleList(EnsembleNorm(members, size) for size in sizes) if layer_norm else None
        self.out = EnsembleLinear(members, widths[-1], out_size) if out_size else None

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(B, in) or (E, B, in) -> (E, B, last size)."""
        for index, layer in enumerate(self.layers):
            hidden = layer(hidden)
            hidden = F.relu(hidden) if self.norms is None else self.norms[index](F.gelu(hidden, approximate="tanh"))
        return hidden if self.out is None else self.out(hidden)
