"""The explicit list of episodes that an evaluation runs, and the protocols it may run them under.

An episode is (task, seed, instruction, perturbation, variation) and nothing else: the seed alone fixes where
everything starts, so the same list means the same episodes in any process, in any order, with any number of workers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..envs.perturbations import PERTURBATIONS as SCENES
from ..envs.protocols import FIRST_EVALUATION_SEED
from ..envs.registry import Simulator, get_simulator
from ..errors import InputError


PERTURBATIONS = (*SCENES, "paraphrase")  # those of the scene, and other words for the same task


@dataclass(frozen=True)
class Protocol:
    """How a simulator is used: what that is called in tables and reports, and its users' habits.

    Attributes:
        name: As the environment knows it.
        label: What reports say of results under it.
        tasks: Which ones, if none are asked for.
        seed: First seed, if none is asked for.
        episodes: Episodes per task, if no number is asked for.
        env: The simulator that it is a protocol of; see `envs.registry`.
    """

    name: str
    label: str
    tasks: str
    seed: int
    episodes: int
    env: str = "metaworld"

    @property
    def simulator(self) -> Simulator:
        return get_simulator(self.env)


PROTOCOLS = {
    "lean": Protocol(
        "lean",
        "lean renderer (no shadows, anti-aliasing or reflections), VPDD's crop of corner2, 200 steps",
        tasks="mt10",
        seed=FIRST_EVALUATION_SEED,
        episodes=20,
    ),
    "vpdd": Protocol(
        "vpdd",
        "VPDD's protocol on Meta-World v3: stock rendering, 480 px corner2 cropped to 260 px, 200 steps",
        tasks="all",
        seed=FIRST_EVALUATION_SEED,
        episodes=50,
    ),
    "lerobot-mt50": Protocol(
        "lerobot-mt50",
        "LeRobot's Meta-World: stock rendering, moved corner2 at 480 px, 500 steps, seeds from 1000",
        tasks="all",
        seed=1000,
        episodes=50,
    ),
    "rlbench": Protocol(
        "rlbench",
        "RLBench: keyframes by motion planning, at most 25, 128 px; scenes and variations drawn by the seed (PerAct's "
        "published test scenes are others)",
        tasks="vpdd17",
        seed=FIRST_EVALUATION_SEED,
        episodes=25,
        env="rlbench",
    ),
}


def default_protocol(env: str) -> str:
    """The name of a simulator's first protocol."""
    get_simulator(env)  # an unknown name is an error
    return next(name for name, protocol in PROTOCOLS.items() if protocol.env == env)


@dataclass(frozen=True)
class Episode:
    """One start of one task.

    Attributes:
        task: The simulator's name of it, e.g. "drawer-close-v3".
        seed: Fixes start and goal.
        instruction: The sentence given to the policy; None: the simulator's own.
        perturbation: What differs from the training scene: one of `PERTURBATIONS`, or None.
        variation: Which of the task's variations (RLBench); None: the seed says.
    """

    task: str
    seed: int
    instruction: str | None
    perturbation: str | None = None
    variation: int | None = None

    @property
    def key(self) -> tuple[str, int, str | None, str | None, int | None]:
        """What makes it this episode; two episodes with one key are the same experiment."""
        return self.task, self.seed, self.instruction, self.perturbation, self.variation

    @property
    def scene(self) -> str | None:
        """The perturbation as the simulator sees it: another wording changes nothing there."""
        return None if self.perturbation == "paraphrase" else self.perturbation

    def to_dict(self) -> dict[str, Any]:
        """As JSON; without a variation that nobody chose."""
        return {name: value for name, value in asdict(self).items() if name != "variation" or value is not None}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Episode":
        """Reads what `to_dict` wrote; other keys are ignored."""
        return cls(
            values["task"], values["seed"], values["instruction"], values["perturbation"], values.get("variation")
        )


def make_episodes(
    tasks: str | Sequence[str],
    episodes: int,
    first_seed: int = FIRST_EVALUATION_SEED,
    perturbation: str | None = None,
    paraphrase: bool = False,
    env: str = "metaworld",
    variations: Sequence[int] | None = None,
) -> list[Episode]:
    """`episodes` starts of every task, with the seeds `first_seed`, `first_seed` + 1, …, grouped by task.

    Args:
        tasks: Names of tasks and groups of the simulator (mt10, quickstart, all, easy, …; peract18, vpdd17).
        episodes: Starts per task, at least 1.
        first_seed: Seeds from 100000 on are never recorded from, so nothing was trained on them.
        perturbation: One of `PERTURBATIONS`; "paraphrase" is the same as `paraphrase=True`.
        paraphrase: Say the instruction in words that training never used, another wording from episode to episode.
        env: The simulator, see `envs.registry`.
        variations: Variations of each task, in turn from episode to episode; the seeds choose them if not given.

    Raises:
        InputError: An unknown task or perturbation, one that the simulator lacks, or fewer than one episode.
    """
    simulator = get_simulator(env)
    if perturbation in ("none", ""):
        perturbation = None
    if perturbation is not None and perturbation not in PERTURBATIONS:
        raise InputError(f"unknown perturbation {perturbation!r}; there are none, {', '.join(PERTURBATIONS)}")
    if episodes < 1:
        raise InputError(f"episodes must be at least 1 per task; got {episodes}")
    if first_seed < 0:
        raise InputError(f"the first seed must not be negative; got {first_seed}")
    if paraphrase and perturbation not in (None, "paraphrase"):
        raise InputError(f"one perturbation at a time: got {perturbation!r} and paraphrased instructions")
    if paraphrase:
        perturbation = "paraphrase"
    if perturbation not in (None, *simulator.perturbations, *(("paraphrase",) if simulator.rewordings else ())):
        raise InputError(f"{simulator.title} has no perturbation {perturbation!r}")
    if variations is not None and (not simulator.own_sentences or not variations or min(variations) < 0):
        raise InputError(f"variations {variations}: whole numbers from 0, at least one, of a task of RLBench")
    plan = []
    for task in simulator.resolve_tasks(tasks):
        wordings = simulator.sentences(task, held_out=perturbation == "paraphrase")
        for index in range(episodes):
            sentence = wordings[index % len(wordings)]
            variation = None if variations is None else variations[index % len(variations)]
            plan.append(Episode(task, first_seed + index, sentence, perturbation, variation))
    return plan
