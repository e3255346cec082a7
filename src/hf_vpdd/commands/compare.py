"""`hf-vpdd compare`: what learning from video is worth; the studies behind the tables of docs/, all resumable.

hf-vpdd compare --config recipes/metaworld_tiny.yaml --demos 2 5 --seeds 3 --draws 2 --out outputs/few_shot
hf-vpdd compare --study embodiment --config recipes/metaworld_tiny.yaml --demos 2 --other data/fetch data/adroit
hf-vpdd compare --study gr1 --config recipes/gr1_metaworld_tiny.yaml --demos 5 --arms pretrained scratch
hf-vpdd compare --study lora --config recipes/metaworld_lora.yaml --demos 10 --tasks button-press-v3 --out outputs/lora
hf-vpdd compare --study value-gridworld --seeds 3 --out outputs/value_gridworld
hf-vpdd compare --study value-order --config recipes/vptr_metaworld_tiny.yaml --out outputs/values
hf-vpdd compare --study offline-rl --config recipes/vptr_metaworld_tiny.yaml --out outputs/values --episodes 10
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path


_VALUE_STUDIES = ("value-gridworld", "value-order", "offline-rl")
SUMMARY = "Train and evaluate the arms of a study: few demonstrations, other bodies, GR-1, V-PTR, LoRA; resumable."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from ..experiments import embodiment, few_shot, lora_study, value_gridworld, value_transfer, video_pretraining

    parser.add_argument(
        "--config", help="recipe YAML; for few-shot with finished vqvae and pretrain (value-gridworld needs none)"
    )
    parser.add_argument(
        "--study", choices=["few-shot", "embodiment", "gr1", "lora", *_VALUE_STUDIES], default="few-shot",
        help="few-shot: VPDD, pre-trained or not, diffusion or cloning; embodiment: VPDD, pre-training on video of "
        "which bodies; gr1: GR-1 with and without video pre-training; lora: a new task by adapters or by all weights; "
        "value-gridworld: do V-PTR's values know the distance to a goal; value-order: are they in order on held-out "
        "video; offline-rl: is their encoder worth something to offline RL",
    )  # fmt: skip
    parser.add_argument("--demos", type=int, nargs="+", default=[2, 5], help="labelled demonstrations per task")
    parser.add_argument(
        "--arms", nargs="+", metavar="ARM",
        help=f"what to compare; few-shot: {', '.join(few_shot.ARMS)}; embodiment: {', '.join(embodiment.ARMS)}; "
        f"gr1: {', '.join(video_pretraining.ARMS)}; lora: {', '.join(lora_study.ARMS)}; "
        f"value-gridworld: {', '.join(value_gridworld.ARMS)}; value-order: {', '.join(value_transfer.OBJECTIVES)}; "
        f"offline-rl: {', '.join(value_transfer.ARMS)}",
    )  # fmt: skip
    parser.add_argument("--seeds", type=int, default=3, help="training seeds")
    parser.add_argument("--draws", type=int, default=1, help="disjoint draws of demonstrations (few-shot, gr1)")
    parser.add_argument(
        "--steps",
        type=int,
        help="fine-tuning steps of every arm (value-gridworld: all there are); the recipe's if not given",
    )
    parser.add_argument("--tasks", default="quickstart", help="tasks to evaluate on")
    parser.add_argument("--episodes", type=int, default=50, help="evaluation episodes per task")
    parser.add_argument("--first-seed", type=int, default=500000, help="of the evaluation episodes")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="cells at a time, one thread each")
    parser.add_argument("--keep-policies", action="store_true", help="keep the trained policies")
    parser.add_argument("--out", type=Path, default=Path("outputs/few_shot"), help="folder of the results")
    parser.add_argument("--set", nargs=2, action="append", default=[], metavar=("OPTION", "VALUE"), help=(
        "another value in the recipe (value-order, offline-rl, lora), e.g. --set data.root data/metaworld_tiny"
    ))  # fmt: skip
    parser.add_argument("--report-only", action="store_true", help="no training: tables of the results there are")
    parser.add_argument("--write-to", type=Path, metavar="FILE.md", help=(
        "put the table of a value study, or of lora, between its marks in this document"
    ))  # fmt: skip
    parser.add_argument("--runs", type=Path, metavar="FILE.jsonl", help=(
        "put each run of a value study, or of lora, into this file, a line for each"
    ))  # fmt: skip
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
    group = parser.add_argument_group("lora")
    group.add_argument("--kept-tasks", default="mt10", help="tasks that the policy knew before")
    group.add_argument("--kept-episodes", type=int, default=0, metavar="N", help=(
        "starts of each of those to try every policy on, to see what it forgot (0: leave that out)"
    ))  # fmt: skip
    group = parser.add_argument_group("value-order, offline-rl")
    group.add_argument("--value-steps", type=int, help="of every value model; the recipe's if not given")
    group.add_argument(
        "--conditions", nargs="+", default=["seen", "unseen"], metavar="CONDITION",
        help="where policies are tried: seen (starts of the recording), unseen, camera (unseen, and the camera moved)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    from ..errors import InputError

    if args.study in _VALUE_STUDIES:
        return _values(args)
    if args.config is None:
        raise InputError(f"--study {args.study} needs a recipe: --config recipes/metaworld_tiny.yaml")
    if args.study == "lora":
        return _lora(args)
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
        raise InputError("--card belongs to --study gr1, --report-only to gr1, lora and the value studies")
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


def _values(args: argparse.Namespace) -> int:
    from ..errors import InputError
    from ..experiments import value_tables, value_transfer
    from ..experiments.value_gridworld import ARMS, GridworldPlan, finished, run_gridworld

    if args.study == "value-gridworld":
        plan = GridworldPlan(str(args.out), **({} if args.steps is None else {"steps": args.steps}))
        arms, run, there = args.arms or list(ARMS), run_gridworld, finished
    else:
        if args.config is None:
            raise InputError(f"--study {args.study} needs a recipe: --config recipes/vptr_metaworld_tiny.yaml")
        plan = value_transfer.TransferPlan(
            args.config, str(args.out), args.value_steps, args.steps, args.tasks, args.episodes,
            tuple(args.conditions), keep_policies=args.keep_policies, overrides=tuple(map(tuple, args.set)),
        )  # fmt: skip
        known = value_transfer.OBJECTIVES if args.study == "value-order" else value_transfer.ARMS
        run = value_transfer.run_value_order if args.study == "value-order" else value_transfer.run_offline_study
        arms = args.arms or list(known)

        def there(plan, arms, seeds):
            return value_transfer.finished(plan, args.study, arms, seeds)

    results = there(plan, arms, args.seeds) if args.report_only else run(plan, arms, args.seeds, args.workers)
    return _report_runs(args, results, value_tables.TABLES[args.study])


def _lora(args: argparse.Namespace) -> int:
    from ..errors import InputError
    from ..experiments.lora_study import ARMS, LoraPlan, finished, run_study, study_table

    if len(args.demos) != 1 or args.draws != 1:
        raise InputError("the study of adapters takes one number of --demos and one draw, e.g. --demos 10")
    plan = LoraPlan(
        args.config, str(args.out), tuple(name.strip() for name in args.tasks.split(",")), args.demos[0], args.steps,
        args.episodes, args.first_seed, args.kept_tasks, args.kept_episodes, tuple(map(tuple, args.set)),
    )  # fmt: skip
    arms = args.arms or list(ARMS)
    results = finished(plan, arms, args.seeds) if args.report_only else run_study(plan, arms, args.seeds, args.workers)
    return _report_runs(args, results, study_table)


def _report_runs(args: argparse.Namespace, results: list, table_of: Callable[[list], str]) -> int:
    from ..errors import InputError
    from ..experiments.value_tables import put_runs, put_table
    from ..files import atomic_write_text

    if not results:
        raise InputError(f"{args.out} holds no results of {args.study} yet: leave --report-only out")
    table = table_of(results)
    atomic_write_text(args.out / f"{args.study}.md", table)
    if args.write_to is not None:
        put_table(args.write_to, args.study, table)
    if args.runs is not None:
        put_runs(args.runs, args.study, results)
    print(f"\n{table}\n{args.out / args.study}.md")
    return 0


def _gr1(args: argparse.Namespace, shared: dict) -> str:
    from ..experiments.video_pretraining import ARMS, VideoPretrainingPlan, report, run_study, study_grid

    plan = VideoPretrainingPlan(**shared, pretrain_steps=args.pretrain_steps)
    cells = study_grid(args.arms or list(ARMS), args.demos, args.seeds, args.draws)
    if not args.report_only:
        run_study(plan, cells, args.workers)
    return report(plan, cells, args.card)
