"""Adaptive unmasking under a bound on entropy: EB-Sampler (arXiv 2505.24857), with VPDD's noise levels."""

from __future__ import annotations

import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin  # noqa: F401  diffusers looks for this name here

from .categorical import uniform
from .scheduling_mask_and_replace import MaskAndReplaceScheduler, MaskAndReplaceSchedulerOutput
from .unmasking import how_many, reveal


class EntropyBoundScheduler(MaskAndReplaceScheduler):
    """Reveals as many tokens at once as the network is sure of together; each sample goes its own pace.

    Tokens drawn in one step are drawn independently of each other. With H_1 <= H_2 <= ... the entropies of
    p(x_0 | x_t) at the masked positions, the joint information that this ignores for the first k of them is at most
    H_1 + ... + H_{k-1}. A step reveals the largest k, at least 1, for which that stays below `entropy_bound`. A
    visible token is never revised.

    `timesteps` only count the budget: the last step reveals all that is left, and a sampling loop may stop when no
    MASK is (`finished`). The t that the network is told belongs to each sample: the one whose gamma_bar is nearest to
    its share of masks (`network_timesteps`).

    Args: as in [`MaskAndReplaceScheduler`], whose configuration and weights it shares. Its own is
        entropy_bound (`float`, defaults to 32.0): in nats, for each step and modality.
    """

    adaptive = True

    def network_timesteps(self, timestep: torch.Tensor, masked: torch.Tensor) -> torch.Tensor:
        """The t whose gamma_bar is nearest to the share of masks, masked float (B,) -> int64 (B,)."""
        gammas = self._cumulative(torch.arange(len(self), device=masked.device))[1]
        return torch.searchsorted((gammas[1:] + gammas[:-1]) / 2, masked.to(gammas.dtype))

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
        """One step; arguments as in [`MaskAndReplaceScheduler.step`]. `timestep` is one of `timesteps`."""
        self._check_step(logits, sample, num_classes, temperature)
        x_0 = self.draw_start(logits, temperature, uniform(sample.shape, generator, sample.device))
        log_p = torch.log_softmax(logits.float(), -1)
        entropy = (log_p.exp() * log_p).sum(-1).neg().double().masked_fill(sample != num_classes, torch.inf)
        rising = entropy.sort(-1).values
        together = rising.cumsum(-1) - rising  # the last is not counted; visible ones: inf - inf, never below
        count = (together <= self.config.entropy_bound).sum(-1, keepdim=True)
        share = self.masked_share(timestep, prev_timestep, sample.device)
        everything = how_many(sample, torch.zeros_like(share), num_classes)
        count = torch.where(share > 0, count, everything)
        prev_sample = reveal(sample, x_0, -entropy, count, num_classes)
        return self._output(prev_sample, x_0, return_dict)
