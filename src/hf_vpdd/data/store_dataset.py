"""What the torch datasets over rows of a `FrameStore` share: which rows, and samples or batches of them."""

from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from ..errors import InputError
from .frame_store import FrameRows


class StoreDataset(Dataset):
    """A sample begins at each of `frame_indices`; subclasses write `__getitems__`, a batch for many positions."""

    def choose_rows(self, store: FrameRows, frame_indices: Sequence[int] | None) -> None:
        """Sets `store`, `frame_indices` (all frames if None) and `_last`.

        Raises:
            InputError: No rows, or rows that the store does not have.
        """
        indices = np.arange(store.num_frames) if frame_indices is None else np.asarray(frame_indices, np.int64)
        if indices.ndim != 1 or len(indices) == 0 or indices.min() < 0 or indices.max() >= store.num_frames:
            raise InputError(f"frame_indices must be a list of rows 0 to {store.num_frames - 1} of {store.name}")
        self.store, self.frame_indices = store, indices
        self._last = store.episode_to[store.frame_episode] - 1  # (N,), last frame of each frame's episode

    @property
    def tasks(self) -> list[str]:
        """The instructions that `task_index` points to."""
        return self.store.tasks

    def __len__(self) -> int:
        return len(self.frame_indices)

    def __getitem__(self, index) -> dict[str, torch.Tensor]:
        """A batch for a list or array; one sample, without the batch axis, for an integer."""
        if np.ndim(index) == 0 and not isinstance(index, slice):
            return {key: value[0] for key, value in self.__getitems__([int(index)]).items()}
        return self.__getitems__(np.arange(len(self))[index])
