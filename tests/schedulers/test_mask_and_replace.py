"""The diffusion against the official implementation's numbers and against brute-force transition matrices."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from hf_vpdd.errors import InputError
from hf_vpdd.schedulers import MaskAndReplaceScheduler
from hf_vpdd.schedulers.categorical import draw, truncate, uniform
from hf_vpdd.schedulers.mask_and_replace_kernel import reverse


GOLDENS = np.load(Path(__file__).parents[1] / "fixtures" / "vpdd_diffusion_small.npz")
FEW = settings(max_examples=15, deadline=None)


def golden(name):
    return torch.from_numpy(GOLDENS[name])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# ---- the official numbers ------------------------------------------------------------------------------------------


def test_schedule_is_the_official_one():
    scheduler = MaskAndReplaceScheduler()
    for mine, name, tolerance in (("alphas", "alpha_bar", 1e-12), ("gammas", "gamma_bar", 1e-9)):
        ours, theirs = getattr(scheduler, f"{mine}_cumprod"), golden(f"schedule/{name}")
        assert ours.dtype == torch.float64
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=0)
        torch.testing.assert_close(ours[50:], theirs[50:], rtol=1e-12, atol=0)
    t = torch.arange(100)
    jump = scheduler.jump(t, t - 1, 1)
    torch.testing.assert_close(jump.keep[:, 0], golden("schedule/alpha"), rtol=1e-12, atol=0)
    torch.testing.assert_close(jump.mask[:, 0], golden("schedule/gamma"), rtol=1e-9, atol=0)
    for suffix, num_classes in (("obs", 2048), ("act48", 48), ("act360", 360)):
        jump = scheduler.jump(t, t - 1, num_classes)
        # the official betas are differences of numbers near one and carry that rounding; ours are not
        torch.testing.assert_close(jump.replace[:, 0], golden(f"schedule/beta_{suffix}"), rtol=1e-7, atol=0)
        if suffix != "act360":  # the goldens' cumulative array of that name holds the one of 2048 classes
            theirs = golden(f"schedule/beta_bar_{suffix}")[:-1]
            torch.testing.assert_close(jump.replace_t[:, 0], theirs, rtol=1e-9, atol=0)


@pytest.mark.parametrize("variant, actions", [("finetune_meta", 48), ("finetune_rlbench", 360)])
def test_buffers_of_the_official_checkpoints(variant, actions):
    t = torch.arange(100)
    video, action = (MaskAndReplaceScheduler().jump(t, t - 1, n) for n in (2048, actions))
    for name, mine in {
        "at": video.keep,
        "bt_obs": video.replace,
        "bt_act": action.replace,
        "ct": video.mask,
        "1_min_ct": 1 - video.mask,
        "cumprod_at": video.keep_t,
        "cumprod_bt_obs": video.replace_t,
        "cumprod_bt_act": action.replace_t,
        "cumprod_ct": video.mask_t,
        "1_min_cumprod_ct": 1 - video.mask_t,
    }.items():
        theirs = golden(f"fixed/{variant}/log_{name}")[:100]
        torch.testing.assert_close(mine[:, 0].log().float(), theirs, rtol=0, atol=1e-5)


def small(name):
    """Split a token array of the goldens' small case into (video 0..5, MASK 6) and (action 0..3, MASK 4)."""
    tokens = golden(f"small/{name}")
    video = tokens[:, :12]
    return torch.where(video == 10, 6, video), tokens[:, 12:] - 6


VIDEO, ACTION = (slice(0, 12), [0, 1, 2, 3, 4, 5, 10]), (slice(12, 28), [6, 7, 8, 9, 10])


def own(name, modality):
    """(B, classes, L) of the goldens -> (B, L, own classes and MASK)."""
    positions, classes = modality
    return golden(f"small/{name}")[:, classes][:, :, positions].transpose(1, 2)


def test_small_case_losses_and_importance_history():
    scheduler = MaskAndReplaceScheduler()
    t, p = golden("small/timesteps"), golden("small/p_t")
    parts = []
    for i, (logits, n) in enumerate((("video_logits", 6), ("action_logits", 4))):
        parts.append(scheduler.loss(golden(f"small/{logits}"), small("x_0")[i], small("x_t")[i], t, n, p))
    for name in ("kl", "nll", "aux"):
        mine = torch.cat([getattr(part, name) for part in parts], 1)
        # the official visible tokens see the other modality's classes at t=99: 1e-4 of the value
        torch.testing.assert_close(mine.float(), golden(f"small/{name}_per_position"), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(mine.sum(1).float(), golden(f"small/{name}"), rtol=1e-4, atol=1e-6)
    total = parts[0].per_sample + parts[1].per_sample
    torch.testing.assert_close(total, golden("small/per_sample_total"), rtol=1e-4, atol=0)
    loss = (parts[0].loss * 12 + parts[1].loss * 16) / 28
    torch.testing.assert_close(loss, golden("small/loss"), rtol=1e-4, atol=0)
    scheduler.update_importance(t, parts[0].variational + parts[1].variational)
    torch.testing.assert_close(scheduler.Lt_history[t].float(), golden("small/Lt_history_at_t"), rtol=1e-4, atol=0)
    torch.testing.assert_close(scheduler.Lt_count[t].float(), golden("small/Lt_count_at_t"))


@pytest.mark.parametrize("which", [0, 1])
def test_small_case_posteriors_truncation_and_sampler(which):
    scheduler = MaskAndReplaceScheduler()
    modality, n = ((VIDEO, 6), (ACTION, 4))[which]
    logits = golden(("small/video_logits", "small/action_logits")[which])
    x_0, x_t, t = small("x_0")[which], small("x_t")[which], golden("small/timesteps")
    for name, given_ in (("log_p_posterior", {"logits": logits}), ("log_q_posterior", {"x_0": x_0})):
        theirs = own(name, modality)
        seen = theirs > -30
        mine = scheduler.posterior(x_t, t, n, **given_)
        torch.testing.assert_close(mine[seen], theirs[seen], rtol=0, atol=1e-3)
        torch.testing.assert_close(mine.exp().sum(-1), torch.ones(x_t.shape), rtol=0, atol=1e-5)
    start = scheduler.predict_start(logits)
    assert torch.equal(start > 0, own("truncated_log_p_x0", modality)[..., :-1] > -69)
    drawn_from = scheduler.posterior(x_t, t, n, logits=start.log()).exp().double()
    variation = (drawn_from - own("sampler_prob", modality)).abs().sum(-1) / 2
    assert variation.max() < 1e-4


def test_full_vocabulary_posterior_and_loss():
    scheduler, t = MaskAndReplaceScheduler(), golden("finetune/timesteps")
    video = golden("finetune/is_video")
    for name, n, at, offset in (("video", 2048, video, 0), ("action", 48, ~video, 2048)):
        logits = golden(f"finetune/{name}_log_p_x0").transpose(1, 2)
        x_0, x_t = (golden(f"finetune/{x}").long()[:, at] for x in ("x_0", "x_t"))
        x_0, x_t = x_0 - offset, torch.where(x_t == 2096, n, x_t - offset)
        loss = scheduler.loss(logits, x_0, x_t, t, n)
        for term in ("kl", "nll", "aux"):
            torch.testing.assert_close(
                getattr(loss, term).float(), golden(f"finetune/{term}")[:, at], rtol=0, atol=1e-5
            )
        theirs = golden(f"finetune/{name}_log_p_posterior").transpose(1, 2)
        mine = scheduler.posterior(x_t, t, n, logits=logits)
        torch.testing.assert_close(mine[theirs > -30], theirs[theirs > -30], rtol=0, atol=1e-3)


def test_marginals_of_both_vocabularies():
    scheduler, t = MaskAndReplaceScheduler(), golden("q_marginal/timesteps")
    theirs = golden("q_marginal/log_prob")
    for n, lowest in ((2048, 0), (48, 2048)):
        jump = scheduler.jump(t, t * 0 - 1, n)
        for c, k in enumerate(golden("q_marginal/classes").tolist()):
            for i, x in enumerate(golden("q_marginal/x_0").tolist()):
                if lowest <= x < lowest + n and (k == 2096 or lowest <= k < lowest + n):
                    mine = jump.mask_t if k == 2096 else jump.keep_t * (k == x) + jump.replace_t
                    torch.testing.assert_close(mine[:, 0].log().float(), theirs[:, c, i], rtol=0, atol=1e-3)


# ---- brute force ---------------------------------------------------------------------------------------------------


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


masses = st.sampled_from([1e-6, 1e-3, 0.02, 0.3, 0.5])


@st.composite
def cases(draw_):
    steps = draw_(st.integers(2, 12))
    t = draw_(st.integers(0, steps - 1))
    s = draw_(st.integers(-1, t - 1))
    n = draw_(st.integers(2, 6))
    scheduler = MaskAndReplaceScheduler(
        steps, replace_mass=draw_(masses), truncation=draw_(st.sampled_from([None, 0.6]))
    )
    generator = seeded(draw_(st.integers(0, 1000)))
    logits = torch.randn(n + 1, n, generator=generator) * draw_(st.sampled_from([0.3, 3.0, 12.0]))
    return scheduler, t, s, n, logits


@FEW
@given(cases())
def test_jump_equals_the_product_of_single_steps(case):
    scheduler, t, s, n, _ = case
    jump = scheduler.jump(t, s, n)
    whole = torch.zeros(n + 1, n + 1, dtype=torch.float64)
    whole[:n, :n] = jump.keep * torch.eye(n) + jump.replace
    whole[n, :n], whole[n, n] = jump.mask, 1
    torch.testing.assert_close(whole, dense(scheduler, t, s, n), rtol=1e-9, atol=1e-14)
    assert (whole >= 0).all() and torch.allclose(whole.sum(0), torch.ones(n + 1, dtype=torch.float64))
    mass = 1 - scheduler.alphas_cumprod[:-1] - scheduler.gammas_cumprod[:-1]
    assert (mass - scheduler.config.replace_mass).abs().max() < 1e-12


@FEW
@given(cases())
def test_posteriors_equal_bayes(case):
    scheduler, t, s, n, logits = case
    x_t = torch.arange(n + 1)[None]  # every visible class, and MASK
    mine = scheduler.posterior(x_t, t, n, logits=logits[None], prev_timestep=s)[0].exp()
    start = torch.softmax(logits.double(), -1)
    for k in range(n + 1):
        bayes = dense_posterior(scheduler, k, t, s, n)
        torch.testing.assert_close(mine[k].double(), bayes @ start[k], rtol=1e-4, atol=1e-6)
        for x_0 in range(n):
            q = scheduler.posterior(torch.tensor([[k]]), t, n, x_0=torch.tensor([[x_0]]), prev_timestep=s)
            torch.testing.assert_close(q[0, 0].exp().double(), bayes[:, x_0], rtol=1e-4, atol=1e-6)


@FEW
@given(cases())
def test_reverse_kernel_equals_bayes(case):
    """The distribution over the uniform draw, integrated on a grid, so nothing here is random."""
    scheduler, t, s, n, _ = case
    grid = 4000
    u = (torch.arange(grid, dtype=torch.float64)[None] + 0.5) / grid
    for k in range(n + 1):
        bayes = dense_posterior(scheduler, k, t, s, n)
        for x_0 in range(n):
            ones = torch.ones(1, grid, dtype=torch.int64)
            x_s = reverse(ones * x_0, ones * k, u, scheduler.jump(t, s, n), n)
            frequency = torch.bincount(x_s[0], minlength=n + 1) / grid
            torch.testing.assert_close(frequency.double(), bayes[:, x_0], rtol=0, atol=3 / grid)


@pytest.mark.parametrize(
    "mass, truncation, t, s", [(1e-6, 0.88, 9, 8), (0.3, None, 7, 2), (0.3, 0.6, 4, -1), (0.02, 0.6, 9, 3)]
)
def test_step_draws_from_the_posterior(mass, truncation, t, s):
    scheduler, n, many = MaskAndReplaceScheduler(10, replace_mass=mass, truncation=truncation), 5, 40_000
    logits = torch.randn(n + 1, n, generator=seeded(1))
    x_t = torch.arange(n + 1)[:, None].expand(-1, many)
    out = scheduler.step(
        logits[:, None].expand(-1, many, -1), t, x_t, n, temperature=0.7, generator=seeded(2), prev_timestep=s
    )
    start = torch.softmax(logits.double() / 0.7, -1)
    for k in range(n + 1):
        kept = start[k].clone()
        if truncation is not None:
            order = start[k].argsort(descending=True)
            kept[order[start[k][order].cumsum(0) - start[k][order] >= truncation]] = 0
        kept /= kept.sum()
        expected = dense_posterior(scheduler, k, t, s, n) @ kept
        frequency = torch.bincount(out.prev_sample[k], minlength=n + 1) / many
        assert (frequency - expected).abs().max() < 4 * (0.25 / many) ** 0.5
        assert torch.equal(out.pred_original_sample[k].unique(), kept.nonzero()[:, 0])


@pytest.mark.parametrize("mass", [0.0, 1e-6, 0.3])
def test_add_noise_has_the_marginals(mass):
    scheduler, n, many = MaskAndReplaceScheduler(10, replace_mass=mass), 4, 40_000
    for t in (-1, 0, 5, 9):
        x_t = scheduler.add_noise(torch.full((1, many), 2), torch.tensor([t]), n, generator=seeded(t + 1))
        frequency = torch.bincount(x_t[0], minlength=n + 1) / many
        assert (frequency - dense(scheduler, t, -1, n)[:, 2]).abs().max() < 4 * (0.25 / many) ** 0.5
    assert torch.equal(scheduler.add_noise(x_t.clamp(max=3), torch.tensor([-1]), n), x_t.clamp(max=3))


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


@FEW
@given(cases())
def test_loss_equals_the_dense_one_and_so_do_gradients(case):
    scheduler, t, _, n, logits = case
    x_t, x_0 = torch.meshgrid(torch.arange(n + 1), torch.arange(n), indexing="ij")  # all pairs
    t = torch.full((n + 1,), t)
    logits = (logits[:, None] * torch.linspace(0.2, 1, n)[None, :, None]).contiguous().requires_grad_()
    loss = scheduler.loss(logits, x_0, x_t, t, n)
    reference = dense_loss(scheduler, logits, x_0, x_t, t, n)
    for mine, theirs in zip((loss.kl, loss.nll, loss.aux), reference):
        torch.testing.assert_close(mine, theirs, rtol=2e-5, atol=2e-6)
    (mine,) = torch.autograd.grad(loss.kl.sum(), logits)
    (theirs,) = torch.autograd.grad(reference[0].sum(), logits)
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mass", [0.0, 1e-6, 0.3])
def test_kl_vanishes_when_the_prediction_is_right(mass):
    scheduler, n = MaskAndReplaceScheduler(replace_mass=mass), 50
    t = torch.tensor([0, 1, 37, 98, 99])
    x_0 = torch.randint(0, n, (5, 300), generator=seeded())
    x_t = scheduler.add_noise(x_0, t, n, generator=seeded())
    x_t[:, :5] = (x_0[:, :5] + 1) % n  # replaced for certain
    logits = torch.full((5, 300, n), -1e4).scatter(-1, x_0[..., None], 0.0).requires_grad_()
    loss = scheduler.loss(logits, x_0, x_t, t, n)
    assert loss.kl.abs().max() < 1e-6 and loss.aux.abs().max() < 1e-6
    loss.loss.backward()
    assert torch.isfinite(logits.grad).all()


def test_no_mass_is_plain_masked_diffusion():
    """At mass 0: KL is -gamma/gamma_bar log p at MASK, and step keeps visible tokens by the rule of vpdd.md 2.6."""
    scheduler, n = MaskAndReplaceScheduler(replace_mass=0.0, truncation=None), 7
    logits = torch.randn(1, 6, n, generator=seeded())
    x_0 = torch.arange(6)[None]
    loss = scheduler.loss(logits, x_0, torch.full((1, 6), n), torch.tensor([50]), n)
    gamma = scheduler.gammas_cumprod
    torch.testing.assert_close(loss.kl, (1 - gamma[49] / gamma[50]) * loss.aux, rtol=1e-6, atol=1e-9)
    posterior = scheduler.posterior(x_0, 50, n, logits=logits).exp()
    keep = (scheduler.alphas_cumprod[50] / scheduler.alphas_cumprod[49]).float()
    expected = torch.cat([(1 - keep) * torch.softmax(logits, -1), torch.zeros(1, 6, 1)], -1)
    expected.scatter_add_(-1, x_0[..., None], keep.expand(1, 6, 1))
    torch.testing.assert_close(posterior, expected, rtol=1e-5, atol=1e-7)


# ---- training side -------------------------------------------------------------------------------------------------


def test_cross_entropy_counts_corrupted_positions_by_weight():
    scheduler, n = MaskAndReplaceScheduler(), 4
    logits = torch.randn(2, 3, n, generator=seeded())
    x_0 = torch.tensor([[0, 1, 2], [3, 0, 1]])
    x_t = torch.tensor([[4, 1, 4], [3, 2, 1]])  # two masks in the first, one replaced token in the second
    weights = torch.tensor([[1.0, 9.0, 5.0], [9.0, 2.0, 9.0]])
    t = torch.tensor([40, 60])
    out = scheduler.loss(logits, x_0, x_t, t, n, position_weights=weights, kind="ce")
    ce = -torch.log_softmax(logits, -1).gather(-1, x_0[..., None])[..., 0]
    expected = (ce[0, 0] + 5 * ce[0, 2] + 2 * ce[1, 1]) / 8
    torch.testing.assert_close(out.loss, expected)
    torch.testing.assert_close(out.per_sample, torch.stack([(ce[0, 0] + 5 * ce[0, 2]) / 6, ce[1, 1]]))
    probs = torch.tensor([0.02, 0.01])  # the first was drawn twice as often as uniform
    out = scheduler.loss(logits, x_0, x_t, t, n, probs, weights, kind="ce")
    torch.testing.assert_close(out.loss, (ce[0, 0] / 2 + 5 * ce[0, 2] / 2 + 2 * ce[1, 1]) / 8)
    assert scheduler.loss(logits, x_0, x_0, t, n, kind="ce").loss == 0  # nothing corrupted


def test_position_weights_of_the_bound():
    scheduler, n = MaskAndReplaceScheduler(), 4
    logits, x_0 = torch.randn(2, 3, n, generator=seeded()), torch.tensor([[0, 1, 2], [3, 0, 1]])
    x_t, t = torch.full((2, 3), n), torch.tensor([0, 60])
    weights = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    out = scheduler.loss(logits, x_0, x_t, t, n, position_weights=weights)
    first = out.nll[0, 0] * (1 + 5e-4 * 2)
    second = 2 * (out.kl[1, 1] + 5e-4 * (2 - 0.6) * out.aux[1, 1])
    torch.testing.assert_close(out.per_sample.double(), torch.stack([first, second]) * 100, rtol=1e-6, atol=0)
    torch.testing.assert_close(out.loss, out.per_sample.sum() / 6)


class Widest(TorchDispatchMode):
    """Remembers the dtypes of every tensor made that is as large as the logits."""

    def __init__(self, numel):
        super().__init__()
        self.numel, self.seen = numel, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(x, torch.Tensor) and x.numel() >= self.numel and x.is_contiguous():
                self.seen.append(x.dtype)
        return out


def test_loss_makes_no_wide_float64_and_few_wide_tensors():
    scheduler, n = MaskAndReplaceScheduler(), 64
    x_0, t = torch.randint(0, n, (2, 32), generator=seeded()), torch.tensor([3, 70])
    x_t = scheduler.add_noise(x_0, t, n, generator=seeded())
    logits = torch.randn(2, 32, n, requires_grad=True)
    saved = []
    with (
        torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x),
        Widest(2 * 32 * n) as wide,
    ):
        loss = scheduler.loss(logits, x_0, x_t, t, n).loss
        loss.backward()
    assert set(wide.seen) == {torch.float32}
    held = {x.data_ptr() for x in saved if x.numel() >= logits.numel()}
    assert len(held) <= 3  # one of them may be the logits


def test_bfloat16_logits():
    scheduler, n = MaskAndReplaceScheduler(), 9
    x_0, t = torch.randint(0, n, (2, 8), generator=seeded()), torch.tensor([3, 70])
    x_t = scheduler.add_noise(x_0, t, n, generator=seeded())
    logits = torch.randn(2, 8, n, generator=seeded()).bfloat16()
    for kind in ("vb", "ce"):
        half = scheduler.loss(logits, x_0, x_t, t, n, kind=kind).loss
        assert half.dtype == torch.float32
        torch.testing.assert_close(half, scheduler.loss(logits.float(), x_0, x_t, t, n, kind=kind).loss)
    assert scheduler.step(logits, 50, x_t, n).prev_sample.dtype == torch.int64


def test_importance_sampling_and_its_state():
    scheduler = MaskAndReplaceScheduler(num_train_timesteps=5)
    all_t, size = torch.arange(5), torch.tensor([50.0, 1.0, 2.0, 3.0, 4.0])
    t, p = scheduler.sample_timesteps(8, generator=seeded())
    assert torch.equal(p, torch.full((8,), 0.2, dtype=torch.float64))
    for _ in range(10):
        scheduler.update_importance(all_t, size)
    assert scheduler.sample_timesteps(8)[1].unique().numel() == 1  # "more than 10" is 11
    scheduler.update_importance(torch.cat([all_t, all_t[1:2]]), torch.cat([size, size[1:2]]))
    rms = torch.sqrt(size.double() ** 2 * (1 - 0.9**11) + 1e-10) + 1e-4
    rms[0] = rms[1]
    t, p = scheduler.sample_timesteps(20_000, generator=seeded())
    torch.testing.assert_close(p, (rms / rms.sum())[t])
    assert (torch.bincount(t) / 20_000 - rms / rms.sum()).abs().max() < 0.015
    assert torch.equal(scheduler.Lt_count, torch.tensor([11.0, 12, 11, 11, 11], dtype=torch.float64))
    assert scheduler.sample_timesteps(8, importance=False)[1].unique().numel() == 1
    other = MaskAndReplaceScheduler(num_train_timesteps=5)
    other.load_state_dict(scheduler.state_dict())
    again = other.sample_timesteps(20_000, generator=seeded())
    assert torch.equal(again[0], t) and torch.equal(again[1], p)
    with pytest.raises(InputError, match="Lt_history"):
        MaskAndReplaceScheduler().load_state_dict(scheduler.state_dict())


# ---- sampling side -------------------------------------------------------------------------------------------------


@FEW
@given(st.integers(2, 100), masses, st.data())
def test_timesteps_fall_evenly_and_no_mask_is_left(steps, mass, data):
    scheduler, n = MaskAndReplaceScheduler(steps, replace_mass=mass), 5
    asked = data.draw(st.integers(1, steps))
    scheduler.set_timesteps(asked)
    t = scheduler.timesteps
    assert len(t) == asked and t[0] == steps - 1
    jumps = -torch.diff(t, append=torch.tensor([-1]))
    assert jumps.min() >= 1 and jumps.max() - jumps.min() <= 1
    x = scheduler.init_noise((2, 40), n)
    assert (x == n).all()
    generator, left = seeded(), [1.0]
    for now in t:
        x = scheduler.step(torch.zeros(2, 40, n), now, x, n, generator=generator).prev_sample
        left.append((x == n).double().mean().item())
    assert left[-1] == 0 and all(a >= b for a, b in zip(left, left[1:]))


def test_four_steps_of_a_hundred():
    scheduler = MaskAndReplaceScheduler()
    assert scheduler.timesteps.tolist() == list(range(99, -1, -1))
    scheduler.set_timesteps(4)
    assert scheduler.timesteps.tolist() == [99, 74, 49, 24]
    scheduler.set_timesteps(timesteps=[80, 3])
    x, logits = torch.full((1, 4000), 6), torch.zeros(1, 4000, 6)
    x = scheduler.step(logits, 80, x, 6, generator=seeded()).prev_sample
    assert abs((x == 6).double().mean() - scheduler.gammas_cumprod[3] / scheduler.gammas_cumprod[80]) < 0.02
    assert (scheduler.step(logits, scheduler.timesteps[1], x, 6).prev_sample < 6).all()


def test_step_accepts_int_scalar_and_per_sample_timesteps():
    scheduler, n = MaskAndReplaceScheduler(), 6
    logits, x = torch.randn(3, 50, n, generator=seeded()), torch.randint(0, n + 1, (3, 50), generator=seeded())
    a, b, c = (
        scheduler.step(logits, t, x, n, generator=seeded(5)).prev_sample
        for t in (42, torch.tensor(42), torch.tensor([42, 42, 42]))
    )
    assert torch.equal(a, b) and torch.equal(a, c)
    mixed = scheduler.step(logits, torch.tensor([42, 0, 7]), x, n, generator=seeded(5)).prev_sample
    assert torch.equal(mixed[0], a[0]) and (mixed[1] < n).all()


def test_generators():
    scheduler, n = MaskAndReplaceScheduler(), 6
    logits, x = torch.randn(2, 50, n, generator=seeded()), scheduler.init_noise((2, 50), n)
    one = scheduler.step(logits, 50, x, n, generator=seeded(1), return_dict=False)
    two = scheduler.step(logits, 50, x, n, generator=seeded(1), return_dict=False)
    other = scheduler.step(logits, 50, x, n, generator=seeded(2), return_dict=False)
    assert torch.equal(one[0], two[0]) and torch.equal(one[1], two[1]) and not torch.equal(one[0], other[0])
    # a list: each sample's draw does not depend on its company
    both = scheduler.step(logits, 50, x, n, generator=[seeded(1), seeded(2)]).prev_sample
    alone = scheduler.step(logits[1:], 50, x[1:], n, generator=[seeded(2)]).prev_sample
    assert torch.equal(both[1:], alone)
    assert uniform((3,), seeded()).dtype == torch.float64
    with pytest.raises(InputError, match="one per sample"):
        scheduler.step(logits, 50, x, n, generator=[seeded()])
    x_t = [scheduler.add_noise(x * 0, torch.tensor([50, 50]), n, generator=seeded(s)) for s in (3, 3, 4)]
    assert torch.equal(x_t[0], x_t[1]) and not torch.equal(x_t[0], x_t[2])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cpu_generator_serves_a_gpu():
    scheduler, n = MaskAndReplaceScheduler(), 6
    logits, x, t = torch.randn(2, 50, n), scheduler.init_noise((2, 50), n), torch.tensor([50, 9])
    here = scheduler.step(logits, t, x, n, generator=seeded())
    there = scheduler.step(logits.cuda(), t.cuda(), x.cuda(), n, generator=seeded())
    assert torch.equal(here.prev_sample, there.prev_sample.cpu())
    x_0 = there.pred_original_sample
    x_t = scheduler.add_noise(x_0, t.cuda(), n, generator=seeded())
    a, b = (scheduler.loss(logits.to(d), x_0.to(d), x_t.to(d), t.to(d), n).loss.cpu() for d in ("cpu", "cuda"))
    torch.testing.assert_close(a, b)
    assert scheduler.sample_timesteps(4, generator=seeded(), device="cuda")[0].is_cuda


def test_temperature():
    scheduler, n = MaskAndReplaceScheduler(), 6
    logits, x = torch.randn(2, 500, n, generator=seeded()), torch.full((2, 500), n)
    out = scheduler.step(logits, 99, x, n, temperature=0, prev_timestep=-1)
    assert torch.equal(out.prev_sample, logits.argmax(-1)) and torch.equal(out.pred_original_sample, logits.argmax(-1))
    half = scheduler.step(logits, 50, x, n, temperature=0, prev_timestep=25).prev_sample
    shown = half != n
    assert 0.4 < shown.double().mean() < 0.6 and torch.equal(half[shown], logits.argmax(-1)[shown])
    assert torch.equal(scheduler.predict_start(logits, 0).argmax(-1), logits.argmax(-1))
    with pytest.raises(InputError, match="temperature"):
        scheduler.step(logits, 50, x, n, temperature=-1.0)


def test_truncation_keeps_the_crossing_class_and_treats_ties_alike():
    probs = torch.tensor([[0.1, 0.6, 0.25, 0.05], [0.9, 0.05, 0.03, 0.02], [0.25, 0.25, 0.25, 0.25]])
    out = truncate(probs, 0.88)
    torch.testing.assert_close(out[0], torch.tensor([0.1, 0.6, 0.25, 0.0]) / 0.95)
    assert out[1].tolist() == [1.0, 0.0, 0.0, 0.0]
    assert out[2].tolist() == [0.25] * 4
    assert torch.equal(truncate(probs, 1.0) > 0, probs > 0)
    assert torch.equal(torch.compile(truncate, backend="eager", fullgraph=True)(probs, 0.88), out)  # torch's own sort


def test_draw_inverts_the_cdf_and_never_draws_the_impossible():
    probs = torch.tensor([0.0, 0.5, 0.0, 0.3, 0.2, 0.0])
    u = torch.tensor([0.0, 0.49, 0.51, 0.79, 0.81, 1 - 2**-53], dtype=torch.float64)
    assert draw(probs.expand(6, -1), u).tolist() == [1, 1, 3, 3, 4, 4]
    # float32 noise could not reach a class of probability 1e-9
    rare = torch.tensor([1.0, 1e-9])
    assert draw(rare.expand(2, -1), torch.tensor([1 - 2e-9, 1 - 5e-10], dtype=torch.float64)).tolist() == [0, 1]


def test_step_compiles_to_one_graph():
    scheduler, n = MaskAndReplaceScheduler(), 6
    logits, x = torch.randn(2, 50, n, generator=seeded()), torch.randint(0, n + 1, (2, 50), generator=seeded())
    u = uniform((2, 50, 2), seeded())
    jump = scheduler.jump(50, 25, n)

    def kernel(logits, x, u, jump):
        return reverse(draw(scheduler.predict_start(logits), u[..., 0]), x, u[..., 1], jump, n)

    compiled = torch.compile(kernel, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(logits, x, u, jump), kernel(logits, x, u, jump))

    def whole(logits, t, x):
        return scheduler.step(logits, t, x, n, return_dict=False)[0]

    x = torch.full_like(x, n)
    out = torch.compile(whole, backend="aot_eager", fullgraph=True)(logits, torch.tensor(0), x)
    assert out.shape == x.shape and (out < n).all()

    def loss(logits, t):
        return scheduler.loss(logits, out, x, t, n).loss

    t = torch.tensor([5, 60])
    torch.testing.assert_close(torch.compile(loss, backend="aot_eager", fullgraph=True)(logits, t), loss(logits, t))


# ---- config and bad input ------------------------------------------------------------------------------------------


def test_save_and_load(tmp_path):
    scheduler = MaskAndReplaceScheduler(num_train_timesteps=20, replace_mass=0.02, truncation=None)
    scheduler.save_pretrained(tmp_path)
    assert (tmp_path / "scheduler_config.json").is_file()
    again = MaskAndReplaceScheduler.from_pretrained(tmp_path)
    assert again.config.replace_mass == 0.02 and again.config.truncation is None
    assert torch.equal(again.alphas_cumprod, scheduler.alphas_cumprod)
    own_schedule = MaskAndReplaceScheduler(
        2, trained_alphas_cumprod=[0.6, 0.1], trained_gammas_cumprod=[0.3, 0.7]
    )  # the replacement mass may grow
    own_schedule.save_pretrained(tmp_path)
    again = MaskAndReplaceScheduler.from_pretrained(tmp_path)
    assert again.gammas_cumprod.tolist() == [0.3, 0.7, 0.0]
    torch.testing.assert_close(
        dense_posterior(again, 1, 1, 0, 3)[:, 2],
        again.posterior(torch.tensor([[1]]), 1, 3, x_0=torch.tensor([[2]]))[0, 0].exp().double(),
        rtol=1e-5,
        atol=1e-7,
    )


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"replace_mass": 0.6}, "replace_mass"),
        ({"replace_mass": -0.1}, "replace_mass"),
        ({"truncation": 0.0}, "truncation"),
        ({"num_train_timesteps": 1}, "num_train_timesteps"),
        ({"alpha_bar_start": 0.1, "alpha_bar_end": 0.2}, "alpha_bar"),
        ({"trained_alphas_cumprod": [0.9, 0.1]}, "together"),
        ({"num_train_timesteps": 3, "trained_alphas_cumprod": [0.9], "trained_gammas_cumprod": [0.1]}, "3 values"),
        ({"trained_alphas_cumprod": [0.9, 0.3], "trained_gammas_cumprod": [0.1, 0.8]}, "t=1.*sum to one"),
        ({"trained_alphas_cumprod": [0.9, 0.0], "trained_gammas_cumprod": [0.1, 1.0]}, "t=1"),
        ({"trained_alphas_cumprod": [0.5, 0.4], "trained_gammas_cumprod": [0.1, 0.6]}, "t=1.*replaced"),
        ({"trained_alphas_cumprod": [0.9, float("nan")], "trained_gammas_cumprod": [0.1, 0.8]}, "t=1"),
    ],
)
def test_schedules_that_are_not(kwargs, message):
    with pytest.raises(InputError, match=message):
        MaskAndReplaceScheduler(**{"num_train_timesteps": 2, **kwargs})


def test_every_replacement_mass_is_a_valid_schedule():
    for mass in (0.0, 1e-9, 1e-6, 9e-6, 2e-5, 0.02, 0.3, 0.5):
        scheduler = MaskAndReplaceScheduler(replace_mass=mass)
        t = torch.arange(100)
        jump = scheduler.jump(t, t - 1, 10)
        assert all((x >= 0).all() and torch.isfinite(x).all() for x in jump)
        torch.testing.assert_close(jump.keep + 10 * jump.replace + jump.mask, torch.ones(100, 1, dtype=torch.float64))


def test_bad_input():
    scheduler, n = MaskAndReplaceScheduler(), 4
    x_0, t, logits = torch.zeros(2, 3, dtype=torch.int64), torch.tensor([3, 4]), torch.zeros(2, 3, n)
    for call, message in (
        (lambda: scheduler.add_noise(x_0 + n, t, n), "outside this vocabulary"),
        (lambda: scheduler.add_noise(x_0 - 1, t, n), "outside this vocabulary"),
        (lambda: scheduler.add_noise(x_0.float(), t, n), "integers"),
        (lambda: scheduler.add_noise(x_0, t[:1], n), r"\(B,\)"),
        (lambda: scheduler.add_noise(x_0, t + 100, n), "timesteps must lie"),
        (lambda: scheduler.loss(logits, x_0, x_0 + n + 1, t, n), "outside this vocabulary"),
        (lambda: scheduler.loss(logits[..., :3], x_0, x_0, t, n), "logits"),
        (lambda: scheduler.loss(logits, x_0, x_0, t, n, position_weights=torch.ones(2, 1)), "position_weights"),
        (lambda: scheduler.loss(logits, x_0, x_0, t, n, kind="mse"), "'vb' or 'ce'"),
        (lambda: scheduler.step(logits[:1], 3, x_0, n), "logits"),
        (lambda: scheduler.step(logits, 100, x_0, n), "timestep"),
        (lambda: scheduler.step(logits, 3, x_0, n, prev_timestep=3), "prev_timestep"),
        (lambda: scheduler.posterior(x_0, 3, n), "either"),
        (lambda: scheduler.set_timesteps(0), "num_inference_steps"),
        (lambda: scheduler.set_timesteps(101), "num_inference_steps"),
        (lambda: scheduler.set_timesteps(timesteps=[5, 5]), "fall strictly"),
        (lambda: scheduler.set_timesteps(timesteps=[100, 5]), "fall strictly"),
    ):
        with pytest.raises(InputError, match=message):
            call()
