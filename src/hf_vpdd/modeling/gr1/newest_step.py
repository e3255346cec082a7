"""The trunk for control: only the newest step is asked, so most of the query tokens are never made (spec §6).

Nobody reads a query token ([OBS] is read by [ACT] of its own step, with foresight), so those of older steps may go;
and in the last layer the observations are keys only. The answers are the full pass's, up to rounding.
"""

from collections.abc import Callable

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ..vpdd.attention import eager_attention_forward


def newest_step(
    model, image_tokens: torch.Tensor, text_embeds: torch.Tensor, state, step_mask, with_frames: bool = False
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """States of the newest step's queries, after the last norm.

    Args:
        model: A `GR1Model`. The tensors: as in its `forward`.
        with_frames: Ask for the future frames too.

    Returns:
        [ACT] (B, chunk, hidden), and [OBS] (B, V, num_latents + 1, hidden) or None.
    """
    trunk, foresight = model.trunk, model.config.foresight_attention
    real = model.observation_tokens(image_tokens, text_embeds, state)
    batch, steps, places, _ = real.shape
    views = image_tokens.shape[1]
    queries = [model.action_queries(real)]
    if with_frames or foresight:
        queries += [view.queries.weight for view in model.views[:views]]
    chunk, asked = len(queries[0]), sum(map(len, queries))
    tokens = torch.cat((real.flatten(1, 2), torch.cat(queries).expand(batch, -1, -1).to(real.dtype)), dim=1)
    hidden = trunk.drop(model.input_norm(tokens))
    mask = _mask(steps * places, asked, chunk if foresight else 0, places, step_mask, hidden)
    for block in trunk.h[:-1]:
        hidden = block(hidden, None, mask)
    hidden = trunk.ln_f(_last_rows(trunk.h[-1], hidden, asked, mask[:, :, -asked:]))
    frames = None
    if with_frames:
        frames = hidden[:, chunk:].unflatten(1, (views, -1))
    return hidden[:, :chunk], frames


def newest_frames(pixel_values: torch.Tensor, steps: int, step_mask) -> torch.Tensor:
    """Of a window (B, V, T, 3, H, W), or of its newest frame alone (T = 1): that frame, (B, V, 1, 3, H, W)."""
    given = pixel_values.shape[2]
    if given == 1:
        return pixel_values
    if step_mask is None:
        return pixel_values[:, :, -1:]
    rows = torch.arange(len(pixel_values), device=pixel_values.device)
    return pixel_values[rows, :, step_mask.long().sum(1) - 1][:, :, None]


def _mask(observed: int, asked: int, foreseeing: int, places: int, step_mask, like: torch.Tensor) -> torch.Tensor:
    """Added to the scores, (1 or B, 1, N, N) with N = observed + asked: observations see earlier ones, queries see all
    of them; the first `foreseeing` queries see those after them too. Padded steps are seen by nobody."""
    size = observed + asked
    position = torch.arange(size, device=like.device)
    allowed = (position[:, None] >= position) & (position < observed)
    if foreseeing:
        acts = (position >= observed) & (position < observed + foreseeing)
        allowed = allowed | (acts[:, None] & (position >= observed + foreseeing))
    allowed = allowed[None]
    if step_mask is not None:
        seen = step_mask.bool().repeat_interleave(places, dim=1)
        allowed = allowed & torch.cat((seen, seen.new_ones(len(seen), asked)), dim=1)[:, None]
    lowest = torch.finfo(like.dtype).min
    return torch.zeros(allowed.shape, dtype=like.dtype, device=like.device).masked_fill_(~allowed, lowest)[:, None]


def _last_rows(block, hidden: torch.Tensor, rows: int, mask: torch.Tensor) -> torch.Tensor:
    """A block of GPT-2, for the last `rows` tokens only: (B, N, D) -> (B, rows, D). All tokens are keys."""
    attention = block.attn
    # the whole projection, though only a part of its queries is used: it may be wrapped (adapters), and is cheap
    query, key, value = (
        part.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
        for part in attention.c_attn(block.ln_1(hidden)).split(attention.split_size, dim=2)
    )
    attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
        attention.config._attn_implementation, eager_attention_forward
    )
    dropout = attention.attn_dropout.p if attention.training else 0.0
    output, _ = attend(attention, query[:, :, -rows:], key, value, mask, scaling=attention.scaling, dropout=dropout)
    output = attention.resid_dropout(attention.c_proj(output.flatten(2)))
    hidden = output + hidden[:, -rows:]
    return hidden + block.mlp(block.ln_2(hidden))
