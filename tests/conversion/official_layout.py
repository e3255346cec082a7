"""Checkpoints in the official VPDD code's layout at any size, written from its description (spec §1.4, §2.3, §3)."""

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Sizes:
    """The official ones; `TINY` for tests."""

    codes: int = 2048
    code_dim: int = 256
    vq_hidden: int = 256
    vq_layers: int = 6
    hidden: int = 256
    latents: int = 2048
    layers: int = 6
    attention: int = 32
    feed_forward: int = 1024
    positions: int = 4610
    time: int = 1024
    history: int = 512
    prompt: int = 1024
    bins: int = 48
    head_layers: int = 6
    head_feed_forward: int = 1024
    head_positions: int = 994
    causal: int = 1023
    image_channels: int = 64
    patch: int = 13
    state: int = 4
    steps: int = 100


TINY = Sizes(
    codes=12, code_dim=8, vq_hidden=16, vq_layers=2, hidden=16, latents=10, layers=2, attention=8, feed_forward=32,
    positions=1200, time=32, history=24, prompt=24, bins=12, head_layers=2, head_feed_forward=32, head_positions=620,
    causal=5,
)  # fmt: skip


def _linear(name: str, size_out: int, size_in: int, bias: bool = True) -> dict:
    return {f"{name}.weight": (size_out, size_in), **({f"{name}.bias": (size_out,)} if bias else {})}


def _norm(name: str, size: int) -> dict:
    return {f"{name}.weight": (size,), f"{name}.bias": (size,)}


def _batch_norm(name: str, size: int) -> dict:
    moments = {f"{name}.running_mean": (size,), f"{name}.running_var": (size,), f"{name}.num_batches_tracked": ()}
    return {**_norm(name, size), **moments}


def tokenizer_layout(s: Sizes) -> dict[str, tuple]:
    """name -> shape."""
    width = s.vq_hidden
    names = {
        "encoder.convs.0.conv.weight": (width, 3, 4, 4, 4), "encoder.convs.0.conv.bias": (width,),
        "encoder.convs.1.conv.weight": (width, width, 4, 4, 4), "encoder.convs.1.conv.bias": (width,),
        "encoder.conv_last.conv.weight": (width, width, 3, 3, 3), "encoder.conv_last.conv.bias": (width,),
    }  # fmt: skip
    for side in ("encoder", "decoder"):
        for layer in range(s.vq_layers):
            block = f"{side}.res_stack.{layer}.block"
            names |= _batch_norm(f"{block}.0", width) | _batch_norm(f"{block}.3", width // 2)
            names |= _batch_norm(f"{block}.6", width)
            names[f"{block}.2.conv.weight"] = (width // 2, width, 3, 3, 3)
            names[f"{block}.5.conv.weight"] = (width, width // 2, 1, 1, 1)
            for axis in "wht":
                for kind in "qkv":
                    names |= _linear(f"{block}.8.attn_{axis}.w_{kind}s", width, width, bias=False)
                names |= _linear(f"{block}.8.attn_{axis}.fc", width, width)
        names |= _batch_norm(f"{side}.res_stack.{s.vq_layers}", width)
    return names | {
        "decoder.convts.0.convt.weight": (width, width, 4, 4, 4), "decoder.convts.0.convt.bias": (width,),
        "decoder.convts.1.convt.weight": (width, 3, 4, 4, 4), "decoder.convts.1.convt.bias": (3,),
        "pre_vq_conv.conv.weight": (s.code_dim, width, 1, 1, 1), "pre_vq_conv.conv.bias": (s.code_dim,),
        "post_vq_conv.conv.weight": (width, s.code_dim, 1, 1, 1), "post_vq_conv.conv.bias": (width,),
        "codebook.embeddings": (s.codes, s.code_dim), "codebook.N": (s.codes,),
        "codebook.z_avg": (s.codes, s.code_dim),
    }  # fmt: skip


def _conditioning(s: Sizes, rows: int) -> dict:
    return {
        "position_emb": (1, rows, s.hidden),
        **_linear("time_mlp.1", s.time, s.hidden), **_linear("time_mlp.3", s.hidden, s.time),
        **_norm("prompt_embed.0", s.prompt), **_linear("prompt_embed.1", s.hidden, s.prompt),
        **_linear("prompt_embed.3", s.hidden, s.hidden), **_norm("embed_ln", s.hidden),
    }  # fmt: skip


def trunk_layout(s: Sizes) -> dict[str, tuple]:
    def attention(name: str, cross: bool) -> dict:
        found = _linear(f"{name}.fn.to_q", s.attention, s.hidden, bias=False)
        found |= _linear(f"{name}.fn.to_kv", 2 * s.attention, s.hidden, bias=False)
        found |= _linear(f"{name}.fn.to_out", s.hidden, s.attention) | _norm(f"{name}.norm", s.hidden)
        return found | (_norm(f"{name}.norm_context", s.hidden) if cross else {})

    def feed_forward(name: str) -> dict:
        found = _linear(f"{name}.fn.net.0", 2 * s.feed_forward, s.hidden)
        return found | _linear(f"{name}.fn.net.2", s.hidden, s.feed_forward) | _norm(f"{name}.norm", s.hidden)

    names = _conditioning(s, s.positions) | {"latents": (s.latents, s.hidden)}
    names |= _norm("embed_history.0", s.code_dim) | _linear("embed_history.1", s.history, s.code_dim)
    names |= _linear("embed_history.3", s.hidden, s.history) | _linear("embed_traj", s.hidden, s.code_dim)
    names |= _linear("predict_traj.0", s.codes, s.hidden)
    names |= attention("cross_attend_blocks.0", True) | feed_forward("cross_attend_blocks.1")
    for layer in range(s.layers):
        names |= attention(f"layers.{layer}.0", False) | feed_forward(f"layers.{layer}.1")
    return names | attention("decoder_cross_attn", True)


def head_layout(s: Sizes, rlbench: bool) -> dict[str, tuple]:
    size = s.hidden
    names = _conditioning(s, s.head_positions) | {"transformer.wte.weight": (1, size)}
    for layer in range(s.head_layers):
        block = f"transformer.h.{layer}"
        names |= _norm(f"{block}.ln_1", size) | _norm(f"{block}.ln_2", size)
        for part, size_in, size_out in (
            ("attn.c_attn", size, 3 * size), ("attn.c_proj", size, size),
            ("mlp.c_fc", size, s.head_feed_forward), ("mlp.c_proj", s.head_feed_forward, size),
        ):  # fmt: skip
            names |= {f"{block}.{part}.weight": (size_in, size_out), f"{block}.{part}.bias": (size_out,)}
        names |= {f"{block}.attn.bias": (1, 1, s.causal, s.causal), f"{block}.attn.masked_bias": ()}
    names |= _norm("transformer.ln_f", size)
    if not rlbench:
        for output in ("act_x", "act_y", "act_z", "gripper"):
            names |= _linear(f"predict_{output}.0", size, size) | _linear(f"predict_{output}.2", s.bins, size)
        names |= _linear("act_embeddings.0", size, 1)
        names |= _linear("act_embeddings.2", size, size) | _linear("act_embeddings.4", size, size)
        names |= _norm("propri_embed.0", 39) | _linear("propri_embed.1", size, 39)
        names |= _linear("propri_embed.3", size, size)
        for unused in ("cross_attn_1", "self_attn"):
            for part in ("key", "query", "value", "proj"):
                names |= _linear(f"{unused}.{part}", size, size)
        return names
    channels = s.image_channels
    for output in ("trans", "quat"):
        names |= _linear(f"predict_{output}.0", size, size) | _linear(f"predict_{output}.2", s.bins, size)
    names |= _linear("predict_gripper", s.bins, size) | {"act_embeddings.weight": (s.bins + 1, size)}
    names |= _linear("proprio_preprocess.linear", size, s.state) | _linear("process_tokens.0", size, 4 * s.code_dim)
    names |= _linear("process_tokens.2", size, size) | _linear("process_tokens.4", size, size)
    names |= {"input_preprocess.conv2d.weight": (channels, 3, 1, 1), "input_preprocess.conv2d.bias": (channels,)}
    names |= {"patchify.conv2d.weight": (channels, channels, s.patch, s.patch), "patchify.conv2d.bias": (channels,)}
    names |= _norm("patchify.norm", channels) | _norm("img_embed.0", channels)
    return names | _linear("img_embed.1", size, channels) | _linear("img_embed.3", size, size)


def schedule(s: Sizes) -> dict[str, torch.Tensor]:
    """The twelve buffers, from the definitions: linear ramps, quotients of neighbours, replacement shared evenly."""
    last = s.steps - 1
    keep = [0.99999 + i / last * (0.000009 - 0.99999) for i in range(s.steps)]
    mask = [0.000009 + i / last * (0.99999 - 0.000009) for i in range(s.steps)]
    alpha = [now / before for now, before in zip(keep, [1.0, *keep])]
    gamma = [1 - (1 - now) / (1 - before) for now, before in zip(mask, [0.0, *mask])]
    keep, mask = [*keep, 1.0], [*mask, 0.0]

    def log(values):
        return torch.tensor([math.log(v) if v > 0 else -math.inf for v in values], dtype=torch.float32)

    buffers = {
        "log_at": log(alpha), "log_ct": log(gamma), "log_1_min_ct": log([1 - g for g in gamma]),
        "log_cumprod_at": log(keep), "log_cumprod_ct": log(mask), "log_1_min_cumprod_ct": log([1 - m for m in mask]),
        "Lt_history": torch.zeros(s.steps), "Lt_count": torch.zeros(s.steps),
    }  # fmt: skip
    for modality, classes in (("obs", s.codes), ("act", s.bins)):
        buffers[f"log_bt_{modality}"] = log([(1 - a - g) / classes for a, g in zip(alpha, gamma)])
        rest = [(1 - k - m) / classes for k, m in zip(keep[:-1], mask[:-1])]
        buffers[f"log_cumprod_bt_{modality}"] = log([*rest, 0.0])
    return buffers


def policy_layout(s: Sizes, kind: str) -> dict[str, tuple]:
    """kind: "pretrain", "metaworld" or "rlbench"."""
    names = {name: tuple(value.shape) for name, value in schedule(s).items()}
    names |= {f"model.traj_model.{name}": shape for name, shape in trunk_layout(s).items()}
    names |= {f"model.traj_model.vqvae.{name}": shape for name, shape in tokenizer_layout(s).items()}
    if kind != "pretrain":
        names |= {f"model.act_model.{name}": shape for name, shape in head_layout(s, kind == "rlbench").items()}
        names |= {f"model.act_model.vqvae.{name}": shape for name, shape in tokenizer_layout(s).items()}
    return names


def _random(name: str, shape: tuple, generator: torch.Generator) -> torch.Tensor:
    if name.endswith("num_batches_tracked"):
        return torch.tensor(7)
    if name.endswith(".attn.bias"):
        return torch.tril(torch.ones(shape, dtype=torch.uint8))
    value = torch.randn(shape, generator=generator) / max(math.prod(shape[1:]), 1) ** 0.5
    return value.abs() + 1 if name.endswith(("running_var", "codebook.N")) else value


def tokenizer_state(s: Sizes = TINY, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: _random(name, shape, generator) for name, shape in tokenizer_layout(s).items()}


def policy_state(kind: str, s: Sizes = TINY, seed: int = 0, tokenizer: dict | None = None) -> dict[str, torch.Tensor]:
    """A complete state_dict; both copies of the tokenizer in it are `tokenizer` (default: of the same seed)."""
    generator = torch.Generator().manual_seed(1000 + seed)
    tokenizer = tokenizer_state(s, seed) if tokenizer is None else tokenizer
    state = schedule(s)
    for name, shape in policy_layout(s, kind).items():
        if ".vqvae." in name:
            state[name] = tokenizer[name.split(".vqvae.")[1]]
        elif name not in state:
            state[name] = _random(name, shape, generator)
    return state


def save_tokenizer(path: Path, state: dict[str, torch.Tensor], **options) -> Path:
    """A Lightning file around `state`."""
    args = argparse.Namespace(n_codes=len(state["codebook.embeddings"]), downsample=(4, 4, 4), **options)
    content = {
        "epoch": 9, "global_step": 12345, "pytorch-lightning_version": "1.6.0", "state_dict": state,
        "hyper_parameters": {"args": args}, "hparams_name": "args", "callbacks": {}, "optimizer_states": [],
    }  # fmt: skip
    torch.save(content, path)
    return path


def save_policy(path: Path, ema: dict | None, model: dict | None = None, step: int = 600_000) -> Path:
    """The trainer's file; "model" has the same tensors as "ema" unless given."""
    copies = {"model": ema if model is None else model, "ema": ema}
    torch.save({"step": step, **{name: state for name, state in copies.items() if state is not None}}, path)
    return path
