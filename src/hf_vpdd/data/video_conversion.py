"""Videos for `convert_dataset`: every clip becomes an episode of a LeRobot dataset without actions."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..files import file_sha256
from .conversion import Conversion, convert_dataset
from .video_dataset import CAMERA, VideoDataset


_KEY = f"observation.images.{CAMERA}"


class VideoSource:
    """See `conversion.Source`. Clips go by their place among all that were asked for.

    Args:
        dataset: What to convert.
        name: Of the format.
        image_size: Side of square frames: shorter side resized, middle cut out. None: as they are; then all must be
            of one size.
        listing: The file that names the clips, if there is one: another one is another dataset.
        options: What else decides what the clips are, plain JSON data.
    """

    robot_type = "video"

    def __init__(
        self,
        dataset: VideoDataset,
        name: str = "video",
        image_size: int | None = 224,
        listing: Path | None = None,
        options: dict[str, Any] | None = None,
    ):
        if image_size is not None and image_size < 1:
            raise InputError(f"image_size must be at least 1, got {image_size}")
        self.dataset, self.name, self.image_size = dataset, name, image_size
        self.fps, self.skipped = dataset.fps, dataset.skipped
        self._options = options or {}
        self._listing = file_sha256(listing) if listing is not None else None
        self._episode = {key: episode for episode, key in enumerate(dataset.keys)}
        shapes = {(facts.height, facts.width) for facts in map(dataset.facts, range(len(dataset)))}
        if image_size is None and len(shapes) > 1:
            raise InputError(
                f"{dataset.root}: pictures of {len(shapes)} sizes, {' and '.join(map(str, sorted(shapes)[:2]))} among "
                "them; LeRobot needs one: give --image-size"
            )

    def plan(self) -> dict[str, Any]:
        # Not the videos: they may be repaired half-way, each episode's fingerprint sees to that.
        return {
            "root": self.dataset.root.name,
            "listing_sha256": self._listing,
            "fps": self.fps,
            "image_size": self.image_size,
            **self._options,
        }

    def keys(self) -> list[int]:
        return list(self.dataset.keys)

    def fingerprint(self, key: int) -> str:
        return self.dataset.episode_fingerprint(self._episode[key])

    def read(self, key: int) -> dict[str, np.ndarray | str]:
        from .frame_store import fit_square

        episode = self._episode[key]
        if self.image_size is None:
            frames = self.dataset.frames(CAMERA, episode)
        else:
            frames = np.stack([fit_square(image, self.image_size) for image in self.dataset.iterate(episode)])
        return {_KEY: frames, "task": self.dataset.episodes.task[episode]}

    def note(self, key: int) -> dict[str, Any]:
        clip = self.dataset.clips[self._episode[key]]
        return {"clip": clip.name, "start": round(clip.start, 6), "end": round(clip.end, 6)}

    def features(self) -> dict[str, dict]:
        return {}


def convert_video(
    dataset: VideoDataset,
    out: str | os.PathLike,
    name: str = "video",
    image_size: int | None = 224,
    listing: Path | None = None,
    plan: dict[str, Any] | None = None,
    **options: Any,
) -> Conversion:
    """Clips as a LeRobot v3.0 dataset.

    Args:
        dataset, name, image_size, listing: See `VideoSource`; `plan` is its `options`.
        out: The folder to write.
        options: `workers`, `crf`, `pix_fmt`, `skip_bad`, `progress` of `convert_dataset`.
    """
    if Path(out).resolve() in (dataset.root.resolve(), dataset.cache_root.resolve()):
        raise InputError(f"OUT is the folder of the videos itself: {out}; name another folder")
    return convert_dataset(VideoSource(dataset, name, image_size, listing, plan), out, **options)
