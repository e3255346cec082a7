"""What the stages share: opening data, choosing episodes, preparing pixels, writing model folders."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from ...errors import InputError
from ...files import atomic_path, file_sha256
from ...modeling.quiet import quiet_transformers
from ..arguments import DataArguments, Recipe
from ..preflight import check_data
from ..processes import main_process_first


def open_store(
    recipe: Recipe, store: Any = None, video_only: bool = False, decode: bool = True, base: Path | None = None
):
    """The decoded frames of `recipe.data` (built once and cached), or `store` if it was loaded already.

    Args:
        decode: False for stages that read video codes: frames that are not decoded yet are left so.
        video_only: for networks that look at each picture by itself. Every camera of every root is then a recording of
            its own (spec §3.4: views are independent rows in pre-training); roots may differ in cameras, frame rate,
            states and actions. Otherwise a store with one view per camera, for policies, whose roots must agree.
        base: Folder of the policy that is trained further, which the data must fit.
    """
    from ...data.frame_store import FrameStore
    from ...data.multiview import build_views, flatten_views

    data = recipe.data
    if store is None:
        check_data(recipe, base)
        with main_process_first():
            stores = [
                build_views(
                    root,
                    data.cameras(root),
                    image_size=data.image_size,
                    cache_dir=data.cache_dir,
                    progress=recipe.train.progress,
                    fps=data.rate(root),
                    decode=decode,
                )
                for root in data.root
            ]
        if video_only:
            stores = [flatten_views(store) for store in stores]
        store = FrameStore.concat(stores, video_only)
    elif video_only:
        store = flatten_views(store)
    if store.image_size != data.image_size:
        raise InputError(f"the frame store holds {store.image_size} px images, data.image_size is {data.image_size}")
    return store


def camera_names(data: DataArguments) -> list[str]:
    """What the cameras are called in a checkpoint: as in the first root."""
    return data.cameras(data.root[0])


def set_views(section: dict[str, Any], views: int) -> None:
    """Put the number of cameras of the data into a model section, which may not say otherwise."""
    if section.setdefault("num_views", views) != views:
        raise InputError(f"model.num_views is {section['num_views']}, data.camera names {views} camera(s)")


def sample_groups(store, data: DataArguments, positions: np.ndarray) -> tuple[np.ndarray | None, list[float] | None]:
    """For `IndexSampler`: the root of the sample at each of these frames, and the share of each root."""
    if data.weights is None:
        return None, None
    roots = list(dict.fromkeys(store.roots))  # in the order of data.root
    if len(roots) != len(data.weights):
        raise InputError(f"data.weights has {len(data.weights)} numbers, the frames come from {len(roots)} datasets")
    of_episode = np.array([roots.index(root) for root in store.roots])
    groups = of_episode[store.frame_episode[positions]]
    for number, (root, weight) in enumerate(zip(roots, data.weights, strict=True)):
        if weight > 0 and not (groups == number).any():
            raise InputError(f"data.weights gives {root} a share of {weight}, but no training frame comes from it")
    return groups, list(data.weights)


def choose_episodes(store, data: DataArguments) -> tuple[list[int], list[int]]:
    """(training, held-out) episode numbers. Held out: the last `val_episodes_per_task` of each task, in every stage.

    Tasks are counted by dataset; of an episode that was seen by several cameras all occurrences go together.

    Raises:
        InputError: an unknown task, or a task with too few episodes.
    """
    wanted = None if data.tasks is None else {_sentence(task, store.episode_task) for task in data.tasks}
    occurrences: dict[int, list[int]] = {}
    by_task: dict[tuple[str, str], list[int]] = {}
    for episode, (root, task, take) in enumerate(zip(store.roots, store.episode_task, store.takes.tolist())):
        if wanted is not None and task not in wanted:
            continue
        if take not in occurrences:
            by_task.setdefault((root, task), []).append(take)
        occurrences.setdefault(take, []).append(episode)
    train, held_out = [], []
    for (_, task), takes in by_task.items():
        rest = takes[: len(takes) - data.val_episodes_per_task]
        held_out += takes[len(takes) - data.val_episodes_per_task :]
        if not rest:
            raise InputError(f"task {task!r} has {len(takes)} episodes and data.val_episodes_per_task holds out "
                             f"{data.val_episodes_per_task}: record more, or hold out fewer")  # fmt: skip
        if data.episodes_per_task is not None:
            k, draw = data.episodes_per_task, data.demo_draw
            if len(rest) < (draw + 1) * k:
                raise InputError(
                    f"task {task!r} has {len(rest)} training episodes; draw {draw} of {k} needs {(draw + 1) * k}: "
                    "lower data.episodes_per_task or data.demo_draw, or record more"
                )
            rest = rest[draw * k : (draw + 1) * k]
        train += rest
    return tuple([episode for take in takes for episode in occurrences[take]] for takes in (train, held_out))


def _sentence(task: str, present: list[str]) -> str:
    """A task named by its sentence in the dataset, or by a Meta-World id."""
    if task in present:
        return task
    from ...envs.tasks import instruction

    try:
        sentence = instruction(task)
    except InputError:
        sentence = None
    if sentence not in present:
        raise InputError(f"data.tasks: {task!r} is not in the dataset; it has: {'; '.join(sorted(set(present)))}")
    return sentence


def frame_indices(store, episodes: list[int], stride: int = 1) -> np.ndarray:
    """Every `stride`-th frame of `episodes`, as int64 positions in the store."""
    parts = [np.arange(store.episode_from[e], store.episode_to[e], stride) for e in episodes]
    return np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, dtype=np.int64)


def spread(indices: np.ndarray, number: int) -> np.ndarray:
    """At most `number` of `indices`, evenly spread."""
    if len(indices) <= number:
        return indices
    return indices[np.linspace(0, len(indices) - 1, number).round().astype(np.int64)]


def evaluation_rows(config, most: int = 64) -> int:
    """Samples evaluated at a time, so that the logits of the video codes stay below 128 MiB in float32."""
    logits = config.num_views * config.video_tokens * config.vqvae_config.codebook_size
    return max(1, min(most, 2**25 // logits))


def rows_of(total: int, batch_size: int):
    """Slices that cover `range(total)`."""
    return (slice(start, min(start + batch_size, total)) for start in range(0, total, batch_size))


def pixels_from_uint8(frames: torch.Tensor) -> torch.Tensor:
    """uint8 (..., H, W, 3) -> float32 (..., 3, H, W) in [-0.5, 0.5]."""
    return frames.movedim(-1, -3).float().div_(255.0).sub_(0.5)


# -------------------------------------------------------------------------------------------------------- VQ-VAE


def weights_fingerprint(model: torch.nn.Module) -> str:
    """Hash of all weights and buffers: the same tokens come from the same fingerprint."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def store_codes(
    recipe: Recipe, store, vqvae, codes: Any = None, fingerprint: str | None = None, pixel_size: int | None = None
):
    """Codes uint16 (N, t, h, w) of every frame of the store; for a store with views a list of them, one per camera.

    They come from `data.codes` (of `hf-vpdd tokenize`), or else from the dataset's cache where the same VQ-VAE has
    made them, or are made there now. Each camera of each root has a folder of its own.

    Args:
        codes: checked and given back. pixel_size: of the frames the model takes (default: what the model section says
            its head reads, else the tokenizer's).
    """
    if codes is not None:
        given = list(codes) if store.views else [codes]
        if len(given) != len(store.cameras) or any(len(one) != len(store.frames) for one in given):
            raise InputError(
                f"{' and '.join(str(len(one)) for one in given)} codes were given for {len(store.frames)} frames of "
                f"{len(store.cameras)} camera(s) of the store"
            )
        return codes
    from ...data.frame_rows import FrameRows
    from ...data.token_shards import find_codes, open_codes
    from ...data.tokens import identity_of, tokenize
    from ..video_codes import make_encoder, share_of_processes

    config, share = vqvae.config, share_of_processes()
    if config.clip_frames > 1 and recipe.data.history_stride > 1:
        raise InputError(
            "data.history_stride must be 1 for a tokenizer that encodes clips: codes are made of consecutive frames"
        )
    size = pixel_size or recipe.model.get("head_image_size") or config.image_size
    if size != recipe.data.image_size:
        wants = f"the VQ-VAE was trained on {size} px" if size == config.image_size else f"the policy reads {size} px"
        raise InputError(f"data.image_size is {recipe.data.image_size}, {wants}")
    fingerprint = fingerprint or weights_fingerprint(vqvae)
    shapes = {"clip_frames": config.clip_frames, "codebook_size": config.codebook_size}
    encode, dtype = make_encoder(vqvae, recipe.train.mixed_precision)

    def codes_of(part):
        if part.pieces:
            return FrameRows.concat([codes_of(piece) for piece in part.pieces])
        if recipe.data.codes is not None:
            wanted = identity_of(part, config.latent_shape, fingerprint, **shapes)
            what = f"{part.name}, camera {part.camera!r}, {part.image_size} px, {part.fps:g} fps"
            return open_codes(find_codes(recipe.data.codes, wanted, what), wanted)
        return tokenize(
            part, encode, config.latent_shape, fingerprint, dtype=dtype, share=share, progress=recipe.train.progress,
            **shapes,
        )  # fmt: skip

    return [codes_of(view) for view in store.views] if store.views else codes_of(store)


def resize(pixels: torch.Tensor, size: int) -> torch.Tensor:
    """(..., 3, H, W) -> (..., 3, size, size), as `VPDDModel.encode_video` does for its tokenizer."""
    if pixels.shape[-1] == size:
        return pixels
    frames = F.interpolate(pixels.flatten(0, -4), size=(size, size), mode="bilinear", align_corners=False)
    return frames.unflatten(0, pixels.shape[:-3])


def flatten_codes(codes: Any):
    """Codes of several cameras one after the other, as `flatten_views` lays their frames; others as they are."""
    from ...data.frame_store import FrameRows

    if not isinstance(codes, (list, tuple)):
        return codes
    return FrameRows.concat([one if isinstance(one, FrameRows) else FrameRows([one]) for one in codes])


def require_model_folder(path: str | None, stage: str) -> Path:
    """The folder of the stage before, with a model in it."""
    if path is None:
        raise InputError(f"{stage} needs --init_from, the output folder of the stage before it")
    folder = Path(path)
    if not (folder / "config.json").is_file():
        raise InputError(
            f"init_from: {folder} holds no model (config.json is missing): train it first, or name its folder with "
            "--init_from"
        )
    return folder


def require_processor(folder: Path) -> None:
    """Raises an InputError if a model's folder lacks the processor, whose tokenizer the next stage goes on with."""
    if not (folder / "processor_config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            raise InputError(
                f"init_from: {folder} holds an adapter, but no processor (processor_config.json is missing), so its "
                "action bins and statistics are lost: copy the processor of its training run there"
            )
        raise InputError(
            f"init_from: {folder} holds a model, but no processor (processor_config.json is missing), so there is no "
            "tokenizer for its instructions. A checkpoint converted without one: run hf-vpdd convert checkpoint again "
            "with --tokenizer"
        )


def check_model_type(folder: Path, expected: str, stage: str) -> None:
    found = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    if found != expected:
        raise InputError(
            f"init_from: {folder} holds a model of type {found!r}, {stage} starts from one of type {expected!r}"
        )


def folder_hash(folder: Path) -> str:
    """Hash of the weight files a run starts from."""
    files = sorted(folder.glob("*.safetensors"))
    return json.dumps({p.name: file_sha256(p)[:16] for p in files})


def start_hash(start) -> str:
    """Hash of all that a `Start` is made of."""
    return folder_hash(start.weights) + (folder_hash(start.folder) if start.adapter is not None else "")


# ------------------------------------------------------------------------------------------------------- language


def sentences_with_paraphrases(tasks: list[str]) -> list[list[str]]:
    """Each instruction followed by its training paraphrases (Meta-World's; other instructions have none)."""
    from ...envs.tasks import METAWORLD_TASKS

    known = {info.instruction: info.paraphrases for info in METAWORLD_TASKS.values()}
    return [[task, *known.get(task, ())] for task in tasks]


# --------------------------------------------------------------------------------------------------------- saving


def write_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a hidden folder, then move its files into `folder`: a killed save leaves the old model, the new
    one, or none that loads."""
    from ...saving import move_into, open_weights

    folder = Path(folder)
    if not folder.exists():
        with atomic_path(folder) as temporary:
            temporary.mkdir(parents=True)
            with quiet_transformers():
                write(temporary)
            open_weights(temporary)
        return
    for leftover in folder.glob(".saving-*"):  # of a run that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    temporary = folder / f".saving-{os.getpid()}"
    try:
        temporary.mkdir()
        with quiet_transformers():
            write(temporary)
        move_into(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def save_for_rollouts(folder: Path, model, processor, lora: bool) -> None:
    """A policy that loads without anything else: of LoRA, a copy with the adapters merged in."""
    import hf_vpdd

    def write(policy) -> None:
        write_folder(folder, lambda target: hf_vpdd.save_policy(target, policy, processor))

    if not lora:
        write(model)
        return
    from ..lora import save_merged

    save_merged(model, write)


def save_fine_tuned(folder: Path, model, processor, recipe: Recipe, final: bool) -> None:
    """A checkpoint's or a finished run's policy; of LoRA the adapter, and at the end the merged policy beside it."""
    import hf_vpdd

    def write(place: Path, policy) -> None:
        write_folder(place, lambda target: hf_vpdd.save_policy(target, policy, processor, home=place))

    if not recipe.options.lora:
        write(folder, model)
        return
    from ..lora import save_merged

    write(folder / "adapter" if final else folder, model)
    if final:
        save_merged(model, lambda policy: write(folder, policy))
