"""What success looks like: the last frames of demonstrations, by instruction. Goals for values that read no words."""

from collections.abc import Iterable

import numpy as np

from ..errors import InputError
from .lerobot import LeRobotDataset


def goal_frames(
    dataset, camera: str, per_instruction: int = 8, instructions: Iterable[str] | None = None
) -> dict[str, np.ndarray]:
    """The last frame of up to `per_instruction` demonstrations of each instruction, spread over the dataset.

    Args:
        dataset: A `LeRobotDataset`, or a folder or Hub id of one. camera: Its name there.
        instructions: Only these; all of the dataset if not given.

    Returns:
        {instruction: uint8 (G, H, W, 3)}.

    Raises:
        InputError: No such dataset or camera, or an instruction without a demonstration.
    """
    if per_instruction < 1:
        raise InputError(f"per_instruction: must be at least 1, got {per_instruction}")
    dataset = dataset if isinstance(dataset, LeRobotDataset) else LeRobotDataset(dataset)
    episodes: dict[str, list[int]] = {}
    for episode, sentence in enumerate(dataset.episodes.task):
        episodes.setdefault(sentence, []).append(episode)
    wanted = list(episodes) if instructions is None else list(dict.fromkeys(instructions))
    found = {}
    for sentence in wanted:
        if sentence not in episodes:
            raise InputError(
                f"{dataset.root} has no demonstration of {sentence!r}, whose last frame could be the goal; it has "
                f"{sorted(episodes)[:5]}{' ...' if len(episodes) > 5 else ''}"
            )
        of_it = episodes[sentence]
        some = [of_it[i] for i in np.unique(np.linspace(0, len(of_it) - 1, per_instruction).round().astype(int))]
        lengths = [int(dataset.episodes.length[episode]) for episode in some]
        found[sentence] = np.concatenate([
            dataset.frames(camera, episode, length - 1, 1) for episode, length in zip(some, lengths)
        ])  # fmt: skip
    return found
