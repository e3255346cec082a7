"""Checks the numbers of a dataset in one pass: NaN, times, order, constants, outliers, grippers, statistics."""

from dataclasses import dataclass

import numpy as np

from .findings import Findings
from .gripper import GripperCheck
from .statistics import RunningStatistics


INDEX_COLUMNS = ("timestamp", "frame_index", "episode_index", "index", "task_index")
TIME_TOLERANCE = 1e-4  # s: LeRobot's `tolerance_s`
_FAR = 10.0  # how many times the span of the middle 98 % a value may lie beyond it
_PLAIN_RANGES = ((-1.0, 1.0), (0.0, 1.0))


@dataclass
class Rows:
    """N rows in the order in which they lie: of a file, or of one episode.

    columns: by feature, (N, ...). episode, frame: int64 (N,), what the rows are according to the episode table.
    start: int64 (N,), the dataset-wide index of each row's episode's first frame. file: for messages.
    """

    columns: dict[str, np.ndarray]
    episode: np.ndarray
    frame: np.ndarray
    start: np.ndarray
    file: str | None


class NumberCheck:
    """Looks at all rows piece by piece, in bounded memory; `finish` tells what only the whole can tell.

    Args:
        features: Of the dataset.
        fps: Of the dataset.
        tasks: The table of tasks.
        task_of_episode: The instruction of each episode; None where episodes may have several.
    """

    def __init__(self, findings: Findings, features: dict, fps: float, tasks: list[str], task_of_episode: list):
        self.findings = findings
        self.features = features
        self.fps = fps
        self.tasks = tasks
        self.task_of_episode = task_of_episode
        self.statistics: dict[str, RunningStatistics] = {}
        self.skipped_rows: dict[str, int] = {}  # by feature: rows with NaN, which no statistics were taken of
        self._extremes: dict[str, list[np.ndarray]] = {}  # by feature: where min and max were, (2, D, 2)
        self._gripper = GripperCheck(features, task_of_episode)

    def add(self, rows: Rows) -> None:
        for key, value in list(rows.columns.items()):
            if value.dtype.kind not in "fiub":
                dtype = str(self.features.get(key, {}).get("dtype", "string"))
                if dtype not in ("string", "language"):
                    text = (
                        f"meta/info.json says {dtype}, the rows are text, such as {str(value.reshape(-1)[0])[:40]!r}"
                    )
                    self.findings.add("wrong-type", text, file=rows.file, key=key)
                    rows.columns.pop(key)  # nothing else can be said of it
                continue
            self._check_type(key, value, rows)
            finite = self._check_finite(key, value, rows)
            self._take_statistics(key, value, finite, rows)
        self._check_index(rows)
        self._check_times(rows)
        self._check_tasks(rows)
        self._gripper.add(rows.columns, rows.episode)

    def _report(self, kind: str, key: str, bad: np.ndarray, rows: Rows, message) -> None:
        """One finding an episode: its first bad row, counted as often as there are."""
        if not bad.any():
            return
        where = np.flatnonzero(bad)
        episodes, first, number = np.unique(rows.episode[where], return_index=True, return_counts=True)
        for episode, place, times in zip(episodes.tolist(), where[first].tolist(), number.tolist()):
            text = message(place) + (f" (and {times - 1} more frames of this episode)" if times > 1 else "")
            frame = int(rows.frame[place])
            self.findings.add(kind, text, times, file=rows.file, episode=episode, frame=frame, key=key)

    def _check_type(self, key: str, value: np.ndarray, rows: Rows) -> None:
        feature = self.features.get(key)
        if feature is None:
            return
        shape = tuple(feature.get("shape") or ())
        found = value.shape[1:] or (1,)
        if shape and found != shape and not (shape == (1,) and found == (1,)):
            text = f"meta/info.json says shape {list(shape)}, the rows have {list(found)}"
            self.findings.add("wrong-type", text, file=rows.file, key=key)
        dtype = str(feature.get("dtype"))
        if dtype != str(value.dtype) and dtype not in ("video", "image"):
            text = f"meta/info.json says {dtype}, the rows are {value.dtype}"
            self.findings.add("wrong-type", text, file=rows.file, key=key)

    def _check_finite(self, key: str, value: np.ndarray, rows: Rows) -> np.ndarray | None:
        """bool (N,): which rows are finite; None: all."""
        if value.dtype.kind != "f":
            return None
        finite = np.isfinite(value).reshape(len(value), -1).all(axis=1)
        if finite.all():
            return None

        def message(place: int) -> str:
            row = value[place].reshape(-1)
            dims = np.flatnonzero(~np.isfinite(row)).tolist()
            return f"{_dimensions(self.features.get(key), dims)} is {row[dims[0]]}"

        self._report("nan", key, ~finite, rows, message)
        return finite

    def _take_statistics(self, key: str, value: np.ndarray, finite: np.ndarray | None, rows: Rows) -> None:
        episode, frame = rows.episode, rows.frame
        if finite is not None:
            self.skipped_rows[key] = self.skipped_rows.get(key, 0) + int((~finite).sum())
            value, episode, frame = value[finite], episode[finite], frame[finite]
        if len(value) == 0:
            return
        flat = value.reshape(len(value), -1)
        running = self.statistics.setdefault(key, RunningStatistics())
        if running.count and len(running.mean) != flat.shape[1]:
            return  # reported as wrong-type
        before = (running.min.copy(), running.max.copy()) if running.count else None
        running.update(flat)
        if key in INDEX_COLUMNS or value.dtype.kind == "b":
            return
        if before is None:
            self._extremes[key] = [np.zeros((flat.shape[1], 2), np.int64) for _ in range(2)]
        for side, places in enumerate((flat.argmin(axis=0), flat.argmax(axis=0))):
            now = flat[places, np.arange(flat.shape[1])]
            new = np.ones(len(now), bool) if before is None else (now < before[0] if side == 0 else now > before[1])
            self._extremes[key][side][new] = np.stack([episode[places], frame[places]], axis=1)[new]

    def _check_index(self, rows: Rows) -> None:
        expected = {
            "frame_index": rows.frame,
            "episode_index": rows.episode,
            "index": rows.start + rows.frame,
        }
        for key, wanted in expected.items():
            value = rows.columns.get(key)
            if value is not None and value.shape == wanted.shape:
                self._report(
                    "wrong-rows", key, value != wanted, rows,
                    lambda place, value=value, wanted=wanted: f"is {value[place]}, expected {wanted[place]}",
                )  # fmt: skip

    def _check_times(self, rows: Rows) -> None:
        times = rows.columns.get("timestamp")
        if times is None or times.shape != rows.frame.shape:
            return
        wanted = rows.frame / self.fps
        # Beyond 800 s float32 itself is coarser than the tolerance.
        bad = np.abs(times - wanted) > TIME_TOLERANCE + np.abs(wanted) * 1.2e-7
        self._report(
            "timestamp", "timestamp", bad, rows,
            lambda place: f"is {times[place]:.6g} s, expected {wanted[place]:.6g} s (frame / {self.fps:g} fps)",
        )  # fmt: skip

    def _check_tasks(self, rows: Rows) -> None:
        index = rows.columns.get("task_index")
        if index is None or index.shape != rows.frame.shape:
            return
        outside = (index < 0) | (index >= len(self.tasks))
        self._report(
            "task", "task_index", outside, rows,
            lambda place: f"is {index[place]}, the table of tasks has {len(self.tasks)}",
        )  # fmt: skip
        number = {task: i for i, task in enumerate(self.tasks)}
        wanted = np.array([number.get(self.task_of_episode[e], -1) for e in np.unique(rows.episode)], np.int64)
        wanted = wanted[np.unique(rows.episode, return_inverse=True)[1].reshape(-1)]
        self._report(
            "task", "task_index", (index != wanted) & (wanted >= 0) & ~outside, rows,
            lambda place: f"is {self.tasks[index[place]]!r}, the episode table says {self.tasks[wanted[place]]!r}",
        )  # fmt: skip

    # -- what only the whole tells ---------------------------------------------------------------------------------

    def finish(self, stored: dict | None) -> None:
        """Reports constants, outliers, grippers, and where `stored` (meta/stats.json as arrays) is of other data."""
        for key, running in self.statistics.items():
            if key not in INDEX_COLUMNS and running.count and self.features.get(key, {}).get("dtype") != "bool":
                self._check_spread(key, running)
        self._gripper.finish(self.findings)
        if stored is not None:
            for key, running in self.statistics.items():
                self._compare(key, running, stored)

    def _check_spread(self, key: str, running: RunningStatistics) -> None:
        if running.count < 2:
            return
        feature = self.features.get(key)
        low, high, first, last = running.min, running.max, running.quantile(0.01), running.quantile(0.99)
        constant = np.flatnonzero(high == low)
        for dim in constant.tolist():
            self.findings.add("constant", f"{_dimensions(feature, [dim])} is always {low[dim]:g}", key=key)
        if running.count < 100:
            return  # too few for saying what is usual
        span = last - first
        for side, (value, edge) in enumerate(((low, first), (high, last))):
            far = np.abs(value - edge)
            for dim in np.flatnonzero((span > 0) & (far > _FAR * span)).tolist():
                episode, frame = self._extremes[key][side][dim].tolist()
                self.findings.add(
                    "outlier",
                    f"{_dimensions(feature, [dim])} is {value[dim]:.6g}; 98 % of all lie from {first[dim]:.4g} to "
                    f"{last[dim]:.4g}",
                    episode=episode, frame=frame, key=key,
                )  # fmt: skip
        if key == "action":
            for dim in range(len(low)):
                self._check_range(key, dim, (low[dim], high[dim]), (first[dim], last[dim]))

    def _check_range(self, key: str, dim: int, found: tuple, middle: tuple) -> None:
        """An action whose middle fills [-1, 1] or [0, 1] is meant to lie there."""
        for low, high in _PLAIN_RANGES:
            slack = 1e-3 * (high - low)
            fills = abs(middle[0] - low) <= slack and abs(middle[1] - high) <= slack
            for side, beyond in enumerate((found[0] < low - slack, found[1] > high + slack)):
                if fills and beyond:
                    episode, frame = self._extremes[key][side][dim].tolist()
                    self.findings.add(
                        "out-of-range",
                        f"{_dimensions(self.features.get(key), [dim])} is {found[side]:.6g}; nearly all others keep "
                        f"from {low:g} to {high:g}",
                        episode=episode, frame=frame, key=key,
                    )  # fmt: skip

    def _compare(self, key: str, running: RunningStatistics, stored: dict) -> None:
        if key not in stored:
            if self.features.get(key, {}).get("dtype") not in ("bool", "string"):
                self.findings.add("stats", "the feature has no statistics", file="meta/stats.json", key=key)
            return
        if self.skipped_rows.get(key):
            return  # of data with NaN no statistics are right
        for problem in stats_problems(stored[key], running):
            self.findings.add("stats", problem, file="meta/stats.json", key=key)


def stats_problems(stored: dict, running: RunningStatistics) -> list[str]:
    """How stored statistics of a feature contradict those of its data, side by side; empty if they do not.

    Quantiles are only required to be in order and within the range: LeRobot averages them over episodes, so that they
    are not those of the data.
    """
    found = {"min": running.min, "max": running.max, "mean": running.mean, "std": running.std}
    spread = np.maximum(running.max - running.min, np.abs(running.mean) * 1e-6 + 1e-12)
    problems = []
    if "count" in stored and int(np.reshape(stored["count"], -1)[0]) != running.count:
        problems.append(f"count is {int(np.reshape(stored['count'], -1)[0])}, the data has {running.count} rows")
    for name, value in found.items():
        if name not in stored:
            problems.append(f"{name} is missing")
            continue
        old = np.reshape(np.asarray(stored[name], np.float64), -1)
        if old.shape != value.shape:
            problems.append(f"{name} has {old.size} numbers, the data has {value.size} dimensions")
            continue
        # Files may keep float32; sums of LeRobot's are float32 too.
        off = ~(np.abs(old - value) <= 1e-3 * spread + 1e-6 * np.abs(value))
        if off.any():
            dim = int(np.flatnonzero(off)[0])
            more = f" ({int(off.sum())} of {off.size} dimensions differ)" if off.size > 1 else ""
            problems.append(f"{name}[{dim}] is {old[dim]:.6g}, that of the data {value[dim]:.6g}{more}")
    names = [name for name in ("min", "q01", "q10", "q50", "q90", "q99", "max") if name in stored]
    ladder = [np.reshape(np.asarray(stored[name], np.float64), -1) for name in names]
    if len({step.shape for step in ladder}) == 1:
        for (name, lower), (other, upper) in zip(zip(names, ladder), zip(names[1:], ladder[1:])):
            if not (lower <= upper + 1e-3 * np.abs(upper) + 1e-6).all():
                problems.append(f"{name} is larger than {other}")
    return problems


def _dimensions(feature: dict | None, dims: list[int]) -> str:
    """ "dimension 3 (gripper)" """
    names = (feature or {}).get("names")
    names = next(iter(names.values()), None) if isinstance(names, dict) else names
    label = f" ({names[dims[0]]})" if isinstance(names, list) and dims[0] < len(names) else ""
    return f"dimension {dims[0]}{label}" + (f" and {len(dims) - 1} more" if len(dims) > 1 else "")
