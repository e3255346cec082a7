"""What a controller has encoded already: tokens of frames and features of instructions, each made once (spec §6).

The tokens of a frame know nothing of their place in the window, so a frame that moves through the window keeps them.
Of the released network's work on a full window this leaves one part in nine.
"""

from collections import OrderedDict
from collections.abc import Hashable, Iterable, Mapping, Sequence

import torch

from ...errors import InputError


_MOST_OWNERS, _MOST_SENTENCES = 4096, 4096  # nobody tells of an episode that was given up; 0.3 MB each at full size


class GR1FrameMemory:
    """Observations -> inputs of `GR1ForRobotPolicy.sample_actions`, without encoding anything twice.

    What may be kept is named by the caller: an observation with "frame_keys", one (owner, step) for every frame of its
    window, oldest first. An owner is an episode; frames that no later window of it can hold are dropped. Without keys
    the frames are encoded as they come. Whoever changes the network's weights has to `clear()`.

    Args:
        model: The policy. processor: Its `GR1Processor`.
    """

    def __init__(self, model, processor):
        self.model, self.processor = model, processor
        self._frames: OrderedDict[Hashable, dict[int, torch.Tensor]] = OrderedDict()  # (V, L + 1, hidden) each
        self._sentences: dict[str, torch.Tensor] = {}  # (prompt_size,) each

    def clear(self) -> None:
        """Forgets everything."""
        self._frames.clear()
        self._sentences.clear()

    def forget(self, owners: Iterable[Hashable]) -> None:
        """Forgets the frames of these episodes, if there are any."""
        for owner in owners:
            self._frames.pop(owner, None)

    @torch.no_grad()
    def inputs(self, observations: Sequence[Mapping], with_pixels: bool = False) -> dict[str, torch.Tensor]:
        """Observations as in `GR1Processor.process_observations` -> `image_tokens`, `text_embeds`, `state`,
        `step_mask`, on the model's device.

        Args:
            with_pixels: Also `pixel_values` (B, V, 1, 3, H, W), each window's newest frame: for `return_video`.
        """
        processor = self.processor
        processor.check_observations(observations)
        windows = [_Window(self, obs, f"observation {i}") for i, obs in enumerate(observations)]
        self._encode(windows, with_pixels)
        tokens = [torch.stack(window.tokens, dim=1) for window in windows]  # (V, T, L + 1, hidden)
        lengths = [one.shape[1] for one in tokens]
        data = {
            "image_tokens": processor.pad_steps(tokens, dim=1),
            "text_embeds": self._features([obs["instruction"] for obs in observations]),
            "step_mask": torch.arange(max(lengths)) < torch.tensor(lengths)[:, None],
        }
        if processor.state_dim:
            data["state"] = processor.state_windows([obs["state"] for obs in observations], lengths)
        if with_pixels:
            data["pixel_values"] = torch.stack([window.newest for window in windows])
        while len(self._frames) > _MOST_OWNERS:
            self._frames.popitem(last=False)
        return {name: tensor.to(self.model.device) for name, tensor in data.items()}

    def _encode(self, windows: list["_Window"], with_pixels: bool) -> None:
        """All frames that are not known yet in one batch, whatever the window they belong to."""
        pixels = [window.pixels() for window in windows]
        new = [one for one in pixels if one is not None]
        if new:
            model = self.model
            batch = torch.cat(new, dim=1).to(model.device, model.dtype)[None]  # (1, V, frames, 3, S, S)
            tokens = model.model.tokens_of_frames(pixel_values=batch)[0]
            for window, part in zip(
                [window for window, one in zip(windows, pixels) if one is not None],
                tokens.split([one.shape[1] for one in new], dim=1),
            ):
                window.fill(part)
        for window, one in zip(windows, pixels):
            window.keep(self._frames)
            if with_pixels:
                known = one is not None and window.missing[-1] == len(window.tokens) - 1
                window.newest = one[:, -1:] if known else window.pixels([len(window.tokens) - 1])

    def _features(self, sentences: list[str]) -> torch.Tensor:
        new = list(dict.fromkeys(sentence for sentence in sentences if sentence not in self._sentences))
        if len(self._sentences) + len(new) > _MOST_SENTENCES:
            self._sentences.clear()
            new = list(dict.fromkeys(sentences))
        if new:
            words = self.processor.tokenize_instructions(new)
            words = {name: tensor.to(self.model.device) for name, tensor in words.items()}
            self._sentences |= zip(new, self.model.model.encode_text(**words))
        return torch.stack([self._sentences[sentence] for sentence in sentences])


class _Window:
    """One observation's frames: which are known, which are not."""

    def __init__(self, memory: GR1FrameMemory, obs: Mapping, where: str):
        self.processor, self.where = memory.processor, where
        self.images = memory.processor.frames_of_cameras(obs["images"], where)  # camera -> frames, oldest first
        size = len(next(iter(self.images.values())))
        self.keys = obs.get("frame_keys")
        if self.keys is not None and (len(self.keys) != size or len({owner for owner, _ in self.keys}) > 1):
            raise InputError(f"{where}: frame_keys must be one (owner, step) for each of {size} frames, of one owner.")
        known = [memory._frames.get(owner, {}).get(step) for owner, step in self.keys or ()]
        self.tokens: list[torch.Tensor | None] = known or [None] * size
        self.missing = [i for i, one in enumerate(self.tokens) if one is None]
        self.newest: torch.Tensor | None = None

    def pixels(self, rows: list[int] | None = None) -> torch.Tensor | None:
        """(V, frames, 3, S, S) of the frames `rows`, of those that are missing by default; None if there are none."""
        rows = self.missing if rows is None else rows
        if not rows:
            return None
        chosen = {camera: [frames[i] for i in rows] for camera, frames in self.images.items()}
        return self.processor.process_window(chosen, self.where)

    def fill(self, tokens: torch.Tensor) -> None:
        """tokens (V, missing frames, L + 1, hidden)."""
        for i, one in zip(self.missing, tokens.unbind(1)):
            self.tokens[i] = one

    def keep(self, frames: OrderedDict) -> None:
        """Puts this window's frames into the memory, and drops those too old for the next one."""
        if not self.keys:
            return
        owner, newest = self.keys[-1]
        span = (self.processor.history_frames - 1) * self.processor.history_stride
        kept = frames.get(owner, {}) | {step: one for (_, step), one in zip(self.keys, self.tokens)}
        frames[owner] = {step: one for step, one in kept.items() if step > newest - span}
        frames.move_to_end(owner)
