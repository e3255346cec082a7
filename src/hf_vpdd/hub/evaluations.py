"""The folders that `hf-vpdd eval` writes, as rows of a card and as results in the Hub's form (model-index)."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult

from ..errors import InputError
from ..evaluation.episodes import PROTOCOLS
from ..files import file_sha256
from .contents import Contents, read_json
from .paths import shorten_paths


TITLES = {"metaworld": "Meta-World", "calvin": "CALVIN", "rlbench": "RLBench"}


@dataclass
class Row:
    """One line of a table: rates are fractions with their 95 % Wilson interval."""

    name: str
    successes: int
    episodes: int
    rate: float
    low: float
    high: float

    @property
    def text(self) -> str:
        return f"{100 * self.rate:.1f} % [{100 * self.low:.0f}, {100 * self.high:.0f}]"


@dataclass
class Results:
    """One evaluation.

    Args:
        env: "metaworld", "calvin" or "rlbench".
        heading: What was run, in words.
        rows: Per task (or per number of tasks in a row), and for all together at the end.
        facts: Lines about protocol, seeds, time.
        summary: summary.json as it lies there.
    """

    env: str
    heading: str
    rows: list[Row]
    facts: list[str]
    notes: list[str]
    command: str
    summary: dict[str, Any]
    mean_length: tuple[float, float, float] | None = None

    @property
    def title(self) -> str:
        return TITLES.get(self.env, self.env)

    def to_eval_results(self) -> list[EvalResult]:
        """Entries of the card's model-index: mean, interval, episodes and seeds."""
        summary = self.summary
        given = {"protocol": summary["protocol"], "episodes": summary.get("episodes", summary.get("chains"))}
        given |= {"seeds": list(summary["seeds"])} if summary.get("seeds") else {}
        given |= {"perturbation": list(summary["perturbation"])} if changed(summary) else {}
        common = {
            "task_type": "robotics", "task_name": "robot policy", "dataset_type": self.env,
            "dataset_name": f"{self.title}, {self.heading}", "dataset_config": _name(summary),
            "dataset_args": given, "verified": False,
        }  # fmt: skip
        if self.mean_length is not None:
            mean, low, high = self.mean_length
            entries = [("chain_length", "tasks done in a row, of 5", mean, (low, high), {})]
            entries += [(f"success_rate_{row.name.split()[0]}_in_a_row", f"success, {row.name}", row.rate,
                         (row.low, row.high), {}) for row in self.rows]  # fmt: skip
        else:
            entries = [
                ("success_rate", "success rate" if row.name == "all" else f"success rate, {row.name}", row.rate,
                 (row.low, row.high), {"successes": row.successes, "episodes": row.episodes})
                for row in reversed(self.rows)
            ]  # fmt: skip
        return [
            EvalResult(
                metric_type=kind, metric_name=name, metric_value=round(value, 4),
                metric_args={"interval_95": [round(end, 4) for end in interval], **more}, **common,
            )
            for kind, name, value, interval, more in entries
        ]  # fmt: skip


def find_results(contents: Contents, folders: Iterable[str | Path] = ()) -> list[Results]:
    """Evaluations of these very weights: those named, and those that lie in the folder of the run.

    Raises:
        InputError: A named folder holds no finished evaluation, or one of other weights.
    """
    hashes = {
        name: file_sha256(path)
        for name, path in contents.files.items()
        if isinstance(path, Path) and path.suffix == ".safetensors"
    }
    found = []
    for folder in map(Path, folders):
        summary = _summary(folder)
        if not _same_weights(summary, hashes):
            raise InputError(
                f"{folder}: these are results of other weights than those in {contents.folder} (their SHA-256 "
                "differs). Evaluate this model: hf-vpdd eval --policy ..."
            )
        found.append(_read(summary, contents))
    named = {str(Path(folder).resolve()) for folder in folders}
    for path in sorted({*contents.folder.glob("*/summary.json"), *contents.folder.glob("*/*/summary.json")}):
        if str(path.parent.resolve()) not in named and not path.parent.parent.name.startswith("checkpoint-"):
            summary = _summary(path.parent)
            if _same_weights(summary, hashes):
                found.append(_read(summary, contents))
    return sorted(found, key=lambda one: (changed(one.summary), one.heading))


def _read(summary: Mapping[str, Any], contents: Contents) -> Results:
    """With a note if the processor (steps per plan, statistics) is not the one that was evaluated."""
    results, path = read_results(summary), contents.folder / "processor_config.json"
    theirs = summary["policy"].get("processor_config.json")
    if theirs is not None and path.is_file() and file_sha256(path) != theirs:
        results.notes.append("evaluated with another processor_config.json than the one in this repository")
    return results


def read_results(summary: Mapping[str, Any]) -> Results:
    """A summary.json of either kind of evaluation."""
    summary = dict(shorten_paths(summary))
    origin = summary.get("provenance", {})
    facts = []
    if summary.get("seeds"):
        facts.append(f"seeds {summary['seeds'][0]} to {summary['seeds'][1]}")
    for name, text in (("execute", "actions run per plan: {}"), ("max_steps", "at most {} steps")):
        if summary.get(name) is not None:
            facts.append(text.format(summary[name]))
    sampling = {k: v for k, v in summary.get("policy", {}).get("sampling", {}).items() if v is not None}
    if sampling:
        facts.append("sampling " + ", ".join(f"{name} {value}" for name, value in sampling.items()))
    if summary.get("ms_per_action") is not None:
        facts.append(f"{summary['ms_per_action']:.1f} ms of the policy per action")
    facts += [str(origin[name]) for name in ("machine", "date") if origin.get(name)]
    notes, command = list(summary.get("warnings", [])), origin.get("command", "")
    if summary.get("protocol") == "calvin":
        rows = [
            _row(one | {"name": f"{one['in_a_row']} in a row", "episodes": summary["chains"]})
            for one in summary["success_in_a_row"]
        ]
        length = summary["average_length"]
        heading = (
            f"{summary['chains']} chains of scene {summary.get('scene', 'D')}, {summary.get('renderer')} renderer"
        )
        mean = (length["mean"], length["low"], length["high"])
        return Results("calvin", heading, rows, facts, notes, command, summary, mean)
    rows = [_row(one) for one in summary["tasks"]]
    if len(rows) > 1:
        rows.append(_row(summary["overall"] | {"name": "all"}))
    env = PROTOCOLS[summary["protocol"]].env if summary["protocol"] in PROTOCOLS else summary["protocol"]
    return Results(env, summary.get("label", summary["protocol"]), rows, facts, notes, command, summary)


def changed(summary: Mapping[str, Any]) -> bool:
    """Whether the scene was changed on purpose."""
    return any(name not in ("None", "none") for name in summary.get("perturbation", []))


def _row(one: Mapping[str, Any]) -> Row:
    return Row(*(one[name] for name in ("name", "successes", "episodes", "rate", "low", "high")))


def _name(summary: Mapping[str, Any]) -> str:
    parts = [summary["protocol"], *(name for name in summary.get("perturbation", []) if name not in ("None", "none"))]
    return "-".join(parts)


def _summary(folder: Path) -> dict[str, Any]:
    path = folder if folder.suffix == ".json" else folder / "summary.json"
    if not path.is_file():
        raise InputError(f"{path} does not exist. Give the --out folder of a finished `hf-vpdd eval`.")
    summary = read_json(path)
    if not summary.get("finished") or not {"protocol", "policy", "tasks"} <= set(summary):
        raise InputError(f"{path} is not the summary of a finished evaluation. Finish it: hf-vpdd eval ... --resume")
    return summary


def _same_weights(summary: Mapping[str, Any], hashes: Mapping[str, str]) -> bool:
    theirs = {name: value for name, value in summary["policy"].items() if name.endswith(".safetensors")}
    return bool(theirs) and theirs == dict(hashes)


def to_json(results: Iterable[Results]) -> bytes:
    """All summaries in one file, for the repository."""
    return (json.dumps([one.summary for one in results], indent=1) + "\n").encode()
