"""Phase 1 of V-PTR: values, and with them a visual encoder, from video without actions (spec vptr.md §1).

ICVF's temporal differences; or, for comparison on the same encoder, data and budget, VIP's or R3M's objective.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ...errors import InputError
from ..arguments import Recipe, build_config
from ..image_augment import random_crop
from ..loop import Evaluation, Task, train
from ..objectives.icvf import icvf_loss, whole
from ..objectives.targets import make_target, update_target
from ..objectives.tcn import tcn_loss
from ..objectives.vip import other_rows, vip_loss
from .common import (
    camera_names,
    choose_episodes,
    open_store,
    quiet_transformers,
    sample_groups,
    sentences_with_paraphrases,
    spread,
    write_folder,
)


# Images of a sample: ICVF's s, s', s+, z; VIP's start, goal, s, s'; TCN's s0, s1, s2.
_IMAGES = {"icvf": 4, "vip": 4, "tcn": 3}
_CURVE_FRAMES = 48  # of a held-out clip, for the value order


def run_value_pretrain(recipe: Recipe, store: Any = None) -> Path:
    """Train a `VPTRForValuePrediction` by `recipe` (see `load_recipe("value_pretrain", ...)`); returns its folder.

    Args:
        store: a `FrameStore`, if it was opened already. Its actions and rewards are never read.

    Raises:
        InputError: a clip of one frame, an image size other than the store's, values that diverge.
    """
    return train(ValueTask(recipe, open_store(recipe, store, video_only=True)), recipe).output_dir


class Objective(nn.Module):
    """A loss with the network it trains, as one module, so that processes agree about its gradients."""

    def __init__(self, network, options):
        super().__init__()
        self.network, self.options = network, options

    def forward(self, images, numbers: dict, words: dict | None, target, generator) -> tuple[torch.Tensor, dict]:
        """
        Args:
            images: float (N, B, 3, S, S) in [0, 1], in the order of `_IMAGES`. numbers: rewards and masks (B,) of
                ICVF. words: tokens of the intents, and which outcomes are them. target: ICVF's slow network.

        Returns:
            Scalar loss; detached 0-dim tensors to log.
        """
        options = self.options
        if options.objective == "icvf":
            return self._icvf(images, numbers, words, target)
        heads, (count, batch) = self.network.value_heads, images.shape[:2]
        features = self.network.encode(images.flatten(0, 1))
        others = other_rows(batch, options.negatives, generator, images.device)
        with torch.autocast(images.device.type, enabled=False):  # half precision is for the encoder alone
            embedded = heads.embedding(whole(features)).unflatten(0, (count, batch))
            if options.objective == "vip":
                loss = vip_loss(*embedded, others, options.vip_discount, options.penalty)
            else:
                loss = tcn_loss(*embedded, others, options.penalty)
        distance = (embedded[-1] - embedded[0]).norm(dim=-1).detach().mean()
        return loss, {"embedding_norm": embedded.detach().norm(dim=-1).mean(), "embedding_distance": distance}

    def _icvf(self, images, numbers, words, target):
        options, intents, goal_is_intent = self.options, images[-1], None
        if words is not None:
            goal_is_intent = words["goal_is_intent"]
            tokens = {name: words[name] for name in ("input_ids", "attention_mask")}
            with torch.no_grad():
                slow = target.embed_intent(**tokens)
            intents = (self.network.embed_intent(**tokens), slow)
        loss = icvf_loss(
            self.network, target, images[0], images[1], images[2], intents, **numbers, discount=options.discount,
            expectile=options.expectile, min_q=options.min_q, no_intent=options.no_intent,
            goal_is_intent=goal_is_intent,
        )  # fmt: skip
        logs = {
            "value": loss.values.mean(), "value_largest": loss.values.abs().amax(), "advantage": loss.advantage,
            "accept": loss.accept, "value_at_intent": loss.value_at_intent, "target": loss.target,
        }  # fmt: skip
        return loss.loss, logs


class ValueTask(Task):
    half_weights = False  # the heads compute in float32

    def __init__(self, recipe: Recipe, store):
        from ...data.goals import GoalSampler
        from ...data.instruction_goals import InstructionGoals
        from ...modeling.vptr import VPTRForValuePrediction

        options, data = recipe.options, recipe.data
        self.recipe, self.options, self.store = recipe, options, store
        if recipe.train.gradient_checkpointing:
            raise InputError("train.gradient_checkpointing: V-PTR's encoders do not support it")
        config, self.processor = value_config(recipe, store)
        self.words = None
        if config.intent == "text":
            if options.objective != "icvf":
                raise InputError(f"model.intent text: {options.objective} has goals that are images")
            self.words = self.processor.tokenize_instructions(store.tasks)
        torch.manual_seed(recipe.train.seed)
        self.model = Objective(VPTRForValuePrediction(config), options)
        if options.objective == "icvf":
            self.unshardable = "ICVF computes its targets with a slow copy of the whole network"
        train_episodes, self.held_out = choose_episodes(store, data)
        names = "p_random p_trajectory p_current p_same intent_same_clip clip_first geometric max_distance"
        goals = {name: getattr(options, name) for name in names.split()}

        def sampler(episodes):
            rows, ends = strided_clips(store.episode_from[episodes], store.episode_to[episodes], options.step_frames)
            images = GoalSampler(np.concatenate(([0], ends[:-1])), ends, **goals)
            if self.words is None:
                return images, rows
            return InstructionGoals(images, store.frame_task[rows[images.first]]), rows

        self.sampler_of_goals, self.rows = sampler(train_episodes)
        self.held_out_goals, self.held_out_rows = sampler(self.held_out) if self.held_out else (None, None)
        self.clips = getattr(self.sampler_of_goals, "sampler", self.sampler_of_goals)
        self.states = self.clips.all_states()
        self.num_samples = len(self.states)
        self.sample_groups, self.group_weights = self._shares()
        self.fingerprints = {
            "dataset": store.fingerprint, "episodes": ",".join(map(str, train_episodes)),
            "objective": options.objective,
        }  # fmt: skip
        self.target = None
        with quiet_transformers():
            self.untrained = self._orders(self.model.network.eval(), torch.device("cpu"))
        self.model.train()

    def _shares(self):
        """Clips weigh the same within their dataset, datasets as `data.weights` says."""
        groups, weights = sample_groups(self.store, self.recipe.data, self.rows[self.states])
        if not self.options.clip_first:
            return groups, weights
        clip = self.clips.clip_of(self.states)
        if weights is None:
            return clip, [1.0] * len(self.clips.first)
        of_clip = groups[np.searchsorted(clip, np.arange(len(self.clips.first)))]  # states come clip after clip
        return clip, [weights[g] / int((of_clip == g).sum()) for g in of_clip]

    # ------------------------------------------------------------------------------------------------------ batches

    def batch(self, indices):
        # A function of the indices alone, hence of (seed, step) like they are.
        return self._draw(self.sampler_of_goals, self.rows, self.states[indices], np.random.default_rng(indices))

    def _draw(
        self, sampler, row_of: np.ndarray, states: np.ndarray, rng: np.random.Generator
    ) -> dict[str, torch.Tensor]:
        """Frames uint8 (N, B, S, S, 3), and for ICVF the labels. row_of: the store's row of each of the sampler's."""
        from ...data.clip_samplers import tcn_frames, vip_frames

        if self.options.objective != "icvf":
            clip = sampler.clip_of(states)
            draw = vip_frames if self.options.objective == "vip" else tcn_frames
            rows = np.stack(draw(sampler.first[clip], sampler.last[clip], rng))
            return {"frames": torch.from_numpy(self.store.frames[row_of[rows]])}
        goals = sampler.goals(states, rng)
        rows = [goals.state, goals.next_state, goals.outcome] + ([goals.intent] if self.words is None else [])
        batch = {"frames": torch.from_numpy(self.store.frames[row_of[np.stack(rows)]])}
        for ours, theirs in (("rewards", "reward"), ("masks", "mask")):
            batch[ours] = torch.from_numpy(getattr(goals, theirs))
            batch[f"intent_{ours}"] = torch.from_numpy(getattr(goals, f"intent_{theirs}"))
        if self.words is not None:
            batch |= {name: tokens[goals.intent] for name, tokens in self.words.items()}
            batch["goal_is_intent"] = torch.from_numpy(goals.outcome_is_intent)
        return batch

    def _inputs(self, batch, generator, augment: bool):
        """(images, numbers, words) of the objective."""
        frames = batch["frames"]
        count, size = frames.shape[:2]
        if augment:
            # ICVF crops every image by itself; the others crop the frames of a clip alike, as they do officially
            together = 1 if self.options.objective == "icvf" else count
            flat = frames.transpose(0, 1).flatten(0, 1)
            flat = random_crop(flat, self.options.crop_padding, generator, together)
            frames = flat.unflatten(0, (size, count)).transpose(0, 1)
        images = frames.movedim(-1, -3).float().div_(255)
        numbers = {k: batch[k] for k in ("rewards", "intent_rewards", "masks", "intent_masks") if k in batch}
        words = {k: batch[k] for k in ("input_ids", "attention_mask", "goal_is_intent") if k in batch}
        return images, numbers, words or None

    # -------------------------------------------------------------------------------------------------------- a step

    def on_device(self, device, args):
        if self.options.objective == "icvf":
            self.target = make_target(self.model.network)

    def loss(self, model, batch, generator):
        return model(*self._inputs(batch, generator, augment=True), self.target, generator)

    def before_update(self, model):
        if self.target is not None:  # from the weights before their step (spec §1.2)
            update_target(self.target, model.network, self.options.target_rate)

    def check(self, values):
        bound = 1 / (1 - self.options.discount)
        largest = values.get("value_largest", 0.0)
        if not largest <= self.options.value_limit * bound:  # also if it is not a number
            raise InputError(
                f"values diverge: the largest is {largest:.4g}, rewards of 0 and -1 allow none beyond {bound:.4g} "
                f"(value_limit is {self.options.value_limit:g} times that). Stopped: lower train.learning_rate or "
                "value_pretrain.target_rate; earlier checkpoints are in the output folder"
            )

    def state_dict(self):
        return {} if self.target is None else {"target": self.target.state_dict()}

    def load_state_dict(self, state):
        if self.target is not None:
            self.target.load_state_dict(state["target"])

    # ------------------------------------------------------------------------------------------------------ evaluation

    def evaluate(self, model, generator, device, final):
        """On held-out clips: the loss, the official diagnostics (spec §1.7), and the value order beside its floors:
        the untrained network and the pixels."""
        if not self.held_out:
            return Evaluation()
        sampler = self.held_out_goals
        states = getattr(sampler, "sampler", sampler).all_states()
        states = spread(states, self.recipe.train.eval_samples)
        rng, sums = np.random.default_rng(0), {}
        for part in np.array_split(states, max(1, len(states) // 64)):
            batch = {k: v.to(device) for k, v in self._draw(sampler, self.held_out_rows, part, rng).items()}
            images, numbers, words = self._inputs(batch, generator, augment=False)
            loss, logs = model(images, numbers, words, self.target, generator)
            logs = {"loss": loss, **logs, **self._diagnostics(model.network, images, words)}
            for name, value in logs.items():
                sums[name] = sums.get(name, 0.0) + float(value) * len(part) / len(states)
        return Evaluation({**sums, **self._orders(model.network, device), **_prefixed("untrained", self.untrained)})

    def _diagnostics(self, network, images, words) -> dict[str, torch.Tensor]:
        """Means of V(s,s,z), V(s,z,z), V(s,s+,s+), V(s,z,s+) and norms of phi and psi."""
        if self.options.objective != "icvf":
            return {}
        heads = network.value_heads
        state, goal = network.encode(images[0]), network.encode(images[2])
        intent = network.encode(images[3]) if words is None else network.embed_intent(
            input_ids=words["input_ids"], attention_mask=words["attention_mask"]
        )  # fmt: skip
        phi, of_state = heads.represent_state(state), heads.represent_goal(state)
        psi, psi_z = heads.represent_goal(goal), heads.represent_goal(intent)
        return {
            "v_ssz": heads.value(phi, of_state, psi_z).mean(), "v_szz": heads.value(phi, psi_z, psi_z).mean(),
            "v_sgg": heads.value(phi, psi, psi).mean(), "v_szg": heads.value(phi, psi_z, psi).mean(),
            "phi_norm": phi.norm(dim=-1).mean(), "psi_norm": psi.norm(dim=-1).mean(),
        }  # fmt: skip

    @torch.no_grad()
    def _orders(self, network, device) -> dict[str, float]:
        """Value-order correlations toward the last frame, and toward the instruction, mean over held-out clips."""
        from ...evaluation.value_order import pixel_values, value_order
        from ...values import encode_frames, goal_values, image_goal, text_goal

        orders: dict[str, list[float]] = {}
        for episode in spread(np.asarray(self.held_out, np.int64), self.options.eval_clips):
            rows = spread(np.arange(self.store.episode_from[episode], self.store.episode_to[episode]), _CURVE_FRAMES)
            frames = self.store.frames[rows]
            features = encode_frames(network, torch.from_numpy(frames).movedim(-1, -3))
            goals = {"order": image_goal(network, torch.from_numpy(frames[-1:]).movedim(-1, -3))}
            if self.words is not None:
                goals["order_text"] = text_goal(network, self.processor, [self.store.episode_task[episode]])
            for name, goal in goals.items():
                curve = goal_values(network, features, goal).mean(0).float().cpu().numpy()
                orders.setdefault(name, []).append(value_order(curve))
            orders.setdefault("pixel_order", []).append(value_order(pixel_values(frames, frames[-1])))
        return {name: float(np.mean(values)) for name, values in orders.items()}

    def save_model(self, folder, model, final):
        def write(target: Path) -> None:
            model.network.save_pretrained(target)
            self.processor.save_pretrained(target)

        write_folder(folder, write)


def strided_clips(first: np.ndarray, end: np.ndarray, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """Clips of every `stride`-th frame, one for each frame to begin with, so that none is left out.

    Args:
        first, end: int (E,), first row and row after the last of each episode.

    Returns:
        rows int64 (N,), clip after clip; where each clip ends in them, int64. With a stride above 1, what leaves one
        frame is left out.
    """
    clips = [np.arange(a + phase, b, stride) for a, b in zip(first, end) for phase in range(min(stride, b - a))]
    clips = [clip for clip in clips if len(clip) > 1 or stride == 1]
    if not clips:
        raise InputError(f"value_pretrain.step_frames {stride} is longer than every clip: lower it")
    return np.concatenate(clips).astype(np.int64), np.cumsum([len(clip) for clip in clips])


def value_config(recipe: Recipe, store):
    """(VPTRConfig, VPTRProcessor) from the model section and what the data decides."""
    from ...modeling.vpdd.instruction_tokenizer import train_tokenizer
    from ...modeling.vptr.processing_vptr import VPTRProcessor

    options, data, section = recipe.options, recipe.data, dict(recipe.model)
    if section.setdefault("image_size", data.image_size) != data.image_size:
        raise InputError(f"model.image_size is {section['image_size']}, data.image_size is {data.image_size}")
    if options.objective != "icvf":
        if section.get("value_head", "distance") != "distance":
            raise InputError(f"model.value_head: {options.objective} trains value_head distance, leave it out")
        section |= {"value_head": "distance", "num_value_heads": 1}
    tokenizer = None
    if section.get("intent") == "text":
        sentences = [s for group in sentences_with_paraphrases(sorted(set(store.episode_task))) for s in group]
        tokenizer = train_tokenizer(sentences, options.vocab_size, max_length=options.max_instruction_length)
        section["text_config"] = text_section(section.get("text_config"), tokenizer, options.max_instruction_length)
    config = build_config("value_pretrain", section, value_objective=options.objective)
    processor = VPTRProcessor(
        tokenizer=tokenizer, cameras=camera_names(data)[:1], image_size=config.image_size, condition="none",
        intent=config.intent, max_instruction_length=options.max_instruction_length if tokenizer else None,
    )  # fmt: skip
    return config, processor


def text_section(section: dict | None, tokenizer, longest: int) -> dict:
    """Sizes of a text tower that is trained here, with what the tokenizer decides filled in."""
    text = dict(section or {})
    text.update(
        vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    text["max_position_embeddings"] = max(text.get("max_position_embeddings", 0), longest)
    return text


def _prefixed(prefix: str, values: dict[str, float]) -> dict[str, float]:
    return {f"{prefix}_{name}": value for name, value in values.items() if name != "pixel_order"}
