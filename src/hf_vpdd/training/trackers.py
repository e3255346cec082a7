"""Curves, pictures and videos in TensorBoard, Trackio and Weights & Biases, through accelerate."""

import io
import secrets
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..files import atomic_write_text


TRACKERS = ("tensorboard", "trackio", "wandb")
_EXTRA = {"tensorboard": "train", "trackio": "trackio", "wandb": "wandb"}
_ID_FILE = "tracker_run.txt"


def tracker_names(text: str) -> list[str]:
    """The option `tracker` as a list: known names, each once.

    Raises:
        InputError: an unknown name, or `none` beside others.
    """
    names = list(dict.fromkeys(name.strip() for name in str(text).split(",") if name.strip()))
    if names == ["none"] or not names:
        return []
    for name in names:
        if name == "none":
            raise InputError(f"train.tracker: none stands alone, got {text!r}")
        if name not in TRACKERS:
            raise InputError(f"train.tracker must be of {', '.join(TRACKERS)}, or none; got {name!r}")
    return names


def require_trackers(names: list[str]) -> None:
    """Raises an InputError that says how to install the first one that is missing."""
    for name in names:
        if find_spec(name) is None:
            raise InputError(
                f"train.tracker: {name} is not installed: pip install 'hf-vpdd[{_EXTRA[name]}]', or give another "
                "--tracker (none: metrics.jsonl alone)"
            )


class Trackers:
    """The trackers of one run; every method is for the main process.

    Args:
        accelerator: Was made with `log_with=names`.
        names: As `tracker_names` gives them.
    """

    def __init__(self, accelerator, names: list[str], project: str, run_name: str, output_dir: Path):
        self.accelerator, self.names = accelerator, names
        self.project, self.run_name, self.output_dir = project, run_name, output_dir

    def start(self, config: dict[str, Any], step: int) -> None:
        """Begin the run, or go on from `step` with the one that a resumed training began."""
        if not self.names:
            return
        identity = ""
        if set(self.names) - {"tensorboard"}:
            identity = self._identity(resumed=step > 0)
        options = {
            # steps after the checkpoint are repeated: what was drawn of them goes
            "tensorboard": {"purge_step": step + 1} if step else {},
            "trackio": {"name": f"{self.run_name}-{identity}", "resume": "allow", "embed": False},
            "wandb": {"name": self.run_name, "id": identity, "resume": "allow", "dir": str(self.output_dir)},
        }
        try:
            self.accelerator.init_trackers(
                self.project, config=config, init_kwargs={name: options.get(name, {}) for name in self.names}
            )
        except Exception as error:  # each has its own kinds; a missing login is the usual one
            advice = " (wandb login, or WANDB_MODE=offline)" if "wandb" in self.names else ""
            raise InputError(
                f"train.tracker {', '.join(self.names)} did not start{advice}: {type(error).__name__}: {error}"
            ) from error

    def _identity(self, resumed: bool) -> str:
        """Eight letters that stay with a run when it goes on, kept in its folder; others for a new run."""
        path = self.output_dir / _ID_FILE
        if not resumed or not path.is_file():
            atomic_write_text(path, secrets.token_hex(4) + "\n")
        return path.read_text(encoding="utf-8").strip()

    def numbers(self, values: dict[str, float], step: int) -> None:
        if self.names:
            self.accelerator.log(values, step=step)

    def pictures(self, pictures: dict[str, np.ndarray], step: int) -> None:
        """uint8 (H, W, 3) each."""
        for name in self.names:
            tracker = self.accelerator.get_tracker(name)
            if name == "tensorboard":
                images = {key: picture[None] for key, picture in pictures.items()}
                tracker.log_images(images, step=step, dataformats="NHWC")
            else:
                module = _module(name)
                tracker.log({key: module.Image(picture) for key, picture in pictures.items()}, step=step)

    def videos(self, videos: dict[str, Path], gifs: dict[str, np.ndarray], fps: int, step: int) -> None:
        """
        Args:
            videos: mp4 files. gifs: the same as uint8 (T, H, W, 3), for TensorBoard, which shows animated GIFs.
        """
        for name in self.names:
            tracker = self.accelerator.get_tracker(name)
            if name == "tensorboard":
                for key, frames in gifs.items():
                    _add_gif(tracker.writer, key, frames, fps, step)
            elif name == "wandb":
                module = _module(name)
                tracker.log({key: module.Video(str(path), format="mp4") for key, path in videos.items()}, step=step)
            else:
                module = _module(name)
                tracker.log({key: module.Video(str(path)) for key, path in videos.items()}, step=step)

    def finish(self) -> None:
        for tracker in self.accelerator.trackers:  # `end_training` would also end the group of processes
            tracker.finish()


def gif_bytes(frames: np.ndarray, fps: int) -> bytes:
    """uint8 (T, H, W, 3) as an animated GIF."""
    from PIL import Image

    first, *others = (Image.fromarray(frame) for frame in frames)
    buffer = io.BytesIO()
    first.save(buffer, format="GIF", save_all=True, append_images=others, duration=round(1000 / fps), loop=0)
    return buffer.getvalue()


def _add_gif(writer, name: str, frames: np.ndarray, fps: int, step: int) -> None:
    """As SummaryWriter.add_video, which would need moviepy."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    height, width = frames.shape[1:3]
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=gif_bytes(frames, fps))
    writer.file_writer.add_summary(Summary(value=[Summary.Value(tag=name, image=image)]), step)


def _module(name: str):
    import importlib

    return importlib.import_module(name)
