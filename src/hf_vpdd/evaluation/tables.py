"""Results for people: a table in the terminal, and a page."""

from collections.abc import Mapping, Sequence
from typing import Any

from .report import Interval, Report
from .runner import Evaluation


def format_table(headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A plain table; the first column to the left, the others to the right. None is a dash."""
    cells = [[str(name) for name in headers], *([_text(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headers))]
    lines = [
        "  ".join(cell.ljust(width) if column == 0 else cell.rjust(width) for column, (cell, width) in enumerate(
            zip(row, widths)))
        for row in cells
    ]  # fmt: skip
    lines.insert(1, "  ".join("─" * width for width in widths))
    return "\n".join(line.rstrip() for line in lines)


def _text(cell: Any) -> str:
    if cell is None:
        return "–"
    if isinstance(cell, Interval):
        return f"{100 * cell.rate:.0f} % [{100 * cell.low:3.0f}, {100 * cell.high:3.0f}]"
    return f"{cell:.1f}" if isinstance(cell, float) else str(cell)


HEADERS = ("task", "successes", "episodes", "success, 95 % interval", "ms per action")


def rows(evaluation: Evaluation) -> list[list[Any]]:
    """One row per task and one for all, under `HEADERS`."""
    times = {task["name"]: task["ms_per_action"] for task in evaluation.summary["tasks"]}
    out = [
        [one.name, one.successes, one.episodes, Interval(one.rate, one.low, one.high), times[one.name]]
        for one in evaluation.scores
    ]
    if len(out) > 1:
        every = evaluation.overall
        out.append(
            ["all", every.successes, every.episodes, Interval(every.rate, every.low, every.high),
             evaluation.summary["ms_per_action"]]
        )  # fmt: skip
    return out


def summary_text(evaluation: Evaluation) -> str:
    """What the terminal shows at the end of an evaluation."""
    lines = [format_table(HEADERS, rows(evaluation)), ""]
    if len(evaluation.scores) > 1:
        groups = [f"{name} {100 * mean:.1f} %" for name, mean in evaluation.summary["by_difficulty"].items()]
        among = f" ({', '.join(groups)})" if groups else ""
        lines.append(f"mean over {len(evaluation.scores)} tasks: {100 * evaluation.mean:.1f} %{among}")
    lines.append(f"protocol {evaluation.summary['protocol']}: {evaluation.summary['label']}")
    lines += [f"note: {warning}" for warning in evaluation.summary["warnings"]]
    return "\n".join(lines)


IMAGINED_NOTE = (
    "Left: what the camera saw, at half speed. Middle: what the policy imagined for a moment ahead when it made its "
    "plan. Right: what the camera really saw at that moment, in the imagined picture's resolution. Both stay until "
    "the next plan."
)


def evaluation_report(
    evaluation: Evaluation, title: str, subtitle: str = "", reference: Evaluation | None = None
) -> Report:
    """A page with table, plot and videos; the caller may add to it before saving.

    Args:
        evaluation: What to show.
        title: Heading.
        subtitle: A sentence below it.
        reference: Another policy on the same tasks (the scripted expert), marked in the plot.
    """
    summary, scores = evaluation.summary, evaluation.scores
    report = Report(title, subtitle)
    numbers = [
        (f"{100 * evaluation.mean:.0f} %", f"success, mean of {len(scores)} task{'s' * (len(scores) > 1)}"),
        (f"{evaluation.overall.episodes:,}", f"episodes, seeds {summary['seeds'][0]} to {summary['seeds'][1]}"),
    ]
    if summary["ms_per_action"] is not None:
        numbers.append((f"{summary['ms_per_action']:.1f} ms", "of the policy per action"))
    report.add_numbers(numbers)
    report.add_section("Success by task")
    report.add_table(HEADERS, rows(evaluation), "Success at any step of an episode; Wilson intervals of 95 %.")
    intervals = [Interval(one.rate, one.low, one.high) for one in scores]
    marks = {}
    if reference is not None:
        rates = {one.name: one.rate for one in reference.scores}
        if all(one.name in rates for one in scores):
            marks = {reference.summary["policy"]["name"]: [rates[one.name] for one in scores]}
    report.add_bars([one.name for one in scores], {summary["policy"]["name"]: intervals}, marks)
    if evaluation.videos:
        report.add_section("What it saw, imagined and did" if summary["predict_ahead"] else "What it saw and did")
        report.add_text(IMAGINED_NOTE if summary["predict_ahead"] else "What the camera saw, at half speed.")
        for video in evaluation.videos:
            report.add_video(video.path, f"{video.task}, seed {video.seed}", "success" if video.success else "failure")
    report.add_section("Where these numbers come from")
    report.add_facts(facts(summary))
    return report


def facts(summary: dict[str, Any]) -> dict[str, Any]:
    """The provenance of an evaluation in a person's words."""
    found = policy_facts(summary) | {
        "protocol": f"{summary['protocol']}: {summary['label']}",
        "perturbation": ", ".join("none" if name == "None" else name for name in summary["perturbation"]),
        "actions per plan": summary["execute"],
        **origin_facts(summary),
    }
    found |= {"note": "; ".join(summary["warnings"])} if summary["warnings"] else {}
    return found


def policy_facts(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Which policy: its name, and what identifies its weights."""
    policy = summary["policy"]
    weights = {f"SHA-256 of {name}": value for name, value in policy.items() if name.endswith(".safetensors")}
    return {"policy": policy["name"], **weights}


def origin_facts(summary: Mapping[str, Any]) -> dict[str, Any]:
    """How, when and where the numbers were made."""
    origin = summary["provenance"]
    return {
        "command": origin["command"],
        "date": origin["date"],
        "hf-vpdd": f"{origin['hf_vpdd']}, revision {origin['revision'] or 'unknown'}",
        "versions": ", ".join(f"{name} {version}" for name, version in origin["versions"].items() if version),
        "machine": origin["machine"],
    }
