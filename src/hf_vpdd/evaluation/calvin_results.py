"""The folder of a CALVIN evaluation: what was run, one line per chain, and what it came to.

    run.json              what must be the same for chains to belong together: policy, protocol, sampling
    chains.jsonl          one line per finished chain; `chains-2-of-8.jsonl` of a shard
    summary.json          success rates of 1..5 in a row and average length with intervals, tasks, provenance
    results.json          the same numbers as the benchmark's own script writes them
    videos/, report.html

A line is appended whole, in one write, so a run that is killed loses only the chains it was in. Shards may write into
one folder at the same time, or into several that are merged afterwards: a chain is the same whoever runs it.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import atomic_write_text
from .calvin_chains import CHAIN_LENGTH, CHAINS, TASKS
from .metrics import chain_statistics, wilson_interval
from .results import differences, read_json


class ChainFolder:
    """Opens the folder of an evaluation, new or to be gone on with.

    Args:
        path: The folder; created if need be.
        run: What identifies the run, as plain JSON values.
        shard, shards: Which part this process runs; it alone writes that part's file.
        resume: Go on with what is there.

    Raises:
        InputError: There are results of this part already and `resume` is false; or results of another run (the
            message names the differences); or they cannot be read.
    """

    def __init__(
        self, path: str | os.PathLike, run: Mapping[str, Any], shard: int = 1, shards: int = 1, resume: bool = False
    ) -> None:
        self.path = Path(path)
        self.videos = self.path / "videos"
        name = "chains.jsonl" if shards == 1 else f"chains-{shard}-of-{shards}.jsonl"
        self._lines = self.path / name
        run = json.loads(json.dumps(run))  # as it will be read back: tuples become lists
        marker = self.path / "run.json"
        if (self.path / "episodes.jsonl").exists():
            raise InputError(f"{self.path} holds results of another simulator; give another --out")
        if self._lines.exists() and not resume:
            raise InputError(
                f"{self._lines} holds results already; give --resume to go on with them, or another --out"
            )
        if marker.exists():
            empty = not any(path.stat().st_size for path in self.path.glob("chains*.jsonl"))
            hint = f". No chain is finished there: if no other process runs it, delete {marker}" if empty else ""
            _check_same(marker, run, f"{self.path} cannot be gone on with", hint)
        elif any(self.path.glob("chains*.jsonl")):
            raise InputError(f"{self.path} has chains, but no run.json that says of what; give another --out")
        self.path.mkdir(parents=True, exist_ok=True)
        atomic_write_text(marker, json.dumps(run, indent=2) + "\n")
        self.run = run
        self.results: dict[int, dict[str, Any]] = {}
        _drop_half_line(self._lines)
        self.refresh()

    def refresh(self) -> None:
        """Reads what all shards have written so far."""
        for path in sorted(self.path.glob("chains*.jsonl")):
            self._keep(read_chains(path))

    def append(self, result: Mapping[str, Any]) -> None:
        """Adds a finished chain, at once and for good."""
        descriptor = os.open(self._lines, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(descriptor, (json.dumps(result) + "\n").encode())
        finally:
            os.close(descriptor)
        self._keep([result])

    def merge(self, other: str | os.PathLike) -> int:
        """Takes over the chains of another folder that are missing here, and returns how many.

        Raises:
            InputError: It holds no results, or those of another run.
        """
        other = Path(other)
        if not (other / "run.json").is_file():
            raise InputError(f"--merge {other}: there is no run.json; give the --out folder of a CALVIN evaluation")
        _check_same(other / "run.json", self.run, f"--merge {other}: not the same evaluation")
        taken = 0
        for path in sorted(other.glob("chains*.jsonl")):
            for result in read_chains(path):
                if result["chain"] not in self.results:
                    self.append(result)
                    taken += 1
        return taken

    def _keep(self, results: Iterable[Mapping[str, Any]]) -> None:
        for result in results:
            self.results[result["chain"]] = dict(result)


def read_chains(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file of chains; half a line at the end is one that is being written, or never was.

    Raises:
        InputError: A line is no chain.
    """
    data = path.read_bytes()
    results = []
    for number, line in enumerate(data[: data.rfind(b"\n") + 1].splitlines(), start=1):
        try:
            result = json.loads(line)
            valid = 0 <= result["chain"] < CHAINS and 0 <= result["done"] <= CHAIN_LENGTH and len(result["tasks"]) == 5
            if not valid or not {one["task"] for one in result["subtasks"]} <= set(TASKS):
                raise ValueError("numbers out of range")
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path} line {number} is no result of a chain ({error!r}); remove that line or give another --out"
            ) from error
        results.append(result)
    return results


def _drop_half_line(path: Path) -> None:
    if path.exists():
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            os.truncate(path, whole)


def _check_same(marker: Path, run: Mapping[str, Any], problem: str, hint: str = "") -> None:
    there = read_json(marker)
    if there != run:
        raise InputError(
            f"{problem}: it was run with other settings ({'; '.join(differences(there, run))}). "
            f"Use those, or give another --out{hint}"
        )


# What the chains came to --------------------------------------------------------------------------------


def chain_scores(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Success rates of 1..5 in a row with 95 % Wilson intervals, and the average length with its interval."""
    return chain_statistics([result["done"] for result in results], CHAIN_LENGTH)


def task_scores(results: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Per task, in the benchmark's order: times tried and done, rate with its Wilson interval, mean steps when done.

    A task is tried only when those before it in the chain were done.
    """
    tried, won, steps = Counter(), Counter(), Counter()
    for result in results:
        for one in result["subtasks"]:
            tried[one["task"]] += 1
            if one["success"]:
                won[one["task"]] += 1
                steps[one["task"]] += one["steps"]
    scores = []
    for task in TASKS:
        if tried[task]:
            low, high = wilson_interval(won[task], tried[task])
            scores.append(
                {"task": task, "successes": won[task], "tried": tried[task], "rate": won[task] / tried[task],
                 "low": low, "high": high, "steps": steps[task] / won[task] if won[task] else None}
            )  # fmt: skip
    return scores


def official_results(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The numbers in the form of the benchmark's own results.json, under the epoch "0"."""
    scores = chain_scores(results)
    return {
        "0": {
            "avg_seq_len": scores["average_length"]["mean"],
            "chain_sr": {str(one["in_a_row"]): one["rate"] for one in scores["success_in_a_row"]},
            "task_info": {
                one["task"]: {"success": one["successes"], "total": one["tried"]} for one in task_scores(results)
            },
        }
    }
