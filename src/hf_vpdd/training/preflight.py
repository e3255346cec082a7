"""What can be known to be wrong before data is opened: said at once, not after an hour of decoding."""

import json
from pathlib import Path
from typing import Any

import torch

from ..errors import InputError
from .arguments import Recipe
from .checkpoints import list_checkpoints, refuse_newer
from .disk import require_writable
from .processes import join_processes
from .rollouts import check_rollouts
from .trackers import require_trackers, tracker_names


def check_before_work(recipe: Recipe) -> None:
    """The machine against the recipe. Every stage's script calls it first, and so does the loop.

    Raises:
        InputError: a tracker or simulator that is not installed, a precision the device lacks, an output folder that
            cannot be written to, a newest checkpoint of a newer version.
    """
    args = recipe.train
    require_trackers(tracker_names(args.tracker))
    check_precision(args.mixed_precision, best_device())
    if args.rollout_every:
        check_rollouts(args)
    require_writable(recipe.output_dir)
    if recipe.resume != "no":
        newest = list_checkpoints(recipe.output_dir)[:1] if recipe.resume == "auto" else [Path(recipe.resume)]
        for folder in newest:
            try:
                content = json.loads((folder / "checkpoint.json").read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue  # damaged: resuming decides what to do about it
            refuse_newer(folder, content)


def best_device() -> torch.device:
    """What accelerate will train on."""
    return join_processes().device


def check_precision(mixed_precision: str, device: torch.device) -> None:
    """Raises an InputError for fp16 without a GPU: the CPU has no loss scaling for it."""
    if mixed_precision == "fp16" and device.type not in ("cuda", "xpu", "mps"):
        raise InputError("train.mixed_precision fp16 needs a GPU; on the CPU use bf16, or no")


def check_data(recipe: Recipe, base: Path | None = None) -> None:
    """The datasets' descriptions against the recipe and the policy that is trained further, before anything is
    decoded: cameras, and the sizes of actions and states.

    Only LeRobot datasets are looked at, whose description is one small file; others are checked as they are opened.

    Args:
        base: Folder of the model to start from.

    Raises:
        InputError: no such camera; other cameras, or another action or state size, than the policy has.
    """
    from ..data.lerobot import LeRobotDataset, is_lerobot_folder

    needs = policy_needs(base) if base is not None else {}
    if needs.get("cameras") and recipe.data.cameras(recipe.data.root[0]) != needs["cameras"]:
        raise InputError(
            f"the policy in {base} looks through {', '.join(needs['cameras'])}, data.camera is "
            f"{', '.join(recipe.data.cameras(recipe.data.root[0]))}: name the cameras it was trained with"
        )
    for root in recipe.data.root:
        if not is_lerobot_folder(root):
            continue
        dataset = LeRobotDataset(root)
        for camera in recipe.data.cameras(root):
            dataset.camera_key(camera)
        features = dataset.info.get("features", {})
        for key, name in (("action", "action_dim"), ("observation.state", "state_dim")):
            found = _size(features.get(key))
            if found is not None and needs.get(name) not in (None, 0, found):
                raise InputError(
                    f"{root}: {key} has {found} numbers, the policy in {base} was trained with {needs[name]}: it "
                    "cannot be trained further on this dataset; start from a model that was trained on video alone"
                )


def policy_needs(folder: Path) -> dict[str, Any]:
    """`cameras`, `action_dim` and `state_dim` that the policy in `folder` has; {} if it is no policy, or says nothing
    of them in plain numbers."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        processor = json.loads((folder / "processor_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not any(name.endswith("ForRobotPolicy") for name in config.get("architectures") or ()):
        return {}
    needs: dict[str, Any] = {"cameras": processor.get("cameras")}
    if processor.get("action_layout", "vector") == "vector":  # poses have another number of tokens than numbers
        needs |= {name: config[name] for name in ("action_dim", "state_dim") if isinstance(config.get(name), int)}
    return needs


def _size(feature: dict[str, Any] | None) -> int | None:
    shape = (feature or {}).get("shape")
    return int(shape[0]) if isinstance(shape, list) and len(shape) == 1 else None
