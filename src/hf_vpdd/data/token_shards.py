"""A folder of video codes: shards that are memory-mapped, and an index that says what made them.

    tokens.json       who made the codes of what, and of each shard its rows, size and hashes
    codes-00000.npy   uint16 (shard_size, t, h, w): the codes of frames 0 ... shard_size - 1, and so on

A shard appears when it is whole. The index says `"complete": true` once all are there; until then the folder can only
be gone on with. The same codes give the same bytes, whoever made them in however many processes.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..files import atomic_write_text, file_sha256
from .frame_rows import FrameRows


INDEX = "tokens.json"
FORMAT = "hf-vpdd tokens 1"
SHARD_SIZE = 8192
_END = 4096  # bytes at either end of a shard that are looked at whenever it is opened

# What has to agree for codes to be the codes of these frames by this tokenizer, in the order in which it is asked.
IDENTITY = ("tokenizer", "frames", "clip_frames", "latent_shape", "num_frames", "codebook_size")


@dataclass
class TokenIndex:
    """What `tokens.json` says.

    tokenizer, frames: fingerprints of the weights and of the frames (data, camera, size). clip_frames: T of a clip.
    latent_shape: (t, h, w). num_frames: N. codebook_size: each code is below it. dataset, camera, image_size, fps: for
    people. dtype: what the tokenizer computed in. shard_size: rows of each shard but the last.
    shards: once complete, of each `file`, `rows` [from, to), `bytes`, `sha256`, and `ends`, the hash of both its ends.
    codes_used: how many different codes occur. perplexity: the effective number of codes.
    """

    tokenizer: str
    frames: str
    clip_frames: int
    latent_shape: list[int]
    num_frames: int
    codebook_size: int
    dataset: str
    camera: str
    image_size: int
    fps: float
    dtype: str
    shard_size: int
    complete: bool = False
    shards: list[dict[str, Any]] = field(default_factory=list)
    codes_used: int = 0
    perplexity: float = 0.0

    @property
    def num_shards(self) -> int:
        return -(-self.num_frames // self.shard_size)

    def rows(self, shard: int) -> tuple[int, int]:
        """[from, to) of one shard."""
        return shard * self.shard_size, min((shard + 1) * self.shard_size, self.num_frames)

    def file(self, shard: int) -> str:
        return f"codes-{shard:05d}.npy"

    def shape(self, shard: int) -> tuple[int, ...]:
        first, end = self.rows(shard)
        return (end - first, *self.latent_shape)

    def bytes_of(self, shard: int) -> int:
        """Size of the file of one shard."""
        header = 128  # numpy's, for shapes this short
        return header + 2 * int(np.prod(self.shape(shard)))

    @property
    def num_bytes(self) -> int:
        return sum(self.bytes_of(shard) for shard in range(self.num_shards))

    def write(self, place: Path) -> None:
        atomic_write_text(place / INDEX, json.dumps({"format": FORMAT} | asdict(self), indent=1) + "\n")


def is_codes_folder(place: str | os.PathLike) -> bool:
    """Whether video codes lie in a folder itself, finished or not."""
    return (Path(place).expanduser() / INDEX).is_file()


def read_index(place: str | os.PathLike) -> TokenIndex:
    """The index of a folder, checked entry by entry.

    Raises:
        InputError: No index, or one that contradicts itself.
    """
    place = Path(place)
    path = place / INDEX
    try:
        about = json.loads(path.read_bytes())
    except OSError:
        raise InputError(
            f"{place} holds no video codes ({INDEX} is missing); make them: hf-vpdd tokenize DATASET --vqvae CKPT"
        ) from None
    except ValueError:
        about = None
    again = f"remove {place} and make it again: hf-vpdd tokenize"
    if not isinstance(about, dict):
        raise InputError(f"{path} is not a description of video codes; {again}")
    if about.get("format") != FORMAT:
        raise InputError(f"{path} has the format {about.get('format')!r}, this version reads {FORMAT!r}; {again}")
    for name, kind in TokenIndex.__annotations__.items():
        value = about.get(name)
        if kind is float and type(value) is int:
            value = float(value)
        wanted = {list[int]: list, list[dict[str, Any]]: list}.get(kind, kind)
        if type(value) is not wanted:
            raise InputError(f"{path}: {name} is {value!r}, expected {wanted.__name__}; {again}")
    index = TokenIndex(**{name: about[name] for name in TokenIndex.__annotations__})
    sizes = [index.num_frames, index.clip_frames, index.shard_size, index.codebook_size, *index.latent_shape]
    if len(index.latent_shape) != 3 or any(type(n) is not int or n < 1 for n in sizes) or index.codebook_size > 65536:
        raise InputError(
            f"{path}: latent_shape {index.latent_shape}, num_frames {index.num_frames}, clip_frames "
            f"{index.clip_frames}, shard_size {index.shard_size} and codebook_size {index.codebook_size} must be "
            f"whole numbers above 0; {again}"
        )
    if index.complete:
        expected = [(index.file(n), list(index.rows(n)), index.bytes_of(n)) for n in range(index.num_shards)]
        dicts = [one if isinstance(one, dict) else {} for one in index.shards]
        found = [(one.get("file"), one.get("rows"), one.get("bytes")) for one in dicts]
        if found != expected or any(type(one.get(name)) is not str for one in dicts for name in ("sha256", "ends")):
            raise InputError(f"{path}: its shards do not cover its {index.num_frames} frames once each; {again}")
    return index


def require_identity(place: Path, index: TokenIndex, wanted: dict[str, Any]) -> None:
    """An `InputError` if codes are of another tokenizer, other frames, other clips or another shape."""
    for name in IDENTITY:
        if name in wanted and getattr(index, name) != wanted[name]:
            raise InputError(
                f"the video codes in {place} were made with {name} {getattr(index, name)!r}, needed is "
                f"{wanted[name]!r}: they are codes of {_describe(index)}, by the tokenizer {index.tokenizer}; name "
                "the folder of the right codes, or make them in another one (hf-vpdd tokenize --out)"
            )


def _describe(index: TokenIndex) -> str:
    return (
        f"{index.dataset}, camera {index.camera!r}, {index.image_size} px, {index.fps:g} fps, clips of "
        f"{index.clip_frames} (frames {index.frames[:16]})"
    )


def open_codes(place: str | os.PathLike, wanted: dict[str, Any] | None = None) -> FrameRows:
    """The codes of a finished folder, uint16 (N, t, h, w), memory-mapped, read only.

    Looks at the size, the header and both ends of every shard; `verify_codes` reads all.

    Args:
        wanted: `TokenIndex` entries of `IDENTITY` that the codes must have.

    Raises:
        InputError: Codes of something else, unfinished, truncated or altered.
    """
    place = Path(place)
    index = read_index(place)
    require_identity(place, index, wanted or {})
    if not index.complete:
        done = sum(shard_problem(place, index, n) is None for n in range(index.num_shards))
        raise InputError(
            f"the video codes in {place} are not finished: {done} of {index.num_shards} shards are there; run the "
            "same hf-vpdd tokenize again, it goes on from there"
        )
    parts = []
    for number, shard in enumerate(index.shards):
        problem = shard_problem(place, index, number)
        path = place / shard["file"]
        if problem is None and ends_hash(path) != shard["ends"]:
            problem = f"{path} was altered"
        if problem:
            raise InputError(
                f"{problem}; the same hf-vpdd tokenize with --verify makes the shards anew that are not as they were"
            )
        parts.append(np.load(path, mmap_mode="r", allow_pickle=False))
    return FrameRows(parts)


def shard_problem(place: Path, index: TokenIndex, number: int) -> str | None:
    """What is wrong with the file of a shard by its size and header; None if nothing is."""
    path, shape = place / index.file(number), index.shape(number)
    try:
        size = path.stat().st_size
        if size != index.bytes_of(number):
            return f"{path} has {size} bytes, expected {index.bytes_of(number)}: it is cut short or altered"
        with open(path, "rb") as file:
            np.lib.format.read_magic(file)
            found = np.lib.format.read_array_header_1_0(file)
    except FileNotFoundError:
        return f"{path} is missing"
    except (OSError, ValueError) as error:
        return f"{path} cannot be read: {error}"
    if found != (shape, False, np.dtype("<u2")):
        return f"{path} holds {found[2]} {found[0]}, expected uint16 {shape}"
    return None


def ends_hash(path: Path) -> str:
    """SHA-256 of the first and the last 4 KiB of a file: what a truncated, swapped or emptied shard does not have."""
    with open(path, "rb") as file:
        digest = hashlib.sha256(file.read(_END))
        file.seek(max(0, path.stat().st_size - _END))
        digest.update(file.read(_END))
    return digest.hexdigest()


def verify_codes(place: str | os.PathLike) -> list[tuple[int, str]]:
    """Reads all codes of a finished folder: (shard, what is wrong with it) of each that is not as it was made.

    Raises:
        InputError: No codes there, or not finished.
    """
    place = Path(place)
    index = read_index(place)
    if not index.complete:
        open_codes(place)
    problems = []
    for number, shard in enumerate(index.shards):
        path = place / shard["file"]
        problem = shard_problem(place, index, number)
        if problem is None and file_sha256(path) != shard["sha256"]:
            problem = f"{path} was altered: its bytes have another hash than {INDEX} says"
        if problem is None and np.load(path, mmap_mode="r").max() >= index.codebook_size:
            problem = f"{path} holds codes beyond the codebook of {index.codebook_size}"
        if problem:
            problems.append((number, problem))
    return problems


def finish(place: Path, index: TokenIndex) -> None:
    """Write the index of a folder whose shards are all there."""
    usage, shards = np.zeros(index.codebook_size, np.int64), []
    for number in range(index.num_shards):
        path = place / index.file(number)
        count = np.bincount(np.load(path, mmap_mode="r").reshape(-1), minlength=index.codebook_size)
        if len(count) > index.codebook_size:  # of a run before this one, and altered since
            path.unlink()
            raise InputError(
                f"{path} held codes beyond the codebook of {index.codebook_size} and was removed: run the same again"
            )
        usage += count
        shards.append(
            {
                "file": path.name, "rows": list(index.rows(number)), "bytes": path.stat().st_size,
                "sha256": file_sha256(path), "ends": ends_hash(path),
            }
        )  # fmt: skip
    share = usage[usage > 0] / usage.sum()
    index.shards, index.complete = shards, True
    index.codes_used, index.perplexity = len(share), round(float(np.exp(-(share * np.log(share)).sum())), 3)
    index.write(place)


def find_codes(folders: Iterable[str | os.PathLike], wanted: dict[str, Any], what: str) -> Path:
    """The folder among these, or one or two levels below them, that holds the codes of some frames by a tokenizer.

    Args:
        wanted: All of `IDENTITY`. what: the frames in words.

    Raises:
        InputError: None does; says what is there instead, with the fingerprints.
    """
    near, others = [], []
    for folder in map(Path, folders):
        places = [folder] if (folder / INDEX).is_file() else []
        places += sorted(path.parent for depth in ("*", "*/*") for path in folder.glob(f"{depth}/{INDEX}"))
        if not places:
            raise InputError(
                f"{folder} holds no video codes ({INDEX} is missing there and two levels below); make them: "
                "hf-vpdd tokenize DATASET --vqvae CKPT --out " + str(folder)
            )
        for place in places:
            index = read_index(place)
            if all(getattr(index, name) == wanted[name] for name in IDENTITY):
                return place
            (near if index.frames == wanted["frames"] else others).append((place, index))
    if near:
        require_identity(*near[0], wanted)
    listed = "; ".join(f"{place}: {_describe(index)}" for place, index in others[:4])
    raise InputError(
        f"no video codes of {what} (frames {wanted['frames'][:16]}, tokenizer {wanted['tokenizer']}) are there. "
        f"What is: {listed}. Data, camera, image size and rate must be those of the recipe: run hf-vpdd tokenize for "
        "this dataset, or leave data.codes out"
    )
