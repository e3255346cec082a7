"""Frames that are decoded when they are asked for and dropped again: for data too large to keep decoded.

`FrameStore.build(..., decode=False)` gives a store of them. Training on video codes looks at a few pictures only;
`decode_frames(store)` makes an ordinary store of it, on the disk, for training that looks at all.
"""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np


_CHUNK = 64  # frames decoded at a time


class VideoFrames:
    """Read only, uint8 RGB (N, S, S, 3): an array that a `FrameRows` can be made of.

    Args:
        dataset: Of `open_dataset`. key: the feature of the camera. size: S.
        build: How the store was asked for, to open the dataset again in another process and to decode all of it.
    """

    ndim, dtype = 4, np.dtype(np.uint8)

    def __init__(self, dataset: Any, key: str, size: int, build: dict[str, Any]):
        self.shape = (int(dataset.num_frames), size, size, 3)
        self.key, self.size, self.build = key, size, build
        self.array: np.ndarray | None = None  # after `decode_all`
        self._dataset = dataset

    def __len__(self) -> int:
        return self.shape[0]

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_dataset": None, "array": None}  # open files do not travel

    def __getitem__(self, index: slice | np.ndarray) -> np.ndarray:
        if self.array is not None:
            return np.asarray(self.array[index])
        rows = np.arange(len(self))[index] if isinstance(index, slice) else np.asarray(index)
        wanted, place = np.unique(rows, return_inverse=True)
        frames = np.empty((len(wanted), *self.shape[1:]), np.uint8)
        for run in np.split(np.arange(len(wanted)), np.flatnonzero(np.diff(wanted) > 1) + 1):
            if len(run):
                for spot, frame in zip(run, self.iterate(int(wanted[run[0]]), int(wanted[run[-1]]) + 1)):
                    frames[spot] = frame
        return frames[place.reshape(rows.shape)]

    def iterate(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """Frames `start` to `stop - 1` one by one, uint8 (S, S, 3), with a bounded number of them in memory."""
        from .frame_store import fit_square

        if self.array is not None:
            yield from self.array[start:stop]
            return
        table, row = self._opened().episodes, start
        while row < stop:
            episode = int(np.searchsorted(table.start, row, side="right")) - 1
            first = row - int(table.start[episode])
            count = min(stop - row, int(table.length[episode]) - first)
            for image in self._pictures(episode, first, count):
                yield fit_square(image, self.size)
            row += count

    def decode_all(self) -> None:
        """Decode all frames into the dataset's cache, or open what is there; from now on they come from it."""
        from .frame_store import FrameStore

        if self.array is None:
            self.array = FrameStore.build(**self.build).frames[:]

    def _opened(self):
        if self._dataset is None:
            from .formats import open_dataset

            self._dataset = open_dataset(self.build["root"], False, self.build["fps"])
        return self._dataset

    def _pictures(self, episode: int, first: int, count: int) -> Iterator[np.ndarray]:
        dataset = self._opened()
        if hasattr(dataset, "iterate"):
            yield from dataset.iterate(episode, first, count)
            return
        for begin in range(first, first + count, _CHUNK):
            number = min(_CHUNK, first + count - begin)
            yield from dataset.frames(self.key, episode, begin, number)


def decode_frames(store) -> None:
    """Let all frames of a store come from the disk: those that are decoded when asked for are decoded once, now.

    Args:
        store: A `FrameStore`, of whatever pieces and views. Its subsets share what is decoded.

    Raises:
        InputError: As `FrameStore.build`.
    """
    for part in store.view_frames.parts:
        if isinstance(part, VideoFrames):
            part.decode_all()


def build_options(root: str | os.PathLike, camera: str, image_size: int, cache_dir, progress: bool, fps) -> dict:
    """The arguments of `FrameStore.build` that make the same store again."""
    return {
        "root": os.fspath(root), "camera": camera, "image_size": image_size,
        "cache_dir": None if cache_dir is None else os.fspath(cache_dir), "progress": progress, "fps": fps,
    }  # fmt: skip
