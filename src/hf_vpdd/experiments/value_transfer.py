"""V-PTR's claims in small, on real video: are values in order, and is their encoder worth something for offline RL?

Two studies on one recipe (family vptr), equal data, encoder, steps, batch and rate for all:

    value-order   ICVF, VIP and R3M's time-contrastive objective (TCN) on action-less video; then the rank correlation
                  of value and time on held-out clips, beside an untrained network and the pixel distance
    offline-rl    offline RL on demonstrations of the same robot, encoders started from each of these or from random
                  weights; success at starts that were demonstrated, at new ones, and, if wanted, with a moved camera

A training seed goes through the whole chain. A cell is (objective or start, seed), its result a JSON file: a study can
be stopped, goes on where it was, and fills in by several processes.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..evaluation.metrics import Score, score
from ..files import atomic_write_text
from .few_shot import _claim
from .jobs import run_all, run_unless_done


OBJECTIVES = ("icvf", "vip", "tcn")
# Where encoders start, and the objective that trained them.
ARMS: dict[str, str | None] = {"vptr": "icvf", "vip": "vip", "tcn": "tcn", "scratch": None}


@dataclass(frozen=True)
class Condition:
    """Where policies are tried: the first seed of the starts, and a perturbation of the scene."""

    first_seed: int
    perturbation: str | None = None


CONDITIONS = {
    "seen": Condition(1000),  # the seeds that `hf-vpdd record` begins at
    "unseen": Condition(500000),
    "camera": Condition(500000, "camera"),
}


@dataclass(frozen=True)
class TransferPlan:
    """What all cells share.

    Args:
        recipe: Recipe YAML of the family vptr. out: Folder of the results; value models lie in it too.
        value_steps, steps: Training steps of phase 1 and of offline RL; None takes the recipe's.
        tasks, episodes: To evaluate on, as `hf-vpdd eval` reads them; episodes per task and condition.
        conditions: Of `CONDITIONS`.
        keep_policies: Keep the trained policies, not only their results.
        overrides: Further overrides of the recipe, for both stages.
    """

    recipe: str
    out: str
    value_steps: int | None = None
    steps: int | None = None
    tasks: str = "quickstart"
    episodes: int = 10
    conditions: tuple[str, ...] = ("seen", "unseen")
    keep_policies: bool = False
    overrides: tuple[tuple[str, Any], ...] = field(default=())

    def identity(self) -> dict[str, Any]:
        left_out = ("recipe", "out", "keep_policies", "overrides")
        return {name: value for name, value in asdict(self).items() if name not in left_out}

    def values(self, objective: str, seed: int) -> Path:
        """The value model of an objective and a seed."""
        return Path(self.out) / "values" / f"{objective}-seed{seed}"

    def result(self, study: str, arm: str, seed: int) -> Path:
        return Path(self.out) / study / f"{arm}-seed{seed}" / "result.json"

    def stage(self, stage: str, seed: int, folder: Path, steps: int | None, **given: Any):
        """The recipe of a stage for one cell."""
        from ..training import load_recipe

        overrides = {
            **dict(self.overrides), **given, "train.seed": seed, "train.progress": False, "train.tracker": "none",
            "train.eval_every": 0, "output_dir": str(folder),
        }  # fmt: skip
        if steps is not None:
            overrides["train.steps"] = steps
        return load_recipe(stage, self.recipe, overrides)


def run_value_order(plan: TransferPlan, arms: Sequence[str], seeds: int, workers: int = 1, progress: bool = True):
    """Train the value models that are missing; the results of all (objective, seed).

    Raises:
        InputError: an unknown objective, or a folder that holds results of another plan.
    """
    return _run("value-order", plan, arms, OBJECTIVES, run_value_cell, seeds, workers, progress)


def run_offline_study(plan: TransferPlan, arms: Sequence[str], seeds: int, workers: int = 1, progress: bool = True):
    """Train the policies that are missing, and their value models; the results of all (start, seed)."""
    for condition in plan.conditions:
        if condition not in CONDITIONS:
            raise InputError(f"there is no condition {condition!r}; there are {', '.join(CONDITIONS)}")
    return _run("offline-rl", plan, arms, tuple(ARMS), run_policy_cell, seeds, workers, progress)


def _run(study, plan, arms, known, job, seeds, workers, progress) -> list[dict[str, Any]]:
    for arm in arms:
        if arm not in known:
            raise InputError(f"there is no arm {arm!r} in {study}; the arms are {', '.join(known)}")
    if seeds < 1 or workers < 1:
        raise InputError(f"seeds and workers must be at least 1, got {seeds} and {workers}")
    _claim(plan)
    # all arms of a seed side by side, so that an unfinished study is still a fair comparison
    cells = [(arm, seed) for seed, arm in product(range(seeds), arms)]
    left = [(plan, *cell) for cell in cells if not plan.result(study, *cell).is_file()]
    run_all(job, left, workers, "cell", progress)
    return [json.loads(plan.result(study, *cell).read_text(encoding="utf-8")) for cell in cells]


def finished(plan: TransferPlan, study: str, arms: Sequence[str], seeds: int) -> list[dict[str, Any]]:
    """The results that there are already."""
    paths = [plan.result(study, arm, seed) for seed, arm in product(range(seeds), arms)]
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.is_file()]


def run_value_cell(plan: TransferPlan, objective: str, seed: int) -> dict[str, Any]:
    """One value model, and how well it orders held-out clips."""
    from ..training import run_value_pretrain

    folder = plan.values(objective, seed)
    recipe = plan.stage("value_pretrain", seed, folder, plan.value_steps, objective=objective)
    run_unless_done(recipe, run_value_pretrain, store=_store(recipe, video_only=True))
    last = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    found = next(line for line in reversed(last) if "val/order" in line)
    training = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    content = {
        "study": "value-order", "arm": objective, "seed": seed, "steps": recipe.train.steps,
        "batch_size": recipe.train.batch_size, "train_cpu_seconds": round(training["cpu_seconds"], 1),
        "order": round(found["val/order"], 4), "untrained_order": round(found["val/untrained_order"], 4),
        "pixel_order": round(found["val/pixel_order"], 4),
    }  # fmt: skip
    return _write(plan.result("value-order", objective, seed), content)


def run_policy_cell(plan: TransferPlan, arm: str, seed: int) -> dict[str, Any]:
    """One policy by offline RL from the encoder of `arm`, and its success."""
    from ..training import run_offline_rl, run_value_pretrain

    path = plan.result("offline-rl", arm, seed)
    given: dict[str, Any] = {"init": "scratch"}
    if ARMS[arm] is not None:
        values = plan.values(ARMS[arm], seed)
        recipe = plan.stage("value_pretrain", seed, values, plan.value_steps, objective=ARMS[arm])
        run_unless_done(recipe, run_value_pretrain, store=_store(recipe, video_only=True))
        given = {"init": f"{arm}:{values}"}
    recipe = plan.stage("offline_rl", seed, path.parent / "policy", plan.steps, **given)
    run_unless_done(recipe, run_offline_rl, store=_store(recipe))
    training = json.loads((path.parent / "policy" / "training.json").read_text(encoding="utf-8"))
    content = {
        "study": "offline-rl", "arm": arm, "seed": seed, "steps": recipe.train.steps,
        "batch_size": recipe.train.batch_size, "train_cpu_seconds": round(training["cpu_seconds"], 1),
        "conditions": {name: _evaluate(plan, path.parent, name) for name in plan.conditions},
    }  # fmt: skip
    _write(path, content)
    if not plan.keep_policies:
        shutil.rmtree(path.parent / "policy", ignore_errors=True)
    return content


def _evaluate(plan: TransferPlan, folder: Path, condition: str) -> dict[str, dict[str, int]]:
    """Successes and episodes of every task."""
    import torch

    from ..evaluation.episodes import make_episodes
    from ..evaluation.policies import load_policy
    from ..evaluation.runner import evaluate

    torch.set_num_threads(1)
    where = CONDITIONS[condition]
    episodes = make_episodes(plan.tasks, plan.episodes, where.first_seed, where.perturbation)
    out = folder / f"eval-{condition}"
    shutil.rmtree(out, ignore_errors=True)
    policy = load_policy(str(folder / "policy"), seed=0)
    scores = evaluate(
        policy, episodes, out, name=folder.name, workers=0, envs=len(episodes), videos=0, progress=False
    ).scores
    return {one.name: {"successes": one.successes, "episodes": one.episodes} for one in scores}


_opened: dict[tuple, Any] = {}  # frames, opened once per process


def _store(recipe, video_only: bool = False):
    from ..training.stages.common import open_store

    key = (tuple(recipe.data.root), str(recipe.data.camera), recipe.data.image_size, video_only)
    if key not in _opened:
        _opened[key] = open_store(recipe, video_only=video_only)
    return _opened[key]


def _write(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(path, json.dumps(content) + "\n")
    return content


def pooled(results: Sequence[dict[str, Any]], condition: str) -> Score:
    """Successes of all seeds and tasks, episodes taken as independent."""
    counts = [task for result in results for task in result["conditions"][condition].values()]
    won, total = (sum(count[name] for count in counts) for name in ("successes", "episodes"))
    return score(condition, [{"success": i < won, "steps": 0} for i in range(total)])
