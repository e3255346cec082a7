"""Four rooms as pictures: a world in which the true number of steps to every goal is known.

104 free cells; a picture shows the walls and where the agent stands. Clips are walks of near-optimal agents, recorded
without their actions, as video is.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np


MAP = """
#############
#.....#.....#
#.....#.....#
#...........#
#.....#.....#
#.....#.....#
##.####.....#
#.....###.###
#.....#.....#
#.....#.....#
#...........#
#.....#.....#
#############
"""
_MOVES = ((-1, 0), (1, 0), (0, -1), (0, 1))
_WALL, _FLOOR, _AGENT = (48, 48, 72), (0, 0, 0), (255, 255, 208)
_GLOW = 0.7  # standard deviation, cells


@dataclass(frozen=True)
class GridWorld:
    """A maze of N free cells, numbered row by row.

    Args:
        text: `#` is a wall, `.` a free cell; every free cell must be reachable.
    """

    text: str = MAP

    def __post_init__(self):
        if (self.distances < 0).any():
            raise ValueError("every free cell of a grid world must be reachable from every other")

    @cached_property
    def walls(self) -> np.ndarray:
        """bool (H, W)."""
        return np.array([[mark == "#" for mark in line] for line in self.text.split()])

    @cached_property
    def cells(self) -> np.ndarray:
        """(row, column) of every free cell, int64 (N, 2)."""
        return np.argwhere(~self.walls)

    @cached_property
    def after(self) -> np.ndarray:
        """The cell after each of four moves, int64 (N, 4); the same one where a wall is in the way."""
        number = np.full(self.walls.shape, -1)
        number[tuple(self.cells.T)] = np.arange(len(self.cells))
        ahead = number[tuple((self.cells[:, None] + np.array(_MOVES)).transpose(2, 0, 1))]
        return np.where(ahead < 0, np.arange(len(self.cells))[:, None], ahead)

    @cached_property
    def distances(self) -> np.ndarray:
        """Steps between all pairs, int64 (N, N); -1 where there is no way."""
        count = len(self.cells)
        steps = np.where(np.eye(count, dtype=bool), 0, -1)
        for step in range(count):
            front = (steps == step).astype(np.int64)
            reached = np.zeros_like(steps)
            for move in range(len(_MOVES)):  # columns: where the front of each start comes to
                np.add.at(reached.T, self.after[:, move], front.T)
            steps = np.where((steps < 0) & (reached > 0), step + 1, steps)
        return steps

    def pictures(self, scale: int = 2) -> np.ndarray:
        """What is seen from every cell, uint8 (N, H * scale, W * scale, 3): walls, and a lamp where the agent stands,
        whose glow reaches its neighbours, so that pictures of near places overlap as those of a robot do."""
        scene = np.where(self.walls[..., None], _WALL, _FLOOR).repeat(scale, 0).repeat(scale, 1)
        places = np.stack(np.indices(scene.shape[:2]), -1) + 0.5  # centres of the pixels
        centres = (self.cells + 0.5) * scale
        squares = np.square(places - centres[:, None, None]).sum(-1)
        glow = np.exp(-squares / (2 * (_GLOW * scale) ** 2))[..., None]
        return np.round(scene * (1 - glow) + np.array(_AGENT) * glow).astype(np.uint8)

    def clips(self, count: int, random_share: float, generator: np.random.Generator) -> list[np.ndarray]:
        """Walks from a random cell to another, which take a shortest way but for a share of random moves.

        Returns:
            `count` arrays int64 (T,) of cells, T >= 2. They end at their goals.
        """
        clips = []
        for start, goal in zip(*self._ends(count, generator)):
            walk = [start]
            while walk[-1] != goal:
                ahead = self.after[walk[-1]]
                if generator.random() >= random_share:
                    ahead = ahead[self.distances[ahead, goal] < self.distances[walk[-1], goal]]
                walk.append(generator.choice(ahead))
            clips.append(np.array(walk))
        return clips

    def _ends(self, count: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        start = generator.integers(len(self.cells), size=count)
        return start, (start + 1 + generator.integers(len(self.cells) - 1, size=count)) % len(self.cells)

    def spearman(self, values: np.ndarray) -> float:
        """Rank correlation of the values toward a goal and minus the true steps to it, mean over goals.

        Args:
            values: (N, N), row s, column g.
        """
        from ..evaluation.value_order import spearman

        return float(np.mean([spearman(values[:, goal], -self.distances[:, goal]) for goal in range(len(values))]))

    def greedy_steps(self, values: np.ndarray) -> float:
        """How often the move to the neighbour of the highest value comes nearer to the goal, over all pairs of a state
        and another goal; among equally high neighbours one is chosen at random (its expectation counts). (N, N).
        """
        ahead = values[self.after]  # (N, 4, G)
        standing = self.after == np.arange(len(self.after))[:, None]
        ahead = np.where(standing[..., None], -np.inf, ahead)
        best = ahead == ahead.max(1, keepdims=True)
        nearer = self.distances[self.after] < self.distances[:, None]
        shares = (best & nearer).sum(1) / best.sum(1)
        return float(shares[~np.eye(len(values), dtype=bool)].mean())
