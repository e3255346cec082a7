"""CALVIN's results for people: tables in the terminal, and a page."""

from collections.abc import Mapping
from typing import Any

from .calvin_film import video_is_success
from .calvin_run import CalvinEvaluation
from .report import Interval, Report
from .tables import format_table, origin_facts, policy_facts


CHAIN_HEADERS = ("tasks in a row", "chains", "success, 95 % interval")
TASK_HEADERS = ("task", "done", "tried", "success, 95 % interval", "mean steps")


def chain_rows(summary: Mapping[str, Any]) -> list[list[Any]]:
    """One row for each of 1..5 in a row, under `CHAIN_HEADERS`."""
    return [
        [str(one["in_a_row"]), f"{one['successes']} / {summary['chains']}", _interval(one)]
        for one in summary["success_in_a_row"]
    ]


def task_rows(summary: Mapping[str, Any]) -> list[list[Any]]:
    """One row per task that was tried, under `TASK_HEADERS`."""
    return [[one["task"], one["successes"], one["tried"], _interval(one), one["steps"]] for one in summary["tasks"]]


def average_text(summary: Mapping[str, Any]) -> str:
    """The average length with its interval."""
    mean = summary["average_length"]
    return f"{mean['mean']:.2f} [{mean['low']:.2f}, {mean['high']:.2f}]"


def _method(summary: Mapping[str, Any]) -> str:
    """How the interval of the average length was made; see `metrics.mean_interval`."""
    chains = summary["chains"]
    alike = all(one["successes"] in (0, chains) for one in summary["success_in_a_row"])
    return f"Wilson: all {chains} chains ended alike" if alike else f"bootstrap over {chains} chains"


def calvin_summary_text(evaluation: CalvinEvaluation) -> str:
    """What the terminal shows at the end of an evaluation."""
    summary = evaluation.summary
    lines = [format_table(TASK_HEADERS, task_rows(summary)), ""] if summary["tasks"] else []
    lines += [format_table(CHAIN_HEADERS, chain_rows(summary)), ""]
    lines.append(f"average length {average_text(summary)} of 5 (95 %, {_method(summary)})")
    if summary["chains"] < summary["chains_wanted"]:
        lines.append(f"note: {summary['chains']} of {summary['chains_wanted']} chains are here; other shards may run")
    lines += [f"note: {warning}" for warning in summary["warnings"]]
    return "\n".join(lines)


def calvin_report(evaluation: CalvinEvaluation, title: str) -> Report:
    """A page with the chains, tasks, videos and provenance."""
    summary = evaluation.summary
    report = Report(
        title, "CALVIN: up to five tasks in a row by instruction, in one scene; the first failure ends it."
    )
    numbers = [
        (average_text(summary), "tasks in a row on average, of 5"),
        (f"{summary['chains']:,}", "chains"),
    ]
    if summary["ms_per_action"] is not None:
        numbers.append((f"{summary['ms_per_action']:.1f} ms", "of the policy per action"))
    report.add_numbers(numbers)
    report.add_section("Tasks in a row")
    report.add_table(
        CHAIN_HEADERS,
        chain_rows(summary),
        f"Intervals of 95 %: Wilson's of the rates; of the average length {_method(summary)}.",
    )
    rates = [Interval(one["rate"], one["low"], one["high"]) for one in summary["success_in_a_row"]]
    labels = [f"{one['in_a_row']} in a row" for one in summary["success_in_a_row"]]
    report.add_bars(labels, {summary["policy"]["name"]: rates})
    if summary["tasks"]:
        report.add_section("Success by task", "A task is tried when those before it in the chain were done.")
        report.add_table(TASK_HEADERS, task_rows(summary))
    if evaluation.videos:
        report.add_section("What it saw and did", "Every fourth step, at twice the real speed.")
        for path in evaluation.videos:
            number, done = path.stem.split("-")[1:3]
            tag = "success" if video_is_success(path) else "failure"
            report.add_video(path, f"chain {int(number)}, {done} of 5 in a row", tag)
    report.add_section("Where these numbers come from")
    report.add_facts(calvin_facts(summary))
    return report


def calvin_facts(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The provenance of an evaluation in a person's words."""
    return policy_facts(summary) | {
        "protocol": f"{summary['protocol']}, {summary['max_steps']} steps a subtask",
        "scene": summary["scene"],
        "renderer": summary["renderer"],
        "actions per plan": summary["execute"],
        **origin_facts(summary),
        "notes": "; ".join(summary["warnings"]) or "none",
    }


def _interval(one: Mapping[str, Any]) -> Interval:
    return Interval(one["rate"], one["low"], one["high"])
