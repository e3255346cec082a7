"""Ego4D as its client downloads it: videos or clips by their uid, and JSON files that say what happens when.

    ego4d/
      ego4d.json                                   which clip is which stretch of which video
      v2/annotations/narration.json                or all_narrations_redacted.json, fho_lta_train.json, ..._val.json
      v2/video_540ss/<video_uid>.mp4 ...           or full_scale/, or clips/<clip_uid>.mp4

A narration is a moment and a sentence ("#C C picks a knife"); its episode is the stretch of `clip_seconds` around
that moment, by default the 3 s of GR-1's pre-training. The long-term anticipation files (`fho_lta`) have stretches of
their own with a verb and a noun. What is narrated of videos that are not there is left out: few people download all.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from .captions import read_json
from .video_dataset import Clip, VideoDataset


NAMES = ("narration.json", "all_narrations_redacted.json", "fho_lta_train.json", "fho_lta_val.json")
_FOLDERS = ("", "annotations", "v2/annotations", "v1/annotations", "v2", "v1")
# "#C C picks a knife" (the one who wears the camera), "#O a man X talks" (another person), "#Summary", "#unsure".
_TAG = re.compile(r"^\s*#\s*(C\s+C\b|c\s+c\b|O\b|o\b|C\b|c\b|Summary|summary)[:,]?\s*")


@dataclass(frozen=True)
class _Stretch:
    uid: str  # of a video, or of a clip
    start: float
    end: float
    text: str
    where: str
    video: tuple[str, float] | None = None  # of a clip: (uid, where in the video its first picture is)


def find_annotations(root: str | os.PathLike) -> Path | None:
    """The annotation file that `root` is, or holds; narrations before actions."""
    root = Path(root).expanduser()
    if root.is_file():
        return root if root.name in NAMES else None
    return next((root / f / n for n in NAMES for f in _FOLDERS if (root / f / n).is_file()), None)


def is_ego4d(root: str | os.PathLike) -> bool:
    """Whether this is an Ego4D folder, or one of its annotation files."""
    return find_annotations(root) is not None


def narration_sentence(text: str) -> str:
    """ "#C C picks a #unsure with his hand" -> "picks a something with his hand"."""
    text = _TAG.sub("", text)
    text = re.sub(r"#\s*unsure\b", "something", text, flags=re.IGNORECASE)
    return re.sub(r"\s+", " ", text).strip(" .\n")


def open_ego4d(
    root: str | os.PathLike,
    annotations: str | None = None,
    fps: float | None = None,
    clip_seconds: float = 3.0,
    progress: bool = True,
    skip_bad: bool = False,
) -> VideoDataset:
    """Ego4D's narrated moments, or its annotated actions, as episodes.

    Args:
        root: The folder, or one of the annotation files `NAMES`.
        annotations: Which of `NAMES` of the folder; the first that is there if not given.
        fps: Frames per second; the files' own, mostly 30, if not given. GR-1 takes 3.
        clip_seconds: Around each narrated moment. Actions have their own length.
        progress: Show a bar. skip_bad: Leave out entries and videos that are broken, instead of refusing all.

    Returns:
        The dataset; `absent` counts entries whose video is not here, `annotations_file` is what was read.

    Raises:
        InputError: No annotations or videos; an entry that is not as documented; damaged videos.
    """
    root = Path(root).expanduser()
    if not 0 < clip_seconds < 1e5:
        raise InputError(f"clip_seconds must be above 0, got {clip_seconds}")
    if annotations is not None:
        if annotations not in NAMES:
            raise InputError(f"annotations is {annotations!r}; {', '.join(NAMES)} can be read")
        file = next((root / f / annotations for f in _FOLDERS if (root / f / annotations).is_file()), None)
    else:
        file = find_annotations(root)
    if file is None:
        raise InputError(f"{root} has no {annotations or ' or '.join(NAMES)}, neither there nor in v2/annotations")
    base = root if root.is_dir() else _base(file)
    videos = _videos(base)
    skipped: list[dict] = []
    if file.name.startswith("fho_lta"):
        stretches = _actions(file, skipped)
    else:
        stretches = _narrations(file, clip_seconds, skipped)
    if skipped and not skip_bad:
        raise InputError(f"{skipped[0]['reason']} ({len(skipped)} such entries; --skip-bad leaves them out)")
    spans = _clip_spans(base, file)
    clips, absent, seen = [], 0, {}
    for stretch in stretches:
        found = list(_placed(stretch, videos, spans))
        absent += not found
        for path, start, end in found[:1]:
            name = f"{path.stem}@{start:.3f}"
            number = seen[name] = seen.get(name, -1) + 1
            clips.append(Clip(path, stretch.text, f"{name}.{number}" if number else name, start, end))
    if not clips:
        raise InputError(
            f"{file} describes {absent} moments, but of none is the video in {base}: {len(videos)} videos there, "
            f"{', '.join(sorted(videos)[:3]) or 'expected <video_uid>.mp4 or <clip_uid>.mp4'}"
        )
    dataset = VideoDataset(root, clips, fps, None, base, progress, skip_bad)
    dataset.skipped[:0] = skipped
    dataset.absent, dataset.annotations_file = absent, file
    return dataset


def _base(file: Path) -> Path:
    """The folder with the videos, seen from an annotation file."""
    base = file.parent.parent if file.parent.name == "annotations" else file.parent
    return base.parent if base.name in ("v1", "v2") and not _videos(base) else base


def _videos(base: Path) -> dict[str, Path]:
    """uid -> file. The smaller of two sizes, where both are there: frames are made small anyway."""
    found: dict[str, Path] = {}
    for folder, folders, names in os.walk(base):
        folders[:] = sorted(name for name in folders if name[0] != ".")
        for name in sorted(names):
            if name.endswith(".mp4") and ("540ss" in folder or name[:-4] not in found):
                found[name[:-4]] = Path(folder) / name
    return found


def _placed(stretch: _Stretch, videos: dict[str, Path], spans: dict) -> Iterator[tuple[Path, float, float]]:
    """(file, start, end) wherever this stretch can be seen."""
    uid, start, end = stretch.uid, stretch.start, stretch.end
    if uid in videos:
        yield videos[uid], max(start, 0.0), end
    if stretch.video is not None and stretch.video[0] in videos:
        offset = stretch.video[1]
        yield videos[stretch.video[0]], max(start + offset, 0.0), end + offset
    middle = (start + end) / 2
    for clip, first, last in spans.get(uid, ()):
        if clip in videos and first <= middle < last:
            yield videos[clip], max(start - first, 0.0), min(end, last) - first


def _clip_spans(base: Path, file: Path) -> dict[str, list[tuple[str, float, float]]]:
    """Of each video the clips that were cut out of it, (uid, start, end in s), by ego4d.json where there is one."""
    places = [base, base.parent, *file.parents[:3]]
    path = next((folder / "ego4d.json" for folder in places if (folder / "ego4d.json").is_file()), None)
    spans: dict[str, list[tuple[str, float, float]]] = {}
    if path is None:
        return spans
    about = read_json(path)
    for number, clip in enumerate(about.get("clips") or [] if isinstance(about, dict) else []):
        try:
            start, end = float(clip["video_start_sec"]), float(clip["video_end_sec"])
            spans.setdefault(clip["video_uid"], []).append((clip["clip_uid"], start, end))
        except (TypeError, KeyError, ValueError):
            raise InputError(
                f"{path}: clips[{number}]: expected clip_uid, video_uid, video_start_sec and video_end_sec, found "
                f"{str(clip)[:80]}"
            ) from None
    return spans


def _narrations(file: Path, seconds: float, skipped: list[dict]) -> Iterator[_Stretch]:
    about = read_json(file)
    if isinstance(about, dict) and isinstance(about.get("videos"), dict):
        about = about["videos"]
    if not isinstance(about, dict) or not about:
        raise InputError(f"{file}: expected an object from video uids to narrations, found {str(about)[:80]}")
    stretches = []
    for uid, video in about.items():
        if not isinstance(video, dict):
            continue  # dates and versions stand beside the videos
        passes = [key for key in ("narrations", "narration_pass_1", "narration_pass_2") if key in video]
        for key in passes:
            rows = video[key].get("narrations", []) if isinstance(video[key], dict) else video[key]
            for number, row in enumerate(rows if isinstance(rows, list) else [rows]):
                where = f"{file}: {uid}.{key}[{number}]"
                row = row if isinstance(row, dict) else {}
                time = next((row[k] for k in ("timestamp_sec", "time", "_video_time") if k in row), None)
                text = row.get("narration_text", row.get("text"))
                if not _is_number(time) or not isinstance(text, str):
                    found = str(rows)[:80] if not row else f"{sorted(row)} with {time!r} and {text!r}"[:160]
                    reason = f"{where}: expected timestamp_sec (s) and narration_text, found {found}"
                    skipped.append({"clip": f"{uid}[{number}]", "reason": reason})
                    continue
                sentence = narration_sentence(text)
                if sentence:
                    stretches.append(_Stretch(uid, time - seconds / 2, time + seconds / 2, sentence, where))
    return iter(stretches)


def _actions(file: Path, skipped: list[dict]) -> Iterator[_Stretch]:
    about = read_json(file)
    rows = about.get("clips") if isinstance(about, dict) else None
    if not isinstance(rows, list) or not rows:
        raise InputError(f"{file}: expected an object with the list clips, found {str(about)[:80]}")
    stretches = []
    for number, row in enumerate(rows):
        where = f"{file}: clips[{number}]"
        row = row if isinstance(row, dict) else {}
        start, end = row.get("action_clip_start_sec"), row.get("action_clip_end_sec")
        words = [row.get("verb"), row.get("noun")]
        texts = all(isinstance(word, str) for word in words) and isinstance(row.get("clip_uid"), str)
        if not texts or not _is_number(start) or not _is_number(end) or not 0 <= start < end:
            reason = (
                f"{where}: expected clip_uid, verb, noun and action_clip_start_sec < action_clip_end_sec, found "
                f"{str(row)[:160]}"
            )
            skipped.append({"clip": f"clips[{number}]", "reason": reason})
            continue
        sentence = " ".join(_plain(word) for word in words).strip()
        offset, parent = row.get("clip_parent_start_sec"), row.get("video_uid")
        video = (parent, float(offset)) if isinstance(parent, str) and _is_number(offset) else None
        stretches.append(_Stretch(row["clip_uid"], float(start), float(end), sentence, where, video))
    return iter(stretches)


def _plain(word: str) -> str:
    """ "take_(pick,_grab,_get)" -> "take"."""
    return re.sub(r"_*\(.*?\)", "", word).replace("_", " ").strip()


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e9
