"""Hindsight goals for learning values from video: which frame is the outcome, which the intent (spec vptr.md §1.4).

All draws of a batch at once, no loop over samples. "Reached" means the same frame, never equal pixels.
"""

from dataclasses import dataclass

import numpy as np

from ..errors import InputError


@dataclass
class GoalBatch:
    """Rows of the frame store, int64 (B,), and what reaching the goals means, float32 (B,).

    Args:
        state, next_state: frames t and t+1 of one clip. outcome: s+. intent: z.
        reward, mask: 0 and 0 where the state is the outcome, else -1 and 1. intent_reward, intent_mask: of the intent.
    """

    state: np.ndarray
    next_state: np.ndarray
    outcome: np.ndarray
    intent: np.ndarray

    @property
    def mask(self) -> np.ndarray:
        return (self.state != self.outcome).astype(np.float32)

    @property
    def reward(self) -> np.ndarray:
        return -self.mask

    @property
    def intent_mask(self) -> np.ndarray:
        return (self.state != self.intent).astype(np.float32)

    @property
    def intent_reward(self) -> np.ndarray:
        return -self.intent_mask


class GoalSampler:
    """Draws (s, s', s+, z). The intent follows the rule below; the outcome follows it too, independently, and is the
    intent itself with probability `p_same`.

    The rule: the current frame with `p_current`; a later frame of the clip with `p_trajectory`, uniform between now
    and the clip's end (now included); else any frame of the dataset.

    Args:
        clip_from, clip_to: int (E,), first row and row after the last of every clip.
        p_random, p_trajectory, p_current: sum to one. p_same: of outcome = intent.
        intent_same_clip: the intent never comes from another clip (`p_random` goes to `p_trajectory`).
        clip_first: draw the clip first, then its frame, so that clips weigh the same; else all frames do.
        geometric: a discount; goals in the clip then lie a geometric number of steps ahead (OGBench's rule).
        max_distance: goals in the clip lie at most so many frames ahead.
        last_is_state: the last frame may be a state too, whose successor is the row after it. Only for arrays of
            transitions, where that row is no frame of its own: in a video the last frame has no successor.

    Raises:
        InputError: a clip of one frame; probabilities that do not sum to one.
    """

    def __init__(
        self,
        clip_from: np.ndarray,
        clip_to: np.ndarray,
        p_random: float = 0.3,
        p_trajectory: float = 0.5,
        p_current: float = 0.2,
        p_same: float = 0.5,
        intent_same_clip: bool = False,
        clip_first: bool = True,
        geometric: float | None = None,
        max_distance: int | None = None,
        last_is_state: bool = False,
    ):
        shares = {"p_random": p_random, "p_trajectory": p_trajectory, "p_current": p_current}
        if min(shares.values()) < 0 or abs(sum(shares.values()) - 1) > 1e-6:
            raise InputError(f"the goal probabilities must not be negative and sum to one, got {shares}")
        if not 0 <= p_same <= 1:
            raise InputError(f"p_same is {p_same}; it must lie in [0, 1]")
        if geometric is not None and not 0 < geometric < 1:
            raise InputError(f"geometric is {geometric}; it is a discount and must lie in (0, 1)")
        if max_distance is not None and max_distance < 1:
            raise InputError(f"max_distance is {max_distance}; it must be at least 1")
        order = np.argsort(np.asarray(clip_from, np.int64), kind="stable")
        self.first, last = np.asarray(clip_from, np.int64)[order], np.asarray(clip_to, np.int64)[order] - 1
        short = np.flatnonzero(last - self.first < (0 if last_is_state else 1))
        if len(short):
            raise InputError(
                f"clip {int(short[0])} has {int(last[short[0]] - self.first[short[0]] + 1)} frame(s); a step needs "
                "two: leave such clips out"
            )
        self.last = last
        self.states = last - self.first + (1 if last_is_state else 0)  # frames that have a successor
        self.frames = last - self.first + 1
        self._cumulative_states = np.concatenate([[0], np.cumsum(self.states)])
        self._cumulative_frames = np.concatenate([[0], np.cumsum(self.frames)])
        self.p_random, self.p_trajectory, self.p_current, self.p_same = p_random, p_trajectory, p_current, p_same
        self.intent_same_clip, self.clip_first = intent_same_clip, clip_first
        self.geometric, self.max_distance = geometric, max_distance

    def __call__(self, batch: int, rng: np.random.Generator) -> GoalBatch:
        """A batch of B tuples."""
        if self.clip_first:
            clip = rng.integers(len(self.first), size=batch)
            state = self.first[clip] + rng.integers(self.states[clip])
        else:
            flat = rng.integers(self._cumulative_states[-1], size=batch)
            clip = np.searchsorted(self._cumulative_states, flat, side="right") - 1
            state = self.first[clip] + flat - self._cumulative_states[clip]
        return self.goals(state, rng)

    def goals(self, state: np.ndarray, rng: np.random.Generator) -> GoalBatch:
        """Goals for states that were chosen already, rows (B,) of the clips."""
        clip = self.clip_of(state)
        intent = self._goal(state, clip, rng, p_random=0.0 if self.intent_same_clip else self.p_random)
        outcome = self._goal(state, clip, rng, p_random=self.p_random)
        outcome = np.where(rng.random(len(state)) < self.p_same, intent, outcome)
        return GoalBatch(state, state + 1, outcome, intent)

    def clip_of(self, rows: np.ndarray) -> np.ndarray:
        """The clip of each row, an index into `first` and `last`."""
        return np.searchsorted(self.first, rows, side="right") - 1

    def all_states(self) -> np.ndarray:
        """Every row that has a successor, (N,), clip after clip."""
        clip = np.repeat(np.arange(len(self.first)), self.states)
        return self.first[clip] + np.arange(len(clip)) - self._cumulative_states[clip]

    def _goal(self, state, clip, rng, p_random: float) -> np.ndarray:
        batch, end = len(state), self.last[clip]
        if self.max_distance is not None:
            end = np.minimum(end, state + self.max_distance)
        if self.clip_first:
            other = rng.integers(len(self.first), size=batch)
            anywhere = self.first[other] + rng.integers(self.frames[other])
        else:
            flat = rng.integers(self._cumulative_frames[-1], size=batch)
            other = np.searchsorted(self._cumulative_frames, flat, side="right") - 1
            anywhere = self.first[other] + flat - self._cumulative_frames[other]
        if self.geometric is None:
            share = rng.random(batch)
            ahead = np.round(state * share + end * (1 - share)).astype(np.int64)
        else:
            ahead = np.minimum(state + rng.geometric(1 - self.geometric, size=batch), end)
        pick = rng.random(batch)
        goal = np.where(pick < p_random, anywhere, ahead)
        return np.where(pick >= 1 - self.p_current, state, goal)


def sparse_labels(
    length: int, final_steps: int = 3, success_reward: float = 10.0, step_reward: float = -1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Rewards and masks of a successful demonstration, float32 (length,) each (spec §2.3): `success_reward` at the
    last `final_steps` steps, each of which is terminal (mask 0), `step_reward` before."""
    final = np.arange(length) >= length - final_steps
    return np.where(final, success_reward, step_reward).astype(np.float32), (~final).astype(np.float32)


def check_labels(rewards: np.ndarray, masks: np.ndarray, step_reward: float) -> None:
    """Raises an `InputError` where rewards and masks (T,) contradict: a step ends the bootstrap (mask 0) exactly where
    it is rewarded with more than `step_reward`."""
    if rewards.shape != masks.shape or rewards.ndim != 1:
        raise InputError(f"rewards {rewards.shape} and masks {masks.shape} must both be (T,)")
    if not np.isfinite(rewards).all() or not np.isin(masks, (0.0, 1.0)).all():
        raise InputError("rewards must be finite and masks 0 or 1")
    wrong = np.flatnonzero((rewards > step_reward) != (masks == 0))
    if len(wrong):
        step = int(wrong[0])
        raise InputError(
            f"step {step}: reward {rewards[step]:g} contradicts mask {masks[step]:g}. A step rewarded with more than "
            f"{step_reward:g} has mask 0, every other one mask 1"
        )


def returns_to_go(rewards: np.ndarray, masks: np.ndarray, discount: float) -> np.ndarray:
    """G_t = r_t + discount * m_t * G_{t+1}, float32 (T,): what Cal-QL bounds policy actions with."""
    if rewards.shape != masks.shape or rewards.ndim != 1:
        raise InputError(f"rewards {rewards.shape} and masks {masks.shape} must both be (T,)")
    returns, ahead = np.zeros(len(rewards)), 0.0
    for step in range(len(rewards) - 1, -1, -1):
        ahead = rewards[step] + discount * masks[step] * ahead
        returns[step] = ahead
    return returns.astype(np.float32)
