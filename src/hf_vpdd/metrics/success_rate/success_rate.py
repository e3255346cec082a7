"""`evaluate` module: success rate of episodes with its 95 % Wilson interval."""

import datasets
import evaluate

from hf_vpdd.evaluation import metrics


DESCRIPTION = "Share of episodes that succeeded, with Wilson's 95 % interval; per task if tasks are given."
INPUTS = """
Args:
    predictions: true or false (1 or 0) for each episode.
    tasks (optional): the task of each episode.
Returns:
    success_rate, low, high (0..1), successes, episodes; with tasks also `tasks` and `mean_over_tasks`.
"""


class SuccessRate(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="E. B. Wilson, Probable Inference, the Law of Succession, and Statistical Inference, JASA 1927.",
            inputs_description=INPUTS,
            features=datasets.Features({"predictions": datasets.Value("int8")}),
        )

    def _compute(self, predictions, tasks=None):
        return metrics.success_rate(predictions, tasks)
