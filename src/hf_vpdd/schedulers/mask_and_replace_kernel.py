"""The closed forms of mask-and-replace diffusion: one jump, the way back, and the variational bound. No state, no
randomness of their own, nothing but tensors, so `torch.compile(fullgraph=True)` takes them whole."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F


NEVER = -1e30  # a logit that no softmax sees; finite, so that gradients of empty sums are zero and not NaN


class Jump(NamedTuple):
    """Probabilities of one jump s -> t, float64, (B, 1): of the jump itself, and cumulative at s and at t."""

    keep: torch.Tensor
    replace: torch.Tensor  # for each class
    mask: torch.Tensor
    keep_s: torch.Tensor
    replace_s: torch.Tensor
    mask_s: torch.Tensor
    keep_t: torch.Tensor
    replace_t: torch.Tensor
    mask_t: torch.Tensor


def reverse(x_0: torch.Tensor, x_t: torch.Tensor, u: torch.Tensor, j: Jump, num_classes: int) -> torch.Tensor:
    """x_s ~ q(x_s | x_t, x_0), exact for every replacement mass. x_0, x_t int64 (B, L), u float64 (B, L) in [0, 1).

    With i the class at s, the kernel is a sum of three things to do:
        (keep [i = x_t] + replace) (keep_s [i = x_0] + replace_s)
            = keep replace_s [i = x_t]                             stay as we are
            + replace replace_s                                    any class, uniformly
            + (keep [x_0 = x_t] + replace) keep_s [i = x_0]        become x_0
    over the whole, keep_t [x_0 = x_t] + replace_t. A MASK stays MASK with mask_s / mask_t; otherwise it was visible at
    s, as any class or as x_0. Drawing x_0 ~ p(x_0 | x_t) first makes this a draw from p(x_s | x_t).
    """
    masked = x_t == num_classes
    total = torch.where(x_0 == x_t, j.keep_t + j.replace_t, j.replace_t)
    stay = torch.where(masked, j.mask_s / j.mask_t, j.keep * j.replace_s / total)
    anything = torch.where(masked, j.mask / j.mask_t, j.replace / total) * (j.replace_s * num_classes)
    any_class = ((u - stay) / anything * num_classes).long().clamp(0, num_classes - 1)  # the same u, stretched
    return torch.where(u < stay, x_t, torch.where(u < stay + anything, any_class, x_0))


def bound(logits: torch.Tensor, x_0: torch.Tensor, x_t: torch.Tensor, j: Jump):
    """kl, nll, aux per position in closed form. Only sums over classes are (B, L, K), in float32; what the
    classes x_0 and k = x_t contribute is gathered and done in float64 logs, where the tiny mass does not cancel.

    p(i) = (keep [i=k] + replace) W_i / replace_t, W_i = keep_s p_i z_i + replace_s S, S = sum_i p_i z_i; q(i) the
    same with p one-hot at x_0; z_k = replace_t / (keep_t + replace_t), other z_i = 1. MASK: no k, and S = 1.
    """
    num_classes = logits.shape[-1]
    masked = x_t == num_classes
    k = torch.where(masked, x_0, x_t)
    hit = k == x_0  # also at MASK
    gather = lambda index: logits.gather(-1, index.unsqueeze(-1)).squeeze(-1).double()  # noqa: E731
    others = logits.scatter(-1, torch.stack([x_0, k], -1), NEVER)
    rest, at_0, at_k = torch.logsumexp(others, -1).double(), gather(x_0), gather(k)
    rest_k = torch.where(hit, rest, torch.logaddexp(rest, at_0))  # all but k
    norm = torch.logaddexp(rest_k, at_k)
    log_p0, log_pk = at_0 - norm, at_k - norm

    log_zk = torch.log(j.replace_t / (j.keep_t + j.replace_t))
    log_z0 = torch.where(hit & ~masked, log_zk, 0.0)
    log_s = torch.where(masked, 0.0, torch.logaddexp(rest_k - norm, log_pk + log_zk))
    log_keep, log_spread = j.keep_s.log(), j.replace_s.log() + log_s
    log_w0 = torch.logaddexp(log_keep + log_p0 + log_z0, log_spread)
    log_wk = torch.logaddexp(log_keep + log_pk + log_zk, log_spread)
    # sum over the other classes of log(W_i / (replace_s S))
    shift = norm - log_keep + log_spread
    excess = F.softplus(others - shift.float().unsqueeze(-1)).sum(-1).double()

    total = torch.where(hit, j.keep_t + j.replace_t, j.replace_t)  # q(x_t | x_0)
    other = torch.where(masked, j.mask / j.mask_t, j.replace / total)
    at_x0 = torch.where(masked, j.mask / j.mask_t, (j.keep * hit + j.replace) / total)
    at_xt = torch.where(hit, 0.0, (j.keep + j.replace) / j.replace_t)
    n_others = num_classes - 2 + hit.double()
    kl = at_x0 * (j.keep_s + j.replace_s) * (torch.log(j.keep_s + j.replace_s) + log_z0 - log_w0)
    kl = kl + at_xt * j.replace_s * (j.replace_s.log() - log_wk)
    kl = kl + other * j.replace_s * (n_others * (log_z0 - log_s) - excess)
    nll = -(torch.log(at_x0) - log_z0 + log_w0)
    return kl, nll, -log_p0
