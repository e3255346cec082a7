"""What a run tells while it trains: metrics.jsonl, trackers, pictures, videos, the progress bar."""

import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from ..files import atomic_write_text
from .arguments import Recipe
from .metadata import write_run_files
from .pictures import save_png, save_video
from .trackers import Trackers, tracker_names


VIDEO_FPS = 8


class RunLog:
    """The logs of one run. On other processes than the main one every method does nothing.

    Args:
        accelerator: Was made with `log_with=tracker_names(recipe.train.tracker)`.
    """

    def __init__(self, accelerator, recipe: Recipe):
        args = recipe.train
        self.recipe, self.main, self.output_dir = recipe, accelerator.is_main_process, Path(recipe.output_dir)
        self.path, self.device = self.output_dir / "metrics.jsonl", accelerator.device
        name = args.run_name or "/".join(self.output_dir.resolve().parts[-2:])
        self.trackers = Trackers(accelerator, tracker_names(args.tracker), args.tracker_project, name, self.output_dir)

    def start(self, record: dict[str, Any], step: int) -> None:
        """Write the run's files; of an earlier part of this run, keep the lines up to `step`."""
        if not self.main:
            return
        write_run_files(self.output_dir, record)
        (self.output_dir / "training.json").unlink(missing_ok=True)
        kept, last = [], self.recipe.train.steps
        if step and self.path.is_file():  # lines after the checkpoint are about steps that will be repeated
            for line in self.path.read_text(encoding="utf-8").splitlines():
                try:
                    values = json.loads(line)
                    # A finished run is evaluated once more, after its last checkpoint.
                    repeated = values["step"] == last and any(key.startswith("val/") for key in values)
                    if values["step"] <= step and not repeated:
                        kept.append(line + "\n")
                except (ValueError, KeyError):
                    continue
        atomic_write_text(self.path, "".join(kept))
        config = {**self.recipe.flat(), "stage": self.recipe.stage, "git_revision": str(record["git_revision"])}
        config |= {f"fingerprint.{name}": value for name, value in record["fingerprints"].items()}
        self.trackers.start(config, step)

    def bar(self, step: int) -> tqdm:
        """Steps done and to come, steps/s, time left; `show` adds the rest."""
        args = self.recipe.train
        return tqdm(
            total=args.steps, initial=step, desc=self.recipe.stage, unit="step", smoothing=0.05,
            disable=not (self.main and args.progress), mininterval=0.5 if os.isatty(2) else 15.0,
        )  # fmt: skip

    def metrics(self, values: dict[str, float], step: int, **aside: float) -> None:
        """One line of metrics.jsonl. `aside`: for that file alone."""
        if not self.main:
            return
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values, **aside}) + "\n")
        self.trackers.numbers(values, step)

    def speed(self, samples_per_second: float, step: int) -> dict[str, str]:
        """To the trackers, and for the progress bar: how fast, and how much memory. Not in metrics.jsonl, which a
        resumed run repeats to the last digit."""
        memory = peak_memory(self.device)
        if self.main:
            values = {"speed/samples_per_second": samples_per_second, "speed/peak_memory_gb": memory / 1e9}
            self.trackers.numbers(values, step)
        return {"samples/s": f"{samples_per_second:.0f}", "mem": f"{memory / 1e9:.1f}GB"}

    def pictures(self, pictures: dict[str, np.ndarray], step: int) -> None:
        """uint8 (H, W, 3) each, as PNG and to the trackers."""
        if not self.main or not pictures:
            return
        for name, picture in pictures.items():
            save_png(self.output_dir / "pictures" / f"{name}-{step:06d}.png", picture)
        self.trackers.pictures(pictures, step)

    def videos(self, videos: dict[str, np.ndarray], step: int) -> None:
        """uint8 (T, H, W, 3) each, as mp4 and to the trackers."""
        if not self.main or not videos:
            return
        videos = {name: _even(frames) for name, frames in videos.items()}
        paths = {}
        for name, frames in videos.items():
            paths[name] = save_video(self.output_dir / "videos" / f"{name}-{step:06d}.mp4", frames, VIDEO_FPS)
        self.trackers.videos(paths, videos, VIDEO_FPS, step)

    def films(self, paths: list[Path], step: int) -> None:
        """mp4 files of rollouts, to the trackers."""
        if not self.main or not paths or not self.trackers.names:
            return
        from ..data.video import decode_video

        gifs = {}
        if "tensorboard" in self.trackers.names:
            gifs = {f"rollout/{path.stem}": decode_video(path) for path in paths}
        self.trackers.videos({f"rollout/{path.stem}": path for path in paths}, gifs, VIDEO_FPS, step)

    def say(self, step: int, text: str) -> None:
        """One line above the progress bar."""
        args = self.recipe.train
        if self.main and args.progress:
            tqdm.write(f"[{self.recipe.stage} {step}/{args.steps}] {text}")

    def finish(self) -> None:
        if self.main:
            self.trackers.finish()


def peak_memory(device: torch.device) -> int:
    """Bytes: the most that torch has held on a GPU, else the most that this process has held."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _even(frames: np.ndarray) -> np.ndarray:
    """With even sides, as mp4 needs them: a white line below or to the right where one is missing."""
    height, width = frames.shape[1:3]
    return np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), constant_values=255)
