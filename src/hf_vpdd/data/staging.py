"""A dataset that is made episode by episode, in several processes, and may be stopped at any time.

Each finished episode is put aside whole under `OUT/.staging`, beside a `plan.json` that says what is being made; the
same call goes on where it stopped, another in the same folder is refused. The dataset appears at the end, in one
rename; until then the folder holds nothing that a reader would take for one.
"""

import json
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import atomic_write_text


def claim(root: Path, plan: dict[str, Any], kind: str) -> Path | None:
    """The staging folder of this plan in `root`, or None if the dataset is complete.

    Args:
        plan: All that decides what is in the data, as plain JSON data.
        kind: "recording" or "conversion": the entry of `meta/info.json` that holds the plan, and the word in messages.

    Raises:
        InputError: The folder holds something else, or the dataset of another plan, finished or not.
    """
    staging, info = root / ".staging", root / "meta" / "info.json"
    if info.is_file():
        _compare(json.loads(info.read_text()).get(kind), plan, root, "holds another dataset")
        for leftover in (staging, root / ".partial"):  # killed between the last rename and the clearing up
            shutil.rmtree(leftover, ignore_errors=True)
        return None
    if (staging / "plan.json").is_file():
        found = json.loads((staging / "plan.json").read_text())
        _compare(found, plan, root, f"holds another, unfinished {kind}")
    elif root.exists() and not root.is_dir():
        raise InputError(f"{root} is a file; name a folder")
    elif root.is_dir() and any(entry.name not in (".staging", ".partial") for entry in root.iterdir()):
        raise InputError(f"{root} is neither empty nor a {kind}; choose another folder")
    else:
        atomic_write_text(staging / "plan.json", json.dumps(plan, indent=2))
    for leftover in (staging / "episodes").glob(".*"):  # of killed workers
        shutil.rmtree(leftover, ignore_errors=True)
    return staging


def _compare(found: Any, wanted: dict, root: Path, what: str) -> None:
    if found == wanted:
        return
    if not isinstance(found, dict):
        raise InputError(f"{root} {what}, not made by hf-vpdd in this way; choose another folder")
    differences = [
        f"{key} {found.get(key)!r} (now {wanted.get(key)!r})"
        for key in dict.fromkeys([*wanted, *found])
        if found.get(key) != wanted.get(key)
    ]
    raise InputError(f"{root} {what}: {'; '.join(differences)}. Use the same arguments, or another folder")


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_jobs(
    function: Callable[..., Any],
    jobs: Iterable[tuple],
    workers: int,
    initializer: Callable[..., None],
    initargs: tuple,
    done: Callable[[Any], None],
    died: str,
) -> None:
    """Calls `function(*job)` for each job in processes of their own.

    Processes are spawned: a forked copy of a GL context or of an open video hangs.

    Args:
        function, initializer: Of a module, not nested; the latter runs once in each process.
        done: Gets the result of each job, in the order in which they finish.
        died: The error if a process is killed; finished work is kept.

    Raises:
        RuntimeError: A process was killed. And whatever a job raises; what is half done is thrown away.
    """
    pool = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start,
        initargs=(initializer, initargs),
    )
    try:
        running: set = set()
        for job in jobs:
            running.add(pool.submit(function, *job))
            if len(running) >= 2 * workers:
                running = _collect(running, done)
        while running:
            running = _collect(running, done)
    except BrokenProcessPool:
        raise RuntimeError(died) from None
    except BaseException:
        # Ctrl-C too: what is half done is thrown away, what is done stays. Workers ignore Ctrl-C themselves.
        for process in list((pool._processes or {}).values()):
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _collect(running: set, done: Callable[[Any], None]) -> set:
    finished, running = wait(running, return_when=FIRST_COMPLETED)
    for future in finished:
        done(future.result())
    return running


def _start(initializer: Callable[..., None], initargs: tuple) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, daemon=True).start()
    initializer(*initargs)


def _follow_parent() -> None:
    """A worker whose parent was killed would wait for work for ever."""
    multiprocessing.parent_process().join()
    os._exit(1)
