"""The sampling loop: caches are exact, two phases cost what they promise, committed actions stay, guidance adds up."""

import pytest
import torch

from hf_vpdd.errors import InputError
from hf_vpdd.modeling.vpdd import VPDDForRobotPolicy, VPDDForVideoPrediction
from hf_vpdd.modeling.vpdd.sampling import Modality, denoise
from hf_vpdd.schedulers import SAMPLERS, EntropyBoundScheduler, build_sampler

from .small import small_batch, small_config
from .test_official_variants import batch_of, scaled_down


KINDS = ("small", "metaworld", "rlbench", "rlbench-released")
NO_DROPOUT = {"head_dropout": 0.0, "trunk_dropout": 0.0}


def policy_of(kind: str, **overrides):
    """(model in eval mode, inputs of a plan)."""
    torch.manual_seed(1)
    config = small_config(**overrides) if kind == "small" else scaled_down(kind, **{"truncation": None, **overrides})
    batch = small_batch(config) if kind == "small" else batch_of(config)
    labels = ("video_codes", "actions", "actions_is_pad")
    model = VPDDForRobotPolicy(config).eval()
    return model, {name: value for name, value in batch.items() if name not in labels}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Calls:
    """Counts the calls of some methods and keeps their first argument; the methods still do their work."""

    def __init__(self, **methods):
        self.seen = {label: [] for label in methods}
        for label, (owner, name) in methods.items():
            setattr(owner, name, self._watch(getattr(owner, name), self.seen[label]))

    @staticmethod
    def _watch(method, seen):
        def watched(*args, **kwargs):
            seen.append(args[0])
            return method(*args, **kwargs)

        return watched

    def count(self) -> dict[str, int]:
        return {label: len(seen) for label, seen in self.seen.items()}


def uncached_head(model, actions, timesteps, hidden, head_context):
    """The head's forward as training runs it, the whole sequence at once (no dropout in these configurations)."""
    model.action_head.train()
    logits = model.action_head(actions, timesteps, hidden, head_context)
    model.action_head.eval()
    return logits


def contexts(model, inputs):
    """What is fixed in a plan: (trunk's context, head's context), without the table of timesteps."""
    codes, prompt = model.model.encode_inputs(
        inputs.get("pixel_values"), inputs["history_codes"], inputs["input_ids"], inputs["attention_mask"], None
    )
    context = model.model.encode_context(prompt, codes, inputs.get("pixel_values"))
    views = codes.shape[1]
    return context, model.head_context(context, prompt, inputs.get("state"), inputs.get("pixel_values"), views)


# ---- exact caches --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_cached_head_equals_the_whole_forward(kind):
    model, inputs = policy_of(kind, **NO_DROPOUT)
    config = model.config
    _, head_context = contexts(model, inputs)
    hidden = torch.randn(2, config.num_views, config.video_tokens, config.hidden_size)
    timesteps = torch.tensor([7, 80])
    with torch.no_grad():
        forecast = model.action_head.encode_forecast(timesteps, hidden, head_context)
        for seed in range(3):  # one prefix, several passes
            shape = (2, config.chunk_size, config.action_dim)
            actions = torch.randint(config.num_action_bins + 1, shape, generator=seeded(seed))
            expected = uncached_head(model, actions, timesteps, hidden, head_context)
            assert torch.allclose(model.action_head.decode(actions, forecast), expected, atol=1e-5)
            assert torch.allclose(model.action_head(actions, timesteps, hidden, head_context), expected, atol=1e-5)


def plain_joint_chain(model, inputs, steps, temperature, video_temperature, generator):
    """The joint ancestral chain written out, with nothing cached."""
    config, scheduler = model.config, model.scheduler
    bins, size = config.num_action_bins, config.vqvae_config.codebook_size
    codes = scheduler.init_noise(inputs["history_codes"].flatten(1).shape, size)
    actions = scheduler.init_noise((2, config.chunk_size * config.action_dim), bins)
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        context, head_context = contexts(model, inputs)
        times = t.expand(2)
        video = model.model.denoise(codes.unflatten(1, (config.num_views, -1)), times, context)
        logits = uncached_head(model, actions.view(2, config.chunk_size, -1), times, video.hidden_states, head_context)
        codes = scheduler.step(video.logits.flatten(1, 2), t, codes, size, video_temperature, generator).prev_sample
        actions = scheduler.step(logits.flatten(1, 2), t, actions, bins, temperature, generator).prev_sample
    return actions, codes


@pytest.mark.parametrize("kind", KINDS)
def test_the_joint_chain_equals_the_plain_loop(kind):
    model, inputs = policy_of(kind, **NO_DROPOUT)
    with torch.no_grad():
        actions, codes = plain_joint_chain(model, inputs, 5, 0.7, 1.0, seeded(3))
    plan = model.sample_actions(
        **inputs, num_inference_steps=5, temperature=0.7, video_temperature=1.0, generator=seeded(3)
    )
    assert torch.equal(plan.actions.flatten(1), actions)
    assert torch.equal(plan.video_codes.flatten(1), codes)


@pytest.mark.parametrize("kind", KINDS)
def test_two_phases_equal_the_plain_loop(kind):
    """Video chain alone; then actions at the states and the timestep of its last evaluation, the head run whole."""
    model, inputs = policy_of(kind, **NO_DROPOUT)
    config, scheduler, generator = model.config, model.scheduler, seeded(4)
    codes = model.scheduler.init_noise(inputs["history_codes"].flatten(1).shape, config.vqvae_config.codebook_size)
    context, head_context = contexts(model, inputs)
    with torch.no_grad():
        scheduler.set_timesteps(2)
        for t in scheduler.timesteps:
            times = t.expand(2)
            video = model.model.denoise(codes.unflatten(1, (config.num_views, -1)), times, context)
            size = config.vqvae_config.codebook_size
            codes = scheduler.step(video.logits.flatten(1, 2), t, codes, size, 1.0, generator).prev_sample
        bins = config.num_action_bins
        actions = scheduler.init_noise((2, config.chunk_size * config.action_dim), bins)
        scheduler.set_timesteps(3)
        for t in scheduler.timesteps:
            noisy = actions.view(2, config.chunk_size, -1)
            logits = uncached_head(model, noisy, times, video.hidden_states, head_context)
            actions = scheduler.step(logits.flatten(1, 2), t, actions, bins, 1.0, generator).prev_sample
    calls = Calls(
        trunk=(model.model.trunk, "forward"),
        prefix=(model.action_head, "encode_forecast"),
        passes=(model.action_head, "decode"),
    )
    plan = model.sample_actions(**inputs, num_inference_steps=2, action_steps=3, temperature=1.0, generator=seeded(4))
    assert torch.equal(plan.actions.flatten(1), actions) and torch.equal(plan.video_codes.flatten(1), codes)
    assert calls.count() == {"trunk": 2, "prefix": 1, "passes": 3}


@pytest.mark.parametrize("kind", ["metaworld", "rlbench"])
def test_a_pass_of_the_second_phase_costs_the_action_tokens_alone(kind):
    model, inputs = policy_of(kind)
    widths: list[list[int]] = [[] for _ in model.action_head.transformer.h]
    for block, seen in zip(model.action_head.transformer.h, widths):
        block.mlp.register_forward_pre_hook(lambda module, args, seen=seen: seen.append(args[0].shape[1]))
    model.sample_actions(**inputs, num_inference_steps=3, action_steps=2)
    tokens = model.config.chunk_size * model.config.action_dim
    prefix = model.action_head.sequence_length(model.config) - tokens
    assert widths[0] == [prefix, tokens, tokens]
    assert widths[-1] == [tokens, tokens]  # of the prefix, the last block owes only keys and values


def test_timesteps_are_embedded_once_a_plan():
    model, inputs = policy_of("metaworld")
    rows: list[int] = []
    for part in (model.model.trunk, model.action_head):
        part.timestep_embed.register_forward_hook(lambda module, args, output: rows.append(len(output)))
    model.sample_actions(**inputs, num_inference_steps=6)
    assert rows == [6, 6]


# ---- every sampler, every model -------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
@pytest.mark.parametrize("kind", ["small", "metaworld", "rlbench"])
@pytest.mark.parametrize("action_steps", [None, 2])
def test_every_sampler_gives_legal_repeatable_plans(kind, sampler, action_steps):
    model, inputs = policy_of(kind)
    options = {"num_inference_steps": 4, "action_steps": action_steps, "temperature": 1.0, "sampler": sampler}
    plan = model.sample_actions(**inputs, **options, generator=seeded(3))
    assert 0 <= plan.actions.min() and plan.actions.max() < model.config.num_action_bins
    assert 0 <= plan.video_codes.min() and plan.video_codes.max() < model.config.vqvae_config.codebook_size
    assert plan.video_codes.shape == inputs["history_codes"].shape
    again = model.sample_actions(**inputs, **options, generator=seeded(3))
    assert torch.equal(plan.actions, again.actions) and torch.equal(plan.video_codes, again.video_codes)
    # each row with a generator of its own does not depend on its company
    together = model.sample_actions(**inputs, **options, generator=[seeded(1), seeded(2)])
    alone = {name: value[1:] for name, value in inputs.items()}
    alone = model.sample_actions(**alone, **options, generator=[seeded(2)])
    assert torch.equal(together.actions[1:], alone.actions)
    assert torch.equal(together.video_codes[1:], alone.video_codes)


@pytest.mark.parametrize("sampler", [None, *sorted(SAMPLERS)])
def test_video_of_several_clips_goes_on_from_the_last(sampler):
    """Of both models; the small trunk reads pixels too, so that each imagined clip is decoded for the next."""
    config = small_config(num_views=2)
    batch = {k: v for k, v in small_batch(config).items() if k in ("pixel_values", "input_ids", "attention_mask")}
    for model in (VPDDForVideoPrediction(config).eval(), VPDDForRobotPolicy(config).eval()):
        stream = seeded(5)
        options = {"sampler": sampler, "num_inference_steps": 3}
        first = model.sample_video(**batch, **options, generator=stream)
        pixels = model.model.decode_video(first)
        assert pixels.shape == batch["pixel_values"].shape
        rest = {**batch, "pixel_values": pixels, "history_codes": first}
        second = model.sample_video(**rest, **options, generator=stream)
        both = model.sample_video(**batch, **options, num_clips=2, generator=seeded(5))
        assert both.shape == (2, 2, 2 * config.latent_shape[0], *config.latent_shape[1:])
        assert torch.equal(both, torch.cat((first, second), dim=2))


def test_an_adaptive_sampler_may_finish_early():
    model, inputs = policy_of("small")
    calls = Calls(trunk=(model.model.trunk, "forward"))
    eager = EntropyBoundScheduler.from_config(model.scheduler.config)
    eager.register_to_config(entropy_bound=1e9)
    plan = model.sample_actions(**inputs, num_inference_steps=9, scheduler=eager)
    assert calls.count() == {"trunk": 1} and plan.actions.max() < model.config.num_action_bins


def test_the_callback_looks_changes_and_stops():
    model, inputs = policy_of("small")
    seen = []

    def look(index, timestep, tensors):
        seen.append((index, int(timestep), {name: tuple(tensor.shape) for name, tensor in tensors.items()}))

    model.sample_actions(**inputs, num_inference_steps=3, action_steps=2, callback_on_step_end=look)
    assert [index for index, *_ in seen] == [0, 1, 2, 3, 4]
    shapes = {"video_codes": tuple(inputs["history_codes"].shape), "actions": (2, 3, 4)}
    assert all(shape == shapes for *_, shape in seen)

    def change(index, timestep, tensors):
        return {"actions": torch.full_like(tensors["actions"], 2)} if index == 3 else None

    plan = model.sample_actions(**inputs, sampler="confidence", num_inference_steps=4, callback_on_step_end=change)
    assert (plan.actions == 2).all()
    for options in ({}, {"action_steps": 2}):
        steps = []

        def stop(index, timestep, tensors, steps=steps):
            steps.append(index)
            return {"interrupt": index == 0}

        plan = model.sample_actions(**inputs, num_inference_steps=9, callback_on_step_end=stop, **options)
        assert plan.actions.max() < model.config.num_action_bins  # what was masked took the latest guess
        assert plan.video_codes.max() < model.config.vqvae_config.codebook_size
        assert len(steps) == (2 if options else 1)  # two phases: one pass for the actions they still owe


@pytest.mark.parametrize("kind", KINDS)
def test_steps_compile_to_one_graph_each(kind):
    model, inputs = policy_of(kind)
    options = {"num_inference_steps": 2, "action_steps": 2, "temperature": 1.0}
    before = model.sample_actions(**inputs, **options, generator=seeded(2))
    model.compile_steps(backend="eager")
    after = model.sample_actions(**inputs, **options, generator=seeded(2))
    assert torch.equal(before.actions, after.actions) and torch.equal(before.video_codes, after.video_codes)
    joint = model.sample_actions(**inputs, num_inference_steps=2, generator=seeded(2))
    assert joint.actions.max() < model.config.num_action_bins


@pytest.mark.parametrize("kind", ["small", "metaworld", "rlbench"])
def test_half_precision_samples(kind):
    model, inputs = policy_of(kind, instruction_dropout=0.1)
    model.to(torch.bfloat16)
    inputs = {name: value.bfloat16() if value.is_floating_point() else value for name, value in inputs.items()}
    for options in ({"sampler": "confidence"}, {"action_steps": 2, "guidance_scale": 2.0}):
        plan = model.sample_actions(**inputs, num_inference_steps=2, **options)
        assert plan.actions.max() < model.config.num_action_bins


# ---- committed actions ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["small", "metaworld", "rlbench"])
@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
@pytest.mark.parametrize("action_steps", [None, 2])
def test_committed_actions_come_out_unchanged_and_are_seen_at_every_step(kind, sampler, action_steps):
    model, inputs = policy_of(kind, **NO_DROPOUT)
    config = model.config
    committed = torch.randint(config.num_action_bins, (2, 2, config.action_dim), generator=seeded(8))
    calls = Calls(decode=(model.action_head, "decode"))
    options = {"num_inference_steps": 3, "action_steps": action_steps, "temperature": 1.0, "sampler": sampler}
    plans = [
        model.sample_actions(**inputs, **options, committed_actions=committed, generator=seeded(seed)).actions
        for seed in range(4)
    ]
    for actions in plans:
        assert torch.equal(actions[:, :2], committed)
        assert actions.max() < config.num_action_bins
    assert any(not torch.equal(plans[0], other) for other in plans[1:])  # the rest is sampled
    for seen in calls.seen["decode"]:
        assert torch.equal(seen[:, :2], committed)
    assert (calls.seen["decode"][0][:, 2:] == config.num_action_bins).all()


def test_nothing_committed_is_an_ordinary_plan():
    model, inputs = policy_of("small")
    none = model.sample_actions(**inputs, generator=seeded())
    empty = torch.zeros(2, 0, 4, dtype=torch.int64)
    assert torch.equal(
        none.actions, model.sample_actions(**inputs, committed_actions=empty, generator=seeded()).actions
    )


@pytest.mark.parametrize("name, steps", [("ancestral", 50), ("halton", 2), ("entropy_bound", 2)])
def test_the_rest_is_drawn_from_the_right_conditional(name, steps):
    """Three tokens with a known joint distribution; the network is replaced by its exact conditionals. With the first
    token committed, one-by-one samplers must reproduce p(b, c | a), the ancestral one up to rare joint reveals."""
    classes, rows = 3, 30_000
    joint = torch.rand(classes, classes, classes, generator=seeded(2), dtype=torch.float64) ** 3
    joint /= joint.sum()
    sampler = build_sampler(name, {"truncation": None, "replace_mass": 0.0, "entropy_bound": 0.0})
    committed = torch.randint(classes, (rows, 1), generator=seeded(1))
    start = torch.cat((committed, sampler.init_noise((rows, 2), classes)), dim=1)
    part = Modality(start, classes, 1.0, fixed=1)

    def evaluate(timesteps):
        """log p(x_i | the visible tokens), of every row and position."""
        shown = torch.nn.functional.one_hot(part.sample, classes + 1).double()
        allowed = shown[..., :classes] + shown[..., classes:]  # a masked token may be anything
        table = torch.einsum("abc,na,nb,nc->nabc", joint, *allowed.unbind(1))
        marginals = torch.stack([table.sum((2, 3)), table.sum((1, 3)), table.sum((1, 2))], dim=1)
        return {"actions": marginals.clamp(min=1e-30).log().float()}

    denoise(sampler, steps, {"actions": part}, evaluate, seeded(9), lambda timestep: False)
    assert torch.equal(part.sample[:, :1], committed)
    counts = torch.zeros(classes, classes, classes, dtype=torch.float64)
    counts.index_put_(tuple(part.sample.unbind(1)), torch.ones(rows, dtype=torch.float64), accumulate=True)
    found = counts / counts.sum((1, 2), keepdim=True)
    right = joint / joint.sum((1, 2), keepdim=True)
    independent = right.sum(2, keepdim=True) * right.sum(1, keepdim=True)
    distance = (found - right).abs().sum((1, 2)).max() / 2
    assert distance < 0.02
    assert (independent - right).abs().sum((1, 2)).max() / 2 > 0.1  # what drawing both at once would give


# ---- guidance ------------------------------------------------------------------------------------------------------


def test_guidance_is_the_sum_of_two_plans_logits():
    model, inputs = policy_of("small", instruction_dropout=0.1)
    context, head_context = contexts(model, inputs)
    with torch.no_grad():
        prompt = model.model.embed_prompt(inputs["input_ids"], inputs["attention_mask"])
        logits = []
        for embedding in (prompt, torch.zeros_like(prompt)):
            codes = inputs["history_codes"]
            context = model.model.encode_context(embedding, codes, inputs["pixel_values"])
            head = model.head_context(context, embedding, inputs["state"], inputs["pixel_values"], 1)
            times = torch.full((2,), 99)
            noisy = torch.full(codes.flatten(2).shape, 12)
            video = model.model.denoise(noisy, times, context)
            actions = model.action_head(torch.full((2, 3, 4), 7), times, video.hidden_states, head)
            logits.append((video.logits, actions))
    (video, actions), (video_without, actions_without) = logits
    for scale in (0.0, 2.5):
        plan = model.sample_actions(
            **inputs, num_inference_steps=1, temperature=0.0, video_temperature=0.0, guidance_scale=scale
        )
        expected = video_without + scale * (video - video_without)
        assert torch.equal(plan.video_codes.flatten(1), expected.argmax(-1).flatten(1))
        expected = actions_without + scale * (actions - actions_without)
        assert torch.equal(plan.actions, expected.argmax(-1))


@pytest.mark.parametrize("kind", ["small", "metaworld", "rlbench"])
def test_guidance_runs_one_doubled_batch_and_none_costs_nothing(kind):
    model, inputs = policy_of(kind, instruction_dropout=0.1)
    calls = Calls(trunk=(model.model.trunk, "forward"), head=(model.action_head, "decode"))
    for options in ({}, {"action_steps": 2}):
        for scale, rows in ((1.0, 2), (3.0, 4)):
            model.sample_actions(**inputs, num_inference_steps=2, guidance_scale=scale, **options)
            assert {len(seen) for seen in calls.seen["trunk"]} == {rows * model.config.num_views}
            assert {len(seen) for seen in calls.seen["head"]} == {rows}
            for seen in calls.seen.values():
                seen.clear()
    # without any weight on the instruction, it does not matter what was said
    plans = [
        model.sample_actions(**{**inputs, "input_ids": ids}, guidance_scale=0.0, generator=seeded())
        for ids in (inputs["input_ids"], inputs["input_ids"].flip(0))
    ]
    assert torch.equal(plans[0].video_codes, plans[1].video_codes)


def test_instruction_dropout_hides_whole_instructions_in_training_only():
    config = small_config(instruction_dropout=0.5, replace_mass=1e-6)  # so that t = 99 masks everything
    batch = small_batch(config, batch=64)
    batch["input_ids"][1:] = batch["input_ids"][:1]
    for cls in (VPDDForRobotPolicy, VPDDForVideoPrediction):
        torch.manual_seed(0)
        model = cls(config).train()
        wanted = ("pixel_values", "history_codes", "video_codes", "input_ids", "attention_mask")
        inputs = batch if cls is VPDDForRobotPolicy else {name: batch[name] for name in wanted}
        # every row the same question, so rows differ by their instruction alone
        same = {name: value[:1].expand(64, *value.shape[1:]) for name, value in inputs.items()}
        same["timesteps"] = torch.full((64,), config.num_train_timesteps - 1)

        def answers(seed, model=model, same=same):
            with torch.no_grad():
                return model(**same, generator=seeded(seed)).video_logits.flatten(1)

        first = answers(0)
        hidden = (first - first[0]).abs().amax(1) > 1e-4
        assert 16 <= int(hidden.sum()) <= 48 and torch.equal(first, answers(0))
        assert not torch.allclose(first, answers(1), atol=1e-4)
        model.eval()
        whole = answers(0)
        assert torch.allclose(whole, whole[:1].expand_as(whole), atol=1e-5)
    with pytest.raises(Exception, match="instruction_dropout"):
        small_config(instruction_dropout=1.0)


def test_without_instruction_dropout_training_draws_nothing_more():
    batch = small_batch(small_config())
    states = []
    for rate in (0.0, 0.3):
        generator = seeded()
        VPDDForRobotPolicy(small_config(instruction_dropout=rate)).train()(**batch, generator=generator)
        states.append(generator.get_state())
    expected = seeded()
    model = VPDDForRobotPolicy(small_config()).eval()  # evaluation never drops
    model(**batch, generator=expected)
    assert torch.equal(states[0], expected.get_state()) and not torch.equal(states[1], expected.get_state())


# ---- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"sampler": "beam"}, "sampler: 'beam' is none of ancestral, confidence, entropy_bound, halton"),
        ({"sampler": "halton", "scheduler": EntropyBoundScheduler()}, "a name or an object"),
        ({"num_inference_steps": 0}, r"num_inference_steps: must lie in 1\.\.100, got 0"),
        ({"num_inference_steps": 101}, "num_inference_steps"),
        ({"num_inference_steps": 2.5}, "num_inference_steps"),
        ({"action_steps": 0}, "action_steps"),
        ({"action_steps": 101}, "action_steps"),
        ({"guidance_scale": 2.0}, "instruction_dropout = 0"),
        ({"guidance_scale": float("nan")}, "guidance_scale"),
        ({"guidance_scale": -1.0}, "guidance_scale"),
        ({"committed_actions": torch.zeros(2, 3, 4, dtype=torch.int64)}, "n < 3"),
        ({"committed_actions": torch.zeros(2, 1, 3, dtype=torch.int64)}, r"\(B, n, 4\)"),
        ({"committed_actions": torch.zeros(2, 4, dtype=torch.int64)}, r"\(B, n, 4\)"),
        ({"committed_actions": torch.full((2, 1, 4), 7)}, r"0\.\.6"),
        ({"committed_actions": torch.full((2, 1, 4), -1)}, r"0\.\.6"),
        ({"committed_actions": torch.zeros(2, 1, 4)}, "integers"),
        ({"committed_actions": torch.zeros(3, 1, 4, dtype=torch.int64)}, "batch sizes differ: .*committed_actions 3"),
        ({"state": torch.zeros(1, 4)}, "batch sizes differ: .*state 1"),
        ({"input_ids": None, "attention_mask": None, "prompt_embeds": torch.zeros(5, 16)}, "prompt_embeds 5"),
        ({"history_codes": torch.zeros(3, 1, 1, 4, 4, dtype=torch.int64)}, "history_codes 3"),
        ({"history_codes": torch.full((2, 1, 1, 4, 4), 12)}, r"outside of this tokenizer's 0\.\.11"),
        ({"history_codes": torch.zeros(2, 1, 1, 4, 5, dtype=torch.int64)}, "expected integer codes"),
        ({"history_codes": torch.zeros(2, 2, 1, 4, 4, dtype=torch.int64)}, r"sees 1 camera\(s\), in its order; got 2"),
        ({"temperature": -1.0}, "temperature"),
    ],
)
def test_impossible_requests_are_named(options, says):
    model, inputs = policy_of("small")
    with pytest.raises(InputError, match=says):
        model.sample_actions(**{**inputs, **options})


@pytest.mark.parametrize(
    ("options", "says"),
    [({"num_clips": 0}, "num_clips"), ({"guidance_scale": 3.0}, "instruction_dropout"), ({"sampler": "x"}, "sampler")],
)
def test_impossible_videos_are_named(options, says):
    config = small_config()
    batch = {k: v for k, v in small_batch(config).items() if k in ("pixel_values", "input_ids", "attention_mask")}
    with pytest.raises(InputError, match=says):
        VPDDForVideoPrediction(config).eval().sample_video(**batch, **options)


def test_behaviour_cloning_has_no_chain():
    model, inputs = policy_of("small", action_objective="regression", instruction_dropout=0.1)
    for options in (
        {"sampler": "halton"},
        {"action_steps": 2},
        {"committed_actions": torch.zeros(2, 1, 4, dtype=torch.int64)},
        {"guidance_scale": 2.0},
    ):
        with pytest.raises(InputError, match="behaviour cloning"):
            model.sample_actions(**inputs, **options)
    with pytest.raises(InputError, match="imagines no future"):
        model.sample_video(input_ids=inputs["input_ids"], history_codes=inputs["history_codes"])


def test_training_names_mixed_batches_too():
    config = small_config()
    batch = small_batch(config)
    with pytest.raises(InputError, match="batch sizes differ: .*actions 1"):
        VPDDForRobotPolicy(config)(**{**batch, "actions": batch["actions"][:1]})
    with pytest.raises(InputError, match="batch sizes differ: .*video_codes 1"):
        names = ("pixel_values", "input_ids", "attention_mask", "history_codes")
        VPDDForVideoPrediction(config)(video_codes=batch["video_codes"][:1], **{name: batch[name] for name in names})
