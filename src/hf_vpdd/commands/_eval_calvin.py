"""`hf-vpdd eval --env calvin`: the benchmark's chains of five tasks, instead of episodes of single ones."""

import argparse
import os
from pathlib import Path

from ..errors import InputError


# Flags of episodes that chains do not have: the chain says tasks, starts and sentences.
MEANINGLESS = ("tasks", "episodes", "variations", "seed", "protocol", "envs", "real_time")
FLAGS = ("chains", "shard", "merge", "official_quirks", "renderer", "batch", "calvin_python", "calvin_root", "dataset")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that belong to CALVIN alone."""
    group = parser.add_argument_group(
        "CALVIN (--env calvin)",
        "Chains of five tasks; `hf-vpdd doctor calvin` explains the installation. --videos counts failed chains, and "
        "chains that went through; --workers are simulators, each in a process of its own.",
    )
    group.add_argument("--chains", type=int, help="the first so many of the benchmark's 1000 (default: all)")
    group.add_argument("--shard", metavar="I/N", help="run every N-th chain from the I-th on, e.g. 2/8")
    group.add_argument(
        "--merge", nargs="+", type=Path, metavar="FOLDER", help="take over the chains of other shards' --out folders"
    )
    group.add_argument(
        "--official-quirks",
        action="store_true",
        default=None,
        help="keep the gripper state that the official evaluation carries over from the chain before",
    )
    group.add_argument("--renderer", choices=["tiny", "egl"], help="tiny (default) needs nothing; egl is the data's")
    group.add_argument("--batch", type=int, help="robots to plan for in one call; more than 1 pays on a GPU")
    group.add_argument("--calvin-python", help="interpreter of CALVIN's environment; else $HF_VPDD_CALVIN_PYTHON")
    group.add_argument("--calvin-root", help="checkout of github.com/mees/calvin; else $HF_VPDD_CALVIN_ROOT")
    group.add_argument("--dataset", help="folder of CALVIN's data (task_X_Y) whose configuration describes the scene")


def refuse_flags(args: argparse.Namespace) -> None:
    """Raises an InputError for a flag of CALVIN's given to another simulator."""
    for name in FLAGS:
        if getattr(args, name) is not None:
            raise InputError(f"--{name.replace('_', '-')} belongs to --env calvin")


def run(args: argparse.Namespace, options: dict) -> int:
    """Runs it; `options` are the policy's own (sampler, temperature, ...)."""
    for name in MEANINGLESS:
        if getattr(args, name) not in (None, False):
            raise InputError(f"--{name.replace('_', '-')} means nothing to --env calvin, whose chains are fixed")
    if args.perturb != "none":
        raise InputError(f"--perturb {args.perturb}: CALVIN's scenes are not changed")
    from ..evaluation.calvin_policy import load_calvin_policy
    from ..evaluation.calvin_report import calvin_report, calvin_summary_text
    from ..evaluation.calvin_run import CalvinSettings, evaluate_calvin

    given = {
        "chains": args.chains,
        "batch": args.batch,
        "max_steps": args.max_steps,
        "renderer": args.renderer,
        "official_quirks": args.official_quirks,
    }
    shard, shards = _shard(args.shard)
    settings = CalvinSettings(
        shard=shard,
        shards=shards,
        workers=args.workers,
        execute=args.execute,
        policy_seed=args.policy_seed,
        videos=args.videos,
        python=args.calvin_python,
        calvin_root=args.calvin_root,
        dataset=args.dataset,
        **{name: value for name, value in given.items() if value is not None},
    )
    settings.check()
    _share_cores()
    policy = load_calvin_policy(args.policy, **options)
    name = Path(args.policy).name
    evaluation = evaluate_calvin(
        policy, args.out, settings, name=name, checkpoint=args.policy, resume=args.resume, merge=args.merge or ()
    )
    page = calvin_report(evaluation, f"{name} in CALVIN").save(args.out / "report.html")
    print(f"\n{calvin_summary_text(evaluation)}\n\nresults: {args.out}/summary.json, results.json, chains*.jsonl")
    print(f"report:  {page}")
    return 0


def _shard(text: str | None) -> tuple[int, int]:
    if text is None:
        return 1, 1
    try:
        shard, shards = (int(word) for word in text.split("/"))
    except ValueError:
        raise InputError(f"--shard {text}: give two whole numbers, e.g. 2/8 for the second of eight") from None
    if not 1 <= shard <= shards:
        raise InputError(f"--shard {text}: the first number must lie in 1..{max(shards, 1)}")
    return shard, shards


def _share_cores() -> None:
    """Half of the cores for the network, whatever --workers: sums are split by threads, and results must not depend
    on the number of simulators. Does nothing where the user has set OMP_NUM_THREADS."""
    if "OMP_NUM_THREADS" not in os.environ:
        import torch

        torch.set_num_threads(max(1, (os.cpu_count() or 1) // 2))
