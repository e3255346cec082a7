"""`hf-vpdd check DATASET`: is a dataset whole, and do its numbers make sense?

hf-vpdd check recordings/mt10                  # everything, each picture decoded; exit status 1 if anything was found
hf-vpdd check recordings/mt10 --quick          # without decoding
hf-vpdd check recordings/mt10 --ignore constant --json
hf-vpdd check recordings/mt10 --model my-policy      # are the model's statistics of such data?
hf-vpdd check codes/mt10-corner2                     # a folder of `hf-vpdd tokenize`: reads all codes again
"""

import argparse
import json


SUMMARY = "Find what is wrong with a dataset: files, times, numbers, pictures, statistics."
LIGHT = True  # uses no models, unless --model is given


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from ..data.findings import KINDS

    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    width = max(map(len, KINDS))
    lines = [
        f"  {kind:<{width}}  {'error  ' if error else 'warning'}  {what}" for kind, (error, what, _) in KINDS.items()
    ]
    parser.epilog = "\n".join(
        ["kinds of findings:", *lines, "", "Exit status: 0 nothing found, 1 something found, 2 no dataset there."]
    )
    add = parser.add_argument
    what = "a dataset of any format that `hf-vpdd info` shows: a folder or a Hub id; or a folder of video codes"
    add("dataset", metavar="DATASET", help=what)
    add("--quick", action="store_true", help="decode no pictures; only see that the videos list every frame")
    add("--ignore", metavar="KIND", nargs="+", default=[], help="do not report these kinds")
    add("--errors-only", action="store_true", help="do not report warnings: data that is unusual but whole")
    add("--keep", type=int, default=20, metavar="N", help="findings listed of each kind and feature (20); all count")
    add("--workers", type=int, metavar="N", help="videos read at a time; as many as there are cores if not given")
    add("--model", metavar="CKPT", help="also hold the statistics of this policy against the dataset's")
    add("--write-stats", action="store_true", help="if nothing else is wrong: replace meta/stats.json's numbers")
    add("--json", action="store_true", help="print one JSON object instead of tables")


def run(args: argparse.Namespace) -> int:
    from ..data.check import check_dataset
    from ..data.findings import KINDS
    from ..data.token_shards import is_codes_folder

    if is_codes_folder(args.dataset):
        return _check_codes(args)
    ignore = list(args.ignore) + [kind for kind, (error, _, _) in KINDS.items() if args.errors_only and not error]
    report = check_dataset(
        args.dataset, decode=not args.quick, workers=args.workers, ignore=tuple(ignore), keep=max(args.keep, 1),
        progress=not args.json,
    )  # fmt: skip
    written = None
    if args.model and report.statistics:
        _compare_model(args.model, report)
    if args.write_stats:
        written = _write_statistics(report)
    if args.json:
        print(json.dumps(report.to_json() | ({"stats_written": written} if written else {})))
    else:
        print_report(report)
        if written:
            print(f"\nNew statistics: {written}")
    return 1 if report.findings else 0


def _check_codes(args: argparse.Namespace) -> int:
    from ..data.token_shards import read_index, verify_codes

    problems, index = verify_codes(args.dataset), read_index(args.dataset)
    if args.json:
        about = {"root": args.dataset, "frames": index.num_frames, "shards": index.num_shards}
        print(json.dumps(about | {"tokenizer": index.tokenizer, "findings": [text for _, text in problems]}))
    else:
        print(
            f"{args.dataset}   (video codes): {index.num_frames} frames of {index.dataset}, camera {index.camera}, in "
            f"{index.num_shards} shards; tokenizer {index.tokenizer}, {index.codes_used} of its {index.codebook_size} "
            "codes occur"
        )
        for _, text in problems:
            print(f"  {text}")
        again = "To do: the same hf-vpdd tokenize with --verify makes these shards anew."
        print(f"\n{len(problems)} errors. {again}" if problems else "\nNothing is wrong with it.")
    return 1 if problems else 0


def _write_statistics(report) -> str:
    from ..data.dataset_statistics import write_statistics
    from ..errors import InputError

    others = [kind for kind, _ in report.findings.counts.items() if kind != "stats" and _is_error(kind)]
    if others or not report.statistics or report.format is None or not report.format.startswith("v3"):
        raise InputError(
            f"{report.root}: statistics are only written for a LeRobot v3.0 dataset without other errors; "
            + (f"found: {', '.join(others)}" if others else f"this one is {report.format or 'unreadable'}")
        )
    path = write_statistics(report.root, report.statistics)
    report.findings.forget("stats")
    return str(path)


def _is_error(kind: str) -> bool:
    from ..data.findings import KINDS

    return KINDS[kind][0]


def _compare_model(checkpoint: str, report) -> None:
    from ..data.dataset_statistics import statistics_mismatch
    from ..registration import register

    register()
    from transformers import AutoProcessor

    from ..errors import InputError

    try:
        processor = AutoProcessor.from_pretrained(checkpoint)
    except (OSError, ValueError) as error:
        raise InputError(f"--model {checkpoint}: no processor can be loaded from there: {error}") from error
    for key, name in (("observation.state", "state_stats"), ("action", "action_stats")):
        stats = getattr(processor, name, None)
        text = stats and statistics_mismatch(name, stats, key, report.statistics.get(key))
        if text:
            report.findings.add("model", text, key=key)


def print_report(report) -> None:
    from ..data.findings import KINDS
    from .info import _print_table

    findings = report.findings
    print(
        f"{report.root}   ({report.format or 'could not be opened'}): {report.episodes} episodes, {report.frames} "
        f"frames; looked at {report.rows} rows and {report.pictures} pictures in {report.seconds:.1f} s"
    )
    if not findings:
        print("\nNothing is wrong with it.")
        return
    kept = findings.sorted()
    rows = [
        ("error" if f.is_error else "warning", f.kind, _place(f), f.key or "", f.message.replace("\n", "\n    "))
        for f in kept
    ]
    _print_table(("level", "kind", "where", "feature", "what"), rows)
    print()
    for kind, number in sorted(findings.counts.items(), key=lambda item: (not KINDS[item[0]][0], item[0])):
        listed = sum(f.kind == kind for f in kept)
        more = f" ({listed} listed)" if listed < number else ""
        print(f"  {number} x {kind}{more}: {KINDS[kind][1]}. To do: {KINDS[kind][2]}")
    print(f"\n{findings.num_errors} errors, {findings.num_warnings} warnings")


def _place(finding) -> str:
    parts = [finding.file] if finding.file else []
    if finding.episode is not None:
        parts.append(f"episode {finding.episode}")
    if finding.frame is not None:
        parts.append(f"frame {finding.frame}")
    return ", ".join(parts)
