"""One evaluation from a policy and a list of episodes to a folder of results (see `results`)."""

import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..envs.registry import Simulator
from ..envs.tasks import DIFFICULTIES
from ..errors import InputError
from .episodes import FIRST_EVALUATION_SEED, PROTOCOLS, Episode
from .metrics import Score, mean_over_tasks, score, score_by_task
from .policies import actions_to_run, identity, imagines, predict_ahead, view_for
from .results import ResultFolder, provenance
from .rollout import Film, rollout
from .simulators import Simulators
from .videos import EVERY, PANEL, compose, load_film, save_film, write_video


# Keeping an episode for a film costs the decoding of what it imagines; past this many per task and wanted video, no
# more.
CANDIDATES_PER_VIDEO = 20


@dataclass
class Video:
    """A finished video of one episode."""

    path: Path
    task: str
    seed: int
    success: bool


@dataclass
class Evaluation:
    """What an evaluation came to.

    Attributes:
        path: Its folder.
        summary: What `summary.json` holds.
        results: One dictionary per episode, in the order of the list.
        scores: One per task, in the order of the list.
        overall: All episodes together.
        videos: Those in the folder, by task, successes first.
    """

    path: Path
    summary: dict[str, Any]
    results: list[dict[str, Any]]
    scores: list[Score]
    overall: Score
    videos: list[Video]

    @property
    def mean(self) -> float:
        """Success rate, averaged over tasks."""
        return mean_over_tasks(self.scores)


def evaluate(
    policy: Any,
    episodes: Sequence[Episode],
    out: str | os.PathLike,
    name: str = "policy",
    checkpoint: str | os.PathLike | None = None,
    protocol: str = "lean",
    workers: int = 2,
    envs: int = 16,
    execute: int | None = None,
    max_steps: int | None = None,
    seed: int = 0,
    videos: int = 0,
    resume: bool = False,
    progress: bool = True,
    on_result: Callable[[dict[str, Any]], None] | None = None,
) -> Evaluation:
    """Runs the episodes that are not there yet, and writes results, videos and summary into a folder.

    Args:
        policy: See `policies`.
        episodes: What to run, each once.
        out: Folder of the results.
        name: What to call the policy in reports.
        checkpoint: The folder it was loaded from: its files are then identified by their SHA-256.
        protocol: One of `PROTOCOLS`.
        workers: Simulator processes; 0 simulates in this one.
        envs: Episodes that run side by side.
        execute: Actions of each chunk to run before planning again; the policy's own number if not given.
        max_steps: Steps after which an episode has failed; the protocol's own number if not given.
        seed: Of the policy's draws.
        videos: Successes, and failures, to film of each task; 0 films nothing.
        resume: Go on with what is in the folder.
        progress: Show progress bars (on stderr).
        on_result: Called with each result as it comes in.

    Raises:
        InputError: See `ResultFolder`, `rollout` and `view_for`; or an episode is listed twice.
        KeyboardInterrupt: After writing the summary of what is finished, marked `"finished": false`.
    """
    twice = [key for key, count in Counter(episode.key for episode in episodes).items() if count > 1]
    if twice or not episodes:
        raise InputError(f"the list of episodes {f'names {twice[0]} twice' if twice else 'is empty'}")
    view = view_for(policy, protocol, max_steps)
    execute = actions_to_run(policy, execute)
    run = {
        "policy": identity(policy, name, checkpoint),
        "protocol": protocol,
        "perturbation": sorted({str(episode.perturbation) for episode in episodes}),
        "view": {key: getattr(view, key) for key in ("cameras", "image_size", "max_steps", "history_frames")},
        "execute": execute,
        "policy_seed": seed,
    }
    folder = ResultFolder(out, run, resume)
    left = [episode for episode in episodes if not folder.has(episode)]
    chosen = _Choice(folder, videos)
    ahead = predict_ahead(policy) if imagines(policy) else 0
    about = {**run, "policy": {**run["policy"], "name": name}, "predict_ahead": ahead}

    def evaluation(finished: bool) -> Evaluation:
        results = [folder.results[episode.key] for episode in episodes if folder.has(episode)]
        summary = _summary(about, episodes, results, finished)
        folder.write_summary(summary)
        return Evaluation(
            folder.path,
            summary,
            results,
            score_by_task(results),
            score("all", results),
            list_videos(folder.videos, {episode.key for episode in episodes}, results),
        )

    seats = min(envs, max(1, len(left)))
    try:
        if left or chosen.pending():
            with Simulators(view, workers, seats) as simulators:
                with _bar(len(left), "episodes", "episode", progress) as bar:
                    won = 0
                    plays = rollout(policy, left, simulators, execute, seed, chosen.candidate)
                    for done, (result, film) in enumerate(plays, start=1):
                        folder.append(result)
                        if film is not None:
                            chosen.offer(film)
                        if on_result is not None:
                            on_result(result)
                        won += result["success"]
                        bar.update()  # counts nothing if it is not shown
                        bar.set_postfix_str(f"{100 * won / done:.0f} % success")
                _film(chosen, simulators, ahead, progress)
    except KeyboardInterrupt:
        evaluation(finished=False)
        print(
            f"\n{len(folder.results)} episodes are kept in {folder.path}; --resume goes on with the rest",
            file=sys.stderr,
        )
        raise
    return evaluation(finished=True)


def list_videos(folder: Path, keys: set[tuple], results: Sequence[dict[str, Any]]) -> list[Video]:
    """The videos in a folder that show episodes of these results."""
    order = {task: index for index, task in enumerate(dict.fromkeys(result["task"] for result in results))}
    known = {(key[0], key[1]) for key in keys}
    found = []
    for path in _finished(folder, ".mp4"):
        task, seed, outcome = _split_name(path)
        if (task, seed) in known and task in order:
            found.append(Video(path, task, seed, outcome == "success"))
    return sorted(found, key=lambda video: (order[video.task], not video.success, video.seed))


class _Choice:
    """Which episodes are filmed: the first successes and the first failures of each task, as many as asked for."""

    def __init__(self, folder: ResultFolder, videos: int) -> None:
        self.wanted = videos
        self.videos = folder.videos
        self.films = folder.videos / ".films"  # kept until filmed, so that a resumed run still can
        there = [*_finished(self.videos, ".mp4"), *self.pending()]
        self._have = Counter((task, outcome) for task, _, outcome in map(_split_name, there))
        self._started: Counter = Counter()

    def pending(self) -> list[Path]:
        """Films that are no video yet."""
        return _finished(self.films, ".npz")

    def candidate(self, episode: Episode) -> bool:
        full = all(self._have[episode.task, outcome] >= self.wanted for outcome in ("success", "failure"))
        if full or self._started[episode.task] >= CANDIDATES_PER_VIDEO * self.wanted:
            return False
        self._started[episode.task] += 1
        return True

    def offer(self, film: Film) -> None:
        outcome = "success" if film.success else "failure"
        if self._have[film.episode.task, outcome] < self.wanted:
            self._have[film.episode.task, outcome] += 1
            save_film(film, self.films / f"{film.episode.task}_{film.episode.seed}_{outcome}.npz")


def _finished(folder: Path, suffix: str) -> list[Path]:
    """The files of a kind, without the hidden leftovers of a run that was killed while writing one."""
    return sorted(path for path in folder.glob(f"*{suffix}") if not path.name.startswith("."))


def _split_name(path: Path) -> tuple[str, int, str]:
    task, seed, outcome = path.stem.rsplit("_", 2)
    return task, int(seed), outcome


def _film(chosen: _Choice, simulators: Simulators, ahead: int, progress: bool) -> None:
    """Turns the kept films into videos: the workers run the episodes again, this process composes and encodes."""
    waiting = chosen.pending()
    under_way: dict[int, tuple[Path, Film]] = {}
    if not waiting:
        return
    with _bar(len(waiting), "videos", "video", progress) as bar:

        def finish(path: Path, film: Film, frames: np.ndarray) -> None:
            write_video(chosen.videos / f"{path.stem}.mp4", compose(film, frames, ahead))
            path.unlink()
            bar.update()

        free = list(simulators.seats)[: max(1, 2 * simulators.workers)]  # two a worker: one runs, one is on its way
        while waiting or under_way:
            while waiting and free:
                path = waiting.pop(0)
                film = load_film(path)
                if film.frames is not None:
                    finish(path, film, film.frames)
                    continue
                seat = free.pop()
                under_way[seat] = path, film
                episode = film.episode
                size = PANEL if film.imagined is not None else 288
                simulators.send("film", seat, episode.task, episode.seed, episode.scene, film.actions, size, EVERY)
            for seen in simulators.receive():
                path, film = under_way.pop(seen.seat)
                free.append(seen.seat)
                finish(path, film, seen.frames)
    shutil.rmtree(chosen.films)  # empty but for leftovers


def _summary(
    about: dict[str, Any], episodes: Sequence[Episode], results: Sequence[dict[str, Any]], finished: bool
) -> dict[str, Any]:
    seeds = [episode.seed for episode in episodes]
    tasks = []
    for one in score_by_task(results):
        mine = [result for result in results if result["task"] == one.name]
        tasks.append({**one.to_dict(), "ms_per_action": ms_per_action(mine)})
    warnings = []
    if min(seeds) < FIRST_EVALUATION_SEED:
        warnings.append(
            f"seeds below {FIRST_EVALUATION_SEED} are those that `hf-vpdd record` uses: starts may be trained on"
        )
    return {
        "finished": finished,
        **about,
        "label": PROTOCOLS[about["protocol"]].label,
        "seeds": [min(seeds), max(seeds)],
        "episodes": len(results),
        "mean_success": mean_over_tasks(score_by_task(results)),
        "overall": score("all", results).to_dict(),
        "by_difficulty": by_difficulty(score_by_task(results), PROTOCOLS[about["protocol"]].simulator),
        "ms_per_action": ms_per_action(results),
        "tasks": tasks,
        "warnings": warnings,
        "provenance": provenance(),
    }


def by_difficulty(scores: Sequence[Score], simulator: Simulator) -> dict[str, float]:
    """Mean success of the tasks in each of LeRobot's groups (easy, medium, hard, very_hard) that occurs; empty for a
    simulator without such groups."""
    groups: dict[str | None, list[Score]] = {}
    for one in scores:
        groups.setdefault(simulator.difficulty(one.name), []).append(one)
    return {name: mean_over_tasks(groups[name]) for name in DIFFICULTIES if name in groups}


def ms_per_action(results: Sequence[dict[str, Any]]) -> float | None:
    """The policy's wall time per executed action: a plan's time is shared by its batch and its chunk.
    Includes decoding the imagined picture where episodes are filmed. None if nothing was planned."""
    plans, steps = sum(result["plans"] for result in results), sum(result["steps"] for result in results)
    return sum(result["plan_ms"] for result in results) / steps if plans and steps else None


def _bar(total: int, what: str, unit: str, progress: bool):
    from tqdm import tqdm

    return tqdm(total=total, desc=f"{what:<8}", unit=unit, disable=not progress, dynamic_ncols=True)
