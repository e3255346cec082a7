"""The base of metrics whose inputs are too large for `evaluate` to store: videos, tokens.

`evaluate` writes what is added to a table on disk, element by element; a video of 8 frames of 64 x 64 takes it a
second. So each sample is scored when it is added, and its few numbers are what is stored (and gathered from several
processes).
"""

from collections.abc import Sequence
from typing import Any

import evaluate


class AddedUp(evaluate.Metric):
    """Scores samples when they are added. The features of `_info` are the numbers that `score` returns."""

    per_sample: tuple[str, ...] = ()  # names of further inputs that come one for each sample

    def score(self, prediction: Any, reference: Any, **options: Any) -> dict[str, Any]:
        """The numbers of one sample."""
        raise NotImplementedError

    def add(self, *, prediction=None, reference=None, **options):
        """One sample."""
        super().add(**self.score(prediction, reference, **options))

    def add_batch(self, *, predictions=None, references=None, **options):
        """Samples, a list of each or an array whose first dimension they are. Further inputs (`present`) likewise."""
        rows = _rows(self, predictions, references, options)
        if rows:
            super().add_batch(**{name: [row[name] for row in rows] for name in rows[0]})

    def compute(self, *, predictions=None, references=None, **options):
        """The result for what was added, and for these samples if they are given."""
        if predictions is not None or references is not None:
            self.add_batch(predictions=predictions, references=references, **options)
        return super().compute()


def _rows(metric: AddedUp, predictions, references, options: dict[str, Any]) -> list[dict[str, Any]]:
    if predictions is None or references is None or len(predictions) != len(references):
        raise ValueError(
            "predictions and references: expected as many of one as of the other, got "
            f"{_count(predictions)} and {_count(references)}."
        )
    rows = []
    for i, (prediction, reference) in enumerate(zip(predictions, references)):
        own = {name: value[i] if name in metric.per_sample else value for name, value in options.items()}
        rows.append(metric.score(prediction, reference, **own))
    return rows


def _count(values: Sequence | None) -> Any:
    return "none" if values is None else len(values)
