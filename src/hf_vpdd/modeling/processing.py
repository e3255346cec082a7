"""What the processors of all families share: checks of what a robot sends, and the scaling of its numbers.

Functions, not a base class: diffusers and transformers look for `ProcessorMixin` among the direct bases.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from ..errors import InputError


# A state this many standard deviations out says nothing more than "far out"; without the limit a dimension that hardly
# moved in the demonstrations could put huge numbers into the network.
STATE_LIMIT = 10.0
_QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}


# ---- what comes in ----------------------------------------------------------------------------------------------


def to_float(values, name: str, check: bool = True) -> torch.Tensor:
    """Numbers -> float32 tensor; NaN and infinity are an error (CPU only: a GPU would have to wait)."""
    try:
        tensor = torch.as_tensor(np.asarray(values) if isinstance(values, (list, tuple)) else values).float()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name}: expected numbers, got {values!r}.") from error
    if check and tensor.device.type == "cpu" and not bool(torch.isfinite(tensor).all()):
        where = tuple(int(i) for i in (~torch.isfinite(tensor)).nonzero()[0])
        raise InputError(f"{name}: value at index {where} is {float(tensor[where])}; it must be a finite number.")
    return tensor


def check_size(values: torch.Tensor, name: str, size: int) -> None:
    """Raises an `InputError` unless the last dimension of `values` is `size`."""
    if values.shape[-1] != size:
        raise InputError(f"{name}: the last dimension must be {size}, got shape {tuple(values.shape)}.")


def check_tokenizer(tokenizer) -> None:
    """Raises an `InputError` where a tokenizer cannot pad."""
    if tokenizer.pad_token_id is None:
        raise InputError("tokenizer: it has no pad token, and instructions are padded to one length. Set pad_token.")


def check_controller_fields(processor, at_least_one: Sequence[str]) -> None:
    """Raises an `InputError` for cameras that are not distinct, a field below 1, or an `execute` beyond the chunk."""
    if not processor.cameras or len(set(processor.cameras)) != len(processor.cameras):
        raise InputError(f"cameras: expected distinct camera names, got {processor.cameras}.")
    for name in at_least_one:
        if getattr(processor, name) < 1:
            raise InputError(f"{name}: must be at least 1, got {getattr(processor, name)}.")
    if processor.execute is not None and not 1 <= processor.execute <= processor.chunk_size:
        raise InputError(f"execute: must lie in 1..chunk_size={processor.chunk_size}, got {processor.execute}.")


def as_cameras(images, cameras: Sequence[str]) -> Mapping:
    """Bare frames of the only camera -> {camera: frames}; anything else as it came."""
    return images if isinstance(images, Mapping) or len(cameras) > 1 else {cameras[0]: images}


def check_cameras(images, cameras: Sequence[str], where: str) -> Mapping:
    """{camera: frames} with exactly the model's `cameras`, or an `InputError` that names the one that is wrong."""
    images = as_cameras(images, cameras)
    if not isinstance(images, Mapping):
        raise InputError(f"{where}: expected a dictionary with the cameras {cameras}, got {type(images).__name__}.")
    missing = [camera for camera in cameras if camera not in images]
    if missing:
        raise InputError(
            f"{where}: camera {missing[0]!r} is missing; given: {sorted(map(str, images))}, "
            f"the model was trained with {cameras}."
        )
    unknown = [camera for camera in images if camera not in cameras]
    if unknown:
        raise InputError(f"{where}: unknown camera {unknown[0]!r}; the model was trained with {cameras}.")
    return images


def check_observations(observations: Sequence[Mapping], state_dim: int | None) -> None:
    """Raises an `InputError` that names the first observation without images, instruction or (if read) state."""
    for i, obs in enumerate(observations):
        if not isinstance(obs, Mapping) or "images" not in obs or "instruction" not in obs:
            has = sorted(obs) if isinstance(obs, Mapping) else type(obs).__name__
            raise InputError(
                f"observation {i}: expected a dictionary with 'images', 'instruction' and 'state', got {has}."
            )
        if state_dim and obs.get("state") is None:
            raise InputError(f"observation {i}: 'state' is missing; this model takes {state_dim} numbers.")
    if not observations:
        raise InputError("observations: the list is empty.")


def stack_states(states: Sequence, state_dim: int) -> torch.Tensor:
    """One state of each observation -> float32 (B, Ds)."""
    rows = [to_float(state, f"state of observation {i}") for i, state in enumerate(states)]
    for i, row in enumerate(rows):
        if row.shape != (state_dim,):
            raise InputError(f"state of observation {i}: expected {state_dim} numbers, got shape {tuple(row.shape)}.")
    return torch.stack(rows)


def tokenize_sentences(tokenizer, sentences: Sequence[str], max_length: int, return_tensors: str = "pt") -> dict:
    """Sentences -> {"input_ids", "attention_mask"}, int64 (B, max_length)."""
    for i, sentence in enumerate(sentences):
        if not isinstance(sentence, str) or not sentence.strip():
            raise InputError(
                f"instruction {i}: expected a sentence, got {sentence!r}. Say what the robot is to do, "
                "e.g. 'press the button'."
            )
    tokens = tokenizer(
        list(sentences), padding="max_length", truncation=True, max_length=max_length, return_tensors=return_tensors
    )
    return {"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"]}


# ---- statistics and scaling -------------------------------------------------------------------------------------


def statistic_rows(values, name: str) -> np.ndarray:
    """Numbers to take statistics of -> float64 (N, D)."""
    rows = np.asarray(values, dtype=np.float64)
    if rows.ndim != 2 or 0 in rows.shape or not np.isfinite(rows).all():
        raise InputError(f"{name}: expected finite numbers (N, D) to take statistics of, got {rows.shape}.")
    return rows


def row_statistics(rows: np.ndarray) -> dict[str, np.ndarray]:
    """Of rows (N, D): mean, std (of the population), min, max, quantiles q01 to q99, each (D,), and count (1,), by
    LeRobot's definitions: what is saved with a processor beside what it scales by."""
    quantiles = np.quantile(rows, list(_QUANTILES.values()), axis=0)
    return {
        "mean": rows.mean(axis=0), "std": rows.std(axis=0), "min": rows.min(axis=0), "max": rows.max(axis=0),
        **dict(zip(_QUANTILES, quantiles)), "count": np.array([len(rows)]),
    }  # fmt: skip


def plain_lists(stats: Mapping | None, name: str, required: Sequence[str]) -> dict | None:
    """Arrays -> lists of floats (JSON), with the required keys there and equally long."""
    if stats is None:
        return None
    plain = {key: np.asarray(value, dtype=np.float64).reshape(-1).tolist() for key, value in dict(stats).items()}
    for key in required:
        if key not in plain:
            raise InputError(f"{name}: {key!r} is missing; there are {sorted(plain)}.")
        if len(plain[key]) != len(plain[required[0]]) or not np.isfinite(plain[key]).all():
            raise InputError(f"{name}[{key!r}]: expected {len(plain[required[0]])} finite numbers, got {plain[key]}.")
    return plain


def standardize(state: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """(..., D) -> zero mean and unit deviation, limited to +-`STATE_LIMIT`; a dimension that never moved gives 0."""
    return ((state - mean) / torch.where(std < 1e-6, 1.0, std)).clamp_(-STATE_LIMIT, STATE_LIMIT)


def check_range(actions: torch.Tensor, low: torch.Tensor, high: torch.Tensor, first: int = 0) -> None:
    """Raises an `InputError` that names the dimension (counted from `first`) that leaves [low, high]."""
    slack = 1e-4 * (high - low) + 1e-9
    legal = (actions >= low - slack) & (actions <= high + slack)
    if not bool(legal.all()):
        dim = int((~legal).nonzero()[0][-1])
        low, high = low.expand(actions.shape[-1]), high.expand(actions.shape[-1])
        raise InputError(
            f"actions: dimension {first + dim} leaves the range [{float(low[dim]):g}, {float(high[dim]):g}] of the "
            "processor's action_stats. Clip the action, or take statistics of data that covers it."
        )


def scale_to_unit(actions: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """[low, high] -> [-1, 1], linear; a dimension without extent gives 0."""
    return torch.where(high > low, 2 * (actions - low) / (high - low).clamp_min(1e-9) - 1, 0.0)


def scale_from_unit(actions: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """Cut to [-1, 1], which becomes [low, high]."""
    return low + (actions.clamp(-1, 1) + 1) / 2 * (high - low)
