"""The claim of GR-1 in small: what is predicting the frames of action-less video worth, before a policy is trained?

The arms get the same demonstrations, the same steps of the same batches and the same network:

    pretrained       all weights but the new ones (state, actions) come from predicting video, and all are trained on
    scratch          all weights are random: the same model without the video
    frozen           as `pretrained`, but the image tower stays as video left it; its features are computed once
    frozen-scratch   the same frozen tower, all else random: what the trunk's pre-training adds to the tower's

Fine-tuning predicts future frames beside the actions in all of them, as GR-1 does. A training seed goes through the
whole chain: it has a pre-training of its own, and both arms of a seed see the same batches.
"""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ..errors import InputError
from ..evaluation.metrics import Score
from ..files import atomic_write_text
from .few_shot import Cell, Plan, Row, grid, markdown, result_path, run_grid, summarise
from .jobs import run_all, run_unless_done


_FROZEN = {"model.freeze_image_model": True, "cache_features": True, "random_shift": 0}
ARMS: dict[str, dict[str, Any]] = {
    "pretrained": {},
    "scratch": {"from_scratch": True},
    "frozen": _FROZEN,
    "frozen-scratch": {**_FROZEN, "from_scratch": True},
}
# What is read out of the results: (with the video's weights, without, what the difference is).
COMPARISONS = (
    ("pretrained", "scratch", "video pre-training of the whole network"),
    ("frozen", "frozen-scratch", "video pre-training of the trunk, on the same frozen image tower"),
    ("frozen", "pretrained", "keeping the image tower as video left it"),
)
TABLE = re.compile(r"(<!-- results: hf-vpdd compare --study gr1 -->\n).*?(<!-- end of results -->)", re.DOTALL)


@dataclass(frozen=True)
class VideoPretrainingPlan(Plan):
    """What all cells share. The recipe is one of GR-1's: its `gr1_pretrain` runs once a seed, here.

    Args:
        pretrain_steps: Steps of every pre-training; None takes the recipe's.
    """

    stage: ClassVar[str] = "gr1_finetune"

    pretrain_steps: int | None = None

    def settings(self, cell: Cell) -> dict[str, Any]:
        return {**ARMS[cell.arm], "init_from": str(self.pretrained(cell.seed))}

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "pretrain_steps": self.pretrain_steps}

    def pretrained(self, seed: int) -> Path:
        """Folder of the video model of a seed. From `scratch` no weight of it is used, only sizes and words."""
        return Path(self.out) / "pretrain" / f"seed{seed}"

    def train(self, recipe) -> None:
        from ..training import run_gr1_finetune

        run_gr1_finetune(recipe)


def pretrain(plan: VideoPretrainingPlan, seed: int) -> None:
    """Train the video model of a seed, unless it is there."""
    from ..training import load_recipe, run_gr1_pretrain

    overrides: dict[str, Any] = {
        **dict(plan.overrides),
        "train.seed": seed, "train.tracker": "none", "train.progress": False,
        "output_dir": str(plan.pretrained(seed)),
    }  # fmt: skip
    if plan.pretrain_steps is not None:
        overrides["train.steps"] = plan.pretrain_steps
    run_unless_done(load_recipe("gr1_pretrain", plan.recipe, overrides), run_gr1_pretrain)


def run_study(
    plan: VideoPretrainingPlan, cells: Sequence[Cell], workers: int = 1, progress: bool = True
) -> list[dict[str, Any]]:
    """Everything that is not there yet, seed by seed: pre-training, fine-tuning, evaluation. Returns all results."""
    results = []
    for seed in sorted({cell.seed for cell in cells}):
        mine = [cell for cell in cells if cell.seed == seed]
        if not all(result_path(plan, cell).is_file() for cell in mine):
            run_all(pretrain, [(plan, seed)], 1, "pre-training", progress)
        results += run_grid(plan, mine, workers, progress)
    return results


def study_grid(arms: Sequence[str], demos: Sequence[int], seeds: int, draws: int) -> list[Cell]:
    """All cells of the study.

    Raises:
        InputError: There is no such arm.
    """
    return grid(arms, demos, seeds, draws, known=ARMS)


def finished(plan: Plan, cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """The results that are there."""
    paths = [path for cell in cells if (path := result_path(plan, cell)).is_file()]
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def report(plan: VideoPretrainingPlan, cells: Sequence[Cell], card: Path | None = None) -> str:
    """Tables and what they say as Markdown, of the cells that have a result; also written to `table.md`, the numbers
    to `results.jsonl`.

    Args:
        card: A model card with the lines `<!-- results: hf-vpdd compare --study gr1 -->` and `<!-- end of results
            -->`: the text goes between them, the numbers to gr1_results.jsonl beside the card.

    Raises:
        InputError: There is no result yet, or the card has no such lines.
    """
    results = finished(plan, cells)
    if not results:
        raise InputError(f"{plan.out} holds no result of this grid yet: run it first, without --report-only")
    text = study_text(plan, results, len(cells))
    lines = "".join(json.dumps(line) + "\n" for line in (*results, *video_quality(plan, cells)))
    atomic_write_text(Path(plan.out) / "table.md", text)
    atomic_write_text(Path(plan.out) / "results.jsonl", lines)
    if card is not None:
        fill_card(card, text)
        atomic_write_text(card.parent / "gr1_results.jsonl", lines)
    return text


def fill_card(card: Path, text: str) -> None:
    """Put `text` between the two marks of a model card."""
    before = card.read_text(encoding="utf-8")
    after, found = TABLE.subn(lambda match: match[1] + "\n" + text + "\n" + match[2], before)
    if found != 1:
        raise InputError(
            f"{card} needs the lines '<!-- results: hf-vpdd compare --study gr1 -->' and '<!-- end of results -->' "
            "once each"
        )
    atomic_write_text(card, after)


def study_text(plan: VideoPretrainingPlan, results: Sequence[dict[str, Any]], wanted: int) -> str:
    """Success by arm and by task, how far apart the arms are, and how good the video models are."""
    rows = summarise(results, order=ARMS)
    text = markdown(rows)
    text += "\nBy task, successes of all runs:\n\n" + _by_task(results)
    text += "\nWhat the video is worth, in points of success [95 %, Newcombe, episodes taken as independent]:\n\n"
    text += "".join(f"* {line}\n" for line in readings(rows, results))
    if quality := video_quality(plan, [Cell(r["arm"], r["demos"], r["seed"], r["draw"]) for r in results]):
        text += "\n| video model | held-out error of normalised patches | the same of a copied present | PSNR, dB | "
        text += "of a copied present |\n|---|---|---|---|---|\n"
        for line in quality:
            numbers = " | ".join(f"{line[name]:.3f}" for name in ("loss", "copy_video_loss"))
            numbers += " | " + " | ".join(f"{line[name]:.1f}" for name in ("psnr", "copy_psnr"))
            text += f"| seed {line['seed']}, {line['steps']} steps | {numbers} |\n"
    if len(results) < wanted:
        text += f"\n**{len(results)} of {wanted} runs are finished; the rest is missing here.**\n"
    return text


def readings(rows: Sequence[Row], results: Sequence[dict[str, Any]]) -> list[str]:
    """One sentence per comparison and number of demonstrations, that says whether it helped."""
    lines = []
    for demos in sorted({row.demos for row in rows}):
        of = {row.arm: row for row in rows if row.demos == demos}
        for better, worse, meaning in COMPARISONS:
            if better not in of or worse not in of:
                continue
            gain, low, high = difference(of[better].pooled, of[worse].pooled)
            said = "it helped" if low > 0 else "it hurt" if high < 0 else "no difference that these runs can show"
            pairs = _paired(results, demos, better, worse)
            lines.append(
                f"{demos} demonstrations a task, {meaning} (`{better}` against `{worse}`): {100 * gain:+.1f} "
                f"[{100 * low:+.0f}, {100 * high:+.0f}], ahead in {sum(a > b for a, b in pairs)} of {len(pairs)} "
                f"pairs of runs: {said}."
            )
    return lines


def difference(one: Score, other: Score) -> tuple[float, float, float]:
    """How much more `one` succeeds than `other`, and Newcombe's 95 % interval of that; fractions, -1..1."""
    gain = one.rate - other.rate
    low = gain - math.hypot(one.rate - one.low, other.high - other.rate)
    return gain, low, gain + math.hypot(one.high - one.rate, other.rate - other.low)


def video_quality(plan: VideoPretrainingPlan, cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """What the pre-training of each seed came to on held-out video."""
    lines = []
    for seed in sorted({cell.seed for cell in cells}):
        path = plan.pretrained(seed) / "training.json"
        if path.is_file():
            training = json.loads(path.read_text(encoding="utf-8"))
            lines.append(
                {"pretraining": "video", "seed": seed, "steps": training["steps"], **training["metrics"],
                 "cpu_seconds": training["cpu_seconds"]}
            )  # fmt: skip
    return lines


def _by_task(results: Sequence[dict[str, Any]]) -> str:
    tasks = list(results[0]["tasks"])
    text = "| demonstrations per task | arm | " + " | ".join(task.removesuffix("-v3") for task in tasks) + " |\n"
    text += "|---|---|" + "---|" * len(tasks) + "\n"
    for demos in sorted({r["demos"] for r in results}):
        for arm in ARMS:
            mine = [r["tasks"] for r in results if r["arm"] == arm and r["demos"] == demos]
            if mine:
                counts = (
                    f"{sum(m[t]['successes'] for m in mine)}/{sum(m[t]['episodes'] for m in mine)}" for t in tasks
                )
                text += f"| {demos} | {arm} | " + " | ".join(counts) + " |\n"
    return text


def _paired(results: Sequence[dict[str, Any]], demos: int, one: str, other: str) -> list[tuple[int, int]]:
    """Successes of both arms where the same seed and draw ran for both."""
    won: dict[str, dict[tuple[int, int], int]] = {one: {}, other: {}}
    for r in results:
        if r["demos"] == demos and r["arm"] in won:
            won[r["arm"]][r["seed"], r["draw"]] = sum(t["successes"] for t in r["tasks"].values())
    return [(won[one][run], won[other][run]) for run in sorted(won[one].keys() & won[other].keys())]
