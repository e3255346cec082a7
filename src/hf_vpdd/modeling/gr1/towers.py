"""The stock transformers networks GR-1 is built of: ViT (image tower) and GPT-2 (trunk).

Subclasses, because transformers renames the weights of its own ViT on saving (to names of before v5); a class defined
elsewhere keeps its names, so that a saved file and `state_dict()` agree.
"""

import torch
from torch import nn
from transformers import GPT2Config, GPT2Model, ViTModel

from .configuration_gr1 import GR1Config


class GR1ImageTower(ViTModel):
    """MAE's ViT encoder without masking: the last states of [CLS] and all patches, after the final norm."""

    def __init__(self, config):
        super().__init__(config, add_pooling_layer=False)


class NoPositions(nn.Module):
    """Stands in GPT-2's table of positions, which GR-1 has not. Integer zeros, so that a sum with them keeps the other
    side's dtype."""

    def forward(self, position_ids: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(position_ids)[..., None]


class GR1Trunk(GPT2Model):
    """GPT-2's blocks with ReLU, without its tables of positions and words (spec §1.3)."""

    def __init__(self, config: GR1Config):
        body = GPT2Config(
            vocab_size=1,
            n_embd=config.hidden_size,
            n_layer=config.trunk_layers,
            n_head=config.trunk_heads,
            n_inner=config.trunk_ff_size,
            activation_function=config.trunk_activation,
            attn_pdrop=config.trunk_dropout,
            resid_pdrop=config.trunk_dropout,
            embd_pdrop=config.embed_dropout,
            initializer_range=config.initializer_range,
            bos_token_id=None,
            eos_token_id=None,
            use_cache=False,
        )
        body._attn_implementation = config._attn_implementation
        super().__init__(body)
        self.wpe, self.wte = NoPositions(), None
