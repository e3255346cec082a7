"""R3M's time-contrastive loss (arXiv 2203.12601; spec vptr.md §5), its part without language."""

import torch

from ...modeling.vptr.value_heads import distance
from .vip import norms


def tcn_loss(
    first: torch.Tensor, middle: torch.Tensor, last: torch.Tensor, others: torch.Tensor, penalty: float = 1e-5
) -> torch.Tensor:
    """Frames nearer in time are nearer in the embedding, and nearer than frames of other clips; scalar.

    Cross-entropies over similarities -||a - b||: (s2, s1) against (s2, s0) and s2 of other clips; (s1, s0) against
    (s2, s0) and (s0, s0 of other clips); their mean.

    Args:
        first, middle, last: embeddings (B, d) of s0 < s1 <= s2 of one clip. others: int64 (B, K), for every row K rows
            of other clips. penalty: weight of the mean L1 and L2 norms of the embeddings.
    """
    ends, late, early = -distance(last, first), -distance(last, middle), -distance(middle, first)
    late_negatives = -distance(last[:, None], last[others])
    early_negatives = -distance(first[:, None], first[others])
    first_term = torch.logsumexp(torch.cat((late[:, None], ends[:, None], late_negatives), 1), 1) - late
    second_term = torch.logsumexp(torch.cat((early[:, None], ends[:, None], early_negatives), 1), 1) - early
    loss = (first_term + second_term).mean() / 2
    return loss + penalty * norms(torch.cat((first, middle, last)))
