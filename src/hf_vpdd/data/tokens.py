"""Video codes of every frame, made once by a tokenizer and memory-mapped, so that training never decodes or encodes.

The code of frame k stands for the clip of frames k-T+1 ... k of its episode, black images before the start (VPDD
§4.1). The codes carry the fingerprints of the tokenizer and of the frames; codes of others are refused, since wrong
codes look just like right ones.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..errors import InputError
from ..files import atomic_write_text
from .frame_store import FrameStore


def tokenize(
    store: FrameStore,
    encode: Callable[[np.ndarray], np.ndarray],
    latent_shape: Sequence[int],
    fingerprint: str,
    cache_dir: str | os.PathLike | None = None,
    *,
    clip_frames: int = 1,
    batch_size: int = 64,
    progress: bool = True,
) -> np.ndarray:
    """Codes of all frames of a store, from the cache where they are there.

    Killed half-way, the next call with the same arguments goes on where it stopped.

    Args:
        store: N frames.
        encode: uint8 (b, T, S, S, 3) -> integers (b, t, h, w), array or CPU tensor, each code in 0..65535.
        latent_shape: (t, h, w).
        fingerprint: Of the tokenizer (a hash of its weights and configuration); any string.
        cache_dir: The folder that holds these codes and nothing else; by default one beside the frames' cache, named
            by the fingerprints.
        clip_frames: T.
        batch_size: Clips encoded at a time.
        progress: Show a bar.

    Returns:
        uint16 (N, t, h, w), memory-mapped, read only.

    Raises:
        InputError: `cache_dir` holds codes of another tokenizer, other frames, another T or latent shape; or `encode`
            gives another shape than promised, or codes outside uint16.
    """
    latent_shape = tuple(int(n) for n in latent_shape)
    identity = {
        "tokenizer": str(fingerprint),
        "frames": store.fingerprint,
        "clip_frames": int(clip_frames),
        "latent_shape": list(latent_shape),
        "num_frames": store.num_frames,
    }
    if cache_dir is None:
        name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
        cache_dir = store.cache_dir / f"codes-{name}"
    place = Path(cache_dir)
    codes_path, about_path = place / "codes.npy", place / "tokens.json"
    shape = (store.num_frames, *latent_shape)
    if _count_done(codes_path, about_path, identity) < store.num_frames:
        from huggingface_hub.utils import WeakFileLock

        place.mkdir(parents=True, exist_ok=True)
        # Two runs that begin at once would each empty the other's file, and one would vouch for codes that are gone.
        with WeakFileLock(place / ".lock"):
            done = _count_done(codes_path, about_path, identity)
            if done == 0:
                np.lib.format.open_memmap(codes_path, "w+", np.uint16, shape).flush()
                atomic_write_text(about_path, json.dumps(identity | {"done": 0}))
            if done < store.num_frames:
                _fill(store, encode, codes_path, about_path, identity, done, batch_size, progress)
    codes = np.load(codes_path, mmap_mode="r")
    if codes.shape != shape or codes.dtype != np.uint16:
        raise InputError(f"{codes_path} is {codes.dtype} {codes.shape}, expected uint16 {shape}; remove {place}")
    return codes


def _fill(store, encode, codes_path, about_path, identity, done, batch_size, progress) -> None:
    shape = tuple(identity["latent_shape"])
    codes = np.load(codes_path, mmap_mode="r+")
    hide = None if progress else True
    with tqdm(total=store.num_frames, initial=done, unit="frame", desc="tokenizing", disable=hide) as bar:
        saved = done
        while done < store.num_frames:
            indices = np.arange(done, min(done + batch_size, store.num_frames))
            new = np.asarray(encode(store.clips(indices, identity["clip_frames"])))
            if new.shape != (len(indices), *shape) or new.dtype.kind not in "iu":
                raise InputError(
                    f"the tokenizer gave {new.dtype} {new.shape} for {len(indices)} clips; promised were integers "
                    f"{(len(indices), *shape)}"
                )
            if new.min() < 0 or new.max() > np.iinfo(np.uint16).max:
                raise InputError(f"the tokenizer gave codes {new.min()} to {new.max()}; uint16 holds 0 to 65535")
            codes[indices[0] : indices[-1] + 1] = new
            done = int(indices[-1]) + 1
            bar.update(len(indices))
            if done - saved >= 32 * batch_size or done == store.num_frames:
                codes.flush()  # the codes first, then the count that vouches for them
                atomic_write_text(about_path, json.dumps(identity | {"done": done}))
                saved = done


def _count_done(codes_path: Path, about_path: Path, identity: dict) -> int:
    """How many frames have codes already."""
    if not about_path.is_file():
        return 0
    about = _read_about(about_path)
    _refuse_others(about, identity, about_path.parent)
    return about["done"] if codes_path.is_file() else 0


def _read_about(path: Path) -> dict:
    try:
        about = json.loads(path.read_text())
        if isinstance(about, dict) and isinstance(about.get("done"), int):
            return about
    except (json.JSONDecodeError, UnicodeDecodeError):
        pass
    raise InputError(f"{path} is not a description of video codes; remove {path.parent}")


def _refuse_others(about: dict, identity: dict, place: Path) -> None:
    for name, wanted in identity.items():
        if about.get(name) != wanted:
            raise InputError(
                f"the video codes in {place} were made with {name} {about.get(name)!r}, needed is {wanted!r}; "
                "remove that folder or name another cache_dir"
            )
