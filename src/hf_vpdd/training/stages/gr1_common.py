"""What GR-1's two stages share: windows as model inputs, features of the frozen image tower, metrics and pictures."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ...errors import InputError
from ..arguments import DataArguments, Recipe
from ..augment import InstructionSampler
from ..image_augment import random_crop
from ..pictures import grid
from ..processes import join_processes, main_process_first
from .common import frame_indices, rows_of, sentences_with_paraphrases, spread, weights_fingerprint
from .sample_videos import episode_videos
from .windows import tensors_only


class Gr1Windows:
    """Batches of windows of consecutive frames, and what turns them into keyword arguments of the model.

    Args:
        features: of `frame_features`, or None: the image tower runs in every step.
        config: GR1Config. processor: tokenizes, resizes, normalises. actions: windows carry states and actions.
        shift: largest random shift of the training frames, pixels.
    """

    def __init__(
        self, store, features, config, processor, data: DataArguments, train_episodes: list[int], held_out: list[int],
        eval_samples: int, actions: bool, shift: int, paraphrase_prob: float,
    ):  # fmt: skip
        self.store, self.config, self.processor, self.actions, self.shift = store, config, processor, actions, shift
        self._shape = {
            "steps": config.history_frames, "stride": data.history_stride, "chunk_size": config.chunk_size,
            "with_actions": actions, "features": features,
        }  # fmt: skip
        self.train = self.subset(self._useful(frame_indices(store, train_episodes, data.frame_stride), data))
        self.val_positions = spread(self._useful(frame_indices(store, held_out), data), eval_samples)
        self.val = self.subset(self.val_positions) if len(self.val_positions) else None
        self.instructions = InstructionSampler(
            sentences_with_paraphrases(list(self.train.tasks)), processor.tokenize_instructions, paraphrase_prob
        )

    def subset(self, positions: np.ndarray):
        """A `SequenceDataset` of the windows that start at these frames of the store."""
        from ...data.sequences import SequenceDataset

        return SequenceDataset(self.store, frame_indices=positions, **self._shape)

    def _useful(self, positions: np.ndarray, data: DataArguments) -> np.ndarray:
        """Without actions: only windows in which there is a frame to predict."""
        if self.actions or not len(positions):
            return positions
        last = self.store.episode_to[self.store.frame_episode[positions]] - 1
        useful = positions[positions + self.config.predict_ahead * data.history_stride <= last]
        if not len(useful):
            raise InputError(
                f"no episode of {self.store.name} is longer than predict_ahead ({self.config.predict_ahead}) times "
                f"data.history_stride ({data.history_stride}) frames: there is nothing to predict"
            )
        return useful

    def batch(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        return tensors_only(self.train.__getitems__(indices.tolist()))

    def inputs(self, batch: dict[str, Any], generator: torch.Generator | None) -> dict[str, torch.Tensor]:
        """Collated window tensors -> model inputs. With a generator: augmented, for training; without: as they are."""
        frames = batch["pixel_values"]  # (B, V, T, S, S, 3)
        if generator is not None and self.shift:
            shifted = random_crop(frames.flatten(0, 2), self.shift, generator, together=frames.shape[2])
            frames = shifted.view(frames.shape)
        inputs = {
            "pixel_values": self.processor.image_processor.to_pixels(frames.movedim(-1, -3)),
            "step_mask": batch["step_mask"],
            **self.instructions(batch["task_index"], generator),
        }
        if "image_features" in batch:
            inputs["image_features"] = batch["image_features"].float()
        if self.actions:
            if self.config.state_dim:
                inputs["state"] = self.processor.normalize_state(batch["state"])
            inputs["actions"] = self.processor.normalize_actions(batch["action"], check=False)
            inputs["actions_is_pad"] = batch["action_is_pad"]
        return inputs

    def evaluation(self, device: torch.device, rows_at_a_time: int = 16):
        """The held-out windows: (batch, inputs) after (batch, inputs)."""
        for rows in rows_of(len(self.val), rows_at_a_time):
            batch = tensors_only(self.val.__getitems__(list(range(rows.start, rows.stop))))
            batch = {key: value.to(device) for key, value in batch.items()}
            yield batch, self.inputs(batch, None)


def frame_features(recipe: Recipe, store, model, processor):
    """What the frozen image tower says of every frame of the store, from the cache where the same tower has said it;
    for a store with views a list of them, one per camera. Each camera of each root has a cache of its own.

    Args:
        model: a `GR1Model`.

    Raises:
        InputError: the tower is not frozen.
    """
    from ...data.features import encode_frames
    from ...data.frame_store import FrameRows

    if not model.config.freeze_image_model:
        raise InputError("cache_features needs a frozen image tower: give image_model, or set it to false")
    device, vision = join_processes().device, model.config.vision_config
    size = model.config.pixel_size
    fingerprint = f"{weights_fingerprint(model.image_model)}/{size}/{processor.image_processor.image_mean}"
    fingerprint += f"/{processor.image_processor.image_std}"
    bf16 = recipe.train.mixed_precision == "bf16" and device.type == "cuda"
    model.image_model.to(device)

    @torch.inference_mode()
    def encode(frames: np.ndarray) -> np.ndarray:
        pixels = torch.from_numpy(np.ascontiguousarray(frames)).to(device).movedim(-1, -3)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            return model.encode_images(processor.image_processor.to_pixels(pixels)).float().cpu().numpy()

    def features_of(part):
        if part.pieces:
            return FrameRows.concat([FrameRows([features_of(piece)]) for piece in part.pieces])
        shape = (1 + model.config.num_patches, vision.hidden_size)
        return encode_frames(part, encode, shape, fingerprint, progress=recipe.train.progress)

    with main_process_first():
        features = [features_of(view) for view in store.views] if store.views else features_of(store)
    model.image_model.to("cpu")
    return features


class VideoScore:
    """Sums up how good predicted frames are, beside the current frame given as the prediction."""

    def __init__(self, model, processor):
        self.model, self.std = model, torch.tensor(processor.image_processor.image_std)[:, None, None]
        self.sums = torch.zeros(5, dtype=torch.float64)

    def add(self, inputs: dict[str, torch.Tensor], patches: torch.Tensor) -> None:
        """patches (B, V, T, P, D), as the model predicts them."""
        ahead, pixels = self.model.config.predict_ahead, inputs["pixel_values"]
        if pixels.shape[2] <= ahead:
            return
        mask = inputs["step_mask"]
        keep = (mask[:, :-ahead] & mask[:, ahead:])[:, None].double()  # (B, 1, T - ahead)
        now, future = pixels[:, :, :-ahead], pixels[:, :, ahead:]
        target, still = self.model.frame_targets(future), self.model.frame_targets(now)
        patches = patches[:, :, : target.shape[2]]
        frames = self.model.frames_from_patches(patches, now)
        values = [
            (patches - target).square().mean((-2, -1)), (still - target).square().mean((-2, -1)),
            self._psnr(frames - future), self._psnr(now - future),
        ]  # fmt: skip
        views = keep.expand(-1, pixels.shape[1], -1)
        self.sums += torch.stack([*((value.double() * views).sum() for value in values), views.sum()]).cpu()

    def metrics(self) -> dict[str, float]:
        """Mean squared error of the patches and PSNR of the frames (dB), predicted and copied from the present."""
        names = ("video_loss", "copy_video_loss", "psnr", "copy_psnr")
        return {name: float(value / self.sums[4].clamp_min(1)) for name, value in zip(names, self.sums)}

    def _psnr(self, difference: torch.Tensor) -> torch.Tensor:
        """(..., 3, H, W) differences of normalised pixels -> (...), dB."""
        error = (difference * self.std.to(difference.device)).square().mean((-3, -2, -1))
        return -10 * error.clamp_min(1e-10).log10()


def prediction_picture(
    windows: Gr1Windows, predict: Callable[[dict[str, torch.Tensor]], torch.Tensor], number: int, device: torch.device
) -> np.ndarray:
    """One row per held-out window, of its last step with a future: for each camera the frame, the predicted one
    `predict_ahead` steps later, the true one.

    Args:
        predict: inputs of the model -> frames (B, V, T, 3, S, S).
    """
    rows = prediction_frames(windows, predict, spread(windows.val_positions, number), device)
    return grid(rows, scale=1 if windows.config.pixel_size > 100 else 2) if rows else np.zeros((8, 8, 3), np.uint8)


def prediction_videos(
    windows: Gr1Windows, predict: Callable[[dict[str, torch.Tensor]], torch.Tensor], held_out: list[int], number: int,
    device: torch.device,
) -> dict[str, np.ndarray]:  # fmt: skip
    """`number` held-out episodes as videos: for each camera the frame, the predicted one, the true one."""

    def columns(positions: np.ndarray) -> list[np.ndarray]:
        rows = prediction_frames(windows, predict, positions, device)
        return [np.stack(column) for column in zip(*rows, strict=True)]

    return episode_videos(windows.store, held_out, number, columns, "prediction")


def prediction_frames(
    windows: Gr1Windows, predict: Callable[[dict[str, torch.Tensor]], torch.Tensor], positions: np.ndarray,
    device: torch.device,
) -> list[list[np.ndarray]]:  # fmt: skip
    """One row of pictures per window of `positions` that has a future."""
    ahead, to_bytes = windows.config.predict_ahead, windows.processor.post_process_video
    rows = []
    dataset = windows.subset(positions)
    batch = {key: value.to(device) for key, value in tensors_only(dataset[:]).items()}
    inputs = windows.inputs(batch, None)
    predicted, pixels = predict(inputs), inputs["pixel_values"]
    for row, length in enumerate(inputs["step_mask"].sum(1).tolist()):
        step = length - 1 - ahead
        if step < 0:
            continue
        pictures = []
        for view in range(pixels.shape[1]):
            frames = (pixels[row, view, step], predicted[row, view, step], pixels[row, view, step + ahead])
            pictures += list(to_bytes(torch.stack(frames)).cpu().numpy())
        rows.append(pictures)
    return rows
