"""Unmasking in a fixed, evenly spread order: the Halton scheduler (arXiv 2503.17076), with VPDD's noise levels."""

from __future__ import annotations

from functools import lru_cache

import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin  # noqa: F401  diffusers looks for this name here

from ..errors import InputError
from .categorical import uniform
from .scheduling_mask_and_replace import MaskAndReplaceScheduler, MaskAndReplaceSchedulerOutput
from .unmasking import cosine_timesteps, how_many, ranks, reveal


def radical_inverse(numbers: torch.Tensor, base: int) -> torch.Tensor:
    """van der Corput: the digits of the integers, mirrored at the point; float64 in [0, 1)."""
    result, place = torch.zeros(numbers.shape, dtype=torch.float64), 1.0 / base
    while bool((numbers > 0).any()):
        result += (numbers % base) * place
        numbers, place = numbers // base, place / base
    return result


@lru_cache(maxsize=32)
def reveal_ranks(length: int, grid: tuple[int, int] | None = None, device: torch.device | None = None) -> torch.Tensor:
    """When each position is revealed, int64 (length,): 0 first.

    On a grid (h, w): the cells in the order in which the 2-D Halton sequence (bases 2 and 3) first meets them; several
    planes of the grid in a row (latent frames, cameras) take turns, cell by cell. Without a grid: the order of van der
    Corput's sequence in base 2.
    """
    height, width = grid or (1, length)
    cells, planes = height * width, length // (height * width)
    visits = torch.empty(0, dtype=torch.int64)
    points = 2 * cells
    while len(visits) < cells:  # enough points to meet every cell
        index = torch.arange(points)
        if grid is None:
            visits = (radical_inverse(index, 2) * width).long()
        else:
            rows, columns = (radical_inverse(index, base) for base in (2, 3))
            visits = (rows * height).long() * width + (columns * width).long()
        first = torch.full((cells,), points).scatter_reduce_(0, visits, index, "amin")
        visits = torch.unique(visits)
        points *= 2
    return (ranks(first.argsort()) * planes + torch.arange(planes)[:, None]).flatten().to(device)


@torch.compiler.assume_constant_result
def constant_ranks(length: int, grid: tuple[int, int] | None, device: torch.device) -> torch.Tensor:
    """`reveal_ranks` for a graph: looked up when it is traced."""
    return reveal_ranks(length, grid, device)


class HaltonScheduler(MaskAndReplaceScheduler):
    """Reveals tokens in an order that is fixed beforehand and spread evenly over the picture.

    Neighbouring tokens depend on each other most, and a step draws its tokens independently; the Halton sequence keeps
    the tokens of one step far apart, whatever the network believes. At timestep t, the last before s, the first masked
    positions of the order are drawn and revealed until floor(gamma_bar_s * L) are masked. The timesteps are those of
    [`ConfidenceScheduler`]. A visible token is never revised.

    `step` learns the shape of the picture from its argument `grid`. Tokens without one (actions) are revealed in the
    order of van der Corput's sequence.
    """

    def set_timesteps(self, num_inference_steps: int | None = None, device=None, timesteps: list[int] | None = None):
        """`num_inference_steps` on the cosine schedule, or the given falling `timesteps`."""
        if timesteps is None:
            timesteps = cosine_timesteps(self.gammas_cumprod[:-1], num_inference_steps or 0)
        super().set_timesteps(device=device, timesteps=timesteps)

    def step(
        self,
        logits: torch.Tensor,
        timestep: int | torch.Tensor,
        sample: torch.Tensor,
        num_classes: int,
        temperature: float = 1.0,
        generator=None,
        prev_timestep: int | torch.Tensor | None = None,
        return_dict: bool = True,
        grid: tuple[int, int] | None = None,
    ) -> MaskAndReplaceSchedulerOutput | tuple[torch.Tensor, torch.Tensor]:
        """One step; arguments as in [`MaskAndReplaceScheduler.step`]."""
        self._check_step(logits, sample, num_classes, temperature)
        length = sample.shape[-1]
        if grid is not None and length % (grid[0] * grid[1]):
            raise InputError(f"grid: {length} tokens are no whole number of pictures of {grid[0]} x {grid[1]} tokens.")
        x_0 = self.draw_start(logits, temperature, uniform(sample.shape, generator, sample.device))
        score = -constant_ranks(length, grid, sample.device).double()
        share = self.masked_share(timestep, prev_timestep, sample.device)
        count = how_many(sample, share, num_classes)
        prev_sample = reveal(sample, x_0, score.expand(sample.shape), count, num_classes)
        return self._output(prev_sample, x_0, return_dict)
