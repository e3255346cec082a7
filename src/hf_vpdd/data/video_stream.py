"""Windows of videos out of streams that are too large to hold, mixed by weights, the same in every run.

    from datasets import load_dataset
    rows = load_dataset("user/videos", split="train", streaming=True).shuffle(seed=0, buffer_size=1000)
    stream = VideoStream(rows, fps=3, frames=4, image_size=96, seed=0, rank=rank, world_size=world_size)
    mixture = StreamMixture([stream, other], weights=[3, 1], seed=0)
    loader = DataLoader(mixture.resume(batches=1200, batch_size=32), batch_size=32, num_workers=4)

Which window is the n-th of a consumer (a worker of a process) is a function of the seed, the number of consumers and n
alone. So there is no state to save: `resume` says how many batches each process has had, and what these held is passed
over without being decoded.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from ..errors import InputError
from .frame_store import fit_square
from .timed_video import TimedReader, clip_times, probe_video
from .video_folder import DEFAULT_TEXT
from .video_rows import open_cell, undecoded


class _Stream(IterableDataset):
    """What streams and mixtures share: their part of the work, and where they begin."""

    batches, batch_size = 0, 1

    def resume(self, batches: int, batch_size: int) -> "_Stream":
        """A copy that begins after so many batches of this process.

        Exact as long as the workers take turns: always in streams without an end, and in others until the first
        worker has no more (whose files are of very different length, that is before the end).

        Args:
            batches: How many the DataLoader of this process has given; with workers, they took turns.
            batch_size: Of that DataLoader, and of the next one.
        """
        if batches < 0 or batch_size < 1:
            raise InputError(f"resume needs batches of 0 or more and a batch_size above 0: {batches}, {batch_size}")
        other = copy.copy(self)
        other.batches, other.batch_size = batches, batch_size
        return other

    def __iter__(self) -> Iterator[dict[str, Any]]:
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        # Workers take turns, and after `batches` of them it is the turn of number `batches % workers`, but a new
        # DataLoader begins with its worker 0: it takes that one's part.
        part = (worker + self.batches) % workers
        had = (self.batches - part + workers - 1) // workers
        yield from self.windows(part, workers, had * self.batch_size)

    def windows(self, worker: int, workers: int, skip: int) -> Iterator[dict[str, Any]]:
        raise NotImplementedError


class VideoStream(_Stream):
    """Windows of the videos of a stream, endless or once through.

    Yields {"pixel_values": uint8 (T, S, S, 3), "task": str}.

    Args:
        rows: A `datasets.IterableDataset` (or `Dataset`) with a Video column; or a function that gives an iterator
            over dicts {"video": {"bytes", "path"} or a path, "text"} anew.
        fps: Frames per second of the windows.
        frames: T, pictures a window.
        image_size: S; the shorter side is resized to it, the middle cut out.
        windows_per_video: Windows drawn from each video in a row, at random places; a video shorter than a window
            shows its last picture on.
        video, text: Columns; found by type and name if not given.
        seed: Of the places of windows.
        rank, world_size: Which process of how many this is; rows go round the processes and their workers.
        epochs: Times through the rows; None: without end.
        skip_bad: Leave out videos that cannot be read (each gives no windows, and is counted in `skipped` of the
            worker's copy) instead of stopping.

    Raises:
        InputError: Sizes below 1; no such columns; while iterating: a broken video.
    """

    def __init__(
        self,
        rows: Any,
        fps: float,
        frames: int,
        image_size: int,
        windows_per_video: int = 1,
        video: str | None = None,
        text: str | None = None,
        default_text: str = DEFAULT_TEXT,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        epochs: int | None = 1,
        skip_bad: bool = False,
    ):
        sizes = {"fps": fps, "frames": frames, "image_size": image_size, "windows_per_video": windows_per_video}
        for name, value in {**sizes, "epochs": 1 if epochs is None else epochs}.items():
            if not value > 0:
                raise InputError(f"{name} must be above 0, got {value}")
        if not 0 <= rank < world_size:
            raise InputError(f"rank must be 0 to world_size - 1, got {rank} of {world_size}")
        if callable(rows):
            self.video, self.text = video or "video", text or "text"
        else:
            rows, self.video, self.text = undecoded(rows, video, text)
        self.rows: Iterable | Callable[[], Iterable] = rows
        self.fps, self.frames, self.image_size, self.windows_per_video = fps, frames, image_size, windows_per_video
        self.default_text, self.seed, self.rank, self.world_size = default_text, seed, rank, world_size
        self.epochs, self.skip_bad = epochs, skip_bad
        self.skipped: list[str] = []

    def windows(self, worker: int, workers: int, skip: int) -> Iterator[dict[str, Any]]:
        """The windows of one worker of this process, but for the first `skip` of them."""
        consumer, consumers = self.rank * workers + worker, self.world_size * workers
        epoch = 0
        while self.epochs is None or epoch < self.epochs:
            number = -1
            for number, row in enumerate(self._rows(epoch, consumer, consumers)):
                # With skip_bad a broken video has no windows, so how many there were is only known by looking.
                if skip >= self.windows_per_video and not self.skip_bad:
                    skip -= self.windows_per_video
                    continue
                try:
                    several = self._cut(row, [self.seed, epoch, consumer, number])
                except InputError as error:
                    if not self.skip_bad:
                        raise
                    self.skipped.append(str(error))
                    continue
                dropped = min(skip, len(several))
                skip -= dropped
                yield from several[dropped:]
            if number < 0:  # an endless stream would turn round for ever
                raise InputError(
                    f"the stream of videos has none for worker {worker} of {workers} in process {self.rank} of "
                    f"{self.world_size}: it is empty, or has fewer videos than there are workers; use fewer"
                )
            epoch += 1

    def _rows(self, epoch: int, consumer: int, consumers: int) -> Iterator[dict]:
        """The rows of one consumer: whole files of the stream where they divide evenly, else every so manieth row."""
        rows = self.rows
        if callable(rows):
            return islice(iter(rows()), consumer, None, consumers)
        if not isinstance(rows, _streaming_class()):
            return (rows[number] for number in range(consumer, len(rows), consumers))
        rows.set_epoch(epoch)
        if rows.num_shards % consumers == 0:
            rows, consumer, consumers = rows.shard(consumers, consumer), 0, 1
        # Not `iter(rows)`: in a worker of a DataLoader that would leave out the files of other workers once more.
        single = ({key: value[0] for key, value in batch.items()} for batch in rows.iter(batch_size=1))
        return islice(single, consumer, None, consumers)

    def _cut(self, row: dict, place_in_run: list[int]) -> list[dict[str, Any]]:
        _, epoch, consumer, number = place_in_run
        name = f"row {number} of consumer {consumer}, epoch {epoch} of the stream"
        cell = row.get(self.video)
        source = Path(cell) if isinstance(cell, str) else _Cell(cell, name)
        facts = probe_video(source)
        length = self.frames / self.fps
        random = np.random.default_rng(place_in_run)
        starts = random.uniform(0, max(facts.seconds - length, 0), self.windows_per_video)
        reader = TimedReader()
        windows = [None] * len(starts)
        try:
            for place in np.argsort(starts, kind="stable").tolist():
                times = np.minimum(clip_times(starts[place], starts[place] + length, self.fps), facts.seconds - 1e-3)
                images = reader.iterate(source, times[: self.frames], facts)
                windows[place] = np.stack([fit_square(image, self.image_size) for image in images])
        finally:
            reader.close()
        text = row.get(self.text) if self.text else None
        text = text if isinstance(text, str) and text else self.default_text
        return [{"pixel_values": torch.from_numpy(window), "task": text} for window in windows]


class StreamMixture(_Stream):
    """Endless streams mixed: each window is drawn from one of them by its weight, by the seed alone.

    Args:
        streams: `VideoStream`s (or mixtures) with `epochs=None`. weights: share of each, in any unit.
        seed: Of the draws; every consumer draws its own.
        rank: Which process this is.

    Raises:
        InputError: Weights that do not fit; a stream that ends.
    """

    def __init__(self, streams: Sequence[_Stream], weights: Sequence[float], seed: int = 0, rank: int = 0):
        if len(streams) != len(weights) or not streams:
            raise InputError(f"{len(weights)} weights for {len(streams)} streams")
        if min(weights) < 0 or not sum(weights) > 0:
            raise InputError(f"weights must be 0 or more, and one above 0; got {list(weights)}")
        if any(getattr(stream, "epochs", None) is not None for stream in streams):
            raise InputError("a mixture is made of endless streams: give them epochs=None")
        self.streams, self.seed, self.rank = list(streams), seed, rank
        self._ends = np.cumsum(np.asarray(weights, np.float64)) / np.sum(weights)

    def windows(self, worker: int, workers: int, skip: int) -> Iterator[dict[str, Any]]:
        """The windows of one worker of this process, but for the first `skip` of them."""
        random = np.random.default_rng([self.seed, self.rank, worker])
        had = np.bincount(self._draw(random.random(skip)), minlength=len(self.streams)) if skip else None
        parts = [
            stream.windows(worker, workers, 0 if had is None else int(had[number]))
            for number, stream in enumerate(self.streams)
        ]
        while True:
            for number in self._draw(random.random(1)):
                yield next(parts[number])

    def _draw(self, uniform: np.ndarray) -> np.ndarray:
        return np.minimum(np.searchsorted(self._ends, uniform, side="right"), len(self._ends) - 1)


class _Cell:
    """See `timed_video.StoredVideo`."""

    def __init__(self, cell: Any, name: str):
        self.cell, self.name = cell, name

    def __str__(self) -> str:
        return self.name

    def open(self):
        return open_cell(self.cell, self.name)


def _streaming_class() -> type:
    from datasets import IterableDataset as Streaming

    return Streaming
