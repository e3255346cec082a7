"""The claim of the papers in small: does video pre-training help when demonstrations are few?

Four arms on equal data and equal steps, all with the same tokenizer (which saw all the video):

    diffusion-pretrained   video and actions denoised together, trunk pre-trained on video and frozen
    diffusion-scratch      the same network, trunk from random weights, trained on the demonstrations alone
    cloning-pretrained     behaviour cloning (L1 on the chunk) on the pre-trained trunk, fine-tuned at 0.2 x the rate
    cloning-scratch        behaviour cloning, everything from random weights

A cell is (arm, demonstrations per task, training seed, draw of demonstrations). Its result is a JSON file: a grid can
be stopped and resumed, and cells can be run by several processes.
"""

import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

from ..errors import InputError
from ..evaluation.metrics import Score, score
from ..files import atomic_write_text
from .jobs import run_all


ARMS: dict[str, dict[str, Any]] = {
    "diffusion-pretrained": {"objective": "diffusion", "trunk_lr_multiplier": 0.0},
    "diffusion-scratch": {"objective": "diffusion", "from_scratch": True, "trunk_lr_multiplier": 1.0},
    "cloning-pretrained": {"objective": "regression", "trunk_lr_multiplier": 0.2},
    "cloning-scratch": {"objective": "regression", "from_scratch": True, "trunk_lr_multiplier": 1.0},
}


@dataclass(frozen=True)
class Cell:
    """One training and its evaluation."""

    arm: str
    demos: int
    seed: int
    draw: int

    @property
    def name(self) -> str:
        return f"{self.arm}-k{self.demos}-draw{self.draw}-seed{self.seed}"


@dataclass(frozen=True)
class Plan:
    """What all cells share.

    Args:
        recipe: Recipe YAML with a finished `vqvae` and `pretrain` stage.
        out: Folder of the results.
        tasks: Tasks, as `hf-vpdd eval` reads them. episodes: per task. first_seed: of the first episode.
        steps: Fine-tuning steps; None takes the recipe's.
        keep_policies: Keep the trained policies (about 10 MB each), not only their results.
        overrides: Further overrides of the recipe, as on the command line of training/finetune.py.
    """

    stage: ClassVar[str] = "finetune"  # whose recipe a cell trains by

    recipe: str
    out: str
    tasks: str = "quickstart"
    episodes: int = 50
    first_seed: int = 500000
    steps: int | None = None
    keep_policies: bool = False
    overrides: tuple[tuple[str, Any], ...] = ()

    def settings(self, cell: Cell) -> dict[str, Any]:
        """What the arm of a cell changes in the recipe of fine-tuning."""
        return ARMS[cell.arm]

    def identity(self) -> dict[str, Any]:
        """What decides the results and is not in the names of cells."""
        return {name: getattr(self, name) for name in ("tasks", "episodes", "first_seed", "steps")}

    def train(self, recipe) -> None:
        """The policy of one cell, into `recipe.output_dir`."""
        from ..training import run_finetune

        store, codes = _open(recipe)
        run_finetune(recipe, store=store, codes=codes)


def grid(
    arms: Sequence[str], demos: Iterable[int], seeds: int, draws: int, known: Iterable[str] = tuple(ARMS)
) -> list[Cell]:
    """All cells, those that belong together side by side, so that an unfinished grid is still a fair comparison."""
    for arm in arms:
        if arm not in known:
            raise InputError(f"there is no arm {arm!r}; the arms are {', '.join(known)}")
    return [Cell(arm, k, s, d) for d, s, k, arm in product(range(draws), range(seeds), demos, arms)]


def result_path(plan: Plan, cell: Cell) -> Path:
    return Path(plan.out) / "cells" / cell.name / "result.json"


def run_grid(plan: Plan, cells: Sequence[Cell], workers: int = 2, progress: bool = True) -> list[dict[str, Any]]:
    """Run the cells that have no result yet, `workers` at a time, and return the results of all.

    Raises:
        InputError: The pre-trained model is missing, there are too few demonstrations, `workers` is below 1, or the
            folder holds results of another plan.
    """
    if workers < 1:
        raise InputError(f"workers must be at least 1, got {workers}")
    _claim(plan)
    left = [(plan, cell) for cell in cells if not result_path(plan, cell).is_file()]
    run_all(run_cell, left, workers, "cell", progress)
    return [json.loads(result_path(plan, cell).read_text(encoding="utf-8")) for cell in cells]


def _claim(plan: Plan) -> None:
    """Names of cells say nothing of these: results that differ in them must not end up in one table."""
    path = Path(plan.out) / "plan.json"
    wanted = json.loads(json.dumps(plan.identity()))
    if not path.is_file():
        atomic_write_text(path, json.dumps(wanted, indent=1) + "\n")
        return
    there = json.loads(path.read_text(encoding="utf-8"))
    for name, value in wanted.items():
        if there.get(name) != value:
            raise InputError(
                f"{plan.out} holds results with {name} {there.get(name)!r}, now it is {value!r}: use that, or give "
                "another --out"
            )


_opened: dict[tuple, tuple] = {}  # frames and tokens, opened once per process


def run_cell(plan: Plan, cell: Cell) -> dict[str, Any]:
    """Train and evaluate one cell in this process."""
    from ..training import load_recipe

    folder = result_path(plan, cell).parent
    overrides = {
        **dict(plan.overrides),
        **plan.settings(cell),
        "data.episodes_per_task": cell.demos,
        "data.demo_draw": cell.draw,
        "train.seed": cell.seed,
        "train.progress": False,
        "train.tracker": "none",
        "train.save_every": 0,
        "train.eval_every": 0,
        "output_dir": str(folder / "policy"),
    }
    if plan.steps is not None:
        overrides["train.steps"] = plan.steps
    recipe = load_recipe(plan.stage, plan.recipe, overrides)
    if not (folder / "policy" / "training.json").is_file():  # written last
        plan.train(recipe)
    training = json.loads((folder / "policy" / "training.json").read_text(encoding="utf-8"))
    content = {
        **asdict(cell),
        "steps": recipe.train.steps,
        "batch_size": recipe.train.batch_size,
        "train_cpu_seconds": round(training["cpu_seconds"], 1),
        "tasks": {
            score.name: {"successes": score.successes, "episodes": score.episodes} for score in _evaluate(plan, folder)
        },
    }
    atomic_write_text(folder / "result.json", json.dumps(content, indent=1) + "\n")
    if not plan.keep_policies:
        shutil.rmtree(folder / "policy", ignore_errors=True)
    return content


def _open(recipe) -> tuple[Any, Any]:
    import torch

    from ..modeling.vpdd.modeling_vpdd import VPDDForVideoPrediction
    from ..training.stages.common import open_store, store_codes

    key = (tuple(recipe.data.root), str(recipe.data.camera), recipe.data.image_size, recipe.init_from)
    if key not in _opened:
        store = open_store(recipe)
        vqvae = VPDDForVideoPrediction.from_pretrained(recipe.init_from, dtype=torch.float32).model.vqvae
        _opened[key] = store, store_codes(recipe, store, vqvae)
    return _opened[key]


def _evaluate(plan: Plan, folder: Path) -> list[Score]:
    import torch

    from ..evaluation.episodes import make_episodes
    from ..evaluation.policies import load_policy
    from ..evaluation.runner import evaluate

    torch.set_num_threads(1)
    policy = load_policy(str(folder / "policy"), seed=0)
    episodes = make_episodes(plan.tasks, plan.episodes, plan.first_seed)
    shutil.rmtree(folder / "eval", ignore_errors=True)
    return evaluate(
        policy, episodes, folder / "eval", name=folder.name, workers=0, envs=15, videos=0, progress=False
    ).scores


@dataclass(frozen=True)
class Row:
    """One line of the comparison: an arm at a number of demonstrations, pooled over seeds and draws."""

    arm: str
    demos: int
    runs: tuple[float, ...]  # success rate of each run
    pooled: Score

    @property
    def median(self) -> float:
        ordered = sorted(self.runs)
        middle = len(ordered) // 2
        return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def summarise(results: Sequence[dict[str, Any]], order: Iterable[str] = tuple(ARMS)) -> list[Row]:
    """Rows by demonstrations, then by arm. The interval takes episodes as independent; `runs` shows the spread."""
    groups: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for result in results:
        groups.setdefault((result["demos"], result["arm"]), []).append(result)
    order = list(order)
    rows = []
    for (demos, arm), cells in sorted(groups.items(), key=lambda item: (item[0][0], order.index(item[0][1]))):
        counts = [
            (sum(t["successes"] for t in c["tasks"].values()), sum(t["episodes"] for t in c["tasks"].values()))
            for c in cells
        ]
        every = [{"success": i < won, "steps": 0} for won, total in counts for i in range(total)]
        rows.append(Row(arm, demos, tuple(won / total for won, total in counts), score(arm, every)))
    return rows


def markdown(rows: Sequence[Row]) -> str:
    """The table of a model card."""
    lines = [
        "| demonstrations per task | arm | success, pooled [95 %] | episodes | runs: each, % |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        p, runs = row.pooled, " ".join(f"{100 * rate:.0f}" for rate in row.runs)
        interval = f"{100 * p.rate:.1f} % [{100 * p.low:.0f}, {100 * p.high:.0f}]"
        lines.append(f"| {row.demos} | {row.arm} | {interval} | {p.episodes} | {runs} |")
    return "\n".join(lines) + "\n"
