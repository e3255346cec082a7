"""The package's metrics as modules of Hugging Face `evaluate`, each in a folder of its name; they work offline.

    import evaluate, hf_vpdd

    rate = evaluate.load(hf_vpdd.metrics_path("success_rate"))
    rate.compute(predictions=[True, False, True])  # {"success_rate": 0.667, "low": 0.208, "high": 0.939, ...}

Each is a thin wrapper of a plain function in `hf_vpdd.evaluation.metrics` or `hf_vpdd.evaluation.video_metrics`, which
need neither `evaluate` nor this package's extra `metrics`.
"""

import difflib
from pathlib import Path

from ..errors import InputError


METRICS = ("chain_length", "frechet_video_distance", "psnr", "ssim", "success_rate", "token_accuracy")


def metrics_path(name: str) -> str:
    """The folder of a metric, for `evaluate.load`.

    Raises:
        InputError: There is none of that name; the message lists them.
    """
    if name not in METRICS:
        near = difflib.get_close_matches(str(name), METRICS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise InputError(f"metric {name!r}: {hint}there are {', '.join(METRICS)}.")
    return str(Path(__file__).parent / name)
