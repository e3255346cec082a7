"""The scheduler as training and sampling use it: options, generators, state, files, bad input."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from hf_vpdd.errors import InputError
from hf_vpdd.schedulers import MaskAndReplaceScheduler
from hf_vpdd.schedulers.categorical import draw, truncate, uniform
from hf_vpdd.schedulers.mask_and_replace_kernel import reverse
from tests.schedulers.transition_matrices import dense_posterior, masses, seeded


FEW = settings(max_examples=15, deadline=None)


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


def test_loss_makes_no_wide_float64_and_keeps_no_wide_tensor():
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
    assert held == {logits.data_ptr()}


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
    before = scheduler.state_dict()
    scheduler.update_importance(torch.tensor([1, 2]), torch.tensor([float("nan"), float("inf")]))
    assert all(torch.equal(x, before[name]) for name, x in scheduler.state_dict().items())
    with pytest.raises(InputError, match="Lt_count.*damaged"):
        scheduler.load_state_dict({**before, "Lt_count": before["Lt_count"] * float("nan")})


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
        (lambda: scheduler.loss(logits, x_0, x_0, t, n, timestep_probs=torch.ones(3)), "timestep_probs"),
        (lambda: scheduler.loss(logits, x_0, x_0[:1], t, n), r"\(B,\)"),
        (lambda: scheduler.step(logits[:1], 3, x_0, n), "logits"),
        (lambda: scheduler.step(logits, 3, x_0 + n + 1, n), "outside this vocabulary's 0..4"),
        (lambda: scheduler.posterior(x_0 - 1, 3, n, logits=logits), "outside this vocabulary"),
        (lambda: scheduler.step(logits.index_fill(1, torch.tensor(2), float("nan")), 3, x_0, n), r"position \(0, 2\)"),
        (lambda: scheduler.step(logits + float("inf"), 3, x_0, n), r"position \(0, 0\)"),
        (lambda: scheduler.step(logits - float("inf"), 3, x_0, n), r"-inf for every class"),
        (lambda: scheduler.step(logits, 100, x_0, n), "timestep"),
        (lambda: scheduler.step(logits, torch.tensor([3, 4, 5]), x_0, n), "3 timesteps for a batch of 2"),
        (lambda: scheduler.posterior(x_0, torch.tensor([3, 4, 5]), n, x_0=x_0), "3 timesteps for a batch of 2"),
        (lambda: scheduler.step(logits, 3, x_0, n, prev_timestep=3), "prev_timestep"),
        (lambda: scheduler.posterior(x_0, 3, n), "either"),
        (lambda: scheduler.set_timesteps(0), "num_inference_steps"),
        (lambda: scheduler.set_timesteps(101), "num_inference_steps"),
        (lambda: scheduler.set_timesteps(timesteps=[5, 5]), "fall strictly"),
        (lambda: scheduler.set_timesteps(timesteps=[100, 5]), "fall strictly"),
    ):
        with pytest.raises(InputError, match=message):
            call()
