"""GPT-2's blocks run in two parts at inference: a prefix once, then the few tokens that are asked, as often as wanted.

Causal attention makes this exact: nothing in the prefix sees the tokens after it. And the last block owes the prefix
nothing but keys and values. Dropout has no place here; training runs the transformer as it is.
"""

import torch
from torch import nn
from torch.nn import functional as F


def project(block: nn.Module, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(B, L, size) -> query, key, value, each (B, heads, L, head size)."""
    heads = block.attn.c_attn(block.ln_1(tokens)).unflatten(-1, (3, block.attn.num_heads, -1))
    return heads.permute(2, 0, 3, 1, 4).unbind(0)


def finish(block: nn.Module, tokens: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
    """Everything of a block after its attention: attended (B, heads, L, head size) -> the next (B, L, size)."""
    tokens = tokens + block.attn.c_proj(attended.transpose(1, 2).flatten(2))
    return tokens + block.mlp(block.ln_2(tokens))


def run_prefix(transformer: nn.Module, tokens: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """tokens (B, P, size) -> each block's keys and values (B, heads, P, head size)."""
    cache = []
    for block in transformer.h:
        query, key, value = project(block, tokens)
        cache.append((key, value))
        if len(cache) < len(transformer.h):
            tokens = finish(block, tokens, F.scaled_dot_product_attention(query, key, value, is_causal=True))
    return cache


def run_suffix(
    transformer: nn.Module, tokens: torch.Tensor, cache: list[tuple[torch.Tensor, torch.Tensor]]
) -> torch.Tensor:
    """tokens (B, S, size) that follow the prefix of `cache` -> their last hidden states (B, S, size)."""
    length, prefix = tokens.shape[1], cache[0][0].shape[2]
    visible = torch.ones(length, prefix + length, dtype=torch.bool, device=tokens.device).tril(prefix)
    for block, (keys, values) in zip(transformer.h, cache):
        query, key, value = project(block, tokens)
        key, value = torch.cat((keys, key), dim=2), torch.cat((values, value), dim=2)
        tokens = finish(block, tokens, F.scaled_dot_product_attention(query, key, value, attn_mask=visible))
    return transformer.ln_f(tokens)
