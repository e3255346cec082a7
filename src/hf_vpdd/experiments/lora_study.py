"""What do adapters cost in success, and what do they save? A policy is taught one task that it never saw.

All arms start from the same policy and get the same demonstrations, steps and batches of each training seed:

    full        every weight of trunk, text tower and action head is trained
    lora        adapters on trunk and action head, nothing whole: the smallest file, and the default for a policy
    lora-head   adapters on the trunk, the action head whole: as after video pre-training, when the head is new
    head        the trunk stays as it is, the action head is trained whole
    untouched   the policy as it came, for the floor (nothing is trained)
    expert      the simulator's scripted expert, for the ceiling (nothing is trained)

A cell is (task, arm, training seed). Seed s is tried on starts of its own, which all arms share: arms are paired start
by start, and three seeds are three times as many different starts. A training runs in a fresh process, so that its
memory is its own. A cell's result is a JSON file: a study can be stopped and goes on where it was.
"""

import json
import math
import multiprocessing
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

from ..errors import InputError
from ..evaluation.metrics import Score, score, wilson_interval
from ..files import atomic_write_text
from .few_shot import _claim
from .jobs import run_all
from .metering import Meter


_LORA = {"trunk_lr_multiplier": 1.0, "lora": True, "lora_r": 8, "lora_alpha": 16}
_LAYERS = r"(?:self_attn|cross_attn)\.[qkvo]_proj|fc1|fc2"
_TRUNK = rf"model\.trunk\.(?:history_proj|prompt_proj|code_head|timestep_embed\.mlp\.[02]|layers\.\d+\.(?:{_LAYERS}))"
# Written out, so that what was measured does not change with the defaults. Learning rates: for all weights the better
# of 3e-4 and 1e-3, for adapters of 1e-3 and 3e-3 (docs/lora.md); for the head alone not searched.
ARMS: dict[str, dict[str, Any] | None] = {
    "full": {"trunk_lr_multiplier": 1.0, "train.learning_rate": 3e-4},
    "lora": {
        **_LORA, "train.learning_rate": 3e-3, "lora_modules_to_save": [],
        "lora_target_modules": rf"{_TRUNK}|action_head\.layers\.\d+\.(?:{_LAYERS})",
    },
    "lora-head": {
        **_LORA, "train.learning_rate": 1e-3, "lora_modules_to_save": ["action_head"], "lora_target_modules": _TRUNK,
    },
    "head": {"trunk_lr_multiplier": 0.0, "train.learning_rate": 1e-3},
    "untouched": None,
    "expert": None,
}  # fmt: skip


@dataclass(frozen=True)
class LoraPlan:
    """What all cells share.

    Args:
        recipe: Recipe YAML whose `init_from` is a trained policy, and whose data hold demonstrations of `tasks`.
        out: Folder of the results; trained policies stay in it.
        tasks: Held-out tasks by name; each gets policies of its own.
        demos: Demonstrations of the task. steps: of training; None takes the recipe's.
        episodes, first_seed: Starts of each training seed: seed s has those from `first_seed + s * episodes` on.
        kept_tasks, kept_episodes: Tasks that the policy knew before, as `hf-vpdd eval` reads them, and starts of each
            for every cell, to see what it forgets; 0 leaves that out.
        overrides: Further overrides of the recipe.
    """

    recipe: str
    out: str
    tasks: tuple[str, ...]
    demos: int = 10
    steps: int | None = None
    episodes: int = 50
    first_seed: int = 500000
    kept_tasks: str = "mt10"
    kept_episodes: int = 0
    overrides: tuple[tuple[str, Any], ...] = ()

    def identity(self) -> dict[str, Any]:
        """What decides the results and is not in the names of cells."""
        return {name: getattr(self, name) for name in ("demos", "steps", "episodes", "first_seed")}

    def cell(self, task: str, arm: str, seed: int) -> Path:
        return Path(self.out) / "cells" / f"{task}-{arm}-seed{seed}"

    def resolved(self, task: str, arm: str, seed: int):
        """The recipe of a cell; of an arm that is not trained, for where the policy lies."""
        from ..training import load_recipe

        overrides = {
            **dict(self.overrides), **(ARMS[arm] or {}), "data.tasks": [task], "data.episodes_per_task": self.demos,
            "train.seed": seed, "train.progress": False, "train.tracker": "none", "train.save_every": 0,
            "train.eval_every": 0, "output_dir": str(self.cell(task, arm, seed) / "policy"),
        }  # fmt: skip
        if self.steps is not None:
            overrides["train.steps"] = self.steps
        return load_recipe("finetune", self.recipe, overrides)


def run_study(
    plan: LoraPlan, arms: Sequence[str], seeds: int, workers: int = 1, progress: bool = True
) -> list[dict[str, Any]]:
    """Run the cells that have no result yet, task by task, `workers` at a time; the results of all.

    Several workers disturb each other's times.

    Raises:
        InputError: An unknown arm, a count below 1, or a folder that holds results of another plan.
    """
    if seeds < 1 or workers < 1:
        raise InputError(f"seeds and workers must be at least 1, got {seeds} and {workers}")
    cells = _cells(plan, arms, seeds)
    _claim(plan)
    left = [(plan, *cell) for cell in cells if not (plan.cell(*cell) / "result.json").is_file()]
    run_all(run_cell, left, workers, "cell", progress)
    return finished(plan, arms, seeds)


def finished(plan: LoraPlan, arms: Sequence[str], seeds: int) -> list[dict[str, Any]]:
    """The results that there are already."""
    paths = [plan.cell(*cell) / "result.json" for cell in _cells(plan, arms, seeds)]
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.is_file()]


def _cells(plan: LoraPlan, arms: Sequence[str], seeds: int) -> list[tuple[str, str, int]]:
    for arm in arms:
        if arm not in ARMS:
            raise InputError(f"there is no arm {arm!r}; the arms are {', '.join(ARMS)}")
    # all arms of a seed side by side, so that an unfinished study is still a fair comparison
    return [(task, arm, seed) for task, seed, arm in product(plan.tasks, range(seeds), arms)]


def run_cell(plan: LoraPlan, task: str, arm: str, seed: int) -> dict[str, Any]:
    """Train, in a process of its own, and try out one policy."""
    folder = plan.cell(task, arm, seed)
    content: dict[str, Any] = {"study": "lora", "task": task, "arm": arm, "seed": seed}
    if ARMS[arm] is not None:
        cost = folder / "cost.json"
        if not cost.is_file():
            _in_fresh_process(train_metered, plan, task, arm, seed)
        content |= json.loads(cost.read_text(encoding="utf-8"))
        policy = str(folder / "policy")
    else:
        policy = "expert" if arm == "expert" else str(plan.resolved(task, arm, seed).init_from)
    content |= _tried(policy, task, plan.episodes, plan.first_seed + seed * plan.episodes, folder / "eval")
    if plan.kept_episodes and arm != "expert":
        first = plan.first_seed + seed * plan.kept_episodes
        content["kept"] = _tried(policy, plan.kept_tasks, plan.kept_episodes, first, folder / "eval-kept")
    atomic_write_text(folder / "result.json", json.dumps(content) + "\n")
    return content


def _in_fresh_process(job: Callable[..., Any], *given: Any) -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        pool.submit(job, *given).result()


def train_metered(plan: LoraPlan, task: str, arm: str, seed: int) -> None:
    """Train one policy and write what that cost to `cost.json`. The process must be fresh: its peak is what counts."""
    from ..training import run_finetune

    recipe = plan.resolved(task, arm, seed)
    with Meter() as meter:
        folder = run_finetune(recipe)
    training = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    loss = training["metrics"].get("loss")
    weights = folder / ("adapter/adapter_model.safetensors" if recipe.options.lora else "model.safetensors")
    content = {
        "demos": plan.demos, "steps": training["steps"], "batch_size": recipe.train.batch_size,
        "learning_rate": recipe.train.learning_rate, "trainable_parameters": meter.trained,
        "state_mb": round(meter.state_bytes / 2**20, 3), "saved_mb": round(meter.saved_bytes / 2**20, 1),
        "peak_mb": round(meter.peak_mb, 1), "growth_mb": round(meter.peak_mb - meter.began_mb, 1),
        "cpu_seconds_per_step": round(meter.cpu_seconds_per_step, 4),
        "wall_seconds_per_step": round(meter.wall_seconds_per_step, 4),
        "cpu_seconds": training["cpu_seconds"], "weights_bytes": weights.stat().st_size,
        "held_out_loss": None if loss is None else round(loss, 4),
    }  # fmt: skip
    atomic_write_text(plan.cell(task, arm, seed) / "cost.json", json.dumps(content) + "\n")


def _tried(policy: str, tasks: str, episodes: int, first_seed: int, out: Path) -> dict[str, Any]:
    """Successes and episodes, and start by start in the order of the seeds 1 for a success."""
    import torch

    from ..evaluation.episodes import make_episodes
    from ..evaluation.policies import load_policy
    from ..evaluation.runner import evaluate

    torch.set_num_threads(1)
    shutil.rmtree(out, ignore_errors=True)
    starts = make_episodes(tasks, episodes, first_seed)
    options = {} if policy == "expert" else {"seed": 0}
    done = evaluate(
        load_policy(policy, **options), starts, out, name=out.parent.name, workers=0, envs=15, videos=0, progress=False
    )
    won = [int(one["success"]) for one in done.results]
    return {"successes": sum(won), "episodes": len(won), "won": "".join(map(str, won)), "first_seed": first_seed}


# ------------------------------------------------------------------------------------------------------------- tables


def study_table(results: Sequence[dict[str, Any]]) -> str:
    """What each arm reached and what it cost, then how far the other arms are from `full`, as Markdown.

    Costs are medians over the arm's runs; success is pooled over seeds, with Wilson's 95 % interval."""
    tasks = list(dict.fromkeys(result["task"] for result in results))
    by_arm = {arm: mine for arm in ARMS if (mine := [r for r in results if r["arm"] == arm])}
    kept = any("kept" in result for result in results)
    heads = ["arm", *(f"{task}: success [95 %] (each seed)" for task in tasks), *(["tasks it knew"] if kept else [])]
    heads += [
        "trained parameters", "gradients and moments + activations, MB", "peak memory, MB", "of it in training, MB",
        "CPU seconds a step", "weights to share",
    ]  # fmt: skip
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for arm, runs in by_arm.items():
        cells = [f"`{arm}`", *(_success([r for r in runs if r["task"] == task]) for task in tasks)]
        if kept:
            old = [r["kept"] for r in runs if "kept" in r]
            if ARMS[arm] is None:  # the same policy at the same starts, whatever task it is the floor of
                old = list({one["first_seed"]: one for one in old}.values())
            cells.append(_success(old, each=False))
        lines.append("| " + " | ".join([*cells, *_costs(runs)]) + " |")
    text = "\n".join(lines) + "\n"
    if said := [line for task in tasks for line in _readings(task, by_arm)]:
        text += "\nAgainst `full`, in points of success on the same starts [95 %, Newcombe's interval for pairs]:\n\n"
        text += "".join(f"* {line}\n" for line in said)
    return text


def _success(runs: Sequence[dict[str, Any]], each: bool = True) -> str:
    if not runs:
        return "-"
    pooled = _pooled(runs)
    text = f"{100 * pooled.rate:.1f} % [{100 * pooled.low:.0f}, {100 * pooled.high:.0f}]"
    rates = " ".join(f"{100 * run['successes'] / run['episodes']:.0f}" for run in runs)
    return f"{text} ({rates})" if each else f"{text} of {pooled.episodes}"


def _costs(runs: Sequence[dict[str, Any]]) -> list[str]:
    if "steps" not in runs[0]:
        return ["-"] * 6
    of = {name: median(run[name] for run in runs) for name in runs[0] if name.endswith(("_mb", "_bytes", "_per_step"))}
    size = of["weights_bytes"]
    return [
        f"{runs[0]['trainable_parameters']:,}".replace(",", " "),
        f"{of['state_mb']:.1f} + {of['saved_mb']:.0f}",
        f"{of['peak_mb']:.0f}",
        f"{of['growth_mb']:.0f}",
        f"{of['cpu_seconds_per_step']:.3f}",
        f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB",
    ]


def _pooled(runs: Sequence[dict[str, Any]]) -> Score:
    won, total = (sum(run[name] for run in runs) for name in ("successes", "episodes"))
    return score("", [{"success": i < won, "steps": 0} for i in range(total)])


def _readings(task: str, by_arm: dict[str, list[dict[str, Any]]]) -> list[str]:
    """One sentence per trained arm, of the seeds that ran in both."""
    of = {arm: {r["seed"]: r for r in runs if r["task"] == task} for arm, runs in by_arm.items() if ARMS[arm]}
    lines = []
    for arm in of:
        seeds = sorted(of[arm].keys() & of.get("full", {}).keys())
        if arm == "full" or not seeds:
            continue
        mine, full = ("".join(of[name][seed]["won"] for seed in seeds) for name in (arm, "full"))
        gain, low, high = paired_difference(mine, full)
        said = "better" if low > 0 else "worse" if high < 0 else "no difference that these runs can show"
        pairs = list(zip(mine, full))
        lines.append(
            f"{task}, `{arm}`: {100 * gain:+.1f} [{100 * low:+.0f}, {100 * high:+.0f}], {said}; of {len(pairs)} "
            f"starts {pairs.count(('1', '0'))} won by it alone, {pairs.count(('0', '1'))} by `full` alone"
        )
    return lines


def paired_difference(one: str, other: str) -> tuple[float, float, float]:
    """How much more `one` succeeds than `other` on the same starts, and Newcombe's 95 % interval of that for pairs
    (Statistics in Medicine 17, 1998, method 10); fractions, -1..1.

    Args:
        one, other: Start by start "1" for a success, else "0".
    """
    pairs = list(zip(one, other, strict=True))
    both, mine, theirs, none = (pairs.count((a, b)) for a, b in (("1", "1"), ("1", "0"), ("0", "1"), ("0", "0")))
    n = len(pairs)
    (low_1, high_1), (low_2, high_2) = wilson_interval(both + mine, n), wilson_interval(both + theirs, n)
    rate_1, rate_2 = (both + mine) / n, (both + theirs) / n
    agreement = both * none - mine * theirs
    if agreement > 0:
        agreement = max(agreement - n / 2, 0)
    spread = math.sqrt((both + mine) * (theirs + none) * (both + theirs) * (mine + none))
    phi = agreement / spread if spread else 0.0

    def width(a: float, b: float) -> float:
        return math.sqrt(max(a * a - 2 * phi * a * b + b * b, 0.0))

    gain = rate_1 - rate_2
    return gain, gain - width(rate_1 - low_1, high_2 - rate_2), gain + width(high_1 - rate_1, rate_2 - low_2)
