"""`evaluate` module: peak signal-to-noise ratio of predicted video in dB."""

import datasets
import evaluate
import numpy as np

from hf_vpdd.evaluation import video_metrics
from hf_vpdd.metrics import added_up


DESCRIPTION = "Peak signal-to-noise ratio of predicted video in dB: the mean over all frames of all videos."
INPUTS = """
Args:
    predictions, references: one video (T, H, W, C) or frame (H, W, C) for each sample, uint8 or floats;
        equal frames, whose ratio is infinite, count 100 dB.
    data_range: for floats, largest minus smallest value a pixel can have.
Returns:
    psnr, frames.
"""


class Psnr(added_up.AddedUp):
    def _info(self):
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="",
            inputs_description=INPUTS,
            features=datasets.Features({"total": datasets.Value("float64"), "frames": datasets.Value("int64")}),
        )

    def score(self, prediction, reference, data_range=None):
        frames = np.minimum(video_metrics.psnr(prediction, reference, data_range), 100.0)
        return {"total": float(frames.sum()), "frames": int(frames.size)}

    def _compute(self, total, frames):
        return {"psnr": sum(total) / sum(frames), "frames": sum(frames)}
