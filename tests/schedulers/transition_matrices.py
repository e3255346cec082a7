"""Brute force: the diffusion as transition matrices of small vocabularies, and Bayes' rule on them."""

import torch
from hypothesis import strategies as st

from hf_vpdd.schedulers import MaskAndReplaceScheduler


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def dense(scheduler, t, s, n):
    """q(x_t | x_s) as an (n+1, n+1) matrix [x_t, x_s], a product of single steps by vpdd.md 2.2 and 2.3."""
    alpha_bar, gamma_bar = scheduler.alphas_cumprod, scheduler.gammas_cumprod
    total = torch.eye(n + 1, dtype=torch.float64)
    for i in range(s + 1, t + 1):
        alpha = alpha_bar[i] / alpha_bar[i - 1]
        gamma = 1 - (1 - gamma_bar[i]) / (1 - gamma_bar[i - 1])
        step = torch.zeros(n + 1, n + 1, dtype=torch.float64)
        step[:n, :n] = alpha * torch.eye(n, dtype=torch.float64) + (1 - alpha - gamma) / n
        step[n, :n], step[n, n] = gamma, 1
        total = step @ total
    return total


def dense_posterior(scheduler, x_t, t, s, n):
    """q(x_s | x_t, x_0) for one x_t by Bayes: (n+1, n) [x_s, x_0]; zero where x_t cannot come from x_0."""
    joint = dense(scheduler, t, s, n)[x_t, :, None] * dense(scheduler, s, -1, n)[:, :n]
    return joint / joint.sum(0, keepdim=True).clamp(min=1e-300)


def dense_loss(scheduler, logits, x_0, x_t, t, n):
    """kl, nll, aux per position in float64 from the transition matrices."""
    start = torch.log_softmax(logits.double(), -1).exp()
    terms = [[], [], []]
    for b in range(len(x_0)):
        for i in range(x_0.shape[1]):
            bayes = dense_posterior(scheduler, int(x_t[b, i]), int(t[b]), int(t[b]) - 1, n)
            q, p, x = bayes[:, x_0[b, i]], bayes @ start[b, i], x_0[b, i]
            inside = q > 0
            terms[0].append((q[inside] * (q[inside] / p[inside]).log()).sum())
            terms[1].append(-p[x].log())
            terms[2].append(-start[b, i, x].log())
    return [torch.stack(term).reshape(x_0.shape) for term in terms]


def truncated(probs, mass):
    """One distribution (n,) without the classes that come after `mass` is full, by sorting."""
    order = probs.argsort(descending=True)
    kept = probs.clone()
    kept[order[probs[order].cumsum(0) - probs[order] >= mass]] = 0
    return kept / kept.sum()


masses = st.sampled_from([1e-6, 1e-3, 0.02, 0.3, 0.5])
truncations = st.sampled_from([None, 0.3, 0.6, 0.88, 1.0])


@st.composite
def schedulers(draw):
    """The linear schedule with any replacement mass, or one made of random single steps, whose mass grows."""
    steps, truncation = draw(st.integers(2, 12)), draw(truncations)
    if draw(st.booleans()):
        return MaskAndReplaceScheduler(steps, replace_mass=draw(masses), truncation=truncation)
    u = torch.rand(steps, 2, generator=seeded(draw(st.integers(0, 1000))), dtype=torch.float64) * 0.6 + 0.01
    mask = u[:, 0]
    keep = (1 - mask) * (1 - u[:, 1] * draw(st.sampled_from([1e-3, 0.1, 1.0])))
    return MaskAndReplaceScheduler(
        steps,
        truncation=truncation,
        trained_alphas_cumprod=keep.cumprod(0).tolist(),
        trained_gammas_cumprod=(1 - (1 - mask).cumprod(0)).tolist(),
    )


@st.composite
def cases(draw):
    """(scheduler, t, s, classes, logits (classes + 1, classes) for every x_t)."""
    scheduler = draw(schedulers())
    t = draw(st.integers(0, len(scheduler) - 1))
    s = draw(st.integers(-1, t - 1))
    n = draw(st.integers(2, 6))
    generator = seeded(draw(st.integers(0, 1000)))
    logits = torch.randn(n + 1, n, generator=generator) * draw(st.sampled_from([0.3, 3.0, 12.0]))
    return scheduler, t, s, n, logits
