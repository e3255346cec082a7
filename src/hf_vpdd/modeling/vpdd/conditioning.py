"""How the official networks embed the noise level and the instruction; trunk and action head own separate copies."""

import torch
from torch import nn


class SinusoidalTimestep(nn.Module):
    """Diffusion time t (N,), 0..T-1 -> (N, size): sines, then cosines of the integer, then a perceptron (spec §3)."""

    def __init__(self, size: int, ff_size: int):
        super().__init__()
        self.size = size
        self.fc1 = nn.Linear(size, ff_size)
        self.fc2 = nn.Linear(ff_size, size)
        self.activation = nn.Mish()

    def forward(self, timesteps: torch.Tensor) -> torch.Tensor:
        half = self.size // 2
        steps = torch.arange(half, device=timesteps.device, dtype=torch.float32)
        frequencies = torch.exp(steps * (-9.210340371976184 / (half - 1)))  # 1 down to 1e-4, both included
        angles = timesteps.float()[:, None] * frequencies
        waves = torch.cat((angles.sin(), angles.cos()), dim=-1).to(self.fc1.weight.dtype)
        return self.fc2(self.activation(self.fc1(waves)))


class PromptEmbedding(nn.Module):
    """Instruction vector (N, P) -> (N, size)."""

    def __init__(self, prompt_size: int, size: int):
        super().__init__()
        self.norm = nn.LayerNorm(prompt_size)
        self.fc1 = nn.Linear(prompt_size, size)
        self.fc2 = nn.Linear(size, size)
        self.activation = nn.Mish()

    def forward(self, prompt: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation(self.fc1(self.norm(prompt.to(self.fc1.weight.dtype)))))


def embed_time(embedding: nn.Module, timesteps: torch.Tensor, context: dict[str, torch.Tensor]) -> torch.Tensor:
    """Timesteps (N,) -> (N, 1, size); a row of `context["time_table"]` where a plan has put it there (see
    `time_table`)."""
    table = context.get("time_table")
    return (embedding(timesteps) if table is None else table[timesteps])[:, None]


def time_table(embedding: nn.Module, timesteps: torch.Tensor, steps: int) -> torch.Tensor:
    """The `timesteps` of a plan (n,) embedded once, as rows of a table (steps, size); other rows are zero."""
    rows = embedding(timesteps)
    return rows.new_zeros(steps, rows.shape[-1]).index_copy(0, timesteps, rows)


def repeat_rows(context, count: int, views: int = 1):
    """A plan's context for `count` samples of every observation, which follow each other; nothing is computed again.

    Args:
        context: what an `encode_context` returned: tensors whose rows are observations, `views` rows each, in
            dictionaries, lists and tuples.
    """
    if count == 1:
        return context
    if isinstance(context, dict):
        return {k: v if k in _TABLES else repeat_rows(v, count, views) for k, v in context.items()}
    if isinstance(context, (list, tuple)):
        return type(context)(repeat_rows(part, count, views) for part in context)
    return context.unflatten(0, (-1, views)).repeat_interleave(count, dim=0).flatten(0, 1)


_TABLES = ("code_table", "time_table")  # their rows are codes and timesteps
