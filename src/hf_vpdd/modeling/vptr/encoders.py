"""Visual encoders f of V-PTR: frames (B, 3, H, W) in [0, 1] -> features (B, feature_size). No batch norm, no dropout:
features of an image do not depend on its batch, so every distinct image is encoded once a step (spec §1.6)."""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoBackbone, BitModel

from .configuration_vptr import VPTRConfig


class BitEncoder(nn.Module):
    """ResNetV2 with group norm and weight-standardised convolutions, average-pooled.

    It is transformers' Bit network but for the stem: the official max-pool pads with -inf, Bit's with zeros, which
    changes features by 4 % (spec §1.6).
    """

    def __init__(self, config: VPTRConfig):
        super().__init__()
        self.bit = BitModel(config.bit_config)
        self.bit.embedder.pad = nn.ConstantPad2d(1, float("-inf"))

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.pool(self.feature_map(pixel_values))

    def pool(self, feature_map: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) -> features (B, C)."""
        return feature_map.mean((-2, -1))

    def feature_map(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w), before the pooling: where the encoder looks."""
        return self.bit(pixel_values).last_hidden_state


class ImpalaStack(nn.Module):
    """Convolution, halving max-pool, residual blocks."""

    def __init__(self, channels: int, width: int, blocks: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(2)) for _ in range(blocks)
        )

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        hidden = self.conv(hidden)
        height, width = hidden.shape[-2:]
        # XLA's "SAME": what is missing for a stride of 2 is padded evenly, the odd one at the bottom and on the right
        vertical, horizontal = ((-(-size // 2) - 1) * 2 + 3 - size for size in (height, width))
        pad = (horizontal // 2, horizontal - horizontal // 2, vertical // 2, vertical - vertical // 2)
        hidden = F.max_pool2d(F.pad(hidden, pad, value=float("-inf")), 3, stride=2)
        for first, second in self.blocks:
            hidden = hidden + second(F.relu(first(F.relu(hidden))))
        return hidden


class ImpalaEncoder(nn.Module):
    """The residual CNN of IMPALA, flattened row by row with the channels last."""

    def __init__(self, config: VPTRConfig):
        super().__init__()
        widths = config.impala_widths
        self.stacks = nn.ModuleList(
            ImpalaStack(channels, width, config.impala_blocks)
            for channels, width in zip([config.num_channels, *widths[:-1]], widths)
        )

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.pool(self.feature_map(pixel_values))

    def pool(self, feature_map: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) -> features (B, h * w * C)."""
        return feature_map.permute(0, 2, 3, 1).flatten(1)

    def feature_map(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w), before the flattening."""
        hidden = pixel_values
        for stack in self.stacks:
            hidden = stack(hidden)
        return F.relu(hidden)


class BackboneEncoder(nn.Module):
    """Any backbone of transformers; its last feature map, average-pooled."""

    def __init__(self, config: VPTRConfig):
        super().__init__()
        self.backbone = AutoBackbone.from_config(config.backbone_config)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.pool(self.feature_map(pixel_values))

    def pool(self, feature_map: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) -> features (B, C)."""
        return feature_map.mean((-2, -1))

    def feature_map(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w), before the pooling."""
        return self.backbone(pixel_values).feature_maps[-1]


def build_encoder(config: VPTRConfig) -> nn.Module:
    """The encoder named by `config.encoder`: `forward` gives features; it is `pool` of
    `feature_map`."""
    return {"bit": BitEncoder, "impala": ImpalaEncoder, "backbone": BackboneEncoder}[config.encoder](config)
