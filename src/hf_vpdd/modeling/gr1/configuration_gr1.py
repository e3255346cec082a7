"""Configuration of GR-1."""

from huggingface_hub.dataclasses import strict
from transformers import CLIPTextConfig, PreTrainedConfig, ViTConfig
from transformers.configuration_utils import SubConfigSpec

from ..saved_files import SavedConfig


@strict
class GR1Config(SavedConfig, PreTrainedConfig):
    """Sizes and options of GR-1 (arXiv 2312.13139). The defaults are the released network (195 M parameters).

    Args:
        vision_config ([`~transformers.ViTConfig`] or `dict`): The image tower, officially MAE's ViT-B/16, 224 pixels.
        text_config ([`~transformers.CLIPTextConfig`] or `dict`): The instruction tower, officially CLIP ViT-B/32's.
        freeze_image_model, freeze_text_model (`bool`): Keep that tower out of training: no gradient, always eval mode.
        num_views (`int`, defaults to 2): Cameras. Officially a static one, then the wrist's; 1 is "no wrist camera".
        history_frames (`int`, defaults to 10): Steps of the longest window (states and frames) the model looks at.
        predict_ahead (`int`, defaults to 3): The frame head predicts the frame so many steps ahead; 1 in the paper's
            pre-training.
        state_dim (`int`, defaults to 7): Size of the robot's state; 0 = no state token.
        binary_gripper_state (`bool`): The last number of the state is the gripper, 0 closed or 1 open, and is embedded
            as a class. `False`: all numbers are alike.
        action_dim (`int`, defaults to 7): Size of an action. binary_gripper_action (`bool`): its last number opens or
            closes, predicted as a logit. `False`: all numbers are regressed.
        chunk_size (`int`, defaults to 1): Actions predicted from every step, each by an [ACT] token of its own.
        foresight_attention (`bool`): [ACT] tokens may attend to the [OBS] tokens of their own step, so that the action
            reads the forecast (as in Seer). The released weights were not trained so.
        hidden_size, trunk_layers, trunk_heads, trunk_ff_size, trunk_activation, trunk_dropout, embed_dropout: The
            causal transformer.
        num_latents, resampler_layers, resampler_heads, resampler_head_dim, resampler_ff_size: The Perceiver resampler
            that turns an image's patches into `num_latents` tokens.
        decoder_layers, decoder_heads, decoder_ff_size: The decoder of future frames.
        normalize_patches (`bool`): Predict patches with mean 0 and deviation 1 each, as MAE does.
        arm_loss_weight, gripper_loss_weight, video_loss_weight: Of the sum. The paper's equation has 1 each;
            community code uses 100 : 1 : 1.
    """

    model_type = "gr1"
    sub_configs_defaults = {
        "vision_config": SubConfigSpec(ViTConfig, init_kwargs={"layer_norm_eps": 1e-6}),
        "text_config": SubConfigSpec(CLIPTextConfig),
    }

    vision_config: dict | ViTConfig | None = None
    text_config: dict | CLIPTextConfig | None = None
    freeze_image_model: bool = True
    freeze_text_model: bool = True

    num_views: int = 2
    history_frames: int = 10
    predict_ahead: int = 3
    state_dim: int = 7
    binary_gripper_state: bool = True
    action_dim: int = 7
    binary_gripper_action: bool = True
    chunk_size: int = 1
    foresight_attention: bool = False

    hidden_size: int = 384
    trunk_layers: int = 12
    trunk_heads: int = 12
    trunk_ff_size: int = 1536
    trunk_activation: str = "relu"
    trunk_dropout: float | int = 0.1
    embed_dropout: float | int = 0.1

    num_latents: int = 9
    resampler_layers: int = 3
    resampler_heads: int = 4
    resampler_head_dim: int = 128
    resampler_ff_size: int = 3072

    decoder_layers: int = 2
    decoder_heads: int = 16
    decoder_ff_size: int = 1536
    normalize_patches: bool = True

    arm_loss_weight: float | int = 1.0
    gripper_loss_weight: float | int = 1.0
    video_loss_weight: float | int = 1.0
    initializer_range: float | int = 0.02

    def validate_architecture(self):
        for name in ("num_views", "history_frames", "predict_ahead", "action_dim", "chunk_size", "num_latents"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("trunk_heads", "decoder_heads"):
            heads = getattr(self, name)
            if self.hidden_size % heads:
                raise ValueError(f"hidden_size {self.hidden_size} is not divisible by {name} = {heads}")
        if self.hidden_size % 4:
            raise ValueError(f"hidden_size must be divisible by 4 (2-D positions), got {self.hidden_size}")
        if self.state_dim < 0 or (self.state_dim == 1 and self.binary_gripper_state):
            raise ValueError(
                f"state_dim must be 0 (no state), or more than the gripper alone; got {self.state_dim}. "
                "Set binary_gripper_state=False for a state without a gripper."
            )
        if self.action_dim == 1 and self.binary_gripper_action:
            raise ValueError("action_dim 1 leaves nothing but a gripper: set binary_gripper_action=False")
        vision = self.vision_config
        if vision is not None and (not isinstance(vision.image_size, int) or vision.image_size % vision.patch_size):
            raise ValueError(
                f"vision_config: images are squares of whole patches; got image_size {vision.image_size} and "
                f"patch_size {vision.patch_size}"
            )

    @classmethod
    def tiny(cls, image_size: int = 96, **overrides) -> "GR1Config":
        """About 2 M parameters, for Meta-World on a CPU: one camera, 4-number states and actions, both towers trained
        (no pre-trained tower is that small), chunks of 4 actions."""
        vision = {
            "image_size": image_size,
            "patch_size": 12,
            "hidden_size": 128,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "intermediate_size": 256,
            "layer_norm_eps": 1e-6,
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
            "freeze_image_model": False,
            "freeze_text_model": False,
            "num_views": 1,
            "history_frames": 5,
            "state_dim": 4,
            "binary_gripper_state": False,
            "action_dim": 4,
            "binary_gripper_action": False,
            "chunk_size": 4,
            "hidden_size": 128,
            "trunk_layers": 4,
            "trunk_heads": 4,
            "trunk_ff_size": 384,
            "trunk_dropout": 0.0,
            "embed_dropout": 0.0,
            "num_latents": 8,
            "resampler_layers": 2,
            "resampler_heads": 4,
            "resampler_head_dim": 32,
            "resampler_ff_size": 256,
            "decoder_layers": 2,
            "decoder_heads": 4,
            "decoder_ff_size": 256,
        }
        return cls(**{"vision_config": vision, "text_config": text, **sizes, **overrides})

    @property
    def pixel_size(self) -> int:
        """Height and width of the frames in `pixel_values`."""
        return self.vision_config.image_size

    @property
    def num_patches(self) -> int:
        return (self.vision_config.image_size // self.vision_config.patch_size) ** 2

    @property
    def patch_pixels(self) -> int:
        """Numbers in one patch."""
        return self.vision_config.patch_size**2 * self.vision_config.num_channels

    @property
    def prompt_size(self) -> int:
        """Width of the instruction embedding."""
        return self.text_config.projection_dim

    @property
    def arm_dim(self) -> int:
        """Action dimensions that are regressed."""
        return self.action_dim - int(self.binary_gripper_action)

    @property
    def has_text_tower(self) -> bool:
        """Always: instructions are sentences."""
        return True

    @property
    def draws_actions(self) -> bool:
        """Whether actions are drawn at random, so that a temperature means something. Never."""
        return False

    @property
    def action_objective(self) -> str:
        """Always "regression": actions are numbers, drawn in one pass."""
        return "regression"


__all__ = ["GR1Config"]
