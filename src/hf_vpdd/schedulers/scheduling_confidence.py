"""Confidence-ordered parallel unmasking: MaskGIT (arXiv 2202.04200), section 3.2, with VPDD's noise levels."""

from __future__ import annotations

import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin  # noqa: F401  diffusers looks for this name here

from .categorical import uniform
from .scheduling_mask_and_replace import MaskAndReplaceScheduler, MaskAndReplaceSchedulerOutput
from .unmasking import cosine_timesteps, how_many, reveal


class ConfidenceScheduler(MaskAndReplaceScheduler):
    """Reveals the tokens that the network is surest of, and never revises one.

    Step i of n, at timestep t_i, the last before s: draw x_0 ~ p(x_0 | x_t) at every masked position, score it with

        log p(x_0 | x_t) + choice_temperature * gamma_bar_s * Gumbel noise,

    and reveal the highest scores until floor(gamma_bar_s * L) positions are masked. The timesteps are those where
    gamma_bar_{t_i} is nearest to cos(pi/2 * i/n): few tokens early, when little is known, many late. So the network,
    which is told t, always sees the share of masks that it was trained on at that t.

    Args: as in [`MaskAndReplaceScheduler`], whose configuration and weights it shares. Its own is
        choice_temperature (`float`, defaults to 0): noise in the order, annealed to none; MaskGIT uses 4.5 for images.
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
        noisy_order = self.config.choice_temperature > 0
        u = uniform((*sample.shape, 1 + noisy_order), generator, sample.device)
        x_0 = self.draw_start(logits, temperature, u[..., 0])
        share = self.masked_share(timestep, prev_timestep, sample.device)
        logits = logits.float()
        score = logits.gather(-1, x_0[..., None])[..., 0] - logits.logsumexp(-1)
        if noisy_order:
            gumbel = -torch.log(-torch.log(u[..., 1].clamp(min=1e-300)))
            score = score + self.config.choice_temperature * share * gumbel
        prev_sample = reveal(sample, x_0, score, how_many(sample, share, num_classes), num_classes)
        return self._output(prev_sample, x_0, return_dict)
