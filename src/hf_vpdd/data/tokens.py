"""Video codes of every frame, made once by a tokenizer and memory-mapped, so that training never decodes or encodes.

The code of frame k stands for the clip of frames k-T+1 ... k of its episode, black images before the start (VPDD
§4.1). The codes carry the fingerprints of the tokenizer and of the frames; codes of others are refused, since wrong
codes look just like right ones. They are written in shards (`token_shards`), by one process or by several.

Frames come from the store's cache, or straight from the videos where the store has none
(`FrameStore.build(..., decode=False)`): then each is decoded, encoded and dropped.
"""

import hashlib
import json
import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ..errors import InputError
from ..files import atomic_path
from .frame_rows import FrameRows
from .frame_store import FrameStore
from .token_shards import (
    FORMAT,
    IDENTITY,
    INDEX,
    SHARD_SIZE,
    TokenIndex,
    finish,
    open_codes,
    read_index,
    require_identity,
    shard_problem,
    verify_codes,
)
from .video_frames import VideoFrames


@dataclass(frozen=True)
class Share:
    """Which of several processes this is: number `number` of `of`. `wait` returns when all have called it."""

    number: int = 0
    of: int = 1
    wait: Callable[[], Any] = lambda: None


def tokenize(
    store: FrameStore,
    encode: Callable[[np.ndarray], np.ndarray],
    latent_shape: Sequence[int],
    fingerprint: str,
    cache_dir: str | os.PathLike | None = None,
    *,
    clip_frames: int = 1,
    codebook_size: int = 65536,
    batch_size: int = 64,
    shard_size: int | None = None,
    dtype: str = "float32",
    verify: bool = False,
    share: Share = Share(),
    progress: bool = True,
) -> FrameRows:
    """Codes of all frames of a store, from the folder where they are there, made where they are not.

    Killed half-way, the next call with the same arguments goes on after the last whole shard.

    Args:
        store: N frames of one camera.
        encode: uint8 (b, T, S, S, 3) -> integers (b, t, h, w), array or CPU tensor, each code below `codebook_size`.
        latent_shape: (t, h, w).
        fingerprint: Of the tokenizer (a hash of its weights and configuration); any string.
        cache_dir: The folder that holds these codes and nothing else; by default one beside the frames' cache, named
            by the fingerprints.
        clip_frames: T.
        codebook_size: At most 65536.
        batch_size: Clips encoded at a time.
        shard_size: Frames of a shard; 8192, or what the folder was begun with.
        dtype: What the tokenizer computes in, noted in the index.
        verify: Read codes that are there already once more and make the shards anew that are not as they were.
        share: Which of several processes this is; each makes its share of the shards, all return all codes.
        progress: Show a bar.

    Returns:
        uint16 (N, t, h, w), memory-mapped, read only.

    Raises:
        InputError: `cache_dir` holds codes of another tokenizer, other frames, another T, latent shape or codebook, or
            was begun with another shard size or dtype; or `encode` gives another shape than promised, or codes beyond
            the codebook.
    """
    index = TokenIndex(
        dataset=Path(store.name).name, camera=store.camera, image_size=store.image_size, fps=float(store.fps),
        dtype=dtype, shard_size=shard_size or SHARD_SIZE, **identity_of(store, latent_shape, fingerprint,
        clip_frames, codebook_size),
    )  # fmt: skip
    if index.shard_size < 1 or batch_size < 1 or not 1 <= codebook_size <= 65536:
        raise InputError(
            f"shard_size {shard_size} and batch_size {batch_size} must be at least 1, codebook_size {codebook_size} 1 "
            "to 65536"
        )
    place = Path(cache_dir) if cache_dir is not None else default_place(store, index)
    with ExitStack() as stack:
        if share.number == 0 and (verify or not _is_complete(place, index)):
            _prepare(place, index, shard_size, verify, stack)
        share.wait()  # all go by what the first one has found
        index = read_index(place)
        missing = [] if index.complete else _missing(place, index)
        share.wait()
        if not index.complete:
            _make_shards(place, index, missing[share.number :: share.of], store, encode, batch_size, share, progress)
            share.wait()
            if share.number == 0:
                finish(place, index)
            share.wait()
    return open_codes(place, {name: getattr(index, name) for name in ("tokenizer", "frames")})


def identity_of(
    store: FrameStore, latent_shape: Sequence[int], fingerprint: str, clip_frames: int, codebook_size: int
) -> dict[str, Any]:
    """What codes of a store's frames by a tokenizer must agree in: `token_shards.IDENTITY`."""
    return {
        "tokenizer": str(fingerprint), "frames": store.fingerprint, "clip_frames": int(clip_frames),
        "latent_shape": [int(n) for n in latent_shape], "num_frames": store.num_frames,
        "codebook_size": int(codebook_size),
    }  # fmt: skip


def default_place(store: FrameStore, index: TokenIndex) -> Path:
    """Beside the frames' cache, named by the fingerprints."""
    wanted = identity_of(store, index.latent_shape, index.tokenizer, index.clip_frames, index.codebook_size)
    name = hashlib.sha256(json.dumps([FORMAT, wanted], sort_keys=True).encode()).hexdigest()[:16]
    return store.cache_dir / f"codes-{name}"


# -- a folder that is begun, gone on with, repaired ------------------------------------------------------------------


def _is_complete(place: Path, wanted: TokenIndex) -> bool:
    if not (place / INDEX).is_file():
        return False
    found = read_index(place)
    require_identity(place, found, {name: getattr(wanted, name) for name in IDENTITY})
    return found.complete


def _prepare(place: Path, index: TokenIndex, shard_size: int | None, verify: bool, stack: ExitStack) -> None:
    """Leaves a folder whose index is complete, or not complete with whole shards only; locked till the stack ends."""
    from huggingface_hub.utils import WeakFileLock

    try:
        place.mkdir(parents=True, exist_ok=True)
        # Another run that makes the same codes: this one waits for it, and then has nothing left to do.
        stack.enter_context(WeakFileLock(place / ".lock"))
    except OSError as error:
        raise InputError(f"video codes cannot be written to {place} ({error}); choose another folder") from error
    if (place / INDEX).is_file():
        _is_complete(place, index)
        found = read_index(place)
        if found.complete and not verify:
            return
        for name, value in {"shard_size": shard_size, "dtype": index.dtype}.items():
            if value is not None and getattr(found, name) != value and not found.complete:
                raise InputError(
                    f"the video codes in {place} were begun with {name} {getattr(found, name)!r}, not {value!r}: go "
                    f"on with that, or remove the folder"
                )
        if found.complete:
            bad = [number for number, _ in verify_codes(place)]
            if not bad:
                return
            for number in bad:
                (place / found.file(number)).unlink(missing_ok=True)
        index.shard_size, index.dtype = found.shard_size, found.dtype
    elif any(not path.name.startswith(".") for path in place.iterdir()):
        raise InputError(f"{place} holds other files and no {INDEX}; video codes need a folder of their own")
    for leftover in place.glob(".codes-*.tmp.npy"):  # of a run that was killed
        leftover.unlink(missing_ok=True)
    for number in range(index.num_shards):
        if shard_problem(place, index, number):
            (place / index.file(number)).unlink(missing_ok=True)
    index.write(place)


def _missing(place: Path, index: TokenIndex) -> list[int]:
    return [number for number in range(index.num_shards) if not (place / index.file(number)).is_file()]


def _make_shards(place, index, shards, store, encode, batch_size, share: Share, progress: bool) -> None:
    hide = None if progress and share.number == 0 else True
    name = "tokenizing" if share.of == 1 else f"tokenizing (1 of {share.of} processes)"
    total = sum(index.shape(number)[0] for number in shards)
    with tqdm(total=total, unit="frame", desc=name, disable=hide) as bar:
        for number in shards:
            first, end = index.rows(number)
            codes, done = np.empty(index.shape(number), np.uint16), 0
            for clips in _ahead(clips_of_rows(store, first, end, index.clip_frames, batch_size)):
                codes[done : done + len(clips)] = _checked(encode(clips), len(clips), index)
                done += len(clips)
                bar.update(len(clips))
            with atomic_path(place / index.file(number)) as temporary:
                np.save(temporary, codes)


def _checked(new: Any, number: int, index: TokenIndex) -> np.ndarray:
    new, shape = np.asarray(new), (number, *index.latent_shape)
    if new.shape != shape or new.dtype.kind not in "iu":
        raise InputError(
            f"the tokenizer gave {new.dtype} {new.shape} for {number} clips; promised were integers {shape}"
        )
    if new.min() < 0 or new.max() >= index.codebook_size:
        raise InputError(
            f"the tokenizer gave codes {new.min()} to {new.max()}; its codebook has {index.codebook_size}, codes are "
            "stored as uint16"
        )
    return new


# -- clips, in order -------------------------------------------------------------------------------------------------


def clips_of_rows(store: FrameStore, start: int, stop: int, length: int, batch_size: int) -> Iterator[np.ndarray]:
    """`store.clips` of frames `start` to `stop - 1`, uint8 (b, length, S, S, 3) with b up to `batch_size`; each frame
    is read once, and the videos of a store without a cache are decoded in one pass."""
    frame_episode, begin = store.frame_episode, max(start - length + 1, 0)
    reader = _read_rows(store.frames, begin, stop)
    window = _take(reader, start - begin, store)
    for first in range(start, stop, batch_size):
        last = min(first + batch_size, stop)
        origin = first - len(window)
        window = np.concatenate([window, _take(reader, last - first, store)])
        wanted = np.arange(first, last)[:, None] + np.arange(1 - length, 1)
        begins = store.episode_from[frame_episode[first:last]][:, None]
        clips = window[np.maximum(wanted, begins) - origin]
        if length > 1:
            clips[wanted < begins] = 0
        yield clips
        window = window[max(0, len(window) - (length - 1)) :] if length > 1 else window[:0]


def _read_rows(frames: FrameRows, start: int, stop: int) -> Iterator[np.ndarray]:
    parts = frames.parts
    if len(parts) == 1 and frames.rows is None and isinstance(parts[0], VideoFrames):
        yield from parts[0].iterate(start, stop)
        return
    for first in range(start, stop, 256):
        yield from frames[first : min(first + 256, stop)]


def _take(reader: Iterator[np.ndarray], number: int, store: FrameStore) -> np.ndarray:
    size = store.image_size
    frames = np.empty((number, size, size, 3), np.uint8)
    for spot, frame in enumerate(islice(reader, number)):
        frames[spot] = frame
    return frames


def _ahead(items: Iterator[Any]) -> Iterator[Any]:
    """The same items; the next ones are made in a thread while one is worked on (decoding leaves Python's lock
    free)."""
    ready: queue.Queue = queue.Queue(maxsize=2)
    stopped = threading.Event()

    def put(item: tuple) -> None:
        while not stopped.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for item in items:
                put((item, None))
                if stopped.is_set():
                    return
            put((None, StopIteration()))
        except BaseException as error:  # raised where the items are used
            put((None, error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item
    finally:
        stopped.set()
        thread.join()
