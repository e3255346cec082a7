"""Pictures of a video by time: what is on the screen at 0, 1/3, 2/3, ... seconds, whatever the file's own rate is.

    facts = probe_video(Path("clip.webm"))
    list(TimedReader().iterate(Path("clip.webm"), clip_times(0, facts.seconds, fps=3), facts))

Files that people make have variable frame rates, clocks that do not start at zero and phones' rotation marks. A
picture counts as shown from its own time until the next one's; rotations are carried out; the file's first picture is
at 0 s.
Folders of numbered pictures are videos, too, of a rate that has to be told.
"""

import io
import math
import re
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from ..errors import InputError
from .pictures import read_picture
from .video import open_video, to_rgb


VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".gif")
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")

_WHOLE = 60.0  # files up to so many seconds are looked through packet by packet, of longer ones both ends
_TAIL = 10.0


class StoredVideo(Protocol):
    """A video that is no file of its own: a cell of a table. `str()` of it is its name in messages."""

    def open(self) -> io.BufferedIOBase:
        """The bytes of the file, to read and seek in."""


Source = Path | StoredVideo


@dataclass(frozen=True)
class VideoFacts:
    """What a video is.

    origin: time of the first picture on the file's own clock, s. seconds: from the first picture to the end of the
    last. rate: pictures per second on average. height, width: as shown, after the rotation. rotation: counterclockwise
    turns of 90 degrees, 0 to 3. last: when the last picture appears, s from the first on.
    """

    origin: float
    seconds: float
    rate: float
    height: int
    width: int
    rotation: int = 0
    last: float = 0.0


def clip_times(start: float, end: float, fps: float) -> np.ndarray:
    """float64 (T,): start, start + 1 / fps, ... before `end`; at least one. 3.9 frames are 4: containers round."""
    count = max(1, math.floor((end - start) * fps + 0.1))
    return start + np.arange(count) / fps


def picture_files(folder: Path) -> list[Path]:
    """The pictures of a folder in the order of the numbers in their names (frame_2 before frame_10)."""
    files = [path for path in folder.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES and path.name[0] != "."]
    return sorted(files, key=lambda path: natural_key(path.name))


def nominal_rate(rate: float) -> float:
    """The rate that was meant, of one measured by rounded times: 12.01 -> 12, 29.968 -> 29.97."""
    nearest = min((float(max(round(rate), 1)), 23.976, 29.97, 59.94), key=lambda usual: abs(usual - rate))
    return nearest if abs(nearest - rate) <= 0.003 * rate else round(rate, 2)


def natural_key(name: str) -> list:
    """Sorts texts with numbers in them by the numbers."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name) if part]


def probe_video(source: Source, rate: float | None = None) -> VideoFacts:
    """Looks at a video; decodes one picture, and reads both ends.

    Args:
        source: A file, a folder of pictures, or a `StoredVideo`.
        rate: Pictures per second of a folder of pictures, which cannot know it.

    Raises:
        InputError: Missing, no video, cut short, undecodable; a folder without pictures or without a rate.
    """
    if isinstance(source, Path) and source.is_dir():
        return _probe_folder(source, rate)
    try:
        with _open(source) as container:
            facts = _probe(container, source)
        with _open(source) as container:  # anew: a gif cannot be wound back
            frame = next(container.decode(container.streams.video[0]), None)
    except (av.error.FFmpegError, MemoryError) as error:
        raise InputError(f"video {source} cannot be read (damaged or cut short): {error}") from error
    if frame is None:
        raise InputError(f"video {source} holds no picture that can be decoded")
    turns = round(frame.rotation / 90) % 4
    height, width = (frame.height, frame.width) if turns % 2 == 0 else (frame.width, frame.height)
    origin, seconds, rate, last = facts
    return VideoFacts(origin, seconds, rate, height, width, turns, last)


class TimedReader:
    """Random access by time to many videos, with at most `max_open` of them open. Not for several threads at once."""

    def __init__(self, max_open: int = 8):
        self.max_open = max_open
        self._open: OrderedDict[str, _OpenVideo] = OrderedDict()

    def iterate(
        self, source: Source, times: np.ndarray, facts: VideoFacts, rate: float | None = None
    ) -> Iterator[np.ndarray]:
        """The picture on the screen at each time.

        Args:
            times: Seconds from the first picture on, rising.
            facts: Of `probe_video`. rate: as given to it.

        Yields:
            uint8 RGB (H, W, 3).

        Raises:
            InputError: A picture that cannot be decoded, or the end of the file long before `facts` says.
        """
        if isinstance(source, Path) and source.is_dir():
            yield from _iterate_folder(source, times, rate or facts.rate)
            return
        key = str(source)
        video = self._open.pop(key, None) or _OpenVideo(source, facts)
        self._open[key] = video
        while len(self._open) > self.max_open:
            self._open.popitem(last=False)[1].container.close()
        finished = False
        try:
            for time in times.tolist():
                yield video.at(time)
            finished = True
        finally:
            # After an error the decoder's position is unknown; and a second walk through the same file, begun before
            # this one ended, must not find its container in use.
            if not finished and self._open.get(key) is video:
                self._open.pop(key).container.close()

    def close(self) -> None:
        while self._open:
            self._open.popitem()[1].container.close()


# -- one file --------------------------------------------------------------------------------------------------------


def _open(source: Source) -> av.container.InputContainer:
    if isinstance(source, Path):
        container = open_video(source)
    else:
        try:
            container = av.open(source.open(), metadata_errors="replace")
        except (av.error.FFmpegError, OSError) as error:
            raise InputError(
                f"video {source} cannot be opened (cut short or not a video): {error.strerror or error}"
            ) from error
        if not container.streams.video:
            container.close()
            raise InputError(f"{source} holds no video stream")
    context = container.streams.video[0].codec_context
    if context is None:
        container.close()
        raise InputError(f"video {source} is of no kind that can be decoded (damaged?)")
    # Damaged pictures are to be errors, not grey blocks.
    context.options = {"err_detect": "explode"}
    context.thread_count = 1
    return container


def _seconds(item: "av.Packet | av.VideoFrame") -> float | None:
    stamp = item.pts if item.pts is not None else item.dts  # avi has only the latter
    return None if stamp is None else float(stamp * item.time_base)


def _probe(container: av.container.InputContainer, source: Source) -> tuple[float, float, float, float]:
    """(origin, seconds, rate, last) of `VideoFacts`."""
    stream = container.streams.video[0]
    declared = _declared_seconds(container)
    stamps, lengths = [], []

    def look(until: float | None) -> None:
        for packet in container.demux(stream):
            time = None if packet.size == 0 else _seconds(packet)
            if time is None:
                continue
            stamps.append(time)
            lengths.append(float((packet.duration or 0) * packet.time_base))
            if until is not None and time > stamps[0] + until:
                return

    whole = declared is None or declared <= _WHOLE
    look(None if whole else 2.0)
    if not stamps:
        raise InputError(f"video {source} holds no pictures")
    gap = float(np.median(np.diff(np.sort(stamps)))) if len(stamps) > 1 else 0.0
    origin, number = min(stamps), len(stamps)
    if not whole:
        place = int((origin + declared - _TAIL) / stream.time_base)
        container.seek(place, stream=stream)
        look(None)
    last = int(np.argmax(stamps))
    rate = float(stream.average_rate or stream.guessed_rate or 0)
    seconds = stamps[last] - origin + (lengths[last] or gap or (1 / rate if rate else 0.04))
    # Some headers count from the clock's zero and not from the first picture.
    late = max(origin, 0.0)
    if declared is not None and seconds + late < declared - max(0.25, 3 * gap, 0.02 * declared):
        raise InputError(
            f"video {source} is cut short: its pictures end at {seconds:.2f} s, its header says {declared:.2f} s; "
            "copy or download it again"
        )
    if whole:
        rate = number / seconds
    return origin, seconds, rate, stamps[last] - origin


def _declared_seconds(container: av.container.InputContainer) -> float | None:
    """How long the header says the video is; None where it does not say, or might speak of the sound."""
    stream = container.streams.video[0]
    if stream.duration:
        return float(stream.duration * stream.time_base)
    if container.duration and len(container.streams) == 1:
        return container.duration / 1e6
    return None


class _OpenVideo:
    def __init__(self, source: Source, facts: VideoFacts):
        self.source, self.facts = source, facts
        self.container = _open(source)
        self.stream = self.container.streams.video[0]
        # Containers round times to their clock (webm to a millisecond, gif to a hundredth of a second).
        self.slack = min(max(float(self.stream.time_base), 1e-4), 0.25 / max(facts.rate, 1.0)) * 1.01
        self._convert = VideoReformatter()
        self._shown: tuple[float, av.VideoFrame] | None = None
        self._next: tuple[float, av.VideoFrame] | None = None
        self._picture: tuple[float, np.ndarray] | None = None
        self._frames = self._decode()
        self._ended = False

    def at(self, time: float) -> np.ndarray:
        """uint8 RGB (H, W, 3) on the screen at `time` seconds."""
        wanted = time + self.slack
        if self._shown is not None and wanted < self._shown[0]:
            self._jump(time)
        elif wanted > (self._next or self._shown or (0.0,))[0] + 1.0 and not self._ended:
            self._jump(time)
        try:
            while not self._ended and (self._next is None or self._next[0] <= wanted):
                if self._next is not None:
                    self._shown = self._next
                self._next = next(self._frames, None)
                self._ended = self._next is None
        except av.error.FFmpegError as error:
            raise InputError(f"video {self.source} cannot be decoded at {time:.3f} s: {error}") from error
        if self._shown is None:
            # Before the first picture that can be decoded; seeking never leaves us here, a broken start does.
            raise InputError(f"video {self.source} has no picture at {time:.3f} s")
        # One picture less is a decoder's whim, more are missing.
        if self._ended and min(time, self.facts.last) > self._shown[0] + 1.5 / self.facts.rate:
            raise InputError(
                f"video {self.source} has no picture after {self._shown[0]:.3f} s, expected them to "
                f"{self.facts.last:.3f} s: it is cut short or damaged"
            )
        if self._picture is None or self._picture[0] != self._shown[0]:
            image = to_rgb(self._convert, self._shown[1])
            if self.facts.rotation:
                image = np.ascontiguousarray(np.rot90(image, self.facts.rotation))
            self._picture = (self._shown[0], image)
        return self._picture[1].copy()

    def _jump(self, time: float) -> None:
        """To the key frame at or before `time`; to the start of the file where seeking does not work."""
        try:
            self.container.seek(int((time + self.facts.origin) / self.stream.time_base), stream=self.stream)
            self._restart()
            self._next = next(self._frames, None)
        except av.error.FFmpegError:
            self._next = None
        if self._next is None or self._next[0] > time + self.slack:
            self.container.close()
            self.container = _open(self.source)
            self.stream = self.container.streams.video[0]
            self._restart()

    def _restart(self) -> None:
        self._frames = self._decode()
        self._shown = self._next = None
        self._ended = False

    def _decode(self) -> Iterator[tuple[float, av.VideoFrame]]:
        for frame in self.container.decode(self.stream):
            time = _seconds(frame)
            if time is None:
                continue
            if frame.is_corrupt:
                raise InputError(f"video {self.source} has a damaged picture at {time - self.facts.origin:.3f} s")
            yield time - self.facts.origin, frame


# -- folders of pictures ---------------------------------------------------------------------------------------------


def _probe_folder(folder: Path, rate: float | None) -> VideoFacts:
    files = picture_files(folder)
    if not files:
        raise InputError(f"{folder} holds no pictures ({', '.join(PICTURE_SUFFIXES)})")
    if not rate or not rate > 0:
        raise InputError(
            f"{folder} is a folder of pictures and does not say how many a second; give `fps` in the captions file's "
            "row, or --picture-rate to `hf-vpdd convert dataset --from video`"
        )
    missing = _missing_number(files)
    if missing is not None:
        raise InputError(
            f"{folder}: picture {missing} is missing between {files[0].name} and {files[-1].name}, what follows would "
            "come too early; copy the folder again"
        )
    height, width = read_picture(files[0]).shape[:2]
    return VideoFacts(0.0, len(files) / rate, rate, height, width)


def _missing_number(files: list[Path]) -> int | None:
    """The first that is missing of pictures that are counted 1, 2, 3, ...; other numbers may be times of day."""
    numbers = [int(found[-1]) for path in files if (found := re.findall(r"\d+", path.stem))]
    steps = np.diff(numbers)
    if len(numbers) < len(files) or len(steps) < 2 or steps.min() < 1 or np.median(steps) != 1:
        return None
    return None if steps.max() == 1 else numbers[int(np.argmax(steps > 1))] + 1


def _iterate_folder(folder: Path, times: np.ndarray, rate: float) -> Iterator[np.ndarray]:
    files = picture_files(folder)
    for number in np.floor(times * rate + 1e-3).astype(int).tolist():
        if number >= len(files):
            raise InputError(f"{folder} has {len(files)} pictures, number {number} is needed: it has shrunk")
        yield read_picture(files[number])
