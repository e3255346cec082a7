"""Which way a gripper works, and episodes in which it works the other way.

Datasets that were joined from several recordings, or half of which were recorded with another driver, often disagree:
+1 opens here and closes there, or commands are 0/1 here and -1/1 there. A policy trained on both learns neither.
"""

import numpy as np

from .findings import Findings


_AHEAD = 5  # frames until a command shows in the state
_CLEAR = 0.4  # correlation from which on an episode tells a direction


class GripperCheck:
    """Compares, episode by episode, the gripper's command with what the gripper's state does in the next frames.

    The gripper is the dimension whose name contains "gripper" (or "grip", "finger"), else the last one.
    """

    def __init__(self, features: dict, task_of_episode: list[str]):
        self.task_of_episode = task_of_episode
        self.action = gripper_dimension(features.get("action"))
        self.state = gripper_dimension(features.get("observation.state"))
        self.direction: dict[int, float] = {}  # episode -> correlation
        self.range: dict[int, tuple[int, int]] = {}  # episode -> the two commands it mostly gives, -1 or 0 and 1

    def add(self, columns: dict[str, np.ndarray], episode: np.ndarray) -> None:
        if self.action is None or "action" not in columns or not len(episode):
            return
        action = columns["action"].reshape(len(episode), -1)
        if self.action >= action.shape[1]:
            return  # of another shape than promised: reported elsewhere
        action = action[:, self.action]
        state = columns.get("observation.state")
        if state is not None and self.state is not None and np.ndim(state) > 1 and self.state < state.shape[1]:
            state = state[:, self.state]
        else:
            state = None
        edges = np.flatnonzero(np.diff(episode)) + 1
        for first, last in zip([0, *edges.tolist()], [*edges.tolist(), len(episode)]):
            number, command = int(episode[first]), action[first:last].astype(np.float64)
            if not np.isfinite(command).all():
                continue
            for pair in ((-1, 1), (0, 1)):
                if all((np.abs(command - end) < 0.05).mean() > 0.1 for end in pair):
                    self.range[number] = pair
            if state is not None:
                tells = _correlation(command, state[first:last].astype(np.float64))
                if tells is not None:
                    self.direction[number] = tells

    def finish(self, findings: Findings) -> None:
        clear = {episode: value for episode, value in self.direction.items() if abs(value) >= _CLEAR}
        plus = [episode for episode, value in clear.items() if value > 0]
        minus = [episode for episode, value in clear.items() if value < 0]
        fewer, more, sign = (plus, minus, "+") if len(plus) < len(minus) else (minus, plus, "-")
        for episode in fewer:
            findings.add(
                "gripper-polarity",
                f"dimension {self.action} opens the gripper on {sign} here and closes it on {sign} in {len(more)} "
                f"other episodes (correlation of command and movement {clear[episode]:+.2f})",
                episode=episode, key="action",
            )  # fmt: skip
        # Within a task only: a scripted expert may well use half of the range in one task and all of it in another.
        for task in dict.fromkeys(self.task_of_episode[episode] for episode in self.range):
            here = [episode for episode in self.range if self.task_of_episode[episode] == task]
            self._compare_ranges(here, findings)

    def _compare_ranges(self, episodes: list[int], findings: Findings) -> None:
        signed = [episode for episode in episodes if self.range[episode] == (-1, 1)]
        unsigned = [episode for episode in episodes if self.range[episode] == (0, 1)]
        fewer, more = (signed, unsigned) if len(signed) < len(unsigned) else (unsigned, signed)
        for episode in fewer:
            findings.add(
                "gripper-range",
                f"dimension {self.action} takes the values {self.range[episode][0]:g} and {self.range[episode][1]:g} "
                f"here, {self.range[more[0]][0]:g} and {self.range[more[0]][1]:g} in {len(more)} other episodes of "
                "the task",
                episode=episode, key="action",
            )  # fmt: skip


def gripper_dimension(feature: dict | None) -> int | None:
    """Which number of a vector is the gripper; None without a vector of at least 2."""
    shape = (feature or {}).get("shape") or ()
    if feature is None or str(feature.get("dtype")) in ("video", "image", "string") or len(shape) != 1 or shape[0] < 2:
        return None
    names = feature.get("names")
    names = next(iter(names.values()), None) if isinstance(names, dict) else names
    if isinstance(names, list) and len(names) == shape[0]:
        named = [i for i, name in enumerate(names) if any(w in str(name).lower() for w in ("grip", "finger"))]
        return named[-1] if named else None
    return shape[0] - 1


def _correlation(command: np.ndarray, state: np.ndarray) -> float | None:
    """Between commands (T,) and how far open the gripper is some frames later; None where either never changes."""
    if len(command) <= 2 * _AHEAD or not np.isfinite(state).all():
        return None
    ahead = state[_AHEAD:]
    command = command[:-_AHEAD]
    if np.ptp(command) < 1e-6 or np.ptp(ahead) < 1e-6:
        return None
    return float(np.corrcoef(command, ahead)[0, 1])
