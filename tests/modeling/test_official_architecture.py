"""The official architecture by configuration alone: every tensor accounted for, and the official numbers come out."""

import json
import re

import pytest
import torch

from hf_vpdd.conversion.vpdd_names import NOT_IN_CHECKPOINT, convert_tensors, rename_policy, rename_vqvae
from hf_vpdd.modeling.vpdd import VPDDConfig, VPDDForRobotPolicy

from .official import GOLDENS, Reference, build, clip, manifest, official, recipe_tensor, rlbench_images


MODELS = ("vqvae", "pretrain_meta", "finetune_meta", "finetune_rlbench")


def close(ours: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    assert ours.shape == expected.shape
    error = (ours.double() - expected.double()).abs().max().item()
    assert error <= tolerance, f"off by {error:.2e}, allowed {tolerance:.0e}"


# --- names and shapes, on the meta device ---------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
def test_every_official_tensor_has_its_place(model):
    cls, config, rename = official(model, text_config=VPDDConfig.metaworld().text_config)
    with torch.device("meta"):
        network = cls(config)
    ours = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}

    renaming = rename(manifest(model))
    assert not renaming.unknown
    assert not renaming.kept.keys() & renaming.dropped.keys()
    assert renaming.kept.keys() | renaming.dropped.keys() == manifest(model).keys()
    assert all(renaming.dropped.values()), "a dropped tensor needs a reason"
    assert len(set(renaming.kept.values())) == len(renaming.kept), "two official tensors go to one place"

    theirs = {name: torch.empty(entry["shape"], device="meta") for name, entry in manifest(model).items()}
    converted = {name: tuple(tensor.shape) for name, tensor in convert_tensors(theirs, renaming).items()}
    assert {name: ours.get(name) for name in converted} == converted
    for name in ours.keys() - converted.keys():
        assert any(re.fullmatch(pattern, name) for pattern, _ in NOT_IN_CHECKPOINT), f"{name} has no source"


@pytest.mark.parametrize(
    ("model", "part", "count"),
    [
        ("vqvae", "", 30_861_827),
        ("pretrain_meta", "model.trunk.", 9_210_368),
        # of 6 897 166: without the unused propri_embed, cross_attn_1, self_attn and wte
        ("finetune_meta", "action_head.", 6_897_166 - 76_110 - 8 * (256 * 256 + 256) - 256),
        ("finetune_rlbench", "action_head.", 8_127_352 - 256),
    ],
)
def test_parameter_counts_of_the_paper(model, part, count):
    cls, config, _ = official(model)
    with torch.device("meta"):
        network = cls(config)
    assert sum(p.numel() for name, p in network.named_parameters() if name.startswith(part)) == count


def test_unknown_tensor_is_an_error_that_names_it():
    state = {"model.traj_model.latents": torch.zeros(4, 2), "model.traj_model.new_layer.weight": torch.zeros(1)}
    with pytest.raises(ValueError, match="new_layer"):
        convert_tensors(state, rename_policy(state))
    assert rename_vqvae(["encoder.convs.0.weight"]).unknown == ["encoder.convs.0.weight"]


def test_biases_of_attention_survive_the_mask_filter():
    renaming = rename_policy(manifest("finetune_meta"))
    assert "model.act_model.transformer.h.0.attn.c_attn.bias" in renaming.kept
    assert "model.act_model.transformer.h.0.attn.bias" in renaming.dropped


def test_bin_count_is_configuration():
    with torch.device("meta"):
        head = VPDDForRobotPolicy(VPDDConfig.metaworld(num_action_bins=256)).action_head
    assert [layer[2].out_features for layer in head.action_out] == [256] * 4


@pytest.mark.skipif(not GOLDENS.is_dir(), reason=f"no golden folder at {GOLDENS}; HF_VPDD_GOLDENS names another")
@pytest.mark.parametrize("model", MODELS)
def test_shipped_manifests_are_the_goldens(model):
    theirs = json.loads((GOLDENS / f"vpdd_{model}_keys.json").read_text())
    assert [t["name"] for t in theirs["tensors"]] == list(manifest(model))
    for entry in theirs["tensors"]:
        ours = manifest(model)[entry["name"]]
        assert {name: ours[name] for name in entry} == entry


# --- numbers: the official code's outputs under recipe weights -------------------------------------------------------


@pytest.fixture(scope="module", params=["slice", "goldens"])
def reference(request):
    return Reference(request.param)


@pytest.fixture(scope="module")
def vqvae():
    return build("vqvae")


@pytest.fixture(scope="module")
def metaworld():
    return build("finetune_meta")


@pytest.fixture(scope="module")
def rlbench():
    return build("finetune_rlbench")


def check_tokenizer(vqvae, reference, case, pixels):
    with torch.no_grad():
        latents = vqvae.latents(pixels).movedim(-1, 1)
        codes = vqvae.codebook.nearest(latents.movedim(1, -1))
        video = vqvae.decode(codes)
    assert torch.equal(pixels[:, :, :, ::16, ::16], reference[f"{case}/video_slice"])
    expected = reference[f"{case}/latents_slice"]
    close(latents[:, ::16, ..., :: reference.stride("latents_slice")], expected, 1e-4 * max(1, expected.abs().max()))
    assert (reference[f"{case}/margin"] > 1e-3).all()
    assert torch.equal(codes, reference[f"{case}/codes"])
    expected, stride = reference[f"{case}/recon_slice"], 3 * reference.stride("recon_slice")
    close(video[..., ::stride, ::stride], expected, 1e-4 * max(1, expected.abs().max()))


def test_tokenizer(vqvae, reference):
    check_tokenizer(vqvae, reference, "t4", clip("vqvae/t4", 2, 4)[: len(reference["t4/codes"])])


def test_tokenizer_takes_longer_clips_and_gives_the_official_losses(vqvae):
    reference = Reference("goldens")
    check_tokenizer(vqvae, reference, "t8", clip("vqvae/t8", 1, 8))
    output = vqvae(clip("vqvae/t4", 2, 4))
    ours = torch.stack((output.reconstruction_loss, output.commitment_loss, output.perplexity))
    assert torch.allclose(ours.double(), reference["t4/losses"], rtol=1e-4)
    decoded = vqvae.decode(reference["decode/ids"])[..., ::3, ::3]
    close(decoded, reference["decode/recon_slice"], 1e-4 * max(1, decoded.abs().max()))


def denoise(network, reference, case):
    """Runs the trunk on the first view. -> (the plan's context, the noisy action bins of x_t, the trunk's output)."""
    config = network.config
    noisy = reference[f"{case}/x_t"]
    codes, actions = noisy.split((config.video_tokens, noisy.shape[1] - config.video_tokens), dim=1)
    mask = 2048 + config.num_action_bins  # one MASK for both modalities there, one each here
    codes = torch.where(codes == mask, config.vqvae_config.codebook_size, codes)
    actions = (actions - 2048).unflatten(1, (config.chunk_size, config.action_dim))
    with torch.no_grad():
        context = network.model.encode_context(
            reference[f"{case}/prompt"], reference[f"{case}/history"][:, None], None
        )
        output = network.model.denoise(codes[:, None], reference[f"{case}/timesteps"], context)
    return context, actions, output


def check_video(reference, case, values, output):
    logits = output.logits[:, 0]
    close(logits.logsumexp(-1), reference[f"{case}/video_logsumexp"], 5e-4)
    sure = reference[f"{case}/video_argmax_margin"] > 1e-3
    assert torch.equal(logits.argmax(-1)[sure], reference[f"{case}/video_argmax"][sure])
    positions = reference[f"{values}/video_positions"]
    for name, ours in (("video_logits", logits), ("hidden", output.hidden_states[:, 0])):
        close(ours[:, positions][..., :: reference.stride(name)], reference[f"{values}/{name}"], 5e-4)


def test_metaworld_policy(metaworld, reference):
    case = "finetune_meta"
    context, actions, output = denoise(metaworld, reference, case)
    # the whole golden set keeps the values of the shared video under the pre-training case
    check_video(reference, case, case if f"{case}/hidden" in reference else "pretrain_meta", output)
    with torch.no_grad():
        head = metaworld.head_context(context, reference[f"{case}/prompt"], None, None, 1)
        logits = metaworld.action_head(actions, reference[f"{case}/timesteps"], output.hidden_states, head)
    close(logits.flatten(1, 2), reference[f"{case}/action_logits"], 1e-4)


def test_rlbench_policy_as_released(rlbench, reference):
    case = "finetune_rlbench"
    _, actions, output = denoise(rlbench, reference, case)
    if f"{case}/hidden" in reference:
        check_video(reference, case, case, output)
    names = ("history", "view_left", "view_right", "view_wrist")  # history is the front view's
    views = torch.stack([reference[f"{case}/{name}"] for name in names], dim=1)
    prompt, timesteps = reference[f"{case}/prompt"], reference[f"{case}/timesteps"]
    images = rlbench_images()[: len(views)]
    assert torch.equal(images[..., ::32, ::32], reference[f"{case}/imgs_slice"])
    with torch.no_grad():
        context = rlbench.model.encode_context(prompt, views, None)
        head = rlbench.head_context(context, prompt, reference[f"{case}/proprio"], images[:, :, None], 4)
        # the released head never looks at the forecast: any will do
        hidden = output.hidden_states.expand(-1, 4, -1, -1)
        logits = rlbench.action_head(actions, timesteps, hidden, head)
        assert torch.equal(logits, rlbench.action_head(actions, timesteps, -hidden, head))
    ours = logits.flatten(1, 2)[..., :: reference.stride("rlbench_action_logits")]
    close(ours, reference[f"{case}/action_logits"], 1e-4)


def test_pretraining_file_gives_the_same_trunk():
    """The 118 trunk tensors of the pre-training file are those of the fine-tuned one (same recipe, same names)."""
    pretrain, finetune = rename_policy(manifest("pretrain_meta")), rename_policy(manifest("finetune_meta"))
    for name, ours in pretrain.kept.items():
        assert finetune.kept[name] == ours
        assert manifest("pretrain_meta")[name].get("crc32") == manifest("finetune_meta")[name].get("crc32")


def test_checksum_catches_a_wrong_recipe():
    entry = dict(manifest("vqvae")["encoder.convs.0.conv.bias"])
    recipe_tensor(entry)
    with pytest.raises(AssertionError):
        recipe_tensor({**entry, "scale": 2 * entry["scale"]})
