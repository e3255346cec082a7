"""From a VQ-VAE to the function that `data.tokens.tokenize` calls; which share of the frames a process takes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data.tokens import Share
from ..errors import InputError
from .memory_format import to_channels_last


def share_of_processes() -> Share:
    """This process among those that `accelerate launch` has started."""
    from accelerate import PartialState

    state = PartialState()
    return Share(state.process_index, state.num_processes, state.wait_for_everyone)


def make_encoder(vqvae, mixed_precision: str = "no") -> tuple[Callable[[np.ndarray], np.ndarray], str]:
    """(uint8 (b, T, S, S, 3) -> codes (b, t, h, w), the name of the dtype it computes in).

    Frames of another size than the VQ-VAE's are resized. On the accelerator of this process; bf16 counts there only,
    since on a CPU it is slower.
    """
    from accelerate import PartialState

    from .stages.common import pixels_from_uint8, resize

    device = PartialState().device
    vqvae = to_channels_last(vqvae.to(device)).eval()
    bf16 = mixed_precision == "bf16" and device.type == "cuda"

    @torch.inference_mode()
    def encode(frames: np.ndarray) -> np.ndarray:
        pixels = pixels_from_uint8(torch.from_numpy(np.ascontiguousarray(frames)).to(device))
        pixels = resize(pixels, vqvae.config.image_size).transpose(1, 2)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            return vqvae.encode(pixels).cpu().numpy()

    return encode, "bfloat16" if bf16 else "float32"


def load_tokenizer(checkpoint: str) -> tuple[Any, int]:
    """(the VQ-VAE of a checkpoint in float32, side in pixels of the frames that the checkpoint reads).

    The checkpoint is a VQ-VAE's own or a VPDD model's, in a folder or on the Hub.

    Raises:
        InputError: Nothing there, or a model without a VQ-VAE.
    """
    from safetensors import SafetensorError
    from transformers import AutoConfig

    from ..modeling.vpdd.modeling_vpdd import VPDDForVideoPrediction
    from ..modeling.vqvae.modeling_vqvae import VPDDVQVAE
    from .stages.common import quiet_transformers

    folder = Path(checkpoint).expanduser()
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise InputError(
            f"--vqvae {checkpoint}: config.json is missing, so there is no model in that folder; give the output "
            "folder of training/vqvae.py, or of a VPDD model"
        )
    place = str(folder) if folder.is_dir() else checkpoint
    try:
        with quiet_transformers():
            kind = AutoConfig.from_pretrained(place).model_type
            if kind == "vpdd_vqvae":
                vqvae = VPDDVQVAE.from_pretrained(place, dtype=torch.float32)
                return vqvae.eval(), vqvae.config.image_size
            if kind == "vpdd":
                model = VPDDForVideoPrediction.from_pretrained(place, dtype=torch.float32)
                return model.model.vqvae.eval(), model.config.pixel_size
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise InputError(f"--vqvae {checkpoint}: no model can be loaded from there: {error}") from error
    raise InputError(
        f"--vqvae {checkpoint} is a model of type {kind!r}; needed is a VQ-VAE (vpdd_vqvae) or a VPDD model (vpdd)"
    )
