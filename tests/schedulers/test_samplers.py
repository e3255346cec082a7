"""The samplers that unmask in an order of their own: what they promise at every step, and that they are exchangeable."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_vpdd.errors import InputError
from hf_vpdd.schedulers import (
    SAMPLERS,
    ConfidenceScheduler,
    EntropyBoundScheduler,
    HaltonScheduler,
    MaskAndReplaceScheduler,
    build_sampler,
)
from hf_vpdd.schedulers.scheduling_halton import radical_inverse, reveal_ranks
from hf_vpdd.schedulers.unmasking import cosine_timesteps


CLASSES = 7
FEW = settings(max_examples=25, deadline=None)
names = st.sampled_from(sorted(SAMPLERS))
unmasking = ["confidence", "entropy_bound", "halton"]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def chain(sampler, steps, sample, temperature=1.0, generator=None, grid=None, seed=0):
    """Every state of a chain whose network is noise: (steps + 1, B, L)."""
    states, noise = [sample], seeded(seed)
    sampler.set_timesteps(steps)
    for t in sampler.timesteps:
        logits = 2 * torch.randn(*sample.shape, CLASSES, generator=noise)
        sample = sampler.step(logits, t, sample, CLASSES, temperature, generator or seeded(1), grid=grid).prev_sample
        states.append(sample)
    return torch.stack(states)


# ---- all of them ---------------------------------------------------------------------------------------------------


@FEW
@given(names, st.integers(1, 40), st.integers(1, 30), st.sampled_from([0.0, 1.0, 3.0]), st.integers(0, 99))
def test_every_chain_ends_without_a_mask(name, steps, length, temperature, seed):
    sampler = build_sampler(name, {"num_train_timesteps": 40})
    states = chain(sampler, steps, sampler.init_noise((3, length), CLASSES), temperature, seeded(seed), seed=seed)
    assert len(states) == steps + 1
    assert ((states[-1] >= 0) & (states[-1] < CLASSES)).all()
    hidden = (states == CLASSES).sum(-1)
    assert (hidden[1:] <= hidden[:-1]).all()


@pytest.mark.parametrize("name", unmasking)
def test_a_visible_token_stays(name):
    sampler = build_sampler(name, {"truncation": None})
    start = torch.where(torch.rand(4, 20, generator=seeded(3)) < 0.5, 2, CLASSES)
    states = chain(sampler, 6, start)
    for before, after in zip(states, states[1:]):
        shown = before < CLASSES
        assert torch.equal(before[shown], after[shown])


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_a_seed_repeats_and_rows_do_not_mix(name):
    sampler = build_sampler(name, {"truncation": None, "choice_temperature": 2.0})
    start = sampler.init_noise((3, 12), CLASSES)
    whole = chain(sampler, 4, start, generator=seeded(5))
    assert torch.equal(whole, chain(sampler, 4, start, generator=seeded(5)))
    assert not torch.equal(whole, chain(sampler, 4, start, generator=seeded(6)))
    logits = torch.randn(3, 12, CLASSES, generator=seeded())

    def last(rows):  # one step from all masked with a generator each
        sampler.set_timesteps(3)
        generators = [seeded(row) for row in rows]
        return sampler.step(logits[rows], 99, start[rows], CLASSES, generator=generators).prev_sample

    assert torch.equal(last([2, 0]), last([0, 1, 2])[[2, 0]])


def test_any_is_built_from_any_other_and_keeps_the_settings(tmp_path):
    settings = {
        "num_train_timesteps": 30,
        "replace_mass": 0.02,
        "truncation": None,
        "choice_temperature": 1.5,
        "entropy_bound": 3.0,
    }
    for name, cls in SAMPLERS.items():
        sampler = build_sampler(name, MaskAndReplaceScheduler(**settings).config)
        assert type(sampler) is cls
        for other in SAMPLERS.values():
            back = cls.from_config(other.from_config(sampler.config).config)
            assert {key: back.config[key] for key in settings} == settings
            assert torch.equal(back.alphas_cumprod, sampler.alphas_cumprod)
        sampler.save_pretrained(tmp_path / name)
        again = cls.from_pretrained(tmp_path / name)
        assert {key: again.config[key] for key in settings} == settings


def test_bad_input_is_named():
    with pytest.raises(InputError, match="sampler: 'greedy' is none of ancestral, confidence, entropy_bound, halton"):
        build_sampler("greedy", {})
    for field in ("choice_temperature", "entropy_bound"):
        with pytest.raises(InputError, match=f"{field} is -1"):
            build_sampler("confidence", {field: -1.0})
    for name in SAMPLERS:
        sampler = build_sampler(name, {})
        for steps in (0, 101, None):
            with pytest.raises(InputError, match="num_inference_steps"):
                sampler.set_timesteps(steps)
        with pytest.raises(InputError, match="temperature"):
            sampler.step(torch.zeros(1, 2, 3), 99, torch.full((1, 2), 3), 3, temperature=float("nan"))
        with pytest.raises(InputError, match="logits"):
            sampler.step(torch.zeros(1, 2, 3), 99, torch.full((1, 2), 4), 4)
    with pytest.raises(InputError, match="grid: 10 tokens are no whole number of pictures of 3 x 2"):
        HaltonScheduler().step(torch.zeros(1, 10, 3), 99, torch.full((1, 10), 3), 3, grid=(3, 2))


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_a_step_is_one_graph(name):
    sampler = build_sampler(name, {"choice_temperature": 1.0})
    logits, x = torch.randn(2, 12, CLASSES), torch.full((2, 12), CLASSES)
    sampler.set_timesteps(4)

    def step(logits, x, t):
        return sampler.step(logits, t, x, CLASSES, temperature=0.0, return_dict=False, grid=(4, 3))[0]

    out = torch.compile(step, backend="aot_eager", fullgraph=True)(logits, x, sampler.timesteps[-1])
    assert torch.equal(out, logits.argmax(-1))


# ---- how many, and at which t --------------------------------------------------------------------------------------


@FEW
@given(st.integers(1, 100))
def test_cosine_timesteps_fall_from_the_top(steps):
    gammas = MaskAndReplaceScheduler().gammas_cumprod[:-1]
    timesteps = cosine_timesteps(gammas, steps)
    assert len(timesteps) == steps and timesteps[0] == 99
    assert all(a > b >= 0 for a, b in zip(timesteps, timesteps[1:]))
    if steps <= 8:  # coarse enough that no two wish for the same timestep
        wish = torch.cos(torch.arange(steps) / steps * torch.pi / 2)
        assert (gammas[timesteps] - wish).abs().max() <= 0.5 / 99 + 1e-5


@pytest.mark.parametrize("name", ["confidence", "halton"])
@pytest.mark.parametrize("steps", [1, 3, 8, 100])
def test_the_network_is_told_the_share_of_masks_that_it_sees(name, steps):
    sampler, length = build_sampler(name, {}), 50
    states = chain(sampler, steps, sampler.init_noise((2, length), CLASSES))
    for state, t in zip(states, sampler.timesteps):
        share = (state == CLASSES).double().mean(-1)
        gamma = sampler.gammas_cumprod[t]
        assert ((gamma - share >= -1e-4) & (gamma - share <= 1 / length)).all()  # rounded down to whole tokens
        assert torch.equal(sampler.network_timesteps(t, share), t.expand(2))


@given(st.integers(0, 200))
@settings(max_examples=20, deadline=None)
def test_entropy_bound_tells_each_sample_its_own_t(hidden):
    sampler = EntropyBoundScheduler()
    share = torch.tensor([hidden / 200, 1.0, 0.0])
    told = sampler.network_timesteps(torch.tensor(50), share)
    gammas = sampler.gammas_cumprod[:-1]
    best = (gammas - share[0]).abs().min()
    torch.testing.assert_close((gammas[told[0]] - share[0]).abs(), best, rtol=0, atol=1e-9)
    assert told[1:].tolist() == [99, 0]


# ---- which ---------------------------------------------------------------------------------------------------------


def test_confidence_reveals_the_surest_draws():
    sampler = ConfidenceScheduler(truncation=None)
    sampler.set_timesteps(4)
    logits = 2 * torch.randn(3, 40, CLASSES, generator=seeded())
    x = sampler.init_noise((3, 40), CLASSES)
    output = sampler.step(logits, sampler.timesteps[1], x, CLASSES, generator=seeded())
    shown = output.prev_sample < CLASSES
    assert torch.equal(output.prev_sample[shown], output.pred_original_sample[shown])
    sure = logits.softmax(-1).gather(-1, output.pred_original_sample[..., None])[..., 0]
    for row in range(3):
        assert 0 < shown[row].sum() < 40
        assert sure[row][shown[row]].min() >= sure[row][~shown[row]].max()


def test_choice_temperature_changes_the_order_but_not_the_number():
    logits = 2 * torch.randn(3, 40, CLASSES, generator=seeded())
    shown = []
    for noise in (0.0, 5.0):
        sampler = ConfidenceScheduler(choice_temperature=noise)
        sampler.set_timesteps(4)
        x = sampler.init_noise((3, 40), CLASSES)
        x = sampler.step(logits, sampler.timesteps[1], x, CLASSES, temperature=0.0, generator=seeded()).prev_sample
        shown.append(x < CLASSES)
        assert torch.equal(x[shown[-1]], logits.argmax(-1)[shown[-1]])
    assert torch.equal(shown[0].sum(-1), shown[1].sum(-1)) and not torch.equal(*shown)


@FEW
@given(st.floats(0, 30), st.integers(0, 999))
def test_entropy_bound_reveals_the_largest_set_within_it(bound, seed):
    sampler = EntropyBoundScheduler(entropy_bound=bound, truncation=None)
    logits = 3 * torch.randn(2, 15, CLASSES, generator=seeded(seed))
    start = torch.where(torch.rand(2, 15, generator=seeded(seed)) < 0.3, 1, CLASSES)
    start[:, 0] = CLASSES
    after = sampler.step(logits, 80, start, CLASSES, generator=seeded(seed)).prev_sample
    p = logits.double().softmax(-1)
    entropy = -(p * p.log()).sum(-1)
    for row in range(2):
        hidden = start[row] == CLASSES
        new = hidden & (after[row] < CLASSES)
        order = entropy[row][hidden].sort().values
        # the definition, tried one by one
        fits = [k for k in range(1, len(order) + 1) if order[: k - 1].sum() <= bound + 1e-5]
        tight = [k for k in range(1, len(order) + 1) if order[: k - 1].sum() <= bound - 1e-5]
        assert len(tight) <= int(new.sum()) <= len(fits) and new.any()
        left = hidden & ~new
        if left.any():
            assert entropy[row][new].max() <= entropy[row][left].min() + 1e-6


def test_entropy_bound_goes_at_each_samples_pace_and_ends_on_time():
    sampler = EntropyBoundScheduler(entropy_bound=1.0)
    assert sampler.adaptive and not MaskAndReplaceScheduler.adaptive
    logits = torch.zeros(2, 9, CLASSES)
    logits[0, :, 3] = 20.0  # the first sample is sure of everything
    sampler.set_timesteps(3)
    x, left = sampler.init_noise((2, 9), CLASSES), []
    for t in sampler.timesteps:
        x = sampler.step(logits, t, x, CLASSES).prev_sample
        left.append((x == CLASSES).sum(-1).tolist())
    assert left == [[0, 8], [0, 7], [0, 0]]
    assert (x[0] == 3).all()


def test_radical_inverse_mirrors_the_digits():
    assert radical_inverse(torch.arange(6), 2).tolist() == [0, 0.5, 0.25, 0.75, 0.125, 0.625]
    expected = torch.tensor([0, 1 / 3, 2 / 3, 1 / 9, 4 / 9, 7 / 9], dtype=torch.float64)
    torch.testing.assert_close(radical_inverse(torch.arange(6), 3), expected)


@FEW
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 4))
def test_halton_order_meets_every_token_once_and_planes_take_turns(height, width, planes):
    ranks = reveal_ranks(planes * height * width, (height, width)).view(planes, -1)
    assert sorted(ranks.flatten().tolist()) == list(range(planes * height * width))
    assert ((ranks // planes) == (ranks // planes)[:1]).all()


def test_halton_order_spreads_over_the_picture():
    """The first quarter of the official grid: every 6 x 6 block gets its share, and few tokens touch."""
    first = (reveal_ranks(576, (24, 24)) < 144).view(24, 24)
    blocks = first.view(4, 6, 4, 6).sum((1, 3))
    assert blocks.min() >= 6 and blocks.max() <= 12
    random = (torch.randperm(576, generator=seeded()) < 144).view(24, 24)

    def touching(cells):
        return int((cells[1:] & cells[:-1]).sum() + (cells[:, 1:] & cells[:, :-1]).sum())

    assert touching(first) < 0.7 * touching(random)


def test_without_a_grid_the_order_is_van_der_corputs():
    assert reveal_ranks(8).argsort().tolist() == [0, 4, 2, 6, 1, 5, 3, 7]
    for length in range(1, 40):
        assert sorted(reveal_ranks(length).tolist()) == list(range(length))


def test_halton_ignores_what_the_network_is_sure_of():
    sampler = HaltonScheduler()
    orders = [
        chain(sampler, 5, sampler.init_noise((1, 12), CLASSES), seed=seed, grid=(4, 3)) < CLASSES for seed in (0, 1)
    ]
    assert torch.equal(*orders)
    assert not torch.equal(orders[0], chain(sampler, 5, sampler.init_noise((1, 12), CLASSES)) < CLASSES)
    known = sampler.init_noise((1, 12), CLASSES)
    known[0, 5] = 1
    assert (chain(sampler, 5, known, grid=(4, 3))[:, 0, 5] == 1).all()
