"""`hf-vpdd record`: demonstrations of scripted experts, or video of other bodies, as a LeRobot v3.0 dataset."""

import argparse


SUMMARY = "Record Meta-World's scripted experts, or other bodies without actions, as a LeRobot v3.0 dataset."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from ..data.recording import NOISE_LEVELS
    from ..data.recording_sources import SOURCES
    from ..envs.protocols import CAMERAS, PROTOCOLS

    add = parser.add_argument
    add("--out", required=True, metavar="DIR", help="the dataset's folder; the same command goes on after a stop")
    add(
        "--source", choices=list(SOURCES), default="metaworld",
        help="metaworld, or another body's video without actions (needs hf-vpdd[embodiment])",
    )  # fmt: skip
    add(
        "--tasks", default=None,
        help="mt10 (default), quickstart, all, easy, medium, hard, very_hard, or task names: a,b,c; of another source "
        "all (default) or names",
    )  # fmt: skip
    add("--episodes", type=int, default=50, metavar="N", help="successful demonstrations per task")
    add("--seed", type=int, default=1000, help="seed of the first start and goal; below 100000")
    add("--cameras", default=None, metavar="A,B", help=f"corner2 (default); of {', '.join(CAMERAS)}")
    add("--image-size", type=int, default=96, metavar="PIXELS", help="height and width of the pictures")
    add(
        "--noise", type=float, nargs="+", default=list(NOISE_LEVELS), metavar="S",
        help="standard deviations of the noise on the executed commands (labels stay clean), one drawn per episode",
    )  # fmt: skip
    add(
        "--no-actions",
        dest="actions",
        action="store_const",
        const=False,
        help="leave the actions out: video for pre-training",
    )
    add("--paraphrases", action="store_true", help="draw each episode's sentence among the training paraphrases")
    add("--protocol", choices=list(PROTOCOLS), default="lean", help="how pictures are made")
    add(
        "--max-steps", type=int, default=None, metavar="N",
        help="drop attempts in which the expert needs longer (200); pictures in an episode of another source (96)",
    )  # fmt: skip
    add(
        "--pix-fmt", choices=["yuv420p", "yuv444p"], default="yuv444p",
        help="yuv420p plays in any browser, but blurs colour",
    )  # fmt: skip
    add("--crf", type=int, default=18, help="quality of the H.264 video, lower is better")
    add("--workers", type=int, default=None, metavar="N", help="processes; one per core if not given")


def run(args: argparse.Namespace) -> int:
    from ..data.recording import record

    record(
        args.out,
        tasks=args.tasks or ("mt10" if args.source == "metaworld" else "all"),
        episodes_per_task=args.episodes,
        seed=args.seed,
        cameras=args.cameras and [name.strip() for name in args.cameras.split(",") if name.strip()],
        image_size=args.image_size,
        noise=args.noise,
        actions=args.actions,
        paraphrases=args.paraphrases,
        protocol=args.protocol,
        max_steps=args.max_steps,
        pix_fmt=args.pix_fmt,
        crf=args.crf,
        workers=args.workers,
        source=args.source,
    )
    return 0
