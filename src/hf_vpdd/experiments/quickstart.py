"""The whole road on one task family: record, tokenise, pre-train on video, fine-tune on few demonstrations, evaluate.

Every step is skipped if its result is there, so a stopped quickstart goes on where it was.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ..evaluation.report import Interval, Report
from .few_shot import Cell, Plan, Row, result_path, run_grid, summarise
from .jobs import run_unless_done


RECIPE = Path(__file__).with_name("quickstart.yaml")
# the pre-trained policy, and what it is held against on the same demonstrations and steps
COMPARED = ("diffusion-pretrained", "diffusion-scratch", "cloning-scratch")
NAMES = {
    "diffusion-pretrained": "video pre-training, then diffusion",
    "diffusion-scratch": "diffusion without pre-training",
    "cloning-pretrained": "behaviour cloning on the pre-trained trunk",
    "cloning-scratch": "behaviour cloning without pre-training",
}


@dataclass
class Quickstart:
    """What to run.

    Args:
        out: Folder of everything: `data`, the stages, `cells`, `report.html`.
        config: Recipe YAML. episodes: recorded per task; the first ones are also the labelled demonstrations.
        demos: Labelled demonstrations per task. seed: of all trainings.
        eval_episodes: Evaluation episodes per task. workers: Processes.
    """

    out: Path
    config: Path = RECIPE
    tasks: str = "quickstart"
    episodes: int = 50
    demos: int = 5
    seed: int = 0
    eval_episodes: int = 50
    workers: int = 2
    say: Callable[[str], None] = print
    seconds: dict[str, float] = field(default_factory=dict)

    def run(self) -> Path:
        """Walk the road; returns the report page."""
        for name, step in (
            ("record", self._record),
            ("tokenizer", self._vqvae),
            ("video pre-training", self._pretrain),
            ("fine-tuning and evaluation", self._compare),
        ):
            self.say(f"── {name}")
            began = time.monotonic()
            step()
            self.seconds[name] = time.monotonic() - began
        return self._report()

    # Each stage is a function of (recipe, overrides); only places and seeds are set here.

    def _recipe(self, stage: str):
        from ..training import load_recipe

        overrides = {
            "data.root": [str(self.out / "data")],
            "train.seed": self.seed,
            "output_dir": str(self.out / stage),
        }
        if stage == "pretrain":
            overrides["init_from"] = str(self.out / "vqvae")
        return load_recipe(stage, str(self.config), overrides)

    def _record(self) -> None:
        from ..data.recording import record

        size = self._recipe("vqvae").data.image_size
        record(self.out / "data", self.tasks, self.episodes, image_size=size, workers=self.workers)

    def _vqvae(self) -> None:
        from ..training import run_vqvae

        self._unless_done("vqvae", run_vqvae)

    def _pretrain(self) -> None:
        from ..training import run_pretrain

        self._unless_done("pretrain", run_pretrain)

    def _unless_done(self, stage: str, run) -> None:
        if not run_unless_done(self._recipe(stage), run):
            self.say(f"{self.out / stage} is finished already")

    @property
    def _plan(self) -> Plan:
        return Plan(
            recipe=str(self.config),
            out=str(self.out),
            tasks=self.tasks,
            episodes=self.eval_episodes,
            keep_policies=True,
            overrides=(("data.root", [str(self.out / "data")]), ("init_from", str(self.out / "pretrain"))),
        )

    @property
    def _cells(self) -> list[Cell]:
        return [Cell(arm, self.demos, self.seed, 0) for arm in COMPARED]

    def _compare(self) -> None:
        self.rows = summarise(run_grid(self._plan, self._cells, self.workers))

    @property
    def policy(self) -> Path:
        """The policy that the road leads to."""
        return result_path(self._plan, self._cells[0]).parent / "policy"

    def _report(self) -> Path:
        from ..evaluation.episodes import make_episodes
        from ..evaluation.policies import load_policy
        from ..evaluation.runner import evaluate
        from ..evaluation.tables import IMAGINED_NOTE

        # a few more starts, filmed; the numbers come from the episodes above
        films = evaluate(
            load_policy(str(self.policy), seed=0),
            make_episodes(self.tasks, 3, 600000),
            self.out / "films",
            name="quickstart",
            checkpoint=self.policy,
            workers=self.workers,
            videos=1,
            resume=True,
        )
        best: Row = self.rows[0]
        report = Report(
            "From video to a policy",
            f"Recorded, pre-trained on video and fine-tuned on {self.demos} demonstrations of each task in "
            f"{sum(self.seconds.values()) / 60:.0f} minutes on this machine.",
        )
        report.add_numbers(
            [
                (f"{100 * best.pooled.rate:.0f} %", f"success on {best.pooled.episodes} unseen starts"),
                (str(self.demos), "labelled demonstrations of each task"),
                (str(self.episodes), "videos of each task without actions"),
            ]
        )
        report.add_section(
            "The comparison",
            "Same demonstrations, same number of fine-tuning steps, same tokenizer. One training seed: differences of "
            "a few points are noise; `hf-vpdd compare` runs more seeds and draws.",
        )
        intervals = [Interval(row.pooled.rate, row.pooled.low, row.pooled.high) for row in self.rows]
        report.add_table(
            ("policy", "successes", "episodes", "success, 95 % interval", "training, CPU seconds"),
            [
                (NAMES[row.arm], row.pooled.successes, row.pooled.episodes, interval, self._cpu_seconds(cell))
                for row, interval, cell in zip(self.rows, intervals, self._cells)
            ],
            "Wilson intervals over episodes, Meta-World under the lean renderer, success at any step.",
        )
        report.add_bars([NAMES[row.arm] for row in self.rows], {"success": intervals})
        report.add_section("What it saw, imagined and did", IMAGINED_NOTE)
        for video in films.videos:
            report.add_video(video.path, f"{video.task}, seed {video.seed}", "success" if video.success else "failure")
        report.add_section("What the video model learned", "Held-out videos: now, imagined, and the true future.")
        for picture in sorted((self.out / "pretrain" / "pictures").glob("*.png"))[-1:]:
            report.add_figure(picture, "now · imagined · true future through the tokenizer · true future")
        report.add_section("Training curves")
        for stage in ("vqvae", "pretrain"):
            curve = _curve(self.out / stage / "metrics.jsonl")
            report.add_lines({stage: curve}, "step", "training loss", log_y=True)
        report.add_section("Minutes")
        report.add_facts({name: f"{seconds / 60:.1f} min" for name, seconds in self.seconds.items()})
        return report.save(self.out / "report.html")

    def _cpu_seconds(self, cell: Cell) -> float:
        return json.loads(result_path(self._plan, cell).read_text(encoding="utf-8"))["train_cpu_seconds"]


def _curve(path: Path) -> tuple[list[float], list[float]]:
    steps, losses = [], []
    for line in path.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if "train/loss" in entry:
            steps.append(entry["step"])
            losses.append(entry["train/loss"])
    return steps, losses
