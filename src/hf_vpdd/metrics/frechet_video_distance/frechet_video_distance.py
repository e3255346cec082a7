"""`evaluate` module: Fréchet distance of video features that the user gives (FVD; no network is shipped)."""

import datasets
import evaluate

from hf_vpdd.evaluation import video_metrics


DESCRIPTION = "Fréchet distance of two sets of features. With features of I3D it is FVD; no network comes with it."
INPUTS = """
Args:
    predictions, references: a list of D numbers for each video; at least 2 videos of each, and as many of one as of
        the other (the distance is biased for few samples, and differently for different numbers of them).
Returns:
    frechet_video_distance, videos.
"""


class FrechetVideoDistance(evaluate.Metric):
    def _info(self):
        row = datasets.Sequence(datasets.Value("float64"))
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="T. Unterthiner et al., Towards Accurate Generative Models of Video, arXiv 1812.01717.",
            inputs_description=INPUTS,
            features=datasets.Features({"predictions": row, "references": row}),
        )

    def _compute(self, predictions, references):
        distance = video_metrics.frechet_distance(predictions, references)
        return {"frechet_video_distance": distance, "videos": len(predictions)}
