"""Phases 2 and 3 of V-PTR: offline RL on multi-task demonstrations, then with those of the target tasks mixed in.

One continuous run (spec vptr.md §2, §3): at step `prior_steps` only the mixture of the batches changes. The ablations
of the paper are options: `init`, `freeze_encoders`, `skip_multitask`, `objective`.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ...errors import InputError
from ..arguments import Recipe, build_config
from ..image_augment import jitter_colors, random_crop
from ..loop import Evaluation, Task, train
from ..objectives.cql import CqlBatch, CqlSettings, SlowCritics, cql_step, draw, make_optimizers
from ..phases import PhasedSampler
from .common import (
    camera_names,
    check_model_type,
    frame_indices,
    quiet_transformers,
    require_model_folder,
    rows_of,
    sentences_with_paraphrases,
    spread,
    write_folder,
)
from .demonstrations import (
    Transitions,
    action_labels,
    open_demonstrations,
    prior_groups,
    split_episodes,
    training_rows,
)
from .value_pretrain import text_section


_OBJECTIVE = {"vptr": "icvf", "vip": "vip", "tcn": "tcn"}
_ENCODER = ("encoder", "image_size", "num_channels", "bit_config", "backbone_config", "impala_widths", "impala_blocks")
_VALUE = ("value_head", "value_hidden_sizes", "value_layer_norm", "num_value_heads", "value_objective")


def run_offline_rl(recipe: Recipe, store: Any = None) -> Path:
    """Train a `VPTRForRobotPolicy` by `recipe` (see `load_recipe("offline_rl", ...)`); returns its folder, which
    `pipeline("robot-policy", model=folder)` and `RobotPolicy` load.

    Args:
        store: a `FrameStore` of `data.root` and `target_root`, if it was opened already.

    Raises:
        InputError: no actions in the data, an encoder of another size or objective in `init`, values that diverge.
    """
    return train(OfflineRLTask(recipe, open_demonstrations(recipe, store)), recipe).output_dir


class Cloning(nn.Module):
    """The behaviour cloning loss with the policy it trains, as one module, so that processes agree about gradients."""

    def __init__(self, policy):
        super().__init__()
        self.policy = policy

    def forward(self, pixel_values, state, actions, condition) -> torch.Tensor:
        return -self.policy.act(pixel_values, state, **condition).log_prob(actions).mean()


class OfflineRLTask(Task):
    def __init__(self, recipe: Recipe, store):
        options, data = recipe.options, recipe.data
        self.recipe, self.options, self.store = recipe, options, store
        if recipe.train.gradient_checkpointing:
            raise InputError("train.gradient_checkpointing: V-PTR's encoders do not support it")
        if options.objective == "cql" and recipe.train.weight_decay:
            raise InputError("train.weight_decay must be 0: offline RL is trained with plain Adam")
        split = split_episodes(recipe, store)
        training = [*split.prior, *split.target]
        # the target tasks have their place in the table from the first step on
        self.tasks = list(dict.fromkeys(store.episode_task[e] for e in training))
        torch.manual_seed(recipe.train.seed)
        with quiet_transformers():
            self.policy, self.processor = build_policy(recipe, store, self.tasks, training)
        config = self.policy.config
        words = None
        if config.condition == "text":
            words = self.processor.tokenize_instructions(self.tasks)
        table = {task: i for i, task in enumerate(self.tasks)}
        task_of_frame = np.array([table.get(task, -1) for task in store.episode_task], np.int64)[store.frame_episode]
        self.transitions = Transitions(
            store, options, self.processor, task_of_frame, words, goals=config.condition == "goal_image"
        )
        prior, target = training_rows(store, split, data)
        self.prior, self.rows = len(prior), np.concatenate((prior, target))
        self.num_samples = len(self.rows)
        self.sample_groups, self.group_weights = prior_groups(store, data, prior)
        known = [e for e in split.held_out if store.episode_task[e] in table]
        self.held_out = spread(frame_indices(store, known), recipe.train.eval_samples)
        self._resolve_phases()
        self.settings = CqlSettings(
            options.alpha, options.discount, options.target_rate, options.num_actions, options.target_entropy,
            options.bound_with_returns, options.max_backup,
        )  # fmt: skip
        self._freeze()
        self.own_optimizers = options.objective == "cql"
        self.model = self.policy if self.own_optimizers else Cloning(self.policy)
        self.fingerprints = {
            "dataset": store.fingerprint, "prior": ",".join(map(str, split.prior)),
            "target": ",".join(map(str, split.target)), "init": options.init, "objective": options.objective,
        }  # fmt: skip

    def _resolve_phases(self) -> None:
        """Into the options, so that a run that goes on keeps its boundary."""
        options, steps = self.options, self.recipe.train.steps
        if options.skip_multitask:
            options.prior_steps, options.mixing = 0, 0.0
        elif self.prior == len(self.rows):
            options.prior_steps = steps
        elif options.prior_steps is None:
            options.prior_steps = steps // 2
        if options.prior_steps < steps and self.prior < len(self.rows) and options.mixing == 1:
            raise InputError("mixing is 1: the target demonstrations would never be seen; lower it, or name no target")

    def _freeze(self) -> None:
        policy, options = self.policy, self.options
        if options.freeze_encoders:
            policy.actor_encoder.requires_grad_(False)
            policy.critic_encoder.requires_grad_(False)
        if options.objective == "bc":
            for part in (policy.critic_encoder, policy.critic_bottleneck, policy.critics, policy.log_temperature):
                part.requires_grad_(False)

    # ------------------------------------------------------------------------------------------------------ batches

    def sampler(self, args, rank, world_size):
        return PhasedSampler(
            self.prior, len(self.rows) - self.prior, args.batch_size, self.options.prior_steps, self.options.mixing,
            args.seed, rank, world_size, self.sample_groups, self.group_weights,
        )  # fmt: skip

    def batch(self, indices):
        return self.transitions.batch(self.rows[indices])

    def _inputs(self, batch: dict[str, torch.Tensor], generator: torch.Generator | None) -> tuple[torch.Tensor, dict]:
        """(pixels (2, B, 3, S, S) of now and next, augmented with a generator; what tells the task)."""
        frames, options = batch["frames"], self.options
        flat = frames.flatten(0, 1)
        if generator is not None:
            flat = random_crop(flat, options.crop_padding, generator)
        pixels = flat.movedim(-1, -3).float().div_(255)
        if generator is not None:
            pixels = jitter_colors(pixels, options.jitter, options.jitter_probability, generator)
        condition = {k: batch[k] for k in ("task_ids", "input_ids", "attention_mask") if k in batch}
        if "goal_frames" in batch:
            condition = {"goal_pixel_values": batch["goal_frames"].movedim(-1, -3).float().div_(255)}
        return pixels.unflatten(0, frames.shape[:2]), condition

    # ------------------------------------------------------------------------------------------------------- a step

    def on_device(self, device, args):
        if self.own_optimizers:
            options, rate = self.options, args.learning_rate
            self.slow = SlowCritics(self.policy)
            rates = (rate * options.actor_lr_multiplier, rate, rate * options.temperature_lr_multiplier)
            self.optimizers = make_optimizers(self.policy, *rates, betas=tuple(args.betas), eps=args.eps)
            self.rates = dict(zip(("actor", "critic", "temperature"), rates))
            self.clip = args.clip

    def step(self, batch, generator, learning_rate_factor, average):
        for name, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = self.rates[name] * learning_rate_factor
        (now, following), condition = self._inputs(batch, generator)
        rows = CqlBatch(
            now, following, batch["actions"], batch["rewards"], batch["masks"], batch["returns"], batch.get("state"),
            batch.get("next_state"), condition,
        )  # fmt: skip
        draws = draw(self.policy, rows, self.settings, generator)
        logs = cql_step(self.policy, self.slow, self.optimizers, rows, self.settings, draws, average, self.clip)
        skipped = logs.pop("skipped")
        return {"loss": logs["critic_loss"], **logs}, skipped

    def loss(self, model, batch, generator):
        (now, _), condition = self._inputs(batch, generator)
        return model(now, batch.get("state"), batch["actions"], condition), {}

    def check(self, values):
        options = self.options
        bound = max(abs(options.success_reward), abs(options.step_reward) / (1 - options.discount))
        found = abs(values.get("q_data", 0.0))
        if not found <= options.value_limit * bound:  # also if it is not a number
            raise InputError(
                f"values diverge: the mean Q of the demonstrations is {values['q_data']:.4g}, rewards allow none "
                f"beyond {bound:.4g} (value_limit is {options.value_limit:g} times that). Stopped: lower "
                "train.learning_rate or offline_rl.alpha; earlier checkpoints are in the output folder"
            )

    def state_dict(self):
        if not self.own_optimizers:
            return {}
        optimizers = {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}
        return {"slow": self.slow.state_dict(), "optimizers": optimizers}

    def load_state_dict(self, state):
        if self.own_optimizers:
            self.slow.load_state_dict(state["slow"])
            for name, optimizer in self.optimizers.items():
                optimizer.load_state_dict(state["optimizers"][name])

    # --------------------------------------------------------------------------------------------- evaluation, saving

    def evaluate(self, model, generator, device, final):
        """On held-out demonstrations of known tasks: likelihood and error of the actions, Q of them and of others."""
        if not len(self.held_out):
            return Evaluation()
        policy, sums = self.policy, {}
        for rows in rows_of(len(self.held_out), 64):
            batch = {k: v.to(device) for k, v in self.transitions.batch(self.held_out[rows]).items()}
            (now, _), condition = self._inputs(batch, None)
            labels = batch["actions"]
            at = policy.act(now, batch.get("state"), **condition)
            other = torch.rand(labels.shape, generator=generator, device=generator.device).to(labels) * 2 - 1
            values = policy.evaluate(now, torch.stack((labels, at.mode, other), 1), **condition).amin(0).mean(0)
            error = self.processor.unnormalize_actions(at.mode) - self.processor.unnormalize_actions(labels)
            found = {
                "nll": -at.log_prob(labels).mean(), "action_error": error.abs().mean(), "q_demonstrated": values[0],
                "q_policy": values[1], "q_random": values[2],
            }  # fmt: skip
            for name, value in found.items():
                sums[name] = sums.get(name, 0.0) + float(value) * len(labels) / len(self.held_out)
        if self.options.objective == "bc":  # its critics never learn
            sums = {name: value for name, value in sums.items() if not name.startswith("q_")}
        return Evaluation(sums)

    def save_model(self, folder, model, final):
        import hf_vpdd

        write_folder(folder, lambda target: hf_vpdd.save_policy(target, self.policy, self.processor))


def build_policy(recipe: Recipe, store, tasks: list[str], training: list[int]):
    """(VPTRForRobotPolicy with encoders from `init`, VPTRProcessor with the statistics of the training episodes)."""
    from ...modeling.vpdd.instruction_tokenizer import train_tokenizer
    from ...modeling.vptr import VPTRConfig, VPTRForRobotPolicy
    from ...modeling.vptr.processing_vptr import VPTRProcessor

    options, data, section = recipe.options, recipe.data, dict(recipe.model)
    folder = source = None
    if options.init_kind != "scratch":
        folder = require_model_folder(options.init_folder or recipe.init_from, "offline_rl")
        check_model_type(folder, "vptr", "offline_rl")
        source = VPTRConfig.from_pretrained(folder)
        if "VPTRForValuePrediction" not in (source.architectures or ()):
            raise InputError(f"init: {folder} holds a {(source.architectures or ['?'])[0]}, not a value model")
        if source.value_objective != _OBJECTIVE[options.init_kind]:
            raise InputError(
                f"init: {folder} was trained by {source.value_objective}, {options.init_kind} means "
                f"{_OBJECTIVE[options.init_kind]}"
            )
        plain = source.to_dict()
        section = {**{name: plain[name] for name in (*_ENCODER, *_VALUE)}, **section}
    if section.setdefault("image_size", data.image_size) != data.image_size:
        raise InputError(f"the encoder reads {section['image_size']} px images, data.image_size is {data.image_size}")
    sizes = {"action_dim": int(store.action.shape[1])}
    sizes["state_dim"] = 0 if store.state is None else int(store.state.shape[1])
    for name, found in sizes.items():
        allowed = (found, 0) if name == "state_dim" else (found,)
        if section.setdefault(name, found) not in allowed:
            raise InputError(f"model.{name} is {section[name]}, the dataset has {found}")
    condition = section.get("condition", "task")
    tokenizer = None
    if condition == "text":
        sentences = [s for group in sentences_with_paraphrases(tasks) for s in group]
        tokenizer = train_tokenizer(sentences, options.vocab_size, max_length=options.max_instruction_length)
        section["text_config"] = text_section(section.get("text_config"), tokenizer, options.max_instruction_length)
    config = build_config("offline_rl", {**section, "intent": "image"}, tasks=tasks)
    if folder is None:
        policy = VPTRForRobotPolicy(config)
    else:
        try:
            policy = VPTRForRobotPolicy.from_video_pretrained(folder, config, dtype=torch.float32)
        except ValueError as error:
            raise InputError(f"init: {error}") from error
    rows = frame_indices(store, training)
    actions = action_labels(store, options.action_labels)[rows]
    limits = {}
    for name in ("action_low", "action_high"):
        value = getattr(options, name)
        if value is not None:
            if len(value) not in (1, actions.shape[1]):
                raise InputError(f"offline_rl.{name} must have 1 or {actions.shape[1]} numbers, got {len(value)}")
            limits[name] = np.asarray(value, np.float64)
    processor = VPTRProcessor.from_dataset_stats(
        actions, np.asarray(store.state)[rows] if config.state_dim else None, **limits, tokenizer=tokenizer,
        cameras=camera_names(data), image_size=config.image_size, condition=condition, tasks=tasks,
        action_limit=options.action_limit,
        max_instruction_length=options.max_instruction_length if tokenizer else None,
    )  # fmt: skip
    if options.action_labels != "recorded":
        processor.action_stats = None  # no dataset's actions are to be like these
    return policy, processor
