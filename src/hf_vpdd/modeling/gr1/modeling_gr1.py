"""GR-1: one causal transformer over language, states and frames that predicts actions and future frames (arXiv
2312.13139).

Reads top to bottom: `GR1Model` turns a window of observations into the states of its query tokens,
`GR1ForVideoPrediction` trains it on captioned video without actions, `GR1ForRobotPolicy` adds the action head.

Shapes: B batch, V views (cameras), T steps of the window (at most `history_frames`; windows of different length are
padded at the end), P patches of a frame, A action dimensions.
"""

from contextlib import nullcontext

import torch
from torch import nn
from transformers import CLIPTextModelWithProjection, PreTrainedModel
from transformers import initialization as init

from ..adapters import AdapterLoadingMixin
from ..saved_files import SavedModel
from .configuration_gr1 import GR1Config
from .embeddings import ActionHead, ActionQueries, StateEmbedding, ViewEmbedding
from .frame_decoder import FrameDecoder, patch_statistics, patchify, unpatchify
from .frame_memory import GR1FrameMemory
from .losses import arm_loss, gripper_loss, video_losses
from .newest_step import newest_frames, newest_step
from .outputs import GR1ModelOutput, GR1Output, GR1SampleOutput
from .resampler import PerceiverResampler
from .tokens import StepLayout
from .towers import GR1ImageTower, GR1Trunk


class GR1PreTrainedModel(SavedModel, AdapterLoadingMixin, PreTrainedModel):
    config: GR1Config
    base_model_prefix = "model"
    main_input_name = "pixel_values"
    input_modalities = ("video", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_attention_backend = True
    _no_split_modules = ["ViTLayer", "CLIPEncoderLayer", "GPT2Block", "ResamplerLayer", "TransformerBlock"]

    @torch.no_grad()
    def _init_weights(self, module):
        # torch's own initialisation, as the released code has it outside of the trunk; towers and trunk bring theirs
        if isinstance(module, nn.Linear):
            init.kaiming_uniform_(module.weight, a=5**0.5)
            if module.bias is not None:
                bound = module.in_features**-0.5
                init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight)
        elif hasattr(module, "init_own_parameters"):
            module.init_own_parameters()
        else:
            super()._init_weights(module)

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        """As in transformers, and of adapters as in `AdapterLoadingMixin`; the frozen towers stay frozen (loading
        makes new parameters, all of them trainable)."""
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.base_model.freeze_towers()
        return loaded

    def frame_targets(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Frames (..., 3, H, W) -> what the frame head is to predict, (..., P, numbers of a patch), float32.

        With `normalize_patches`, each patch has mean 0 and deviation 1. Target t is frame t: the loss shifts.
        """
        patches = patchify(pixel_values.float(), self.config.vision_config.patch_size)
        if self.config.normalize_patches:
            mean, scale = patch_statistics(patches)
            patches = (patches - mean) / scale
        return patches

    def frames_from_patches(self, patches: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """Predicted patches (..., P, D) -> frames (..., 3, H, W), normalised as `pixel_values` are.

        A network that predicts normalised patches says nothing of their brightness and contrast. These are taken from
        the same place of `reference`, frames of the same shape: right where nothing moves, a guess elsewhere.
        """
        patch_size = self.config.vision_config.patch_size
        patches = patches.float()
        if self.config.normalize_patches:
            mean, scale = patch_statistics(patchify(reference.float(), patch_size))
            patches = patches * scale + mean
        return unpatchify(patches, patch_size, self.config.vision_config.num_channels)

    def _predict_frames(self, hidden, pixel_values, step_mask) -> dict[str, torch.Tensor]:
        """[OBS] states -> `frame_patches` and, where frames to compare with are there, the losses."""
        ahead, steps = self.config.predict_ahead, hidden.shape[2]
        has_targets = pixel_values is not None and steps > ahead
        if self.training and has_targets:
            hidden = hidden[:, :, :-ahead]  # the rest would be decoded for nothing
        patches = self.frame_decoder(hidden)
        output = {"frame_patches": patches.float()}
        if has_targets:
            with torch.no_grad():
                targets = self.frame_targets(pixel_values[:, :, ahead:])
            keep = pixel_values.new_ones(len(pixel_values), steps, dtype=torch.bool)
            keep = keep if step_mask is None else step_mask.bool()
            losses = video_losses(patches[:, :, : steps - ahead], targets, keep[:, :-ahead] & keep[:, ahead:])
            output |= {"view_losses": losses, "video_loss": losses.sum()}
        return output


class GR1Model(GR1PreTrainedModel):
    """Towers, resampler, embeddings and trunk: a window of observations -> the states of the query tokens."""

    def __init__(self, config: GR1Config):
        super().__init__(config)
        self.text_model = CLIPTextModelWithProjection(config.text_config)
        self.image_model = GR1ImageTower(config.vision_config)
        self.resampler = PerceiverResampler(config)
        self.language_embed = nn.Linear(config.prompt_size, config.hidden_size)
        self.state_embed = StateEmbedding(config) if config.state_dim else None
        self.views = nn.ModuleList(ViewEmbedding(config) for _ in range(config.num_views))
        self.timestep_embed = nn.Embedding(config.history_frames, config.hidden_size)
        self.action_queries = ActionQueries(config)
        self.input_norm = nn.LayerNorm(config.hidden_size)
        self.trunk = GR1Trunk(config)
        self.freeze_towers()
        self.post_init()

    def freeze_towers(self) -> None:
        """Takes the frozen towers out of what an optimiser is given."""
        self.text_model.requires_grad_(not self.config.freeze_text_model)
        self.image_model.requires_grad_(not self.config.freeze_image_model)

    def train(self, mode: bool = True):
        super().train(mode)
        if self.config.freeze_image_model:
            self.image_model.eval()
        if self.config.freeze_text_model:
            self.text_model.eval()
        return self

    # ---- the parts of forward; a controller caches what they return ----

    def encode_text(self, input_ids: torch.LongTensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Instruction tokens (B, S) -> CLIP's feature (B, prompt_size), as it is before the division by its norm.

        The result has the tower's dtype: with `text_model` in half precision the norm is taken in it too, as the
        released code does on a GPU.
        """
        with torch.no_grad() if self.config.freeze_text_model else nullcontext():
            return self.text_model(input_ids=input_ids, attention_mask=attention_mask).text_embeds

    def encode_images(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Frames (..., 3, H, W) -> the image tower's states (..., 1 + P, width): [CLS], then the patches row by row.

        This is all of the frozen part: what a training run may compute once and keep.
        """
        size = self.config.pixel_size
        if pixel_values.shape[-3:] != (self.config.vision_config.num_channels, size, size):
            raise ValueError(
                f"pixel_values: expected frames (3, {size}, {size}), got {tuple(pixel_values.shape[-3:])}. "
                "The processor makes them."
            )
        if not pixel_values.is_floating_point():
            raise ValueError(
                f"pixel_values: expected normalised floating-point numbers, got {pixel_values.dtype}. The processor "
                "makes them of bytes."
            )
        with torch.no_grad() if self.config.freeze_image_model else nullcontext():
            states = self.image_model(pixel_values.flatten(0, -4)).last_hidden_state
        return states.unflatten(0, pixel_values.shape[:-3])

    def embed_images(self, image_features: torch.Tensor) -> torch.Tensor:
        """(B, V, T, 1 + P, width) -> the tokens of each frame (B, V, T, num_latents + 1, hidden), the last one [CLS].

        They know nothing of their step (the timestep embedding is added later): a controller may keep them.
        """
        latents = self.resampler(image_features[..., 1:, :].flatten(0, 2)).unflatten(0, image_features.shape[:3])
        views = zip(self.views, latents.unbind(1), image_features[..., :1, :].unbind(1))
        return torch.stack([embed(view, cls) for embed, view, cls in views], dim=1)

    def embed_text(self, text_embeds: torch.Tensor) -> torch.Tensor:
        """CLIP's feature (B, prompt_size) -> the language token (B, hidden)."""
        unit = text_embeds / (text_embeds.norm(dim=-1, keepdim=True) + 1e-6)
        return self.language_embed(unit.to(self.language_embed.weight.dtype))

    def tokens_of_frames(self, pixel_values=None, image_features=None, image_tokens=None) -> torch.Tensor:
        """The first of tokens, features and pixels that is given -> tokens, see `embed_images`."""
        if image_tokens is None:
            if image_features is None:
                if pixel_values is None:
                    raise ValueError("frames are needed: give pixel_values, image_features or image_tokens")
                image_features = self.encode_images(pixel_values)
            image_tokens = self.embed_images(image_features.to(self.resampler.latents.dtype))
        return image_tokens

    def feature_of_text(self, input_ids=None, attention_mask=None, text_embeds=None) -> torch.Tensor:
        """`text_embeds` if given, else what `encode_text` makes of the instruction."""
        if text_embeds is None:
            if input_ids is None:
                raise ValueError("an instruction is needed: give input_ids (see the processor) or text_embeds")
            text_embeds = self.encode_text(input_ids, attention_mask)
        return text_embeds

    def observation_tokens(
        self, image_tokens: torch.Tensor, text_embeds: torch.Tensor, state: torch.Tensor | None
    ) -> torch.Tensor:
        """The real tokens of a window with the embedding of their step, before the norm: (B, T, StepLayout.real,
        hidden). Shapes in: as in `forward`."""
        batch, views, steps = image_tokens.shape[:3]
        self._check(views, steps, state, batch)
        language = self.embed_text(text_embeds)[:, None, None].expand(-1, steps, -1, -1)
        parts = [language]
        if state is not None:
            parts.append(self.state_embed(state.to(language.dtype))[:, :, None])
        parts.append(image_tokens.to(language.dtype).transpose(1, 2).flatten(2, 3))
        return torch.cat(parts, dim=2) + self.timestep_embed.weight[:steps, None]

    def layout(self, views: int, state: bool, with_actions: bool, with_frames: bool) -> StepLayout:
        """The tokens of a step."""
        config = self.config
        actions = config.chunk_size if with_actions else 0
        frames = with_frames or (with_actions and config.foresight_attention)
        return StepLayout(state, views, config.num_latents + 1, actions, frames)

    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        image_features: torch.Tensor | None = None,
        image_tokens: torch.Tensor | None = None,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        text_embeds: torch.Tensor | None = None,
        state: torch.Tensor | None = None,
        step_mask: torch.BoolTensor | None = None,
        with_actions: bool = True,
        with_frames: bool = True,
    ) -> GR1ModelOutput:
        """A window of observations -> the states of the query tokens.

        Args:
            pixel_values: (B, V, T, 3, H, W) from the processor, the cameras in the order of training. Instead of them:
                image_features (B, V, T, 1 + P, width), from `encode_images`; or image_tokens (B, V, T,
                num_latents + 1, hidden), from `embed_images`.
            input_ids, attention_mask: (B, S), the instruction; or text_embeds (B, prompt_size), from `encode_text`.
            state: (B, T, state_dim), or None for a window without states (action-less video).
            step_mask: bool (B, T), False for padded steps, which have to stand at the end. None: no padding.
            with_actions, with_frames: Which queries to ask.

        Raises:
            ValueError: a window, a state or views of another size than configured, or an input is missing.
        """
        # 1. what was seen and said
        image_tokens = self.tokens_of_frames(pixel_values, image_features, image_tokens)
        text_embeds = self.feature_of_text(input_ids, attention_mask, text_embeds)

        # 2. the real tokens of every step
        tokens = self.observation_tokens(image_tokens, text_embeds, state)
        batch, steps, views = *tokens.shape[:2], image_tokens.shape[1]

        # 3. the queries, which get no timestep
        layout = self.layout(views, state is not None, with_actions, with_frames)
        queries = [self.action_queries(tokens)] if with_actions else []
        if layout.frames:
            queries += [view.queries.weight for view in self.views[:views]]
        queries = [query.expand(batch, steps, -1, -1) for query in queries]
        tokens = self.input_norm(torch.cat([tokens, *queries], dim=2)).flatten(1, 2)

        # 4. the trunk
        if step_mask is None:
            step_mask = torch.ones(batch, steps, dtype=torch.bool, device=tokens.device)
        mask = layout.attention_mask(step_mask.bool(), tokens.dtype, self.config.foresight_attention)
        hidden = self.trunk(inputs_embeds=tokens, attention_mask=mask, use_cache=False).last_hidden_state
        hidden = hidden.unflatten(1, (steps, layout.size))
        frames = None
        if with_frames:
            frames = hidden[:, :, layout.frame_slice].unflatten(2, (views, -1)).transpose(1, 2)
        return GR1ModelOutput(
            last_hidden_state=hidden,
            action_hidden_states=hidden[:, :, layout.action_slice] if with_actions else None,
            frame_hidden_states=frames,
        )

    def _check(self, views: int, steps: int, state: torch.Tensor | None, batch: int) -> None:
        config = self.config
        if views > config.num_views:
            raise ValueError(f"{views} views given, the network has {config.num_views}: num_views")
        if steps > config.history_frames:
            raise ValueError(
                f"the window has {steps} steps, the network looks at {config.history_frames} at most: give the newest"
            )
        if state is not None and state.shape != (batch, steps, config.state_dim):
            raise ValueError(
                f"state: expected {(batch, steps, config.state_dim)} (batch, steps, state_dim), "
                f"got {tuple(state.shape)}"
            )


class GR1ForVideoPrediction(GR1PreTrainedModel):
    """Pre-training on captioned video: predict the frame `predict_ahead` steps after every step.

    It needs neither states nor all of the policy's cameras. Its weights are a start for `GR1ForRobotPolicy`, with the
    same configuration or another one in state, actions, cameras and chunk.
    """

    def __init__(self, config: GR1Config):
        super().__init__(config)
        self.model = GR1Model(config)
        self.frame_decoder = FrameDecoder(config)
        self.post_init()

    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        image_features: torch.Tensor | None = None,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        text_embeds: torch.Tensor | None = None,
        state: torch.Tensor | None = None,
        step_mask: torch.BoolTensor | None = None,
    ) -> GR1Output:
        """
        Args:
            pixel_values: (B, V, T, 3, H, W), inputs and labels: step t is to predict frame t + predict_ahead. V may be
                less than num_views. image_features: see [`GR1Model.forward`]; pixel_values are then labels only.
            The rest as in [`GR1Model.forward`].
        """
        hidden = self.model(
            pixel_values=pixel_values,
            image_features=image_features,
            input_ids=input_ids,
            attention_mask=attention_mask,
            text_embeds=text_embeds,
            state=state,
            step_mask=step_mask,
            with_actions=False,
        ).frame_hidden_states
        output = self._predict_frames(hidden, pixel_values, step_mask)
        return GR1Output(loss=output.get("video_loss"), **output)

    @torch.no_grad()
    def predict_frames(self, pixel_values: torch.Tensor, **inputs) -> torch.Tensor:
        """The frames `predict_ahead` steps after each step of the window.

        Args:
            pixel_values: (B, V, T, 3, H, W). inputs: the rest of `forward`'s.

        Returns:
            (B, V, T, 3, H, W), normalised as `pixel_values` are; see `frames_from_patches` for what they can tell.
        """
        hidden = self.model(pixel_values=pixel_values, with_actions=False, **inputs).frame_hidden_states
        return self.frames_from_patches(self.frame_decoder(hidden), pixel_values)


class GR1ForRobotPolicy(GR1PreTrainedModel):
    """The policy: actions and future frames from the same trunk. The actions do not depend on the frame head."""

    imagines_video = True  # for controllers: `sample_actions(return_video=True)` gives a future

    def frame_memory(self, processor) -> GR1FrameMemory:
        """For controllers: what encodes every frame and every instruction once."""
        return GR1FrameMemory(self, processor)

    def __init__(self, config: GR1Config):
        super().__init__(config)
        self.model = GR1Model(config)
        self.frame_decoder = FrameDecoder(config)
        self.action_head = ActionHead(config)
        self.post_init()

    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        image_features: torch.Tensor | None = None,
        image_tokens: torch.Tensor | None = None,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        text_embeds: torch.Tensor | None = None,
        state: torch.Tensor | None = None,
        step_mask: torch.BoolTensor | None = None,
        actions: torch.Tensor | None = None,
        actions_is_pad: torch.BoolTensor | None = None,
        predict_video: bool | None = None,
    ) -> GR1Output:
        """Actions and future frames of every step of the window, and their weighted loss.

        Args:
            pixel_values: (B, V, T, 3, H, W). With image_features or image_tokens they are the video's labels only.
            actions: labels (B, T, chunk, A) in network units (see the processor): the arm's numbers and, with
                `binary_gripper_action`, the gripper, 0 closed to 1 open. [:, t, k] is the action k steps after step t.
            actions_is_pad: bool (B, T, chunk), True past the end of the episode; such actions have no loss, nor have
                those of padded steps.
            predict_video: Run the frame head. Default: when there are labels and the video loss has a weight.
            The rest as in [`GR1Model.forward`].
        """
        config = self.config
        self._check_observation(pixel_values, image_features, image_tokens, state)
        if predict_video is None:
            predict_video = actions is not None and config.video_loss_weight > 0
        hidden = self.model(
            pixel_values=pixel_values,
            image_features=image_features,
            image_tokens=image_tokens,
            input_ids=input_ids,
            attention_mask=attention_mask,
            text_embeds=text_embeds,
            state=state,
            step_mask=step_mask,
            with_frames=predict_video,
        )
        arm, gripper = self.action_head(hidden.action_hidden_states)
        output = {"arm_actions": arm.float()}
        if gripper is not None:
            output["gripper_logits"] = gripper.squeeze(-1).float()
        if predict_video:
            output |= self._predict_frames(hidden.frame_hidden_states, pixel_values, step_mask)
        if actions is not None:
            output |= self._action_losses(arm, gripper, actions, actions_is_pad, step_mask)
        weights = {
            "arm_loss": config.arm_loss_weight,
            "gripper_loss": config.gripper_loss_weight,
            "video_loss": config.video_loss_weight,
        }
        parts = [weight * output[name] for name, weight in weights.items() if name in output]
        return GR1Output(loss=sum(parts) if parts else None, **output)

    @torch.no_grad()
    def sample_actions(
        self,
        pixel_values: torch.Tensor | None = None,
        image_features: torch.Tensor | None = None,
        image_tokens: torch.Tensor | None = None,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        text_embeds: torch.Tensor | None = None,
        state: torch.Tensor | None = None,
        step_mask: torch.BoolTensor | None = None,
        return_video: bool = False,
        generator: torch.Generator | None = None,
    ) -> GR1SampleOutput:
        """The action, or chunk of actions, of the newest step of every window; only its queries are asked.

        Args:
            return_video: Also forecast the frame `predict_ahead` steps after the newest. It needs pixel_values: of the
                window, or (B, V, 1, 3, H, W), only its newest frame.
            generator: Of random draws. There are none: GR-1 answers the same question the same way.
            The rest as in [`GR1Model.forward`].
        """
        if return_video and pixel_values is None:
            raise ValueError("return_video needs pixel_values: brightness and contrast come from the newest frame")
        self._check_observation(pixel_values, image_features, image_tokens, state)
        image_tokens = self.model.tokens_of_frames(pixel_values, image_features, image_tokens)
        text_embeds = self.model.feature_of_text(input_ids, attention_mask, text_embeds)
        hidden, frames = newest_step(self.model, image_tokens, text_embeds, state, step_mask, return_video)
        arm, gripper = self.action_head(hidden)
        actions = arm.float()
        if gripper is not None:
            actions = torch.cat((actions, gripper.float().sigmoid()), dim=-1)
        video = None
        if return_video:
            reference = newest_frames(pixel_values, image_tokens.shape[2], step_mask)
            video = self.frames_from_patches(self.frame_decoder(frames[:, :, None]), reference)
        return GR1SampleOutput(actions=actions, video=video)

    def _check_observation(self, pixel_values, image_features, image_tokens, state) -> None:
        config = self.config
        for name, given in (
            ("pixel_values", pixel_values),
            ("image_features", image_features),
            ("image_tokens", image_tokens),
        ):
            if given is not None and given.shape[1] != config.num_views:
                raise ValueError(f"{name}: this policy looks through {config.num_views} cameras, got {given.shape[1]}")
        if config.state_dim and state is None:
            raise ValueError(f"state: missing; this policy reads {config.state_dim} numbers at every step")

    def _action_losses(self, arm, gripper, actions, actions_is_pad, step_mask) -> dict[str, torch.Tensor]:
        if actions.shape != (*arm.shape[:3], self.config.action_dim):
            raise ValueError(
                f"actions: expected {(*arm.shape[:3], self.config.action_dim)} (batch, steps, chunk, action_dim), "
                f"got {tuple(actions.shape)}"
            )
        keep = torch.ones(arm.shape[:3], dtype=torch.bool, device=arm.device)
        if step_mask is not None:
            keep &= step_mask.bool()[..., None]
        if actions_is_pad is not None:
            keep &= ~actions_is_pad.bool()
        losses = {"arm_loss": arm_loss(arm, actions[..., : self.config.arm_dim], keep)}
        if gripper is not None:
            losses["gripper_loss"] = gripper_loss(gripper.squeeze(-1), actions[..., -1], keep)
        return losses


__all__ = [
    "GR1ForRobotPolicy",
    "GR1ForVideoPrediction",
    "GR1Model",
    "GR1PreTrainedModel",
]
