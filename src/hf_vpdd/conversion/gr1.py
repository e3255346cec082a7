"""`--from gr1`: the official GR-1 checkpoints -> the one-folder layout of saving.py (spec gr1.md §2.1).

snapshot_ABC.pt, snapshot_ABCD.pt -> GR1ForRobotPolicy with both frozen towers inside
"""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from ..errors import InputError
from ..files import file_sha256
from ..modeling.gr1.configuration_gr1 import GR1Config
from ..modeling.gr1.modeling_gr1 import GR1ForRobotPolicy
from .folders import check_out, write_folder
from .gr1_names import (
    DROPPED_FROM_MAE,
    Renaming,
    convert_tensors,
    mae_names,
    rename,
    snapshot_table,
)
from .report import Report
from .torch_files import check_finite, check_tensors, read_checkpoint


DESCRIPTION = """\
Official GR-1 checkpoints (github.com/bytedance/GR-1) -> a folder for from_pretrained. A snapshot may hold the two
frozen towers, MAE's ViT-B/16 and CLIP ViT-B/32, or not; then give their files as well. Given both, they are compared.
"""
EXAMPLES = """\
examples:
  hf-vpdd convert checkpoint --from gr1 snapshot_ABC.pt --mae mae_pretrain_vit_base.pth --clip ViT-B-32.pt \\
      --tokenizer openai/clip-vit-base-patch32 outputs/gr1-calvin-abc

Nothing in these files is run: they are read with torch's restricted reader, and a file that needs more is refused by
name. MAE's weights are licensed CC-BY-NC-4.0: a converted folder, which contains them, is too.
"""
CAMERAS = ["rgb_static", "rgb_gripper"]  # CALVIN's names
IMAGE_TOWER, TEXT_TOWER = "model.image_model.", "model.text_model."
# Two copies of a tower count as one up to this part of a tensor's largest entry: one may have passed through fp16.
_SAME = 1e-3
_LICENCE = "the image tower is MAE's, licensed CC-BY-NC-4.0: not for commercial use"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("snapshot", metavar="SNAPSHOT", help="snapshot_*.pt: {'state_dict': ...}")
    group = parser.add_argument_group("options of --from gr1")
    add = group.add_argument
    add("--mae", metavar="FILE", help="the image tower: mae_pretrain_vit_base.pth, or timm's vit_base_patch16_224.mae")
    add(
        "--clip", metavar="FILE",
        help="CLIP ViT-B/32: OpenAI's ViT-B-32.pt, its state_dict (.pt, .safetensors), or a folder of transformers",
    )  # fmt: skip
    add(
        "--tokenizer", metavar="NAME",
        help="CLIP's words: openai/clip-vit-base-patch32, a folder, or OpenAI's bpe_simple_vocab_16e6.txt.gz. Without "
        "it no processor is written",
    )  # fmt: skip


def run(args: argparse.Namespace) -> Report:
    return convert_gr1(
        args.snapshot,
        args.out,
        mae=args.mae,
        clip=args.clip,
        tokenizer=args.tokenizer,
        overwrite=args.overwrite,
        tell=print,
    )


def convert_gr1(
    snapshot: str | Path,
    out: str | Path,
    *,
    mae: str | Path | None = None,
    clip: str | Path | None = None,
    tokenizer: str | Path | None = None,
    config: GR1Config | None = None,
    overwrite: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> Report:
    """Converts an official snapshot into the folder `out`; the command's options under the same names.

    Args:
        config: Of another network than the official one; heads cannot be read off a file.
        overwrite: Replace the model that is in `out`.
        tell: Is given a line of progress now and then.

    Raises:
        InputError: Anything that does not fit; the message names file and tensors, and nothing is written.
    """
    out = check_out(out, overwrite)
    config = GR1Config() if config is None else config
    tell(f"reading {snapshot}")
    state = read_snapshot(snapshot)
    renaming = rename(state, snapshot_table(config, state))
    report = Report("", sources=[_source_of(snapshot)])
    tensors = _checked(state, renaming, snapshot, report, "snapshot", "an official GR-1 checkpoint")

    for flag, path, prefix, read in (("mae", mae, IMAGE_TOWER, _read_mae), ("clip", clip, TEXT_TOWER, _read_clip)):
        inside = {name: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        if path is None and not inside:
            what = "image tower (model_mae.*)" if flag == "mae" else "text tower (model_clip.*)"
            raise InputError(f"{snapshot} does not hold the {what}: give its own file with --{flag}.")
        if path is not None:
            tell(f"reading {path}")
            tower = read(path, config, report)
            report.sources.append(_source_of(path))
            if inside:
                _check_same(inside, tower, snapshot, path, flag)
                report.notes.append(f"the snapshot's own {flag} tower was taken; it equals {Path(path).name}")
            else:
                tensors.update(tower)
    model = _load(config, tensors, snapshot)
    count = sum(parameter.numel() for parameter in model.parameters())
    report.title = (
        f"GR1ForRobotPolicy: {count / 1e6:.1f} M parameters, {config.num_views} cameras at {config.pixel_size} px, "
        f"windows of {config.history_frames} steps"
    )
    report.notes.append(_LICENCE)
    processor = _processor(config, tokenizer, report)

    def write(stage: Path) -> None:
        from ..saving import minimal_card, save_policy

        card = minimal_card(model)
        if processor is None:
            model.save_pretrained(stage)
        else:
            save_policy(stage, model, processor, card=card)
        lines = ["", "## Converted from the official GR-1 checkpoint", ""]
        lines += [f"* from `{source['file']}`" for source in report.sources]
        lines += [f"* missing: {line}" for line in report.missing]
        lines += [f"* {line}" for line in report.notes]
        lines += ["", "What was kept and dropped: `conversion.json`. Nothing was measured with this folder.", ""]
        (stage / "README.md").write_text(card + "\n".join(lines), encoding="utf-8")
        (stage / "conversion.json").write_text(report.json(), encoding="utf-8")

    tell(f"writing {out}")
    write_folder(out, write)
    report.out = out
    return report


def read_snapshot(path: str | Path) -> dict[str, torch.Tensor]:
    """A snapshot's tensors by their official names, without the prefixes that training wrappers add.

    Raises:
        InputError: Not readable safely, damaged, or not named tensors.
    """
    return _without_prefix(_named_tensors(path, ("state_dict", "model")))


def _named_tensors(path: str | Path, keys: tuple[str, ...]) -> dict[str, torch.Tensor]:
    content = read_checkpoint(path)
    if isinstance(content, Mapping):
        inner = next((key for key in keys if isinstance(content.get(key), Mapping)), None)
        if inner is not None:
            return check_tensors(content[inner], path, f"its {inner!r}")
    return check_tensors(content, path, "its content")


def _without_prefix(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`module.` (data parallel) and `model.` (Lightning) in front of *all* names."""
    for prefix in ("module.", "model.", "module."):
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def _checked(
    state: Mapping[str, torch.Tensor], renaming: Renaming, path, report: Report, flag: str, what: str
) -> dict[str, torch.Tensor]:
    """The tensors under our names, float32, if the file has all that are expected and no others."""
    if renaming.problems():
        guess = ""
        if any(name.startswith(("model.image_model.", "image_model.", "action_head.")) for name in state):
            guess = " (it looks like this package's own weights, which need no conversion)"
        elif any(name.startswith("model.traj_model.") for name in state):
            guess = " (it looks like VPDD: --from vpdd)"
        raise InputError(f"{path} is not {what}{guess}: {renaming.problems()}.")
    check_finite(state, renaming.kept, path)
    report.kept += len(renaming.kept)
    mark = "" if flag == "snapshot" else f"{flag}: "
    report.dropped.update({mark + name: reason for name, reason in renaming.dropped.items()})
    return {name: tensor.float().contiguous() for name, tensor in convert_tensors(state, renaming.kept).items()}


def read_image_tower(path: str | Path, config: GR1Config) -> dict[str, torch.Tensor]:
    """MAE's ViT from its own file or timm's: the weights of `GR1Model.image_model` under their names there.

    Raises:
        InputError: Not readable safely, damaged, or another network than `config.vision_config`'s.
    """
    tensors = _read_mae(path, config, Report(""))
    return {name.removeprefix(IMAGE_TOWER): tensor for name, tensor in tensors.items()}


def _read_mae(path: str | Path, config: GR1Config, report: Report) -> dict[str, torch.Tensor]:
    path = Path(path)
    if path.is_dir():  # a copy of timm's repository
        path = path / "model.safetensors"
    state = _without_prefix(_named_tensors(path, ("model", "state_dict")))
    renaming = rename(state, mae_names(config), DROPPED_FROM_MAE)
    return _checked(state, renaming, path, report, "mae", "MAE's ViT-B/16 in its own (timm's) layout")


def _read_clip(path: str | Path, config: GR1Config, report: Report) -> dict[str, torch.Tensor]:
    from .clip_text import read_text_tower

    tower = read_text_tower(path)
    report.kept += len(tower.kept)
    report.dropped.update({f"clip: {name}": reason for name, reason in tower.dropped.items()})
    return {TEXT_TOWER + name: tensor.float() for name, tensor in tower.weights.items()}


def _check_same(inside: Mapping, tower: Mapping, snapshot, path, flag: str) -> None:
    """The snapshot's tower and the stand-alone one have to be the same weights."""
    for name in sorted(inside.keys() | tower.keys()):
        if name not in inside or name not in tower or inside[name].shape != tower[name].shape:
            raise InputError(f"--{flag}: {path} is another network than the tower in {snapshot}: {name} does not fit.")
        gap = float((inside[name] - tower[name]).abs().max())
        if not gap <= _SAME * max(float(inside[name].abs().max()), 1e-6):
            raise InputError(
                f"--{flag}: {path} differs from the tower that {snapshot} holds ({name} by {gap:.3g}). The policy was "
                f"trained with its own: leave --{flag} out, or find the right file."
            )


def _load(config: GR1Config, tensors: dict[str, torch.Tensor], path) -> GR1ForRobotPolicy:
    """The network with exactly these weights, in eval mode."""
    from ..training.stages.common import quiet_transformers

    with torch.device("meta"):
        expected = {name: tuple(t.shape) for name, t in GR1ForRobotPolicy(config).state_dict().items()}
    wrong = [
        f"{name} {tuple(tensor.shape)} instead of {expected.get(name)}"
        for name, tensor in tensors.items()
        if tuple(tensor.shape) != expected.get(name)
    ]
    missing = [name for name in expected if name not in tensors]
    if wrong or missing:
        found = "; ".join([*wrong[:4], *(f"{name} missing" for name in missing[:4])])
        raise InputError(f"{path}: {len(wrong) + len(missing)} tensors do not fit the official network: {found}.")
    with quiet_transformers():
        model, info = GR1ForRobotPolicy.from_pretrained(
            None, config=config, state_dict=tensors, output_loading_info=True
        )
    left = [*info["missing_keys"], *info["unexpected_keys"], *info["mismatched_keys"]]
    if left:  # the check above makes this impossible; random weights must never pass
        raise RuntimeError(f"weights did not arrive: {left[:4]}")
    return model.eval()


def _processor(config: GR1Config, tokenizer, report: Report):
    """The `GR1Processor` for CALVIN's numbers as they are; None without a tokenizer."""
    if tokenizer is None:
        report.missing.append(
            "processor: it needs CLIP's words; give --tokenizer, e.g. openai/clip-vit-base-patch32 (the same for all "
            "of OpenAI's models)"
        )
        return None
    from ..modeling.gr1.processing_gr1 import GR1Processor
    from .clip_text import load_tokenizer

    return GR1Processor(
        tokenizer=load_tokenizer(tokenizer, config.text_config),
        cameras=CAMERAS[: config.num_views],
        image_size=config.pixel_size,
        history_frames=config.history_frames,
        chunk_size=config.chunk_size,
        state_dim=config.state_dim,
        action_dim=config.action_dim,
        binary_gripper_state=config.binary_gripper_state,
        binary_gripper_action=config.binary_gripper_action,
        max_instruction_length=config.text_config.max_position_embeddings,
    )


def _source_of(path: str | Path) -> dict:
    path = Path(path)
    return {"file": path.name, **({"sha256": file_sha256(path)} if path.is_file() else {})}
