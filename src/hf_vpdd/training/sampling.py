"""Which samples make batch `step`: a pure function of (seed, step, rank), so resuming needs no data-loader state.

An endless walk through seeded permutations of the dataset. Ranks interleave: two processes with batch B see at every
step together exactly what one process with batch 2B sees.
"""

from collections import OrderedDict

import numpy as np
import torch


class IndexSampler:
    """Indices of each (step, micro-batch) out of `size` samples."""

    def __init__(
        self, size: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1, micro_batches: int = 1
    ):
        if size < 1:
            raise ValueError("IndexSampler needs at least one sample")
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.rank, self.world_size, self.micro_batches = rank, world_size, micro_batches
        self._permutations: OrderedDict[int, np.ndarray] = OrderedDict()

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
            self._permutations[epoch] = np.random.default_rng([self.seed, epoch]).permutation(self.size)
            while len(self._permutations) > 2:
                self._permutations.popitem(last=False)
        return self._permutations[epoch]


def step_seed(seed: int, step: int, micro: int = 0, rank: int = 0) -> int:
    """A 63-bit seed that differs for every argument tuple (SeedSequence hashes them)."""
    low, high = np.random.SeedSequence([seed, step, micro, rank]).generate_state(2)
    return (int(high) << 32 | int(low)) & (2**63 - 1)


def step_generator(device: torch.device, seed: int, step: int, micro: int = 0, rank: int = 0) -> torch.Generator:
    """The generator of all noise in one micro-batch."""
    return torch.Generator(device=device).manual_seed(step_seed(seed, step, micro, rank))
