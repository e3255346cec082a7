"""Robot datasets of other formats as LeRobot v3.0: in parallel, resumable, and whole or not there.

A format is a class with what `Source` asks for; everything else is here. Episodes are read and encoded by several
processes and put aside one by one (see `staging`), then joined in their order: how many processes there were, and how
often they were stopped, changes no byte of the result.
"""

import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from ..errors import InputError
from ..files import atomic_path
from .lerobot_writer import IMAGE_PREFIX, INDEX_FEATURES, LeRobotWriter
from .staging import claim, cores, run_jobs
from .video import encode_video


_FORMAT = 1
_ENCODING = {"gop": 10}  # a key frame every so many frames, as in recordings


class Source(Protocol):
    """A dataset that can be converted. Objects travel to other processes: they hold no open files."""

    name: str  # of the format
    fps: float
    robot_type: str
    skipped: list[dict]  # episodes that are left out for what is wrong with them, each with a "reason"

    def plan(self) -> dict[str, Any]:
        """All that decides what is in the result: plain JSON data without paths."""

    def keys(self) -> list[int]:
        """The episodes, in the order in which they are to stand, by numbers that stay theirs if others drop out."""

    def fingerprint(self, key: int) -> str:
        """Changes when the files of an episode change; cheap (names and sizes)."""

    def read(self, key: int) -> dict[str, Any]:
        """An episode: features (T, ...), and "task", its instruction. Raises `InputError` for what is broken."""

    def note(self, key: int) -> dict[str, Any]:
        """Where the episode comes from, for `meta/conversion.jsonl`."""

    def features(self) -> dict[str, dict]:
        """Names of features, as `LeRobotWriter` takes them."""


@dataclass
class Conversion:
    """What was done.

    Attributes:
        resumed: Episodes that were there already.
        skipped: Episodes that were left out, each with its "reason".
        finished_before: The dataset was there already, so nothing was done.
    """

    out: Path
    episodes: int = 0
    frames: int = 0
    resumed: int = 0
    skipped: list[dict] = field(default_factory=list)
    finished_before: bool = False

    def text(self) -> str:
        if self.finished_before:
            return f"{self.out} is there already, made with the same arguments; nothing was done"
        lines = [f"{self.out}: {self.episodes} episodes, {self.frames} frames, LeRobot v3.0"]
        if self.resumed:
            lines.append(f"  {self.resumed} episodes were there from an earlier call")
        if self.skipped:
            lines.append(f"  {len(self.skipped)} episodes were skipped (meta/skipped.jsonl), the first because:")
            lines.append(f"    {self.skipped[0]['reason']}")
        return "\n".join(lines)


def convert_dataset(
    source: Source,
    out: str | os.PathLike,
    workers: int | None = None,
    crf: int = 18,
    pix_fmt: str = "yuv444p",
    skip_bad: bool = False,
    progress: bool = True,
) -> Conversion:
    """Writes a dataset as LeRobot v3.0; goes on where an earlier call with the same arguments was stopped.

    Args:
        source: What to convert.
        out: The folder to write: absent, empty, or one that an earlier call began or finished.
        workers: Processes; one per core if not given.
        crf, pix_fmt: Of `encode_video`; yuv420p where players matter more than colours.
        skip_bad: Leave out episodes that are broken, and say which; otherwise the first of them is an error.
        progress: Show bars.

    Raises:
        InputError: A folder that holds something else, or a broken episode. What is finished is kept in
            `out/.staging`: repair the file and call again.
    """
    if workers is not None and workers < 1:
        raise InputError(f"workers must be at least 1, got {workers}")
    out = Path(out)
    encoding = {"crf": crf, "pix_fmt": pix_fmt, **_ENCODING}
    plan = {"source": source.name, "format": _FORMAT, **source.plan(), **encoding}
    staging = claim(out, plan, "conversion")
    if staging is None:
        return Conversion(out, finished_before=True)

    keys = source.keys()
    missing = [key for key in keys if not _is_staged(staging, source, key)]
    result = Conversion(out, resumed=len(keys) - len(missing), skipped=list(source.skipped))
    bad: dict[int, str] = {}
    hide = None if progress else True
    with tqdm(total=len(keys), initial=result.resumed, unit="episode", desc="converting", disable=hide) as bar:

        def done(outcome: tuple[int, str | None]) -> None:
            key, reason = outcome
            if reason is not None:
                bad[key] = reason
                bar.set_postfix_str(f"{len(bad)} skipped", refresh=False)
            bar.update()

        jobs, given = ((key,) for key in missing), (source, str(staging), encoding, skip_bad)
        workers = min(workers or cores(), max(len(missing), 1))
        if workers == 1:
            _start_worker(*given)
            for job in jobs:
                done(_convert_episode(*job))
        else:
            died = (
                f"a worker died (killed, or out of memory?). Finished episodes are kept in {staging}; the same "
                "command continues"
            )
            run_jobs(_convert_episode, jobs, workers, _start_worker, given, done, died)
    result.skipped += [{**source.note(key), "reason": bad[key]} for key in sorted(bad)]
    kept = [key for key in keys if key not in bad]
    if not kept:
        raise InputError(f"none of the {len(keys)} episodes can be used; the first: {next(iter(bad.values()), '')}")
    _assemble(out, staging, source, kept, plan, encoding, result, hide)
    shutil.rmtree(staging)
    return result


def _folder(staging: Path, key: int) -> Path:
    return staging / "episodes" / f"{key:07d}"


def _is_staged(staging: Path, source: Source, key: int) -> bool:
    """Whether an episode is put aside already, made of the files that are there now."""
    folder = _folder(staging, key)
    if not (folder / "episode.json").is_file():
        return False
    if json.loads((folder / "episode.json").read_text())["fingerprint"] == source.fingerprint(key):
        return True
    shutil.rmtree(folder)
    return False


# -- workers ---------------------------------------------------------------------------------------------------------

_worker: dict = {}


def _start_worker(source: Source, staging: str, encoding: dict, skip_bad: bool) -> None:
    _worker.update(source=source, staging=Path(staging), encoding=encoding, skip_bad=skip_bad)


def _convert_episode(key: int) -> tuple[int, str | None]:
    """Puts one episode aside; (its key, why it was skipped or None)."""
    source: Source = _worker["source"]
    try:
        fingerprint = source.fingerprint(key)
        episode = source.read(key)
    except InputError as error:
        if not _worker["skip_bad"]:
            raise InputError(
                f"{error}\nWhat is finished is kept: repair it and call again, or leave such episodes out: --skip-bad"
            ) from error
        return key, str(error)
    task = episode.pop("task")
    images = {name: value for name, value in episode.items() if name.startswith(IMAGE_PREFIX)}
    columns = {name: value for name, value in episode.items() if name not in images and name not in INDEX_FEATURES}
    length = len(next(iter({**images, **columns}.values())))
    with atomic_path(_folder(_worker["staging"], key)) as folder:
        folder.mkdir(parents=True)
        for name, frames in images.items():
            encode_video(folder / f"{name}.mp4", frames, source.fps, **_worker["encoding"])
        np.savez(folder / "columns.npz", **columns)
        about = {"task": task, "length": length, "fingerprint": fingerprint, "cameras": sorted(images)}
        (folder / "episode.json").write_text(json.dumps(about))
    return key, None


# -- the dataset -----------------------------------------------------------------------------------------------------


def _assemble(out: Path, staging: Path, source: Source, keys: list[int], plan, encoding, result, hide) -> None:
    lines = []
    with LeRobotWriter(
        out, fps=source.fps, features=source.features(), robot_type=source.robot_type,
        extra_info={"conversion": plan}, **encoding,
    ) as writer:  # fmt: skip
        for index, key in enumerate(tqdm(keys, unit="episode", desc="joining", disable=hide)):
            folder = _folder(staging, key)
            about = json.loads((folder / "episode.json").read_text())
            with np.load(folder / "columns.npz") as columns:
                writer.add_encoded_episode(
                    {camera: folder / f"{camera}.mp4" for camera in about["cameras"]},
                    dict(columns),
                    about["task"],
                    about["length"],
                )
            lines.append(json.dumps({"episode_index": index, **source.note(key)}) + "\n")
        writer.add_meta_file("conversion.jsonl", "".join(lines))
        if result.skipped:
            writer.add_meta_file("skipped.jsonl", "".join(json.dumps(note) + "\n" for note in result.skipped))
    result.episodes, result.frames = len(keys), writer.num_frames
