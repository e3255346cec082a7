"""Configuration of the video tokenizer."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from ..saved_files import SavedConfig


VARIANTS = ("conv_2d", "axial_3d")


@strict
class VPDDVQVAEConfig(SavedConfig, PreTrainedConfig):
    """Sizes of a [`VPDDVQVAE`]. The defaults are the official network of VPDD (arXiv 2402.14407, VideoGPT type).

    Args:
        variant (`str`, defaults to `"axial_3d"`):
            `"axial_3d"`: the official 3-D convolutions with axial attention. `"conv_2d"`: a small network that encodes
            each frame by itself (temporal stride 1), for CPU-sized experiments.
        image_size (`int`, defaults to 96): Height and width of a frame in pixels.
        clip_frames (`int`, defaults to 4): Frames that one *history* or *future* clip holds.
        codebook_size (`int`, defaults to 2048), codebook_dim (`int`, defaults to 256): The VQ codebook.
        hidden_size (`int`, defaults to 256), num_res_layers (`int`, defaults to 6): Width and depth.
        num_attention_heads (`int`, defaults to 2): Heads of each axial attention (`axial_3d` only).
        downsample (`list[int]`, defaults to `[4, 4, 4]`): Strides over (time, height, width), powers of two.
        commitment_cost (`float`, defaults to 0.25), reconstruction_variance (`float`, defaults to 0.06):
            loss = MSE / variance + cost * commitment.
        ema_decay (`float`, defaults to 0.99): Decay of the codebook's moving averages.
        restart_threshold (`float`, defaults to 1.0): Codes used less than this (moving average) are re-seeded.
    """

    model_type = "vpdd_vqvae"

    variant: str = "axial_3d"
    image_size: int = 96
    clip_frames: int = 4
    num_channels: int = 3
    codebook_size: int = 2048
    codebook_dim: int = 256
    hidden_size: int = 256
    num_res_layers: int = 6
    num_attention_heads: int = 2
    downsample: list[int] | tuple[int, ...] = (4, 4, 4)
    commitment_cost: float | int = 0.25
    reconstruction_variance: float | int = 0.06
    ema_decay: float | int = 0.99
    restart_threshold: float | int = 1.0
    initializer_range: float | int = 0.02

    def __post_init__(self, **kwargs):
        self.downsample = [int(stride) for stride in self.downsample]
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        if self.variant not in VARIANTS:
            raise ValueError(f"variant must be one of {VARIANTS}, got {self.variant!r}")
        time, height, width = self.downsample
        if any(stride < 1 or stride & (stride - 1) for stride in (time, height, width)):
            raise ValueError(f"downsample must hold powers of two, got {self.downsample}")
        if self.variant == "conv_2d" and time != 1:
            raise ValueError(f"conv_2d encodes frames one by one: downsample[0] must be 1, got {time}")
        if self.image_size % height or self.image_size % width or self.clip_frames % time:
            raise ValueError(
                f"a clip of {self.clip_frames} frames of {self.image_size} px is not divisible by downsample "
                f"{self.downsample}"
            )

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(t, h, w) of the code grid of one clip."""
        time, height, width = self.downsample
        return self.clip_frames // time, self.image_size // height, self.image_size // width


__all__ = ["VPDDVQVAEConfig"]
