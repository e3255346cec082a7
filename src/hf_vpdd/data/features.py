"""Image features of every frame, made once by a frozen network and memory-mapped, so that training skips that network.

They carry the fingerprints of the network and of the frames; features of others are refused.
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


_FEATURES = CacheKind("features.npy", "features.json", "image features", "encoding frames")
_LARGEST = float(np.finfo(np.float16).max)


def encode_frames(
    store: FrameStore,
    encode: Callable[[np.ndarray], np.ndarray],
    feature_shape: Sequence[int],
    fingerprint: str,
    cache_dir: str | os.PathLike | None = None,
    *,
    batch_size: int = 32,
    progress: bool = True,
) -> np.ndarray:
    """Features of all frames of a store (of its first camera), from the cache where they are there.

    Args:
        store: N frames.
        encode: uint8 (b, S, S, 3) -> float32 (b, *feature_shape), array or CPU tensor.
        fingerprint: Of the network and what goes before it (a hash of weights and configuration); any string.
        cache_dir: The folder that holds these features and nothing else; by default one beside the frames' cache,
            named by the fingerprints.
        batch_size: Frames encoded at a time.
        progress: Show a bar.

    Returns:
        float16 (N, *feature_shape), memory-mapped, read only. (MAE ViT-B/16: 0.3 MB a frame.)

    Raises:
        InputError: `cache_dir` holds other features; `encode` gives another shape than promised, or numbers that
            float16 cannot hold.
    """
    feature_shape = tuple(int(n) for n in feature_shape)
    identity = {
        "network": str(fingerprint),
        "frames": store.fingerprint,
        "feature_shape": list(feature_shape),
        "num_frames": store.num_frames,
    }
    if cache_dir is None:
        name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
        cache_dir = store.cache_dir / f"features-{name}"

    def make(indices: np.ndarray) -> np.ndarray:
        new = np.asarray(encode(store.frames[indices]))
        if new.shape != (len(indices), *feature_shape):
            raise InputError(
                f"the network gave {new.shape} for {len(indices)} frames; promised were {feature_shape} each"
            )
        if not bool((np.abs(new) <= _LARGEST).all()):  # NaN fails too
            raise InputError("the network gave features that are not finite or too large for float16")
        return new

    shape = (store.num_frames, *feature_shape)
    return cached_rows(Path(cache_dir), _FEATURES, identity, shape, np.float16, make, batch_size, progress)
