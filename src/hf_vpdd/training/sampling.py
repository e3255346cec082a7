"""Which samples make batch `step`: a pure function of (seed, step, rank), so resuming needs no data-loader state.

An endless walk through seeded permutations of the dataset. Ranks interleave: two processes with batch B see at every
step together exactly what one process with batch 2B sees.
"""

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import torch


class IndexSampler:
    """Indices of each (step, micro-batch) out of `size` samples.

    Args:
        groups: int (size,), the group of each sample. weights: share of each group, in any unit. With them an epoch of
            `size` draws holds each group in its share, and each group is walked through in permutations of its own:
            of a small group with a large share every sample comes as often as every other.
    """

    def __init__(
        self, size: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1, micro_batches: int = 1,
        groups: np.ndarray | None = None, weights: Sequence[float] | None = None,
    ):  # fmt: skip
        if size < 1:
            raise ValueError("IndexSampler needs at least one sample")
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.rank, self.world_size, self.micro_batches = rank, world_size, micro_batches
        self._permutations: OrderedDict[int, np.ndarray] = OrderedDict()
        self._groups = None
        if weights is not None:
            share = np.asarray(weights, np.float64) / np.sum(weights)
            self._groups = [np.flatnonzero(np.asarray(groups) == number) for number in range(len(share))]
            for number, members in enumerate(self._groups):
                if share[number] > 0 and not len(members):
                    raise ValueError(f"group {number} has a weight of {weights[number]} but no samples")
            # whole numbers that add up to `size`, nearest to the shares
            ends = np.round(np.cumsum(share) * size).astype(np.int64)
            self._draws = np.diff(ends, prepend=0)

    def batch(self, step: int, micro: int = 0) -> np.ndarray:
        """int64 (batch_size,) indices."""
        first = ((step * self.micro_batches + micro) * self.world_size + self.rank) * self.batch_size
        positions = np.arange(first, first + self.batch_size, dtype=np.int64)
        epochs, offsets = np.divmod(positions, self.size)
        out = np.empty(self.batch_size, dtype=np.int64)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            out[chosen] = self._permutation(int(epoch))[offsets[chosen]]
        return out

    def _permutation(self, epoch: int) -> np.ndarray:
        if epoch not in self._permutations:
            generator = np.random.default_rng([self.seed, epoch])
            if self._groups is None:
                self._permutations[epoch] = generator.permutation(self.size)
            else:
                parts = [self._walk(number, epoch) for number in range(len(self._groups))]
                self._permutations[epoch] = generator.permutation(np.concatenate(parts))
            while len(self._permutations) > 2:
                self._permutations.popitem(last=False)
        return self._permutations[epoch]

    def _walk(self, number: int, epoch: int) -> np.ndarray:
        """The draws of one group in one epoch: a stretch of an endless walk through permutations of the group."""
        members, draws = self._groups[number], int(self._draws[number])
        if not draws:
            return members[:0]
        lap, place = divmod(epoch * draws, len(members))
        laps = [
            np.random.default_rng([self.seed, number, lap + i, 1]).permutation(members)
            for i in range(-(-(place + draws) // len(members)))
        ]
        return np.concatenate(laps)[place : place + draws]


def step_seed(seed: int, step: int, micro: int = 0, rank: int = 0) -> int:
    """A 63-bit seed that differs for every argument tuple (SeedSequence hashes them)."""
    low, high = np.random.SeedSequence([seed, step, micro, rank]).generate_state(2)
    return (int(high) << 32 | int(low)) & (2**63 - 1)


def step_generator(device: torch.device, seed: int, step: int, micro: int = 0, rank: int = 0) -> torch.Generator:
    """The generator of all noise in one micro-batch."""
    return torch.Generator(device=device).manual_seed(step_seed(seed, step, micro, rank))
