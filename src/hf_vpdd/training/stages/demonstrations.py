"""Demonstrations as transitions for offline RL: which episodes are prior and which target, and their labels."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from ...errors import InputError
from ..arguments import DataArguments, Recipe
from .common import _sentence, choose_episodes, frame_indices, open_store


@dataclass
class Split:
    """Episode numbers of the store: demonstrations to train on, of prior and of target tasks, and held-out ones."""

    prior: list[int]
    target: list[int]
    held_out: list[int]


def open_demonstrations(recipe: Recipe, store=None):
    """The store of `data.root` and `offline_rl.target_root`, one after the other."""
    data, options = recipe.data, recipe.options
    twice = sorted(set(data.root) & set(options.target_root))
    if twice:
        raise InputError(
            f"{twice[0]} is in data.root and in target_root: name its target tasks with target_tasks instead"
        )
    if any(len(data.cameras(root)) > 1 for root in data.root):
        raise InputError(f"data.camera: V-PTR's policy looks through one camera, got {data.camera}")
    if store is None:
        store = open_store(replace(recipe, data=replace(data, root=[*data.root, *options.target_root], weights=None)))
    if store.views:
        raise InputError(f"V-PTR's policy looks through one camera, the store has {store.cameras}")
    if store.action is None:
        raise InputError(
            f"offline RL needs demonstrations with actions; {store.name} has none: record them without --no-actions; "
            "action-less video is for training/pretrain.py --model vptr"
        )
    return store


def split_episodes(recipe: Recipe, store) -> Split:
    """Prior and target episodes by `target_root` or `target_tasks`; the last of each task are held out of both.

    Raises:
        InputError: a task that is not there, or with too few episodes; nothing left for a phase that has steps.
    """
    data, options = recipe.data, recipe.options
    roots = list(dict.fromkeys(store.roots))
    tasks = None
    if options.target_tasks is not None:
        tasks = {_sentence(task, store.episode_task) for task in options.target_tasks}
    if options.target_root:
        extra = set(roots[len(data.root) :])
        is_target = [root in extra and (tasks is None or task in tasks) for root, task in _episodes(store)]
        is_prior = [root not in extra for root in store.roots]
    else:
        is_target = [tasks is not None and task in tasks for task in store.episode_task]
        is_prior = [not target for target in is_target]
    prior, target = (np.flatnonzero(chosen) for chosen in (is_prior, is_target))
    if tasks is not None and not len(target):
        raise InputError(f"target_tasks: no episode of {sorted(tasks)} is in the target data")
    if not len(prior) and not options.skip_multitask:
        raise InputError("no prior data is left beside the target tasks: name other tasks, or give skip_multitask")
    training, held_out = {"prior": [], "target": []}, []
    if not options.skip_multitask:
        training["prior"], held = _choose(store, prior, _only_present(data, store, prior))
        held_out += held
    if len(target):
        of_target = replace(data, tasks=None, episodes_per_task=options.target_episodes)
        if options.target_episodes is None:
            of_target = replace(of_target, demo_draw=0)
        training["target"], held = _choose(store, target, of_target)
        held_out += held
    return Split(training["prior"], training["target"], sorted(held_out))


def _episodes(store):
    return zip(store.roots, store.episode_task)


def _only_present(data: DataArguments, store, episodes: np.ndarray) -> DataArguments:
    """`data.tasks` without those that no prior episode shows (the target's may be among them)."""
    if data.tasks is None:
        return data
    present = {store.episode_task[e] for e in episodes}
    names = [task for task in data.tasks if _sentence(task, store.episode_task) in present]
    return replace(data, tasks=names)


def _choose(store, episodes: np.ndarray, data: DataArguments) -> tuple[list[int], list[int]]:
    train, held_out = choose_episodes(store.subset(episodes), data)
    return [int(episodes[e]) for e in train], [int(episodes[e]) for e in held_out]


class Transitions:
    """Rows of the store as (s, a, r, s', mask, return), with everything in the network's units.

    Args:
        processor: normalises states and actions. goals: give the last frame of each demonstration as its goal image.
        rewards, masks: float (N,), labels of all frames of the store, if they are not the sparse ones of the options.

    Raises:
        InputError: rewards that contradict the masks.
    """

    def __init__(self, store, options, processor, task_of_frame: np.ndarray, words=None, goals: bool = False,
                 rewards: np.ndarray | None = None, masks: np.ndarray | None = None):  # fmt: skip
        from ...data.goals import check_labels, returns_to_go, sparse_labels

        self.store, self.words, self.goals = store, words, goals
        self.actions = processor.normalize_actions(torch.from_numpy(action_labels(store, options.action_labels)))
        self.states = None
        if processor.state_dim:
            self.states = processor.normalize_state(torch.from_numpy(np.asarray(store.state)))
        self.task_of_frame = torch.from_numpy(task_of_frame)
        self.last = (store.episode_to[store.frame_episode] - 1).astype(np.int64)
        labels = np.zeros((3, store.num_frames), np.float32)
        for first, to in zip(store.episode_from, store.episode_to):
            own = sparse_labels(int(to - first), options.final_steps, options.success_reward, options.step_reward)
            reward, mask = own if rewards is None else (rewards[first:to], masks[first:to])
            check_labels(reward, mask, options.step_reward)
            labels[:, first:to] = reward, mask, returns_to_go(reward, mask, options.discount)
        self.rewards, self.masks, self.returns = torch.from_numpy(labels)

    def batch(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
        """Frames uint8 (2, B, S, S, 3): now and next (a demonstration's last frame follows itself, its mask is 0).

        `state` and `next_state` (B, Ds), `actions` (B, A), `rewards`, `masks`, `returns` (B,), `task_ids` (B,) or
        tokens, `goal_frames` (B, S, S, 3).
        """
        following = np.minimum(rows + 1, self.last[rows])
        batch = {"frames": torch.from_numpy(self.store.frames[np.stack((rows, following))])}
        for name in ("actions", "rewards", "masks", "returns"):
            batch[name] = getattr(self, name)[rows]
        if self.states is not None:
            batch |= {"state": self.states[rows], "next_state": self.states[following]}
        tasks = self.task_of_frame[rows]
        if self.words is None:
            batch["task_ids"] = tasks
        else:
            batch |= {name: tokens[tasks] for name, tokens in self.words.items()}
        if self.goals:
            batch["goal_frames"] = torch.from_numpy(self.store.frames[self.last[rows]])
        return batch


def action_labels(store, kind: str) -> np.ndarray:
    """Actions (N, A) of all frames, in robot units: as recorded, or with all but the last number replaced by the
    difference of the next state and this one (spec vptr.md §2.3; zero at the end of a demonstration)."""
    actions = np.array(store.action, np.float32)
    if kind == "recorded":
        return actions
    moved = actions.shape[1] - 1
    if store.state is None or store.state.shape[1] < moved:
        size = 0 if store.state is None else store.state.shape[1]
        raise InputError(f"action_labels state_difference needs a state of at least {moved} numbers, it has {size}")
    state = np.asarray(store.state)
    following = np.minimum(np.arange(len(state)) + 1, store.episode_to[store.frame_episode] - 1)
    actions[:, :moved] = state[following, :moved] - state[:, :moved]
    return actions


def training_rows(store, split: Split, data: DataArguments) -> tuple[np.ndarray, np.ndarray]:
    """(prior, target) rows that are samples."""
    return tuple(frame_indices(store, episodes, data.frame_stride) for episodes in (split.prior, split.target))


def prior_groups(store, data: DataArguments, rows: np.ndarray):
    """For the sampler: which of `data.root` each prior row is from, and their shares."""
    if data.weights is None:
        return None, None
    roots = list(dict.fromkeys(store.roots))[: len(data.root)]
    return np.array([roots.index(root) for root in store.roots])[store.frame_episode[rows]], list(data.weights)
