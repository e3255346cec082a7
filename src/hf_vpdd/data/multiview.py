"""Several cameras: the same episodes seen from several places, side by side or one camera after the other.

store = build_views("recordings/rlbench", ["front", "wrist"], image_size=128)
store.view_clips([7], 4)         # uint8 (1, 2, 4, 128, 128, 3): what a policy sees
flatten_views(store)             # twice the episodes, one camera each: what a tokenizer learns from
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..errors import InputError
from .frame_store import FrameStore


def build_views(root: str | os.PathLike, cameras: str | Sequence[str], **options) -> FrameStore:
    """The episodes of a dataset through one camera or several, each decoded once into a cache of its own.

    Args:
        root: A LeRobot dataset, folder or Hub id.
        cameras: One name, or several in the order in which the model is to see them.
        options: The other arguments of `FrameStore.build`.
    """
    names = [cameras] if isinstance(cameras, str) else list(cameras)
    return join_views([FrameStore.build(root, camera=name, **options) for name in names])


def join_views(stores: Sequence[FrameStore]) -> FrameStore:
    """Stores of the same episodes, one per camera, as one store with `views`.

    Raises:
        InputError: A camera occurs twice; episodes differ in number, length or task, the message names camera and
            episode; images or frame rates differ.
    """
    stores = list(stores)
    if not stores:
        raise InputError("join_views needs at least one store")
    if len(stores) == 1:
        return stores[0]
    first = stores[0]
    cameras = [store.camera for store in stores]
    if len(set(cameras)) != len(cameras):
        raise InputError(f"a camera is named twice: {', '.join(cameras)}")
    for store in stores[1:]:
        _check_same_episodes(first, store)
    whole = "|".join(store.fingerprint for store in stores)
    return replace(first, views=tuple(stores), fingerprint=hashlib.sha256(whole.encode()).hexdigest(), pieces=())


def _check_same_episodes(first: FrameStore, other: FrameStore) -> None:
    pair = f"cameras {first.camera!r} of {first.name} and {other.camera!r} of {other.name}"
    for what in ("image_size", "fps"):
        if getattr(first, what) != getattr(other, what):
            raise InputError(f"{pair} differ in {what}: {getattr(first, what)} and {getattr(other, what)}")
    if first.num_episodes != other.num_episodes:
        raise InputError(
            f"{pair} must show the same episodes, but have {first.num_episodes} and {other.num_episodes}: episode "
            f"{min(first.num_episodes, other.num_episodes)} is missing in one of them"
        )
    lengths = [store.episode_to - store.episode_from for store in (first, other)]
    wrong = np.flatnonzero(lengths[0] != lengths[1])
    if len(wrong):
        episode = int(wrong[0])
        raise InputError(
            f"{pair} must show the same episodes, but episode {episode} has {lengths[0][episode]} frames through "
            f"{first.camera!r} and {lengths[1][episode]} through {other.camera!r}: record it again"
        )
    for episode, tasks in enumerate(zip(first.episode_task, other.episode_task)):
        if tasks[0] != tasks[1]:
            raise InputError(
                f"{pair} must show the same episodes, but the instruction of episode {episode} is {tasks[0]!r} for "
                f"{first.camera!r} and {tasks[1]!r} for {other.camera!r}"
            )


def flatten_views(store: FrameStore) -> FrameStore:
    """One camera after the other: V times the episodes, each through one camera; a store of one camera as it is.

    `episode_take` tells which episodes of the result are one, so that none is trained on through one camera and held
    out through another.
    """
    if not store.views:
        return store
    flat = FrameStore.concat(store.views)
    return replace(flat, episode_take=np.tile(store.takes, len(store.views)))
