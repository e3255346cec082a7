"""A folder of videos, or a list of them, as a dataset without actions.

    clips/                      captions.jsonl (or .csv, .parquet; or metadata.*), if there are captions:
      captions.jsonl              {"file": "a.mp4", "text": "pour the tea"}
      a.mp4                       {"file": "walk", "text": "open the door", "start": 2.5, "end": 6, "fps": 10}
      walk/000001.jpg ...       a folder of pictures is a video, too

A captions file names the clips, and what it does not name is left out; without one, every video is a clip. The
captions file can be given in the place of its folder, and a folder may hold several (`train.csv`, `test.csv`).
"""

import os
from pathlib import Path

from ..errors import InputError
from .captions import LIST_SUFFIXES, Caption, is_caption_row, read_captions, read_json
from .timed_video import PICTURE_SUFFIXES, VIDEO_SUFFIXES, natural_key
from .video_dataset import Clip, VideoDataset


CAPTION_FILES = (
    "captions.jsonl", "captions.json", "captions.csv", "captions.parquet",
    "metadata.jsonl", "metadata.csv", "metadata.parquet",  # as `datasets` calls them
)  # fmt: skip
DEFAULT_TEXT = "a video"
# Folders of robot datasets hold pictures, too, and are not to be taken for folders of videos.
_OTHERS = ("meta", "data", "videos", ".partial", ".staging")


def is_video_folder(root: str | os.PathLike) -> bool:
    """Whether this is a folder with videos or captions, or a list of videos."""
    root = Path(root).expanduser()
    if root.is_file():
        if root.suffix.lower() == ".json":
            try:
                rows = read_json(root)
            except InputError:
                return False
            return isinstance(rows, list) and bool(rows) and is_caption_row(rows[0])
        return root.suffix.lower() in LIST_SUFFIXES
    if not root.is_dir() or (root / "meta" / "info.json").exists():
        return False
    if caption_file(root) is not None:
        return True
    if any((root / name).exists() for name in _OTHERS):
        return False
    return next(_videos_below(root), None) is not None or any(_is_frame_folder(path) for path in root.iterdir())


def caption_file(folder: Path) -> Path | None:
    """The captions of a folder: captions.* or metadata.*."""
    return next((folder / name for name in CAPTION_FILES if (folder / name).is_file()), None)


def open_video_folder(
    root: str | os.PathLike,
    fps: float | None = None,
    text: str = DEFAULT_TEXT,
    picture_rate: float | None = None,
    clip_seconds: float | None = None,
    progress: bool = True,
    skip_bad: bool = False,
) -> VideoDataset:
    """A folder or list of videos.

    Args:
        root: The folder, or the list: a captions file, or a .txt of paths; paths are relative to it.
        fps: Frames per second; the most common rate of the files if not given.
        text: The sentence of clips that have none.
        picture_rate: Pictures per second of folders of pictures whose row does not say.
        clip_seconds, progress, skip_bad: See `VideoDataset`.

    Raises:
        InputError: No videos; a row whose file is not there; files that cannot be read.
    """
    root = Path(root).expanduser()
    listing = root if root.is_file() else caption_file(root) if root.is_dir() else None
    folder = root if root.is_dir() else root.parent
    missing: list[dict] = []
    if listing is not None:
        clips = _clips_of_list(listing, folder, text, picture_rate, missing)
    elif root.is_dir():
        clips = _clips_of_folder(root, text, picture_rate)
    else:
        raise InputError(f"{root} is neither a folder of videos nor a list of them")
    if missing and (not skip_bad or not clips):
        total = len(missing) + len(clips)
        raise InputError(f"{missing[0]['reason']} ({len(missing)} of {total} files of {listing} are missing)")
    if not clips:
        raise InputError(
            f"{root} holds no videos ({', '.join(VIDEO_SUFFIXES)}), no folders of pictures and no captions "
            f"({', '.join(CAPTION_FILES[:4])})"
        )
    dataset = VideoDataset(root, clips, fps, clip_seconds, folder, progress, skip_bad)
    dataset.skipped[:0] = missing
    return dataset


def _clips_of_list(listing: Path, folder: Path, text: str, rate: float | None, missing: list[dict]) -> list[Clip]:
    stems: dict[str, Path] | None = None
    clips, seen = [], {}
    for caption in read_captions(listing):
        path = folder / caption.file
        if not path.exists():
            if stems is None:  # rows that leave out the suffix, or name an id
                stems = {video.stem: video for video in _videos_below(folder)}
            path = stems.get(caption.file, path)
        if not path.exists():
            missing.append({"clip": caption.file, "reason": f"{caption.where}: {path} is missing"})
            continue
        clips.append(_clip(caption, path, text, rate, seen))
    return clips


def _clip(caption: Caption, path: Path, text: str, rate: float | None, seen: dict[str, int]) -> Clip:
    number = seen[caption.file] = seen.get(caption.file, -1) + 1
    return Clip(
        source=path,
        text=caption.text or text,
        name=caption.file if number == 0 else f"{caption.file}@{number}",
        start=caption.start or 0.0,
        end=caption.end,
        rate=(caption.fps or rate) if path.is_dir() else None,
    )


def _clips_of_folder(root: Path, text: str, rate: float | None) -> list[Clip]:
    sources = [*_videos_below(root), *_frame_folders_below(root)]
    named = {path.relative_to(root).as_posix(): path for path in sources}
    return [
        Clip(named[name], text, name, rate=rate if named[name].is_dir() else None)
        for name in sorted(named, key=natural_key)
    ]


def _videos_below(root: Path):
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name[0] != ".")
        for name in sorted(names):
            if name[0] != "." and name.lower().endswith(VIDEO_SUFFIXES):
                yield Path(folder) / name


def _frame_folders_below(root: Path):
    for folder, folders, _ in os.walk(root):
        folders[:] = sorted(name for name in folders if name[0] != ".")
        if Path(folder) != root and _is_frame_folder(Path(folder)):
            yield Path(folder)


def _is_frame_folder(path: Path) -> bool:
    """A folder of pictures and nothing else."""
    if not path.is_dir():
        return False
    names = [name for name in os.listdir(path) if name[0] != "."]
    return bool(names) and all(name.lower().endswith(PICTURE_SUFFIXES) for name in names)
