"""Success rates with an honest interval."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any


Z_95 = 1.959963984540054  # the two-sided 95 % point of the normal distribution


def wilson_interval(successes: int, n: int, z: float = Z_95) -> tuple[float, float]:
    """Wilson's score interval of a success rate: (low, high), both in 0..1.

    Unlike the usual p ± z·sqrt(p(1-p)/n) it stays within 0..1 and does not shrink to nothing at 0 or n successes,
    which is where policies end up. Nothing tried means nothing known: n = 0 gives (0, 1).

    Args:
        successes: Episodes that succeeded, 0..n.
        n: Episodes tried.
        z: Width in standard deviations; the default makes it a 95 % interval.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"successes must lie in 0..n; got successes={successes} with n={n}")
    if n == 0:
        return 0.0, 1.0
    rate = successes / n
    spread = 1 + z * z / n
    centre = (rate + z * z / (2 * n)) / spread
    half = z / spread * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    # The exact ends are 0 and 1; rounding would leave 1e-17 there, which prints as "-0.0 %".
    return (0.0 if successes == 0 else centre - half), (1.0 if successes == n else centre + half)


@dataclass(frozen=True)
class Score:
    """How one task (or all together) went. Rates are fractions in 0..1, `steps` a mean number of environment steps."""

    name: str
    successes: int
    episodes: int
    rate: float
    low: float  # 95 % Wilson interval
    high: float
    steps: float | None  # mean steps of the successful episodes; None if there are none

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def score(name: str, results: Iterable[Mapping[str, Any]]) -> Score:
    """The score of a set of episodes, each with `success` (bool) and `steps` (int)."""
    results = list(results)
    won = [result for result in results if result["success"]]
    low, high = wilson_interval(len(won), len(results))
    return Score(
        name=name,
        successes=len(won),
        episodes=len(results),
        rate=len(won) / len(results) if results else 0.0,
        low=low,
        high=high,
        steps=sum(result["steps"] for result in won) / len(won) if won else None,
    )


def score_by_task(results: Iterable[Mapping[str, Any]]) -> list[Score]:
    """One score per task, in the order in which the tasks first appear."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for result in results:
        groups.setdefault(result["task"], []).append(result)
    return [score(task, group) for task, group in groups.items()]


def mean_over_tasks(scores: Iterable[Score]) -> float:
    """The plain mean of the tasks' success rates: every task counts the same, however many episodes it had."""
    scores = list(scores)
    return sum(one.rate for one in scores) / len(scores) if scores else 0.0
