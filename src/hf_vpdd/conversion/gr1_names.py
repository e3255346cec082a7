"""What every tensor of an official GR-1 checkpoint is called here (spec: gr1.md §1.1, §2.1).

The official `snapshot_*.pt` is `{"state_dict": …}`. Besides the policy it may hold its two frozen towers,
`model_mae.…` and `model_clip.…`; else they come from files of their own. The table of names is made from the
configuration, so that a file can be compared with it in both directions: what it lacks, and what it should not have.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import torch

from ..modeling.gr1.configuration_gr1 import GR1Config


MAE_PREFIX, CLIP_PREFIX = "model_mae.", "model_clip."
_WB = ("weight", "bias")
_QKV = "{q,k,v}"  # one official tensor, three of ours

# (pattern of the whole official name, why it is not kept)
DROPPED = (
    (r"transformer\.wte\.weight", "word table of GPT-2: the trunk feeds on embeddings"),
    # with the dot: "attn.bias" alone would hit c_attn.bias too
    (r"transformer\.h\.\d+\.attn\.(bias|masked_bias)", "causal mask, made on the fly"),
    (r"model_clip\.visual\..+", "CLIP's image tower, never used"),
    (r"model_clip\.logit_scale", "temperature of CLIP's training, never used"),
)
# What the files of the towers hold besides them
DROPPED_FROM_MAE = (
    (r"(decoder_.+|mask_token)", "MAE's decoder, only in files for visualisation"),
    (r"head\..+", "classifier"),
)


def _pairs(theirs: str, ours: str, ends: Iterable[str] = _WB) -> Iterator[tuple[str, str]]:
    for end in ends:
        yield f"{theirs}.{end}", f"{ours}.{end}"


def _transformer_block(theirs: str, ours: str, names: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for their_part, our_part in names.items():
        yield from _pairs(f"{theirs}.{their_part}", f"{ours}.{our_part}")


def mae_names(config: GR1Config) -> dict[str, str]:
    """Names in `mae_pretrain_vit_base.pth` (and timm's ViT) -> names of [`GR1ForRobotPolicy`]."""
    ours = "model.image_model"
    names = {
        "cls_token": f"{ours}.embeddings.cls_token",
        "pos_embed": f"{ours}.embeddings.position_embeddings",
        **dict(_pairs("patch_embed.proj", f"{ours}.embeddings.patch_embeddings.projection")),
        **dict(_pairs("norm", f"{ours}.layernorm")),
    }
    block = {
        "norm1": "layernorm_before",
        "attn.qkv": f"attention.{_QKV}_proj",
        "attn.proj": "attention.o_proj",
        "norm2": "layernorm_after",
        "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
    }
    for i in range(config.vision_config.num_hidden_layers):
        names |= _transformer_block(f"blocks.{i}", f"{ours}.layers.{i}", block)
    return names


def clip_names(config: GR1Config) -> dict[str, str]:
    """Names in OpenAI's CLIP (text tower) -> names of [`GR1ForRobotPolicy`]."""
    ours = "model.text_model.text_model"
    names = {
        "positional_embedding": f"{ours}.embeddings.position_embedding.weight",
        "token_embedding.weight": f"{ours}.embeddings.token_embedding.weight",
        "text_projection": "model.text_model.text_projection.weight",
        **dict(_pairs("ln_final", f"{ours}.final_layer_norm")),
    }
    block = {
        "attn.out_proj": "self_attn.out_proj",
        "ln_1": "layer_norm1",
        "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
        "ln_2": "layer_norm2",
    }
    for i in range(config.text_config.num_hidden_layers):
        theirs, layer = f"transformer.resblocks.{i}", f"{ours}.encoder.layers.{i}"
        for end in _WB:
            names[f"{theirs}.attn.in_proj_{end}"] = f"{layer}.self_attn.{_QKV}_proj.{end}"
        names |= _transformer_block(theirs, layer, block)
    return names


def policy_names(config: GR1Config) -> dict[str, str]:
    """Official names without those of the two towers -> names of [`GR1ForRobotPolicy`]."""
    names = {
        "mask_token": "frame_decoder.mask_token",
        "decoder_pos_embed": "frame_decoder.position_embed",
        "perceiver_resampler.latents": "model.resampler.latents",
        "perceiver_resampler.media_pos_emb": "model.resampler.media_embed",
        "embed_timestep.weight": "model.timestep_embed.weight",
        "action_queries.weight": "model.action_queries.base",
    }
    plain = {
        "perceiver_resampler.norm": "model.resampler.norm",
        "transformer.ln_f": "model.trunk.ln_f",
        "embed_lang": "model.language_embed",
        "embed_arm_state": "model.state_embed.arm",
        "embed_gripper_state": "model.state_embed.gripper_class",
        "embed_state": "model.state_embed.out",
        "embed_ln": "model.input_norm",
        "pred_act_mlps.0": "action_head.fc1",
        "pred_act_mlps.1": "action_head.fc2",
        "pred_arm_act": "action_head.arm",
        "pred_gripper_act": "action_head.gripper",
        "decoder_embed": "frame_decoder.embed",
        "decoder_norm": "frame_decoder.norm",
        "decoder_pred": "frame_decoder.out",
    }
    for view, hand in enumerate(("", "hand_")):
        plain[f"embed_{hand}patch"] = f"model.views.{view}.latents"
        plain[f"embed_{hand}img"] = f"model.views.{view}.cls"
        names[f"obs_{hand}queries.weight"] = f"model.views.{view}.queries.weight"
    for theirs, ours in plain.items():
        names |= _pairs(theirs, ours)
    for i in range(config.resampler_layers):
        theirs, ours = f"perceiver_resampler.layers.{i}", f"model.resampler.layers.{i}"
        names |= _pairs(f"{theirs}.0.norm_media", f"{ours}.attention.patch_norm")
        names |= _pairs(f"{theirs}.0.norm_latents", f"{ours}.attention.latent_norm")
        for their_end, our_end in (("to_q", "q_proj"), ("to_kv", "kv_proj"), ("to_out", "o_proj")):
            names[f"{theirs}.0.{their_end}.weight"] = f"{ours}.attention.{our_end}.weight"
        names |= _pairs(f"{theirs}.1.0", f"{ours}.ff_norm")
        names |= {f"{theirs}.1.{n}.weight": f"{ours}.{fc}.weight" for n, fc in (("1", "fc1"), ("3", "fc2"))}
    parts = ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")
    for i in range(config.trunk_layers):
        names |= _transformer_block(f"transformer.h.{i}", f"model.trunk.h.{i}", {part: part for part in parts})
    block = {
        "norm1": "self_norm",
        "attn.qkv": f"self_attn.{_QKV}_proj",
        "attn.proj": "self_attn.o_proj",
        "norm2": "ff_norm",
        "mlp.fc1": "fc1",
        "mlp.fc2": "fc2",
    }
    for i in range(config.decoder_layers):
        names |= _transformer_block(f"decoder_blocks.{i}", f"frame_decoder.layers.{i}", block)
    return names


def expand(ours: str) -> list[str]:
    """`a.{q,k,v}_proj` -> the three names; any other name -> itself."""
    return [ours.replace(_QKV, letter) for letter in "qkv"] if _QKV in ours else [ours]


@dataclass
class Renaming:
    """How a file compares with the table.

    Args:
        kept: official name -> ours (`expand` gives one or three).
        dropped: official name -> reason. unknown: names of the file without a rule. missing: names the file lacks.
    """

    kept: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def problems(self) -> str:
        """Missing and unknown names in one line, the first of many; empty when the file is as expected."""
        parts = []
        for what, names in (("missing", self.missing), ("unexpected", self.unknown)):
            if names:
                more = f" and {len(names) - 5} more" if len(names) > 5 else ""
                parts.append(f"{len(names)} {what}: {', '.join(names[:5])}{more}")
        return "; ".join(parts)


def rename(present: Iterable[str], table: Mapping[str, str], dropped=DROPPED) -> Renaming:
    """Compares the names of a file with a table of `*_names`."""
    present = list(present)
    renaming = Renaming(missing=[name for name in table if name not in set(present)])
    for name in present:
        reason = next((reason for pattern, reason in dropped if re.fullmatch(pattern, name)), None)
        if name in table:
            renaming.kept[name] = table[name]
        elif reason is not None:
            renaming.dropped[name] = reason
        else:
            renaming.unknown.append(name)
    return renaming


def snapshot_table(config: GR1Config, present: Iterable[str]) -> dict[str, str]:
    """The table for a snapshot: the policy, and each tower of which the file holds anything that is used."""
    table, present = policy_names(config), list(present)
    for prefix, names in ((MAE_PREFIX, mae_names(config)), (CLIP_PREFIX, clip_names(config))):
        if any(name.removeprefix(prefix) in names for name in present if name.startswith(prefix)):
            table |= {prefix + theirs: ours for theirs, ours in names.items()}
    return table


def convert_tensors(state: Mapping[str, torch.Tensor], kept: Mapping[str, str]) -> dict[str, torch.Tensor]:
    """The official tensors under our names and in our shapes."""
    converted = {}
    for theirs, ours in kept.items():
        tensor = state[theirs]
        if theirs.endswith("text_projection"):  # theirs multiplies from the right
            tensor = tensor.T
        elif ours in ("frame_decoder.mask_token", "frame_decoder.position_embed", "model.resampler.media_embed"):
            tensor = tensor.flatten(0, -2) if "position" in ours else tensor.flatten()
        targets = expand(ours)
        pieces = tensor.chunk(len(targets)) if len(targets) > 1 else [tensor]
        converted.update(zip(targets, pieces))
    return converted
