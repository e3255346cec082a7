"""Something-Something v2 as it is distributed: <id>.webm, and JSON files that give each id its sentence.

    ssv2/
      20bn-something-something-v2/78687.webm ...      or the webm files beside the labels
      something-something-v2-train.json ...           or labels/train.json ...

Entries have a template, "Holding [something] next to [something]", and what was held where: `placeholders`. The
sentence is the template with its places filled. The folder stands for its training split; the JSON file of another
split can be given in its place. The test split has no sentences.
"""

import os
import re
from pathlib import Path
from typing import Any

from ..errors import InputError
from .captions import read_json
from .video_dataset import Clip, VideoDataset
from .video_folder import DEFAULT_TEXT


SPLITS = ("train", "validation", "test")
_VIDEOS = "20bn-something-something-v2"
_PLACE = re.compile(r"\[[^\]]*\]")


def find_labels(root: Path, split: str = "train") -> Path | None:
    """The JSON file of a split."""
    for folder in ("", "labels", "annotations"):
        for name in (f"something-something-v2-{split}.json", f"{split}.json"):
            path = root / folder / name
            if path.is_file() and (name[0] == "s" or (root / _VIDEOS).is_dir() or folder == "labels"):
                return path
    return None


def is_ssv2(root: str | os.PathLike) -> bool:
    """Whether this is the folder, or the JSON file of a split."""
    root = Path(root).expanduser()
    if root.is_file():
        return root.suffix == ".json" and _split_of(root) is not None and _video_folder(root.parent) is not None
    # Of another split too: without the labels of training it is that they are missing, not a folder of videos.
    return root.is_dir() and any(find_labels(root, split) is not None for split in SPLITS)


def _split_of(labels: Path) -> str | None:
    return next((s for s in SPLITS if labels.name in (f"something-something-v2-{s}.json", f"{s}.json")), None)


def _video_folder(folder: Path) -> Path | None:
    """Where the webm files are, seen from the labels' folder."""
    for place in (folder / _VIDEOS, folder.parent / _VIDEOS, folder, folder.parent):
        if place.is_dir() and any(name.endswith(".webm") for name in os.listdir(place)):
            return place
    return None


def fill_template(template: str, placeholders: list[str]) -> str:
    """ "Holding [something] next to [something]", ["a potato", "a jar"] -> "Holding a potato next to a jar".

    Raises:
        InputError: More or fewer placeholders than places.
    """
    places = _PLACE.findall(template)
    if len(places) != len(placeholders):
        raise InputError(f"{template!r} has {len(places)} places, but {len(placeholders)} things to fill in")
    things = iter(placeholders)
    return _PLACE.sub(lambda match: next(things), template)


def open_ssv2(
    root: str | os.PathLike,
    split: str | None = None,
    fps: float | None = None,
    text: str = DEFAULT_TEXT,
    progress: bool = True,
    skip_bad: bool = False,
) -> VideoDataset:
    """A split of Something-Something v2; every entry of its JSON file is an episode.

    Args:
        root: The folder, or the JSON file of a split.
        split: "train" (default), "validation" or "test".
        fps: Frames per second; the files' own 12 if not given.
        text: The sentence of the test split's clips, which have none.
        progress, skip_bad: See `VideoDataset`; entries without a file are skipped, too.

    Raises:
        InputError: No labels or no videos; an entry that is not as documented; missing or damaged files.
    """
    root = Path(root).expanduser()
    if split is not None and split not in SPLITS:
        raise InputError(f"split is {split!r}; Something-Something v2 has {', '.join(SPLITS)}")
    labels = root if root.is_file() else find_labels(root, split or "train")
    if labels is None:
        raise InputError(f"{root} has no something-something-v2-{split or 'train'}.json (or labels/train.json)")
    videos = _video_folder(labels.parent)
    if videos is None:
        raise InputError(
            f"{labels}: no .webm files beside it or in {_VIDEOS}; join and unpack the downloaded parts "
            f"(cat {_VIDEOS}-?? | tar zx)"
        )
    there = set(os.listdir(videos))
    clips, missing = [], []
    for number, entry in enumerate(_entries(labels)):
        name, sentence = _read_entry(entry, f"{labels}: entry {number}")
        if name in there:
            clips.append(Clip(videos / name, sentence or text, name))
        else:
            missing.append({"clip": name, "reason": f"{labels}: entry {number}: {videos / name} is missing"})
    if missing and (not skip_bad or not clips):
        raise InputError(
            f"{missing[0]['reason']} ({len(missing)} of {len(missing) + len(clips)} videos are). Download the missing "
            "parts, or convert what is there: hf-vpdd convert dataset --from ssv2 --skip-bad"
        )
    dataset = VideoDataset(root, clips, fps, None, labels.parent, progress, skip_bad)
    dataset.skipped[:0] = missing
    return dataset


def _entries(labels: Path) -> list:
    entries = read_json(labels)
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{labels}: expected a list of entries with id, template and placeholders")
    return entries


def _read_entry(entry: Any, where: str) -> tuple[str, str]:
    """(file name, sentence)."""
    if not isinstance(entry, dict) or not isinstance(entry.get("id"), (str, int)) or isinstance(entry["id"], bool):
        raise InputError(f"{where}: expected an object with an id, found {str(entry)[:80]}")
    name = str(entry["id"])
    if not re.fullmatch(r"\w+", name):
        raise InputError(f"{where}: key id: expected a number, found {name!r}")
    template, things, label = (entry.get(key) for key in ("template", "placeholders", "label"))
    if template is not None and things is not None:
        if not isinstance(template, str) or not isinstance(things, list) or any(type(t) is not str for t in things):
            raise InputError(f"{where} (id {name}): key template must be a text, placeholders a list of texts")
        try:
            return f"{name}.webm", fill_template(template, things)
        except InputError as error:
            raise InputError(f"{where} (id {name}): {error}") from None
    if label is not None and not isinstance(label, str):
        raise InputError(f"{where} (id {name}): key label must be a text, found {label!r}")
    return f"{name}.webm", label or ""
