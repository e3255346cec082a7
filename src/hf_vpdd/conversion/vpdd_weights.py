"""Official VPDD tensors into the networks of this package: nothing missing, nothing unknown, codes and codebook of one
training (spec vpdd.md §10)."""

import torch

from ..errors import InputError
from ..modeling.vqvae.modeling_vqvae import VPDDVQVAE
from .torch_files import check_finite
from .vpdd_files import OfficialFile
from .vpdd_names import NOT_IN_CHECKPOINT, Renaming, convert_tensors, matches, rename_vqvae
from .vpdd_sizes import HEAD, TOKENIZER


# Two copies of a tensor count as one up to this part of its largest entry. The policy's moving average with decay 0.995
# rounds at every step; each rounding is forgotten at that rate, so about 200 of them (1e-5) can add up.
_SAME = 1e-4


def fitting_tensors(cls, config, file: OfficialFile, renaming: Renaming) -> dict[str, torch.Tensor]:
    """All tensors of `file` under our names, float32, after nothing was found missing, unknown or misshapen."""
    try:
        with torch.device("meta"):
            network = cls(config)
    except ValueError as error:
        raise InputError(f"{file.path}: the shapes contradict each other: {error}") from error
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    ours = {target: name for name, target in renaming.kept.items()}
    problems = []
    if renaming.unknown:
        problems.append(_listed("unknown", renaming.unknown))
    missing = [name for name in expected if name not in ours and not matches(NOT_IN_CHECKPOINT, name)]
    if missing:
        problems.append(_listed("missing (by the name they would get here)", missing))
    surplus = [theirs for target, theirs in ours.items() if target not in expected]
    if surplus:
        problems.append(_listed("of no use to this network", surplus))
    if not renaming.unknown:
        converted = convert_tensors(file.state, renaming)
        wrong = [
            f"{ours[name]} {tuple(tensor.shape)} instead of {expected[name]}"
            for name, tensor in converted.items()
            if name in ours and name in expected and tuple(tensor.shape) != expected[name]
        ]
        if wrong:
            problems.append(_listed("of the wrong shape", wrong))
    if problems:
        raise InputError(
            f"{file.path} is not a complete official checkpoint of {cls.__name__}: {'; '.join(problems)}."
        )
    check_finite(file.state, renaming.kept, file.path)
    return {n: t.float() if t.is_floating_point() else t for n, t in converted.items()}


def _listed(what: str, names: list[str]) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return f"{len(names)} {what}: {', '.join(names[:4])}{more}"


def load(cls, config, tensors: dict[str, torch.Tensor]):
    """The network with exactly these weights, in eval mode."""
    from ..training.stages.common import quiet_transformers

    with quiet_transformers():
        model, info = cls.from_pretrained(None, config=config, state_dict=tensors, output_loading_info=True)
    left = [*info["missing_keys"], *info["unexpected_keys"], *info["mismatched_keys"]]
    if left:  # the checks above make this impossible; random weights must never pass
        raise RuntimeError(f"weights did not arrive: {left[:4]}")
    return model.eval()


def tokenizer_of(tokenizer_file: OfficialFile, file: OfficialFile, config) -> dict[str, torch.Tensor]:
    """A tokenizer file's tensors by a policy's names.

    Raises:
        InputError: They are not those of the tokenizer that the policy was trained with.
    """
    inside = {name.removeprefix(TOKENIZER): t for name, t in file.state.items() if name.startswith(TOKENIZER)}
    difference = _largest_difference(tokenizer_file.state, inside)
    if difference is not None:
        name, size = difference
        what = "codebook" if name.startswith("codebook.") else "network"
        raise InputError(
            f"{tokenizer_file.path} is not the tokenizer that {file.path} was trained with: its {what} differs "
            f"({name} by {size:.3g}). Every code would mean another picture. The authors trained one tokenizer for "
            "Meta-World and one for RLBench; find the right one, or leave --vqvae out: the policy file holds its own."
        )
    tensors = fitting_tensors(VPDDVQVAE, config.vqvae_config, tokenizer_file, rename_vqvae(tokenizer_file.state))
    return {f"model.vqvae.{name}": tensor for name, tensor in tensors.items()}


def check_second_copy(file: OfficialFile) -> None:
    """The action head carries the tokenizer once more, and RLBench's released head reads that copy."""
    first, second = (
        {name.removeprefix(prefix): t for name, t in file.state.items() if name.startswith(prefix)}
        for prefix in (TOKENIZER, HEAD + "vqvae.")
    )
    difference = _largest_difference(second, first)
    if difference is not None:
        raise InputError(
            f"{file.path}: the two copies of the tokenizer in this file differ ({difference[0]} by "
            f"{difference[1]:.3g}); trunk and action head would not mean the same by a code."
        )


def _largest_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> tuple[str, float] | None:
    """(name, size) of what differs most between tensors of the same names, beyond rounding; what only training uses is
    not compared."""
    worst = None
    for name in one.keys() & other.keys():
        if name.endswith(("num_batches_tracked", "codebook.N", "codebook.z_avg")):
            continue
        a, b = one[name], other[name]
        if a.shape != b.shape:
            return name, float("inf")
        gap = float((a.float() - b.float()).abs().max()) if a.numel() else 0.0
        if not gap <= _SAME * float(b.abs().max()) and (worst is None or gap > worst[1]):
            worst = name, gap
    return worst


def fingerprint(vqvae) -> str:
    """The same that training keeps beside cached codes: codes of another tokenizer are refused by it."""
    from ..training.stages.common import weights_fingerprint

    return weights_fingerprint(vqvae)
