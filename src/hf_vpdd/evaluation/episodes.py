"""The explicit list of episodes that an evaluation runs, and the protocols it may run them under.

An episode is (task, seed, instruction, perturbation) and nothing else: the seed alone fixes where everything starts,
so the same list means the same episodes in any process, in any order, with any number of workers.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..envs.perturbations import PERTURBATIONS as SCENES
from ..envs.protocols import FIRST_EVALUATION_SEED
from ..envs.tasks import resolve_tasks, task_info
from ..errors import InputError


PERTURBATIONS = (*SCENES, "paraphrase")  # those of the scene, and other words for the same task


@dataclass(frozen=True)
class Protocol:
    """What a protocol of `envs.metaworld` is called in tables and reports, and its users' habits.

    Attributes:
        name: As `MetaWorldEnv` knows it.
        label: What reports say of results under it.
        tasks: Which ones, if none are asked for.
        seed: First seed, if none is asked for.
        episodes: Episodes per task, if no number is asked for.
    """

    name: str
    label: str
    tasks: str
    seed: int
    episodes: int


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
}


@dataclass(frozen=True)
class Episode:
    """One start of one task.

    Attributes:
        task: Meta-World id, e.g. "drawer-close-v3".
        seed: Fixes start and goal.
        instruction: The sentence given to the policy.
        perturbation: What differs from the training scene: one of `PERTURBATIONS`, or None.
    """

    task: str
    seed: int
    instruction: str
    perturbation: str | None = None

    @property
    def key(self) -> tuple[str, int, str, str | None]:
        """What makes it this episode; two episodes with one key are the same experiment."""
        return self.task, self.seed, self.instruction, self.perturbation

    @property
    def scene(self) -> str | None:
        """The perturbation as the simulator sees it: another wording changes nothing there."""
        return None if self.perturbation == "paraphrase" else self.perturbation

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def make_episodes(
    tasks: str | Sequence[str],
    episodes: int,
    first_seed: int = FIRST_EVALUATION_SEED,
    perturbation: str | None = None,
    paraphrase: bool = False,
) -> list[Episode]:
    """`episodes` starts of every task, with the seeds `first_seed`, `first_seed` + 1, …, grouped by task.

    Args:
        tasks: Task ids and groups (mt10, quickstart, all, easy, …), as `envs.tasks.resolve_tasks` reads them.
        episodes: Starts per task, at least 1.
        first_seed: Seeds from 100000 on are never recorded from, so nothing was trained on them.
        perturbation: One of `PERTURBATIONS`; "paraphrase" is the same as `paraphrase=True`.
        paraphrase: Say the instruction in words that training never used, another wording from episode to episode.

    Raises:
        InputError: An unknown task or perturbation, or fewer than one episode.
    """
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
    plan = []
    for task in map(task_info, resolve_tasks(tasks)):
        wordings = task.heldout_paraphrases if perturbation == "paraphrase" else (task.instruction,)
        for index in range(episodes):
            sentence = wordings[index % len(wordings)]
            plan.append(Episode(task.name, first_seed + index, sentence, perturbation))
    return plan
