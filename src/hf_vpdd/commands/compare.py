"""`hf-vpdd compare`: the few-shot comparison of pre-trained and untrained trunks, diffusion and behaviour cloning.

hf-vpdd compare --config recipes/metaworld_tiny.yaml --demos 2 5 --seeds 3 --draws 2 --out outputs/few_shot
"""

import argparse
import os
from pathlib import Path


SUMMARY = "Train and evaluate the four arms of the few-shot comparison; resumable."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from ..experiments.few_shot import ARMS

    parser.add_argument("--config", required=True, help="recipe YAML whose vqvae and pretrain stages are finished")
    parser.add_argument("--demos", type=int, nargs="+", default=[2, 5], help="labelled demonstrations per task")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS), help="what to compare")
    parser.add_argument("--seeds", type=int, default=3, help="training seeds")
    parser.add_argument("--draws", type=int, default=1, help="disjoint draws of demonstrations")
    parser.add_argument("--steps", type=int, help="fine-tuning steps of every arm; the recipe's if not given")
    parser.add_argument("--tasks", default="quickstart", help="tasks to evaluate on")
    parser.add_argument("--episodes", type=int, default=50, help="evaluation episodes per task")
    parser.add_argument("--first-seed", type=int, default=500000, help="of the evaluation episodes")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="cells at a time, one thread each")
    parser.add_argument("--keep-policies", action="store_true", help="keep the trained policies")
    parser.add_argument("--out", type=Path, default=Path("outputs/few_shot"), help="folder of the results")


def run(args: argparse.Namespace) -> int:
    from ..experiments.few_shot import Plan, grid, markdown, run_grid, summarise
    from ..files import atomic_write_text

    cells = grid(args.arms, args.demos, args.seeds, args.draws)
    plan = Plan(
        recipe=args.config,
        out=str(args.out),
        tasks=args.tasks,
        episodes=args.episodes,
        first_seed=args.first_seed,
        steps=args.steps,
        keep_policies=args.keep_policies,
    )
    table = markdown(summarise(run_grid(plan, cells, args.workers)))
    atomic_write_text(args.out / "table.md", table)
    print(f"\n{table}\n{args.out / 'table.md'}")
    return 0
