"""`hf-vpdd tokenize DATASET --vqvae CKPT`: the video codes of every frame, made once, in shards that training maps."""

import argparse
import json
import time
from datetime import timedelta
from pathlib import Path


SUMMARY = "Make the video codes of a dataset once, so that training neither decodes nor encodes."

_EPILOG = """examples:
  hf-vpdd tokenize recordings/mt10 --vqvae outputs/mt10/vqvae
      beside the dataset, where training looks by itself
  hf-vpdd tokenize my-videos --vqvae outputs/human/vqvae --fps 12 --out codes
      in a folder of yours; train with --data.codes codes (and data.fps 12, data.image_size as here)
  accelerate launch --num_processes 4 -m hf_vpdd.cli tokenize my-videos --vqvae CKPT --out codes
      each GPU takes its share of the shards; on CPUs: torchrun --nproc_per_node 2 -m hf_vpdd.cli tokenize ...,
      or accelerate launch --multi_gpu (with --cpu, accelerate starts one process, whatever --num_processes says)
  hf-vpdd check codes/my-videos-video
      reads all codes again: exit status 1 if a shard is not as it was made

Each frame's code stands for the clip that ends with it, within its episode. Frames come from the dataset's cache of
decoded frames if there is one, else straight from the videos: decoded, encoded, dropped. Nothing but codes is stored.
A run that was stopped goes on after its last whole shard when the same line is run again; one process or several give
the same bytes (with the same --batch-size and dtype, on the same kind of machine)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    add = parser.add_argument
    add(
        "dataset",
        metavar="DATASET",
        help="whatever `hf-vpdd info` shows: a LeRobot dataset (folder, or user/name on the Hub), a robot dataset as "
        "it is distributed, a folder or list of videos",
    )
    add(
        "--vqvae",
        metavar="CKPT",
        required=True,
        help="the tokenizer: the output folder of training/train_vqvae.py, any VPDD model (its own one), or a Hub id",
    )
    add("--out", metavar="FOLDER", help="write to FOLDER/<dataset>-<camera> (default: the dataset's own cache)")
    add(
        "--camera",
        action="append",
        metavar="NAME",
        help="a camera; repeat it for several (default: all of them)",
    )
    add(
        "--image-size",
        type=int,
        metavar="PX",
        help="side to which frames are cut, data.image_size of the recipe (default: what the model reads)",
    )
    add("--fps", type=float, metavar="X", help="frames per second that videos are cut into (default: their own rate)")
    add("--batch-size", type=int, default=64, metavar="N", help="clips encoded at a time (default: 64)")
    add(
        "--shard-size",
        type=int,
        metavar="FRAMES",
        help="frames of a shard: what a stopped run can lose, and what processes share out (default: 8192)",
    )
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where the tokenizer runs (default: auto)")
    add(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="precision of the tokenizer; bfloat16 on GPUs only, some codes differ then (default: float32)",
    )
    add("--cache-dir", metavar="FOLDER", help="data.cache_dir of the recipe, if it has one")
    add("--verify", action="store_true", help="read codes that are there already again; make altered shards anew")
    add("--json", action="store_true", help="print one JSON object, and no bars")


def run(args: argparse.Namespace) -> int:
    from ..errors import InputError

    for name in ("image_size", "fps", "batch_size", "shard_size"):
        value = getattr(args, name)
        if value is not None and not value > 0:
            raise InputError(f"--{name.replace('_', '-')} must be above 0, got {value:g}")
    _start(args)
    from ..data.formats import open_dataset
    from ..data.frame_store import FrameStore
    from ..data.token_shards import read_index
    from ..data.tokens import tokenize
    from ..training.stages.common import main_process_first, weights_fingerprint
    from ..training.video_codes import load_tokenizer, make_encoder, share_of_processes

    vqvae, size = load_tokenizer(args.vqvae)
    size = args.image_size or size
    share = share_of_processes()
    progress = share.number == 0 and not args.json
    with main_process_first():  # which notes how long each video is, for the others
        dataset = open_dataset(args.dataset, progress, args.fps)
    cameras = list(dict.fromkeys(args.camera or dataset.cameras))
    if not cameras:
        raise InputError(f"{args.dataset} has no camera, so there is nothing to tokenize")
    for camera in cameras:
        dataset.camera_key(camera)  # before hours of work on the first one
    fingerprint, config = weights_fingerprint(vqvae), vqvae.config
    encode, dtype = make_encoder(vqvae, "bf16" if args.dtype == "bfloat16" else "no")
    results = []
    for camera in cameras:
        with main_process_first():
            store = FrameStore.build(
                args.dataset, camera, size, args.cache_dir, progress, args.fps, decode=False, dataset=dataset
            )
        place = None
        if args.out is not None:
            place = Path(args.out) / f"{dataset.root.resolve().name}-{store.camera}"
        began = time.perf_counter()
        codes = tokenize(
            store, encode, config.latent_shape, fingerprint, place, clip_frames=config.clip_frames,
            codebook_size=config.codebook_size, batch_size=args.batch_size, shard_size=args.shard_size, dtype=dtype,
            verify=args.verify, share=share, progress=progress,
        )  # fmt: skip
        seconds = time.perf_counter() - began
        place = Path(codes.parts[0].filename).parent
        index = read_index(place)
        results.append(
            {
                "camera": store.camera, "frames": index.num_frames, "codes_per_frame": int(codes[:1].size),
                "latent_shape": index.latent_shape, "clip_frames": index.clip_frames, "shards": index.num_shards,
                "bytes": index.num_bytes, "codebook_size": index.codebook_size, "codes_used": index.codes_used,
                "perplexity": index.perplexity, "seconds": round(seconds, 2), "folder": str(place),
            }
        )  # fmt: skip
    if share.number == 0:
        summary = {
            "dataset": str(dataset.root), "tokenizer": fingerprint, "image_size": size, "fps": dataset.fps,
            "processes": share.of, "cameras": results,
        }  # fmt: skip
        print(json.dumps(summary) if args.json else _text(summary, args))
    return 0


def _start(args: argparse.Namespace) -> None:
    """Joins the other processes of `accelerate launch`, and chooses the device."""
    import torch
    from accelerate import PartialState

    from ..errors import InputError

    cpu = args.device == "cpu" or not torch.accelerator.is_available()
    cuda = not cpu and torch.cuda.is_available()
    if args.device == "cuda" and not cuda:
        raise InputError("--device cuda: torch sees no GPU here; leave --device out")
    if args.dtype == "bfloat16" and not cuda:
        raise InputError("--dtype bfloat16 is for GPUs; on a CPU it is slower than float32: leave it out")
    # Without being told of the CPU, accelerate leaves processes without a GPU strangers to each other. One of them may
    # wait for another's last shard longer than the usual half hour.
    PartialState(cpu=cpu, timeout=timedelta(days=7))


def _text(summary: dict, args: argparse.Namespace) -> str:
    lines = [f"{summary['dataset']}, {summary['image_size']} px, {summary['fps']:g} fps; tokenizer "
             f"{summary['tokenizer']}"]  # fmt: skip
    for one in summary["cameras"]:
        t, h, w = one["latent_shape"]
        lines += [
            f"  camera {one['camera']}: {one['frames']} frames, {one['codes_per_frame']} codes each ({t} x {h} x "
            f"{w}), {one['bytes'] / 1e6:.1f} MB in {one['shards']} shards, {one['seconds']:.1f} s",
            f"    codebook: {one['codes_used']} of {one['codebook_size']} codes occur, perplexity "
            f"{one['perplexity']:.1f}",
            f"    in {one['folder']}",
        ]
    if args.out is not None:
        lines.append(f"Train on them: --data.codes {args.out} --data.image_size {summary['image_size']}")
    else:
        lines.append("Training with the same data.root, camera, image_size and tokenizer finds them there.")
    return "\n".join(lines)
