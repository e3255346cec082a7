"""Turning continuous robot actions into bin numbers and back, one table per action dimension.

A robot's actions are not spread evenly: expert policies saturate (much of the mass at exactly -1 and +1) and
grippers use a handful of values. Equal-mass bins alone (VPDD §4.3) blur both. So `fit_action_bins` gives a bin of its
own to each value that holds much of the mass (an *atom*, decoded exactly), to the smallest and to the largest value,
and shares the other bins among the other values, equal mass to each, decoded as their mean. A value is encoded as the
bin whose decoded value is nearest, so `encode(decode(i)) == i`.
"""

from collections.abc import Sequence

import numpy as np
import torch

from ...errors import InputError


# Two values closer than this part of the range are the same value: float32 noise must not split an atom.
_SAME_VALUE = 1e-6
# How far outside of the bins' range a value may lie, in parts of the range, before it is called an error.
_RANGE_SLACK = 1e-4


def fit_action_bins(actions, num_bins: int, low=None, high=None, atoms: bool = True) -> list[dict]:
    """The bins of every action dimension, fitted to `actions`.

    Args:
        actions: (N, A) actions of the demonstrations in robot units, finite.
        num_bins: The most bins a dimension may have, at least 2. Dimensions with fewer distinct values get fewer bins.
        low, high: The range of legal actions, per dimension or one number; values outside of it cannot be encoded.
            Default: the smallest and largest value in `actions`.
        atoms: As above. False: the decoded values are quantiles alone (values that did occur), equal mass between
            neighbours; better where values hardly repeat and there are few of them for so many bins.

    Returns:
        One dictionary per dimension: `decode` (n,) ascending values, `edges` (n-1,) the borders between neighbouring
        bins, `low` and `high`; plain floats, made for JSON.

    Raises:
        InputError: Wrong shape, no rows, NaN, or values outside of the given range.
    """
    actions = np.asarray(actions, dtype=np.float64)
    if actions.ndim != 2 or 0 in actions.shape:
        raise InputError(f"actions: expected a non-empty array (N, action_dim) to fit bins to, got {actions.shape}.")
    if not np.isfinite(actions).all():
        row = int(np.flatnonzero(~np.isfinite(actions).all(axis=1))[0])
        raise InputError(f"actions: row {row} is not finite ({actions[row]}). Remove or repair that step.")
    if num_bins < 2:
        raise InputError(f"num_bins: at least 2 are needed, got {num_bins}.")
    width = actions.shape[1]
    lows = actions.min(axis=0) if low is None else np.broadcast_to(np.asarray(low, dtype=np.float64), (width,))
    highs = actions.max(axis=0) if high is None else np.broadcast_to(np.asarray(high, dtype=np.float64), (width,))
    bins = []
    for dim in range(width):
        values = actions[:, dim]
        slack = _RANGE_SLACK * max(highs[dim] - lows[dim], 1e-6)
        if values.min() < lows[dim] - slack or values.max() > highs[dim] + slack:
            raise InputError(
                f"actions: dimension {dim} spans [{values.min():g}, {values.max():g}], outside of the declared range "
                f"[{lows[dim]:g}, {highs[dim]:g}]. Clip the actions, or declare the robot's real range."
            )
        decode = _fit_one(values, num_bins, atoms)
        edges = (decode[1:] + decode[:-1]) / 2
        bins.append(
            {
                # float32 first: that is what is decoded, and what the edges have to separate
                "decode": decode.astype(np.float32).astype(float).tolist(),
                "edges": edges.astype(np.float32).astype(float).tolist(),
                "low": float(lows[dim]),
                "high": float(highs[dim]),
            }
        )
    return bins


def _fit_one(values: np.ndarray, num_bins: int, atoms: bool = True) -> np.ndarray:
    """Ascending decode values, at most `num_bins` and farther apart than float32 noise, of one dimension (N,)."""
    values = np.sort(values)
    smallest, largest = values[0], values[-1]
    grain = max(_SAME_VALUE * (largest - smallest), 1e-12)
    _, group, count = np.unique(np.round((values - smallest) / grain), return_inverse=True, return_counts=True)
    centre = np.bincount(group, weights=values) / count
    centre[0], centre[-1] = smallest, largest
    if len(count) <= num_bins:
        return _spread(centre, np.ones(len(centre), dtype=bool), grain)
    if not atoms:
        quantiles = np.quantile(values, np.linspace(0, 1, num_bins), method="nearest")
        return _spread(quantiles, np.ones(num_bins, dtype=bool), grain)

    # Atoms: much of the mass, and the two extremes, heaviest first, but one bin is left to everything else.
    weight = count.astype(np.float64)
    weight[0] = weight[-1] = np.inf
    heavy = np.flatnonzero(weight >= len(values) / (2 * num_bins))
    atomic = np.sort(heavy[np.argsort(-weight[heavy], kind="stable")][: max(num_bins - 1, 2)])
    if len(atomic) >= num_bins:  # num_bins == 2: only the extremes fit
        return centre[atomic]
    is_atom = np.zeros(len(count), dtype=bool)
    is_atom[atomic] = True
    rest = values[~is_atom[group]]
    parts = np.array_split(rest, min(num_bins - len(atomic), len(rest)))
    means = np.array([part.mean() for part in parts])
    decode = np.concatenate([centre[atomic], means])
    exact = np.concatenate([np.ones(len(atomic), dtype=bool), np.zeros(len(means), dtype=bool)])
    order = np.lexsort((~exact, decode))
    return _spread(decode[order], exact[order], grain)


def _spread(decode: np.ndarray, exact: np.ndarray, grain: float) -> np.ndarray:
    """Drops values that coincide with a neighbour (within float32 noise); exact ones stay."""
    keep: list[int] = []
    for i in range(len(decode)):
        if keep and decode[i] - decode[keep[-1]] <= grain:
            if exact[i] and not exact[keep[-1]]:
                keep[-1] = i
            continue
        keep.append(i)
    return decode[keep]


class ActionBins:
    """Vectorised encode and decode with fitted bins: one `searchsorted` for all dimensions, no loop.

    Args:
        bins: What `fit_action_bins` returns (without `edges`: midpoints; without `low`/`high`: first and last value).
            A dimension with a `period` (an angle: 360) goes round: every finite value is legal, and the last bin's
            other neighbour is the first.
        num_bins: Width of the vocabulary. Dimension d uses ids 0 .. valid_bins[d]-1; higher ids are never encoded, and
            decode to the dimension's largest value.

    Attributes:
        valid_bins: (A,) int64, number of used ids per dimension.
        valid_mask: (A, num_bins) bool, True where an id is used: add -inf to the other logits.
    """

    def __init__(self, bins: Sequence[dict], num_bins: int):
        if not bins:
            raise InputError("action_bins: the list of dimensions is empty. Fit bins on demonstrations with actions.")
        self.num_bins = num_bins
        self.valid_bins = torch.tensor([len(b["decode"]) for b in bins])
        if int(self.valid_bins.max()) > num_bins or int(self.valid_bins.min()) < 1:
            raise InputError(
                f"action_bins: dimensions have {self.valid_bins.tolist()} bins; each must have 1 to {num_bins}."
            )
        self.valid_mask = torch.arange(num_bins)[None] < self.valid_bins[:, None]
        decode = torch.empty(len(bins), num_bins)
        edges = torch.full((len(bins), max(num_bins - 1, 1)), float("inf"))  # +inf: ids that are never reached
        for dim, entry in enumerate(bins):
            values = torch.tensor(entry["decode"], dtype=torch.float32)
            borders = entry.get("edges")
            borders = (values[1:] + values[:-1]) / 2 if borders is None else torch.tensor(borders, dtype=torch.float32)
            inside = len(borders) == len(values) - 1
            # Equal is allowed: VPDD's quantile thresholds coincide where many actions do, and such bins of no width
            # keep their ids although nothing is ever encoded as one of them.
            inside = inside and bool((borders >= values[:-1]).all()) and bool((borders <= values[1:]).all())
            inside = inside and bool((borders[1:] >= borders[:-1]).all())
            if not inside:
                raise InputError(
                    f"action_bins[{dim}]: 'edges' must be {len(values) - 1} numbers that separate the ascending "
                    "'decode' values. The processor_config.json is damaged; fit the bins again."
                )
            decode[dim] = values[-1]
            decode[dim, : len(values)] = values
            edges[dim, : len(borders)] = borders
        self._decode, self._edges = decode, edges
        low = torch.tensor([float(b.get("low", b["decode"][0])) for b in bins])
        high = torch.tensor([float(b.get("high", b["decode"][-1])) for b in bins])
        self.low, self.high = low, high
        slack = _RANGE_SLACK * (high - low).clamp_min(1e-6)
        # Where a dimension goes round, from which value on; infinite periods are never reached.
        period = torch.tensor([float(b.get("period") or float("inf")) for b in bins])
        last = torch.tensor([float(b["decode"][-1]) for b in bins])
        self._goes_round = bool(period.isfinite().any())
        if bool((last - decode[:, 0] >= period).any()):
            raise InputError("action_bins: the 'decode' values of a dimension must lie within one 'period'.")
        start = torch.where(period.isfinite(), (decode[:, 0] + last - period) / 2, 0.0)
        limit = torch.where(period.isfinite(), 1e6, 0.0)  # to tell a finite value from an infinite one
        self._bounds = (low - slack - limit, high + slack + limit)
        self._circle = (start, period)
        self._on_device: dict = {}

    @property
    def action_dim(self) -> int:
        return len(self.valid_bins)

    def _tables(self, device: torch.device):
        if device not in self._on_device:
            tables = (self._decode, self._edges, *self._bounds, *self._circle)
            self._on_device[device] = tuple(t.to(device) for t in tables)
        return self._on_device[device]

    def encode(self, actions: torch.Tensor, check: bool = True) -> torch.Tensor:
        """Float (..., A) in robot units -> int64 (..., A) bin numbers.

        Args:
            check: Raise on NaN and on values outside of the bins' range. False: no such test (and, on a GPU, no wait
                for its answer); values outside take the first or last bin.

        Raises:
            InputError: The last dimension is not A, or a value is NaN or outside of the range.
        """
        if actions.shape[-1] != self.action_dim:
            raise InputError(
                f"actions: the last dimension must be {self.action_dim}, got shape {tuple(actions.shape)}."
            )
        flat = actions.reshape(-1, self.action_dim).float()
        _, edges, low, high, start, period = self._tables(flat.device)
        if check:
            legal = (flat >= low) & (flat <= high)  # NaN compares false
            if not bool(legal.all()):
                row, dim = (int(i) for i in (~legal).nonzero()[0])
                raise InputError(
                    f"actions: value {float(flat[row, dim]):g} in dimension {dim} (row {row} of {len(flat)}) is "
                    f"outside of the bins' range [{float(self.low[dim]):g}, {float(self.high[dim]):g}]. Clip the "
                    "action, or fit the processor's bins on data that covers it."
                )
        if self._goes_round:
            flat = torch.where(period.isfinite(), start + torch.remainder(flat - start, period), flat)
        # right=True counts the edges <= value: a value on a border takes the upper bin
        ids = torch.searchsorted(edges, flat.T.contiguous(), right=True)
        last = (self.valid_bins.to(flat.device) - 1)[:, None]
        return torch.minimum(ids, last).T.reshape(actions.shape).contiguous()

    def decode(self, ids: torch.Tensor) -> torch.Tensor:
        """int64 (..., A) bin numbers in 0..num_bins-1 -> float32 (..., A) in robot units.

        Raises:
            InputError: The last dimension is not A, or (looked at on the CPU only) an id outside of 0..num_bins-1.
        """
        if ids.shape[-1] != self.action_dim or ids.is_floating_point():
            raise InputError(
                f"action ids: expected integers of shape (..., {self.action_dim}), got {ids.dtype} {tuple(ids.shape)}."
            )
        if ids.device.type == "cpu" and ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < self.num_bins:
            raise InputError(
                f"action ids: {int(ids.min())}..{int(ids.max())} outside of 0..{self.num_bins - 1}. Is a mask id left?"
            )
        table = self._tables(ids.device)[0]
        return table[torch.arange(self.action_dim, device=ids.device), ids]
