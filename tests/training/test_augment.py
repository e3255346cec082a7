"""Augmentations: bounded, drawn from the generator, off when they should be."""

import torch

from hf_vpdd.training.augment import InstructionSampler, color_jitter


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_color_jitter_changes_samples_differently_and_stays_in_range():
    frame = torch.rand(1, 2, 3, 8, 8) - 0.5
    pixels = frame.expand(4, -1, -1, -1, -1)
    out = color_jitter(pixels, 0.4, generator())
    assert out.shape == pixels.shape and out.min() >= -0.5 and out.max() <= 0.5
    assert not torch.allclose(out[0], out[1])
    torch.testing.assert_close(out, color_jitter(pixels, 0.4, generator()))
    assert color_jitter(pixels, 0.0, generator()) is pixels
    # one draw for all frames of a sample: a grey clip that stands still goes on standing still
    still = torch.full((3, 4, 3, 5, 5), 0.1)
    jittered = color_jitter(still, 0.5, generator())
    assert torch.equal(jittered[:, 0], jittered[:, 3])


def test_paraphrases_replace_about_the_asked_share_and_never_another_task():
    sentences = [["a", "a1", "a2"], ["b"], ["c", "c1"]]
    ids = {s: i for i, s in enumerate(s for group in sentences for s in group)}

    def tokenize(flat):
        column = torch.tensor([[ids[s]] for s in flat])
        return {"input_ids": column, "attention_mask": torch.ones_like(column)}

    sampler = InstructionSampler(sentences, tokenize, paraphrase_prob=0.5)
    tasks = torch.arange(3).repeat(2000)
    chosen = sampler(tasks, generator())["input_ids"].view(-1, 3)
    assert set(chosen[:, 0].tolist()) == {0, 1, 2} and set(chosen[:, 1].tolist()) == {3}
    assert set(chosen[:, 2].tolist()) == {4, 5}
    assert 0.45 < (chosen[:, 2] == 5).float().mean() < 0.55
    assert 0.2 < (chosen[:, 0] == 1).float().mean() < 0.3
    plain = sampler(tasks)["input_ids"].view(-1, 3)
    assert (plain == torch.tensor([0, 3, 4])).all()
