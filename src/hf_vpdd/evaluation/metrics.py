"""Success rates and lengths of chains, with an honest interval. Of pictures and tokens: `video_metrics`."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..errors import InputError


Z_95 = 1.959963984540054  # the two-sided 95 % point of the normal distribution
RESAMPLES = 10_000  # of the bootstrap


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


def success_rate(successes: Iterable[Any], tasks: Iterable[str] | None = None) -> dict[str, Any]:
    """The success rate of a set of episodes with its 95 % Wilson interval.

    Args:
        successes: One for each episode: true or false, or 1 or 0.
        tasks: The task of each; adds `tasks` (the same per task) and `mean_over_tasks`, the plain mean of the tasks'
            rates, which counts every task the same, however many episodes it had.

    Returns:
        `success_rate`, `low`, `high` in 0..1, `successes`, `episodes`.

    Raises:
        InputError: A value that is neither, or as many tasks as there are not episodes.
    """
    values = np.asarray(list(successes) if not isinstance(successes, np.ndarray) else successes).reshape(-1)
    if values.size and not np.isin(values, (0, 1)).all():
        wrong = values[~np.isin(values, (0, 1))][0]
        raise InputError(f"successes: expected true or false for each episode, got {wrong!r}.")
    won = values.astype(bool)
    found = _rate(won)
    if tasks is not None:
        names = [str(task) for task in tasks]
        if len(names) != len(won):
            raise InputError(f"tasks: expected one for each of {len(won)} episodes, got {len(names)}.")
        found["tasks"] = {name: _rate(won[[other == name for other in names]]) for name in dict.fromkeys(names)}
        rates = [one["success_rate"] for one in found["tasks"].values()]
        found["mean_over_tasks"] = sum(rates) / len(rates) if rates else 0.0
    return found


def chain_statistics(done: Sequence[int] | np.ndarray, chain_length: int = 5) -> dict[str, Any]:
    """How far chains of tasks went: CALVIN's numbers.

    Args:
        done: Tasks done of each chain before the first failure, 0..chain_length.
        chain_length: Tasks of a chain.

    Returns:
        `chains`; `success_in_a_row`, for 1..chain_length how many chains got so far, with the 95 % Wilson interval of
        the rate; `average_length` with `mean`, `low`, `high`.

    Raises:
        InputError: A length that is not a whole number of that range.
    """
    done = np.asarray(done)
    whole = done.astype(int)
    if done.ndim != 1 or (done.size and not ((whole == done) & (0 <= done) & (done <= chain_length)).all()):
        raise InputError(f"done: expected a list of whole numbers of 0..{chain_length}, got {done.tolist()[:8]}.")
    rates = []
    for length in range(1, chain_length + 1):
        successes = int((whole >= length).sum())
        low, high = wilson_interval(successes, len(whole))
        rate = successes / len(whole) if len(whole) else 0.0
        rates.append({"in_a_row": length, "successes": successes, "rate": rate, "low": low, "high": high})
    low, high = mean_interval(whole, chain_length)
    return {
        "chains": len(whole),
        "success_in_a_row": rates,
        "average_length": {"mean": float(whole.mean()) if len(whole) else 0.0, "low": low, "high": high},
    }


def mean_interval(done: np.ndarray, chain_length: int = 5) -> tuple[float, float]:
    """95 % interval of the mean chain length: the bootstrap over chains (percentiles of 10,000 resamples, seed 0).

    Chains that all ended alike leave the bootstrap nothing to vary; then each chain counts as a fraction of
    `chain_length` in Wilson's interval, which is never too narrow.

    Args:
        done: int (n,), tasks done of each chain.
    """
    count = len(done)
    if not count:
        return 0.0, float(chain_length)
    if (done == done[0]).all():
        rate, spread = done[0] / chain_length, 1 + Z_95**2 / count
        centre = (rate + Z_95**2 / (2 * count)) / spread
        half = Z_95 / spread * np.sqrt(rate * (1 - rate) / count + Z_95**2 / (4 * count**2))
        low, high = chain_length * np.clip([centre - half, centre + half], 0, 1)
        return (0.0 if rate == 0 else float(low)), (float(chain_length) if rate == 1 else float(high))
    # Resampling chains is drawing how often each length occurs.
    counts = np.bincount(done, minlength=chain_length + 1)
    drawn = np.random.default_rng(0).multinomial(count, counts / count, size=RESAMPLES)
    low, high = np.percentile(drawn @ np.arange(chain_length + 1) / count, [2.5, 97.5])
    return float(low), float(high)


def _rate(won: np.ndarray) -> dict[str, Any]:
    successes, episodes = int(won.sum()), len(won)
    low, high = wilson_interval(successes, episodes)
    rate = successes / episodes if episodes else 0.0
    return {"success_rate": rate, "low": low, "high": high, "successes": successes, "episodes": episodes}
