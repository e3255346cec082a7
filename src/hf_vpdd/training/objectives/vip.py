"""VIP's loss (arXiv 2210.00030; spec vptr.md §5): the value of a goal is minus the distance to it in an embedding."""

import math

import torch

from ...modeling.vptr.value_heads import distance


def vip_loss(
    initial: torch.Tensor,
    goal: torch.Tensor,
    state: torch.Tensor,
    following: torch.Tensor,
    others: torch.Tensor,
    discount: float = 0.98,
    penalty: float = 1e-3,
    eps: float = 1e-8,
) -> torch.Tensor:
    """The dual of goal-conditioned RL with reward -1, scalar.

    L = (1 - g) mean D(o0, og) + log(eps + mean exp(1 + D(o', og) g - D(o, og))) + the same over shuffled (o, o'),
    with D = ||e(a) - e(b)|| = -S(a, b), and penalties on the mean L1 and L2 norms of all embeddings.

    Args:
        initial, goal, state, following: embeddings (B, d) of o0, og, o, o'.
        others: int64 (B, K), for every row K rows whose (o, o') stand before its goal as negatives.
    """

    def error(now: torch.Tensor, ahead: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        # -(r + g S(o', og) - S(o, og)) with r = -1
        return 1 + discount * distance(ahead, target) - distance(now, target)

    def log_mean_exp(errors: torch.Tensor) -> torch.Tensor:
        # log(eps + mean exp x), without overflow
        total = torch.logsumexp(errors.flatten(), 0) - math.log(errors.numel())
        return torch.logaddexp(total, total.new_tensor(math.log(eps)))

    attraction = (1 - discount) * distance(initial, goal).mean()
    repulsion = log_mean_exp(error(state, following, goal))
    repulsion = repulsion + log_mean_exp(error(state[others], following[others], goal[:, None]))
    return attraction + repulsion + penalty * norms(torch.cat((initial, goal, state, following)))


def norms(embeddings: torch.Tensor) -> torch.Tensor:
    """Mean L1 plus mean L2 norm of embeddings (N, d)."""
    return embeddings.norm(p=1, dim=-1).mean() + embeddings.norm(dim=-1).mean()


def other_rows(batch: int, count: int, generator: torch.Generator | None, device: torch.device) -> torch.Tensor:
    """For each of `batch` rows `count` different other rows at random, int64 (batch, count); fewer if there are."""
    count = min(count, batch - 1)
    source = device if generator is None else generator.device
    order = torch.randperm(batch, generator=generator, device=source).to(device)
    place = torch.empty_like(order).scatter_(0, order, torch.arange(batch, device=device))
    steps = torch.arange(1, count + 1, device=device)
    return order[(place[:, None] + steps) % batch]
