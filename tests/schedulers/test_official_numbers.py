"""The diffusion against the official implementation's numbers."""

from pathlib import Path

import numpy as np
import pytest
import torch

from hf_vpdd.schedulers import MaskAndReplaceScheduler
from tests.modeling.official import GOLDENS as OFFICIAL
from tests.modeling.official import build


GOLDENS = np.load(Path(__file__).parents[1] / "fixtures" / "vpdd_diffusion_small.npz")


def golden(name):
    return torch.from_numpy(GOLDENS[name])


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


# ---- whole losses, from the networks' outputs (needs the whole golden set) ------------------------------------------


@pytest.fixture(scope="module")
def whole():
    path = OFFICIAL / "vpdd_diffusion.npz"
    if not path.is_file():
        pytest.skip(f"the whole golden set is not at {OFFICIAL}: set HF_VPDD_GOLDENS to its folder")
    file = np.load(path)
    return lambda name: torch.from_numpy(file[name].astype(np.int64) if file[name].dtype == np.int16 else file[name])


@pytest.fixture(scope="module")
def policy():
    return build("finetune_meta")


@pytest.mark.parametrize("case", ["loss_pretrain_meta", "loss_finetune_meta"])
def test_every_loss_term_of_the_official_networks(whole, policy, case):
    scheduler = MaskAndReplaceScheduler()
    t, p = whole(f"{case}/timesteps"), whole(f"{case}/p_t")
    (video, actions), (noisy, noisy_actions) = (whole(f"{case}/{x}").split((576, 16), 1) for x in ("x_0", "x_t"))
    noisy = torch.where(noisy == 2096, 2048, noisy)
    with torch.no_grad():
        prompt = whole(f"{case}/prompt")
        context = policy.model.encode_context(prompt, whole(f"{case}/history")[:, None], None)
        output = policy.model.denoise(noisy[:, None], t, context)
        if "finetune" in case:
            head = policy.head_context(context, prompt, None, None, 1)
            logits = policy.action_head((noisy_actions - 2048).view(-1, 4, 4), t, output.hidden_states, head)
            logits = logits.flatten(1, 2)
        else:  # the released pre-training: constant logits for constant targets
            logits = torch.zeros(len(t), 16, 48)
    parts = [
        scheduler.loss(output.logits[:, 0], video, noisy, t, 2048, p),
        scheduler.loss(logits, actions - 2048, noisy_actions - 2048, t, 48, p),
    ]
    for name in ("kl", "nll", "aux"):
        mine = torch.cat([getattr(part, name) for part in parts], 1)
        # the logits differ by up to 5e-4 already
        torch.testing.assert_close(mine.float(), whole(f"{case}/{name}_per_position"), rtol=1e-4, atol=5e-4)
        torch.testing.assert_close(mine.sum(1).float(), whole(f"{case}/{name}"), rtol=1e-4, atol=1e-6)
    total = parts[0].per_sample + parts[1].per_sample
    torch.testing.assert_close(total, whole(f"{case}/per_sample_total"), rtol=1e-4, atol=0)
    loss = (parts[0].loss * 576 + parts[1].loss * 16) / 592
    torch.testing.assert_close(loss, whole(f"{case}/loss"), rtol=1e-4, atol=0)
    scheduler.update_importance(t, parts[0].variational + parts[1].variational)
    torch.testing.assert_close(scheduler.Lt_history[t].float(), whole(f"{case}/Lt_history_at_t"), rtol=2e-4, atol=0)
    torch.testing.assert_close(scheduler.Lt_count[t].float(), whole(f"{case}/Lt_count_at_t"))
