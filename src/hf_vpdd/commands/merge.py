"""`hf-vpdd merge ADAPTER --out FOLDER`: a LoRA adapter and its base as one policy.

hf-vpdd merge outputs/finetune/adapter --out outputs/merged
hf-vpdd merge some-org/vpdd-drawer-lora --out outputs/merged
hf-vpdd merge outputs/finetune/adapter --base models/pretrain --out outputs/merged
"""

import argparse
from pathlib import Path

from ..errors import InputError


SUMMARY = "Merge a LoRA adapter into its base model: one policy folder, as fast as one trained whole."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("adapter", metavar="ADAPTER", help="folder of an adapter, or its name on the Hub")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="folder of the merged policy")
    parser.add_argument(
        "--base",
        metavar="MODEL",
        help="folder or Hub name of the base model, if it is not where the adapter says",
    )
    parser.add_argument("--revision", help="of an adapter on the Hub: branch, tag or commit")
    parser.add_argument("--overwrite", action="store_true", help="replace the model that is in --out")


def run(args: argparse.Namespace) -> int:
    from ..conversion.folders import check_out
    from ..training.disk import require_writable

    out = check_out(args.out, args.overwrite)
    for name, other in (("the adapter", args.adapter), ("its base", args.base)):
        if other is not None and out.exists() and Path(other).exists() and out.samefile(other):
            raise InputError(f"--out {out} is the folder of {name}: name another one")
    require_writable(out, "out")
    folder = merge(args.adapter, out, args.base, args.revision)
    size = sum(file.stat().st_size for file in folder.glob("model*.safetensors"))
    print(f"{args.adapter} is merged into its base: {folder} ({size / 1e6:.1f} MB of weights)")
    return 0


def merge(adapter: str, out: Path, base: str | None = None, revision: str | None = None) -> Path:
    """Writes the merged policy with the adapter's processor (and scheduler) to `out`, whole or not at all.

    Args:
        adapter: Folder or Hub id. base: of its base, if not the recorded one. revision: of an adapter on the Hub.

    Raises:
        InputError: `adapter` is none, has no processor, or its base is gone or does not fit.
    """
    from transformers import AutoModel, AutoProcessor

    from ..modeling.adapter_base import ADAPTER_BASE, adapter_folder
    from ..modeling.adapters import merge_adapters
    from ..saving import save_policy

    options = {} if revision is None else {"revision": revision}
    folder = adapter_folder(adapter, options)
    if folder is None:
        raise InputError(
            f"{adapter} holds no adapter of this package (adapter_config.json and {ADAPTER_BASE}). Training with "
            "--lora true writes one to OUTPUT_DIR/adapter"
        )
    if not (folder / "processor_config.json").is_file():
        raise InputError(
            f"{adapter} has no processor (processor_config.json is missing): a policy is nothing without its action "
            "bins and statistics. Copy the processor of its training run there"
        )
    model = AutoModel.from_pretrained(str(folder), **({} if base is None else {"base_model": base}))
    recorded = model.adapter_base
    processor = AutoProcessor.from_pretrained(str(folder))
    model = merge_adapters(model)
    model.name_or_path = model.config._name_or_path = ""
    folder = save_policy(out, model, processor)
    print(f"base: {recorded.name}" + (f" at {recorded.revision}" if recorded.revision else ""))
    return folder
