"""VQ-VAE that turns video clips into discrete codes and back (VPDD, arXiv 2402.14407 §3.1; VideoGPT 2104.10157)."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from ..saved_files import SavedModel
from .codebook import EMACodebook
from .configuration_vqvae import VPDDVQVAEConfig
from .conv_2d import FrameDecoder, FrameEncoder


@dataclass
class VPDDVQVAEOutput(ModelOutput):
    """
    Args:
        loss: scalar, reconstruction + commitment.
        reconstruction: (B, 3, T, H, W), about [-0.5, 0.5].
        codes: int64 (B, t, h, w).
        reconstruction_loss, commitment_loss, perplexity: scalars. `perplexity` is the effective number of codes used.
    """

    loss: torch.FloatTensor | None = None
    reconstruction: torch.FloatTensor | None = None
    codes: torch.LongTensor | None = None
    reconstruction_loss: torch.FloatTensor | None = None
    commitment_loss: torch.FloatTensor | None = None
    perplexity: torch.FloatTensor | None = None


def build_autoencoder(config: VPDDVQVAEConfig) -> tuple[nn.Module, nn.Module]:
    """The (encoder, decoder) pair named by `config.variant`."""
    if config.variant == "conv_2d":
        return FrameEncoder(config), FrameDecoder(config)
    from .axial_3d import AxialDecoder, AxialEncoder

    return AxialEncoder(config), AxialDecoder(config)


class VPDDVQVAE(SavedModel, PreTrainedModel):
    """Video tokenizer: `encode` gives codes, `decode` gives pixels. Pixels are in [-0.5, 0.5]."""

    config: VPDDVQVAEConfig
    base_model_prefix = "vqvae"
    main_input_name = "pixel_values"
    input_modalities = ("video",)
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_attention_backend = True
    _no_split_modules = ["ResidualBlock2d", "AttentionResidualBlock"]

    def __init__(self, config: VPDDVQVAEConfig):
        super().__init__(config)
        hidden = config.hidden_size
        self.encoder, self.decoder = build_autoencoder(config)
        self.pre_vq_conv = nn.Conv3d(hidden, config.codebook_dim, 1)
        self.codebook = EMACodebook(
            config.codebook_size, config.codebook_dim, config.ema_decay, config.restart_threshold
        )
        self.post_vq_conv = nn.Conv3d(config.codebook_dim, hidden, 1)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module):
        if isinstance(module, EMACodebook):
            init.normal_(module.embeddings)
            init.copy_(module.embedding_sum, module.embeddings)
            init.ones_(module.cluster_size)
            init.zeros_(module.initialized)
        elif isinstance(module, (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
            # fan-in scaled, torch's default: a fixed 0.02 starves these small convolutions
            init.kaiming_uniform_(module.weight, a=5**0.5)
            if module.bias is not None:
                init.zeros_(module.bias)
        else:
            super()._init_weights(module)

    def latents(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(B, 3, T, H, W) -> pre-quantisation latents (B, t, h, w, D)."""
        return self.pre_vq_conv(self.encoder(pixel_values)).movedim(1, -1)

    @torch.no_grad()
    def encode(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(B, 3, T, H, W) in [-0.5, 0.5] -> int64 codes (B, t, h, w)."""
        return self.codebook.nearest(self.latents(pixel_values))

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """int64 codes (B, t, h, w) -> pixels (B, 3, T, H, W), about [-0.5, 0.5]; clamp before display."""
        quantised = self.codebook.lookup(codes).to(self.post_vq_conv.weight.dtype)
        return self.decode_latents(quantised)

    def decode_latents(self, quantised: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.post_vq_conv(quantised.movedim(-1, 1)))

    def forward(
        self,
        pixel_values: torch.Tensor,
        pixel_weights: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> VPDDVQVAEOutput:
        """
        Args:
            pixel_values: (B, 3, T, H, W) in [-0.5, 0.5].
            pixel_weights: broadcastable to `pixel_values`, mean about 1: weights of the squared error.
            generator: draws the dead-code restarts; on the CPU or the model's device.
        """
        latents = self.latents(pixel_values)
        codes, quantised, perplexity = self.codebook(latents, generator)
        commitment = self.config.commitment_cost * F.mse_loss(latents.float(), quantised.float())
        reconstruction = self.decode_latents(latents + (quantised - latents).detach())  # straight-through gradient
        error = (reconstruction.float() - pixel_values.float()).square()
        if pixel_weights is not None:
            error = error * pixel_weights
        reconstruction_loss = error.mean() / self.config.reconstruction_variance
        return VPDDVQVAEOutput(
            loss=reconstruction_loss + commitment,
            reconstruction=reconstruction,
            codes=codes,
            reconstruction_loss=reconstruction_loss.detach(),
            commitment_loss=commitment.detach(),
            perplexity=perplexity,
        )


__all__ = ["VPDDVQVAE", "VPDDVQVAEOutput"]
