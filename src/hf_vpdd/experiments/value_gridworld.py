"""Do values learned from clips know how far a goal is? Measured where the true distance is known: four rooms.

Five rows: ICVF, VIP and R3M's time-contrastive objective (TCN) on the same encoder, clips, steps, batch and rate; an
untrained network; the pixel distance. A cell is (objective, seed): a JSON file in the folder of the study, so that a
study can be stopped and goes on.

Every picture that occurs in a batch is encoded once: there are only 104 of them. No loss is changed by that.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..files import atomic_write_text
from .few_shot import _claim
from .jobs import run_all


ARMS = ("icvf", "vip", "tcn", "untrained", "pixels")
_TRAINED = ("icvf", "vip", "tcn")


@dataclass(frozen=True)
class GridworldPlan:
    """What all cells share. Goal probabilities and expectile are the official ones; the rates those of a small budget
    (official: 5e-5 and 0.005, for a million steps). LayerNorm in the heads: with ReLU alone they begin as a product of
    tiny numbers, and stay there for thousands of steps.

    Args:
        out: Folder of the results. steps, batch_size, learning_rate, target_rate, discount: of the training.
        clips: Walks to learn from; another hundred are held out. random_share: of random moves in them.
        scale: Pixels of a cell. widths, blocks: of the IMPALA encoder. hidden, layer_norm: of the value heads.
    """

    out: str
    steps: int = 4000
    batch_size: int = 128
    learning_rate: float = 1e-3
    target_rate: float = 0.02
    discount: float = 0.95
    clips: int = 1000
    random_share: float = 0.3
    scale: int = 1
    widths: tuple[int, ...] = (16, 16)
    blocks: int = 1
    hidden: tuple[int, ...] = (128, 128)
    layer_norm: bool = True

    def identity(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if name != "out"}


def run_gridworld(plan: GridworldPlan, arms: Sequence[str], seeds: int, workers: int = 1, progress: bool = True):
    """Run the cells that have no result yet; the results of all.

    Raises:
        InputError: an unknown arm, or a folder that holds results of another plan.
    """
    unknown = [arm for arm in arms if arm not in ARMS]
    if unknown:
        raise InputError(f"there is no arm {unknown[0]!r}; the arms are {', '.join(ARMS)}")
    _claim(plan)
    cells = _cells(arms, seeds)
    left = [(plan, arm, seed, progress) for seed, arm in cells if not result_path(plan, arm, seed).is_file()]
    run_all(run_cell, left, workers, "cell", progress)
    return [json.loads(result_path(plan, arm, seed).read_text(encoding="utf-8")) for seed, arm in cells]


def _cells(arms: Sequence[str], seeds: int) -> list[tuple[int, str]]:
    """(seed, arm), all arms of a seed side by side; the pixels depend on no network."""
    return [(seed, arm) for seed, arm in product(range(seeds), arms) if arm != "pixels" or seed == 0]


def finished(plan: GridworldPlan, arms: Sequence[str], seeds: int) -> list[dict[str, Any]]:
    """The results that there are already."""
    paths = [result_path(plan, arm, seed) for seed, arm in _cells(arms, seeds)]
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.is_file()]


def result_path(plan: GridworldPlan, arm: str, seed: int) -> Path:
    return Path(plan.out) / "cells" / f"{arm}-seed{seed}.json"


def run_cell(plan: GridworldPlan, arm: str, seed: int, progress: bool = True) -> dict[str, Any]:
    """Train one network on the clips of its seed, and measure its values."""
    from .gridworld import GridWorld

    world = GridWorld()
    generator = np.random.default_rng([seed, 1])
    clips = world.clips(plan.clips, plan.random_share, generator)
    held_out = world.clips(100, plan.random_share, generator)
    pictures = world.pictures(plan.scale)
    began = time.process_time()
    if arm == "pixels":
        flat = pictures.reshape(len(pictures), -1).astype(np.float32)
        values = -np.sqrt(np.square(flat[:, None] - flat[None]).mean(-1))
    else:
        values = _train(plan, arm, seed, pictures, clips, progress)
    content = {
        "study": "value-gridworld", "arm": arm, "seed": seed, "steps": plan.steps if arm in _TRAINED else 0,
        **measure(world, values, held_out), "cpu_seconds": round(time.process_time() - began, 1),
    }  # fmt: skip
    path = result_path(plan, arm, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(path, json.dumps(content) + "\n")
    return content


def measure(world, values: np.ndarray, clips: Sequence[np.ndarray]) -> dict[str, float]:
    """The three numbers of values (N, N), state by goal; `order` on the clips, toward their last frames."""
    from ..evaluation.value_order import value_order

    orders = [value_order(values[clip, clip[-1]]) for clip in clips]
    return {
        "spearman": round(world.spearman(values), 4), "greedy_step": round(world.greedy_steps(values), 4),
        "order": round(float(np.mean(orders)), 4),
    }  # fmt: skip


def _train(plan: GridworldPlan, arm: str, seed: int, pictures: np.ndarray, clips, progress: bool) -> np.ndarray:
    """Values (N, N) of a network trained by the objective `arm`, or of one that was not."""
    import torch
    from tqdm import trange

    from ..data.goals import GoalSampler
    from ..modeling.vptr import VPTRConfig, VPTRForValuePrediction
    from ..training.objectives.targets import make_target, update_target
    from ..training.stages.value_pretrain import Objective
    from ..training.vptr_arguments import ValueArguments
    from .picture_table import PictureTable

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    objective = "icvf" if arm == "untrained" else arm
    heads = {} if objective == "icvf" else {"value_head": "distance", "num_value_heads": 1}
    config = VPTRConfig(
        encoder="impala", image_size=pictures.shape[1], impala_widths=list(plan.widths), impala_blocks=plan.blocks,
        value_hidden_sizes=list(plan.hidden), value_layer_norm=plan.layer_norm, value_objective=objective, **heads,
    )  # fmt: skip
    options = ValueArguments(objective=objective, discount=plan.discount, target_rate=plan.target_rate)
    network = PictureTable(VPTRForValuePrediction(config), pictures)
    learner = Objective(network, options)
    if arm == "untrained":
        return value_table(network)
    ends = np.cumsum([len(clip) for clip in clips])
    goals = GoalSampler(ends - [len(clip) for clip in clips], ends)
    cell = torch.from_numpy(np.concatenate(clips))  # the picture of each frame
    target = make_target(network) if objective == "icvf" else None
    adam = torch.optim.Adam(learner.parameters(), lr=plan.learning_rate, fused=True)
    rng, draws = np.random.default_rng([seed, 2]), torch.Generator().manual_seed(seed)
    for _ in trange(plan.steps, desc=f"{arm}, seed {seed}", unit="step", disable=not progress, mininterval=5):
        rows, numbers = _batch(goals, objective, plan.batch_size, rng)
        loss, _ = learner(cell[torch.from_numpy(rows)], numbers, None, target, draws)
        adam.zero_grad(set_to_none=True)
        loss.backward()
        if target is not None:  # from the weights before their step (spec vptr.md §1.2)
            update_target(target, network, plan.target_rate)
        adam.step()
    return value_table(network)


def _batch(goals, objective: str, size: int, rng: np.random.Generator):
    """(rows (N, B) of the frames of a batch, ICVF's rewards and masks)."""
    import torch

    from ..data.clip_samplers import tcn_frames, vip_frames

    if objective != "icvf":
        clip = rng.integers(len(goals.first), size=size)
        draw = vip_frames if objective == "vip" else tcn_frames
        return np.stack(draw(goals.first[clip], goals.last[clip], rng)), {}
    batch = goals(size, rng)
    numbers = {
        "rewards": batch.reward, "masks": batch.mask, "intent_rewards": batch.intent_reward,
        "intent_masks": batch.intent_mask,
    }  # fmt: skip
    rows = np.stack((batch.state, batch.next_state, batch.outcome, batch.intent))
    return rows, {name: torch.from_numpy(value) for name, value in numbers.items()}


def value_table(network) -> np.ndarray:
    """V(s, g, g) of all pairs of pictures, mean over heads, (N, N)."""
    import torch

    from ..values import Goal, goal_values

    with torch.no_grad():
        features = network.encode(torch.arange(len(network.pictures)))
        columns = [
            goal_values(network, features, Goal(features[goal : goal + 1])).mean(0) for goal in range(len(features))
        ]
    return torch.stack(columns, 1).double().numpy()
