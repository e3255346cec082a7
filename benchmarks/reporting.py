"""What the benchmarks of the model share: clocks, memory, and how rows are printed."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable


def add_clock(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall", help="cpu: processor time, for machines that are not idle"
    )


def once(function: Callable[[], object], args: argparse.Namespace) -> float:
    """Milliseconds of one call by `args.clock`: wall time, or the time that this process computed."""
    import torch

    read = time.process_time if args.clock == "cpu" else time.perf_counter
    wait = torch.cuda.synchronize if args.device.startswith("cuda") else lambda: None
    wait()
    began = read()
    function()
    wait()
    return 1000 * (read() - began)


def take_turns(functions: dict[str, Callable[[], object]], repeats: int, args: argparse.Namespace) -> dict[str, float]:
    """Median milliseconds of each after a call that does not count; in turns, so that other work hits all alike."""
    for function in functions.values():
        once(function, args)
    taken: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            taken[name].append(once(function, args))
    return {name: statistics.median(times) for name, times in taken.items()}


def resident_mb(peak: bool = False) -> float:
    """Memory this process holds now, or the most it ever held."""
    try:  # not getrusage: a child inherits its parent's peak there
        with open("/proc/self/status") as file:
            lines = dict(line.split(":", 1) for line in file)
        return int(lines["VmHWM" if peak else "VmRSS"].split()[0]) / 1024
    except (OSError, KeyError):
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most / (1024**2 if sys.platform == "darwin" else 1024)


def added_mb(function: Callable[[], object], device: str = "cpu") -> float:
    """Peak memory of one call beyond what is there already: the allocator's on a GPU, else the operating system's. For
    the latter call it in a fresh process (`in_child`)."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # forget earlier peaks; where that cannot be, they were lower or hide this one
    before = resident_mb()
    function()
    return resident_mb(peak=True) - before


def in_child(arguments: list[str]) -> dict:
    """Run the benchmark again with these arguments in a process of its own; the JSON object it prints last."""
    # glibc keeps freed blocks for later and so blurs what was needed; this returns every large one at once
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, sys.argv[0], *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def print_rows(rows: list[dict], as_json: bool, notes: tuple[str, ...] = ()) -> None:
    """One JSON object a line, or a table with notes below. Values that a row lacks are None."""
    if as_json:
        for row in rows:
            print(json.dumps({key: round(x, 3) if isinstance(x, float) else x for key, x in row.items()}))
        return
    columns = list(rows[0])
    cells = [[_cell(row[key]) for key in columns] for row in rows]
    widths = [max(len(line[i]) for line in [columns, *cells]) for i in range(len(columns))]
    for line in [columns, *cells]:
        print("  ".join(x.ljust(w) if i == 0 else x.rjust(w) for i, (x, w) in enumerate(zip(line, widths))).rstrip())
    for note in notes:
        print(note)


def _cell(value) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1.995 else f"{value:.1f}"
    return "" if value is None else str(value)
