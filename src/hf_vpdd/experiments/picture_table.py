"""A value network that is asked about numbered pictures instead of pixels."""

import numpy as np
import torch
from torch import nn


class PictureTable(nn.Module):
    """A value network on a fixed set of pictures. What `encode` takes are their numbers, and every picture that occurs
    is encoded once, however often it does: with one hundred pictures and batches of 128 tuples that is a seventh of
    the work, with the same values and gradients.

    Args:
        network: A `VPTRForValuePrediction`. pictures: uint8 (N, S, S, 3).
    """

    def __init__(self, network, pictures: np.ndarray):
        super().__init__()
        self.network = network
        pixels = torch.from_numpy(pictures).movedim(-1, 1).float().div_(255)
        self.register_buffer("pictures", pixels.contiguous(), persistent=False)

    value_heads = property(lambda self: self.network.value_heads)

    def encode(self, numbers: torch.Tensor) -> torch.Tensor:
        """int64 (B,) -> features (B, F)."""
        different, place = numbers.unique(return_inverse=True)
        return self.network.encode(self.pictures[different])[place]
