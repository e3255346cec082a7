"""Windows that run forward: T steps from a frame k on, each with its frames, state and action chunk (GR-1)."""

from collections.abc import Sequence

import numpy as np
import torch

from ..errors import InputError
from .frame_store import FrameRows, FrameStore
from .store_dataset import StoreDataset


class SequenceDataset(StoreDataset):
    """One sample per frame k of a store: the window that starts there, whole batches at a time (one gather per key).

    Step t of a window is frame k + t * stride. Steps past the end of the episode repeat its last frame and are masked.

    Keys (B samples, V cameras of the store, T = `steps`, C = `chunk_size`):
        pixel_values     uint8 (B, V, T, S, S, 3)
        image_features   float16 (B, V, T, *feature shape), where features are given
        step_mask        bool (B, T), False past the end of the episode
        state            float32 (B, T, Ds), in the robot's units, where the store has states
        action           float32 (B, T, C, A), those from each step on, the last one repeated past the episode's end
        action_is_pad    bool (B, T, C), True where it is such a repetition
        task_index       int64 (B,), into `tasks`
        frame_index      int64 (B,), k, as a row of the store

    Args:
        features: float16 (N, ...) of `encode_frames(store, ...)`, or a list with one per view; or None.
        frame_indices: Which rows of the store are samples; all by default.

    Raises:
        InputError: Actions asked of a dataset without them; features of another number of frames; sizes below 1.
    """

    def __init__(
        self,
        store: FrameStore,
        features: Sequence[np.ndarray] | np.ndarray | None = None,
        steps: int = 10,
        stride: int = 1,
        chunk_size: int = 1,
        with_actions: bool = True,
        frame_indices: Sequence[int] | np.ndarray | None = None,
    ):
        sizes = {"steps": steps, "stride": stride, "chunk_size": chunk_size}
        if min(sizes.values()) < 1:
            raise InputError(f"windows need sizes of at least 1, got {sizes}")
        if with_actions and store.action is None:
            raise InputError(
                f"{store.name} has no actions, so a policy cannot be trained on it; use a dataset recorded with "
                "actions (`hf-vpdd record` without --no-actions), or use this one for video pre-training"
            )
        self.store, self.steps, self.stride, self.chunk_size = store, steps, stride, chunk_size
        self.with_actions = with_actions
        self.features = None if features is None else _features_of_views(store, features)
        self.choose_rows(store, frame_indices)

    def __getitems__(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        store = self.store
        k = self.frame_indices[np.asarray(indices, np.int64)]
        last = self._last[k][:, None]
        wanted = k[:, None] + self.stride * np.arange(self.steps)
        rows = np.minimum(wanted, last)  # (B, T)
        views = store.num_frames * np.arange(len(store.cameras))[:, None]
        batch = {"pixel_values": store.view_frames[rows[:, None] + views], "step_mask": wanted <= last}
        if self.features is not None:
            batch["image_features"] = self.features[rows[:, None] + views]
        if store.state is not None:
            batch["state"] = store.state[rows]
        if self.with_actions:
            ahead = rows[..., None] + np.arange(self.chunk_size)
            batch["action"] = store.action[np.minimum(ahead, last[..., None])]
            batch["action_is_pad"] = ahead > last[..., None]
        batch["task_index"] = store.frame_task[k]
        batch["frame_index"] = k
        return {key: torch.from_numpy(value) for key, value in batch.items()}

    @staticmethod
    def collate(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The `collate_fn` of a DataLoader over this dataset: batches arrive collated."""
        return batch


def _features_of_views(store: FrameStore, features) -> FrameRows:
    """Features of every camera laid end to end, (V * N, ...), as `FrameStore.view_frames` are."""
    several = list(features) if store.views else [features]
    rows = [one if isinstance(one, FrameRows) else FrameRows([one]) for one in several]
    if len(rows) != len(store.cameras) or any(len(one) != store.num_frames for one in rows):
        raise InputError(
            f"image features of {[len(one) for one in rows]} frames do not belong to {store}, which has "
            f"{store.num_frames} frames of {len(store.cameras)} camera(s)"
        )
    return FrameRows.concat(rows)
