"""`evaluate` module: structural similarity of predicted video, -1..1."""

import datasets
import evaluate

from hf_vpdd.evaluation import video_metrics
from hf_vpdd.metrics import added_up


DESCRIPTION = "Structural similarity of predicted video, -1..1: the mean over all frames of all videos."
INPUTS = """
Args:
    predictions, references: one video (T, H, W, C) or frame (H, W, C) for each sample, uint8 or floats;
        at least 11 x 11 pixels.
    data_range: for floats, largest minus smallest value a pixel can have.
Returns:
    ssim, frames.
"""


class Ssim(added_up.AddedUp):
    def _info(self):
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="Z. Wang et al., Image Quality Assessment, IEEE Transactions on Image Processing 2004.",
            inputs_description=INPUTS,
            features=datasets.Features({"total": datasets.Value("float64"), "frames": datasets.Value("int64")}),
        )

    def score(self, prediction, reference, data_range=None):
        frames = video_metrics.ssim(prediction, reference, data_range)
        return {"total": float(frames.sum()), "frames": int(frames.size)}

    def _compute(self, total, frames):
        return {"ssim": sum(total) / sum(frames), "frames": sum(frames)}
