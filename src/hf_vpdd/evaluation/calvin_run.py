"""CALVIN's benchmark from a policy to a folder of results (see `calvin_results`).

Every simulator is a process of its own; a thread of this process leads each through its chains, and one place plans
for all of them. A chain depends on its number alone: the world is made anew at its start, every random draw of the
policy is seeded by chain, subtask and plan, and (with `batch` 1) plans are made one by one. So results are the same
for any number of workers and shards.
"""

import json
import os
import queue
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..envs.calvin import CalvinEnv, CalvinServerError
from ..envs.calvin_setup import find_python, find_root
from ..errors import InputError
from ..files import atomic_write_text, file_sha256
from .calvin_chains import CHAINS, Chain, chains_of_shard
from .calvin_film import list_videos, save_video
from .calvin_play import ChainFilm, play_chain, subtask_name
from .calvin_policy import Needs, Planner, Request
from .calvin_results import ChainFolder, chain_scores, official_results, task_scores
from .policies import identity
from .results import provenance


TRIES = 2  # of a chain whose simulator dies


@dataclass(frozen=True)
class CalvinSettings:
    """How chains are run.

    Args:
        chains: The first so many of the benchmark's 1000.
        shard, shards: Of these, this process runs every `shards`-th from the `shard`-th on (from 1).
        workers: Simulators that run side by side.
        batch: Robots that the policy may plan for in one call, as many as are waiting. More than 1 pays on a GPU, and
            lets actions depend on who waited with whom, by rounding.
        execute: Steps of each plan to carry out; the policy's own number if not given.
        max_steps: Of a subtask; 360 officially.
        policy_seed: Of the policy's draws.
        official_quirks: Keep what the official evaluation does by mistake: the first observation of a chain reports
            the last gripper command of the chain before it in the same simulator.
        renderer: "tiny" or "egl".
        videos: Chains to film that failed, and so many that went through.
        python, calvin_root, dataset: As of `CalvinEnv`.
    """

    chains: int = CHAINS
    shard: int = 1
    shards: int = 1
    workers: int = 2
    batch: int = 1
    execute: int | None = None
    max_steps: int = 360
    policy_seed: int = 0
    official_quirks: bool = False
    renderer: str = "tiny"
    videos: int = 1
    python: str | None = None
    calvin_root: str | None = None
    dataset: str | None = None

    def check(self) -> None:
        """Raises an InputError that names the first setting out of range."""
        for name, least in (("workers", 1), ("batch", 1), ("max_steps", 1), ("videos", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name} must be at least {least}; got {getattr(self, name)}")

    def make_env(self, cameras: Sequence[str]) -> CalvinEnv:
        """A simulator, in a process of its own."""
        return CalvinEnv(
            cameras=tuple(cameras) or ("static",),
            renderer=self.renderer,
            python=self.python,
            calvin_root=self.calvin_root,
            dataset=self.dataset,
            keep_stale_gripper=self.official_quirks,
            max_steps=self.max_steps,
        )


@dataclass
class CalvinEvaluation:
    """What an evaluation came to: its folder, `summary.json`, the chains' results in order, the videos in the folder
    (failures first)."""

    path: Path
    summary: dict[str, Any]
    results: list[dict[str, Any]]
    videos: list[Path]


def evaluate_calvin(
    policy: Any,
    out: str | os.PathLike,
    settings: CalvinSettings | None = None,
    name: str = "policy",
    checkpoint: str | os.PathLike | None = None,
    resume: bool = False,
    merge: Sequence[str | os.PathLike] = (),
    progress: bool = True,
    make_env: Callable[[Sequence[str]], Any] | None = None,
) -> CalvinEvaluation:
    """Runs the chains that are not there yet, and writes results, videos and summary into a folder.

    Args:
        policy: See `calvin_policy.load_calvin_policy`.
        out: Folder of the results.
        settings: How; the official protocol if not given.
        name: What to call the policy in reports.
        checkpoint: The folder it was loaded from: its files are then identified by their SHA-256.
        resume: Go on with what is in the folder.
        merge: Folders of other shards of the same evaluation whose chains are taken over first.
        progress: Show a bar (on stderr).
        make_env: Instead of `settings.make_env`; given the names of the cameras.

    Raises:
        InputError: See `ChainFolder`, `Needs.of` and `CalvinEnv`.
        CalvinServerError: A simulator died twice in one chain.
        KeyboardInterrupt: After writing the summary of what is finished, marked `"finished": false`.
    """
    settings = settings or CalvinSettings()
    settings.check()
    mine = chains_of_shard(settings.chains, settings.shard, settings.shards)
    needs = Needs.of(policy, settings.execute)
    run = {
        "policy": identity(policy, name, checkpoint),
        "protocol": "calvin-official-quirks" if settings.official_quirks else "calvin",
        "scene": _scene(settings.dataset),
        "renderer": settings.renderer,
        "max_steps": settings.max_steps,
        "execute": needs.execute,
        "policy_seed": settings.policy_seed,
    }
    if make_env is None and not resume and not merge:  # a forgotten variable should not leave a folder behind
        find_python(settings.python)
        find_root(settings.calvin_root)
    folder = ChainFolder(out, run, settings.shard, settings.shards, resume)
    for other in merge:
        folder.merge(other)
    about = {**run, "policy": {**run["policy"], "name": name}}
    left = [chain for chain in mine if chain.number not in folder.results]

    def evaluation(finished: bool) -> CalvinEvaluation:
        folder.refresh()  # other shards may have gone on
        results = [folder.results[number] for number in range(settings.chains) if number in folder.results]
        summary = _summary(about, settings, results, finished)
        atomic_write_text(folder.path / "summary.json", _json(summary))
        atomic_write_text(folder.path / "results.json", _json(official_results(results)))
        return CalvinEvaluation(folder.path, summary, results, list_videos(folder.videos))

    try:
        if left:
            _run(left, Planner(policy, needs, settings.policy_seed), settings, folder, progress, make_env)
    except KeyboardInterrupt:
        evaluation(finished=False)
        kept = f"{len(folder.results)} chains are kept in {folder.path}; --resume goes on with the rest"
        print(f"\n{kept}", file=sys.stderr)
        raise
    return evaluation(finished=True)


def _run(left, planner: Planner, settings: CalvinSettings, folder: ChainFolder, progress: bool, make_env) -> None:
    from tqdm import tqdm

    crew = _Crew(left, planner, settings, folder, make_env or settings.make_env)
    bar = tqdm(total=len(left), desc="chains", unit="chain", disable=not progress, dynamic_ncols=True)
    with bar, crew:
        for result, film in crew.finished():
            if film is not None:
                save_video(folder.videos, result, film)
            folder.append(result)  # after the film: a chain that is there has all it should have
            done = [one["done"] for one in folder.results.values()]
            bar.update()
            bar.set_postfix_str(f"average length {sum(done) / len(done):.2f}")


class _Crew:
    """The threads that lead the simulators, and the place where plans are made (the thread that calls `finished`)."""

    def __init__(self, left: Sequence[Chain], planner: Planner, settings: CalvinSettings, folder, make_env) -> None:
        self.planner, self.settings, self.make_env = planner, settings, make_env
        self._chains: queue.SimpleQueue = queue.SimpleQueue()
        for chain in left:
            self._chains.put(chain)
        self._inbox: queue.SimpleQueue = queue.SimpleQueue()
        self._stop = threading.Event()
        there = [path.stem.endswith("5-of-5") for path in list_videos(folder.videos)]
        self._films = {success: there.count(success) for success in (False, True)}
        self._threads = [
            threading.Thread(target=self._lead, name=f"calvin-{index}", daemon=True)
            for index in range(min(settings.workers, len(left)))
        ]

    def __enter__(self) -> "_Crew":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def finished(self):
        """Yields (result, film or None) of each chain as it ends, and plans in between."""
        busy = len(self._threads)
        waiting: list[tuple[Request, queue.SimpleQueue]] = []
        while busy:
            block = not waiting
            try:
                kind, value = self._inbox.get(block=block)
            except queue.Empty:
                self._answer(waiting)
                waiting = []
                continue
            if kind == "plan":
                waiting.append(value)
            elif kind == "forget":
                self.planner.forget(value)
            elif kind == "chain":
                result, film = value
                yield result, self._chosen(result, film)
            elif kind == "error":
                raise value
            else:
                busy -= 1
            if len(waiting) >= self.settings.batch:
                self._answer(waiting)
                waiting = []

    def _answer(self, waiting: Sequence[tuple[Request, queue.SimpleQueue]]) -> None:
        actions, each_ms = self.planner.plan([request for request, _ in waiting])
        for (_, reply), plan in zip(waiting, actions):
            reply.put((plan, each_ms))

    def _chosen(self, result: dict[str, Any], film: ChainFilm | None) -> ChainFilm | None:
        success = result["done"] == len(result["tasks"])
        if film is None or self._films[success] >= self.settings.videos:
            return None
        self._films[success] += 1
        return film

    # In the threads ------------------------------------------------------------------------------------

    def _lead(self) -> None:
        env = None
        try:
            while not self._stop.is_set():
                try:
                    chain = self._chains.get_nowait()
                except queue.Empty:
                    break
                if env is None:
                    env = self.make_env(tuple(dict.fromkeys(self.planner.needs.cameras.values())) or ("static",))
                self._inbox.put(("chain", self._play(env, chain)))
        except _Stopped:
            pass
        except BaseException as error:
            self._inbox.put(("error", error))
        finally:
            if env is not None:
                env.close()
            self._inbox.put(("done", None))

    def _play(self, env: Any, chain: Chain) -> tuple[dict[str, Any], ChainFilm | None]:
        film = min(self._films.values()) < self.settings.videos
        for tries_left in reversed(range(TRIES)):
            try:
                return play_chain(
                    env,
                    chain,
                    self.planner.needs,
                    self._ask,
                    self.settings.max_steps,
                    film,
                    lambda owner: self._inbox.put(("forget", owner)),
                )
            except CalvinServerError as error:  # `reset` starts another
                if not tries_left:
                    raise
                print(f"chain {chain.number} begins again: {error}", file=sys.stderr)
                for index in range(len(chain.tasks)):
                    self._inbox.put(("forget", subtask_name(chain, index)))

    def _ask(self, request: Request):
        reply: queue.SimpleQueue = queue.SimpleQueue()
        self._inbox.put(("plan", (request, reply)))
        while True:
            try:
                return reply.get(timeout=0.5)
            except queue.Empty:
                if self._stop.is_set():
                    raise _Stopped from None


class _Stopped(Exception):
    """Nobody plans any more."""


def _scene(dataset: str | None) -> str:
    """Which world: calvin_env's own D, or the one that a dataset's configuration describes."""
    if dataset is None:
        return "D"
    path = Path(dataset).expanduser() / "validation" / ".hydra" / "merged_config.yaml"
    if not path.is_file():
        raise InputError(f"--dataset {dataset}: there is no validation/.hydra/merged_config.yaml")
    return f"merged_config.yaml {file_sha256(path)}"


def _summary(about: dict, settings: CalvinSettings, results: Sequence[dict], finished: bool) -> dict[str, Any]:
    steps, plans = sum(one["steps"] for one in results), sum(one["plans"] for one in results)
    warnings = []
    if len(results) < CHAINS:
        warnings.append(f"{len(results)} of the benchmark's {CHAINS} chains; not an official number")
    if settings.max_steps != 360:
        warnings.append(f"{settings.max_steps} steps a subtask instead of 360; not an official number")
    if settings.renderer == "tiny":
        warnings.append("software renderer; CALVIN's data and published numbers are of OpenGL (--renderer egl)")
    if settings.official_quirks:
        warnings.append("stale gripper state kept: a chain's first step depends on the chain its simulator ran before")
    if settings.batch > 1:
        warnings.append(f"plans made for up to {settings.batch} robots in one call: equal up to rounding only")
    return {
        "finished": finished and len(results) == settings.chains,
        **about,
        **chain_scores(results),
        "chains_wanted": settings.chains,
        "steps": steps,
        "ms_per_action": sum(one["plan_ms"] for one in results) / steps if plans and steps else None,
        "tasks": task_scores(results),
        "warnings": warnings,
        "provenance": provenance(),
    }


def _json(value: Any) -> str:
    return json.dumps(value, indent=2) + "\n"
