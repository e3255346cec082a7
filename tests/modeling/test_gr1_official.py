"""The official GR-1 by configuration alone: every tensor accounted for, and the official numbers come out."""

import json

import pytest
import torch

from hf_vpdd.conversion.gr1_names import convert_tensors, policy_names, rename, snapshot_table
from hf_vpdd.modeling.gr1 import GR1Config, GR1ForRobotPolicy
from hf_vpdd.modeling.gr1.frame_decoder import sincos_positions

from .official import GOLDENS
from .official_gr1 import CAMERAS, Reference, config_of, manifest


MODELS = ("gr1_tiny", "gr1_full")


def close(ours: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-4, relative: bool = False) -> None:
    assert ours.shape == expected.shape
    if relative:
        tolerance *= max(1.0, expected.abs().max().item())
    error = (ours.double() - expected.double()).abs().max().item()
    assert error <= tolerance, f"off by {error:.2e}, allowed {tolerance:.0e}"


# --- names and shapes, on the meta device ---------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("towers", ["inside", "apart"])
def test_every_official_tensor_has_its_place(model, towers):
    config = config_of(model)
    with torch.device("meta"):
        network = GR1ForRobotPolicy(config)
    ours = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    theirs = {name: torch.empty(entry["shape"], device="meta") for name, entry in manifest(model).items()}
    if towers == "apart":
        theirs = {name: t for name, t in theirs.items() if not name.startswith(("model_mae.", "model_clip."))}
        ours = {n: s for n, s in ours.items() if not n.startswith(("model.image_model.", "model.text_model."))}
    renaming = rename(theirs, snapshot_table(config, theirs))
    assert not renaming.problems()
    assert not renaming.kept.keys() & renaming.dropped.keys()
    assert renaming.kept.keys() | renaming.dropped.keys() == theirs.keys()
    assert all(renaming.dropped.values()), "a dropped tensor needs a reason"
    converted = convert_tensors(theirs, renaming.kept)
    assert {name: tuple(tensor.shape) for name, tensor in converted.items()} == ours


def test_parameter_counts_of_the_paper():
    with torch.device("meta"):
        network = GR1ForRobotPolicy(GR1Config())
    total = sum(p.numel() for p in network.parameters())
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    # officially also CLIP's temperature, the word table of GPT-2 and the decoder's fixed positions
    assert total == 195_290_056 - 1 - 384 - 196 * 384
    assert trained == 45_988_039 - 384


def test_missing_and_unexpected_names_are_told():
    config = config_of("gr1_tiny")
    names = [*manifest("gr1_tiny"), "transformer.wpe.weight"]
    names.remove("embed_ln.bias")
    problems = rename(names, snapshot_table(config, names)).problems()
    assert "1 missing: embed_ln.bias" in problems and "1 unexpected: transformer.wpe.weight" in problems
    truncated = [name for name in names if name.startswith("embed")]
    renaming = rename(truncated, snapshot_table(config, truncated))
    assert len(renaming.missing) == len(policy_names(config)) - len(truncated)


def test_biases_of_attention_survive_the_mask_filter():
    names = manifest("gr1_full")
    renaming = rename(names, snapshot_table(config_of("gr1_full"), names))
    assert "transformer.h.0.attn.c_attn.bias" in renaming.kept
    assert {"transformer.h.0.attn.bias", "transformer.h.0.attn.masked_bias"} <= renaming.dropped.keys()


@pytest.mark.skipif(not GOLDENS.is_dir(), reason=f"no golden folder at {GOLDENS}; HF_VPDD_GOLDENS names another")
@pytest.mark.parametrize("model", MODELS)
def test_shipped_manifests_are_the_goldens(model):
    theirs = json.loads((GOLDENS / f"{model}_keys.json").read_text())["tensors"]
    assert [entry["name"] for entry in theirs] == list(manifest(model))
    for entry in theirs:
        ours = manifest(model)[entry["name"]]
        assert {name: entry[name] for name in ours} == ours


# --- numbers: the official code's outputs under recipe weights -------------------------------------------------------


class Case:
    """A network with the official weights and what it says of the golden windows. Every frame is encoded once."""

    def __init__(self, model: str, thinned: bool):
        self.reference = reference = Reference(model, thinned)
        self.network = reference.network()
        self.config = self.network.config
        length = self.config.history_frames
        with torch.no_grad():
            self.text = self.network.model.encode_text(reference["token_ids"].long())
            zero = torch.zeros(1, 3, 224, 224)
            self.frames = {case: reference.frames(case) for case in ("window", "short")}
            flat = torch.cat([self.frames[case][c] for case in ("window", "short") for c, _ in CAMERAS] + [zero])
            features = torch.cat([self.network.model.encode_images(part) for part in flat.split(4)])
            sizes = [len(self.frames[case][c]) for case in ("window", "short") for c, _ in CAMERAS]
            window_s, window_w, short_s, short_w, padding = features.split([*sizes, 1])
            self.features = torch.stack((window_s, window_w))  # (V, frames, 1 + P, width)
            self.tokens = self.network.model.embed_images(self.features[None])[0]
            # row 0: a full window; row 1: a short one, padded with frames of zeros
            missing = length - len(short_s)
            short = torch.stack([torch.cat((view, padding.expand(missing, -1, -1))) for view in (short_s, short_w)])
            features = torch.stack((self.features[:, :length], short))
            pixels = torch.zeros(2, 2, length, 3, 224, 224)
            state = torch.zeros(2, length, 7)
            state[0] = reference.states("window")[:length]
            state[1, : len(short_s)] = reference.states("short")
            for view, (camera, _) in enumerate(CAMERAS):
                pixels[0, view] = self.frames["window"][camera][:length]
                pixels[1, view, : len(short_s)] = self.frames["short"][camera]
            self.pixels = pixels
            inputs = {"state": state, "step_mask": reference["attention_mask"].bool(), "text_embeds": self.text}
            self.hidden = self.network.model(image_features=features, **inputs)
            self.output = self.network(image_features=features, predict_video=True, **inputs)


@pytest.fixture(scope="module", params=["gr1_tiny, thinned", "gr1_tiny", "gr1_full"])
def case(request):
    """The full network is 195 M parameters: 15 s of one core, 1.6 GB, and only where the golden data is."""
    model, _, thinned = request.param.partition(", ")
    return Case(model, bool(thinned))


def test_preprocessed_frames(case):
    for camera, _ in CAMERAS:
        expected = case.reference[f"preprocessed/{camera}_slice"]
        close(case.frames["window"][camera][: len(expected), :, ::11, ::11], expected, 1e-5)
        if f"preprocessed/{camera}_stats" in case.reference:
            stats = case.reference[f"preprocessed/{camera}_stats"][:, 1:]
            ours = case.frames["window"][camera][: len(stats)].double().flatten(1)
            close(torch.stack((ours.mean(1), ours.abs().mean(1), ours.std(1, correction=0)), dim=1), stats, 1e-5)


def test_features_of_towers_and_resampler(case):
    reference = case.reference
    close(case.text, reference["clip_text_features"], relative=True)
    features = torch.cat((case.features[0, :3], case.features[1, :3]))
    close(features[:, 0], reference["mae_cls"], relative=True)
    close(features[:, 1:][:, ::14, ::8], reference["mae_patch_slice"], relative=True)
    with torch.no_grad():
        for view, (camera, _) in enumerate(CAMERAS):
            latents = case.network.model.resampler(case.features[view, :2, 1:])
            close(latents, reference[f"resampler_{camera}"], relative=True)


def test_full_and_partly_filled_windows(case):
    reference = case.reference
    mask = reference["attention_mask"].bool()
    assert not mask.all() and mask[0].all()
    close(case.hidden.action_hidden_states[:, :, 0], reference["trunk_act_hidden"], relative=True)
    close(case.hidden.frame_hidden_states[:, 0, :, 0], reference["trunk_obs_hidden_first"], relative=True)
    close(case.output.arm_actions[:, :, 0], reference["arm_action_preds"])
    logits, expected = case.output.gripper_logits, reference["gripper_action_preds"]
    close(logits, expected)
    assert torch.equal(logits[mask] > 0, expected[mask] > 0)


def test_predicted_and_target_patches(case):
    reference = case.reference
    steps, patches = reference["slice_steps"], reference["slice_patches"]
    targets = case.network.frame_targets(case.pixels)
    for view, name in enumerate(("obs", "obs_hand")):
        pairs = (("preds", case.output.frame_patches[:, view]), ("targets", targets[:, view]))
        for what, ours in pairs:
            close(ours[:, steps][:, :, patches], reference[f"{name}_{what}_slice"])
            if f"{name}_{what}_stats" in reference:
                stats, wide = reference[f"{name}_{what}_stats"][..., 1:], ours.double().flatten(2)
                stats_of_ours = torch.stack((wide.mean(2), wide.abs().mean(2), wide.std(2, correction=0)), dim=2)
                close(stats_of_ours, stats)


def test_control_trace_with_a_plain_rolling_window(case):
    """What the official controller does: a list that grows to the longest window, then drops its oldest step."""
    reference, length = case.reference, case.config.history_frames
    states, actions, logits = reference.states("window"), [], []
    for step in range(len(states)):
        window = slice(max(0, step + 1 - length), step + 1)
        output = case.network(
            image_tokens=case.tokens[None, :, window], text_embeds=case.text[:1], state=states[None, window]
        )
        logits.append(output.gripper_logits[0, -1, 0].detach())
        opened = torch.where(logits[-1].sigmoid() > 0.5, 1.0, -1.0)
        actions.append(torch.cat((output.arm_actions[0, -1, 0].detach(), opened[None])))
    close(torch.stack(actions), reference["trace/actions"])
    close(torch.stack(logits), reference["trace/gripper_logit"])


def test_the_decoders_positions_are_computed_right():
    close(sincos_positions(64, 14), Reference("gr1_tiny", thinned=True)["fixed/decoder_pos_embed"][0], 1e-6)
