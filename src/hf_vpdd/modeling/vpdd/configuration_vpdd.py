"""Configuration of the unified discrete-diffusion policy."""

from huggingface_hub.dataclasses import strict
from transformers import CLIPTextConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from ..saved_files import SavedConfig
from ..vqvae.configuration_vqvae import VPDDVQVAEConfig


TRUNKS = ("perceiver", "fused")
ACTION_HEADS = ("causal", "causal_multiview", "cross_attention")
OBJECTIVES = ("diffusion", "regression")
LOSSES = ("vb", "ce")
VIDEO_INPUTS = ("forecast", "history")


def official_text_config() -> CLIPTextConfig:
    """The text tower of CLIP RN50 (spec §3.6): 1024-vector at the end-of-text token, not normalised."""
    return CLIPTextConfig(
        hidden_size=512,
        intermediate_size=2048,
        num_hidden_layers=12,
        num_attention_heads=8,
        projection_dim=1024,
        hidden_act="quick_gelu",
    )


@strict
class VPDDConfig(SavedConfig, PreTrainedConfig):
    """Sizes and variants of VPDD (arXiv 2402.14407). The defaults are the official Meta-World network.

    A policy is three components with fixed interfaces, each with variants chosen here:

    * tokenizer (`vqvae_config.variant`): video -> codes and back;
    * trunk (`trunk`): noisy codes + history + instruction + t -> code logits and hidden states (p_theta1);
    * action head (`action_head`): hidden states + noisy actions -> action logits (p_theta2).

    Args:
        vqvae_config ([`VPDDVQVAEConfig`] or `dict`): The tokenizer, stored with the policy.
        text_config ([`~transformers.CLIPTextConfig`] or `dict`): The instruction tower. Officially CLIP RN50's.
        has_text_tower (`bool`, defaults to `True`): False: the tower is not part of the model (a checkpoint converted
            without CLIP's file); instructions come as `prompt_embeds`.
        trunk (`str`, defaults to `"perceiver"`): `"perceiver"` (official) or `"fused"` (small; each future token is
            fused with the current frame's feature at the same place).
        action_head (`str`, defaults to `"causal"`): `"causal"` (official, Meta-World), `"causal_multiview"` (official,
            RLBench) or `"cross_attention"` (small).
        action_objective (`str`, defaults to `"diffusion"`): `"diffusion"` denoises binned actions together with the
            video; `"regression"` is behaviour cloning (L1) on the same network, the future fully masked.
        num_views (`int`): Cameras, each with its own code grid. history_frames (`int`): Frames of one history clip.
        predict_ahead (`int`, defaults to 20): The future clip ends this many environment steps ahead.
        action_dim, chunk_size, num_action_bins (`int`): An action chunk is `chunk_size x action_dim` tokens of
            `num_action_bins` classes. state_dim (`int`, defaults to 0): Size of the proprioceptive state; 0 = unused.
        hidden_size, trunk_layers, trunk_heads, trunk_head_dim, trunk_ff_size, num_latents, trunk_dropout: The trunk.
            `num_latents` is the Perceiver's, `trunk_position_rows` the length of its learned position table.
        timestep_ff_size, history_ff_size (`int`): Inner widths of the perceptrons that embed t (Perceiver and causal
            heads) and the history's codes (Perceiver).
        image_channels (`int`, defaults to 0): Width of the small CNN that feeds raw pixels of the newest frame to the
            `"fused"` trunk (0 = codes only).
        head_hidden_size, head_layers, head_heads, head_ff_size, head_dropout, head_position_rows: The action head.
        head_keypoints (`int`, defaults to 0): Spatial-softmax keypoints that the `"cross_attention"` head reads from
            the raw newest frame, conditioned on the instruction: precision below the token grid. 0 = none.
        head_action_groups (`list[int]`, *optional*): Causal heads: how many consecutive action dimensions share an
            output layer; one each by default, `[3, 3, 1]` (translation, rotation, gripper) on RLBench.
        head_video_input (`str`, defaults to `"forecast"`): What the `"causal_multiview"` head sees of the video:
            `"forecast"`, the trunk's states of all views (the paper), or `"history"`, codebook rows of the current
            clip (the released code; released weights need it).
        head_view_order (`list[int]`, *optional*): Views of which that head makes its video tokens, in channel order;
            all of them by default. The released code has the wrist twice and no front view: `[3, 1, 2, 3]`.
        head_image_size (`int`, defaults to 0): Pixels of the raw views that head reads. When set, `pixel_values` come
            at this size and are resized for the tokenizer; 0 = the tokenizer's size.
        head_image_channels, head_patch_size (`int`): Its convolutions over raw views.
        num_train_timesteps (`int`), alpha_bar_start, alpha_bar_end, replace_mass, truncation (`float`): The diffusion,
            see [`MaskAndReplaceScheduler`]. `truncation=None` samples from the whole distribution.
        loss_type (`str`, defaults to `"vb"`): `"vb"`: the variational bound with auxiliary term (official);
            `"ce"`: cross-entropy on the corrupted tokens (small recipe).
        auxiliary_weight (`float`): Weight of the auxiliary term of `"vb"`.
        changed_token_weight (`float`, defaults to 1.0): `"ce"` weight of codes that differ from the history's code at
            the same place. video_loss_weight (`float`, defaults to 1.0): Weight of the video loss in fine-tuning.
        full_mask_fraction (`float`, defaults to 0.0): Share of a training batch drawn at the fully masked end.
        instruction_dropout (`float`, defaults to 0.0): Share of a training batch that sees no instruction (a zero
            vector instead): what sampling with `guidance_scale` needs.
    """

    model_type = "vpdd"
    sub_configs_defaults = {
        "vqvae_config": SubConfigSpec(VPDDVQVAEConfig),
        "text_config": SubConfigSpec(CLIPTextConfig),
    }

    vqvae_config: dict | VPDDVQVAEConfig | None = None
    text_config: dict | CLIPTextConfig | None = None
    has_text_tower: bool = True

    trunk: str = "perceiver"
    action_head: str = "causal"
    action_objective: str = "diffusion"

    num_views: int = 1
    history_frames: int = 4
    predict_ahead: int = 20
    action_dim: int = 4
    chunk_size: int = 4
    num_action_bins: int = 48
    state_dim: int = 0

    hidden_size: int = 256
    trunk_layers: int = 6
    trunk_heads: int = 1
    trunk_head_dim: int = 32
    trunk_ff_size: int = 1024
    num_latents: int = 2048
    trunk_position_rows: int = 4610
    trunk_dropout: float | int = 0.1
    timestep_ff_size: int = 1024
    history_ff_size: int = 512
    image_channels: int = 0

    head_hidden_size: int = 256
    head_layers: int = 6
    head_heads: int = 2
    head_ff_size: int = 1024
    head_dropout: float | int = 0.1
    head_position_rows: int = 994
    head_keypoints: int = 0
    head_action_groups: list[int] | None = None
    head_video_input: str = "forecast"
    head_view_order: list[int] | None = None
    head_image_size: int = 0
    head_image_channels: int = 64
    head_patch_size: int = 13

    num_train_timesteps: int = 100
    alpha_bar_start: float | int = 0.99999
    alpha_bar_end: float | int = 0.000009
    replace_mass: float | int = 1e-6
    truncation: float | int | None = 0.88
    loss_type: str = "vb"
    auxiliary_weight: float | int = 5e-4
    changed_token_weight: float | int = 1.0
    video_loss_weight: float | int = 1.0
    full_mask_fraction: float | int = 0.0
    instruction_dropout: float | int = 0.0
    initializer_range: float | int = 0.02

    def validate_architecture(self):
        for name, allowed in (
            ("trunk", TRUNKS),
            ("action_head", ACTION_HEADS),
            ("action_objective", OBJECTIVES),
            ("loss_type", LOSSES),
            ("head_video_input", VIDEO_INPUTS),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}")
        if self.trunk == "fused" and self.trunk_heads * self.trunk_head_dim != self.hidden_size:
            raise ValueError(
                f"the fused trunk needs trunk_heads * trunk_head_dim = hidden_size, got {self.trunk_heads} * "
                f"{self.trunk_head_dim} != {self.hidden_size}"
            )
        if self.head_hidden_size % self.head_heads:
            raise ValueError(f"head_hidden_size {self.head_hidden_size} is not divisible by {self.head_heads} heads")
        if self.head_action_groups is not None and sum(self.head_action_groups) != self.action_dim:
            raise ValueError(
                f"head_action_groups {self.head_action_groups} must add up to action_dim = {self.action_dim}"
            )
        if self.action_head == "causal" and self.state_dim:
            raise ValueError(f'the "causal" head reads no robot state: state_dim must be 0, got {self.state_dim}')
        if self.head_image_size and self.action_head != "causal_multiview":
            raise ValueError('head_image_size is only for the "causal_multiview" head, which reads raw views')
        if not 0 <= self.full_mask_fraction <= 1:
            raise ValueError(f"full_mask_fraction must be in [0, 1], got {self.full_mask_fraction}")
        if not 0 <= self.instruction_dropout < 1:
            raise ValueError(f"instruction_dropout must be in [0, 1), got {self.instruction_dropout}")
        if self.full_mask_fraction and self.loss_type == "vb":
            raise ValueError(
                'full_mask_fraction is for loss_type "ce": it changes how often a timestep is drawn, and the bound '
                f"divides by that probability; got {self.full_mask_fraction}"
            )
        if self.vqvae_config is not None and self.vqvae_config.clip_frames != self.history_frames:
            raise ValueError(
                f"history_frames ({self.history_frames}) must equal vqvae_config.clip_frames "
                f"({self.vqvae_config.clip_frames}): the tokenizer encodes the whole history clip"
            )

    @classmethod
    def tiny(cls, image_size: int = 96, **overrides) -> "VPDDConfig":
        """The network of the shipped Meta-World checkpoint (3.4 M parameters), trainable on a CPU."""
        vqvae = {
            "variant": "conv_2d",
            "image_size": image_size,
            "clip_frames": 1,
            "codebook_size": 512,
            "codebook_dim": 32,
            "hidden_size": 96,
            "num_res_layers": 2,
            "downsample": [1, 8, 8],
        }
        text = {
            "vocab_size": 1024,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "max_position_embeddings": 48,
            "projection_dim": 128,
            "pad_token_id": 0,
            "eos_token_id": 1,  # not 2: CLIP's tower reads 2 as "the end token is the largest id"
            "bos_token_id": 2,
        }
        sizes = {
            "trunk": "fused",
            "action_head": "cross_attention",
            "history_frames": 1,
            "predict_ahead": 16,
            "chunk_size": 8,
            "num_action_bins": 65,
            "state_dim": 4,
            "hidden_size": 160,
            "trunk_layers": 4,
            "trunk_heads": 5,
            "trunk_ff_size": 480,
            "trunk_dropout": 0.0,
            "image_channels": 96,
            "head_hidden_size": 160,
            "head_layers": 3,
            "head_heads": 5,
            "head_ff_size": 480,
            "head_keypoints": 64,
            "replace_mass": 0.02,
            "truncation": None,
            "loss_type": "ce",
            "changed_token_weight": 5.0,
            "video_loss_weight": 0.3,
            "full_mask_fraction": 0.25,
        }
        return cls(**{"vqvae_config": vqvae, "text_config": text, **sizes, **overrides})

    @classmethod
    def metaworld(cls, **overrides) -> "VPDDConfig":
        """The official Meta-World network: 30.9 M tokenizer, 9.2 M trunk, 6.3 M action head, CLIP RN50's text tower.

        The released command for fine-tuning leaves the number of bins at 256 (spec §4.3): `num_action_bins=256`.
        """
        return cls(**{"text_config": official_text_config(), **overrides})

    @classmethod
    def rlbench(cls, released: bool = False, **overrides) -> "VPDDConfig":
        """The official RLBench network: four views (front, left and right shoulder, wrist), 7-D keyframe actions.

        Args:
            released: wire the action head as the released code does (it never sees the forecast), so that released
                weights fit; else as the paper says.
        """
        wiring = {"head_video_input": "history", "head_view_order": [3, 1, 2, 3]} if released else {}
        fields = {
            "text_config": official_text_config(),
            "action_head": "causal_multiview",
            "num_views": 4,
            "action_dim": 7,
            "num_action_bins": 360,
            "state_dim": 4,
            "head_position_rows": 3358,
            "head_action_groups": [3, 3, 1],
            "head_image_size": 128,
        }
        return cls(**{**fields, **wiring, **overrides})

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(t, h, w) of one clip's code grid."""
        return self.vqvae_config.latent_shape

    @property
    def video_tokens(self) -> int:
        """Codes of one view's clip."""
        time, height, width = self.latent_shape
        return time * height * width

    @property
    def pixel_size(self) -> int:
        """Height and width of the frames in `pixel_values`."""
        return self.head_image_size or self.vqvae_config.image_size

    @property
    def prompt_size(self) -> int:
        """Width of the instruction embedding."""
        return self.text_config.projection_dim


__all__ = ["VPDDConfig"]
