"""Tables of the studies of V-PTR's values, as they stand in docs/vptr.md."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from ..errors import InputError
from ..files import atomic_write_text
from .value_transfer import CONDITIONS, pooled


NAMES = {
    "icvf": "ICVF (V-PTR)", "vptr": "ICVF (V-PTR)", "vip": "VIP", "tcn": "TCN (R3M)", "scratch": "from scratch",
    "untrained": "untrained network", "pixels": "pixel distance",
}  # fmt: skip


def gridworld_table(results: Sequence[dict[str, Any]]) -> str:
    """Mean of the seeds, and each."""
    lines = ["| values of | Spearman | greedy step | order on held-out clips | seeds |", "|---|---|---|---|---|"]
    for arm, runs in _by_arm(results).items():
        cells = [_mean_and_each([run[name] for run in runs]) for name in ("spearman", "greedy_step", "order")]
        lines.append(f"| {NAMES[arm]} | {' | '.join(cells)} | {len(runs)} |")
    return "\n".join(lines) + "\n"


def order_table(results: Sequence[dict[str, Any]]) -> str:
    """The floors come from the same runs: the network of each before its first step, and the pixels."""
    lines = ["| values of | order on held-out clips: mean (each seed) |", "|---|---|"]
    groups = _by_arm(results)
    for arm, runs in groups.items():
        lines.append(f"| {NAMES[arm]} | {_mean_and_each([run['order'] for run in runs])} |")
    floor = groups.get("icvf") or list(results)
    if floor:
        untrained = _mean_and_each([run["untrained_order"] for run in floor])
        lines += [f"| {NAMES['untrained']} | {untrained} |", f"| {NAMES['pixels']} | {floor[0]['pixel_order']:.3f} |"]
    return "\n".join(lines) + "\n"


def policy_table(results: Sequence[dict[str, Any]]) -> str:
    """Success of every start of the encoders, pooled over seeds, with 95 % intervals (Wilson)."""
    shown = [name for name in CONDITIONS if all(name in result["conditions"] for result in results)]
    lines = [
        "| encoders from | " + " | ".join(f"{name} starts" if name != "camera" else "moved camera" for name in shown)
        + " | episodes each | seeds |",
        "|" + "---|" * (len(shown) + 3),
    ]  # fmt: skip
    for arm, runs in _by_arm(results).items():
        scores = [pooled(runs, name) for name in shown]
        cells = [f"{100 * s.rate:.1f} % [{100 * s.low:.0f}, {100 * s.high:.0f}]" for s in scores]
        lines.append(f"| {NAMES[arm]} | {' | '.join(cells)} | {scores[0].episodes if scores else 0} | {len(runs)} |")
    return "\n".join(lines) + "\n"


TABLES = {"value-gridworld": gridworld_table, "value-order": order_table, "offline-rl": policy_table}


def put_table(document: Path, study: str, table: str) -> None:
    """Replace the table between the marks `<!-- STUDY -->` and `<!-- /STUDY -->` of a Markdown file.

    Raises:
        InputError: the file has no such marks.
    """
    text = document.read_text(encoding="utf-8")
    marks = re.compile(rf"(<!-- {study} -->\n).*?(<!-- /{study} -->)", re.DOTALL)
    if not marks.search(text):
        raise InputError(f"{document} has no marks <!-- {study} --> and <!-- /{study} --> to put the table between")
    atomic_write_text(document, marks.sub(lambda found: found[1] + table + found[2], text))


def put_runs(path: Path, study: str, results: Sequence[dict[str, Any]]) -> None:
    """Put one line for each run into a JSON lines file, in place of the lines of this study that it has."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    lines = [line for line in lines if json.loads(line)["study"] != study]
    lines += [json.dumps(result) for result in results]
    atomic_write_text(path, "\n".join(lines) + "\n")


def _by_arm(results: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        groups.setdefault(result["arm"], []).append(result)
    return {arm: groups[arm] for arm in NAMES if arm in groups}


def _mean_and_each(values: Sequence[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"**{mean(values):.3f}** ({' '.join(f'{value:.3f}' for value in values)})"
