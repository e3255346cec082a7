"""`hf-vpdd eval`: success rates of a policy in the simulator.

hf-vpdd eval --policy runs/my-policy --tasks mt10 --episodes 100 --out outputs/eval
hf-vpdd eval --policy expert --tasks mt10 --out outputs/expert          # the scripted expert on the same episodes
xvfb-run -a hf-vpdd eval --env rlbench --policy runs/rlbench --tasks vpdd17 --out outputs/rlbench
hf-vpdd eval --env calvin --policy runs/gr1 --chains 1000 --renderer egl --out outputs/calvin --resume
"""

import argparse
import os
from pathlib import Path

from ..errors import InputError
from . import _eval_calvin


SUMMARY = "Run a policy in a simulator: success rates with intervals, videos, a report page."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from ..envs.registry import SIMULATORS
    from ..evaluation.episodes import PERTURBATIONS, PROTOCOLS

    parser.add_argument(
        "--env",
        choices=[*SIMULATORS, "calvin"],
        help="the simulator; the one that --protocol belongs to if not given",
    )
    parser.add_argument("--policy", required=True, help="folder of a checkpoint, name on the Hub, expert or null")
    parser.add_argument(
        "--tasks",
        help="mt10 (default under lean), all (default under Meta-World's other protocols), quickstart, easy, medium, "
        "hard, very_hard; of RLBench vpdd17 (default), peract18; or task names with commas",
    )
    parser.add_argument("--episodes", type=int, help="per task; the protocol's own number if not given (lean: 20)")
    parser.add_argument(
        "--variations",
        help="RLBench: numbers with commas, in turn from episode to episode; if not given, by the seeds",
    )
    parser.add_argument(
        "--seed", type=int, help="of the first episode; the protocol's own if not given (lean: 100000)"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--resume", action="store_true", help="go on with the results in --out")
    parser.add_argument(
        "--protocol",
        choices=list(PROTOCOLS),
        help="how pictures are made, and limits; the first one of --env if not given (lean, rlbench)",
    )
    parser.add_argument(
        "--perturb", choices=["none", *PERTURBATIONS], default="none", help="change the scene or words"
    )
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="simulator processes; 0: within this one"
    )
    parser.add_argument("--envs", type=int, help="episodes that run side by side, 80 MB each (default: 16)")
    parser.add_argument("--videos", type=int, default=1, help="successes, and failures, to film of each task")
    parser.add_argument(
        "--execute", type=int, help="actions to run of each plan; the policy's own number if not given"
    )
    parser.add_argument("--max-steps", type=int, help="of an episode; the protocol's own number if not given")
    parser.add_argument("--policy-seed", type=int, default=0, help="of the policy's random draws")
    parser.add_argument(
        "--inference-steps", type=int, help="denoising steps; the checkpoint's own number if not given"
    )
    parser.add_argument("--temperature", type=float, help="of the actions; the checkpoint's own if not given")
    parser.add_argument(
        "--sampler",
        help="ancestral (default), confidence, entropy_bound or halton: which tokens come first",
    )
    parser.add_argument(
        "--action-steps", type=int, help="passes for the actions after --inference-steps for the video; else one chain"
    )
    parser.add_argument(
        "--guidance-scale", type=float, help="over the instruction, of models trained with instruction_dropout"
    )
    parser.add_argument(
        "--real-time",
        action="store_true",
        help="as on a robot that moves while the network computes: a plan begins with what the last one still holds",
    )
    parser.add_argument(
        "--value-model",
        metavar="DIR",
        help="value-guided planning: a V-PTR value model (training/pretrain.py --model vptr) judges the end of each "
        "imagined future",
    )
    parser.add_argument(
        "--num-candidates", type=int, help="futures to imagine for each plan, of which the best one is carried out"
    )
    parser.add_argument(
        "--value-goals",
        metavar="DATASET",
        help="demonstrations whose last frames show what each instruction asks for; needed by value models that read "
        "no words",
    )
    _eval_calvin.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from ..evaluation.episodes import PROTOCOLS, default_protocol, make_episodes
    from ..evaluation.policies import load_policy
    from ..evaluation.runner import evaluate
    from ..evaluation.tables import evaluation_report, summary_text

    if args.videos < 0:
        raise InputError(f"--videos must not be negative; got {args.videos}")
    if args.env == "calvin":
        return _eval_calvin.run(args, _policy_options(args))
    _eval_calvin.refuse_flags(args)
    protocol = PROTOCOLS[args.protocol or default_protocol(args.env or "metaworld")]
    simulator = protocol.simulator
    if args.env not in (None, simulator.name):
        raise InputError(f"--protocol {protocol.name} belongs to --env {simulator.name}, not {args.env}")
    simulator.check_policy(args.policy)
    episodes = make_episodes(
        args.tasks or protocol.tasks,
        protocol.episodes if args.episodes is None else args.episodes,
        protocol.seed if args.seed is None else args.seed,
        args.perturb,
        env=simulator.name,
        variations=_numbers(args.variations),
    )
    simulator.prepare()
    options = _policy_options(args)
    leave_cores_to(args.workers)
    policy = load_policy(args.policy, **options)
    if getattr(policy, "ranker", None) is not None:
        policy.ranker.require_goals(said for episode in episodes if (said := episode.instruction))
    name = Path(args.policy).name
    evaluation = evaluate(
        policy,
        episodes,
        args.out,
        name=name,
        checkpoint=args.policy,
        protocol=protocol.name,
        workers=args.workers,
        envs=16 if args.envs is None else args.envs,
        execute=args.execute,
        max_steps=args.max_steps,
        seed=args.policy_seed,
        videos=args.videos,
        resume=args.resume,
    )
    page = evaluation_report(evaluation, f"{name} in {simulator.title}", protocol.label).save(args.out / "report.html")
    print(
        f"\n{summary_text(evaluation)}\n\nresults: {args.out}/summary.json, {args.out}/episodes.jsonl\nreport:  {page}"
    )
    return 0


def _policy_options(args: argparse.Namespace) -> dict:
    """What was given of the policy's sampling; an InputError where the policy has none."""
    options = {
        "num_inference_steps": args.inference_steps,
        "temperature": args.temperature,
        "sampler": args.sampler,
        "action_steps": args.action_steps,
        "guidance_scale": args.guidance_scale,
        "real_time": args.real_time or None,
        "value_model": args.value_model,
        "num_candidates": args.num_candidates,
        "value_goals": args.value_goals,
    }
    options = {name: value for name, value in options.items() if value is not None}
    if args.policy in ("expert", "null") and options:
        flags = {"num_inference_steps": "--inference-steps"}
        given = ", ".join(flags.get(name, "--" + name.replace("_", "-")) for name in options)
        raise InputError(f"--policy {args.policy} takes no {given}: these are for policies that are networks")
    return options


def _numbers(text: str | None) -> list[int] | None:
    try:
        return None if text is None else [int(word) for word in text.split(",")]
    except ValueError:
        raise InputError(f"--variations {text}: give whole numbers with commas, e.g. 0,3,7") from None


def leave_cores_to(workers: int) -> None:
    """Takes no more threads for the network than the simulator processes leave: waiting threads of torch spin, and
    slow down the very simulators they wait for. Does nothing where the user has set OMP_NUM_THREADS."""
    if workers and "OMP_NUM_THREADS" not in os.environ:
        import torch

        torch.set_num_threads(max(1, (os.cpu_count() or 1) - workers))
