"""`--from vpdd`: the official VPDD checkpoints -> folders of this package (spec vpdd.md §10).

VQ.ckpt                    -> VPDDVQVAE                   the video tokenizer
state.pt, pre-trained      -> VPDDForVideoPrediction      with the tokenizer inside
state.pt, fine-tuned       -> VPDDForRobotPolicy          the one-folder layout of saving.py
"""

import argparse
from collections.abc import Callable
from pathlib import Path

from ..errors import InputError
from ..files import file_sha256
from ..modeling.vpdd.modeling_vpdd import VPDDForRobotPolicy, VPDDForVideoPrediction
from ..modeling.vqvae.modeling_vqvae import VPDDVQVAE
from .folders import check_out, write_folder
from .report import Report
from .vpdd_files import OfficialFile, read_policy_file, read_tokenizer_file
from .vpdd_names import rename_policy, rename_vqvae
from .vpdd_sizes import (
    IMAGE_SIZE,
    Shapes,
    benchmark_of,
    check_schedule,
    is_fine_tuned,
    policy_config,
    tokenizer_config,
)
from .vpdd_weights import check_second_copy, fingerprint, fitting_tensors, load, tokenizer_of


DESCRIPTION = """\
Official VPDD checkpoints (github.com/tinnerhrhe/VPDD, Hugging Face haoranhe/VPDD-pretrain) -> a folder for
from_pretrained. Which network a file holds, its sizes and its number of action bins are read from the file.

  --vqvae alone       the video tokenizer           -> VPDDVQVAE
  --policy            pre-trained (video only)      -> VPDDForVideoPrediction
                      fine-tuned (with actions)     -> VPDDForRobotPolicy
  --policy --vqvae    the same, after checking that the policy was trained on this tokenizer's codes
"""
EXAMPLES = """\
examples:
  hf-vpdd convert checkpoint --from vpdd --vqvae last.ckpt outputs/vpdd-tokenizer
  hf-vpdd convert checkpoint --from vpdd --policy state_600000.pt --clip clip.pt \\
      --tokenizer openai/clip-vit-base-patch32 outputs/vpdd-pretrained
  hf-vpdd convert checkpoint --from vpdd --policy state_0.pt --vqvae last.ckpt --clip clip.pt \\
      --tokenizer openai/clip-vit-base-patch32 --thresholds tokenizer_48.npz outputs/vpdd-metaworld

Nothing in these files is run: they are read with torch's restricted reader, and a file that needs more is refused by
name. docs/convert.md tells where each file comes from.
"""
WEIGHTS = ("ema", "model")
WIRINGS = ("released", "paper")
# Everything the official cameras are called; the order of the views in the released data
CAMERAS = {"metaworld": ["corner2"], "rlbench": ["front", "left_shoulder", "right_shoulder", "wrist"]}
# Which of the two copies the authors load (spec §5)
DEFAULT_WEIGHTS = {"metaworld": "ema", "rlbench": "model"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("options of --from vpdd")
    add = group.add_argument
    add("--vqvae", metavar="CKPT", help="the tokenizer: train_vqvae.py's Lightning file, lightning_logs/.../last.ckpt")
    add("--policy", metavar="PT", help="the diffusion model: state_*.pt, pre-trained or fine-tuned")
    add(
        "--weights", choices=WEIGHTS,
        help="which copy in the policy file: the moving average or the raw weights; the authors load ema for "
        "Meta-World and model for RLBench, and so does this if you do not choose",
    )  # fmt: skip
    add(
        "--clip", metavar="FILE",
        help="CLIP RN50: OpenAI's clip.pt (RN50.pt), its state_dict (.pt, .safetensors), or a folder with a "
        "CLIPTextModelWithProjection. Without it the model understands no sentences, only vectors (prompt_embeds)",
    )  # fmt: skip
    add(
        "--tokenizer", metavar="NAME",
        help="CLIP's words: openai/clip-vit-base-patch32, a folder, or OpenAI's bpe_simple_vocab_16e6.txt.gz. Without "
        "it no processor is written",
    )  # fmt: skip
    add(
        "--thresholds", metavar="NPZ",
        help="fine-tuned: tokenizer_<bins>.npz, which the official code writes when it loads its demonstrations, or "
        "(Meta-World) a LeRobot dataset of the same demonstrations. Without it actions stay bin numbers",
    )  # fmt: skip
    wiring = group.add_mutually_exclusive_group()
    wiring.add_argument(
        "--released-wiring", dest="wiring", action="store_const", const="released",
        help="RLBench: the action head reads the current codes, as the released code; the weights expect it (default)",
    )  # fmt: skip
    wiring.add_argument(
        "--paper-wiring", dest="wiring", action="store_const", const="paper",
        help="RLBench: the action head reads the forecast of all views, as the paper; to be fine-tuned before use",
    )  # fmt: skip


def run(args: argparse.Namespace) -> Report:
    return convert_vpdd(
        args.out,
        vqvae=args.vqvae,
        policy=args.policy,
        weights=args.weights,
        clip=args.clip,
        tokenizer=args.tokenizer,
        thresholds=args.thresholds,
        wiring=args.wiring,
        overwrite=args.overwrite,
        tell=print,
    )


def convert_vpdd(
    out: str | Path,
    *,
    vqvae: str | Path | None = None,
    policy: str | Path | None = None,
    weights: str | None = None,
    clip: str | Path | None = None,
    tokenizer: str | Path | None = None,
    thresholds: str | Path | None = None,
    wiring: str | None = None,
    overwrite: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> Report:
    """Converts official files into the folder `out`; the command's options under the same names.

    Args:
        weights: "ema" or "model". wiring: "released" or "paper" (RLBench).
        overwrite: Replace the model that is in `out`.
        tell: Is given a line of progress now and then.

    Raises:
        InputError: Anything that does not fit; the message names file and tensors, and nothing is written.
    """
    out = check_out(out, overwrite)
    if vqvae is None and policy is None:
        raise InputError("nothing to convert: give --vqvae, --policy, or both.")
    if policy is None:
        extra = {"weights": weights, "clip": clip, "tokenizer": tokenizer, "thresholds": thresholds, "wiring": wiring}
        given = [f"--{name}" for name, value in extra.items() if value is not None]
        if given:
            raise InputError(f"{', '.join(given)} belong to a policy: give --policy as well.")
    tokenizer_file = None
    if vqvae is not None:
        tell(f"reading {vqvae}")
        tokenizer_file = read_tokenizer_file(vqvae)
    if policy is None:
        report = _convert_tokenizer(out, tokenizer_file, tell)
    else:
        tell(f"reading {policy}")
        file = read_policy_file(policy)
        report = _convert_policy(out, file, tokenizer_file, weights, clip, tokenizer, thresholds, wiring, tell)
    report.out = out
    return report


# ---- the tokenizer --------------------------------------------------------------------------------------------------


def _convert_tokenizer(out: Path, file: OfficialFile, tell: Callable) -> Report:
    shapes = Shapes(file.state, file.path)
    config = tokenizer_config(shapes, options=file.options)
    renaming = rename_vqvae(file.state)
    tensors = fitting_tensors(VPDDVQVAE, config, file, renaming)
    report = Report(
        f"VPDDVQVAE: {config.codebook_size} codes of {config.codebook_dim}, width {config.hidden_size}, "
        f"{config.num_res_layers} residual layers, {config.image_size} px",
        sources=[_source(file)],
        kept=len(renaming.kept),
        dropped=renaming.dropped,
    )
    if not file.options:
        report.notes.append(f"the file does not say at which size it was trained; {IMAGE_SIZE} px, VPDD's, is assumed")
    model = load(VPDDVQVAE, config, tensors)
    report.facts["tokenizer_fingerprint"] = fingerprint(model)

    def write(stage: Path) -> None:
        from ..saving import minimal_card

        model.save_pretrained(stage)
        _write_papers(stage, minimal_card(model), report)

    tell(f"writing {out}")
    write_folder(out, write)
    return report


# ---- policies -------------------------------------------------------------------------------------------------------


def _convert_policy(out, file, tokenizer_file, weights, clip, tokenizer, thresholds, wiring, tell) -> Report:
    any_copy = Shapes(next(iter(file.copies.values())), file.path)
    benchmark, fine_tuned = benchmark_of(any_copy), is_fine_tuned(any_copy)
    if wiring is not None and (benchmark != "rlbench" or not fine_tuned):
        raise InputError(f"--{wiring}-wiring is for fine-tuned RLBench policies; {file.path} holds another model.")
    if thresholds is not None and not fine_tuned:
        raise InputError(f"--thresholds: {file.path} is pre-trained on video and has no actions to decode.")
    if thresholds is not None and tokenizer is None:
        raise InputError("--thresholds are kept in the processor, which needs CLIP's words too: give --tokenizer.")
    default = DEFAULT_WEIGHTS[benchmark]
    file = file.choose(weights, default)
    shapes = Shapes(file.state, file.path)
    tower = None
    if clip is not None:
        from .clip_text import read_text_tower

        tell(f"reading {clip}")
        tower = read_text_tower(clip)
    config = policy_config(shapes, benchmark, wiring, None if tower is None else tower.config)
    check_schedule(shapes, config)
    check_second_copy(file)

    renaming = rename_policy(file.state)
    cls = VPDDForRobotPolicy if fine_tuned else VPDDForVideoPrediction
    tensors = fitting_tensors(cls, config, file, renaming)
    kind = "fine-tuned" if fine_tuned else "pre-trained"
    report = Report(
        f"{cls.__name__}: {kind} on {'RLBench' if benchmark == 'rlbench' else 'Meta-World'}, "
        f"{config.vqvae_config.codebook_size} video codes, {config.num_action_bins} action bins, weights: {file.copy}",
        sources=[_source(file)],
        kept=len(renaming.kept),
        dropped=dict(renaming.dropped),
    )
    if weights is None and file.copy != default:
        report.notes.append(f"the authors load {default!r}, which this file lacks; {file.copy!r} was taken")
    if tokenizer_file is not None:
        tensors.update(tokenizer_of(tokenizer_file, file, config))
        report.sources.append(_source(tokenizer_file))
        report.notes.append(f"{tokenizer_file.path.name} is the policy's own tokenizer; its copy was taken")
        trained, used = tokenizer_file.options.get("resolution", IMAGE_SIZE), config.vqvae_config.image_size
        if trained != used:
            report.notes.append(f"the tokenizer was trained at {trained} px, VPDD uses it at {used}")
    if tower is None:
        report.missing.append(
            "text tower: the model takes prompt_embeds only and no controller runs it; convert again with --clip "
            "(CLIP RN50, OpenAI's RN50.pt)"
        )
    else:
        tensors.update({f"model.text_model.{name}": tensor for name, tensor in tower.weights.items()})
        report.sources.append(_source_of(clip))
        report.kept += len(tower.kept)
        report.dropped.update({f"clip: {name}": reason for name, reason in tower.dropped.items()})
    model = load(cls, config, tensors)
    report.facts["tokenizer_fingerprint"] = fingerprint(model.model.vqvae)
    processor = _processor(config, benchmark, fine_tuned, tokenizer, thresholds, file, report)
    if wiring == "paper":
        report.notes.append(
            "--paper-wiring: video_proj was trained on codebook rows and now reads the forecast; fine-tune before use"
        )
    elif benchmark == "rlbench" and fine_tuned:
        report.notes.append(
            "released wiring: the action head sees the wrist twice, the front not at all, and never the forecast"
        )

    def write(stage: Path) -> None:
        from safetensors.torch import save_file

        from ..saving import minimal_card, save_policy

        card = minimal_card(model)
        if processor is None:
            model.save_pretrained(stage)
            model.scheduler.save_pretrained(stage)
        else:
            save_policy(stage, model, processor, card=card)
        history = {name: file.state[name].double().clone() for name in ("Lt_history", "Lt_count")}
        if history["Lt_count"].any():
            save_file(history, stage / "scheduler_state.safetensors")
        _write_papers(stage, card, report)

    tell(f"writing {out}")
    write_folder(out, write)
    return report


def _processor(config, benchmark, fine_tuned, tokenizer, thresholds, file, report: Report):
    """The `VPDDProcessor` of a policy or video model; None without a tokenizer."""
    if fine_tuned and thresholds is None:
        report.missing.append(
            f"action bins: the policy draws bin numbers that nothing turns into actions. Give --thresholds "
            f"tokenizer_{config.num_action_bins}.npz (official code writes it where it was started), or a dataset of "
            "the demonstrations it was fine-tuned on"
        )
    if tokenizer is None:
        report.missing.append(
            "processor: it needs CLIP's words; give --tokenizer, e.g. openai/clip-vit-base-patch32 (the same for RN50)"
        )
        return None
    from ..modeling.vpdd.image_processing_vpdd import VPDDImageProcessorPil
    from ..modeling.vpdd.processing_vpdd import VPDDProcessor
    from .clip_text import load_tokenizer
    from .vpdd_actions import action_bins, read_thresholds

    words = load_tokenizer(tokenizer, config.text_config)
    bins = stats = None
    if thresholds is not None:
        bins = action_bins(read_thresholds(thresholds, config.num_action_bins, benchmark), config.num_action_bins,
                           benchmark)  # fmt: skip
        stats = {"min": [entry["low"] for entry in bins], "max": [entry["high"] for entry in bins]}
        report.sources.append(_source_of(thresholds))
    state = None
    if config.state_dim:  # the released code feeds it as it is
        state = {"mean": [0.0] * config.state_dim, "std": [1.0] * config.state_dim}
    return VPDDProcessor(
        image_processor=VPDDImageProcessorPil(size=config.pixel_size, antialias=False),
        tokenizer=words,
        cameras=CAMERAS[benchmark],
        history_frames=config.history_frames,
        chunk_size=config.chunk_size,
        execute=1,
        num_action_bins=config.num_action_bins,
        max_instruction_length=config.text_config.max_position_embeddings,
        state_stats=state,
        action_stats=stats,
        action_bins=bins,
    )


# ---- papers ---------------------------------------------------------------------------------------------------------


def _source(file: OfficialFile) -> dict:
    return {**_source_of(file.path), **file.about}


def _source_of(path: str | Path) -> dict:
    path = Path(path)
    return {"file": path.name, **({"sha256": file_sha256(path)} if path.is_file() else {})}


def _write_papers(stage: Path, card: str, report: Report) -> None:
    lines = ["", "## Converted from the official VPDD checkpoint", ""]
    lines += [f"* from `{source['file']}`" for source in report.sources]
    lines += [f"* missing: {line}" for line in report.missing]
    lines += [f"* {line}" for line in report.notes]
    lines += ["", "What was kept and dropped: `conversion.json`. Nothing was measured with this folder.", ""]
    (stage / "README.md").write_text(card + "\n".join(lines), encoding="utf-8")
    (stage / "conversion.json").write_text(report.json(), encoding="utf-8")
