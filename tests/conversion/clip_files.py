"""A CLIP text transformer in OpenAI's layout, written from the published architecture, and its words: both small."""

import torch
from torch import nn


class Block(nn.Module):
    """Pre-norm residual block: causal self-attention, then a perceptron with x * sigmoid(1.702 x)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads)
        self.ln_1 = nn.LayerNorm(width)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, 4 * width), "c_proj": nn.Linear(4 * width, width)})
        self.ln_2 = nn.LayerNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(length, batch, width)"""
        y = self.ln_1(x)
        future = torch.full((len(x), len(x)), float("-inf")).triu(1)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=future)[0]
        y = self.mlp["c_fc"](self.ln_2(x))
        return x + self.mlp["c_proj"](y * torch.sigmoid(1.702 * y))


class Transformer(nn.Module):
    def __init__(self, width: int, layers: int):
        super().__init__()
        self.resblocks = nn.Sequential(*(Block(width, width // 64) for _ in range(layers)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.resblocks(x)


class OpenAIText(nn.Module):
    """forward: token ids (B, context) padded with 0 -> projected state at the largest id, (B, projection)."""

    def __init__(self, words: int, context: int = 77, width: int = 128, layers: int = 2, projection: int = 24):
        super().__init__()
        self.token_embedding = nn.Embedding(words, width)
        self.positional_embedding = nn.Parameter(torch.randn(context, width))
        self.transformer = Transformer(width, layers)
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.randn(width, projection) / 8)
        self.visual = nn.Linear(3, 3)  # stands in the image tower's place
        for parameter in self.parameters():
            if parameter.ndim == 1:
                nn.init.normal_(parameter, 0.5, 0.5)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = (self.token_embedding(ids) + self.positional_embedding).permute(1, 0, 2)
        x = self.ln_final(self.transformer(x).permute(1, 0, 2))
        return x[torch.arange(len(x)), ids.argmax(-1)] @ self.text_projection


MERGES = ["p r", "r e", "pr e", "pre s", "pres s</w>", "t h", "th e</w>", "o p", "op e", "ope n</w>"]
NUM_WORDS = 2 * 256 + len(MERGES) + 2


def write_merges(path):
    """OpenAI's list of merges in small: a title line, then one pair a line."""
    path.write_text("\n".join(["#version: test", *MERGES]) + "\n", encoding="utf-8")
    return path
