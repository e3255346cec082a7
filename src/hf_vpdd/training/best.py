"""Which checkpoint is the best one so far, by a metric of held-out data or of rollouts."""

import json
import math
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import atomic_write_text


# What each stage measures on held-out episodes; the first one is what `keep_best: true` goes by.
METRICS = {
    "vqvae": ("psnr_weighted", "psnr", "codes_used"),
    "pretrain": ("loss", "top1", "top1_changed"),
    "finetune": ("loss", "action_error", "position_error", "rotation_error", "gripper_error"),
    "gr1_pretrain": ("loss", "psnr"),
    "gr1_finetune": ("loss", "arm_loss", "gripper_loss", "action_error", "gripper_error", "video_loss", "psnr"),
    "value_pretrain": ("order", "order_text", "loss"),
    "offline_rl": ("nll", "action_error"),
}
ROLLOUT_METRIC = "rollout/success"
FILE = "best.json"
_HIGHER = ("psnr", "psnr_weighted", "codes_used", "top1", "top1_changed", "order", "order_text", "success")


class BestCheckpoint:
    """Remembers the best value and its step.

    Args:
        wanted: The option keep_best: true, false, a metric, max:METRIC or min:METRIC.
        stage: Whose metrics may be named.

    Raises:
        InputError: Not a metric of the stage.
    """

    def __init__(self, wanted: str, stage: str):
        self.step: int | None = None
        self.value: float | None = None
        text = str(wanted).strip()
        self.metric: str | None = None
        if text.lower() in ("false", "no", "off", "none", "0"):
            return
        direction, _, name = text.rpartition(":")
        if direction not in ("", "min", "max"):
            raise InputError(f"train.keep_best: write min:METRIC or max:METRIC, got {wanted!r}")
        known = METRICS[stage]
        if name.lower() in ("true", "yes", "on", "1"):
            name = known[0]
        name = name.removeprefix("val/")
        if name != ROLLOUT_METRIC and name not in known:
            raise InputError(
                f"train.keep_best: {name!r} is no metric of {stage}; it has {', '.join(known)}, and policies "
                f"{ROLLOUT_METRIC}"
            )
        self.metric = name if name == ROLLOUT_METRIC else f"val/{name}"
        self.higher = direction == "max" if direction else name.rsplit("/", 1)[-1] in _HIGHER

    def offer(self, step: int, metrics: dict[str, float]) -> bool:
        """Whether `metrics` of this step hold a new best value; a tie goes to the earlier step."""
        value = metrics.get(self.metric) if self.metric else None
        if value is None or not math.isfinite(value):
            return False
        if self.value is not None and self.step != step:
            if not (value > self.value if self.higher else value < self.value):
                return False
        self.step, self.value = step, float(value)
        return True

    def state_dict(self) -> dict[str, Any]:
        return {"metric": self.metric, "step": self.step, "value": self.value}

    def resume(self, state: dict[str, Any], output_dir: Path, step: int) -> None:
        """Go on from `step`: with what `best.json` says, if that is not about a later step, else with `state`. What
        was the best by another metric says nothing, nor does one whose checkpoint is gone."""
        found = read_best(output_dir)
        for content in (found, state):
            if not content or content.get("metric") != self.metric or content["step"] is None:
                continue
            if content["step"] <= step and (Path(output_dir) / f"checkpoint-{content['step']:06d}").is_dir():
                self.step, self.value = content["step"], content["value"]
                return

    def write(self, output_dir: Path, checkpoint: str) -> None:
        """`best.json`: metric, value, step, and the checkpoint's folder with the model that can be loaded."""
        content = {**self.state_dict(), "checkpoint": checkpoint, "model": f"{checkpoint}/model"}
        atomic_write_text(Path(output_dir) / FILE, json.dumps(content, indent=1) + "\n")


def read_best(output_dir: str | Path) -> dict[str, Any] | None:
    """The content of `best.json` in a run's folder; None if there is none, or its checkpoint is gone."""
    path = Path(output_dir) / FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if (path.parent / content["checkpoint"]).is_dir() else None
