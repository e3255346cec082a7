"""Batches whose mixture changes at a step, in one run: prior data alone, then mostly prior data with some target data.

A pure function of (seed, step, rank), like `IndexSampler`: nothing to save, nothing to restore.
"""

import numpy as np

from .sampling import IndexSampler


class PhasedSampler:
    """Indices 0 .. prior-1 are prior samples, the following ones target samples.

    Args:
        prior, target: numbers of samples; one of them may be 0. batch_size: per process.
        prior_steps: steps on prior samples alone. mixing: the prior share afterwards, rounded down to whole samples
            per process, as officially (spec vptr.md §3).
        groups, weights: of the prior samples, see `IndexSampler`.
    """

    def __init__(
        self, prior: int, target: int, batch_size: int, prior_steps: int, mixing: float, seed: int, rank: int = 0,
        world_size: int = 1, groups=None, weights=None,
    ):  # fmt: skip
        share = int(batch_size * mixing + 1e-9) if target else batch_size

        def walk(size: int, number: int, seed: int, **options) -> IndexSampler | None:
            return IndexSampler(size, number, seed, rank, world_size, **options) if size and number else None

        shares = {"groups": groups, "weights": weights}
        self.prior, self.prior_steps = prior, prior_steps if prior else 0
        self.alone = walk(prior, batch_size, seed, **shares)
        self.mixed = [walk(prior, share, seed, **shares), walk(target, batch_size - share, seed + 7919)]
        if not any(self.mixed):
            raise ValueError(f"nothing to draw from: {prior} prior and {target} target samples, mixing {mixing}")

    def batch(self, step: int, micro: int = 0) -> np.ndarray:
        """int64 (batch_size,) indices, prior samples first."""
        if step < self.prior_steps:
            return self.alone.batch(step)
        prior, target = self.mixed
        parts = [] if prior is None else [prior.batch(step)]
        return np.concatenate(parts + ([] if target is None else [self.prior + target.batch(step)]))
