"""`hf-vpdd demo`: the checkpoint that ships with the package, at work on real physics.

Runs every task it was trained for from starts it has never seen, prints the table, and writes a page with a video per
task in which the imagined future runs beside what really happened.
"""

import argparse
import os
import time
from pathlib import Path

from ..errors import InputError


SUMMARY = "See the shipped policy work: its tasks from unseen starts, a table, and a page with videos."

DEFAULT_TASKS = "mt10"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from ..registration import DEFAULT_CHECKPOINT

    parser.add_argument("--policy", default=str(DEFAULT_CHECKPOINT), help="folder of a checkpoint, or expert")
    parser.add_argument("--tasks", default=DEFAULT_TASKS, help="as in `hf-vpdd eval`")
    parser.add_argument("--episodes", type=int, default=3, help="per task")
    parser.add_argument("--seed", type=int, default=100000, help="of the first start; recordings use smaller ones")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="simulator processes; 0: within this one"
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/demo"), help="folder of the page; replaced")


def run(args: argparse.Namespace) -> int:
    from ..envs.gl import configure_gl
    from ..evaluation.episodes import make_episodes
    from ..evaluation.policies import load_policy
    from ..evaluation.runner import evaluate
    from ..evaluation.tables import evaluation_report, summary_text
    from .eval import leave_cores_to

    began = time.monotonic()
    episodes = make_episodes(args.tasks, args.episodes, args.seed)
    configure_gl()
    name = Path(args.policy).name
    print(f"loading {name} …", flush=True)
    leave_cores_to(args.workers)
    policy = load_policy(args.policy)
    tasks = len({episode.task for episode in episodes})
    print(f"{tasks} tasks, {args.episodes} unseen starts each (seeds {args.seed} to {args.seed + args.episodes - 1}):")
    clear(args.out)
    evaluation = evaluate(
        policy, episodes, args.out, name=name, checkpoint=args.policy, workers=args.workers, videos=1
    )
    print(f"\n{summary_text(evaluation)}")

    report = evaluation_report(
        evaluation,
        "What a robot learned from watching",
        f"{name} on {tasks} tasks of Meta-World, from starts it has never seen. It reads an instruction and a "
        "picture, imagines what the camera will show a moment later, and acts to make it so. A few starts of each "
        "task say little: the card of the checkpoint has its success on 100.",
    )
    report.add_section("What to do next")
    steps = [
        ("measure it properly", f"hf-vpdd eval --policy {args.policy} --tasks mt10 --episodes 100 --out outputs/eval"),
        ("train one from nothing, in about ten minutes", "hf-vpdd quickstart"),
        ("record demonstrations of other tasks", "hf-vpdd record --tasks door-lock --episodes 25 --out outputs/door"),
        ("use it in Python", 'from transformers import pipeline; import hf_vpdd; policy = pipeline("robot-policy")'),
    ]
    report.add_code("\n".join(f"{command:<84}  # {what}" for what, command in steps))
    page = report.save(args.out / "report.html")
    print(f"\nIn {time.monotonic() - began:.0f} s. Open {page} to watch it.\n\nWhat to do next:")
    for what, command in steps:
        print(f"  {what}:\n      {command}")
    return 0


def clear(folder: Path) -> None:
    """Removes an earlier demo from its folder, and nothing else.

    Raises:
        InputError: The folder holds something that no demo wrote.
    """
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not (folder / "run.json").is_file():
        raise InputError(f"{folder} is not empty and holds no earlier demo; give another --out")
    for file in [*(folder / "videos").glob("*.mp4"), *(folder / "videos" / ".films").glob("*.npz")]:
        file.unlink()
    for name in ("episodes.jsonl", "summary.json", "report.html", "run.json"):  # the marker last
        (folder / name).unlink(missing_ok=True)
