"""What every tensor of an official VPDD checkpoint is called here (spec: vpdd.md §1.4, §3, §10).

A name is either renamed or dropped with a reason; a name that no rule knows is reported, never passed over. The
official files hold, under the wrappers of their trainers:

* tokenizer: a Lightning file, names as in `encoder.convs.0.conv.weight`;
* policy: `{"step", "model", "ema"}`, names as in `model.traj_model.latents` (trunk) or `model.act_model.…` (head).
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch


_NORM = "weight|bias|running_mean|running_var|num_batches_tracked"
_AFFINE = "weight|bias"

# (pattern of the whole official name, our name)
VQVAE_RULES = (
    (rf"encoder\.convs\.(\d+)\.conv\.({_AFFINE})", r"encoder.convs.\1.\2"),
    (rf"encoder\.conv_last\.conv\.({_AFFINE})", r"encoder.conv_last.\1"),
    (rf"(encoder|decoder)\.res_stack\.(\d+)\.block\.0\.({_NORM})", r"\1.res_stack.\2.norm1.\3"),
    (r"(encoder|decoder)\.res_stack\.(\d+)\.block\.2\.conv\.weight", r"\1.res_stack.\2.conv1.weight"),
    (rf"(encoder|decoder)\.res_stack\.(\d+)\.block\.3\.({_NORM})", r"\1.res_stack.\2.norm2.\3"),
    (r"(encoder|decoder)\.res_stack\.(\d+)\.block\.5\.conv\.weight", r"\1.res_stack.\2.conv2.weight"),
    (rf"(encoder|decoder)\.res_stack\.(\d+)\.block\.6\.({_NORM})", r"\1.res_stack.\2.norm3.\3"),
    (
        r"(encoder|decoder)\.res_stack\.(\d+)\.block\.8\.attn_([wht])\.w_([qkv])s\.weight",
        r"\1.res_stack.\2.attention.attn_\3.\4_proj.weight",
    ),
    (
        rf"(encoder|decoder)\.res_stack\.(\d+)\.block\.8\.attn_([wht])\.fc\.({_AFFINE})",
        r"\1.res_stack.\2.attention.attn_\3.o_proj.\4",
    ),
    # the last entry of the stack is not a block but the norm after it
    (rf"(encoder|decoder)\.res_stack\.\d+\.({_NORM})", r"\1.norm.\2"),
    (rf"decoder\.convts\.(\d+)\.convt\.({_AFFINE})", r"decoder.convts.\1.\2"),
    (rf"(pre|post)_vq_conv\.conv\.({_AFFINE})", r"\1_vq_conv.\2"),
    (r"codebook\.embeddings", "codebook.embeddings"),
    (r"codebook\.N", "codebook.cluster_size"),
    (r"codebook\.z_avg", "codebook.embedding_sum"),
)

_CONDITIONING_RULES = (
    (r"position_emb", "position_embed"),
    (rf"time_mlp\.1\.({_AFFINE})", r"timestep_embed.fc1.\1"),
    (rf"time_mlp\.3\.({_AFFINE})", r"timestep_embed.fc2.\1"),
    (rf"prompt_embed\.0\.({_AFFINE})", r"prompt_embed.norm.\1"),
    (rf"prompt_embed\.1\.({_AFFINE})", r"prompt_embed.fc1.\1"),
    (rf"prompt_embed\.3\.({_AFFINE})", r"prompt_embed.fc2.\1"),
    (rf"embed_ln\.({_AFFINE})", r"input_norm.\1"),
)


def _attention_rules(theirs: str, ours: str) -> tuple[tuple[str, str], ...]:
    return (
        (rf"{theirs}\.fn\.to_q\.weight", rf"{ours}.q_proj.weight"),
        (rf"{theirs}\.fn\.to_kv\.weight", rf"{ours}.kv_proj.weight"),
        (rf"{theirs}\.fn\.to_out\.(?P<end>{_AFFINE})", rf"{ours}.o_proj.\g<end>"),
        (rf"{theirs}\.norm\.(?P<end>{_AFFINE})", rf"{ours}.norm.\g<end>"),
        (rf"{theirs}\.norm_context\.(?P<end>{_AFFINE})", rf"{ours}.context_norm.\g<end>"),
    )


def _feed_forward_rules(theirs: str, ours: str) -> tuple[tuple[str, str], ...]:
    return (
        (rf"{theirs}\.fn\.net\.0\.(?P<end>{_AFFINE})", rf"{ours}.fc1.\g<end>"),
        (rf"{theirs}\.fn\.net\.2\.(?P<end>{_AFFINE})", rf"{ours}.fc2.\g<end>"),
        (rf"{theirs}\.norm\.(?P<end>{_AFFINE})", rf"{ours}.norm.\g<end>"),
    )


# under model.traj_model.
TRUNK_RULES = (
    *_CONDITIONING_RULES,
    (r"latents", "latents"),
    (rf"embed_history\.([013])\.({_AFFINE})", r"history_embed.\1.\2"),
    (rf"embed_traj\.({_AFFINE})", r"code_embed.\1"),
    (rf"predict_traj\.0\.({_AFFINE})", r"code_head.\1"),
    *_attention_rules(r"cross_attend_blocks\.0", "reader.attention"),
    *_feed_forward_rules(r"cross_attend_blocks\.1", "reader.feed_forward"),
    *_attention_rules(r"layers\.(?P<layer>\d+)\.0", r"layers.\g<layer>.attention"),
    *_feed_forward_rules(r"layers\.(?P<layer>\d+)\.1", r"layers.\g<layer>.feed_forward"),
    *_attention_rules(r"decoder_cross_attn", "decoder"),
)

# under model.act_model., both benchmarks
_TRANSFORMER_RULES = (
    (
        rf"transformer\.h\.(\d+)\.(ln_1|ln_2|attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)\.({_AFFINE})",
        r"transformer.h.\1.\2.\3",
    ),
    (rf"transformer\.ln_f\.({_AFFINE})", r"transformer.ln_f.\1"),
)

METAWORLD_HEAD_RULES = (
    *_CONDITIONING_RULES,
    *_TRANSFORMER_RULES,
    (rf"act_embeddings\.([024])\.({_AFFINE})", r"action_embed.\1.\2"),
    (rf"predict_act_x\.([02])\.({_AFFINE})", r"action_out.0.\1.\2"),
    (rf"predict_act_y\.([02])\.({_AFFINE})", r"action_out.1.\1.\2"),
    (rf"predict_act_z\.([02])\.({_AFFINE})", r"action_out.2.\1.\2"),
    (rf"predict_gripper\.([02])\.({_AFFINE})", r"action_out.3.\1.\2"),
)

RLBENCH_HEAD_RULES = (
    *_CONDITIONING_RULES,
    *_TRANSFORMER_RULES,
    (r"act_embeddings\.weight", "action_embed.weight"),
    (rf"proprio_preprocess\.linear\.({_AFFINE})", r"state_proj.\1"),
    (rf"process_tokens\.([024])\.({_AFFINE})", r"video_proj.\1.\2"),
    (rf"input_preprocess\.conv2d\.({_AFFINE})", r"view_patches.conv.\1"),
    (rf"patchify\.conv2d\.({_AFFINE})", r"view_patches.patchify.\1"),
    (rf"patchify\.norm\.({_AFFINE})", r"view_patches.norm.\1"),
    (rf"img_embed\.([013])\.({_AFFINE})", r"view_patches.proj.\1.\2"),
    (rf"predict_trans\.([02])\.({_AFFINE})", r"action_out.0.\1.\2"),
    (rf"predict_quat\.([02])\.({_AFFINE})", r"action_out.1.\1.\2"),
    (rf"predict_gripper\.({_AFFINE})", r"action_out.2.\1"),
)

# (pattern of the whole official name, why it is not kept)
DROPPED = (
    (r"log_.+", "buffer of the noise schedule: computed from the configuration"),
    (r"Lt_(history|count)", "state of the timestep sampler, of use only when official training is resumed"),
    (r"model\.act_model\.vqvae\..+", "second copy of the tokenizer under model.traj_model.vqvae"),
    (r"model\.act_model\.transformer\.wte\.weight", "word table of GPT-2: the head feeds embeddings"),
    # with the dot: "attn.bias" alone would hit c_attn.bias too
    (r"model\.act_model\.transformer\.h\.\d+\.attn\.(bias|masked_bias)", "causal mask, made on the fly"),
    (
        r"model\.act_model\.(propri_embed|cross_attn_1|self_attn)\..+",
        "layer that the official forward pass never uses",
    ),
)

# Ours, and in no official policy file
NOT_IN_CHECKPOINT = (
    (r"(model\.vqvae\.)?codebook\.initialized", "set: a loaded codebook is not seeded from data again"),
    (r"model\.text_model\..+", "CLIP RN50's text tower has a file of its own (clip.pt)"),
)


@dataclass
class Renaming:
    """`kept` official -> ours; `dropped` official -> reason; `unknown` official names without a rule."""

    kept: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)


def _apply(rules: Iterable[tuple[str, str]], name: str) -> str | None:
    for pattern, replacement in rules:
        match = re.fullmatch(pattern, name)
        if match:
            return match.expand(replacement)
    return None


def matches(table: Iterable[tuple[str, str]], name: str) -> bool:
    """Whether one of the table's patterns fits the whole name."""
    return any(re.fullmatch(pattern, name) for pattern, _ in table)


def rename_vqvae(names: Iterable[str]) -> Renaming:
    """Names of the tokenizer's state_dict -> names of [`VPDDVQVAE`]."""
    renaming = Renaming()
    for name in names:
        ours = _apply(VQVAE_RULES, name)
        if ours is None:
            renaming.unknown.append(name)
        else:
            renaming.kept[name] = ours
    return renaming


def rename_policy(names: Iterable[str]) -> Renaming:
    """Names of a policy's state_dict -> names of [`VPDDForVideoPrediction`] or [`VPDDForRobotPolicy`].

    Which action head the file holds shows in its output layers: `predict_trans` is RLBench's.
    """
    names, renaming = list(names), Renaming()
    rlbench = any(name.startswith("model.act_model.predict_trans.") for name in names)
    parts = (
        ("model.traj_model.vqvae.", "model.vqvae.", VQVAE_RULES),
        ("model.traj_model.", "model.trunk.", TRUNK_RULES),
        ("model.act_model.", "action_head.", RLBENCH_HEAD_RULES if rlbench else METAWORLD_HEAD_RULES),
    )
    for name in names:
        reason = _apply(DROPPED, name)
        if reason is not None:
            renaming.dropped[name] = reason
            continue
        theirs, ours, rules = next((part for part in parts if name.startswith(part[0])), ("", "", ()))
        target = _apply(rules, name[len(theirs) :])
        if target is None:
            renaming.unknown.append(name)
        else:
            renaming.kept[name] = ours + target
    return renaming


def convert_tensors(state: Mapping[str, torch.Tensor], renaming: Renaming) -> dict[str, torch.Tensor]:
    """The official tensors under our names and in our shapes: a ready state_dict, but for `NOT_IN_CHECKPOINT`'s tower.

    Raises:
        ValueError: an official name has no rule.
    """
    if renaming.unknown:
        raise ValueError(
            f"{len(renaming.unknown)} tensors of the checkpoint are unknown, {renaming.unknown[:3]} ...: "
            "is it an official VPDD checkpoint?"
        )
    converted = {}
    for theirs, ours in renaming.kept.items():
        tensor = state[theirs]
        if ours.endswith("position_embed"):  # theirs keep a batch dimension of one
            tensor = tensor.squeeze(0)
        converted[ours] = tensor
        if ours.endswith("codebook.embeddings"):
            converted[ours.replace("embeddings", "initialized")] = torch.ones((), dtype=torch.bool)
    return converted
