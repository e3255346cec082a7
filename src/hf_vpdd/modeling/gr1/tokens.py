"""The order of tokens in a step, and who may attend to whom (spec §1.4, items 5 and 7)."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class StepLayout:
    """The tokens of one step: `language, state, (latents, cls) of each view | ACT | OBS of each view`.

    Those before the bar are real: they carry an observation and are what every later token reads. The others are
    queries: they read, and nobody reads them (except ACT, which reads OBS with foresight).

    Args:
        state: Whether there is a state token.
        views: Cameras. view_tokens: tokens of a camera, the same number for what is seen and for what is asked.
        actions: ACT tokens; 0 without action head.
        frames: Whether there are OBS tokens.
    """

    state: bool
    views: int
    view_tokens: int
    actions: int
    frames: bool

    @property
    def real(self) -> int:
        """Tokens that carry an observation."""
        return 1 + int(self.state) + self.views * self.view_tokens

    @property
    def action_slice(self) -> slice:
        return slice(self.real, self.real + self.actions)

    @property
    def frame_slice(self) -> slice:
        """OBS tokens of all views, one view after the other."""
        return slice(self.real + self.actions, self.size)

    @property
    def size(self) -> int:
        """Tokens of one step."""
        return self.real + self.actions + (self.views * self.view_tokens if self.frames else 0)

    def allowed(self, steps: int, foresight: bool = False, device=None) -> torch.BoolTensor:
        """(N, N) with N = steps * size: row may attend to column. Causal in the flattened order, real columns only."""
        position = torch.arange(steps * self.size, device=device)
        step, place = position // self.size, position % self.size
        allowed = (position[:, None] >= position) & (place < self.real)
        if foresight:
            is_action = (place >= self.action_slice.start) & (place < self.action_slice.stop)
            is_frame = place >= self.frame_slice.start
            allowed |= is_action[:, None] & is_frame & (step[:, None] == step)
        return allowed

    def attention_mask(
        self, step_mask: torch.BoolTensor, dtype: torch.dtype, foresight: bool = False
    ) -> torch.FloatTensor:
        """What is added to the attention scores: (B, 1, N, N), 0 or the smallest number.

        Args:
            step_mask: bool (B, T), False for padding, which nobody reads.
        """
        allowed = self.allowed(step_mask.shape[1], foresight, step_mask.device)
        allowed = allowed & step_mask.repeat_interleave(self.size, dim=1)[:, None]
        # not -inf: a window whose first steps are masked has rows without any key, and those would become NaN
        lowest = torch.finfo(dtype).min
        return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(~allowed, lowest)[:, None]
