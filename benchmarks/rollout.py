"""How much of the simulator's speed `hf-vpdd eval` keeps.

    python benchmarks/rollout.py                     # a few minutes
    python benchmarks/rollout.py --quick             # under a minute on 2 cores
    python benchmarks/rollout.py --quick --json      # one object a line: name, ms, ratio, peak_mb

Both sides run the same episodes of the same tasks with the same (null) actions in chunks of 8, render the same
pictures (one at the start, one after every chunk) and use the same number of processes. "bare" is a loop around
`MetaWorldEnv` in each process, nothing else; "eval" is `evaluation.rollout` with its queue, pipes and batched
planning. They take turns, and the medians are compared. Building environments is left out on both sides.

`ms` is wall time per environment step (all processes together), and for the rows of the policy wall time per action.
`ratio` is the speed relative to the bare simulator with as many processes, for the scaling row relative to one
process. `peak_mb` is the largest memory of one process.
"""

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import sys
import time
from pathlib import Path


TASKS = ("drawer-close-v3", "window-open-v3")
CHUNK = 8


def bare_worker(pipe, jobs, view) -> None:
    """One process of the bare side: builds its environments, reports, waits for the word, runs, reports the steps."""
    import numpy as np

    from hf_vpdd.envs.metaworld import MetaWorldEnv

    envs = {
        task: MetaWorldEnv(task, cameras=view.cameras, image_size=view.image_size) for task in {job[0] for job in jobs}
    }
    for env in envs.values():
        env.reset(seed=0)
    chunk = np.zeros((CHUNK, 4), np.float32)
    while True:
        pipe.send("ready")
        if not pipe.recv():
            break
        steps = 0
        for task, seed in jobs:
            env = envs[task]
            env.reset(seed=seed)
            over = False
            while not over:
                _, _, _, truncated, info = env.step_chunk(chunk)
                over = truncated or info["success"]
            steps += env.steps
        pipe.send((steps, peak_mb()))
    os._exit(0)


class Bare:
    """The bare side: a callable that runs the episodes once and returns (seconds, steps)."""

    def __init__(self, view, episodes, workers: int) -> None:
        from hf_vpdd.evaluation.simulators import _light_import

        context = multiprocessing.get_context("spawn")
        self.pipes, self.processes, self.peak = [], [], 0.0
        for index in range(workers):
            here, there = context.Pipe()
            jobs = [(episode.task, episode.seed) for episode in episodes[index::workers]]
            process = context.Process(target=bare_worker, args=(there, jobs, view), daemon=True)
            with _light_import():
                process.start()
            self.pipes.append(here)
            self.processes.append(process)
        for pipe in self.pipes:
            pipe.recv()

    def __call__(self) -> tuple[float, int]:
        began = time.perf_counter()
        for pipe in self.pipes:
            pipe.send(True)
        answers = [pipe.recv() for pipe in self.pipes]
        seconds = time.perf_counter() - began
        for pipe in self.pipes:
            pipe.recv()  # ready again
        self.peak = max([self.peak, *(answer[1] for answer in answers)])
        return seconds, sum(answer[0] for answer in answers)

    def close(self) -> None:
        for pipe in self.pipes:
            pipe.send(False)
        for process in self.processes:
            process.join()


def compare(episodes, workers: int, seats: int, repeats: int) -> tuple[float, float, float]:
    """(bare, eval) milliseconds per step with so many processes, and the largest memory of a bare process in MB."""
    from hf_vpdd.evaluation.policies import NullPolicy
    from hf_vpdd.evaluation.rollout import rollout
    from hf_vpdd.evaluation.simulators import Simulators, View

    view = View(image_size=96)
    bare = Bare(view, episodes, workers)
    times: dict[str, list[float]] = {"bare": [], "eval": []}
    with Simulators(view, workers, seats) as simulators:
        # What the seats will play at first, so that nothing is built while the clock runs.
        simulators.prepare([episodes[index % len(episodes)] for index in range(seats)])
        for turn in range(1 + repeats):
            seconds, steps = bare()
            times["bare"].append(1000 * seconds / steps)
            began = time.perf_counter()
            run = sum(result["steps"] for result, _ in rollout(NullPolicy(CHUNK), episodes, simulators))
            times["eval"].append(1000 * (time.perf_counter() - began) / run)
            assert run == steps, f"the two sides ran different episodes: {run} and {steps} steps"
            if turn == 0:  # warms up: seats that move to another task build what `prepare` could not foresee
                times = {"bare": [], "eval": []}
    bare.close()
    return statistics.median(times["bare"]), statistics.median(times["eval"]), bare.peak


def policy_rows(checkpoint: str, quick: bool) -> list[dict]:
    """The policy's own time per action, for one robot and for a batch of eight."""
    import numpy as np

    from hf_vpdd.evaluation.policies import actions_to_run, load_policy

    policy = load_policy(checkpoint)
    rng = np.random.default_rng(0)
    size = policy.processor.image_size
    rows = []
    for batch in (1, 8):
        observations = [
            {
                "images": {
                    camera: rng.integers(0, 256, (size, size, 3), np.uint8) for camera in policy.processor.cameras
                },
                "state": np.asarray(policy.processor.state_stats["mean"], np.float32),
                "instruction": "close the drawer",
            }
            for _ in range(batch)
        ]
        policy.predict(observations)
        times = []
        for _ in range(5 if quick else 30):
            began = time.perf_counter()
            policy.predict(observations)
            times.append(1000 * (time.perf_counter() - began) / (batch * actions_to_run(policy)))
        name = f"policy, per action, batch of {batch}"
        rows.append({"name": name, "ms": statistics.median(times), "ratio": None, "peak_mb": peak_mb()})
    return rows


def peak_mb() -> float:
    """Largest resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024**2 if sys.platform == "darwin" else 1024)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer episodes and repeats: under a minute on 2 cores")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--episodes", type=int, help="per task and repeat")
    parser.add_argument("--repeats", type=int, help="turns of each side")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="numbers of processes to compare")
    parser.add_argument("--seats", type=int, default=4, help="episodes side by side in each process")
    parser.add_argument("--policy", help="checkpoint whose time per action to add; the shipped one if there is one")
    args = parser.parse_args(argv)

    from hf_vpdd.envs.gl import configure_gl
    from hf_vpdd.evaluation.episodes import make_episodes
    from hf_vpdd.registration import DEFAULT_CHECKPOINT

    configure_gl()
    per_task = args.episodes or (4 if args.quick else 12)
    repeats = args.repeats or (2 if args.quick else 5)
    rows, speed = [], {}
    for workers in args.workers:
        episodes = make_episodes(TASKS, per_task)  # task by task, so that each process gets some of each
        bare, ours, peak = compare(episodes, workers, args.seats * workers, repeats)
        speed[workers] = ours
        processes = f"{workers} process{'es' * (workers > 1)}"
        rows.append({"name": f"bare simulator, {processes}", "ms": bare, "ratio": 1.0, "peak_mb": peak})
        rows.append({"name": f"eval, {processes}", "ms": ours, "ratio": bare / ours, "peak_mb": peak_mb()})
    first, *others = args.workers
    for workers in others:
        name = f"eval, {workers} processes beside {first}"
        rows.append({"name": name, "ms": speed[workers], "ratio": speed[first] / speed[workers], "peak_mb": peak_mb()})
    checkpoint = args.policy or (str(DEFAULT_CHECKPOINT) if DEFAULT_CHECKPOINT.is_dir() else None)
    if checkpoint:
        rows += policy_rows(checkpoint, args.quick)

    if args.json:
        for row in rows:
            print(
                json.dumps({key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()})
            )
        return 0
    from hf_vpdd.evaluation.tables import format_table

    table = [
        [row["name"], f"{row['ms']:.3f}", f"{1000 / row['ms']:.0f}", row["ratio"] and f"{row['ratio']:.2f}",
         f"{row['peak_mb']:.0f}"]
        for row in rows
    ]  # fmt: skip
    print(format_table(("", "ms", "per second", "ratio", "peak MB"), table))
    return 0


if __name__ == "__main__":
    # Run as a file, the package may not be installed.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))
    sys.exit(main())
