"""Configuration of V-PTR: values learned from action-less video, and the policies that start from them."""

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, BitConfig, CLIPTextConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from ..saved_files import SavedConfig


ENCODERS = ("bit", "impala", "backbone")
VALUE_HEADS = ("multilinear", "monolithic", "distance")
OBJECTIVES = ("icvf", "vip", "tcn")
INTENTS = ("image", "text")
CONDITIONS = ("task", "text", "goal_image", "none")

# ResNetV2-50x1 (spec §1.6): 23.5 M parameters, 2048 features.
OFFICIAL_BIT = {
    "layer_type": "preactivation",
    "embedding_size": 64,
    "hidden_sizes": [256, 512, 1024, 2048],
    "depths": [3, 4, 6, 3],
    "num_groups": 32,
    "global_padding": None,
}


@strict
class VPTRConfig(SavedConfig, PreTrainedConfig):
    """Sizes and variants of V-PTR (arXiv 2309.13041). The defaults are the official network.

    Args:
        encoder (`str`, defaults to `"bit"`): The visual encoder f: `"bit"` (ResNetV2 with group norm, official),
            `"impala"` (small residual CNN) or `"backbone"` (any [`~transformers.AutoBackbone`], `backbone_config`).
        image_size (`int`, defaults to 224): Height and width of a frame. num_channels (`int`): Its colours.
        bit_config ([`~transformers.BitConfig`] or `dict`): Sizes of `"bit"`.
        backbone_config (`dict`, *optional*): A backbone's configuration, with its `model_type`.
        impala_widths (`list[int]`, defaults to `[16, 32, 32]`): Channels of `"impala"`'s stacks.
            impala_blocks (`int`, defaults to 2): residual blocks of each.
        value_head (`str`, defaults to `"multilinear"`): `"multilinear"`, V(s,s+,z) = <A(T(psi(z)) phi(s)),
            B(T(psi(z)) psi(s+))>; `"monolithic"`, one perceptron over the three features; or `"distance"`,
            -||e(s) - e(s+)|| of one linear embedding, what the compared objectives VIP and TCN learn.
        value_objective (`str`, defaults to `"icvf"`): What the encoder was trained by on video: `"icvf"`, `"vip"` or
            `"tcn"`.
        value_hidden_sizes (`list[int]`, defaults to `[256, 256]`): Of phi, psi and T; the last one is the width of the
            representation. value_layer_norm (`bool`, defaults to `False`): GELU and LayerNorm instead of ReLU.
        num_value_heads (`int`, defaults to 2): Independent heads on the shared encoder.
        intent (`str`, defaults to `"image"`): What z is: a goal image, or a sentence (`"text"`, read by the tower of
            `text_config` and mapped to the encoder's features).
        text_config ([`~transformers.CLIPTextConfig`] or `dict`, *optional*): The instruction tower; needed for
            `intent="text"` and `condition="text"`.
        condition (`str`, defaults to `"task"`): What tells the policy its task: a one-hot `"task"` id, `"text"`,
            a `"goal_image"`, or `"none"`.
        tasks (`list[str]`, *optional*): Names of the tasks, in the order of their ids.
        action_dim (`int`, defaults to 7), state_dim (`int`, defaults to 7): Of the robot; the critic sees no state.
        latent_size (`int`, defaults to 1024): Bottleneck after each encoder (Dense, LayerNorm, tanh).
        policy_hidden_sizes (`list[int]`, defaults to `[1024, 1024, 1024]`): Of actor and critics.
        num_critics (`int`, defaults to 2). log_std_min, log_std_max (`float`): Clip of the actor's log deviation.
        chunk_size (`int`, defaults to 1): Actions of one plan; the actor is Markov, so it plans one.
    """

    model_type = "vptr"
    sub_configs_defaults = {
        "bit_config": SubConfigSpec(BitConfig, init_kwargs=OFFICIAL_BIT),
        "backbone_config": SubConfigSpec(AutoConfig, model_type="resnet", optional=True),
        "text_config": SubConfigSpec(CLIPTextConfig, optional=True),
    }

    encoder: str = "bit"
    image_size: int = 224
    num_channels: int = 3
    bit_config: dict | BitConfig | None = None
    backbone_config: dict | PreTrainedConfig | None = None
    impala_widths: list[int] | tuple[int, ...] = (16, 32, 32)
    impala_blocks: int = 2

    value_head: str = "multilinear"
    value_hidden_sizes: list[int] | tuple[int, ...] = (256, 256)
    value_layer_norm: bool = False
    num_value_heads: int = 2
    value_objective: str = "icvf"
    intent: str = "image"
    text_config: dict | CLIPTextConfig | None = None

    condition: str = "task"
    tasks: list[str] | None = None
    action_dim: int = 7
    state_dim: int = 7
    chunk_size: int = 1
    latent_size: int = 1024
    policy_hidden_sizes: list[int] | tuple[int, ...] = (1024, 1024, 1024)
    num_critics: int = 2
    log_std_min: float | int = -5.0
    log_std_max: float | int = 2.0
    initializer_range: float | int = 0.02

    def __post_init__(self, **kwargs):
        for name in ("impala_widths", "value_hidden_sizes", "policy_hidden_sizes"):
            setattr(self, name, [int(width) for width in getattr(self, name)])
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        for name, allowed in (
            ("encoder", ENCODERS),
            ("value_head", VALUE_HEADS),
            ("value_objective", OBJECTIVES),
            ("intent", INTENTS),
            ("condition", CONDITIONS),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}")
        if self.value_head == "distance" and (self.num_value_heads != 1 or self.intent != "image"):
            raise ValueError('value_head="distance" has one head and goals that are images: num_value_heads=1')
        if (self.value_head == "distance") == (self.value_objective == "icvf"):
            raise ValueError(f"value_head {self.value_head!r} is not what {self.value_objective!r} trains")
        if self.encoder == "backbone" and self.backbone_config is None:
            raise ValueError('encoder="backbone" needs a backbone_config (the configuration of an AutoBackbone)')
        if "text" in (self.intent, self.condition) and self.text_config is None:
            raise ValueError('intent="text" and condition="text" need a text_config')
        if self.condition == "task" and self.tasks is not None and len(set(self.tasks)) != len(self.tasks):
            raise ValueError(f"tasks must be distinct, got {self.tasks}")
        if self.chunk_size != 1:
            raise ValueError(f"the actor plans one action at a time: chunk_size must be 1, got {self.chunk_size}")
        if not self.log_std_min < self.log_std_max:
            raise ValueError(f"log_std_min {self.log_std_min} must lie below log_std_max {self.log_std_max}")

    @classmethod
    def tiny(cls, image_size: int = 64, **overrides) -> "VPTRConfig":
        """A network that trains on a CPU: IMPALA encoder, 64 px, narrow heads."""
        sizes = {
            "encoder": "impala",
            "image_size": image_size,
            "impala_widths": [16, 32, 32],
            "latent_size": 128,
            "policy_hidden_sizes": [256, 256],
            "action_dim": 4,
            "state_dim": 4,
        }
        return cls(**{**sizes, **overrides})

    @property
    def feature_size(self) -> int:
        """Width of the encoder's output."""
        if self.encoder == "bit":
            return self.bit_config.hidden_sizes[-1]
        if self.encoder == "impala":
            side = self.image_size
            for _ in self.impala_widths:
                side = (side + 1) // 2
            return side * side * self.impala_widths[-1]
        return self.backbone_config.hidden_sizes[-1]

    # What controllers and pipelines ask of any policy of this package: one camera, no memory, no denoising.
    history_frames = property(lambda self: 1)
    num_views = property(lambda self: 1)
    pixel_size = property(lambda self: self.image_size)
    action_objective = property(lambda self: "regression")
    has_text_tower = property(lambda self: True)

    @property
    def num_tasks(self) -> int:
        """Length of the one-hot task id."""
        return 0 if self.tasks is None else len(self.tasks)


__all__ = ["VPTRConfig"]
