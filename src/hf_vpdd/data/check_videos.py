"""Checks one video file against the episodes that lie in it: every frame there, in time, decodable."""

from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np

from ..errors import InputError
from .findings import Findings
from .video import open_video


@dataclass
class VideoFile:
    """A file and its episodes: episode numbers, first frames in the file, lengths, each (E,) in order of `first`."""

    path: Path
    name: str
    key: str
    episode: np.ndarray
    first: np.ndarray
    length: np.ndarray
    shape: tuple | None = None  # (H, W) promised by meta/info.json
    findings: list[tuple] = field(default_factory=list)

    def place(self, frame: int) -> dict:
        """Episode and frame within it of a frame of the file."""
        at = int(np.searchsorted(self.first, frame, side="right")) - 1
        if at < 0 or frame >= self.first[at] + self.length[at]:
            return {}
        return {"episode": int(self.episode[at]), "frame": int(frame - self.first[at])}


def check_video(video: VideoFile, fps: float, decode: bool, findings: Findings) -> None:
    """Reads the file from start to end once, decoding every frame, or only the container's list of frames.

    A decoder hides damage: it repeats or patches pictures and only logs. `open_video` tells it to stop at the first
    doubt.
    """
    needed = int((video.first + video.length).max())
    where = {"file": video.name, "key": video.key}
    if (video.first[1:] < (video.first + video.length)[:-1]).any():
        at = int(np.flatnonzero(video.first[1:] < (video.first + video.length)[:-1])[0])
        episode = int(video.episode[at + 1])
        text = f"begins at frame {video.first[at + 1]}, inside of episode {video.episode[at]}"
        findings.add("broken-table", text, episode=episode, **where)
    times, good = [], 0
    try:
        with open_video(video.path) as container:
            stream = container.streams.video[0]
            size = (stream.codec_context.height, stream.codec_context.width)
            if video.shape and size != video.shape:
                text = f"pictures are {size[0]} by {size[1]}, meta/info.json says {video.shape[0]} by {video.shape[1]}"
                findings.add("wrong-type", text, **where)
            if not decode:
                times = [float(p.pts * p.time_base) for p in container.demux(stream) if p.size and p.pts is not None]
                times.sort()
            else:
                for frame in container.decode(stream):
                    if frame.is_corrupt:
                        findings.add("decode", "the picture is damaged", **where, **video.place(good))
                    times.append(float(frame.pts * frame.time_base))
                    good += 1
    except InputError as error:
        findings.add("broken-file", str(error), episode=int(video.episode[0]), **where)
        return
    except (av.error.FFmpegError, TypeError, MemoryError) as error:  # TypeError: a frame without a time
        place = video.place(good) or {"episode": int(video.episode[-1])}
        text = f"the pictures from frame {good} of the file on cannot be decoded: {getattr(error, 'strerror', error)}"
        findings.add("decode", text, **where, **place)
        return
    position = np.asarray(times) * fps
    number = np.round(position)
    off = np.flatnonzero(np.abs(position - number) > 0.1)
    if len(off):
        at = int(off[0])
        text = f"a picture is at {times[at]:.4f} s, no multiple of 1/{fps:g} s ({len(off)} of {len(times)} are not)"
        findings.add("video-timing", text, len(off), **where, **video.place(at))
        return
    there = np.zeros(needed, bool)
    inside = (number >= 0) & (number < needed)
    there[number[inside].astype(np.int64)] = True
    for episode, first, length in zip(video.episode.tolist(), video.first.tolist(), video.length.tolist()):
        lacking = np.flatnonzero(~there[first : first + length])
        if len(lacking):
            text = f"{len(lacking)} of {length} pictures are not in the file, which has {len(times)}"
            findings.add("video-frames", text, episode=episode, frame=int(lacking[0]), **where)
    if len(np.unique(number)) != len(number):
        findings.add("video-timing", "two pictures have the same time", **where)
