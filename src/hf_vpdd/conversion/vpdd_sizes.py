"""Configurations read from the shapes in official VPDD checkpoints, and the noise schedule checked against theirs.

What no shape shows is the same in all of the official code: 96-pixel frames in clips of 4, a forecast 20 steps ahead,
chunks of 4 actions, 2 heads in the tokenizer and in the action head, 1 in the Perceiver, 128-pixel raw views (spec
§1.1, §3, §4).
"""

import re
from collections.abc import Mapping

import torch

from ..errors import InputError
from ..modeling.vpdd.configuration_vpdd import VPDDConfig, official_text_config
from ..modeling.vqvae.configuration_vqvae import VPDDVQVAEConfig
from ..schedulers.scheduling_mask_and_replace import MaskAndReplaceScheduler


IMAGE_SIZE = 96
TRUNK = "model.traj_model."
HEAD = "model.act_model."
TOKENIZER = TRUNK + "vqvae."


class Shapes:
    """Shapes of a checkpoint's tensors; a tensor that is not there is an `InputError` that names file and tensor."""

    def __init__(self, state: Mapping[str, torch.Tensor], path):
        self.state, self.path = state, path

    def __call__(self, name: str, dimensions: int) -> tuple[int, ...]:
        tensor = self.state.get(name)
        if tensor is None:
            raise InputError(f"{self.path}: the tensor {name} is missing; the file is not a complete VPDD checkpoint.")
        if tensor.ndim != dimensions:
            raise InputError(f"{self.path}: {name} is {tuple(tensor.shape)}, expected {dimensions} dimensions.")
        return tuple(tensor.shape)

    def count(self, pattern: str) -> int:
        """How many different numbers stand at the group of `pattern`."""
        return len({m[1] for m in map(re.compile(pattern).fullmatch, self.state) if m})


def tokenizer_config(shapes: Shapes, prefix: str = "", options: Mapping | None = None) -> VPDDVQVAEConfig:
    """Of the tokenizer whose names begin with `prefix`.

    Args:
        options: What the Lightning file says it was trained with; decides the resolution if it is there.
    """
    options = options or {}
    stages = shapes.count(re.escape(prefix) + r"encoder\.convs\.(\d+)\.conv\.weight")
    hidden, channels, *kernel = shapes(f"{prefix}encoder.convs.0.conv.weight", 5)
    size, dim = shapes(f"{prefix}codebook.embeddings", 2)
    stride = 2**stages
    if kernel != [4, 4, 4] or list(options.get("downsample", [stride] * 3)) != [stride] * 3:
        raise InputError(
            f"{shapes.path}: a tokenizer with kernels {kernel} and downsample {options.get('downsample')} is not "
            f"supported; VPDD's halves time, height and width {stages} times, with kernels of 4."
        )
    return VPDDVQVAEConfig(
        image_size=int(options.get("resolution", IMAGE_SIZE)),
        num_channels=channels,
        codebook_size=size,
        codebook_dim=dim,
        hidden_size=hidden,
        num_res_layers=shapes.count(re.escape(prefix) + r"encoder\.res_stack\.(\d+)\.block\.0\.weight"),
        downsample=[stride] * 3,
    )


def benchmark_of(shapes: Shapes) -> str:
    """metaworld or rlbench, by the action head; of a pre-trained file by the action vocabulary of its schedule."""
    if HEAD + "predict_trans.0.weight" in shapes.state:
        return "rlbench"
    if HEAD + "predict_act_x.0.weight" in shapes.state:
        return "metaworld"
    if any(name.startswith(HEAD) for name in shapes.state):
        raise InputError(
            f"{shapes.path}: the action head is neither Meta-World's (predict_act_x) nor RLBench's (predict_trans)."
        )
    return "rlbench" if bins_of_schedule(shapes) == 360 else "metaworld"


def is_fine_tuned(shapes: Shapes) -> bool:
    return any(name.startswith(HEAD) for name in shapes.state)


def policy_config(shapes: Shapes, benchmark: str, wiring: str | None, text_config=None) -> VPDDConfig:
    """Of a policy or a pre-trained video model.

    Args:
        wiring: RLBench: "released" or "paper".
        text_config: Of the text tower that is put in; None: there is none, and instructions come as vectors.
    """
    prompt = shapes(TRUNK + "prompt_embed.0.weight", 1)[0]
    fields = {
        "vqvae_config": tokenizer_config(shapes, TOKENIZER),
        "has_text_tower": text_config is not None,
        "text_config": text_config or {**official_text_config().to_dict(), "projection_dim": prompt},
        **_trunk_fields(shapes),
    }
    if text_config is not None and text_config.projection_dim != prompt:
        raise InputError(
            f"--clip: this text tower gives vectors of {text_config.projection_dim}, the checkpoint reads {prompt}. "
            "VPDD uses the tower of CLIP RN50 (1024)."
        )
    try:
        if benchmark == "metaworld":
            return VPDDConfig.metaworld(**fields, **_metaworld_fields(shapes))
        released = wiring != "paper"
        return VPDDConfig.rlbench(released, **fields, **_rlbench_fields(shapes))
    except InputError:
        raise
    except Exception as error:  # strict dataclasses have no common public base of their errors
        raise InputError(f"{shapes.path}: the shapes contradict each other: {error}") from error


def _trunk_fields(shapes: Shapes) -> dict:
    latents, hidden = shapes(TRUNK + "latents", 2)
    return {
        "hidden_size": hidden,
        "num_latents": latents,
        "trunk_layers": shapes.count(re.escape(TRUNK) + r"layers\.(\d+)\.0\.fn\.to_q\.weight"),
        "trunk_heads": 1,
        "trunk_head_dim": shapes(TRUNK + "cross_attend_blocks.0.fn.to_q.weight", 2)[0],
        "trunk_ff_size": shapes(TRUNK + "cross_attend_blocks.1.fn.net.2.weight", 2)[1],
        "trunk_position_rows": shapes(TRUNK + "position_emb", 3)[1],
        "timestep_ff_size": shapes(TRUNK + "time_mlp.1.weight", 2)[0],
        "history_ff_size": shapes(TRUNK + "embed_history.1.weight", 2)[0],
        "num_train_timesteps": shapes("log_at", 1)[0],
    }


def _head_fields(shapes: Shapes) -> dict:
    rows, size = shapes(HEAD + "position_emb", 3)[1:]
    return {
        "head_hidden_size": size,
        "head_position_rows": rows,
        "head_layers": shapes.count(re.escape(HEAD) + r"transformer\.h\.(\d+)\.ln_1\.weight"),
        "head_ff_size": shapes(HEAD + "transformer.h.0.mlp.c_fc.weight", 2)[1],
    }


def _metaworld_fields(shapes: Shapes) -> dict:
    if not is_fine_tuned(shapes):
        # a head is described although there is none yet: fine-tuning builds it
        return {"num_action_bins": bins_of_schedule(shapes), "head_hidden_size": shapes(TRUNK + "latents", 2)[1]}
    return {"num_action_bins": shapes(HEAD + "predict_act_x.2.weight", 2)[0], **_head_fields(shapes)}


def _rlbench_fields(shapes: Shapes) -> dict:
    if not is_fine_tuned(shapes):
        return {"num_action_bins": bins_of_schedule(shapes), "head_hidden_size": shapes(TRUNK + "latents", 2)[1]}
    width = shapes(HEAD + "patchify.conv2d.weight", 4)
    return {
        "num_action_bins": shapes(HEAD + "predict_trans.2.weight", 2)[0],
        "state_dim": shapes(HEAD + "proprio_preprocess.linear.weight", 2)[1],
        "head_image_channels": width[0],
        "head_patch_size": width[2],
        **_head_fields(shapes),
    }


# ---- the schedule ---------------------------------------------------------------------------------------------------


def bins_of_schedule(shapes: Shapes) -> int:
    """Action bins that the stored buffers were made for: replacement is spread evenly over a modality's classes."""
    shapes("log_bt_obs", 1), shapes("log_bt_act", 1)
    codes = shapes(TOKENIZER + "codebook.embeddings", 2)[0]
    ratio = (shapes.state["log_bt_obs"].double() - shapes.state["log_bt_act"].double()).exp().median()
    bins = codes * float(ratio)
    if not 0.5 <= bins < 1e6:
        raise InputError(f"{shapes.path}: log_bt_obs and log_bt_act fit no number of action bins.")
    return round(bins)


def official_schedule(steps: int, codes: int, bins: int) -> dict[str, torch.Tensor]:
    """The ten buffers of the official code (spec §2.3), natural logarithms in float64: (T,), or (T+1,) cumulative."""
    scheduler = MaskAndReplaceScheduler(num_train_timesteps=steps)
    keep, mask = scheduler.alphas_cumprod, scheduler.gammas_cumprod  # index T: the clean token
    keep_step = keep[:-1] / keep.roll(1)[:-1]
    mask_step = 1 - (1 - mask[:-1]) / (1 - mask.roll(1)[:-1])
    other_step, other = 1 - keep_step - mask_step, (1 - keep - mask).clamp(min=0)
    values = {
        "log_at": keep_step,
        "log_bt_obs": other_step / codes,
        "log_bt_act": other_step / bins,
        "log_ct": mask_step,
        "log_1_min_ct": 1 - mask_step,
        "log_cumprod_at": keep,
        "log_cumprod_bt_obs": other / codes,
        "log_cumprod_bt_act": other / bins,
        "log_cumprod_ct": mask,
        "log_1_min_cumprod_ct": 1 - mask,
    }
    return {name: value.log() for name, value in values.items()}


def check_schedule(shapes: Shapes, config: VPDDConfig) -> None:
    """Raises an `InputError` unless the stored buffers are those of `config`'s diffusion."""
    steps, bins = config.num_train_timesteps, config.num_action_bins
    expected = official_schedule(steps, config.vqvae_config.codebook_size, bins)
    for name, value in expected.items():
        length = shapes(name, 1)[0]
        if length != len(value):
            raise InputError(f"{shapes.path}: {name} has {length} entries, a schedule of {steps} steps {len(value)}.")
    # every probability below e^-60 is as good as zero; this also makes the minus infinities comparable
    gap = {
        name: float((shapes.state[name].double().clamp(-60, 1) - value.clamp(min=-60)).abs().max())
        for name, value in expected.items()
    }
    wrong = [name for name, size in gap.items() if not size <= 1e-4]  # NaN is wrong too
    if not wrong:
        return
    if all(name.endswith("bt_act") for name in wrong):
        raise InputError(
            f"{shapes.path}: the noise schedule ({', '.join(wrong)}) was made for {bins_of_schedule(shapes)} action "
            f"bins, but the action head has {bins}. The file mixes two runs: the official loader lets a checkpoint of "
            "one action vocabulary into a model of another (strict=False)."
        )
    raise InputError(
        f"{shapes.path}: the stored noise schedule differs from VPDD's with {steps} steps: "
        + ", ".join(f"{name} by {gap[name]:.2g}" for name in wrong[:4])
        + ". Weights trained with another schedule would be sampled wrongly."
    )
