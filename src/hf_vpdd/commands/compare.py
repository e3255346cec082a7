"""`hf-vpdd compare`: what video pre-training is worth when demonstrations are few; three studies, all resumable.

hf-vpdd compare --config recipes/metaworld_tiny.yaml --demos 2 5 --seeds 3 --draws 2 --out outputs/few_shot
hf-vpdd compare --study embodiment --config recipes/metaworld_tiny.yaml --demos 2 --other data/fetch data/adroit
hf-vpdd compare --study gr1 --config recipes/gr1_metaworld_tiny.yaml --demos 5 --arms pretrained scratch
"""

import argparse
import os
from pathlib import Path


SUMMARY = "Train and evaluate the arms of a study of video pre-training: few-shot, other bodies, GR-1; resumable."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from ..experiments import embodiment, few_shot, video_pretraining

    parser.add_argument("--config", required=True, help="recipe YAML; for few-shot with finished vqvae and pretrain")
    parser.add_argument(
        "--study", choices=["few-shot", "embodiment", "gr1"], default="few-shot",
        help="few-shot: VPDD, pre-trained or not, diffusion or cloning; embodiment: VPDD, pre-training on video of "
        "which bodies; gr1: GR-1 with and without video pre-training",
    )  # fmt: skip
    parser.add_argument("--demos", type=int, nargs="+", default=[2, 5], help="labelled demonstrations per task")
    parser.add_argument(
        "--arms", nargs="+", metavar="ARM",
        help=f"what to compare; few-shot: {', '.join(few_shot.ARMS)}; embodiment: {', '.join(embodiment.ARMS)}; "
        f"gr1: {', '.join(video_pretraining.ARMS)}",
    )  # fmt: skip
    parser.add_argument("--seeds", type=int, default=3, help="training seeds")
    parser.add_argument("--draws", type=int, default=1, help="disjoint draws of demonstrations (few-shot, gr1)")
    parser.add_argument("--steps", type=int, help="fine-tuning steps of every arm; the recipe's if not given")
    parser.add_argument("--tasks", default="quickstart", help="tasks to evaluate on")
    parser.add_argument("--episodes", type=int, default=50, help="evaluation episodes per task")
    parser.add_argument("--first-seed", type=int, default=500000, help="of the evaluation episodes")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="cells at a time, one thread each")
    parser.add_argument("--keep-policies", action="store_true", help="keep the trained policies")
    parser.add_argument("--out", type=Path, default=Path("outputs/few_shot"), help="folder of the results")
    group = parser.add_argument_group("embodiment")
    group.add_argument("--other", nargs="+", default=[], metavar="DATASET", help="recordings of the other bodies")
    group.add_argument("--frames", type=int, help="different frames in every mix of video (default: all that fit)")
    group.add_argument("--tokenizer-steps", type=int, help="of every tokenizer; the recipe's if not given")
    parser.add_argument(
        "--pretrain-steps",
        type=int,
        help="of every pre-training on video (embodiment, gr1); the recipe's if not given",
    )
    group = parser.add_argument_group("gr1")
    group.add_argument("--card", type=Path, help="model card whose table to fill in; the numbers go beside it")
    group.add_argument("--report-only", action="store_true", help="run nothing: tables of the cells that are there")


def run(args: argparse.Namespace) -> int:
    from ..errors import InputError

    shared = dict(
        recipe=args.config,
        out=str(args.out),
        tasks=args.tasks,
        episodes=args.episodes,
        first_seed=args.first_seed,
        steps=args.steps,
        keep_policies=args.keep_policies,
    )
    if args.study != "gr1" and (args.card or args.report_only):
        raise InputError("--card and --report-only belong to --study gr1")
    if args.study == "gr1":
        table = _gr1(args, shared)
    elif args.study == "embodiment":
        if len(args.demos) != 1 or args.draws != 1:
            raise InputError("the study of other bodies takes one number of --demos and one draw, e.g. --demos 2")
        table = _embodiment(args, shared)
    else:
        table = _few_shot(args, shared)
    print(f"\n{table}\n{args.out / 'table.md'}")
    return 0


def _few_shot(args: argparse.Namespace, shared: dict) -> str:
    from ..experiments.few_shot import ARMS, Plan, grid, markdown, run_grid, summarise
    from ..files import atomic_write_text

    cells = grid(args.arms or list(ARMS), args.demos, args.seeds, args.draws)
    table = markdown(summarise(run_grid(Plan(**shared), cells, args.workers)))
    atomic_write_text(args.out / "table.md", table)
    return table


def _embodiment(args: argparse.Namespace, shared: dict) -> str:
    from ..experiments.embodiment import ARMS, EmbodimentPlan, report, run_study

    plan = EmbodimentPlan(
        **shared,
        others=tuple(args.other),
        demos=args.demos[0],
        frames=args.frames,
        tokenizer_steps=args.tokenizer_steps,
        pretrain_steps=args.pretrain_steps,
    )
    return report(plan, *run_study(plan, args.arms or list(ARMS), args.seeds, args.workers))


def _gr1(args: argparse.Namespace, shared: dict) -> str:
    from ..experiments.video_pretraining import ARMS, VideoPretrainingPlan, report, run_study, study_grid

    plan = VideoPretrainingPlan(**shared, pretrain_steps=args.pretrain_steps)
    cells = study_grid(args.arms or list(ARMS), args.demos, args.seeds, args.draws)
    if not args.report_only:
        run_study(plan, cells, args.workers)
    return report(plan, cells, args.card)
