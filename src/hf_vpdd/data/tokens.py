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

from ..errors import InputError
from .frame_cache import CacheKind, cached_rows
from .frame_store import FrameStore


_CODES = CacheKind("codes.npy", "tokens.json", "video codes", "tokenizing")


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

    def make(indices: np.ndarray) -> np.ndarray:
        new = np.asarray(encode(store.clips(indices, identity["clip_frames"])))
        if new.shape != (len(indices), *latent_shape) or new.dtype.kind not in "iu":
            raise InputError(
                f"the tokenizer gave {new.dtype} {new.shape} for {len(indices)} clips; promised were integers "
                f"{(len(indices), *latent_shape)}"
            )
        if new.min() < 0 or new.max() > np.iinfo(np.uint16).max:
            raise InputError(f"the tokenizer gave codes {new.min()} to {new.max()}; uint16 holds 0 to 65535")
        return new

    shape = (store.num_frames, *latent_shape)
    return cached_rows(Path(cache_dir), _CODES, identity, shape, np.uint16, make, batch_size, progress)
