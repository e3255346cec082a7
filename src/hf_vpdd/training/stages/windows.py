"""Windows of a recording (current clip, future clip, actions) as model inputs: shared by pretrain and finetune."""

from typing import Any

import numpy as np
import torch

from ..arguments import DataArguments
from ..augment import InstructionSampler, color_jitter
from .common import (
    frame_indices,
    main_process_first,
    pixels_from_uint8,
    sentences_with_paraphrases,
    spread,
    store_codes,
)


class Windows:
    """Batches of windows, and what turns them into keyword arguments of the model.

    Args:
        config: VPDDConfig, for clip length, forecast distance and chunk.
        processor: tokenizes instructions, normalises states, encodes actions.
        actions: whether windows carry action chunks.
    """

    def __init__(
        self, store, codes, config, processor, data: DataArguments, options, train_episodes: list[int],
        held_out: list[int], eval_samples: int, actions: bool,
    ):  # fmt: skip
        self.store, self.config, self.processor, self.options = store, config, processor, options
        self.with_pixels = sees_pixels(config, actions)
        self.with_actions = actions
        # With the codes of the history at hand, only the newest frame is still looked at.
        self._shape = dict(
            history_frames=1, history_stride=data.history_stride,
            predict_ahead=config.predict_ahead,
            chunk_size=config.chunk_size, with_actions=actions, with_pixels=self.with_pixels,
        )  # fmt: skip
        if actions:
            self._shape["targets"] = data.targets
        self._codes = codes
        self.train = self.subset(self._useful(frame_indices(store, train_episodes, data.frame_stride)))
        self.val_positions = spread(self._useful(frame_indices(store, held_out)), eval_samples)
        self.val = self.subset(self.val_positions) if len(self.val_positions) else None
        self.instructions = InstructionSampler(
            sentences_with_paraphrases(list(self.train.tasks)),
            processor.tokenize_instructions,
            options.paraphrase_prob,
        )

    cotrain_samples = 0

    def subset(self, positions: np.ndarray, **changes: Any):
        """A `WindowDataset` of the windows that start at these frames of the store."""
        from ...data.windows import WindowDataset

        return WindowDataset(self.store, self._codes, frame_indices=positions, **{**self._shape, **changes})

    def _useful(self, positions: np.ndarray) -> np.ndarray:
        """Without the frames after which there is nothing left to do."""
        if len(positions) and self._shape.get("targets") == "keyframes":
            return positions[self.subset(positions).with_targets()]
        return positions

    def last_frame(self, positions: np.ndarray) -> np.ndarray:
        """The last frame of the episode of each of these frames."""
        return self.store.episode_to[self.store.frame_episode[positions]] - 1

    def same_moment(self, position: int) -> np.ndarray:
        """This frame as every camera of a store of single cameras saw it; positions in the store."""
        store = self.store
        episode = store.frame_episode[position]
        seen = np.flatnonzero(store.takes == store.takes[episode])
        return store.episode_from[seen] + (position - store.episode_from[episode])

    def add_cotraining(self, episodes: list[int], number: int, stride: int) -> None:
        """Let every training batch also hold `number` windows of these episodes, for the video loss only."""
        self.cotrain_samples = number
        self.cotrain = self.subset(frame_indices(self.store, episodes, stride), with_actions=False)

    def training_batch(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        """Collated windows of `train`; co-training ones come last, every step of their chunk marked as pad."""
        batch = tensors_only(self.train.__getitems__(indices.tolist()))
        if not self.cotrain_samples:
            return batch
        # A function of the indices alone, hence of (seed, step) like they are.
        chosen = np.random.default_rng(indices).integers(0, len(self.cotrain), self.cotrain_samples)
        more = tensors_only(self.cotrain.__getitems__(chosen.tolist()))
        more["action"] = batch["action"][:1].expand(len(chosen), -1, -1)  # some valid action, never a label
        more["action_is_pad"] = torch.ones(len(chosen), batch["action"].shape[1], dtype=torch.bool)
        return {key: torch.cat((batch[key], more[key])) for key in batch}

    def inputs(self, batch: dict[str, Any], generator: torch.Generator | None) -> dict[str, torch.Tensor]:
        """Collated window tensors -> model inputs. With a generator: augmented, for training; without: as they are."""
        inputs = {
            "video_codes": batch["video_codes"], "history_codes": batch["history_codes"],
            **self.instructions(batch["task_index"], generator),
        }  # fmt: skip
        if self.with_pixels:
            pixels = pixels_from_uint8(batch["pixel_values"])
            if generator is not None:
                pixels = color_jitter(pixels, self.options.color_jitter, generator)
            inputs["pixel_values"] = pixels
        if self.with_actions:
            processor = self.processor
            if self.config.state_dim:
                state = processor.normalize_state(batch["state"])
                noise = getattr(self.options, "state_noise", 0.0)
                if noise and generator is not None:
                    state = state + noise * torch.randn(state.shape, generator=generator, device=state.device)
                inputs["state"] = state
            if "action" in batch:
                encode = (
                    processor.encode_actions
                    if self.config.action_objective == "diffusion"
                    else processor.normalize_actions
                )
                inputs["actions"] = encode(batch["action"], check=False)
                inputs["actions_is_pad"] = batch["action_is_pad"]
        return inputs


def frames_and_codes(recipe, store, vqvae, codes, fingerprint: str, config, actions: bool):
    """`store_codes` for a model. Where it looks at pictures too, the store's frames are decoded first, once."""
    if sees_pixels(config, actions):
        from ...data.video_frames import decode_frames

        with main_process_first():
            decode_frames(store)
    return store_codes(recipe, store, vqvae, codes, fingerprint, config.pixel_size if actions else None)


def sees_pixels(config, actions: bool) -> bool:
    """Whether a model looks at pictures besides the codes: in pre-training, or with its action head."""
    head_sees = config.head_keypoints or config.action_head == "causal_multiview"
    return bool(config.image_channels or head_sees and actions)


def tensors_only(batch: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {key: value for key, value in batch.items() if isinstance(value, torch.Tensor)}
