"""All frames of one camera, decoded once into a memory-mapped array; what training reads instead of video files.

    store = FrameStore.build("recordings/mt10", camera="corner2", image_size=96)
    store.frames[[5, 17]]            # uint8 (2, 96, 96, 3)
    few = store.per_task(5)          # the first 5 episodes of each task; shares the memory

The cache lies in `<dataset>/.cache/hf_vpdd` unless told otherwise, is named by the dataset's fingerprint, appears only
when complete, and takes N * S * S * 3 bytes (2.8 GB for 100,000 frames of 96 by 96).
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from ..errors import InputError
from ..files import atomic_path
from .formats import open_dataset
from .frame_numbers import read_numbers, remembered_numbers
from .frame_rows import FrameRows
from .lerobot import LeRobotDataset
from .video import iterate_numbered_frames


_FORMAT = 1  # raise when the files of the cache or the pixels in them change


@dataclass(frozen=True)
class FrameStore:
    """Frames, states and actions of E episodes, N frames, laid end to end.

    Through one camera, or through several (`join_views`): then `views` holds one store per camera, and `frames` and
    `camera` are those of the first. Or of one camera after the other (`flatten_views`), for networks that look at each
    picture by itself: then an episode occurs once per camera, and `episode_take` says which occurrences are one.

    Attributes:
        frames: uint8 RGB (N, S, S, 3).
        state, action: float32 (N, Ds) and (N, A) in the robot's units, or None when the dataset has none.
        keyframe: bool (N,), the moments that a keyframe policy is trained to name: the dataset's feature `keyframe`;
            or found by PerAct's rule where it has `observation.joint_velocities` (rad/s) and an action whose last
            number is the gripper; else None.
        episode_from, episode_to: int64 (E,), first frame of each episode and the one after its last.
        episode_task: the instruction of each episode.
        fps, camera, image_size: as asked for and found.
        fingerprint: changes with the data, the camera, the size and the choice of episodes.
        name: the dataset's folder, for messages.
        cache_dir: where caches made from these frames go by default.
        rows: of a subset, int64 (N,) the rows of the store it was taken from, which has `rows_of` frames; else None.
        views: one store per camera, V >= 2 of them; else empty.
        pieces: of a joined store, what it was joined from, one after the other; else empty.
        episode_root: the dataset folder of each episode; None: all `name`.
        episode_take: int64 (E,), equal for occurrences of one episode; None: all differ.
    """

    frames: FrameRows
    state: np.ndarray | None
    action: np.ndarray | None
    episode_from: np.ndarray
    episode_to: np.ndarray
    episode_task: list[str]
    fps: float
    camera: str
    image_size: int
    fingerprint: str
    name: str
    cache_dir: Path
    rows: np.ndarray | None = None
    rows_of: int | None = None
    views: tuple["FrameStore", ...] = ()
    pieces: tuple["FrameStore", ...] = ()
    keyframe: np.ndarray | None = None
    episode_root: list[str] | None = None
    episode_take: np.ndarray | None = None

    @staticmethod
    def build(
        root: str | os.PathLike,
        camera: str = "corner2",
        image_size: int = 96,
        cache_dir: str | os.PathLike | None = None,
        progress: bool = True,
        fps: float | None = None,
        decode: bool = True,
        dataset: LeRobotDataset | None = None,
    ) -> "FrameStore":
        """Opens the cache of a dataset, decoding its videos first when there is none that fits.

        Args:
            root: What `open_dataset` takes: a LeRobot dataset, folder or Hub id; another robot dataset; videos.
            camera: Which camera, with or without `observation.images.`.
            image_size: Side S of the square frames. Frames of another size are resized (bilinear, antialiased) so
                that the shorter side is S, and cropped in the middle.
            cache_dir: Where caches lie; `<root>/.cache/hf_vpdd` by default.
            progress: Show a bar while decoding.
            fps: Frames per second that videos are cut into; their own rate if not given.
            decode: False: where there is no cache none is made; each frame is decoded when it is asked for
                (`video_frames`).
            dataset: What `root` is, if it was opened already.

        Raises:
            InputError: The dataset is missing, half-written or broken; no such camera; NaN in a state or an action.
        """
        if image_size < 1:
            raise InputError(f"image_size is {image_size}; it must be at least 1")
        dataset = dataset or open_dataset(root, progress, fps)
        key = dataset.camera_key(camera)
        whole = f"{dataset.fingerprint}/{key}/{image_size}/{_FORMAT}"
        fingerprint = hashlib.sha256(whole.encode()).hexdigest()
        cache_dir = Path(cache_dir) if cache_dir is not None else _cache_root(dataset) / ".cache" / "hf_vpdd"
        origin = f"{dataset.root.resolve()} {getattr(dataset, 'variant', '')}".strip()
        place = cache_dir / f"frames-{key.rsplit('.', 1)[-1]}-{image_size}-{fingerprint[:16]}"
        there = (place / "store.json").is_file()
        if not there and not decode:
            from .video_frames import VideoFrames, build_options

            arrays = remembered_numbers(dataset, cache_dir)
            options = build_options(root, camera, image_size, cache_dir, progress, fps)
            frames = VideoFrames(dataset, key, image_size, options)
        elif not there:
            arrays = read_numbers(dataset)
            _check_room(cache_dir, dataset.num_frames * image_size**2 * 3)
            try:
                with atomic_path(place) as temporary:
                    temporary.mkdir(parents=True)
                    _decode_into(temporary / "frames.npy", dataset, key, image_size, progress)
                    np.savez(temporary / "numbers.npz", **arrays)
                    # Written last and looked for first.
                    about = {"fingerprint": fingerprint, "root": origin, "made": time.time()}
                    (temporary / "store.json").write_text(
                        json.dumps(about | {"camera": key, "image_size": image_size})
                    )
            except OSError:
                if not (place / "store.json").is_file():  # else another process was faster, and its result is as good
                    raise
            _remove_outdated(place, origin, key, image_size)
        if there or decode:
            with np.load(place / "numbers.npz") as numbers:
                arrays = dict(numbers)
            frames = np.load(place / "frames.npy", mmap_mode="r")
        return FrameStore(
            frames=FrameRows([frames]),
            state=arrays.get("state"),
            action=arrays.get("action"),
            episode_from=dataset.episodes.start,
            episode_to=dataset.episodes.start + dataset.episodes.length,
            episode_task=list(dataset.episodes.task),
            fps=dataset.fps,
            camera=key.rsplit(".", 1)[-1],
            image_size=image_size,
            fingerprint=fingerprint,
            name=str(dataset.root),
            cache_dir=cache_dir,
            keyframe=arrays.get("keyframe"),
        )

    @staticmethod
    def concat(stores: Sequence["FrameStore"], video_only: bool = False) -> "FrameStore":
        """Several stores as one, in order. Actions (and states) are kept only when every store has them.

        Args:
            video_only: What matters is the pictures: frame rates may differ, and states or actions of different sizes
                are dropped.

        Raises:
            InputError: Image sizes, frame rates, numbers of cameras, state or action sizes differ; no store given.
        """
        stores = list(stores)
        if not stores:
            raise InputError("FrameStore.concat needs at least one store")
        if len(stores) == 1:
            return stores[0]
        cameras = {store.name: store.cameras for store in stores}
        if len({len(store.cameras) for store in stores}) > 1:
            raise InputError(f"stores of different numbers of cameras cannot be joined: {cameras}")
        if stores[0].views:
            from .multiview import join_views

            views = zip(*(store.views for store in stores))
            return join_views([FrameStore.concat(view, video_only) for view in views])
        for what in ("image_size",) if video_only else ("image_size", "fps"):
            values = {store.name: getattr(store, what) for store in stores}
            if len({getattr(store, what) for store in stores}) > 1:
                raise InputError(f"stores of different {what} cannot be joined: {values}")
        joined = {"state": None, "action": None, "keyframe": None}
        for what in joined:
            arrays = [getattr(store, what) for store in stores]
            if any(array is None for array in arrays):
                continue
            if len({array.shape[1:] for array in arrays}) == 1:
                joined[what] = np.concatenate(arrays)
            elif not video_only:
                sizes = {store.name: array.shape[1] for store, array in zip(stores, arrays)}
                raise InputError(f"stores with {what}s of different sizes cannot be joined: {sizes}")
        offsets = np.cumsum([0, *(store.num_frames for store in stores)])
        takes = np.cumsum([0, *(int(store.takes.max()) + 1 for store in stores)])
        return replace(
            stores[0],
            **joined,
            frames=FrameRows.concat([store.frames for store in stores]),
            episode_from=np.concatenate([store.episode_from + o for store, o in zip(stores, offsets)]),
            episode_to=np.concatenate([store.episode_to + o for store, o in zip(stores, offsets)]),
            episode_task=[task for store in stores for task in store.episode_task],
            fingerprint=hashlib.sha256("+".join(store.fingerprint for store in stores).encode()).hexdigest(),
            name=" + ".join(dict.fromkeys(store.name for store in stores)),
            rows=None,
            rows_of=None,
            pieces=tuple(piece for store in stores for piece in store.pieces or (store,)),
            episode_root=[root for store in stores for root in store.roots],
            episode_take=np.concatenate([store.takes + o for store, o in zip(stores, takes)]),
        )

    # -- sizes and look-ups --------------------------------------------------------------------------------------

    @property
    def num_frames(self) -> int:
        return len(self.frames)

    @property
    def num_episodes(self) -> int:
        return len(self.episode_from)

    def __len__(self) -> int:
        return self.num_frames

    def __repr__(self) -> str:
        size = f"{self.num_episodes} episodes, {self.num_frames} frames"
        return f"FrameStore({self.name!r}, camera={self.camera!r}, {size})"

    @property
    def cameras(self) -> list[str]:
        """Names of the cameras, in the order of `views`."""
        return [view.camera for view in self.views] or [self.camera]

    @property
    def roots(self) -> list[str]:
        """The dataset folder of each episode."""
        return [self.name] * self.num_episodes if self.episode_root is None else self.episode_root

    @property
    def takes(self) -> np.ndarray:
        """int64 (E,): episodes with the same number are one episode, seen by different cameras."""
        return np.arange(self.num_episodes) if self.episode_take is None else self.episode_take

    @cached_property
    def view_frames(self) -> FrameRows:
        """uint8 (V * N, S, S, 3): all frames of the first camera, then all of the second, ..."""
        return FrameRows.concat([view.frames for view in self.views]) if self.views else self.frames

    @cached_property
    def tasks(self) -> list[str]:
        """The different instructions, in order of first appearance."""
        return list(dict.fromkeys(self.episode_task))

    @cached_property
    def frame_episode(self) -> np.ndarray:
        """int64 (N,): the episode of each frame."""
        return np.repeat(np.arange(self.num_episodes), self.episode_to - self.episode_from)

    @cached_property
    def frame_task(self) -> np.ndarray:
        """int64 (N,): the index into `tasks` of each frame."""
        index = {task: i for i, task in enumerate(self.tasks)}
        return np.array([index[task] for task in self.episode_task])[self.frame_episode]

    def clips(self, indices: np.ndarray, length: int, stride: int = 1) -> np.ndarray:
        """What the (first) camera has seen up to each frame: uint8 (B, length, S, S, 3), the frame itself last.

        Before the start of an episode there are black images, as a robot's history begins (VPDD §4.1).
        """
        return self._clips(self.frames, np.zeros(1, np.int64), indices, length, stride)[:, 0]

    def view_clips(self, indices: np.ndarray, length: int, stride: int = 1) -> np.ndarray:
        """The same of every camera: uint8 (B, V, length, S, S, 3), in one gather."""
        offsets = self.num_frames * np.arange(len(self.cameras))
        return self._clips(self.view_frames, offsets, indices, length, stride)

    def _clips(self, frames: FrameRows, offsets: np.ndarray, indices, length: int, stride: int) -> np.ndarray:
        indices = np.asarray(indices, np.int64)
        wanted = indices[:, None] - stride * np.arange(length - 1, -1, -1)
        first = self.episode_from[self.frame_episode[indices]][:, None]
        clips = frames[np.maximum(wanted, first)[:, None] + offsets[:, None]]
        if length > 1:
            black = np.broadcast_to((wanted < first)[:, None], clips.shape[:3])
            clips[black] = 0
        return clips

    # -- choosing episodes ---------------------------------------------------------------------------------------

    def subset(self, episodes: Sequence[int]) -> "FrameStore":
        """These episodes only, in the order of this store; frames are not copied.

        `frames`, `state`, `action` hold these episodes' rows and nothing else, so statistics taken from a subset
        cannot look at the rest. Video codes of this store serve the subset too (`WindowDataset` takes their rows).
        """
        episodes = np.sort(np.asarray(episodes, np.int64))
        if episodes.ndim != 1 or len(episodes) == 0:
            raise InputError(f"a subset of {self.name} needs a list of episode numbers, at least one")
        if episodes.min() < 0 or episodes.max() >= self.num_episodes:
            raise InputError(f"{self.name} has episodes 0 to {self.num_episodes - 1}; asked for {episodes.tolist()}")
        if len(np.unique(episodes)) != len(episodes):
            raise InputError(f"a subset of {self.name} names an episode twice: {episodes.tolist()}")
        if len(episodes) == self.num_episodes:
            return self
        length = (self.episode_to - self.episode_from)[episodes]
        to = np.cumsum(length)
        rows = np.repeat(self.episode_from[episodes] - (to - length), length) + np.arange(to[-1])
        chosen = hashlib.sha256(self.fingerprint.encode() + episodes.tobytes()).hexdigest()
        return replace(
            self,
            frames=self.frames.select(rows),
            state=None if self.state is None else self.state[rows],
            action=None if self.action is None else self.action[rows],
            keyframe=None if self.keyframe is None else self.keyframe[rows],
            episode_from=to - length,
            episode_to=to,
            episode_task=[self.episode_task[i] for i in episodes],
            fingerprint=chosen,
            rows=rows if self.rows is None else self.rows[rows],
            rows_of=self.num_frames if self.rows is None else self.rows_of,
            views=tuple(view.subset(episodes) for view in self.views),
            pieces=(),
            episode_root=None if self.episode_root is None else [self.episode_root[i] for i in episodes],
            episode_take=None if self.episode_take is None else self.episode_take[episodes],
        )

    def per_task(self, k: int, seed: int | None = None) -> "FrameStore":
        """k episodes of each task: the first ones, or with a seed drawn at random, the same for the same seed.

        Raises:
            InputError: A task has fewer than k episodes.
        """
        generator = None if seed is None else np.random.default_rng(seed)
        of_task: dict[str, list[int]] = {task: [] for task in self.tasks}
        for episode, task in enumerate(self.episode_task):
            of_task[task].append(episode)
        chosen = []
        for task, episodes in of_task.items():
            if k < 1 or len(episodes) < k:
                raise InputError(f"{self.name} has {len(episodes)} episodes of the task {task!r}; {k} were asked for")
            picked = episodes[:k] if generator is None else generator.choice(episodes, k, replace=False).tolist()
            chosen += picked
        return self.subset(chosen)


def _cache_root(dataset) -> Path:
    """Datasets that are one file or a list of videos have no folder of their own."""
    return getattr(dataset, "cache_root", dataset.root)


def _check_room(cache_dir: Path, num_bytes: int) -> None:
    """Says before minutes of decoding that the result cannot be stored."""
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(cache_dir).free
    except OSError as error:
        raise InputError(
            f"the frame cache cannot be written to {cache_dir} ({error}); choose another cache_dir"
        ) from error
    if free < num_bytes * 1.01:
        raise InputError(
            f"the frame cache needs {num_bytes / 1e9:.1f} GB in {cache_dir}, where {free / 1e9:.1f} GB are free; "
            "choose another cache_dir or a smaller image_size"
        )


def _decode_into(path: Path, dataset: LeRobotDataset, key: str, size: int, progress: bool) -> None:
    table = dataset.episodes
    frames = np.lib.format.open_memmap(path, "w+", np.uint8, (dataset.num_frames, size, size, 3))
    bar = tqdm(total=dataset.num_frames, unit="frame", desc=f"decoding {key}", disable=None if progress else True)
    with bar:
        if key not in table.video_files:  # an image feature: cells of the table
            for episode in range(dataset.num_episodes):
                # Videos come picture by picture: minutes of them would not fit into memory.
                images = dataset.iterate(episode) if hasattr(dataset, "iterate") else dataset.frames(key, episode)
                start = table.start[episode]
                for i, image in enumerate(images):
                    frames[start + i] = fit_square(image, size)
                bar.update(int(table.length[episode]))
        for number, video in enumerate(table.video_files.get(key, ())):
            # Where each frame of this file goes, -1 for frames of no episode.
            episodes = np.flatnonzero(table.video_file[key] == number)
            starts, lengths = table.video_start[key][episodes], table.length[episodes]
            target = np.full(int((starts + lengths).max()), -1)
            for first, length, to in zip(starts, lengths, table.start[episodes]):
                target[first : first + length] = np.arange(to, to + length)
            missing = target >= 0
            seen = 0
            for index, image in iterate_numbered_frames(video, dataset.fps):
                if index >= len(target) or target[index] < 0:
                    continue
                frames[target[index]] = fit_square(image, size)
                missing[index] = False
                seen += 1
                if seen % 500 == 0:
                    bar.update(500)
            bar.update(seen % 500)
            if missing.any():
                first = int(np.flatnonzero(missing)[0])
                episode = int(np.searchsorted(table.start, target[first], side="right")) - 1
                raise InputError(
                    f"{video} lacks {int(missing.sum())} frames, the first is frame "
                    f"{target[first] - table.start[episode]} of episode {episode}; the file is cut short: copy or "
                    "record the dataset again"
                )
    frames.flush()


def fit_square(image: np.ndarray, size: int) -> np.ndarray:
    """Resizes uint8 (H, W, 3) so that its shorter side is `size` (bilinear, antialiased) and crops the middle."""
    height, width = image.shape[:2]
    if (height, width) == (size, size):
        return image
    # The crop is taken before resizing: the same pixels, less work.
    side = min(height, width)
    left, top = (width - side) / 2, (height - side) / 2
    return np.asarray(
        Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR, (left, top, left + side, top + side))
    )


def _remove_outdated(place: Path, root: str, key: str, image_size: int) -> None:
    """Caches of an earlier state of the same dataset, camera and size: gigabytes that no one will ask for again."""
    for about_path in place.parent.glob(f"frames-*-{image_size}-*/store.json"):
        try:
            about = json.loads(about_path.read_text())
        except (OSError, json.JSONDecodeError):
            continue
        if about_path.parent != place and (about.get("root"), about.get("camera")) == (root, key):
            shutil.rmtree(about_path.parent, ignore_errors=True)
