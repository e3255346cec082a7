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


class ClassSums(torch.autograd.Function):
    """All that the bound needs of the logits (B, L, K): with k and x_0 two of the classes, `hit` where they are one,

        rest = log sum exp(l_i), over the classes i other than x_0 and k
        excess = sum log(1 + exp(l_i - shift)), over the same
        shift = offset + log(exp(rest) + [not hit] exp(l_{x_0}) + exp(l_k + log_z))

    -> rest, l_{x_0}, l_k, excess, float32 (B, L). Nothing as large as the logits is kept for the way back, where their
    gradient is written once: two tensors of that size at the peak, where autograd's own way takes five.
    """

    @staticmethod
    def forward(ctx, logits, x_0, k, hit, offset, log_z):
        others, (at_0, at_k) = ClassSums.others(logits, x_0, k)
        top = others.amax(-1)
        rest = torch.log((others - top.unsqueeze(-1)).exp_().sum(-1)) + top
        whole = ClassSums.whole(rest, at_0, at_k, hit, log_z)
        shift = (offset + whole).float()
        excess = F.softplus(others.sub_(shift.unsqueeze(-1))).sum(-1)
        ctx.save_for_backward(logits, x_0, k, hit, log_z, rest, at_0, at_k, whole, shift)
        return rest, at_0, at_k, excess

    @staticmethod
    def backward(ctx, d_rest, d_0, d_k, d_excess):
        logits, x_0, k, hit, log_z, rest, at_0, at_k, whole, shift = ctx.saved_tensors
        others, _ = ClassSums.others(logits, x_0, k)
        over = (others - shift.unsqueeze(-1)).sigmoid_()
        d_shift = -d_excess * over.sum(-1)
        d_rest = d_rest + d_shift * torch.exp(rest - whole)
        d_0 = d_0 + torch.where(hit, 0.0, d_shift * torch.exp(at_0 - whole))
        d_k = d_k + d_shift * torch.exp(at_k + log_z - whole)
        gradient = others.sub_(rest.unsqueeze(-1)).exp_().mul_(d_rest.float().unsqueeze(-1))
        gradient.addcmul_(over, d_excess.float().unsqueeze(-1))
        pair = torch.stack([x_0, k], -1)
        gradient.scatter_(-1, pair, 0.0).scatter_add_(-1, pair, torch.stack([d_0, d_k], -1).float())
        return gradient.to(logits.dtype), None, None, None, None, None

    @staticmethod
    def others(logits, x_0, k):
        """The logits in float32 with x_0 and k struck out, and those two."""
        pair = torch.stack([x_0, k], -1)
        return logits.float().scatter(-1, pair, NEVER), logits.gather(-1, pair).float().unbind(-1)

    @staticmethod
    def whole(rest, at_0, at_k, hit, log_z):
        """log sum p_i z_i, but for the normaliser of p; float64 (B, L)."""
        rest_k = torch.where(hit, rest, torch.logaddexp(rest, at_0)).double()
        return torch.logaddexp(rest_k, at_k.double() + log_z)


def bound(logits: torch.Tensor, x_0: torch.Tensor, x_t: torch.Tensor, j: Jump):
    """kl, nll, aux per position in closed form. Only sums over classes see (B, L, K), in float32 (`ClassSums`; its
    `excess` is the sum over the other classes of log(W_i / (replace_s S))); what the classes x_0 and k = x_t
    contribute is gathered and done in float64 logs, where the tiny mass does not cancel.

    p(i) = (keep [i=k] + replace) W_i / replace_t, W_i = keep_s p_i z_i + replace_s S, S = sum_i p_i z_i; q(i) the
    same with p one-hot at x_0; z_k = replace_t / (keep_t + replace_t), other z_i = 1. MASK: no k, and S = 1.
    """
    num_classes = logits.shape[-1]
    masked = x_t == num_classes
    k = torch.where(masked, x_0, x_t)
    hit = k == x_0  # also at MASK
    log_zk = torch.log(j.replace_t / (j.keep_t + j.replace_t))
    log_z0 = torch.where(hit & ~masked, log_zk, 0.0)
    offset = (j.replace_s.log() - j.keep_s.log()).expand(x_0.shape)  # shift: where W_i is half spread
    sums = ClassSums.apply(logits, x_0, k, hit, offset, torch.where(masked, 0.0, log_zk))
    rest, at_0, at_k, excess = (x.double() for x in sums)
    rest_k = torch.where(hit, rest, torch.logaddexp(rest, at_0))  # all but k
    norm = torch.logaddexp(rest_k, at_k)
    log_p0, log_pk = at_0 - norm, at_k - norm

    log_s = torch.where(masked, 0.0, torch.logaddexp(rest_k - norm, log_pk + log_zk))
    log_keep, log_spread = j.keep_s.log(), j.replace_s.log() + log_s
    log_w0 = torch.logaddexp(log_keep + log_p0 + log_z0, log_spread)
    log_wk = torch.logaddexp(log_keep + log_pk + log_zk, log_spread)
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
