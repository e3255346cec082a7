"""Run as a program: `hf-vpdd convert dataset`, killed with SIGKILL at one point after the other, each time repeated.

    python kill_points.py OUT_PARENT < '{"video": {"arguments": ["--from", "video", "clips"], "points": 3, "ends": 6}}'

`points` spread over the work, and the `ends` last ones, where folders are renamed. Everything is imported once; each
attempt is a forked process of its own. For each point it prints a line of JSON: what was about to happen, what a
reader took the folder for after the kill, and how the repetition ended.
"""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pyarrow.parquet as pq


sys.argv[0] = "hf-vpdd"  # as the command: without the models, see `hf_vpdd.registration`

from hf_vpdd.cli import main  # noqa: E402
from hf_vpdd.data import (  # noqa: E402, F401
    conversion,
    ego4d,
    formats,
    lerobot_writer,
    source_conversion,
    video_conversion,
)
from hf_vpdd.data.lerobot import LeRobotDataset  # noqa: E402
from hf_vpdd.errors import InputError  # noqa: E402


def watch(kill_at: int | None) -> list[str]:
    """Counts the steps of a conversion; before step `kill_at` the process kills itself. What it did."""
    events: list[str] = []

    def before(what):
        if len(events) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        events.append(what)

    def wrap(home, name):
        real = getattr(home, name)

        def counted(*args, **options):
            before(f"before {name}")
            result = real(*args, **options)
            before(f"after {name}")
            return result

        setattr(home, name, counted)

    for home, name in (
        (os, "replace"), (shutil, "rmtree"), (conversion, "encode_video"), (pq, "write_table"),
        (lerobot_writer.LeRobotWriter, "add_encoded_episode"), (lerobot_writer.LeRobotWriter, "add_meta_file"),
    ):  # fmt: skip
        wrap(home, name)
    return events


def in_a_process(function) -> tuple[int, str]:
    """(exit status, what the function returned) of a forked process; it says nothing else."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        try:
            os.write(write, json.dumps(function()).encode())
            os._exit(0)
        except BaseException as error:
            os.write(2, f"{error!r}\n".encode())
            os._exit(1)
    os.close(write)
    with os.fdopen(read) as pipe:
        answer = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), answer


def convert(arguments: list[str], out: Path, kill_at: int | None) -> list[str]:
    events = watch(kill_at)
    if main(["convert", "dataset", *arguments, str(out), "--workers", "1"]) != 0:
        raise SystemExit(1)
    return events


def state_and_again(arguments: list[str], out: Path) -> str:
    """What a reader takes the folder for; then the same command once more."""
    try:
        dataset = LeRobotDataset(out)
        found = f"{len([dataset.episode(number) for number in range(dataset.num_episodes)])} episodes"
    except InputError:
        found = "nothing"
    convert(arguments, out, None)
    return found


def run(kind: str, parent: Path, arguments: list[str], points: int, ends: int) -> None:
    # Loads the modules, and starts no threads, which a fork would lose.
    assert main(["convert", "dataset", *arguments[:2], "nowhere", *arguments[3:], str(parent)]) == 2
    # The first run finds lengths of videos and remembers them; after that every run does the same.
    for name in ("first", "whole") if arguments[1] in ("video", "ego4d") else ("whole",):
        status, answer = in_a_process(lambda: convert(arguments, parent / name, None))
        assert status == 0
    events = json.loads(answer)
    last = len(events) - 1
    # Evenly over the work, and each of the renames at its end.
    chosen = {round(place * last / points) for place in range(points)} | set(range(last + 1 - ends, last + 1))
    for point in sorted(chosen):
        out = parent / f"killed-{point}"
        killed, _ = in_a_process(lambda: convert(arguments, out, point))
        again, found = in_a_process(lambda: state_and_again(arguments, out))
        found = json.loads(found) if again == 0 else None
        line = {
            "kind": kind,
            "point": events[point],
            "out": str(out),
            "killed": killed,
            "found": found,
            "again": again,
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    for kind, about in json.load(sys.stdin).items():
        run(kind, Path(sys.argv[1]) / kind, **about)
