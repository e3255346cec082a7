"""VPDD: one discrete diffusion over future video codes and action bins (arXiv 2402.14407).

Reads top to bottom: `VPDDModel` denoises video codes (p_theta1), `VPDDForVideoPrediction` trains it on action-less
video, `VPDDForRobotPolicy` adds the action head (p_theta2) and denoises video and actions together.

Shapes: B batch, V views (cameras), L = t*h*w codes of a view's clip, K codebook size, A action dimensions.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn
from torch.nn import functional as F
from transformers import CLIPTextModelWithProjection, PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from ...errors import InputError
from ...schedulers.scheduling_mask_and_replace import MaskAndReplaceScheduler
from ..adapters import AdapterLoadingMixin
from ..saved_files import SavedModel
from ..vqvae.modeling_vqvae import VPDDVQVAE
from .configuration_vpdd import VPDDConfig
from .cross_attention_head import CrossAttentionHead, KeypointEncoder
from .fused_trunk import FusedTrunk
from .inputs import check_batch, check_codes
from .model_scheduler import build_scheduler, saved_scheduler
from .sampling import PolicySamplingMixin, VideoSamplingMixin, VPDDSampleOutput


@dataclass
class VPDDModelOutput(ModelOutput):
    """`logits` (B, V, L, K) of the clean codes and `hidden_states` (B, V, L, hidden), what the action head reads."""

    logits: torch.FloatTensor | None = None
    hidden_states: torch.FloatTensor | None = None


@dataclass
class VPDDOutput(ModelOutput):
    """`loss` and its parts (scalars; None without labels), and the logits they were computed from.

    Args:
        video_logits: (B, V, L, K). action_logits: (B, chunk, A, bins), or (B, chunk, A) for `"regression"`.
        timesteps: int64 (B,), the noise levels that were drawn.
    """

    loss: torch.FloatTensor | None = None
    video_loss: torch.FloatTensor | None = None
    action_loss: torch.FloatTensor | None = None
    video_logits: torch.FloatTensor | None = None
    action_logits: torch.FloatTensor | None = None
    timesteps: torch.LongTensor | None = None


def build_trunk(config: VPDDConfig) -> nn.Module:
    """The video denoiser named by `config.trunk`. Interface: `encode_context` once a plan, `forward` once a step."""
    if config.trunk == "fused":
        return FusedTrunk(config)
    from .perceiver_trunk import PerceiverTrunk

    return PerceiverTrunk(config)


def build_action_head(config: VPDDConfig) -> nn.Module:
    """The action denoiser named by `config.action_head`. Same interface: `encode_context`, then `forward`."""
    if config.action_head == "cross_attention":
        return CrossAttentionHead(config)
    if config.action_head == "causal":
        from .causal_head import CausalHead

        return CausalHead(config)
    from .causal_multiview_head import CausalMultiviewHead

    return CausalMultiviewHead(config)


class VPDDPreTrainedModel(SavedModel, AdapterLoadingMixin, PreTrainedModel):
    config: VPDDConfig
    base_model_prefix = "model"
    main_input_name = "history_codes"
    input_modalities = ("video", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_attention_backend = True
    _no_split_modules = ["TransformerBlock", "PerceiverBlock", "CLIPEncoderLayer", "GPT2Block"]

    @torch.no_grad()
    def _init_weights(self, module):
        # torch's own fan-in scaled initialisation: a fixed 0.02 is far too small for narrow networks
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.Conv3d)):
            init.kaiming_uniform_(module.weight, a=5**0.5)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight)
        elif hasattr(module, "init_own_parameters"):
            module.init_own_parameters()
        elif isinstance(module, FusedTrunk):
            for table in (module.row_embed, module.column_embed, module.time_embed):
                init.normal_(table, std=0.02)
        elif isinstance(module, CrossAttentionHead):
            init.normal_(module.step_embed, std=0.02)
            init.normal_(module.segment_embed, std=0.02)
        elif isinstance(module, KeypointEncoder):
            init.zeros_(module.log_temperature)
        else:
            super()._init_weights(module)

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        """As in transformers, and of adapters as in `AdapterLoadingMixin`; the tokenizer stays frozen (loading makes
        new parameters, all of them trainable), and a sampler that was saved with the model (scheduler_config.json)
        takes the place of the config's own."""
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.base_model.vqvae.requires_grad_(False)
        place = args[0] if args else kwargs.get("pretrained_model_name_or_path")
        place = (kwargs.get("adapter_kwargs") or {}).get("_adapter_model_path") or place  # AutoModel names the base
        if place is not None and (saved := saved_scheduler(place, model.config, kwargs)) is not None:
            model.scheduler = saved
        return loaded

    @cached_property
    def scheduler(self) -> MaskAndReplaceScheduler:
        """The diffusion of this config. Made on first use: `from_pretrained` builds the model on the meta device."""
        return build_scheduler(self.config)

    def _draw_timesteps(self, batch: int, device: torch.device, generator: torch.Generator | None):
        """Noise levels (B,) and, for `"vb"`, the probabilities they were drawn with (VPDD spec §2.5).

        With `full_mask_fraction`, a share of them is at the fully masked end, where every plan begins.
        """
        probs = None
        if self.config.loss_type == "vb":
            timesteps, probs = self.scheduler.sample_timesteps(batch, generator, device)
        else:
            timesteps, _ = self.scheduler.sample_timesteps(batch, generator, device, importance=False)
        if self.config.full_mask_fraction > 0:
            source = generator.device if generator is not None else device
            full = torch.rand(batch, generator=generator, device=source) < self.config.full_mask_fraction
            timesteps = torch.where(full.to(device), self.config.num_train_timesteps - 1, timesteps)
        return timesteps, probs

    def _drop_instructions(self, prompt: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        """Whole instructions (B, P) replaced by the zero vector, for classifier-free guidance; in training alone."""
        rate = self.config.instruction_dropout
        if not self.training or rate == 0:
            return prompt
        source = generator.device if generator is not None else prompt.device
        dropped = torch.rand(len(prompt), 1, generator=generator, device=source) < rate
        return prompt.masked_fill(dropped.to(prompt.device), 0.0)

    def _video_loss(self, logits, clean, noisy, history, timesteps, probs):
        """Loss of the video codes (B, V, L); codes that change between now and the future may weigh more (`"ce"`)."""
        weights = None
        if self.config.loss_type == "ce" and self.config.changed_token_weight != 1:
            weights = torch.where(clean != history, float(self.config.changed_token_weight), 1.0).flatten(1)
        return self.scheduler.loss(
            logits.flatten(1, 2),
            clean.flatten(1),
            noisy.flatten(1),
            timesteps,
            self.config.vqvae_config.codebook_size,
            timestep_probs=probs,
            position_weights=weights,
            kind=self.config.loss_type,
        )


class VPDDModel(VPDDPreTrainedModel):
    """The video denoiser with its tokenizer and instruction tower. The tokenizer is frozen and always in eval mode."""

    def __init__(self, config: VPDDConfig):
        super().__init__(config)
        self.vqvae = VPDDVQVAE(config.vqvae_config)
        self.vqvae.requires_grad_(False)
        self.text_model = CLIPTextModelWithProjection(config.text_config) if config.has_text_tower else None
        self.trunk = build_trunk(config)
        self.post_init()

    def train(self, mode: bool = True):
        super().train(mode)
        self.vqvae.eval()
        return self

    @torch.no_grad()
    def encode_video(self, pixel_values: torch.Tensor) -> torch.LongTensor:
        """(B, V, T, 3, H, W) in [-0.5, 0.5] -> int64 codes (B, V, t, h, w)."""
        if pixel_values is None:
            raise ValueError("the current clip is needed: give pixel_values or history_codes")
        batch, views = pixel_values.shape[:2]
        if self.config.head_image_size:  # frames come at the size the action head reads; the tokenizer's is another
            size = self.config.vqvae_config.image_size
            frames = F.interpolate(pixel_values.flatten(0, 2), size=(size, size), mode="bilinear", align_corners=False)
            pixel_values = frames.unflatten(0, pixel_values.shape[:3])
        codes = self.vqvae.encode(pixel_values.flatten(0, 1).transpose(1, 2).to(self.vqvae.dtype))
        return codes.unflatten(0, (batch, views))

    @torch.no_grad()
    def decode_video(self, codes: torch.LongTensor) -> torch.Tensor:
        """int64 codes (B, V, t, h, w) -> pixels (B, V, T, 3, H, W), clamped to [-0.5, 0.5]."""
        video = self.vqvae.decode(codes.flatten(0, 1)).clamp(-0.5, 0.5)
        return video.transpose(1, 2).unflatten(0, codes.shape[:2])

    @torch.no_grad()
    def decode_last_frame(self, codes: torch.LongTensor, view: int = 0) -> torch.Tensor:
        """int64 codes (B, V, t, h, w) -> the last picture of one camera (B, 3, H, W), clamped to [-0.5, 0.5]; alone,
        where the tokenizer keeps frames apart."""
        codes = codes[:, view]
        if self.config.vqvae_config.variant == "conv_2d":
            codes = codes[:, -1:]
        return self.vqvae.decode(codes)[:, :, -1].clamp(-0.5, 0.5)

    def embed_prompt(self, input_ids=None, attention_mask=None, prompt_embeds=None) -> torch.Tensor:
        """Instruction tokens (B, S), or an embedding (B, P) given instead, -> (B, P); not L2-normalised."""
        if prompt_embeds is not None:
            return prompt_embeds
        if input_ids is None:
            raise ValueError("an instruction is needed: give input_ids (see the processor) or prompt_embeds")
        if self.text_model is None:
            raise ValueError(
                "this checkpoint has no text tower (config.has_text_tower is false), so it cannot read input_ids: "
                f"give prompt_embeds (B, {self.config.prompt_size}), or convert the original again with CLIP's "
                "weights, `hf-vpdd convert checkpoint --clip`"
            )
        return self.text_model(input_ids=input_ids, attention_mask=attention_mask).text_embeds

    def encode_inputs(
        self,
        pixel_values: torch.Tensor | None,
        history_codes: torch.LongTensor | None,
        input_ids: torch.LongTensor | None,
        attention_mask: torch.Tensor | None,
        prompt_embeds: torch.Tensor | None,
        views: int | None = None,
        **others: torch.Tensor | None,
    ) -> tuple[torch.LongTensor, torch.Tensor]:
        """The current clip's codes (B, V, t, h, w) and the instruction (B, P), from whatever form they were given in.

        `others` are checked for the same batch size, V for `views`: to the trunk a view is a row like any other, but
        an action head knows each camera by its place.
        """
        check_batch(
            pixel_values=pixel_values,
            history_codes=history_codes,
            input_ids=input_ids,
            attention_mask=attention_mask,
            prompt_embeds=prompt_embeds,
            **others,
        )
        check_codes("history_codes", history_codes, self.config.latent_shape, self.config.vqvae_config.codebook_size)
        for name, given in (("pixel_values", pixel_values), ("history_codes", history_codes)):
            if views is not None and given is not None and given.shape[1] != views:
                raise InputError(f"{name}: this policy sees {views} camera(s), in its order; got {given.shape[1]}.")
        prompt = self.embed_prompt(input_ids, attention_mask, prompt_embeds)
        return self.encode_video(pixel_values) if history_codes is None else history_codes, prompt

    def encode_context(
        self, prompt: torch.Tensor, history_codes: torch.Tensor | None, pixel_values: torch.Tensor | None
    ) -> dict[str, torch.Tensor]:
        """What stays the same during one plan; tensors with B*V rows."""
        if history_codes is None:
            history_codes = self.encode_video(pixel_values)
        if pixel_values is None and self.config.image_channels:
            raise ValueError(
                "this trunk reads raw pixels (image_channels > 0): give pixel_values, not only history_codes"
            )
        rows = None if pixel_values is None else pixel_values.flatten(0, 1)
        prompt = prompt.repeat_interleave(history_codes.shape[1], dim=0)
        return self.trunk.encode_context(history_codes.flatten(0, 1), rows, prompt, self.vqvae.codebook.embeddings)

    def denoise(
        self, codes: torch.LongTensor, timesteps: torch.LongTensor, context: dict[str, torch.Tensor]
    ) -> VPDDModelOutput:
        """Noisy codes (B, V, L), timesteps (B,) -> logits and hidden states."""
        batch, views = codes.shape[:2]
        logits, hidden = self.trunk(codes.flatten(0, 1), timesteps.repeat_interleave(views, dim=0), context)
        return VPDDModelOutput(
            logits=logits.float().unflatten(0, (batch, views)), hidden_states=hidden.unflatten(0, (batch, views))
        )

    def forward(
        self,
        noisy_codes: torch.LongTensor,
        timesteps: torch.LongTensor,
        history_codes: torch.LongTensor | None = None,
        pixel_values: torch.Tensor | None = None,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        prompt_embeds: torch.Tensor | None = None,
    ) -> VPDDModelOutput:
        """One evaluation of p_theta1.

        Args:
            noisy_codes: int64 (B, V, t, h, w) or (B, V, L); MASK = codebook_size. timesteps: int64 (B,), 0..T-1.
            history_codes: int64 (B, V, t, h, w), or computed from pixel_values (B, V, T, 3, H, W) in [-0.5, 0.5].
            input_ids, attention_mask: (B, S), or prompt_embeds (B, P).
        """
        history_codes, prompt = self.encode_inputs(
            pixel_values, history_codes, input_ids, attention_mask, prompt_embeds, noisy_codes=noisy_codes
        )
        context = self.encode_context(prompt, history_codes, pixel_values)
        return self.denoise(noisy_codes.flatten(2), timesteps, context)


class VPDDForVideoPrediction(VideoSamplingMixin, VPDDPreTrainedModel):
    """Pre-training on action-less video: predict the codes of the clip `predict_ahead` steps in the future."""

    def __init__(self, config: VPDDConfig):
        super().__init__(config)
        self.model = VPDDModel(config)
        self.post_init()

    def forward(
        self,
        video_codes: torch.LongTensor | None = None,
        history_codes: torch.LongTensor | None = None,
        pixel_values: torch.Tensor | None = None,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        prompt_embeds: torch.Tensor | None = None,
        timesteps: torch.LongTensor | None = None,
        generator: torch.Generator | None = None,
    ) -> VPDDOutput:
        """
        Args:
            video_codes: int64 (B, V, t, h, w), the future clip: the labels.
            timesteps: int64 (B,); drawn when not given. generator: of every random draw.
            The rest as in [`VPDDModel.forward`].
        """
        history_codes, prompt = self.model.encode_inputs(
            pixel_values, history_codes, input_ids, attention_mask, prompt_embeds, video_codes=video_codes
        )
        probs = None
        if timesteps is None:
            timesteps, probs = self._draw_timesteps(len(video_codes), video_codes.device, generator)
        prompt = self._drop_instructions(prompt, generator)
        context = self.model.encode_context(prompt, history_codes, pixel_values)
        clean = video_codes.flatten(2)
        noisy = add_noise(self.scheduler, clean, timesteps, self.config.vqvae_config.codebook_size, generator)
        output = self.model.denoise(noisy, timesteps, context)
        loss = self._video_loss(output.logits, clean, noisy, history_codes.flatten(2), timesteps, probs)
        if self.training and loss.variational is not None:
            self.scheduler.update_importance(timesteps, loss.variational)
        return VPDDOutput(
            loss=loss.loss, video_loss=loss.loss.detach(), video_logits=output.logits, timesteps=timesteps
        )


class VPDDForRobotPolicy(PolicySamplingMixin, VPDDPreTrainedModel):
    """The policy: video and actions are denoised in one chain at the same t; the action head reads the forecast."""

    def __init__(self, config: VPDDConfig):
        super().__init__(config)
        self.model = VPDDModel(config)
        self.action_head = build_action_head(config)
        self.post_init()

    def forward(
        self,
        video_codes: torch.LongTensor | None = None,
        history_codes: torch.LongTensor | None = None,
        pixel_values: torch.Tensor | None = None,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        prompt_embeds: torch.Tensor | None = None,
        state: torch.Tensor | None = None,
        actions: torch.Tensor | None = None,
        actions_is_pad: torch.BoolTensor | None = None,
        timesteps: torch.LongTensor | None = None,
        generator: torch.Generator | None = None,
    ) -> VPDDOutput:
        """Joint loss of video codes and action bins at one noise level (VPDD §3.3).

        Args:
            video_codes: int64 (B, V, t, h, w), the future clip; without it the future is fully masked and has no loss.
            state: (B, state_dim), normalised by the processor.
            actions: labels. `"diffusion"`: int64 bins (B, chunk, A); `"regression"`: floats in [-1, 1].
            actions_is_pad: bool (B, chunk), True past the end of the episode; such steps have no loss.
            The rest as in [`VPDDForVideoPrediction.forward`].
        """
        config, bins = self.config, self.config.num_action_bins
        history_codes, prompt = self.model.encode_inputs(
            pixel_values,
            history_codes,
            input_ids,
            attention_mask,
            prompt_embeds,
            views=config.num_views,
            video_codes=video_codes,
            state=state,
            actions=actions,
            actions_is_pad=actions_is_pad,
        )
        batch, device = len(history_codes), history_codes.device
        regression = config.action_objective == "regression"
        probs = None
        if regression:  # behaviour cloning sees no future: everything is masked
            timesteps = torch.full((batch,), config.num_train_timesteps - 1, device=device)
        elif timesteps is None:
            timesteps, probs = self._draw_timesteps(batch, device, generator)

        # 1. what stays the same during a plan
        prompt = self._drop_instructions(prompt, generator)
        context = self.model.encode_context(prompt, history_codes, pixel_values)
        head_context = self.head_context(context, prompt, state, pixel_values, history_codes.shape[1])

        # 2. corrupt both modalities at the same noise level
        codebook_size = config.vqvae_config.codebook_size
        history = history_codes.flatten(2)
        if video_codes is None or regression:
            noisy = self.scheduler.init_noise(history.shape, codebook_size, device)
        else:
            clean = video_codes.flatten(2)
            noisy = add_noise(self.scheduler, clean, timesteps, codebook_size, generator)
        if actions is None or regression:
            noisy_actions = self.scheduler.init_noise((batch, config.chunk_size, config.action_dim), bins, device)
        else:
            noisy_actions = add_noise(self.scheduler, actions, timesteps, bins, generator)

        # 3. forecast, then actions that read it
        video = self.model.denoise(noisy, timesteps, context)
        action_logits = self.action_head(noisy_actions, timesteps, video.hidden_states, head_context)

        # 4. losses
        keep = None
        if actions_is_pad is not None:
            keep = (~actions_is_pad)[..., None].expand(*actions_is_pad.shape, config.action_dim).float()
        loss, losses = None, {}
        if actions is not None and regression:
            error = (action_logits - actions).abs()
            loss = error.mean() if keep is None else (error * keep).sum() / keep.sum().clamp(min=1)
            losses["action_loss"] = loss
        elif actions is not None:
            action = self.scheduler.loss(
                action_logits.flatten(1, 2),
                actions.flatten(1),
                noisy_actions.flatten(1),
                timesteps,
                bins,
                timestep_probs=probs,
                position_weights=None if keep is None else keep.flatten(1),
                kind=config.loss_type,
            )
            loss = losses["action_loss"] = action.loss
            # a frozen trunk's video loss teaches nothing; the official bound still reports it
            if video_codes is not None and (
                video.logits.requires_grad or config.loss_type == "vb" or not self.training
            ):
                forecast = self._video_loss(video.logits, clean, noisy, history, timesteps, probs)
                losses["video_loss"] = forecast.loss
                loss = config.video_loss_weight * forecast.loss + action.loss
                if config.loss_type == "vb":  # one mean over all tokens of both modalities, as the paper's code
                    tokens = clean[0].numel() + actions[0].numel()
                    parts = (
                        config.video_loss_weight * forecast.loss * clean[0].numel() + action.loss * actions[0].numel()
                    )
                    loss = parts / tokens
                    if self.training:
                        self.scheduler.update_importance(timesteps, forecast.variational + action.variational)
        return VPDDOutput(
            loss=loss,
            **{name: value.detach() for name, value in losses.items()},
            video_logits=video.logits,
            action_logits=action_logits,
            timesteps=timesteps,
        )

    def head_context(self, context: dict, prompt: torch.Tensor, state, pixel_values, views: int) -> dict:
        """What stays the same for the action head during one plan; `context` is the trunk's (`encode_context`)."""
        if self.config.state_dim and state is None:
            raise ValueError(
                f"this policy was trained with a robot state of {self.config.state_dim} numbers: give `state`"
            )
        rows = {name: context[name].unflatten(0, (-1, views)) for name in ("tokens", "codes") if name in context}
        return self.action_head.encode_context(rows, prompt, state, pixel_values)


def add_noise(scheduler, clean, timesteps, num_classes, generator):
    """`scheduler.add_noise` for tokens (B, ...) of any shape."""
    return scheduler.add_noise(clean.flatten(1), timesteps, num_classes, generator=generator).view_as(clean)


__all__ = [
    "VPDDForRobotPolicy",
    "VPDDForVideoPrediction",
    "VPDDModel",
    "VPDDModelOutput",
    "VPDDOutput",
    "VPDDPreTrainedModel",
    "VPDDSampleOutput",
]
