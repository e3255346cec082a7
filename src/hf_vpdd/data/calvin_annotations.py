"""CALVIN's language annotations: which stretches of the recording a sentence describes (gr1.md §7.1)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from .safe_pickle import read_object_npy


@dataclass(frozen=True)
class Annotations:
    """W windows. `sentence`: what was done, in words; `task`: its name among the 34 ("" where there is none); `first`,
    `last`: int64 (W,), numbers of the frames it was done in, both of them included."""

    sentence: list[str]
    task: list[str]
    first: np.ndarray
    last: np.ndarray

    def __len__(self) -> int:
        return len(self.sentence)

    def select(self, rows: np.ndarray) -> "Annotations":
        sentence, task = ([values[row] for row in rows] for values in (self.sentence, self.task))
        return Annotations(sentence, task, self.first[rows], self.last[rows])


def find_annotations(split: Path) -> Path | None:
    """The file of a split: in `lang_annotations`, or, in old downloads, beside the frames or in `lang_<encoder>`."""
    places = [split / "lang_annotations", split, *sorted(split.glob("lang_*"))]
    return next((p / "auto_lang_ann.npy" for p in places if (p / "auto_lang_ann.npy").is_file()), None)


def read_annotations(path: Path) -> Annotations:
    """{"language": {"ann": [str], "task": [str]}, "info": {"indx": [(first, last)]}}; embeddings are not looked at.

    Raises:
        InputError: Missing, damaged, or not of this form; it names file, key, what was expected and what was found.
    """
    content = read_object_npy(path)
    sentence = _entry(content, path, "language", "ann")
    task = _entry(content, path, "language", "task") if "task" in _mapping(content, path, "language") else None
    window = _entry(content, path, "info", "indx")
    if not sentence:
        raise InputError(f"{path}: key language.ann is empty: expected at least one sentence, found none")
    for key, values in (("info.indx", window), ("language.task", task)):
        if values is not None and len(values) != len(sentence):
            raise InputError(
                f"{path}: keys language.ann and {key} do not go together: expected {len(sentence)} entries in {key}, "
                f"found {len(values)}"
            )
    for row, words in enumerate(sentence):
        if not isinstance(words, str) or not words.strip():
            raise InputError(f"{path}: key language.ann, entry {row}: expected a sentence, found {words!r:.80}")
    for row, name in enumerate(task or ()):
        if not isinstance(name, str):
            raise InputError(f"{path}: key language.task, entry {row}: expected a task's name, found {name!r:.80}")
    pairs = np.array([_pair(path, row, pair) for row, pair in enumerate(window)], np.int64)
    return Annotations(
        [str(words).strip() for words in sentence],
        [str(name) for name in task] if task is not None else [""] * len(sentence),
        pairs[:, 0],
        pairs[:, 1],
    )


def _mapping(content: Any, path: Path, key: str) -> dict:
    if not isinstance(content, dict) or not isinstance(content.get(key), dict):
        found = sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise InputError(f"{path}: expected a dictionary with a dictionary {key!r}, found {found}")
    return content[key]


def _entry(content: Any, path: Path, section: str, key: str) -> list:
    mapping = _mapping(content, path, section)
    if key not in mapping:
        raise InputError(f"{path}: key {section}.{key} is missing; {section} has {sorted(map(str, mapping))}")
    value = mapping[key]
    if isinstance(value, np.ndarray):
        value = list(value)
    if not isinstance(value, (list, tuple)):
        raise InputError(f"{path}: key {section}.{key}: expected a list, found a {type(value).__name__}")
    return list(value)


def _pair(path: Path, row: int, pair: Any) -> tuple[int, int]:
    where = f"{path}: key info.indx, entry {row}"
    values = np.asarray(pair) if isinstance(pair, (list, tuple, np.ndarray)) else None
    if values is None or values.shape != (2,) or values.dtype.kind not in "iu":
        raise InputError(f"{where}: expected two frame numbers (first, last), found {pair!r:.80}")
    first, last = values.tolist()
    if not 0 <= first <= last:
        raise InputError(f"{where}: expected 0 <= first <= last, found ({first}, {last})")
    return first, last
