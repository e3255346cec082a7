"""`evaluate` module: accuracy of predicted video tokens."""

import datasets
import evaluate

from hf_vpdd.evaluation import video_metrics
from hf_vpdd.metrics import added_up


DESCRIPTION = "Share of video tokens that were predicted right, of all and of those that change from the present."
INPUTS = """
Args:
    predictions, references: whole numbers, any shape for each sample.
    present (optional): the tokens before, of the same shape.
Returns:
    accuracy, tokens; with present also changed_accuracy, changed_tokens, copy_accuracy (copying the present).
"""


class TokenAccuracy(added_up.AddedUp):
    per_sample = ("present",)

    def _info(self):
        names = ("tokens", "right", "changed", "changed_right", "with_present")
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="",
            inputs_description=INPUTS,
            features=datasets.Features({name: datasets.Value("int64") for name in names}),
        )

    def score(self, prediction, reference, present=None):
        counts = video_metrics.token_counts(prediction, reference, present)
        return counts | {"with_present": int(present is not None)}

    def _compute(self, tokens, right, changed, changed_right, with_present):
        found = video_metrics.accuracy_of_counts(
            {"tokens": sum(tokens), "right": sum(right), "changed": sum(changed), "changed_right": sum(changed_right)},
            with_present=all(with_present),
        )
        return found
