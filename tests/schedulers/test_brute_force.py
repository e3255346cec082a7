"""The closed forms are the diffusion: against transition matrices, over T, jumps, schedules, masses, truncations."""

from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_vpdd.schedulers import MaskAndReplaceScheduler
from hf_vpdd.schedulers.mask_and_replace_kernel import reverse
from tests.schedulers.transition_matrices import (
    cases,
    dense,
    dense_loss,
    dense_posterior,
    masses,
    schedulers,
    seeded,
    truncated,
)


FEW = settings(max_examples=25, deadline=None, derandomize=True)


def noise_is(values):
    """The scheduler's uniform draws replaced by these, so that a distribution is integrated and not sampled."""
    return mock.patch("hf_vpdd.schedulers.scheduling_mask_and_replace.uniform", lambda *args: values)


def midpoints(count):
    return (torch.arange(count, dtype=torch.float64) + 0.5) / count


def frequencies(tokens, n):
    return torch.stack([torch.bincount(row, minlength=n + 1) for row in tokens]).double() / tokens.shape[1]


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
    if scheduler.config.trained_alphas_cumprod is None:
        mass = 1 - scheduler.alphas_cumprod[:-1] - scheduler.gammas_cumprod[:-1]
        assert (mass - scheduler.config.replace_mass).abs().max() < 1e-12


@FEW
@given(cases(), st.data())
def test_jumps_compose(case, data):
    """q(t | r) q(r | s) = q(t | s) for every stop r on the way, in the closed form itself."""
    scheduler, t, s, n, _ = case
    r = data.draw(st.integers(s, t))
    stops = [(s, r), (r, t), (s, t)]
    parts = [scheduler.jump(b, a, n) if a < b else None for a, b in stops]
    first, second, whole = ((j.keep, j.replace, j.mask) if j else (1.0, 0.0, 0.0) for j in parts)
    torch.testing.assert_close(torch.as_tensor(first[0] * second[0]), whole[0], rtol=1e-9, atol=0)
    replace = first[0] * second[1] + first[1] * (second[0] + n * second[1])
    torch.testing.assert_close(torch.as_tensor(replace), whole[1], rtol=1e-8, atol=1e-16)
    mask = 1 - (1 - torch.as_tensor(first[2])) * (1 - torch.as_tensor(second[2]))
    torch.testing.assert_close(mask, whole[2], rtol=1e-8, atol=1e-12)


@FEW
@given(schedulers(), st.integers(2, 6))
def test_add_noise_has_the_marginals(scheduler, n):
    grid = 2000
    x_0, t = torch.arange(n)[:, None].expand(-1, grid), torch.randint(-1, len(scheduler), (n,), generator=seeded())
    with noise_is(midpoints(grid).expand(n, -1)):
        x_t = scheduler.add_noise(x_0, t, n)
    expected = torch.stack([dense(scheduler, int(t[c]), -1, n)[:, c] for c in range(n)])
    torch.testing.assert_close(frequencies(x_t, n), expected, rtol=0, atol=3 / grid)
    assert torch.equal(scheduler.add_noise(x_0, t * 0 - 1, n), x_0)


@pytest.mark.parametrize("mass", [0.0, 1e-6, 0.3])
def test_add_noise_draws_its_own_numbers(mass):
    scheduler, n, many = MaskAndReplaceScheduler(10, replace_mass=mass), 4, 40_000
    for t in (0, 5, 9):
        x_t = scheduler.add_noise(torch.full((1, many), 2), torch.tensor([t]), n, generator=seeded(t + 1))
        error = frequencies(x_t, n)[0] - dense(scheduler, t, -1, n)[:, 2]
        assert error.abs().max() < 4 * (0.25 / many) ** 0.5


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
    scheduler, t, s, n, _ = case
    grid = 2000
    u = midpoints(grid)[None]
    for k in range(n + 1):
        bayes = dense_posterior(scheduler, k, t, s, n)
        for x_0 in range(n):
            ones = torch.ones(1, grid, dtype=torch.int64)
            x_s = reverse(ones * x_0, ones * k, u, scheduler.jump(t, s, n), n)
            torch.testing.assert_close(frequencies(x_s, n)[0], bayes[:, x_0], rtol=0, atol=3 / grid)


@FEW
@given(cases(), st.sampled_from([0.0, 0.5, 1.0, 2.0]))
def test_step_draws_from_the_posterior(case, temperature):
    """Both uniform draws run through a Fibonacci lattice of the unit square, so nothing here is random."""
    scheduler, t, s, n, logits = case
    points = 2584
    square = torch.stack([midpoints(points), (torch.arange(points) * 1597 % points + 0.5) / points], -1).double()
    x_t = torch.arange(n + 1)[:, None].expand(-1, points)
    with noise_is(square.expand(n + 1, -1, -1)):
        out = scheduler.step(
            logits[:, None].expand(-1, points, -1), t, x_t, n, temperature=temperature, prev_timestep=s
        )
    for k in range(n + 1):
        if temperature:
            start = torch.softmax(logits[k] / temperature, -1).double()
            start = truncated(start, scheduler.config.truncation or 1.0)
        else:
            start = torch.nn.functional.one_hot(logits[k].argmax(), n).double()
        expected = dense_posterior(scheduler, k, t, s, n) @ start
        torch.testing.assert_close(frequencies(out.prev_sample[k : k + 1], n)[0], expected, rtol=0, atol=4e-3)
        drawn = frequencies(out.pred_original_sample[k : k + 1], n)[0, :n]
        torch.testing.assert_close(drawn, start, rtol=0, atol=2 / points)


@pytest.mark.parametrize("mass, truncation, t, s", [(1e-6, 0.88, 9, 8), (0.3, None, 7, 2), (0.02, 0.6, 9, 3)])
def test_step_draws_its_own_numbers(mass, truncation, t, s):
    scheduler, n, many = MaskAndReplaceScheduler(10, replace_mass=mass, truncation=truncation), 5, 40_000
    logits, x_t = torch.randn(n + 1, n, generator=seeded(1)), torch.arange(n + 1)[:, None].expand(-1, many)
    wide = logits[:, None].expand(-1, many, -1)
    out = scheduler.step(wide, t, x_t, n, temperature=0.7, generator=seeded(2), prev_timestep=s)
    for k in range(n + 1):
        start = truncated(torch.softmax(logits[k].double() / 0.7, -1), truncation or 1.0)
        error = frequencies(out.prev_sample[k : k + 1], n)[0] - dense_posterior(scheduler, k, t, s, n) @ start
        assert error.abs().max() < 4 * (0.25 / many) ** 0.5


@FEW
@given(cases())
def test_loss_equals_the_dense_one_and_so_do_gradients(case):
    scheduler, t, _, n, logits = case
    x_t, x_0 = torch.meshgrid(torch.arange(n + 1), torch.arange(n), indexing="ij")  # all pairs
    t = torch.full((n + 1,), t)
    logits = (logits[:, None] * torch.linspace(0.2, 1, n)[None, :, None]).contiguous().requires_grad_()
    probs = torch.linspace(0.01, 0.2, n + 1, dtype=torch.float64)
    loss = scheduler.loss(logits, x_0, x_t, t, n, timestep_probs=probs)
    reference = dense_loss(scheduler, logits, x_0, x_t, t, n)
    for mine, theirs in zip((loss.kl, loss.nll, loss.aux), reference):
        torch.testing.assert_close(mine, theirs, rtol=2e-5, atol=2e-6)
        ours, expected = (torch.autograd.grad(x.sum(), logits, retain_graph=True)[0] for x in (mine, theirs))
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
    kl, nll, aux = reference
    bound, extra = (nll, nll) if t[0] == 0 else (kl, aux)
    weight = scheduler.config.auxiliary_weight * (2 - t[0] / len(scheduler))
    total = ((bound + weight * extra).sum(1) / probs).sum() / x_0.numel()
    torch.testing.assert_close(loss.loss.double(), total, rtol=2e-5, atol=1e-6)
    torch.testing.assert_close(
        *(torch.autograd.grad(x, logits)[0] for x in (loss.loss, total.float())), rtol=1e-4, atol=1e-5
    )


@FEW
@given(schedulers(), st.integers(0, 1000))
def test_importance_sampling_is_unbiased(scheduler, seed):
    """The mean over t ~ p of loss / p is the sum over t, whatever was learned of the noise levels."""
    steps, n = len(scheduler), 3
    generator = seeded(seed)
    for _ in range(12):
        scheduler.update_importance(torch.arange(steps), torch.linspace(1, 10, steps))
    grid = 5000
    with noise_is(midpoints(grid)):
        t, p_t = scheduler.sample_timesteps(grid)
    drawn = torch.bincount(t, minlength=steps) / grid
    every = torch.arange(steps)
    probs = torch.zeros(steps, dtype=torch.float64).scatter_(0, t, p_t)
    torch.testing.assert_close(drawn.double(), probs, rtol=0, atol=1 / grid)
    assert steps == 2 or probs.max() > 1.5 * probs.min()  # not uniform
    x_0 = torch.randint(n, (steps, 5), generator=generator)
    x_t, logits = torch.randint(n + 1, (steps, 5), generator=generator), torch.randn(steps, 5, n, generator=generator)
    uniform_ = scheduler.loss(logits, x_0, x_t, every, n)
    weighted = scheduler.loss(logits, x_0, x_t, every, n, timestep_probs=probs)
    expected = uniform_.per_sample.double().mean()  # scaled by T there
    torch.testing.assert_close((weighted.per_sample * probs).sum(), expected, rtol=1e-5, atol=0)


@FEW
@given(cases(), st.integers(2, 5))
def test_one_chain_for_each_modality_is_the_joint_chain(case, actions):
    """In the union vocabulary [video, actions, MASK] with its block matrices, a column of one modality has nothing of
    the other, and is what the modality's own scheduler says."""
    scheduler, t, s, video, _ = case
    whole = torch.zeros(2, video + actions + 1, video + actions + 1, dtype=torch.float64)
    own = [torch.arange(video), torch.arange(video, video + actions)]
    for index, (high, low) in enumerate(((t, s), (s, -1))):
        for ids in own:
            n = len(ids)
            block = dense(scheduler, high, low, n)
            whole[index][ids[:, None], ids] = block[:n, :n]
            whole[index][-1, ids] = block[n, :n]
        whole[index][-1, -1] = 1
    for ids in own:
        n = len(ids)
        for x_0 in range(n):
            for k in range(n + 1):
                seen = ids[k] if k < n else -1
                joint = whole[0][seen] * whole[1][:, ids[x_0]]
                joint = joint / joint.sum()
                q = scheduler.posterior(torch.tensor([[k]]), t, n, x_0=torch.tensor([[x_0]]), prev_timestep=s)
                mine = torch.zeros_like(joint)
                mine[ids], mine[-1] = q[0, 0, :n].double().exp(), q[0, 0, n].double().exp()
                torch.testing.assert_close(mine, joint, rtol=1e-4, atol=1e-6)


@FEW
@given(schedulers(), st.integers(2, 6))
def test_tokens_stay_in_their_vocabulary(scheduler, n):
    """From clean to noise and back, the largest draws included: no class but 0..n-1 and, on the way, MASK."""
    x_0 = torch.arange(n).repeat(50)[None]
    edge = torch.full((1, x_0.shape[1], 2), 1 - 2**-53, dtype=torch.float64)
    for noise in (edge, edge * 0, None):
        patch = noise_is(noise) if noise is not None else mock.MagicMock()
        with patch:
            x = scheduler.init_noise(x_0.shape, n)
            for t in scheduler.timesteps.tolist():
                x = scheduler.step(torch.randn(*x.shape, n, generator=seeded(t)), t, x, n).prev_sample
                assert 0 <= x.min() and x.max() <= n
        assert x.max() < n
        patch = noise_is(noise[..., 0]) if noise is not None else mock.MagicMock()
        with patch:
            x_t = scheduler.add_noise(x_0, torch.tensor([len(scheduler) - 1]), n)
        assert 0 <= x_t.min() and x_t.max() <= n


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


@FEW
@given(masses, st.integers(2, 12), st.integers(2, 6), st.data())
def test_what_docs_say_of_visible_tokens(mass, steps, n, data):
    """docs/diffusion.md: how fast a wrong one goes does not depend on the mass; how sure one can be of it does."""
    scheduler = MaskAndReplaceScheduler(steps, replace_mass=mass)
    t = data.draw(st.integers(1, steps - 1))
    s = data.draw(st.integers(0, t - 1))
    jump = scheduler.jump(t, s, n)
    stays = dense_posterior(scheduler, 0, t, s, n)[0, 1]  # class 0 is seen, the network says 1
    torch.testing.assert_close(stays, (jump.keep + jump.replace)[0, 0], rtol=1e-8, atol=0)
    prior = torch.rand(n, generator=seeded(t), dtype=torch.float64)
    prior /= prior.sum()
    bayes = dense(scheduler, t, -1, n)[0, :n] * prior  # x_t = 0
    alpha, spread = scheduler.alphas_cumprod[t], mass / n
    sure = (alpha + spread) * prior[0] / (alpha * prior[0] + spread)
    torch.testing.assert_close(bayes[0] / bayes.sum(), sure, rtol=1e-8, atol=0)
