"""GR-1, second stage: actions and future frames from demonstrations (spec gr1.md §3)."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...errors import InputError
from ..arguments import Recipe
from ..loop import Evaluation, Task, train
from ..lora import Start, add_lora, starting_point
from .common import (
    camera_names,
    check_model_type,
    choose_episodes,
    open_store,
    quiet_transformers,
    require_processor,
    sample_groups,
    save_fine_tuned,
    set_views,
    start_hash,
)
from .gr1_common import Gr1Windows, VideoScore, frame_features, prediction_picture


# What a video model does not have: it starts random. `views.0` came through video, the other cameras did not.
_NEW = ("action_head.", "model.state_embed.", "model.action_queries.", "model.views.")


def run_gr1_finetune(recipe: Recipe, store: Any = None) -> Path:
    """Train a `GR1ForRobotPolicy` by `recipe` (see `load_recipe("gr1_finetune", ...)`); returns its folder, which
    `pipeline("robot-policy", model=folder)` and `RobotPolicy` load.

    Args:
        store: a `FrameStore`, if it was opened already, with `views` for a policy of several cameras.

    Raises:
        InputError: a dataset without actions, no GR-1 in `init_from`, options that contradict it.
    """
    start = starting_point(recipe.init_from, "finetune")
    check_model_type(start.folder, "gr1", "finetune --model gr1")
    require_processor(start.folder)
    store = open_store(recipe, store)
    if store.action is None:
        raise InputError(
            f"finetune needs demonstrations with actions; {store.name} has none: record them without --no-actions, or "
            "use training/pretrain.py --model gr1 for action-less video"
        )
    return train(Gr1FinetuneTask(recipe, start, store), recipe).output_dir


class Gr1FinetuneTask(Task):
    def __init__(self, recipe: Recipe, start: Start | Path, store):
        options, data, start = recipe.options, recipe.data, starting_point(start, "finetune --model gr1")
        self.recipe, self.options, self.store = recipe, options, store
        torch.manual_seed(recipe.train.seed)
        with quiet_transformers():
            self.policy, from_policy, missing = build_policy(recipe, start, store)
        config = self.policy.config
        train_episodes, held_out = choose_episodes(store, data)
        self.processor = build_processor(
            recipe, start.folder, store, config, train_episodes, keep_statistics=from_policy
        )
        features = None
        if options.cache_features:
            features = frame_features(recipe, store, self.policy.model, self.processor)
        self.windows = Gr1Windows(
            store, features, config, self.processor, data, train_episodes, held_out, recipe.train.eval_samples,
            actions=True, shift=options.resolved_shift(data.image_size), paraphrase_prob=options.paraphrase_prob,
        )  # fmt: skip
        self.num_samples = len(self.windows.train)
        self.sample_groups, self.group_weights = sample_groups(store, data, self.windows.train.frame_indices)
        self.has_unused_parameters = config.video_loss_weight == 0
        self.model = self.policy
        add_lora(self.policy, options, start, missing)
        self.fingerprints = {
            "dataset": store.fingerprint, "episodes": ",".join(map(str, train_episodes)),
            "init_from": start_hash(start), "from_scratch": str(options.from_scratch), "lora": str(options.lora),
        }  # fmt: skip

    def batch(self, indices):
        return self.windows.batch(indices)

    def loss(self, model, batch, generator):
        output = model(**self.windows.inputs(batch, generator))
        parts = {"arm": output.arm_loss, "gripper": output.gripper_loss, "video": output.video_loss}
        return output.loss, {name: value.detach() for name, value in parts.items() if value is not None}

    def evaluate(self, model, generator, device, final):
        """On held-out demonstrations: the loss and its parts; mean error of the actions in robot units, and how often
        a binary gripper is wrong; how good the predicted frames are."""
        if self.windows.val is None:
            return Evaluation()
        config, score, sums, windows, real = self.policy.config, VideoScore(self.policy, self.processor), {}, 0, 0.0
        video = config.video_loss_weight > 0
        for batch, inputs in self.windows.evaluation(device):
            output = self.policy(**inputs, predict_video=video)
            size = len(inputs["actions"])
            for name in ("loss", "arm_loss", "gripper_loss"):
                if (value := getattr(output, name)) is not None:
                    sums[name] = sums.get(name, 0.0) + value.double() * size
            windows += size
            keep = (batch["step_mask"][..., None] & ~batch["action_is_pad"]).double()
            real = real + keep.sum()
            for name, error in self._errors(output, batch["action"]).items():
                sums[name] = sums.get(name, 0.0) + (error.double() * keep).sum()
            if video:
                score.add(inputs, output.frame_patches)
        losses = ("loss", "arm_loss", "gripper_loss")
        metrics = {name: float(total / (windows if name in losses else real)) for name, total in sums.items()}
        if not video:
            return Evaluation(metrics)
        picture = prediction_picture(self.windows, self._forecast, self.options.picture_samples, device)
        return Evaluation(metrics | score.metrics(), {"prediction": picture})

    def _errors(self, output, truth: torch.Tensor) -> dict[str, torch.Tensor]:
        """How far off each action is, (B, T, chunk)."""
        actions = output.arm_actions
        if output.gripper_logits is not None:
            actions = torch.cat((actions, output.gripper_logits.sigmoid()[..., None]), dim=-1)
        off = (self.processor.unnormalize_actions(actions) - truth).abs()
        if output.gripper_logits is None:
            return {"action_error": off.mean(-1)}
        low, high = self.processor.gripper_range()
        return {"action_error": off[..., :-1].mean(-1), "gripper_error": (off[..., -1] > (high - low) / 2).float()}

    def _forecast(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        inputs = {name: value for name, value in inputs.items() if not name.startswith("actions")}
        patches = self.policy(**inputs, predict_video=True).frame_patches
        return self.policy.frames_from_patches(patches, inputs["pixel_values"])

    def save_model(self, folder, model, final):
        save_fine_tuned(folder, model, self.processor, self.recipe, final)


def build_policy(recipe: Recipe, start: Start, store) -> tuple[Any, bool, list[str]]:
    """The policy to train, whether it was one already (then its statistics are kept), and the names of the parameters
    that `start` did not have."""
    from ...modeling.gr1 import GR1Config, GR1ForRobotPolicy, GR1Model

    options, folder = recipe.options, start.folder
    base = GR1Config.from_pretrained(folder)
    was_policy = "GR1ForRobotPolicy" in (base.architectures or ())
    # the tokenizer decided the text tower's sizes
    changes = {key: value for key, value in recipe.model.items() if key not in ("text_config", "vision_config")}
    set_views(changes, len(store.cameras))
    state_dim = 0 if store.state is None else int(store.state.shape[1])
    if changes.setdefault("state_dim", state_dim) not in (0, state_dim):
        raise InputError(f"model.state_dim is {changes['state_dim']}, the dataset's state has {state_dim} numbers")
    changes |= {"action_dim": int(store.action.shape[1]), "predict_ahead": options.predict_ahead}
    try:
        config = GR1Config.from_dict({**base.to_dict(), **changes})
    except Exception as error:  # strict dataclass errors have no common public base class
        raise InputError(f"the model section does not fit {folder}: {error}") from error
    if options.from_scratch and start.adapter is not None:
        raise InputError(
            f"from_scratch would take nothing from the adapter {start.name}: name its base with init_from"
        )
    if options.from_scratch:
        policy = GR1ForRobotPolicy(config)
        towers = GR1Model.from_pretrained(folder, dtype=torch.float32)
        for name in ("image_model", "text_model"):
            if getattr(config, f"freeze_{name}"):
                getattr(policy.model, name).load_state_dict(getattr(towers, name).state_dict())
        return policy, False, []
    try:
        policy, info = GR1ForRobotPolicy.from_pretrained(
            start.weights, config=config, dtype=torch.float32, output_loading_info=True
        )
    except RuntimeError as error:
        raise InputError(
            f"the weights in {folder} do not fit the model section: keep the sizes they were trained with, or train "
            f"from scratch. {error}"
        ) from error
    missing = sorted(info["missing_keys"])
    new = () if was_policy and start.adapter is None else _NEW  # the base of an adapter may be a video model
    wrong = [k for k in missing if not k.startswith(new) or k.startswith("model.views.0.")]
    wrong = [k for k in wrong if k != "model.action_queries.chunk"] + sorted(info["mismatched_keys"])
    if wrong:
        raise InputError(
            f"the weights in {folder} do not fit the model section or the data: {wrong[:5]} are missing or of another "
            "shape. Keep the sizes, cameras, states and actions they were trained with"
        )
    return policy, was_policy, missing


def build_processor(recipe: Recipe, folder: Path, store, config, episodes: list[int], keep_statistics: bool):
    """The processor of `folder` with statistics of exactly these demonstrations; of a policy that is trained further,
    its own."""
    from ...data.dataset_statistics import require_matching_statistics, statistics_of_rows
    from ...modeling.gr1.processing_gr1 import GR1Processor

    data, options = recipe.data, recipe.options
    before = GR1Processor.from_pretrained(folder)
    rows = np.concatenate([np.arange(store.episode_from[e], store.episode_to[e]) for e in episodes])
    actions = np.asarray(store.action)[rows]
    state = np.asarray(store.state)[rows] if config.state_dim else None
    sizes = {
        "cameras": camera_names(data), "image_size": config.pixel_size, "history_frames": config.history_frames,
        "history_stride": data.history_stride, "chunk_size": config.chunk_size, "execute": options.execute,
        "binary_gripper_state": config.binary_gripper_state, "binary_gripper_action": config.binary_gripper_action,
        "max_instruction_length": before.max_instruction_length,
    }  # fmt: skip
    if keep_statistics:
        for name in ("cameras", "history_stride"):
            if getattr(before, name) != sizes[name]:
                raise InputError(f"{folder} has {name} {getattr(before, name)}, the recipe says {sizes[name]}")
        before.chunk_size, before.execute = config.chunk_size, options.execute or before.execute
        if before.execute is not None and before.execute > before.chunk_size:
            raise InputError(f"gr1_finetune.execute is {before.execute}, a plan has {before.chunk_size} steps")
        require_matching_statistics(before, statistics_of_rows(state=state, action=actions), store.name)
        processor = before
    elif options.normalization == "raw":
        processor = GR1Processor(
            tokenizer=before.tokenizer, normalization="raw", state_dim=config.state_dim, action_dim=config.action_dim,
            **sizes,
        )  # fmt: skip
    else:
        processor = GR1Processor.from_dataset_stats(actions, state, before.tokenizer, **sizes)
    # Batches are normalised without looking; here, once, numbers that do not fit are an error.
    processor.normalize_actions(torch.from_numpy(actions))
    if state is not None:
        processor.normalize_state(torch.from_numpy(state))
    return processor
