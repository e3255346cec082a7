"""`--from icvf`: official ICVF parameters (Flax) -> a folder of `VPTRForValuePrediction` (spec vptr.md §1)."""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from ..errors import InputError
from ..files import file_sha256
from ..modeling.vptr import VPTRForValuePrediction
from ..modeling.vptr.processing_vptr import VPTRProcessor
from .flax_files import read_arrays
from .folders import check_out, write_folder
from .icvf_names import convert_icvf
from .icvf_sizes import icvf_config
from .report import Report


DESCRIPTION = """\
ICVF parameters of github.com/dibyaghosh/icvf_release (and V-PTR's phase 1) -> a folder that
VPTRForValuePrediction.from_pretrained and training/offline_rl.py --init vptr:FOLDER load. Sizes are read off the
shapes: ResNetV2 and IMPALA encoders, multilinear and monolithic heads.
"""
EXAMPLES = """\
examples:
  hf-vpdd convert checkpoint --from icvf params.msgpack outputs/icvf --image-size 224

FILE is what flax.serialization.to_bytes wrote, of the parameters or of the whole agent, or an npz with one array for
each "/"-joined name. Pickles are refused: they run what they contain.
"""
# Where an agent's state keeps the parameters that are wanted; the last one that occurs is cut off.
_PLACES = ("agent/value/params/", "value/params/", "params/")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("parameters", metavar="FILE", help="parameters, .msgpack (Flax) or .npz")
    group = parser.add_argument_group("options of --from icvf")
    group.add_argument("--image-size", type=int, help="pixels; read off the heads of IMPALA, 224 for ResNetV2")
    group.add_argument("--camera", default="camera", help="what the camera is called in your data")


def run(args: argparse.Namespace) -> Report:
    return convert_icvf_file(
        args.parameters, args.out, image_size=args.image_size, camera=args.camera, overwrite=args.overwrite, tell=print
    )


def convert_icvf_file(
    parameters: str | Path,
    out: str | Path,
    *,
    image_size: int | None = None,
    camera: str = "camera",
    overwrite: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> Report:
    """Converts a file of official parameters into the folder `out`; the command's options under the same names.

    Raises:
        InputError: Anything that does not fit; the message names file and arrays, and nothing is written.
    """
    out = check_out(out, overwrite)
    tell(f"reading {parameters}")
    arrays, dropped = pick_parameters(read_arrays(parameters))
    bad = [name for name, array in arrays.items() if not np.isfinite(array).all()]
    if bad:
        raise InputError(f"{parameters}: {bad[0]} holds values that are not finite; the training run had diverged")
    try:
        config = icvf_config(arrays, image_size)
        weights = convert_icvf(arrays)
    except ValueError as error:
        raise InputError(f"{parameters}: {error}") from error
    model = VPTRForValuePrediction(config)
    _check(model.state_dict(), weights, parameters)
    model.load_state_dict(weights)
    report = Report(
        f"ICVF values on a {config.encoder} encoder, {config.image_size} px, {config.num_value_heads} heads "
        f"({config.value_head})",
        sources=[{"file": Path(parameters).name, "sha256": file_sha256(Path(parameters))}],
        kept=len(weights),
        dropped=dropped,
    )
    if config.encoder == "bit":
        report.notes.append(
            f"shapes do not tell the size of the images ({config.image_size} px; --image-size) nor the groups of the "
            f"normalisation ({config.bit_config.num_groups}, as officially)"
        )
    processor = VPTRProcessor(image_size=config.image_size, cameras=[camera], condition="none")

    def write(stage: Path) -> None:
        model.save_pretrained(stage)
        processor.save_pretrained(stage)
        (stage / "conversion.json").write_text(report.json(), encoding="utf-8")

    write_folder(out, write)
    report.out = out
    return report


def pick_parameters(arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """(parameters of the online value network under their own names; what else there was -> why it is left out)."""
    place = next((p for p in _PLACES if any(name.startswith(p) for name in arrays)), "")
    kept, dropped = {}, {}
    for name, array in arrays.items():
        if name.startswith(place):
            kept[name.removeprefix(place)] = array
        elif "target" in name:
            dropped[name] = "the slow network, which belongs to the trainer"
        else:
            dropped[name] = "state of the trainer"
    return kept, dropped


def _check(ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor], path) -> None:
    missing, unknown = sorted(ours.keys() - theirs.keys()), sorted(theirs.keys() - ours.keys())
    shapes = [name for name in ours.keys() & theirs.keys() if ours[name].shape != theirs[name].shape]
    wrong = {"are missing": missing, "have no place": unknown, "have another shape": sorted(shapes)}
    parts = [f"{len(names)} {what} ({', '.join(names[:3])})" for what, names in wrong.items() if names]
    if parts:
        raise InputError(f"{path}: the arrays do not make an ICVF network: {'; '.join(parts)}")
