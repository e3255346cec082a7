"""Rows of memory-mapped arrays, picked and joined without copying them."""

from collections.abc import Iterator, Sequence

import numpy as np


class FrameRows:
    """Rows of one or several memory-mapped arrays seen as one array (N, ...), read only, copied only when asked.

    Takes integers, integer arrays of any shape, slices and boolean masks as an index of the first axis and gives
    ordinary arrays; `np.asarray` gives all. Can be sent to other processes: they map the same files.
    """

    def __init__(self, parts: Sequence[np.ndarray], rows: np.ndarray | None = None):
        self._parts = list(parts)
        # Indexing a memmap costs several times what indexing the same memory as a plain array does.
        self._plain = [part.view(np.ndarray) if isinstance(part, np.memmap) else part for part in self._parts]
        self._ends = np.cumsum([len(part) for part in parts])
        self._starts = self._ends - [len(part) for part in parts]
        self.rows = rows  # into the parts laid end to end; None: all of them
        self.shape = (int(self._ends[-1]) if rows is None else len(rows), *parts[0].shape[1:])
        self.dtype = parts[0].dtype
        self.ndim = len(self.shape)

    @property
    def parts(self) -> list[np.ndarray]:
        """The arrays it was made of."""
        return list(self._parts)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index) -> np.ndarray:
        rest = ()
        if isinstance(index, tuple):
            index, rest = index[0], index[1:]
        if isinstance(index, slice):
            if self.rows is None and len(self._parts) == 1:
                picked = np.asarray(self._plain[0][index])
                return picked[(slice(None), *rest)] if rest else picked
            index = np.arange(len(self))[index]
        index = np.asarray(index)
        if index.dtype == bool:
            index = np.flatnonzero(index)
        if index.size and not -len(self) <= index.min() <= index.max() < len(self):
            raise IndexError(f"rows {index.min()} to {index.max()} asked of {len(self)}")
        index = np.where(index < 0, index + len(self), index)
        picked = self._gather(index if self.rows is None else self.rows[index])
        return picked[(*[slice(None)] * index.ndim, *rest)] if rest else picked

    def _gather(self, rows: np.ndarray) -> np.ndarray:
        if len(self._parts) == 1:
            return np.asarray(self._plain[0][rows])
        flat = rows.reshape(-1)
        part_of = np.searchsorted(self._ends, flat, side="right")
        # Sorted by part, so that the cost grows with the rows and the parts they touch, not with their product.
        order = np.argsort(part_of, kind="stable")
        part_of = part_of[order]
        local = flat[order] - self._starts[part_of]
        ends = np.flatnonzero(np.diff(part_of, append=-1)) + 1
        output, begin = np.empty((len(flat), *self.shape[1:]), self.dtype), 0
        for number, end in zip(part_of[ends - 1].tolist(), ends.tolist()):
            output[order[begin:end]] = self._plain[number][local[begin:end]]
            begin = end
        return output.reshape(*rows.shape, *self.shape[1:])

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.asarray(self[:], dtype=dtype)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i] for i in range(len(self)))

    def select(self, rows: np.ndarray) -> "FrameRows":
        """These rows only."""
        return FrameRows(self._parts, rows if self.rows is None else self.rows[rows])

    @staticmethod
    def concat(several: Sequence["FrameRows"]) -> "FrameRows":
        parts, rows, offset = [], [], 0
        for item in several:
            parts += item._parts
            rows.append(offset + (np.arange(len(item)) if item.rows is None else item.rows))
            offset += int(item._ends[-1])
        whole = all(item.rows is None for item in several)
        return FrameRows(parts, None if whole else np.concatenate(rows))

    def __reduce__(self):
        # Pickling a memmap would copy gigabytes; its file name and shape are enough.
        parts = [
            (part.filename, part.dtype.str, part.shape, part.offset) if isinstance(part, np.memmap) else part
            for part in self._parts
        ]
        return _reopen, (parts, self.rows)


def _reopen(parts: list, rows: np.ndarray | None) -> FrameRows:
    opened = [
        np.memmap(part[0], part[1], "r", part[3], part[2]) if isinstance(part, tuple) else part for part in parts
    ]
    return FrameRows(opened, rows)
