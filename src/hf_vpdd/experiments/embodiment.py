"""The claim about foreign video in small: does action-less video of another body help when demonstrations are few?

Every mix of video gets the same budget: the same number of different frames (to within an episode), the same steps of
the same batches for the tokenizer and for the video trunk. What differs is where the frames come from:

    demonstrations   the videos of the labelled demonstrations and nothing else (for the arms without pre-training)
    target           the robot that is to learn
    other            other bodies, in equal parts, and not one frame of the robot
    mixture          half and half

The tokenizer of an arm has seen what its trunk has seen, and no more. Then every arm is fine-tuned on the same few
demonstrations for the same number of steps:

    none                     trunk from random weights, tokenizer trained on the demonstrations
    none, mixture tokenizer  trunk from random weights, tokenizer of the mixture: what the tokenizer alone is worth
    target, other, mixture   trunk pre-trained on that video, and all of it trained on, exactly as in `none`
    ..., frozen              the same, trunk kept as it was pre-trained

A training seed goes through the whole chain from pre-training on; tokenizers are trained once.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import InputError
from ..files import atomic_write_text
from .few_shot import Cell, Plan, grid, markdown, run_grid, summarise
from .jobs import run_all, run_unless_done


class Arm(NamedTuple):
    """Which video the tokenizer and the trunk saw, and how fine-tuning treats the trunk."""

    mix: str
    settings: dict[str, Any]


_SCRATCH = {"from_scratch": True, "trunk_lr_multiplier": 1.0}
_TUNED, _FROZEN = {"trunk_lr_multiplier": 1.0}, {"trunk_lr_multiplier": 0.0}
ARMS: dict[str, Arm] = {
    "none": Arm("demonstrations", _SCRATCH),
    "none-mixture-tokenizer": Arm("mixture", _SCRATCH),
    "target": Arm("target", _TUNED),
    "other": Arm("other", _TUNED),
    "mixture": Arm("mixture", _TUNED),
    "target-frozen": Arm("target", _FROZEN),
    "other-frozen": Arm("other", _FROZEN),
    "mixture-frozen": Arm("mixture", _FROZEN),
}
MIXES = ("demonstrations", "target", "other", "mixture")
MAX_INSTRUCTION_LENGTH = (
    48  # a tokenizer that has read other bodies' sentences alone spells the robot's in small pieces
)


@dataclass(frozen=True)
class EmbodimentPlan(Plan):
    """What all cells share; the recipe's `data.root` is the robot that is to learn.

    Args:
        others: Datasets of the other bodies. other_camera: their camera.
        demos: Demonstrations per task, of which the `none` arms' tokenizer sees the video.
        frames: Budget of different frames of every mix; None takes as many as each mix can fill.
        tokenizer_steps, pretrain_steps: Training steps; None takes the recipe's.
    """

    others: tuple[str, ...] = ()
    other_camera: str = "front"
    demos: int = 2
    frames: int | None = None
    tokenizer_steps: int | None = None
    pretrain_steps: int | None = None

    def settings(self, cell: Cell) -> dict[str, Any]:
        arm = ARMS[cell.arm]
        return {**arm.settings, "init_from": str(self.pretrained(arm.mix, cell.seed))}

    def identity(self) -> dict[str, Any]:
        own = ("others", "demos", "frames", "tokenizer_steps", "pretrain_steps")
        return {**super().identity(), **{name: getattr(self, name) for name in own}}

    def tokenizer(self, mix: str) -> Path:
        return Path(self.out) / "vqvae" / mix

    def pretrained(self, mix: str, seed: int) -> Path:
        # A trunk that will be random anyway needs no seeds: the folder carries tokenizer and configuration.
        name = mix if mix == "demonstrations" else f"{mix}-seed{seed}"
        return Path(self.out) / "pretrain" / name

    def target(self) -> str:
        """The robot's dataset.

        Raises:
            InputError: The recipe has several datasets, or no other bodies were given.
        """
        from ..training import load_recipe

        roots = load_recipe("vqvae", self.recipe).data.root
        if len(roots) != 1 or not self.others:
            raise InputError("the study of other bodies needs one data.root in the recipe and at least one --other")
        return roots[0]

    def roots(self, mix: str) -> dict[str, float]:
        """The datasets of a mix with their shares, which sum to one."""
        others = {root: 1 / len(self.others) for root in self.others}
        if mix == "other":
            return others
        if mix == "mixture":
            return {self.target(): 0.5, **{root: share / 2 for root, share in others.items()}}
        return {self.target(): 1.0}

    def recipe_of(self, stage: str, mix: str, seed: int = 0):
        """The recipe of `vqvae` or `pretrain` for a mix."""
        from ..training import load_recipe

        seed = 0 if mix == "demonstrations" else seed
        roots = self.roots(mix)
        folder, steps = self.tokenizer(mix), self.tokenizer_steps
        overrides: dict[str, Any] = {}
        if stage == "pretrain":
            overrides = {"init_from": str(folder), "max_instruction_length": MAX_INSTRUCTION_LENGTH}
            folder = self.pretrained(mix, seed)
            steps = 1 if mix == "demonstrations" else self.pretrain_steps
        if mix == "demonstrations":
            overrides["data.episodes_per_task"] = self.demos
        recipe = load_recipe(stage, self.recipe)
        camera = recipe.data.cameras(self.target())
        if steps is not None:
            overrides["train.steps"] = steps
        if len(roots) > 1:
            overrides["data.weights"] = list(roots.values())
        overrides |= {
            "data.root": list(roots),
            "data.camera": {root: camera if root == self.target() else [self.other_camera] for root in roots},
            "train.seed": seed, "train.tracker": "none", "train.progress": False, "output_dir": str(folder),
        }  # fmt: skip
        return load_recipe(stage, self.recipe, {**dict(self.overrides), **overrides})


def prepare_tokenizer(plan: EmbodimentPlan, mix: str) -> None:
    """Train the tokenizer of a mix, unless it is there."""
    from ..training import run_vqvae

    run_unless_done(plan.recipe_of("vqvae", mix), run_vqvae, store=mixed_store(plan, mix))


def pretrain(plan: EmbodimentPlan, mix: str, seed: int) -> None:
    """Pre-train the trunk of a mix, unless it is there."""
    from ..training import run_pretrain

    run_unless_done(plan.recipe_of("pretrain", mix, seed), run_pretrain, store=mixed_store(plan, mix))


def mixed_store(plan: EmbodimentPlan, mix: str):
    """The frames of a mix: from each dataset its share of the budget, and all that is held out."""
    from ..data.frame_store import FrameStore

    recipe = plan.recipe_of("vqvae", mix)
    held_out = recipe.data.val_episodes_per_task
    if mix == "demonstrations":
        return _open(recipe, plan.target())
    budget = frame_budget(plan)
    parts = [within_budget(_open(recipe, root), budget * share, held_out) for root, share in plan.roots(mix).items()]
    return FrameStore.concat(parts, video_only=True)


def frame_budget(plan: EmbodimentPlan) -> int:
    """The number of different training frames of every mix: `plan.frames`, or the most that every mix can fill.

    Raises:
        InputError: There are fewer frames than `plan.frames`.
    """
    target = plan.target()
    recipe = plan.recipe_of("vqvae", "mixture")
    room = []
    for root in (target, *plan.others):
        episodes = _training_episodes(_open(recipe, root), recipe.data.val_episodes_per_task)
        frames = sum(length for _, length in episodes)
        room.append(frames if root == target else frames * len(plan.others))
    if plan.frames is None:
        return min(room)
    if plan.frames > min(room):
        raise InputError(
            f"a budget of {plan.frames} frames is more than the recordings have for each mix: {min(room)}"
        )
    return plan.frames


def within_budget(store, frames: float, held_out: int):
    """The first episodes of every task, task by task in turn, until they hold `frames` frames; and the last `held_out`
    episodes of every task, which no stage trains on."""
    taken, total = [], 0
    for episode, length in _training_episodes(store, held_out):
        if total + length / 2 > frames:  # to within half an episode
            break
        taken.append(episode)
        total += length
    if not taken:
        raise InputError(f"{store.name}: {frames:.0f} frames are less than one episode")
    chosen = {episode for episode, _ in _training_episodes(store, held_out)}
    kept = [e for e in range(store.num_episodes) if e not in chosen]
    return store.subset(sorted(taken + kept))


def _training_episodes(store, held_out: int) -> list[tuple[int, int]]:
    """(episode, length) that may be trained on: the first of every task, then the second of every task, ..."""
    of_task: dict[str, list[int]] = {}
    for episode, task in enumerate(store.episode_task):
        of_task.setdefault(task, []).append(episode)
    ranked = [
        (rank, number, episode)
        for number, episodes in enumerate(of_task.values())
        for rank, episode in enumerate(episodes[: len(episodes) - held_out])
    ]
    return [(e, int(store.episode_to[e] - store.episode_from[e])) for _, _, e in sorted(ranked)]


def _open(recipe, root: str):
    from ..data.frame_store import FrameStore

    camera = recipe.data.cameras(root)[0]
    return FrameStore.build(root, camera, recipe.data.image_size, recipe.data.cache_dir, progress=False)


def reconstruction(plan: EmbodimentPlan, samples: int = 1600) -> dict[str, dict[str, float]]:
    """PSNR (dB) of every tokenizer on held-out frames of every domain: {mix: {dataset: dB}}."""
    import torch

    from ..data.frame_store import FrameStore
    from ..modeling.vqvae.modeling_vqvae import VPDDVQVAE
    from ..training import load_recipe
    from ..training.stages.vqvae import VQVAETask

    base = plan.recipe_of("vqvae", "mixture")
    recipe = load_recipe(
        "vqvae", plan.recipe,
        {**dict(plan.overrides), "data.root": base.data.root, "data.camera": base.data.camera,
         "pixel_weighting": "none", "train.eval_samples": samples, "output_dir": str(Path(plan.out) / "vqvae")},
    )  # fmt: skip
    torch.set_num_threads(1)
    task = VQVAETask(recipe, FrameStore.concat([_open(base, root) for root in base.data.root], video_only=True))
    results = {}
    for mix in MIXES:
        model = VPDDVQVAE.from_pretrained(plan.tokenizer(mix), dtype=torch.float32).eval()
        with torch.inference_mode():
            metrics = task.evaluate(model, None, torch.device("cpu"), True).metrics
        results[mix] = {root: metrics[f"psnr_{Path(root).name}"] for root in base.data.root}
    return results


def run_study(
    plan: EmbodimentPlan, arms: Sequence[str], seeds: int, workers: int = 1, progress: bool = True
) -> tuple[list[dict[str, Any]], dict[str, dict[str, float]]]:
    """Everything that is not there yet: tokenizers, then seed by seed pre-training, fine-tuning and evaluation.

    Returns:
        The results of all cells, and `reconstruction(plan)`.
    """
    cells = grid(arms, [plan.demos], seeds, 1, known=ARMS)
    mixes = [mix for mix in MIXES if any(ARMS[arm].mix == mix for arm in arms)]
    frame_budget(plan)  # opens and decodes every recording once, before processes would do it at the same time
    run_all(prepare_tokenizer, [(plan, mix) for mix in mixes], workers, "tokenizer", progress)
    results = []
    for seed in range(seeds):
        run_all(pretrain, [(plan, mix, seed) for mix in mixes], workers, "trunk", progress)
        results += run_grid(plan, [cell for cell in cells if cell.seed == seed], workers, progress)
    return results, reconstruction(plan) if len(mixes) == len(MIXES) else {}


def report(plan: EmbodimentPlan, results: Sequence[dict[str, Any]], psnr: dict[str, dict[str, float]]) -> str:
    """Both tables as Markdown; also written to `table.md`, the numbers to `results.jsonl`."""
    text = markdown(summarise(results, order=ARMS))
    if psnr:
        roots = list(next(iter(psnr.values())))
        text += "\n| tokenizer trained on | " + " | ".join(f"{Path(root).name}, dB" for root in roots) + " |\n"
        text += "|---|" + "---|" * len(roots) + "\n"
        for mix, values in psnr.items():
            text += f"| {mix} | " + " | ".join(f"{values[root]:.1f}" for root in roots) + " |\n"
    lines = [
        {"tokenizer": mix, "psnr": {Path(root).name: round(value, 3) for root, value in values.items()}}
        for mix, values in psnr.items()
    ]
    atomic_write_text(Path(plan.out) / "table.md", text)
    atomic_write_text(
        Path(plan.out) / "results.jsonl", "".join(json.dumps(line) + "\n" for line in (*results, *lines))
    )
    return text
