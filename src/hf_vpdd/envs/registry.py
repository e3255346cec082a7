"""The simulators that can be evaluated in: what the rest of the package has to know of each, and nothing more.

    simulator = get_simulator("rlbench")
    env = simulator.make("close_jar", cameras=("front",), image_size=128)

An environment is a `gymnasium.Env` as `envs.metaworld` and `envs.rlbench` describe it: dictionaries of `images`,
`state` and `instruction`; `step_chunk`; `info["success"]`, and `info["failure"]` where an episode can fail before its
time. To add a simulator, write its environment and an entry here; everything else asks this entry.
"""

from collections.abc import Sequence
from typing import Any

from ..errors import InputError
from . import rlbench_tasks, tasks
from .perturbations import PERTURBATIONS


class Simulator:
    """What evaluation has to know of a simulator.

    Attributes:
        name: As `--env` knows it.
        title: As reports know it.
        policies: Built-in policies that it has: "expert", "null".
        perturbations: Changes of the scene that it can make.
        rewordings: There are held-out paraphrases of its instructions.
        own_sentences: It says the instruction itself, at the start of an episode.
        replays: The same actions from the same seed are the same episode, so that it can be filmed afterwards.
        shares_process: Several environments can run in one process.
    """

    name: str
    title: str
    policies: tuple[str, ...] = ()
    perturbations: tuple[str, ...] = ()
    rewordings = False
    own_sentences = False
    replays = True
    shares_process = True

    def make(self, task: str, **options: Any):
        """The environment; options: cameras, image_size, max_steps, protocol, perturbation, history_frames,
        history_stride."""
        raise NotImplementedError

    def resolve_tasks(self, words: str | Sequence[str]) -> tuple[str, ...]:
        """Task names from names and groups."""
        raise NotImplementedError

    def sentences(self, task: str, held_out: bool = False) -> tuple[str | None, ...]:
        """The canonical instruction, or the held-out paraphrases; None where the simulator says it itself."""
        return (None,)

    def difficulty(self, task: str) -> str | None:
        """The group in which reports average this task."""
        return None

    def prepare(self) -> None:
        """What the parent does once before its workers start, which inherit its environment variables."""

    def check_policy(self, name: str) -> None:
        """Raises an InputError if `name` is a built-in policy that this simulator lacks."""
        if name in ("expert", "null") and name not in self.policies:
            raise InputError(f"{self.title} has no policy '{name}'; give the folder of a checkpoint")


class MetaWorld(Simulator):
    name, title = "metaworld", "Meta-World"
    policies = ("expert", "null")
    perturbations = tuple(PERTURBATIONS)
    rewordings = True

    def make(self, task, history_frames=1, history_stride=1, **options):
        from .metaworld import MetaWorldEnv

        return MetaWorldEnv(task, **options)  # the caller keeps the history: pictures of steps between are cheap

    def resolve_tasks(self, words):
        return tasks.resolve_tasks(words)

    def sentences(self, task, held_out=False):
        info = tasks.task_info(task)
        return info.heldout_paraphrases if held_out else (info.instruction,)

    def difficulty(self, task):
        return tasks.task_info(task).difficulty

    def prepare(self):
        from .gl import configure_gl

        configure_gl()


class RLBench(Simulator):
    name, title = "rlbench", "RLBench"
    own_sentences = True
    replays = False  # its motion planner draws from a generator of its own
    shares_process = False

    def make(self, task, protocol=None, perturbation=None, **options):
        from .rlbench import RLBenchEnv

        return RLBenchEnv(task, **options)

    def resolve_tasks(self, words):
        return rlbench_tasks.resolve_tasks(words)


SIMULATORS: dict[str, Simulator] = {simulator.name: simulator for simulator in (MetaWorld(), RLBench())}


def get_simulator(name: str) -> Simulator:
    """The entry of a simulator.

    Raises:
        InputError: There is none of this name.
    """
    if name not in SIMULATORS:
        raise InputError(f"there is no simulator '{name}'; there are {', '.join(SIMULATORS)}")
    return SIMULATORS[name]
