"""Stage 1: the video tokenizer, trained on frames of all recordings (VPDD §3.1; pixel weights: see `PixelWeights`)."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..arguments import Recipe, build_config
from ..augment import color_jitter
from ..loop import Evaluation, Task, train
from ..pictures import grid, to_uint8
from .common import (
    choose_episodes,
    frame_indices,
    open_store,
    pixels_from_uint8,
    resize,
    rows_of,
    sample_groups,
    spread,
    write_folder,
)
from .sample_videos import episode_videos


def run_vqvae(recipe: Recipe, store: Any = None) -> Path:
    """Train a `VPDDVQVAE` by `recipe` (see `load_recipe("vqvae", ...)`); returns its folder.

    Args:
        store: a `FrameStore`, if it was opened already.
    """
    return train(VQVAETask(recipe, open_store(recipe, store, video_only=True)), recipe).output_dir


class VQVAETask(Task):
    """Clips of the training episodes through every camera, uniformly drawn, or by `data.weights` among the roots."""

    def __init__(self, recipe: Recipe, store):
        from ...modeling.vqvae.modeling_vqvae import VPDDVQVAE

        options, data = recipe.options, recipe.data
        section = {"image_size": data.image_size, **recipe.model}
        config = build_config("vqvae", section)
        torch.manual_seed(recipe.train.seed)
        self.model = VPDDVQVAE(config)
        self.recipe, self.options, self.store = recipe, options, store
        self.clip_frames, self.stride = config.clip_frames, data.history_stride
        train_episodes, held_out = choose_episodes(store, data)
        self.held_out = held_out
        self.indices = frame_indices(store, train_episodes, data.frame_stride)
        self.val_indices = spread(frame_indices(store, held_out), recipe.train.eval_samples)
        self.num_samples = len(self.indices)
        self.sample_groups, self.group_weights = sample_groups(store, data, self.indices)
        self.fingerprints = {"dataset": store.fingerprint}
        self.weights = PixelWeights(store, options, size=config.image_size)

    def _clips(self, positions: np.ndarray) -> torch.Tensor:
        """The clips that end at these frames of the store: uint8 (B, T, S, S, 3)."""
        return torch.from_numpy(self.store.clips(positions, self.clip_frames, self.stride))

    def _pixels(self, frames: torch.Tensor) -> torch.Tensor:
        """uint8 (B, T, S, S, 3) of the store -> (B, T, 3, H, W) of the size the tokenizer reads, in [-0.5, 0.5]."""
        return resize(pixels_from_uint8(frames), self.model.config.image_size)

    def batch(self, indices):
        positions = self.indices[indices]
        return {"frames": self._clips(positions), "weight_row": self.weights.rows(positions)}

    def loss(self, model, batch, generator):
        pixels = self._pixels(batch["frames"])
        weights = self.weights(pixels, batch["weight_row"])
        pixels = color_jitter(pixels, self.options.color_jitter, generator)
        output = model(pixel_values=pixels.transpose(1, 2), pixel_weights=weights, generator=generator)
        return output.loss, {
            "reconstruction": output.reconstruction_loss, "commitment": output.commitment_loss,
            "perplexity": output.perplexity,
        }  # fmt: skip

    def evaluate(self, model, generator, device, final):
        """PSNR over held-out frames (dB, peak 1), the same where pixels count more, and the share of codes in use;
        PSNR of each root when there are several."""
        if not len(self.val_indices):
            return Evaluation()
        psnr, weighted, used = [], [], set()
        shown = set(spread(np.arange(len(self.val_indices)), self.options.picture_samples).tolist())
        picture: list[list[np.ndarray]] = [[], []]
        for rows in rows_of(len(self.val_indices), 64):
            positions = self.val_indices[rows]
            pixels = self._pixels(self._clips(positions).to(device))
            output = model(pixel_values=pixels.transpose(1, 2))
            restored = output.reconstruction.float().clamp(-0.5, 0.5).transpose(1, 2)
            error = (restored - pixels).square()
            weight = self.weights(pixels, self.weights.rows(positions).to(device))
            weight = 1.0 if weight is None else weight.transpose(1, 2)
            psnr.append(-10 * error.mean(dim=(1, 2, 3, 4)).clamp_min(1e-10).log10())
            weighted.append(-10 * (error * weight).mean(dim=(1, 2, 3, 4)).clamp_min(1e-10).log10())
            used.update(output.codes.unique().tolist())
            for i in range(len(positions)):
                if rows.start + i in shown:
                    picture[0].append(to_uint8(pixels[i, -1]))
                    picture[1].append(to_uint8(restored[i, -1]))
        psnr = torch.cat(psnr)
        metrics = {
            "psnr": float(psnr.mean()), "psnr_weighted": float(torch.cat(weighted).mean()),
            "codes_used": len(used) / model.config.codebook_size,
        }  # fmt: skip
        roots = np.array(self.store.roots)[self.store.frame_episode[self.val_indices]]
        for root in dict.fromkeys(roots.tolist()) if len(set(roots.tolist())) > 1 else ():
            metrics[f"psnr_{Path(root).name}"] = float(psnr.cpu()[torch.from_numpy(roots == root)].mean())
        videos = episode_videos(
            self.store, self.held_out, self.recipe.train.eval_videos,
            lambda positions: self._reconstructed(model, positions, device), "reconstruction",
        )  # fmt: skip
        return Evaluation(metrics, {"reconstruction": grid(picture)}, videos)

    def _reconstructed(self, model, positions: np.ndarray, device: torch.device) -> list[np.ndarray]:
        """The last frames of the clips that end at `positions`, as they are and through the tokenizer."""
        pixels = self._pixels(self._clips(positions).to(device))
        restored = model(pixel_values=pixels.transpose(1, 2)).reconstruction.float().transpose(1, 2)
        return [to_uint8(pixels[:, -1]), to_uint8(restored[:, -1])]

    def save_model(self, folder, model, final):
        write_folder(folder, model.save_pretrained)


class PixelWeights:
    """Weights of the squared error, mean about 1: most pixels of a robot's video never change, and the few that tell
    where gripper and objects are would be drowned.

    * variance: variance over time within the pixel's episode (what the measured recipe used).
    * deviation: squared distance of this frame's pixel from the mean picture of its task (through its camera). Also
      catches small things that stand still in every episode but elsewhere in each, like a target.

    Args:
        size: side of the pictures the weights are for; None: as in the store.
    """

    def __init__(self, store, options, frames_per_map: int = 96, size: int | None = None):
        self.mode = options.pixel_weighting if options.pixel_weight_strength > 0 else "none"
        self.strength, self.cap = options.pixel_weight_strength, options.pixel_weight_cap
        self.maps = self.scale = None
        self.frame_episode = store.frame_episode
        if self.mode == "none":
            return
        side = size or store.image_size
        if self.mode == "variance":
            self.row_of_episode = np.arange(store.num_episodes)
            groups = [[episode] for episode in range(store.num_episodes)]
        else:
            piece = np.repeat(np.arange(len(store.pieces)), [part.num_episodes for part in store.pieces])
            scenes = list(zip(piece if store.pieces else [0] * store.num_episodes, store.episode_task))
            number = {scene: row for row, scene in enumerate(dict.fromkeys(scenes))}
            self.row_of_episode = np.array([number[scene] for scene in scenes])
            groups = [np.flatnonzero(self.row_of_episode == row) for row in range(len(number))]
            frames_per_map *= 4
        channels = 3 if self.mode == "deviation" else 1
        maps = np.zeros((len(groups), channels, side, side), dtype=np.float16)
        scale = np.ones(len(groups), dtype=np.float32)
        for row, episodes in enumerate(groups):
            picked = spread(frame_indices(store, list(episodes)), frames_per_map)
            frames = resize(pixels_from_uint8(torch.from_numpy(store.frames[picked])), side)
            frames = (frames + 0.5).movedim(1, -1).numpy()
            variance = frames.var(axis=0).mean(axis=-1)
            if self.mode == "variance":
                maps[row, 0] = np.minimum(variance / max(float(variance.mean()), 1e-8), self.cap)
            else:
                maps[row] = frames.mean(axis=0).transpose(2, 0, 1) - 0.5
                scale[row] = max(float(variance.mean()), 1e-8)
        self.maps, self.scale = torch.from_numpy(maps), torch.from_numpy(scale)

    def rows(self, positions: np.ndarray) -> torch.Tensor:
        """Which map belongs to each frame of the store."""
        if self.maps is None:
            return torch.zeros(len(positions), dtype=torch.int64)
        return torch.from_numpy(self.row_of_episode[self.frame_episode[positions]])

    def __call__(self, pixels: torch.Tensor, rows: torch.Tensor) -> torch.Tensor | None:
        """pixels (B, T, 3, H, W) -> weights (B, 1, 1 or T, H, W) for pixels as (B, 3, T, H, W), or None."""
        if self.maps is None:
            return None
        if self.maps.device != pixels.device:
            self.maps, self.scale = self.maps.to(pixels.device), self.scale.to(pixels.device)
        chosen = self.maps[rows].float()[:, None]  # (B, 1, C, H, W)
        if self.mode == "variance":
            relative = chosen.transpose(1, 2)
        else:
            distance = (pixels - chosen).square().mean(dim=2, keepdim=True) / self.scale[rows].view(-1, 1, 1, 1, 1)
            relative = distance.clamp_max(self.cap).transpose(1, 2)
        return (1 + self.strength * relative) / (1 + self.strength)
