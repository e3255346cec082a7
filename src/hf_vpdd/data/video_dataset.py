"""Stretches of videos with sentences as a dataset: episodes without states and actions, at one frame rate.

It has the interface of `LeRobotDataset`, so frame stores, training and `hf-vpdd info` take it as it is. What the
stretches are, `video_folder`, `ssv2`, `ego4d` and `video_rows` say.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..errors import InputError
from ..files import atomic_write_text
from .lerobot import IMAGE_PREFIX, EpisodeTable
from .staging import cores
from .timed_video import Source, TimedReader, VideoFacts, clip_times, nominal_rate, picture_files, probe_video


CAMERA = "video"
_KEY = IMAGE_PREFIX + CAMERA
_FORMAT = 1  # of the remembered facts


@dataclass(frozen=True)
class Clip:
    """A stretch of a video.

    source: the file, a folder of pictures, or a stored video. text: its sentence. start, end: seconds from the first
    picture on; None: to the file's end. What lies outside the file is cut off. rate: pictures per second of a folder
    of pictures. name: of the clip, unique in the dataset, the same on every machine.
    """

    source: Source
    text: str
    name: str
    start: float = 0.0
    end: float | None = None
    rate: float | None = None


class VideoDataset:
    """Clips as episodes.

    The only feature is `observation.images.video`. Frame k of an episode is the picture on the screen k / fps seconds
    after the clip's start: rates may vary between files and within them.

    Args:
        root: What it was opened by, for messages and names of caches.
        clips: The episodes. Clips that overlap are fine.
        fps: Frames per second; the most common average rate of the files if not given.
        clip_seconds: Cut clips into pieces of at most so many seconds.
        cache: The folder for `.cache/hf_vpdd`, where lengths of files are remembered; beside `root` if not given.
        progress: Show a bar while the files are looked at.
        skip_bad: Leave out files that cannot be read, instead of refusing all.

    Attributes: as `LeRobotDataset`'s; `clips` (E,) after cutting, `keys` (E,) their places among all that were asked
    for, `skipped` what was left out and why.

    Raises:
        InputError: No clips, or a file that is missing or damaged.
    """

    version = "video"

    def __init__(
        self,
        root: Path,
        clips: Sequence[Clip],
        fps: float | None = None,
        clip_seconds: float | None = None,
        cache: Path | None = None,
        progress: bool = True,
        skip_bad: bool = False,
    ):
        for name, value in {"fps": fps, "clip_seconds": clip_seconds}.items():
            if value is not None and not 0 < value < 1e6:
                raise InputError(f"{name} must be above 0, got {value}")
        if not clips:
            raise InputError(f"{root} has no clips")
        self.root = Path(root)
        self.cache_root = Path(cache) if cache is not None else self.root if self.root.is_dir() else self.root.parent
        self.progress = progress
        self.skipped: list[dict] = []
        facts, reasons = _facts_of(clips, self.cache_root / ".cache" / "hf_vpdd", progress)
        if reasons and (not skip_bad or len(reasons) == len(facts) + len(reasons)):
            first = next(iter(reasons.values()))
            raise InputError(
                f"{first} ({len(reasons)} of {len(facts) + len(reasons)} videos cannot be read). Repair or remove "
                "them, or convert the rest: hf-vpdd convert dataset --skip-bad"
            )
        rates = Counter(nominal_rate(facts[str(c.source)].rate) for c in clips if str(c.source) in facts)
        # Of equally common rates the lowest: pictures are left out rather than shown twice.
        self.fps = float(fps) if fps is not None else min(rates, key=lambda rate: (-rates[rate], rate))
        kept, self.keys, self._times, key = [], [], [], 0
        self._facts = facts
        for clip in clips:
            pieces, reason = self._cut(clip, clip_seconds) if str(clip.source) in facts else ([], None)
            reason = reason or reasons.get(str(clip.source))
            if reason is not None:
                if not skip_bad:
                    raise InputError(reason)
                self.skipped.append({"clip": clip.name, "reason": reason})
            for piece in pieces:
                kept.append(piece)
                self.keys.append(key)
                key += 1
            key += not pieces
        if not kept:
            raise InputError(f"{root}: none of its {len(clips)} clips can be used; {self.skipped[0]['reason']}")
        self.clips: list[Clip] = kept
        length = np.array([len(clip_times(clip.start, clip.end, self.fps)) for clip in kept], np.int64)
        none = np.zeros(len(length), np.int64)
        self.episodes = EpisodeTable(
            length=length, start=np.cumsum(length) - length, task=[clip.text for clip in kept],
            data_files=[], data_file=none, video_files={}, video_file={}, video_start={},
        )  # fmt: skip
        self.num_episodes, self.num_frames = len(length), int(length.sum())
        self.tasks = list(dict.fromkeys(self.episodes.task))
        self._task_index = {task: number for number, task in enumerate(self.tasks)}
        first = self._facts[str(kept[0].source)]
        self.features = {
            _KEY: {
                "dtype": "image", "shape": [first.height, first.width, 3], "names": ["height", "width", "channels"],
            }
        }  # fmt: skip
        self.info = {"robot_type": None, "fps": self.fps, "features": self.features}
        self._reader = TimedReader()

    def __len__(self) -> int:
        return self.num_episodes

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.root)!r}, {self.num_episodes} clips, {self.num_frames} frames)"

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_reader": None}  # open files do not travel to other processes

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state | {"_reader": TimedReader()})

    @property
    def cameras(self) -> list[str]:
        """Names of the cameras: video."""
        return [CAMERA]

    @property
    def variant(self) -> str:
        """Tells apart datasets of the same root: their frame rates and pieces."""
        return f"{self.fps:g} per second, {len(self.clips)} clips"

    @cached_property
    def fingerprint(self) -> str:
        """64 hexadecimal digits that change with the clips, their sentences, the rate, names and sizes of files."""
        digest = hashlib.sha256(f"{_FORMAT}/{self.fps!r}".encode())
        sizes: dict[str, int] = {}  # many clips are of one file
        for episode, clip in enumerate(self.clips):
            source = str(clip.source)
            if source not in sizes:
                sizes[source] = _state(clip.source)[0]
            digest.update(self.episode_fingerprint(episode, sizes[source]).encode())
        return digest.hexdigest()

    def episode_fingerprint(self, episode: int, size: int | None = None) -> str:
        """The same of one clip; `size` of its file, where it is known."""
        clip = self.clips[self._checked(episode)]
        size = _state(clip.source)[0] if size is None else size
        what = (clip.name, clip.text, clip.start, clip.end, clip.rate, size)
        return hashlib.sha256(json.dumps(what).encode()).hexdigest()

    def camera_key(self, camera: str) -> str:
        """The feature of a camera. There is one.

        Raises:
            InputError: Another camera than `video`.
        """
        if camera not in (CAMERA, _KEY):
            raise InputError(f"{self.root} is video: its camera is called {CAMERA!r}, there is no {camera!r}")
        return _KEY

    def all_files(self) -> list[Path]:
        """The files of all clips, each once."""
        sources = dict.fromkeys(clip.source for clip in self.clips if isinstance(clip.source, Path))
        return [file for path in sources for file in (picture_files(path) if path.is_dir() else [path])]

    def iterate(self, episode: int, first: int = 0, count: int | None = None) -> Iterator[np.ndarray]:
        """Frames of a clip one by one, uint8 (H, W, 3): all, or `count` of them from `first` on."""
        clip, length = self.clips[self._checked(episode)], int(self.episodes.length[episode])
        count = length - first if count is None else count
        if first < 0 or count < 1 or first + count > length:
            raise InputError(f"frames {first} to {first + count - 1} asked of episode {episode}, which has {length}")
        times = clip_times(clip.start, clip.end, self.fps)[first : first + count]
        facts = self._facts[str(clip.source)]
        try:
            yield from self._reader.iterate(clip.source, times, facts, clip.rate)
        except InputError as error:
            raise InputError(f"{self.root}, episode {episode} ({clip.name}), {_KEY}: {error}") from error

    def frames(self, camera: str, episode: int, first: int = 0, count: int | None = None) -> np.ndarray:
        """Frames of a clip, uint8 (count, H, W, 3): all, or `count` of them from `first` on."""
        self.camera_key(camera)
        images = list(self.iterate(episode, first, count))
        if len({image.shape for image in images}) > 1:
            raise InputError(f"{self.clips[episode].source}: its pictures differ in size")
        return np.stack(images)

    def episode(self, index: int, images: bool = True) -> dict:
        """One clip: its frames unless told otherwise, the index columns (T,), and `task`, its sentence."""
        index = self._checked(index)
        length, task = int(self.episodes.length[index]), self.episodes.task[index]
        steps = np.arange(length)
        output = {_KEY: self.frames(CAMERA, index)} if images else {}
        return output | {
            "timestamp": (steps / self.fps).astype(np.float32),
            "frame_index": steps,
            "episode_index": np.full(length, index),
            "index": int(self.episodes.start[index]) + steps,
            "task_index": np.full(length, self._task_index[task]),
            "task": task,
        }

    def columns(self, names: list[str]) -> dict[str, np.ndarray]:
        """There are none.

        Raises:
            InputError: A name was given.
        """
        if names:
            raise InputError(f"{self.root} is video and has no feature {names}")
        return {}

    def facts(self, episode: int) -> VideoFacts:
        """Of the file that a clip is of."""
        return self._facts[str(self.clips[self._checked(episode)].source)]

    def _cut(self, clip: Clip, clip_seconds: float | None) -> tuple[list[Clip], str | None]:
        """(the clip within its file, in pieces if asked for; or why that cannot be)."""
        seconds = self._facts[str(clip.source)].seconds
        start, end = max(clip.start, 0.0), seconds if clip.end is None else min(clip.end, seconds)
        # Half a frame too much is rounding; a clip that begins after its file's end is a mistake.
        if start >= seconds or end <= start:
            return [], f"{clip.source}: clip {clip.name} is {start:g} to {end:g} s of a video of {seconds:g} s"
        pieces = 1 if clip_seconds is None else max(1, int(np.ceil((end - start) / clip_seconds - 1e-3)))
        cuts = (
            np.linspace(start, end, pieces + 1) if clip_seconds is None else start + clip_seconds * np.arange(pieces)
        )
        ends = [*cuts[1:pieces].tolist(), end]
        return [
            Clip(
                clip.source, clip.text, clip.name if pieces == 1 else f"{clip.name}#{n}", float(a), float(b), clip.rate
            )
            for n, (a, b) in enumerate(zip(cuts[:pieces].tolist(), ends))
        ], None

    def _checked(self, episode: int) -> int:
        if not 0 <= episode < self.num_episodes:
            raise InputError(f"episode {episode} asked of {self.root}, which has 0 to {self.num_episodes - 1}")
        return int(episode)


# -- what the files are ----------------------------------------------------------------------------------------------


def _state(source: Source) -> tuple[int, int]:
    """(size, time of the last change) of a file; of a folder, sizes of its pictures together."""
    if not isinstance(source, Path):
        return source.size(), 0
    try:
        about = source.stat()
        size = sum(path.stat().st_size for path in picture_files(source)) if source.is_dir() else about.st_size
    except OSError:
        raise InputError(f"video {source} is missing") from None
    return size, about.st_mtime_ns


def _facts_of(clips: Sequence[Clip], cache: Path, progress: bool) -> tuple[dict[str, VideoFacts], dict[str, str]]:
    """(facts by source, reasons of those that cannot be read), in the order of the clips.

    Lengths of a hundred thousand files take minutes to find, so they are remembered beside the data.
    """
    memory_file = cache / f"videos-{_FORMAT}.json"
    try:
        memory = json.loads(memory_file.read_text())
    except (OSError, ValueError):
        memory = {}
    memory = memory if isinstance(memory, dict) else {}
    sources = {str(clip.source): clip for clip in clips}
    states: dict[str, list] = {}

    def look(item: tuple[str, Clip]) -> VideoFacts | str:
        name, clip = item
        try:
            states[name] = [*_state(clip.source), clip.rate]
            known = memory.get(name)
            if known and known[0] == states[name]:
                return VideoFacts(*known[1])
            return probe_video(clip.source, clip.rate)
        except InputError as error:
            return str(error)

    # Threads: reading and decoding leave Python's lock free.
    with ThreadPoolExecutor(min(cores(), 16)) as pool:
        results = pool.map(look, sources.items())
        new = [name for name in sources if name not in memory]
        hide = None if progress and len(new) > 20 else True
        found = dict(zip(sources, tqdm(results, total=len(sources), unit="video", desc="looking", disable=hide)))
    facts = {name: value for name, value in found.items() if isinstance(value, VideoFacts)}
    remembered = {name: [states[name], list(astuple(value))] for name, value in facts.items()}
    if any(memory.get(name) != value for name, value in remembered.items()):
        try:
            atomic_write_text(memory_file, json.dumps(memory | remembered))
        except OSError:
            pass  # a read-only disk: looked at again next time
    return facts, {name: value for name, value in found.items() if isinstance(value, str)}
