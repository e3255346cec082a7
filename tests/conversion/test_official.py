"""Whole official checkpoints (recipe weights) through the converter. tests/modeling compares the fine-tuned networks'
numbers, which come the same way; here: every tensor accounted for, the sizes found, and the pre-trained numbers."""

import pytest
import torch

from hf_vpdd.conversion.vpdd_sizes import official_schedule
from tests.modeling.official import GOLDENS, Reference, convert, manifest, official
from tests.modeling.test_official_architecture import check_video, denoise


# what saving and loading add, and the tower that these files do not have
_NOT_COMPARED = {
    "_name_or_path", "architectures", "dtype", "has_text_tower", "text_config", "transformers_version", "vqvae_config",
}  # fmt: skip


def fields(config) -> dict:
    return {name: value for name, value in config.to_dict().items() if name not in _NOT_COMPARED}


def check(model: str):
    """Converts; every tensor is in the report, and the configuration is the official one, found in the file alone."""
    network, report = convert(model)
    assert report.kept + len(report.dropped) == len(manifest(model))
    _, expected, rename = official(model)
    assert report.dropped == rename(manifest(model)).dropped
    assert fields(network.config) == fields(expected)
    if model != "vqvae":
        assert fields(network.config.vqvae_config) == fields(expected.vqvae_config)
        assert network.config.prompt_size == 1024
    return network


@pytest.mark.parametrize("model", ["vqvae", "finetune_meta", "finetune_rlbench"])
def test_every_tensor_and_every_size(model):
    check(model)


def test_pretrained_model_gives_the_official_forecast():
    network = check("pretrain_meta")
    assert network.config.num_action_bins == 48  # not in any shape: from the schedule
    reference = Reference("goldens")
    output = denoise(network, reference, "pretrain_meta")[-1]
    check_video(reference, "pretrain_meta", "pretrain_meta", output)


@pytest.mark.skipif(not (GOLDENS / "vpdd_diffusion.npz").is_file(), reason="needs the golden folder")
@pytest.mark.parametrize(("model", "bins"), [("finetune_meta", 48), ("finetune_rlbench", 360)])
def test_schedule_is_the_official_one(model, bins):
    import numpy as np

    file = np.load(GOLDENS / "vpdd_diffusion.npz")
    ours = official_schedule(100, 2048, bins)
    stored = {name: file[f"fixed/{model}/{name}"] for name in ours}
    assert len(stored) == 10
    for name, values in stored.items():
        torch.testing.assert_close(ours[name].float(), torch.from_numpy(values), atol=1e-5, rtol=0, msg=name)
