"""A small tokenizer with random weights."""

import torch

from hf_vpdd import VPDDVQVAE
from hf_vpdd.modeling.vqvae.configuration_vqvae import VPDDVQVAEConfig
from hf_vpdd.training.stages.common import quiet_transformers


def write_vqvae(folder, seed=0, **sizes):
    """The folder of a VQ-VAE for 16 px; with other `sizes` (fields of its config) if given."""
    torch.manual_seed(seed)
    config = {"variant": "conv_2d", "image_size": 16, "clip_frames": 2, "downsample": [1, 8, 8]}
    config |= {"codebook_size": 24, "codebook_dim": 4, "hidden_size": 16, "num_res_layers": 1} | sizes
    model = VPDDVQVAE(VPDDVQVAEConfig(**config))
    with quiet_transformers():
        model.save_pretrained(folder)
    return folder
