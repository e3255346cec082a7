"""Goals in words for learning values from video: the intent is what a clip's instruction says.

What an instruction asks for is reached at the last frame of a clip that carries it. Nothing else in a video says when,
so those frames are the anchor of the values, as s+ = s is for goal images.
"""

from dataclasses import dataclass

import numpy as np

from .goals import GoalSampler


@dataclass
class InstructionBatch:
    """Rows of the frame store int64 (B,), instructions, and what reaching the goals means, float32 (B,).

    Args:
        state, next_state: frames t and t+1; both the last frame where the instruction is reached.
        outcome: the goal image s+, where `outcome_is_intent` (bool) does not put the instruction in its place.
        intent: int64 (B,), the instruction, an index of the sampler's table.
    """

    state: np.ndarray
    next_state: np.ndarray
    outcome: np.ndarray
    intent: np.ndarray
    outcome_is_intent: np.ndarray
    mask: np.ndarray
    intent_mask: np.ndarray

    @property
    def reward(self) -> np.ndarray:
        return -self.mask

    @property
    def intent_reward(self) -> np.ndarray:
        return -self.intent_mask


class InstructionGoals:
    """Draws (s, s', s+, z) with z in words, on the rule of `GoalSampler`.

    With `p_current` the row is a clip's end with its own instruction: reached. Else the instruction is the clip's own,
    or, with `p_random`, that of any clip; the outcome is the instruction itself with `p_same`, else an image.

    Args:
        sampler: of the clips. clip_intent: int (E,), the instruction of each clip, in the order of `sampler.first`.
    """

    def __init__(self, sampler: GoalSampler, clip_intent: np.ndarray):
        self.sampler, self.clip_intent = sampler, np.asarray(clip_intent, np.int64)
        if len(self.clip_intent) != len(sampler.first):
            raise ValueError(f"{len(self.clip_intent)} instructions were given for {len(sampler.first)} clips")

    def goals(self, state: np.ndarray, rng: np.random.Generator) -> InstructionBatch:
        """Goals for states that were chosen already, rows (B,) of the clips."""
        sampler, batch = self.sampler, len(state)
        clip = sampler.clip_of(state)
        images = sampler.goals(state, rng)
        ends = rng.random(batch) < sampler.p_current
        state = np.where(ends, sampler.last[clip], state)
        foreign = ~ends & (rng.random(batch) < (0.0 if sampler.intent_same_clip else sampler.p_random))
        intent = self.clip_intent[np.where(foreign, rng.integers(len(sampler.first), size=batch), clip)]
        outcome_is_intent = ends | (rng.random(batch) < sampler.p_same)
        intent_mask = (~ends).astype(np.float32)  # a state with a successor has reached no instruction yet
        image_mask = (state != images.outcome).astype(np.float32)
        return InstructionBatch(
            state=state,
            next_state=np.where(ends, state, state + 1),
            outcome=images.outcome,
            intent=intent,
            outcome_is_intent=outcome_is_intent,
            mask=np.where(outcome_is_intent, intent_mask, image_mask),
            intent_mask=intent_mask,
        )
