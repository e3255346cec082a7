"""Learning-rate schedules as pure functions of the step: nothing to save, nothing to restore."""

import math

from .arguments import TrainArguments


def learning_rate_factor(step: int, args: TrainArguments) -> float:
    """Learning rate of optimiser step `step` (0-based, of `args.steps`) divided by the peak.

    * ``constant``: linear warm-up, then 1.
    * ``cosine``: linear warm-up, then half a cosine down to `final_learning_rate_ratio`.
    * ``onecycle``: half a cosine up from 1/25, then half a cosine down (Smith & Topin 2017, as torch's OneCycleLR).
    * ``wsd``: linear warm-up, flat, linear decay over the last `decay` steps.
    """
    total, end = args.steps, args.final_learning_rate_ratio
    warm = _length(args.warmup, total)
    if step < warm:
        if args.schedule == "onecycle":
            return 0.04 + 0.96 * 0.5 * (1 - math.cos(math.pi * step / warm))
        return (step + 1) / (warm + 1)
    if args.schedule == "constant":
        return 1.0
    if args.schedule == "wsd":
        decay = max(_length(args.decay, total), 1)
        past = (step - (total - decay) + 1) / decay
        return 1.0 - (1.0 - end) * min(max(past, 0.0), 1.0)
    past = (step - warm) / max(total - warm, 1)  # the last step still learns: the end is reached after it
    return end + (1.0 - end) * 0.5 * (1 + math.cos(math.pi * min(past, 1.0)))


def _length(value: float, total: int) -> int:
    return round(value * total) if value < 1 else int(value)
