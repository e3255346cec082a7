"""Training samples cut from a frame store: history, future, actions around a frame k, whole batches at a time."""

from collections.abc import Sequence

import numpy as np
import torch

from ..errors import InputError
from .frame_store import FrameRows, FrameStore
from .store_dataset import StoreDataset


TARGETS = ("steps", "keyframes")


class WindowDataset(StoreDataset):
    """One sample per frame k of a store.

    `dataset[[3, 8]]`, or `__getitems__` as a DataLoader calls it, returns the collated batch: one gather per key,
    no loop over samples. Give a DataLoader `collate_fn=dataset.collate`, since there is nothing left to collate.

    Keys (B samples, V cameras of the store, t, h, w of the codes, T = `history_frames`, C = `chunk_size`):
        pixel_values     uint8 (B, V, T, S, S, 3)  frames k - (T-1) * stride ... k; black before the episode's start
        history_codes    int64 (B, V, t, h, w)     codes at k
        video_codes      int64 (B, V, t, h, w)     codes at min(k + predict_ahead, last frame of the episode)
        state            float32 (B, Ds)           at k, in the robot's units
        action           float32 (B, C, A)         at k ... k+C-1, the last one repeated past the episode's end; or at
                                                   the C keyframes after k, the last frame's where there are no more
        action_is_pad    bool (B, C)               True where it is such a repetition
        task_index       int64 (B,)                into `tasks`
        frame_index      int64 (B,)                k, as a row of the store

    Args:
        store: Where frames, states and actions come from.
        codes: uint16 (N, t, h, w) of `tokenize(store, ...)`, of this store or of the one it is a subset of; for a
            store with `views` a list of V of them; or None.
        with_actions: Give actions; the store must have them.
        with_pixels: Give pixels; False reads no frames at all.
        targets: "steps" or "keyframes": which actions a chunk holds (VPDD on RLBench: keyframes, spec §4.3).
        frame_indices: Which rows of the store are samples, (n,); all by default.

    Raises:
        InputError: Actions or keyframes asked of a dataset without them; codes of another number of frames; sizes
            below 1.
    """

    def __init__(
        self,
        store: FrameStore,
        codes: np.ndarray | None = None,
        history_frames: int = 1,
        history_stride: int = 1,
        predict_ahead: int = 16,
        chunk_size: int = 8,
        with_actions: bool = True,
        with_pixels: bool = True,
        frame_indices: Sequence[int] | np.ndarray | None = None,
        targets: str = "steps",
    ):
        sizes = {"history_frames": history_frames, "history_stride": history_stride, "chunk_size": chunk_size}
        for name, value in {**sizes, "predict_ahead": predict_ahead + 1}.items():
            if value < 1:
                raise InputError(f"{name} is too small: {sizes | {'predict_ahead': predict_ahead}}")
        if with_actions and store.action is None:
            raise InputError(
                f"{store.name} has no actions, so a policy cannot be trained on it; use a dataset recorded with "
                "actions (`hf-vpdd record` without --no-actions), or use this one for video pre-training"
            )
        if targets not in TARGETS:
            raise InputError(f"targets is {targets!r}; it must be one of {', '.join(TARGETS)}")
        if targets == "keyframes" and with_actions:
            require_keyframes(store)
        self.store = store
        self.codes = None if codes is None else _codes_of_views(store, codes)
        self.history_frames = history_frames
        self.history_stride = history_stride
        self.predict_ahead = predict_ahead
        self.chunk_size = chunk_size
        self.with_actions = with_actions
        self.with_pixels = with_pixels
        self.choose_rows(store, frame_indices)
        self.targets = targets
        self._keyframes = None if store.keyframe is None else np.flatnonzero(store.keyframe)

    def __getitems__(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        store = self.store
        k = self.frame_indices[np.asarray(indices, np.int64)]
        last = self._last[k]
        batch = {}
        if self.with_pixels:
            batch["pixel_values"] = store.view_clips(k, self.history_frames, self.history_stride)
        if self.codes is not None:
            views = store.num_frames * np.arange(len(store.cameras))
            # One gather for both: with many shards the cost is that of the shards touched.
            moments = np.stack([k, np.minimum(k + self.predict_ahead, last)])
            codes = self.codes[moments[:, :, None] + views].astype(np.int64)
            batch["history_codes"], batch["video_codes"] = codes
        if store.state is not None:
            batch["state"] = store.state[k]
        if self.with_actions:
            steps = self._target_rows(k)
            batch["action"] = store.action[np.minimum(steps, last[:, None])]
            batch["action_is_pad"] = steps > last[:, None]
        batch["task_index"] = store.frame_task[k]
        batch["frame_index"] = k
        return {key: torch.from_numpy(value) for key, value in batch.items()}

    def _target_rows(self, k: np.ndarray) -> np.ndarray:
        """int64 (B, C): the frames whose actions are the chunk; beyond the episode's last frame: none."""
        ahead = np.arange(self.chunk_size)
        if self.targets == "steps":
            return k[:, None] + ahead
        place = np.searchsorted(self._keyframes, k, side="right")[:, None] + ahead
        rows = self._keyframes[np.minimum(place, len(self._keyframes) - 1)]
        return np.where(place < len(self._keyframes), rows, self.store.num_frames)

    def with_targets(self) -> np.ndarray:
        """bool (samples,): whether at least one action of the chunk is real; after the last keyframe none is."""
        return self._target_rows(self.frame_indices)[:, 0] <= self._last[self.frame_indices]

    @staticmethod
    def collate(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The `collate_fn` of a DataLoader over this dataset: batches arrive collated."""
        return batch


def require_keyframes(store: FrameStore) -> None:
    """An `InputError` if it is not known which frames are keyframes."""
    if store.keyframe is None:
        raise InputError(
            f"{store.name} does not say which frames are keyframes: it needs a feature `keyframe` (0 or 1), or "
            "`observation.joint_velocities`, of which they are found"
        )


def _codes_of_views(store: FrameStore, codes) -> FrameRows:
    """Codes of every camera laid end to end, (V * N, t, h, w), as `FrameStore.view_frames` are."""
    several = list(codes) if store.views else [codes]
    if len(several) != len(store.cameras):
        raise InputError(f"video codes of {len(several)} cameras were given for the {len(store.cameras)} of {store}")
    rows = []
    for camera, one in zip(store.cameras, several):
        one = one if isinstance(one, FrameRows) else FrameRows([one])
        if store.rows is not None and len(one) == store.rows_of:
            one = one.select(store.rows)
        if len(one) != store.num_frames or one.ndim != 4:
            raise InputError(
                f"the video codes {one.shape} do not belong to the {store.num_frames} frames of {store.name}, camera "
                f"{camera!r}; tokenize this store, or the one it is a subset of"
            )
        rows.append(one)
    return FrameRows.concat(rows)
