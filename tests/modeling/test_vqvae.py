import pytest
import torch

from hf_vpdd.modeling.vqvae import VPDDVQVAE, VPDDVQVAEConfig
from hf_vpdd.modeling.vqvae.codebook import EMACodebook


def config(**overrides):
    return VPDDVQVAEConfig(
        **{
            "variant": "conv_2d",
            "image_size": 16,
            "clip_frames": 1,
            "codebook_size": 12,
            "codebook_dim": 8,
            "hidden_size": 16,
            "num_res_layers": 1,
            "downsample": [1, 4, 4],
            **overrides,
        }
    )


def test_codes_and_pixels_have_the_promised_shapes():
    model = VPDDVQVAE(config(clip_frames=3)).eval()
    video = torch.rand(2, 3, 3, 16, 16) - 0.5
    codes = model.encode(video)
    assert codes.shape == (2, 3, 4, 4) == (2, *model.config.latent_shape)
    assert codes.dtype == torch.int64 and codes.max() < 12
    assert model.decode(codes).shape == video.shape


def test_nearest_is_the_brute_force_nearest():
    book = EMACodebook(20, 5, 0.99, 1.0)
    g = torch.Generator().manual_seed(0)
    book.embeddings.copy_(torch.randn(20, 5, generator=g))
    latents = torch.randn(4, 3, 5, generator=g)
    brute = torch.tensor([[((book.embeddings - z) ** 2).sum(1).argmin() for z in row] for row in latents])
    assert torch.equal(book.nearest(latents), brute)


def test_codebook_moves_to_the_mean_of_its_latents():
    """With a constant input every used code converges to the vectors assigned to it, and unused ones are re-seeded."""
    torch.manual_seed(0)
    book = EMACodebook(8, 2, 0.5, 0.01).train()
    centres = torch.tensor([[0.0, 5.0], [5.0, 0.0], [-5.0, -5.0]])
    for step in range(40):
        latents = centres.repeat(20, 1) + 0.01 * torch.randn(60, 2, generator=torch.Generator().manual_seed(step))
        codes, quantised, _ = book(latents, torch.Generator().manual_seed(step))
    assert (quantised - centres.repeat(20, 1)).abs().max() < 0.1


def test_loaded_codebook_is_not_seeded_again(tmp_path):
    model = VPDDVQVAE(config()).train()
    video = torch.rand(2, 3, 1, 16, 16) - 0.5
    model(video, generator=torch.Generator().manual_seed(0))
    model.save_pretrained(tmp_path)
    loaded, info = VPDDVQVAE.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    for (name, ours), theirs in zip(model.state_dict().items(), loaded.state_dict().values()):
        assert torch.equal(ours, theirs), name
    assert bool(loaded.codebook.initialized)
    before = loaded.codebook.embeddings.clone()
    loaded.train()(video, generator=torch.Generator().manual_seed(1))
    # a moving average with decay 0.99 moves a live code a little; a re-seeded codebook would be all new
    live = loaded.codebook.cluster_size >= 1
    assert (loaded.codebook.embeddings - before)[live].abs().max() < 0.5 * before[live].abs().max()


def test_training_restores_a_picture():
    torch.manual_seed(0)
    model = VPDDVQVAE(config(codebook_size=32)).train()
    video = torch.rand(4, 3, 1, 4, 4).sub(0.5).repeat_interleave(4, -1).repeat_interleave(4, -2)
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    first = None
    for step in range(60):
        output = model(video, generator=torch.Generator().manual_seed(step))
        first = first or output.reconstruction_loss.item()
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert output.reconstruction_loss.item() < 0.3 * first


def test_pixel_weights_scale_the_error():
    model = VPDDVQVAE(config()).eval()
    video = torch.rand(2, 3, 1, 16, 16) - 0.5
    plain = model(video).reconstruction_loss
    assert torch.allclose(model(video, pixel_weights=torch.tensor(2.0)).reconstruction_loss, 2 * plain)


@pytest.mark.parametrize(
    "wrong, word",
    [
        ({"variant": "gan"}, "variant"),
        ({"downsample": [1, 3, 3]}, "powers of two"),
        ({"downsample": [2, 4, 4], "clip_frames": 2}, "conv_2d"),
        ({"image_size": 18}, "divisible"),
    ],
)
def test_impossible_sizes_are_refused(wrong, word):
    with pytest.raises(Exception, match=word):
        config(**wrong)
