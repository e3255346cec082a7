"""`hf-vpdd quickstart`: from nothing to a video-pretrained policy on one task family, and what pre-training was worth.

hf-vpdd quickstart                                  # about ten minutes on two cores; writes outputs/quickstart/
hf-vpdd quickstart --demos 2 --tasks drawer-close,drawer-open --out outputs/drawers
"""

import argparse
import os
from pathlib import Path

from ..errors import InputError


SUMMARY = "The whole road in about ten minutes: record, pre-train on video, fine-tune on few demonstrations, compare."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from ..experiments.quickstart import RECIPE

    parser.add_argument(
        "--out", type=Path, default=Path("outputs/quickstart"), help="folder; the same command goes on"
    )
    parser.add_argument("--config", type=Path, default=RECIPE, help="recipe YAML")
    parser.add_argument("--tasks", default="quickstart", help="task names or a group, as in hf-vpdd record")
    parser.add_argument("--episodes", type=int, default=50, help="videos to record of each task")
    parser.add_argument("--demos", type=int, default=5, help="of these, demonstrations with actions to fine-tune on")
    parser.add_argument("--eval-episodes", type=int, default=50, help="evaluation episodes of each task")
    parser.add_argument("--seed", type=int, default=0, help="of the trainings")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")


def run(args: argparse.Namespace) -> int:
    from ..envs.gl import configure_gl
    from ..experiments.quickstart import NAMES, Quickstart

    if args.demos < 1 or args.demos > args.episodes - 5:
        raise InputError(f"--demos {args.demos} of --episodes {args.episodes}: 5 episodes of each task are held out")
    configure_gl()
    road = Quickstart(
        out=args.out,
        config=args.config,
        tasks=args.tasks,
        episodes=args.episodes,
        demos=args.demos,
        seed=args.seed,
        eval_episodes=args.eval_episodes,
        workers=args.workers,
    )
    page = road.run()
    print(f"\n{sum(road.seconds.values()) / 60:.1f} minutes. Success on {road.rows[0].pooled.episodes} unseen starts:")
    for row in road.rows:
        p = row.pooled
        print(f"  {NAMES[row.arm]:<44} {100 * p.rate:5.1f} %  [{100 * p.low:.0f}, {100 * p.high:.0f}]")
    print(f"\nThe report: {page}\nThe policy: {road.policy}")
    print(f"  hf-vpdd eval --policy {road.policy} --tasks {args.tasks} --out outputs/eval")
    return 0
