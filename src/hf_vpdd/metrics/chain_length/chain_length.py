"""`evaluate` module: tasks done in a row, CALVIN's average sequence length, with intervals."""

import datasets
import evaluate

from hf_vpdd.evaluation import metrics


DESCRIPTION = "CALVIN: how many tasks of a chain were done before the first failure, and the share of 1..5 in a row."
INPUTS = """
Args:
    predictions: tasks done of each chain, 0..chain_length.
    chain_length (optional): tasks of a chain, 5.
Returns:
    average_length, average_length_low, average_length_high (95 %), chains, and for n = 1..chain_length
    success_n_in_a_row with _low and _high (Wilson, 95 %).
"""


class ChainLength(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="O. Mees et al., CALVIN, IEEE RA-L 2022, arXiv 2112.03227.",
            inputs_description=INPUTS,
            features=datasets.Features({"predictions": datasets.Value("int64")}),
        )

    def _compute(self, predictions, chain_length=5):
        found = metrics.chain_statistics(predictions, chain_length)
        mean = found["average_length"]
        flat = {"average_length": mean["mean"], "average_length_low": mean["low"], "average_length_high": mean["high"]}
        for one in found["success_in_a_row"]:
            name = f"success_{one['in_a_row']}_in_a_row"
            flat |= {name: one["rate"], f"{name}_low": one["low"], f"{name}_high": one["high"]}
        return flat | {"chains": found["chains"]}
