"""Stage 3: a policy from few demonstrations: action head p_theta2 on the pre-trained video denoiser (VPDD §3.3).

The four arms of the comparison are options: `from_scratch`, `objective`, `trunk_lr_multiplier`.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...errors import InputError
from ..arguments import Recipe
from ..loop import DiffusionTask, Evaluation, train
from .common import (
    camera_names,
    check_model_type,
    choose_episodes,
    evaluation_rows,
    folder_hash,
    open_store,
    quiet_transformers,
    require_model_folder,
    require_processor,
    rows_of,
    sample_groups,
    save_fine_tuned,
    set_views,
    weights_fingerprint,
)
from .windows import Windows, frames_and_codes, tensors_only


def run_finetune(recipe: Recipe, store: Any = None, codes: Any = None) -> Path:
    """Train a `VPDDForRobotPolicy` by `recipe` (see `load_recipe("finetune", ...)`); returns its folder, which
    `pipeline("robot-policy", model=folder)` and `AutoModel` load.

    Args:
        store: a `FrameStore`, if it was opened already, with `views` for a policy of several cameras. codes: its
            tokens by the VQ-VAE of `init_from`, likewise: one array, or a list with one per view.

    Raises:
        InputError: a dataset without actions, no pre-trained model in `init_from`, options that contradict it.
    """
    folder = require_model_folder(recipe.init_from, "finetune")
    check_model_type(folder, "vpdd", "finetune")
    require_processor(folder)
    store = open_store(recipe, store, decode=False)
    if store.action is None:
        raise InputError(
            f"finetune needs demonstrations with actions; {store.name} has none: record them without --no-actions, or "
            "use training/pretrain.py for action-less video"
        )
    return train(FinetuneTask(recipe, folder, store, codes), recipe).output_dir


class FinetuneTask(DiffusionTask):
    def __init__(self, recipe: Recipe, folder: Path, store, codes):
        options, data = recipe.options, recipe.data
        self.recipe, self.options, self.store = recipe, options, store
        torch.manual_seed(recipe.train.seed)
        with quiet_transformers():
            self.policy, from_policy = build_policy(recipe, folder, store)
        config = self.policy.config
        train_episodes, held_out = choose_episodes(store, data)
        vqvae = self.policy.model.vqvae
        fingerprint = weights_fingerprint(vqvae)
        codes = frames_and_codes(recipe, store, vqvae, codes, fingerprint, config, True)
        self.policy.to("cpu")
        self.processor = build_processor(recipe, folder, store, config, train_episodes, keep_statistics=from_policy)
        self.windows = Windows(
            store,
            codes,
            config,
            self.processor,
            data,
            options,
            train_episodes,
            held_out,
            recipe.train.eval_samples,
            True,
        )
        if options.cotrain_samples:
            everything, _ = choose_episodes(store, replace(data, episodes_per_task=None, demo_draw=0))
            self.windows.add_cotraining(everything, options.cotrain_samples, data.frame_stride)
        self.num_samples = len(self.windows.train)
        self.sample_groups, self.group_weights = sample_groups(store, data, self.windows.train.frame_indices)
        self.frozen = options.trunk_lr_multiplier == 0
        self.has_unused_parameters = config.video_loss_weight == 0 or config.action_objective == "regression"
        self.model, trunk = self.policy, "model."
        if self.frozen:
            self.policy.model.requires_grad_(False)
        if options.lora:
            from ..lora import add_lora

            self.model, trunk = add_lora(self.policy, options), "base_model.model.model."
        self.learning_rate_multipliers = {trunk: options.trunk_lr_multiplier}
        self.fingerprints = {
            "dataset": store.fingerprint, "vqvae": fingerprint, "episodes": ",".join(map(str, train_episodes)),
            "init_from": folder_hash(folder), "from_scratch": str(options.from_scratch), "lora": str(options.lora),
            "trunk_lr_multiplier": str(options.trunk_lr_multiplier), "objective": config.action_objective,
        }  # fmt: skip

    @property
    def scheduler(self):
        return self.policy.scheduler  # `model` may be wrapped in adapters

    def train_mode(self, model):
        model.train()
        if self.frozen:  # no dropout in what does not learn
            self.policy.model.eval()

    def batch(self, indices):
        return self.windows.training_batch(indices)

    def loss(self, model, batch, generator):
        output = model(**self.windows.inputs(batch, generator), generator=generator)
        parts = {"action": output.action_loss, "video": output.video_loss}
        return output.loss, {name: value for name, value in parts.items() if value is not None}

    def evaluate(self, model, generator, device, final):
        """On held-out demonstrations: the action loss; mean error of greedy actions in robot units (of poses: metres,
        degrees, share of wrong grippers)."""
        if self.windows.val is None:
            return Evaluation()
        processor, sums, total, real_steps = self.processor, {}, 0.0, 0.0
        for rows in rows_of(len(self.windows.val), evaluation_rows(self.policy.config)):
            batch = tensors_only(self.windows.val.__getitems__(list(range(rows.start, rows.stop))))
            batch = {k: v.to(device) for k, v in batch.items()}
            inputs = self.windows.inputs(batch, None)
            loss = model(**inputs, generator=generator).action_loss
            for label in ("video_codes", "actions", "actions_is_pad"):
                inputs.pop(label)
            sampled = self.policy.sample_actions(**inputs, num_inference_steps=4, temperature=0.0, generator=generator)
            actions = processor.post_process_actions(sampled.actions, self.policy.config.action_objective)
            real = (~batch["action_is_pad"]).double()
            total, real_steps = total + loss.double() * len(actions), real_steps + real.sum()
            for name, error in _errors(actions, batch["action"], processor.action_layout).items():
                sums[name] = sums.get(name, 0.0) + (error.double() * real).sum()
        errors = {name: float(error / real_steps) for name, error in sums.items()}
        return Evaluation({"loss": float(total / len(self.windows.val)), **errors})

    def save_model(self, folder, model, final):
        save_fine_tuned(folder, model, self.processor, self.recipe, final)


def build_policy(recipe: Recipe, folder: Path, store) -> tuple[Any, bool]:
    """The policy to train, and whether it was one already (then its action bins and statistics are kept)."""
    from ...modeling.vpdd.configuration_vpdd import VPDDConfig
    from ...modeling.vpdd.modeling_vpdd import VPDDForRobotPolicy, VPDDForVideoPrediction

    options = recipe.options
    base = VPDDConfig.from_pretrained(folder)
    from_policy = "VPDDForRobotPolicy" in (base.architectures or ()) and not options.from_scratch
    changes = {
        k: v for k, v in recipe.model.items() if k != "text_config"
    }  # the tokenizer decided the text tower's sizes
    changes["action_dim"] = _action_dim(options, store)
    set_views(changes, len(store.cameras))
    state_dim = 0 if store.state is None else int(store.state.shape[1])
    if changes.get("state_dim", state_dim) not in (0, state_dim):
        raise InputError(f"model.state_dim is {changes['state_dim']}, the dataset's state has {state_dim} numbers")
    changes.setdefault("state_dim", state_dim)
    if options.objective is not None:
        changes["action_objective"] = options.objective
    options.objective = changes.get("action_objective", base.action_objective)
    changes["video_loss_weight"] = options.resolved_video_loss_weight
    if options.objective == "regression" and options.video_loss_weight:
        raise InputError("video_loss_weight has no effect for objective regression (no future is shown): leave it out")
    try:
        config = VPDDConfig.from_dict({**base.to_dict(), **changes})
    except Exception as error:  # strict dataclass errors have no common public base class
        raise InputError(f"the model section does not fit {folder}: {error}") from error
    if options.from_scratch:
        donor = VPDDForVideoPrediction.from_pretrained(folder, dtype=torch.float32) if not _is_policy(base) else (
            VPDDForRobotPolicy.from_pretrained(folder, dtype=torch.float32)
        )  # fmt: skip
        policy = VPDDForRobotPolicy(config)
        policy.model.vqvae.load_state_dict(donor.model.vqvae.state_dict())
        return policy, False
    try:
        policy, info = VPDDForRobotPolicy.from_pretrained(
            folder, config=config, dtype=torch.float32, output_loading_info=True
        )
    except RuntimeError as error:
        raise InputError(
            f"the weights in {folder} do not fit the model section: keep the trunk as it was pre-trained, or train "
            f"from scratch. {error}"
        ) from error
    wrong = [k for k in info["missing_keys"] if not k.startswith("action_head.")] + list(info["mismatched_keys"])
    if wrong:
        raise InputError(
            f"the weights in {folder} do not fit the model section: {wrong[:5]} are missing or of another shape. Keep "
            "the trunk as it was pre-trained"
        )
    return policy, from_policy


def build_processor(recipe: Recipe, folder: Path, store, config, episodes: list[int], keep_statistics: bool):
    """The processor of `folder` with statistics and action bins of exactly these demonstrations."""
    from ...data.dataset_statistics import require_matching_statistics, statistics_of_rows
    from ...data.windows import require_keyframes
    from ...modeling.vpdd.processing_vpdd import VPDDProcessor

    data, options = recipe.data, recipe.options
    before = VPDDProcessor.from_pretrained(folder)
    cameras = camera_names(data)
    if keep_statistics and before.cameras != cameras:  # a video model looks through any camera, a policy does not
        raise InputError(f"{folder} acts on the cameras {before.cameras}, data.camera is {cameras}")
    rows = np.concatenate([np.arange(store.episode_from[e], store.episode_to[e]) for e in episodes])
    if data.targets == "keyframes":
        require_keyframes(store)
    labels = rows[store.keyframe[rows]] if data.targets == "keyframes" else rows
    if keep_statistics and before.action_bins is not None and before.action_objective == config.action_objective:
        # Batches are encoded without looking; here, once, numbers of another robot and labels that these bins cannot
        # express are an error.
        vectors = np.asarray(store.action)[labels] if before.action_layout == "vector" else None
        state = np.asarray(store.state)[rows] if config.state_dim else None
        require_matching_statistics(before, statistics_of_rows(state=state, action=vectors), store.name)
        actions = torch.from_numpy(np.asarray(store.action)[labels])
        (before.encode_actions if config.action_objective == "diffusion" else before.normalize_actions)(actions)
        if config.history_frames > 1 and before.history_stride != data.history_stride:
            raise InputError(
                f"{folder} looks back in strides of {before.history_stride}, data.history_stride is "
                f"{data.history_stride}"
            )
        if options.execute is not None:
            if options.execute > before.chunk_size:
                raise InputError(f"finetune.execute is {options.execute}, a plan has {before.chunk_size} steps")
            before.execute = options.execute
        return before
    return VPDDProcessor.from_dataset_stats(
        np.asarray(store.action)[labels], np.asarray(store.state)[rows] if config.state_dim else None,
        before.tokenizer, num_action_bins=config.num_action_bins, cameras=cameras, image_size=data.image_size,
        history_frames=config.history_frames, history_stride=data.history_stride, chunk_size=config.chunk_size,
        execute=options.execute, action_objective=config.action_objective, action_layout=options.action_layout,
        max_instruction_length=before.max_instruction_length,
    )  # fmt: skip


def _action_dim(options, store) -> int:
    """Tokens of one action."""
    from ...modeling.vpdd.pose_actions import POSE_SIZE, VECTOR_SIZE

    numbers = int(store.action.shape[1])
    if options.action_layout == "vector":
        return numbers
    if numbers != POSE_SIZE:
        raise InputError(
            f"finetune.action_layout pose needs actions of {POSE_SIZE} numbers (position, quaternion, gripper), those "
            f"of {store.name} have {numbers}"
        )
    return VECTOR_SIZE


def _errors(actions: torch.Tensor, truth: torch.Tensor, layout: str) -> dict[str, torch.Tensor]:
    """How far off each step is, (B, chunk): in robot units; of poses in metres, degrees, and wrong grippers."""
    if layout == "vector":
        return {"action_error": (actions - truth).abs().mean(-1)}
    cosine = torch.nn.functional.cosine_similarity(actions[..., 3:7], truth[..., 3:7], dim=-1)
    return {
        "position_error": (actions[..., :3] - truth[..., :3]).norm(dim=-1),
        "rotation_error": torch.rad2deg(2 * cosine.abs().clamp(max=1).acos()),
        "gripper_error": ((actions[..., 7] > 0.5) != (truth[..., 7] > 0.5)).float(),
    }


def _is_policy(config) -> bool:
    return "VPDDForRobotPolicy" in (config.architectures or ())
