"""Statistics of a dataset in one pass and bounded memory, with LeRobot's definitions.

Per feature: min, max, mean, std (of the population), count, and the quantiles 0.01, 0.10, 0.50, 0.90, 0.99. Vectors of
size D give arrays (D,), scalars (1,), images (3, 1, 1) in [0, 1] where count is the number of images looked at.

Mean and variance are merged pairwise in float64 (Chan et al.), so offsets much larger than the spread do no harm.
Quantiles are exact (linear interpolation, as numpy's default) up to `exact_rows` rows, afterwards read from a
histogram of 8192 bins, good to about 1/4096 of the range. LeRobot averages the quantiles of the episodes instead,
which is not a quantile of the data when episodes differ; ours is.
"""

import numpy as np

from ..errors import InputError


QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}


class RunningStatistics:
    """Statistics of rows (N, D) that arrive in pieces."""

    def __init__(self, exact_rows: int = 1 << 18, bins: int = 8192):
        self.exact_rows = exact_rows
        self.bins = bins
        self.count = 0
        self._rows: list[np.ndarray] | None = []
        self._histogram = None

    def update(self, rows: np.ndarray) -> None:
        """Adds rows: numbers (N, D) or (N,).

        Raises:
            InputError: Another D than before, or values that are NaN or infinite.
        """
        rows = np.asarray(rows)
        rows = rows.reshape(len(rows), -1)
        if len(rows) == 0:
            return
        wide = rows.astype(np.float64)
        if not np.isfinite(wide).all():
            index = int(np.flatnonzero(~np.isfinite(wide).all(axis=1))[0])
            raise InputError(f"statistics: row {index} of the piece added is NaN or infinite: {wide[index].tolist()}")
        if self.count and wide.shape[1] != len(self.mean):
            raise InputError(f"statistics: rows of size {wide.shape[1]} added to rows of size {len(self.mean)}")
        mean, low, high = wide.mean(axis=0), wide.min(axis=0), wide.max(axis=0)
        squares = np.square(wide - mean).sum(axis=0)
        if self.count == 0:
            self.mean, self.min, self.max, self._squares = mean, low, high, squares
        else:
            total = self.count + len(wide)
            delta = mean - self.mean
            self.mean = self.mean + delta * (len(wide) / total)
            self._squares = self._squares + squares + np.square(delta) * (self.count * len(wide) / total)
            self.min, self.max = np.minimum(self.min, low), np.maximum(self.max, high)
        self.count += len(wide)
        if self._rows is not None:
            self._rows.append(rows.copy())
            if self.count > self.exact_rows:
                kept, self._rows = np.concatenate(self._rows).astype(np.float64), None
                self._histogram = _Histogram(self.min, self.max, self.bins)
                self._histogram.add(kept)
        else:
            self._histogram.add(wide)

    @property
    def std(self) -> np.ndarray:
        return np.sqrt(self._squares / self.count)

    def quantile(self, fraction: float) -> np.ndarray:
        """The value (D,) below which `fraction` of the rows lie."""
        if self._rows is None:
            return np.clip(self._histogram.quantile(fraction), self.min, self.max)
        if len(self._rows) > 1:
            self._rows = [np.concatenate(self._rows)]
        return np.quantile(self._rows[0].astype(np.float64), fraction, axis=0)

    def result(self) -> dict[str, np.ndarray]:
        """{"min", "max", "mean", "std", "count" (1,), "q01", "q10", "q50", "q90", "q99"}; empty without rows."""
        if self.count == 0:
            return {}
        return {
            "min": self.min, "max": self.max, "mean": self.mean, "std": self.std,
            "count": np.array([self.count]), **{name: self.quantile(q) for name, q in QUANTILES.items()},
        }  # fmt: skip


class _Histogram:
    """Counts per dimension over a range that doubles, by merging neighbouring bins, when a value falls outside."""

    def __init__(self, low: np.ndarray, high: np.ndarray, bins: int):
        self.low = low.astype(np.float64)
        # Wider than seen, so that a little drift does not force a doubling at once; never of width zero.
        self.width = np.maximum(high - low, np.maximum(np.abs(low), 1.0) * 1e-9) * 1.0001
        self.counts = np.zeros((len(low), bins), np.int64)

    def add(self, rows: np.ndarray) -> None:
        bins = self.counts.shape[1]
        for d, column in enumerate(rows.T):
            while column.max() >= self.low[d] + self.width[d]:
                self._double(d, downwards=False)
            while column.min() < self.low[d]:
                self._double(d, downwards=True)
            index = ((column - self.low[d]) / self.width[d] * bins).astype(np.int64)
            self.counts[d] += np.bincount(np.clip(index, 0, bins - 1), minlength=bins)

    def _double(self, d: int, downwards: bool) -> None:
        merged = self.counts[d].reshape(-1, 2).sum(axis=1)
        empty = np.zeros_like(merged)
        self.counts[d] = np.concatenate([empty, merged] if downwards else [merged, empty])
        if downwards:
            self.low[d] -= self.width[d]
        self.width[d] *= 2

    def quantile(self, fraction: float) -> np.ndarray:
        bins = self.counts.shape[1]
        cumulated = self.counts.cumsum(axis=1)
        output = np.empty(len(self.low))
        for d, row in enumerate(cumulated):
            target = fraction * row[-1]
            index = int(np.searchsorted(row, target))
            below = row[index - 1] if index else 0
            within = (target - below) / max(row[index] - below, 1)
            output[d] = self.low[d] + (index + within) * self.width[d] / bins
        return output


class ImageStatistics:
    """Statistics of the pixels of uint8 RGB images per channel, exact from 256 counts each."""

    def __init__(self):
        self.count = 0
        self._counts = np.zeros((3, 256), np.int64)

    def update(self, images: np.ndarray) -> None:
        """Adds images, uint8 (N, H, W, 3). Large ones are thinned to about 150 pixels a side, as LeRobot does."""
        height, width = images.shape[1:3]
        if max(height, width) >= 300:
            step = max(1, max(height, width) // 150)
            images = images[:, ::step, ::step]
        for channel in range(3):
            self._counts[channel] += np.bincount(images[..., channel].reshape(-1), minlength=256)
        self.count += len(images)

    def result(self) -> dict[str, np.ndarray]:
        """As `RunningStatistics.result`, arrays (3, 1, 1) in [0, 1]; empty without images."""
        if self.count == 0:
            return {}
        values = np.arange(256) / 255.0
        pixels = self._counts.sum(axis=1, keepdims=True)
        share = self._counts / pixels
        mean = share @ values
        cumulated = self._counts.cumsum(axis=1)

        def value_at(rank: np.ndarray) -> np.ndarray:  # of the pixel with this place in sorted order
            return np.array([values[np.searchsorted(c, r, side="right")] for c, r in zip(cumulated, rank)])

        def quantile(fraction: float) -> np.ndarray:  # linear interpolation between neighbours, as numpy
            place = fraction * (pixels[:, 0] - 1)
            lower = np.floor(place).astype(np.int64)
            upper = np.minimum(lower + 1, pixels[:, 0] - 1)
            return value_at(lower) + (place - lower) * (value_at(upper) - value_at(lower))

        output = {
            "min": value_at(np.zeros(3, np.int64)),
            "max": value_at(pixels[:, 0] - 1),
            "mean": mean,
            "std": np.sqrt((share * np.square(values - mean[:, None])).sum(axis=1)),
            **{name: quantile(q) for name, q in QUANTILES.items()},
        }
        return {"count": np.array([self.count]), **{name: value.reshape(3, 1, 1) for name, value in output.items()}}


def sample_indices(length: int) -> np.ndarray:
    """The frames of an episode whose images go into the statistics: all of up to 100, length**0.75 of more, evenly."""
    number = max(min(length, 100), min(int(length**0.75), 10_000))
    return np.round(np.linspace(0, length - 1, number)).astype(np.int64)


def to_json(statistics: dict[str, dict[str, np.ndarray]]) -> dict:
    """Nested lists for `meta/stats.json`."""
    return {key: {name: value.tolist() for name, value in stats.items()} for key, stats in statistics.items()}


def from_json(statistics: dict) -> dict[str, dict[str, np.ndarray]]:
    """Back to arrays: float64, `count` int64."""
    return {
        key: {name: np.asarray(value, np.int64 if name == "count" else np.float64) for name, value in stats.items()}
        for key, stats in statistics.items()
    }
