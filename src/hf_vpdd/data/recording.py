"""Records demonstrations of scripted experts in the simulator as a LeRobot v3.0 dataset.

    hf-vpdd record --tasks mt10 --episodes 50 --out data/mt10          # or record(...) below
    hf-vpdd record --source fetch --episodes 20 --out data/fetch       # video of another body, without actions

The expert acts under noise, the labels are what it would do without (DART, Laskey et al. 2017): the robot is pushed
off the expert's path and the data shows how to come back. Noise is an AR(1) process on the three position commands;
its strength is drawn by episode, so that clean and very noisy episodes both occur. Where an expert cannot cope
(grasping under strong noise), further seeds are tried, every few failures with less noise.

Episode e of task t depends on (t, e, seed) alone: how many workers record, in which order, and how often they are
stopped changes no state, action or label. Each finished episode is put aside whole under `OUT/.staging`; the same
command continues an interrupted recording, another command in the same folder is refused. The dataset appears at the
end, in one rename; until then the folder holds nothing that a reader would take for one.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ..envs.protocols import FIRST_EVALUATION_SEED, FPS, PROTOCOLS
from ..errors import InputError
from ..files import atomic_path
from .recording_sources import MAX_ATTEMPTS, SOURCES, STEPS_AFTER_SUCCESS, demonstrate, keyed_generator
from .staging import claim, cores, run_jobs


__all__ = ["MAX_ATTEMPTS", "STEPS_AFTER_SUCCESS", "RecordingPlan", "demonstrate", "record"]


NOISE_LEVELS = (0.0, 0.1, 0.2, 0.3, 0.5)  # standard deviation, in units of the action (1 = 1 cm a step)
ATTEMPTS_PER_LEVEL = 4  # then the next lower noise level
SEED_STRIDE = 4000  # the k-th attempt at episode e has the seed `seed + e + k * SEED_STRIDE`
_FORMAT = 1


@dataclass(frozen=True)
class RecordingPlan:
    """All that decides what is in the data, and nothing else: two recordings with equal plans are equal."""

    tasks: tuple[str, ...]
    episodes_per_task: int
    seed: int
    cameras: tuple[str, ...]
    image_size: int
    noise: tuple[float, ...]
    actions: bool
    paraphrases: bool
    protocol: str
    max_steps: int
    pix_fmt: str
    crf: int
    format: int = _FORMAT
    source: str = "metaworld"

    def jobs(self) -> list[tuple[str, int]]:
        """(task, episode) in the order in which they stand in the dataset."""
        return [(task, episode) for task in self.tasks for episode in range(self.episodes_per_task)]

    def folder(self, task: str, episode: int) -> str:
        return f"episodes/{task}-{episode:05d}"

    def attempt_seed(self, episode: int, attempt: int) -> int:
        return self.seed + episode + attempt * SEED_STRIDE

    def noise_level(self, task: str, episode: int, attempt: int) -> float:
        """Every block of len(noise) episodes has each level once, in an order of its own: few episodes are mixed, too.
        After every few failures the next lower level is taken."""
        block, place = divmod(episode, len(self.noise))
        drawn = int(keyed_generator(self.seed, task, "level", block).permutation(len(self.noise))[place])
        levels = sorted(self.noise)
        return levels[max(0, drawn - attempt // ATTEMPTS_PER_LEVEL)]

    def sentence(self, task: str, episode: int) -> str:
        return SOURCES[self.source].sentence(self, task, episode)

    def to_dict(self) -> dict:
        """Plain data, as it stands in the files; a plan for Meta-World does not name its source, as before there were
        others."""
        content = json.loads(json.dumps(asdict(self)))
        if self.source == "metaworld":
            del content["source"]
        return content


def record(
    root: str | os.PathLike,
    tasks: str | Iterable[str],
    episodes_per_task: int = 50,
    seed: int = 1000,
    cameras: Iterable[str] | str | None = None,
    image_size: int = 96,
    noise: Iterable[float] = NOISE_LEVELS,
    actions: bool | None = None,
    paraphrases: bool = False,
    protocol: str = "lean",
    max_steps: int | None = None,
    pix_fmt: str = "yuv444p",
    crf: int = 18,
    workers: int | None = None,
    progress: bool = True,
    source: str = "metaworld",
) -> Path:
    """Records a dataset; continues where an earlier call with the same arguments was stopped.

    Args:
        root: The dataset's folder. Absent, empty, or one that an earlier call began or finished.
        tasks: Task names or groups ("mt10", "quickstart", "all", "easy", ..., "drawer-close,window-open"); of another
            source "all" or names ("push,pick").
        episodes_per_task: Successful demonstrations per task; failures are replaced by further seeds.
        seed: First seed; episode e starts from `seed + e`. Must stay below 100000, which is where evaluation begins.
        cameras: Meta-World camera names (corner2 if not given); other sources have one camera.
        image_size: Pixels per side; even if `pix_fmt` is "yuv420p".
        noise: Standard deviations to draw from, in action units; (0,) for clean demonstrations.
        actions: False leaves the feature `action` out (video and state alone, for pre-training). By default what the
            source has: only Meta-World has actions.
        paraphrases: Draw each episode's sentence among the canonical one and the training paraphrases.
        protocol: How pictures are made, see `envs.protocols.PROTOCOLS`.
        max_steps: Attempts in which the expert needs longer are dropped (200 if not given). Episodes of other sources
            are exactly so long (96).
        pix_fmt: "yuv444p", or "yuv420p", which any browser plays but which halves the resolution of colour (3 dB worse
            at 96 pixels, at the same file size).
        crf: H.264 quality, 0 to 51, lower is better.
        workers: Processes; one per core (at most one per episode) if not given.
        progress: Show a bar with episodes per minute and experts dropped.
        source: "metaworld", or another body, filmed without states and actions: "fetch", "adroit" or "kitchen" (needs
            gymnasium-robotics). Their noise is in units of 5 cm.

    Returns:
        `root`, now a LeRobot v3.0 dataset. Its `meta/info.json` tells under "recording" how it was made.

    Raises:
        InputError: Unknown names, values out of range, a folder that holds something else, or an expert that never
            succeeds.
    """
    plan = _make_plan(
        tasks=tasks, episodes_per_task=episodes_per_task, seed=seed, cameras=cameras, image_size=image_size,
        noise=noise, actions=actions, paraphrases=paraphrases, protocol=protocol, max_steps=max_steps,
        pix_fmt=pix_fmt, crf=crf, source=source,
    )  # fmt: skip
    if workers is not None and (not isinstance(workers, int) or workers < 1):
        raise InputError(f"workers must be a whole number of at least 1, but is {workers!r}")
    root = Path(root)
    staging = claim(root, plan.to_dict(), "recording")
    if staging is None:  # complete already
        return root

    missing = [job for job in plan.jobs() if not (staging / plan.folder(*job) / "episode.json").is_file()]
    with _Progress(len(plan.jobs()), len(plan.jobs()) - len(missing), progress) as bar:
        if missing:
            workers = min(workers or cores(), len(missing))
            _run_workers(plan, staging, missing, workers, bar.advance)
    _assemble(root, staging, plan, progress)
    shutil.rmtree(staging)
    return root


# -- the plan and the folder -----------------------------------------------------------------------------------------


def _make_plan(source: str = "metaworld", **given) -> RecordingPlan:
    if source not in SOURCES:
        raise InputError(f"there is no source '{source}'; the sources are {', '.join(SOURCES)}")
    origin = SOURCES[source]
    for name, own in (
        ("cameras", origin.default_cameras), ("max_steps", origin.default_steps), ("actions", origin.has_actions)
    ):  # fmt: skip
        if given.get(name) is None:
            given[name] = own
    if given["actions"] and not origin.has_actions:
        raise InputError(f"{source} is filmed without actions; only Meta-World has demonstrations")
    for name, low in (("episodes_per_task", 1), ("seed", 0), ("image_size", 8), ("max_steps", 1)):
        if not isinstance(given[name], int) or given[name] < low:
            raise InputError(f"{name} must be a whole number of at least {low}, but is {given[name]!r}")
    if given["protocol"] not in PROTOCOLS:
        raise InputError(f"there is no protocol '{given['protocol']}'; the protocols are {', '.join(PROTOCOLS)}")
    noise = tuple(float(level) for level in given["noise"])
    if not noise or not all(0 <= level <= 2 for level in noise):
        raise InputError(f"noise must be one or more standard deviations from 0 to 2, but is {list(noise)}")
    if given["pix_fmt"] not in ("yuv420p", "yuv444p"):
        raise InputError(f"pix_fmt must be yuv420p or yuv444p, but is {given['pix_fmt']!r}")
    if given["pix_fmt"] == "yuv420p" and given["image_size"] % 2:
        raise InputError(f"image_size must be even for yuv420p video, but is {given['image_size']}")
    last = given["seed"] + given["episodes_per_task"] - 1 + (MAX_ATTEMPTS - 1) * SEED_STRIDE
    if last >= FIRST_EVALUATION_SEED:
        raise InputError(
            f"seed {given['seed']} with {given['episodes_per_task']} episodes could reach seed {last}, but seeds from "
            f"{FIRST_EVALUATION_SEED} on are kept for evaluation; choose a smaller seed or fewer episodes"
        )
    given["noise"] = noise
    origin.check(given)
    return RecordingPlan(**given, source=source)


# -- workers ---------------------------------------------------------------------------------------------------------


def _run_workers(plan: RecordingPlan, staging: Path, jobs: list, workers: int, done: Callable[[int], None]) -> None:
    """Records `jobs` in processes of their own. GL needs `spawn`: a forked copy of a GL context hangs."""
    from ..envs.gl import configure_gl

    configure_gl()  # here, so that a missing library is one clear error and not one per worker
    died = (
        f"a recording worker died (killed, or out of memory?). Finished episodes are kept in {staging}; the same "
        "command continues"
    )
    run_jobs(_record_episode, jobs, workers, _start_worker, (plan, str(staging)), done, died)


_worker: dict = {}


def _start_worker(plan: RecordingPlan, staging: str) -> None:
    _worker.update(plan=plan, staging=Path(staging), env=None)


def _record_episode(task: str, episode: int) -> int:
    """Records one episode into its staging folder; returns the number of failed attempts."""
    from .lerobot_writer import encode_video

    plan: RecordingPlan = _worker["plan"]
    source, env = SOURCES[plan.source], _worker["env"]
    if env is None or env.task != task:
        if env is not None:
            env.close()
        env = _worker["env"] = source.open(plan, task)
    images, columns, note = source.play(plan, env, task, episode)
    note = {"task": plan.sentence(task, episode), "length": len(images[plan.cameras[0]]), **note}
    with atomic_path(_worker["staging"] / plan.folder(task, episode)) as folder:
        folder.mkdir(parents=True)
        for camera in plan.cameras:
            encode_video(folder / f"{camera}.mp4", images[camera], FPS, pix_fmt=plan.pix_fmt, crf=plan.crf)
        np.savez(folder / "columns.npz", **columns)
        (folder / "episode.json").write_text(json.dumps(note))
    return note["failures"]


# -- the dataset -----------------------------------------------------------------------------------------------------


def _assemble(root: Path, staging: Path, plan: RecordingPlan, progress: bool) -> None:
    from .lerobot_writer import LeRobotWriter

    source = SOURCES[plan.source]
    features = {key: value for key, value in source.features.items() if plan.actions or key != "action"}
    notes = []
    with LeRobotWriter(
        root, fps=FPS, features=features, robot_type=source.robot_type, pix_fmt=plan.pix_fmt, crf=plan.crf,
        extra_info={"recording": plan.to_dict()},
    ) as writer:  # fmt: skip
        for task, episode in plan.jobs():
            folder = staging / plan.folder(task, episode)
            note = json.loads((folder / "episode.json").read_text())
            with np.load(folder / "columns.npz") as columns:
                writer.add_encoded_episode(
                    {camera: folder / f"{camera}.mp4" for camera in plan.cameras},
                    dict(columns),
                    note["task"],
                    note.get("length"),
                )
            notes.append({"env": task, **note})
        lines = (json.dumps({"episode_index": index, **note}) + "\n" for index, note in enumerate(notes))
        writer.add_meta_file("recording.jsonl", "".join(lines))
    if progress:
        dropped = sum(note["failures"] for note in notes)
        print(f"{root}: {len(notes)} episodes, {writer.num_frames} frames; {dropped} failed attempts were replaced")


class _Progress:
    """A bar that counts episodes, with their rate per minute and the experts that failed."""

    def __init__(self, total: int, already: int, shown: bool) -> None:
        from tqdm import tqdm

        self.dropped, self.made, self.began = 0, 0, time.monotonic()
        self._bar = tqdm(
            total=total, initial=already, disable=not shown, unit="episode", desc="recording", file=sys.stderr,
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]",
        )  # fmt: skip

    def advance(self, failures: int) -> None:
        self.made += 1
        self.dropped += failures
        rate = self.made / max(time.monotonic() - self.began, 1e-9) * 60
        self._bar.set_postfix_str(f"{rate:.0f} episodes/min, {self.dropped} experts dropped", refresh=False)
        self._bar.update()

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_) -> None:
        self._bar.close()
