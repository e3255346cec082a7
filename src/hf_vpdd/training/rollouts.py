"""Rollouts of the policy in training: what its weights do in the simulator, without disturbing the training.

The weights that would be saved are written to a folder and loaded again as a policy of its own; it plays with
generators of its own and is thrown away. Nothing that training reads is touched, so the weights are bit for bit those
of a run without rollouts.
"""

import random
import shutil
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from ..errors import InputError
from .train_arguments import TrainArguments


# Beyond the seeds that `hf-vpdd eval` starts from: the best checkpoint must not be chosen by the episodes of the test.
FIRST_SEED = 600_000


class Rollouts:
    """The episodes that a run plays every `rollout_every` steps.

    Args:
        args: The options `rollout_*`.
        sentences: Instructions of the training data, for the default of `rollout_tasks`.
        output_dir: Results and films go to its folder `rollouts/<step>`.

    Raises:
        InputError: an unknown protocol or task, no task of the simulator in the data, no simulator installed.
    """

    def __init__(self, args: TrainArguments, sentences: Sequence[str], output_dir: Path):
        from ..evaluation import make_episodes

        self.args, self.output_dir = args, Path(output_dir)
        simulator = check_rollouts(args)
        tasks = args.rollout_tasks
        if tasks is None:
            names = simulator.resolve_tasks("all")
            tasks = [name for name in names if set(simulator.sentences(name)) & set(sentences)]
            if not tasks:
                raise InputError(
                    f"train.rollout_tasks: no instruction of the training data is one of {simulator.title}'s; name "
                    "the tasks to play"
                )
        self.episodes = make_episodes(tasks, args.rollout_episodes, FIRST_SEED, env=simulator.name)

    def play(
        self, save: Callable[[Path], None], device: torch.device, step: int, progress: bool
    ) -> tuple[dict[str, float], list[Path]]:
        """Save the policy, load it, let it act.

        Args:
            save: Given a folder, writes the policy into it.

        Returns:
            (`rollout/success` with its 95 % Wilson interval, the mean over tasks, and the rate of every task; films)
        """
        from ..evaluation import evaluate
        from ..policy import RobotPolicy
        from .stages.common import quiet_transformers

        args, folder = self.args, self.output_dir / "rollouts" / f"{step:06d}"
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed, or started again
        weights = folder / ".policy"
        with untouched_random_state():
            try:
                save(weights)
                with quiet_transformers():
                    policy = RobotPolicy.from_pretrained(weights, device=device, dtype=torch.float32, seed=args.seed)
            finally:
                shutil.rmtree(weights, ignore_errors=True)
            found = evaluate(
                policy, self.episodes, folder, name=f"step {step}", protocol=args.rollout_protocol,
                workers=args.rollout_workers, envs=min(16, len(self.episodes)), max_steps=args.rollout_max_steps,
                seed=args.seed, videos=args.rollout_videos, progress=progress,
            )  # fmt: skip
        overall = found.overall
        values = {
            "rollout/success": overall.rate, "rollout/success_low": overall.low, "rollout/success_high": overall.high,
            "rollout/episodes": float(overall.episodes), "rollout/mean_over_tasks": found.mean,
            **{f"rollout/{one.name}": one.rate for one in found.scores},
        }  # fmt: skip
        return values, [video.path for video in found.videos]

    def summary(self, values: dict[str, float]) -> str:
        low, rate, high = (100 * values[f"rollout/success{end}"] for end in ("_low", "", "_high"))
        return f"rollouts: {rate:.0f} % success (95 %: {low:.0f} to {high:.0f}) in {len(self.episodes)} episodes"


def check_rollouts(args: TrainArguments):
    """The simulator of the protocol; an InputError if the options name what is not there."""
    from ..evaluation.episodes import PROTOCOLS

    if args.rollout_protocol not in PROTOCOLS:
        raise InputError(
            f"train.rollout_protocol must be one of {', '.join(PROTOCOLS)}; got {args.rollout_protocol!r}"
        )
    simulator = PROTOCOLS[args.rollout_protocol].simulator
    if simulator.name == "metaworld" and find_spec("metaworld") is None:
        raise InputError("train.rollout_every needs Meta-World: pip install 'hf-vpdd[metaworld]'")
    if args.rollout_tasks is not None:
        simulator.resolve_tasks(args.rollout_tasks)
    return simulator


class untouched_random_state:
    """Inside, the global generators may be used; afterwards they are where they were."""

    def __enter__(self):
        self.torch = torch.random.fork_rng()
        self.torch.__enter__()
        self.numpy, self.python = np.random.get_state(), random.getstate()

    def __exit__(self, *error):
        np.random.set_state(self.numpy)
        random.setstate(self.python)
        self.torch.__exit__(*error)
