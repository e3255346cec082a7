"""Stage 2: the video denoiser p_theta1, trained on recordings without actions (VPDD §3.2)."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...errors import InputError
from ..arguments import Recipe, build_config
from ..loop import DiffusionTask, Evaluation, train
from ..pictures import grid, to_uint8
from .common import (
    camera_names,
    check_model_type,
    choose_episodes,
    evaluation_rows,
    flatten_codes,
    open_store,
    pixels_from_uint8,
    quiet_transformers,
    require_model_folder,
    resize,
    rows_of,
    sample_groups,
    sentences_with_paraphrases,
    set_views,
    spread,
    weights_fingerprint,
    write_folder,
)
from .windows import Windows, frames_and_codes, tensors_only


def run_pretrain(recipe: Recipe, store: Any = None, codes: Any = None) -> Path:
    """Train a `VPDDForVideoPrediction` by `recipe` (see `load_recipe("pretrain", ...)`); returns its folder.

    Args:
        store: a `FrameStore`, if it was opened already. codes: its tokens by the VQ-VAE in `init_from`, likewise (for
            a store with views a list, one array per camera).

    Raises:
        InputError: no VQ-VAE in `init_from`, or one that does not fit the data or the model section.
    """
    folder = require_model_folder(recipe.init_from, "pretrain")
    check_model_type(folder, "vpdd_vqvae", "pretrain")
    store = open_store(recipe, store, video_only=True, decode=False)
    return train(PretrainTask(recipe, folder, store, flatten_codes(codes)), recipe).output_dir


class PretrainTask(DiffusionTask):
    """Windows of every root, each camera a row of its own (spec §3.4); among roots by `data.weights`."""

    def __init__(self, recipe: Recipe, vqvae_folder: Path, store, codes):
        from ...modeling.vpdd.modeling_vpdd import VPDDForVideoPrediction
        from ...modeling.vpdd.processing_vpdd import VPDDProcessor, train_tokenizer
        from ...modeling.vqvae.modeling_vqvae import VPDDVQVAE

        options, data = recipe.options, recipe.data
        with quiet_transformers():
            vqvae = VPDDVQVAE.from_pretrained(vqvae_folder, dtype=torch.float32)
        fingerprint = weights_fingerprint(vqvae)
        tower = None
        if options.text_model is not None:
            tower, tokenizer = load_text_model(recipe)
            config = pretrain_config(recipe, vqvae.config, tower.config.to_dict(), store)
        else:
            sentences = [s for group in sentences_with_paraphrases(sorted(set(store.episode_task))) for s in group]
            tokenizer = train_tokenizer(sentences, options.vocab_size, max_length=options.max_instruction_length)
            config = pretrain_config(recipe, vqvae.config, text_config(recipe, tokenizer), store)
        codes = frames_and_codes(recipe, store, vqvae, codes, fingerprint, config, False)
        torch.manual_seed(recipe.train.seed)
        self.model = VPDDForVideoPrediction(config)
        self.model.model.vqvae.load_state_dict(vqvae.state_dict())
        if tower is not None:
            self.model.model.text_model.load_state_dict(tower.state_dict())
            self.model.model.text_model.requires_grad_(False)
        self.recipe, self.options, self.store = recipe, options, store
        self.processor = VPDDProcessor.from_dataset_stats(
            None, None, tokenizer, num_action_bins=config.num_action_bins, cameras=camera_names(data),
            image_size=data.image_size, history_frames=config.history_frames, history_stride=data.history_stride,
            chunk_size=config.chunk_size, max_instruction_length=options.max_instruction_length,
        )  # fmt: skip
        train_episodes, held_out = choose_episodes(store, data)
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
            False,
        )
        self.num_samples = len(self.windows.train)
        self.sample_groups, self.group_weights = sample_groups(store, data, self.windows.train.frame_indices)
        self.fingerprints = {"dataset": store.fingerprint, "vqvae": fingerprint, "episodes": str(len(train_episodes))}

    def batch(self, indices):
        return self.windows.training_batch(indices)

    def loss(self, model, batch, generator):
        output = model(**self.windows.inputs(batch, generator), generator=generator)
        return output.loss, {}

    def evaluate(self, model, generator, device, final):
        if self.windows.val is None:
            return Evaluation()
        metrics = video_metrics(model, self.windows, generator, device)
        return Evaluation(
            metrics, {"forecast": forecast_picture(model, self.windows, self.options.picture_samples, device)}
        )

    def save_model(self, folder, model, final):
        from ...saving import save_policy

        write_folder(folder, lambda target: save_policy(target, model, self.processor))


def load_text_model(recipe: Recipe) -> tuple[Any, Any]:
    """(CLIP text tower in float32, its tokenizer) of `pretrain.text_model`."""
    from transformers import AutoTokenizer, CLIPTextModelWithProjection

    place, length = recipe.options.text_model, recipe.options.max_instruction_length
    if recipe.model.get("text_config"):
        raise InputError(f"{recipe.stage}.text_model brings its own sizes: leave model.text_config out")
    try:
        with quiet_transformers():
            tower = CLIPTextModelWithProjection.from_pretrained(place, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(place)
    except (OSError, ValueError) as error:
        where = f"{recipe.stage}.text_model"
        raise InputError(f"{where}: no CLIP text tower with a tokenizer at {place!r}: {error}") from error
    if length > tower.config.max_position_embeddings:
        raise InputError(
            f"{recipe.stage}.max_instruction_length is {length}, the text tower of {place} reads at most "
            f"{tower.config.max_position_embeddings} tokens"
        )
    return tower, tokenizer


def text_config(recipe: Recipe, tokenizer) -> dict[str, Any]:
    """Sizes of a tower that is trained here, with what the tokenizer decides filled in."""
    text = dict(recipe.model.get("text_config") or {})
    text.update(
        vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    text["max_position_embeddings"] = max(
        text.get("max_position_embeddings", 0), recipe.options.max_instruction_length
    )
    return text


def pretrain_config(recipe: Recipe, vqvae_config, text: dict[str, Any], store):
    """VPDDConfig from the model section; what data and VQ-VAE decide is filled in."""
    section = {key: value for key, value in recipe.model.items() if key != "text_config"}
    section.setdefault("history_frames", vqvae_config.clip_frames)
    set_views(section, len(camera_names(recipe.data)))
    if store.state is not None:
        section.setdefault("state_dim", int(store.state.shape[1]))
    if store.action is not None:
        section.setdefault("action_dim", int(store.action.shape[1]))
    return build_config("pretrain", section, vqvae_config=vqvae_config.to_dict(), text_config=text)


def video_metrics(model, windows: Windows, generator: torch.Generator, device: torch.device) -> dict[str, float]:
    """On held-out windows: the training loss; and from an all-masked future in one pass, top-1 accuracy on all codes
    and on those that differ from the current frame's at the same place; and how right copying the current codes is."""
    config, core = model.config, model.model
    sums = torch.zeros(5, dtype=torch.float64)
    for rows in rows_of(len(windows.val), evaluation_rows(config)):
        batch = tensors_only(windows.val.__getitems__(list(range(rows.start, rows.stop))))
        inputs = windows.inputs({k: v.to(device) for k, v in batch.items()}, None)
        size = len(inputs["video_codes"])
        loss = model(**inputs, generator=generator).video_loss
        truth, current = inputs.pop("video_codes"), inputs["history_codes"]
        masked = torch.full_like(truth, config.vqvae_config.codebook_size)
        timesteps = torch.full((size,), config.num_train_timesteps - 1, device=device)
        keep = {k: inputs[k] for k in ("history_codes", "pixel_values", "input_ids", "attention_mask") if k in inputs}
        logits = core(noisy_codes=masked, timesteps=timesteps, **keep).logits
        right = (logits.argmax(-1).view_as(truth) == truth).double()
        changed = (truth != current).double()
        sums += torch.stack(
            [
                loss.double() * size,
                right.mean() * size,
                (right * changed).sum(),
                changed.sum(),
                (1 - changed).mean() * size,
            ]
        ).cpu()
    total = len(windows.val)
    return {
        "loss": float(sums[0] / total), "top1": float(sums[1] / total),
        "top1_changed": float(sums[2] / sums[3].clamp_min(1)), "copy_top1": float(sums[4] / total),
    }  # fmt: skip


def forecast_picture(model, windows: Windows, number: int, device: torch.device) -> np.ndarray:
    """One row per moment: current frame, imagined future, the true future through the tokenizer, the true future; and
    the same through the other cameras that saw it, side by side."""
    store, core = windows.store, model.model
    moments = [windows.same_moment(position) for position in spread(windows.val_positions, number)]
    positions = np.concatenate(moments)
    batch = tensors_only(windows.subset(positions)[:])
    inputs = windows.inputs({k: v.to(device) for k, v in batch.items()}, None)
    truth = inputs.pop("video_codes")
    keep = {k: inputs[k] for k in ("history_codes", "pixel_values", "input_ids", "attention_mask") if k in inputs}
    generator = torch.Generator(device).manual_seed(0)
    codes = model.sample_video(**keep, num_inference_steps=4, generator=generator)
    imagined, coded = (to_uint8(core.decode_video(c)[:, 0, -1]) for c in (codes, truth))
    future = np.minimum(positions + model.config.predict_ahead, windows.last_frame(positions))
    now, future = (
        to_uint8(resize(pixels_from_uint8(torch.from_numpy(store.frames[rows])), imagined.shape[1]))
        for rows in (positions, future)
    )
    pictures = list(zip(now, imagined, coded, future, strict=True))
    rows, first = [], 0
    for moment in moments:
        rows.append([picture for view in pictures[first : first + len(moment)] for picture in view])
        first += len(moment)
    return grid(rows)
