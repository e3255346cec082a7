from .configuration_vqvae import VPDDVQVAEConfig
from .modeling_vqvae import VPDDVQVAE, VPDDVQVAEOutput


__all__ = ["VPDDVQVAE", "VPDDVQVAEConfig", "VPDDVQVAEOutput"]
