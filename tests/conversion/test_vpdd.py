"""`hf-vpdd convert checkpoint --from vpdd` on small checkpoints in the official layout."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoProcessor

from hf_vpdd import VPDDVQVAE, RobotPolicy, VPDDForRobotPolicy, VPDDForVideoPrediction, cli
from hf_vpdd.conversion.vpdd import convert_vpdd
from hf_vpdd.conversion.vpdd_actions import quantile_thresholds
from hf_vpdd.conversion.vpdd_names import rename_policy, rename_vqvae
from hf_vpdd.errors import InputError
from hf_vpdd.training.stages.common import weights_fingerprint

from .clip_files import NUM_WORDS, OpenAIText, write_merges
from .official_layout import TINY, policy_state, save_policy, save_tokenizer, schedule, tokenizer_state


RLBENCH = replace(TINY, bins=360, head_positions=1000)
CLASSES = {"pretrain": VPDDForVideoPrediction, "metaworld": VPDDForRobotPolicy, "rlbench": VPDDForRobotPolicy}


def sizes(kind: str):
    return RLBENCH if kind == "rlbench" else TINY


@pytest.fixture
def files(tmp_path):
    """A complete Meta-World set: tokenizer, policy, CLIP, its words, thresholds."""
    torch.manual_seed(0)
    tokenizer = tokenizer_state()
    save_tokenizer(tmp_path / "last.ckpt", tokenizer, resolution=96)
    save_policy(tmp_path / "state.pt", policy_state("metaworld", tokenizer=tokenizer))
    torch.save(OpenAIText(NUM_WORDS).state_dict(), tmp_path / "clip.pt")
    write_merges(tmp_path / "words.txt")
    actions = np.clip(np.random.default_rng(0).normal(0, 1.3, (1000, 3)), -1, 1)
    np.savez(tmp_path / "tokenizer_12.npz", thresholds=quantile_thresholds(actions, 12), N=12)
    return tmp_path


def everything(files) -> dict:
    return {
        "vqvae": files / "last.ckpt",
        "policy": files / "state.pt",
        "clip": files / "clip.pt",
        "tokenizer": files / "words.txt",
        "thresholds": files / "tokenizer_12.npz",
    }


def same_weights(model, state, renaming, prefix=""):
    ours = model.state_dict()
    for theirs, name in renaming.kept.items():
        tensor = state[theirs].squeeze(0) if name.endswith("position_embed") else state[theirs]
        assert torch.equal(ours[prefix + name], tensor), name


def test_the_tokenizer_alone(tmp_path):
    state = tokenizer_state()
    path = save_tokenizer(tmp_path / "last.ckpt", state, resolution=32)
    report = convert_vpdd(tmp_path / "out", vqvae=path)
    assert report.kept == len(state) and not report.dropped and not report.missing
    model = VPDDVQVAE.from_pretrained(tmp_path / "out")
    same_weights(model, state, rename_vqvae(state))
    assert model.codebook.initialized and not model.training
    assert (model.config.image_size, model.config.codebook_size, model.config.num_res_layers) == (32, 12, 2)
    with torch.no_grad():
        assert model.encode(torch.rand(1, 3, 4, 32, 32) - 0.5).shape == (1, 1, 8, 8)
    about = json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert about["tokenizer_fingerprint"] == weights_fingerprint(model)
    assert about["sources"][0]["file"] == "last.ckpt" and about["sources"][0]["global_step"] == 12345


@pytest.mark.parametrize("kind", list(CLASSES))
def test_a_policy_file(kind, tmp_path):
    """Every tensor is kept or dropped for a reason; which copy is taken; what is missing is said."""
    ema, model = (policy_state(kind, sizes(kind), seed=seed) for seed in (0, 1))
    path = save_policy(tmp_path / "state.pt", ema, model)
    report = convert_vpdd(tmp_path / "out", policy=path)
    state = model if kind == "rlbench" else ema  # what the authors load
    assert report.kept + len(report.dropped) == len(state)
    assert report.dropped == rename_policy(state).dropped
    assert any("text tower" in line for line in report.missing)
    assert any("processor" in line for line in report.missing)
    assert any("action bins" in line for line in report.missing) == (kind != "pretrain")

    converted = CLASSES[kind].from_pretrained(tmp_path / "out")
    same_weights(converted, state, rename_policy(state))
    config = converted.config
    assert (config.num_action_bins, config.num_views) == ((360, 4) if kind == "rlbench" else (12, 1))
    assert (config.trunk_layers, config.num_latents, config.trunk_position_rows) == (2, 10, 1200)
    assert config.prompt_size == 24 and not config.has_text_tower
    if kind == "rlbench":
        assert config.head_video_input == "history" and config.head_view_order == [3, 1, 2, 3]
        assert (config.state_dim, config.action_dim, config.head_patch_size) == (4, 7, 13)
    other = convert_vpdd(tmp_path / "other", policy=path, weights="ema" if kind == "rlbench" else "model")
    state = ema if kind == "rlbench" else model
    same_weights(CLASSES[kind].from_pretrained(other.out), state, rename_policy(state))


def test_without_clip_the_model_takes_vectors_and_refuses_sentences(tmp_path):
    convert_vpdd(tmp_path / "out", policy=save_policy(tmp_path / "state.pt", policy_state("metaworld")))
    model = VPDDForRobotPolicy.from_pretrained(tmp_path / "out")
    assert not any("text_model" in name for name in model.state_dict())
    inputs = {"history_codes": torch.zeros(1, 1, 1, 24, 24, dtype=torch.int64), "num_inference_steps": 1}
    actions = model.sample_actions(prompt_embeds=torch.randn(1, 24), **inputs).actions
    assert actions.shape == (1, 4, 4) and actions.max() < 12
    with pytest.raises(ValueError, match="no text tower.*--clip"):
        model.sample_actions(input_ids=torch.ones(1, 5, dtype=torch.int64), **inputs)


def test_a_complete_set_controls_a_robot(files, capsys):
    options = [word for name, path in everything(files).items() for word in (f"--{name}", str(path))]
    out = files / "out"
    assert cli.main(["convert", "checkpoint", "--from", "vpdd", *options, str(out)]) == 0
    printed = capsys.readouterr().out
    assert "VPDDForRobotPolicy: fine-tuned on Meta-World, 12 video codes, 12 action bins" in printed
    assert "missing" not in printed and "second copy of the tokenizer" in printed
    assert {path.name for path in out.iterdir()} == {
        "README.md", "config.json", "conversion.json", "hf_vpdd_auto.py", "model.safetensors", "model_index.json",
        "processor_config.json", "scheduler_config.json", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    for name in ("README.md", "conversion.json", "config.json"):
        assert str(files) not in (out / name).read_text(), "a path of this machine would be published"

    model, processor = AutoModel.from_pretrained(out), AutoProcessor.from_pretrained(out)
    assert isinstance(model, VPDDForRobotPolicy)
    assert processor.cameras == ["corner2"] and processor.execute == 1 and not processor.image_processor.antialias
    assert processor.valid_bins.tolist() == [12, 12, 12, 10]
    policy = RobotPolicy(model, processor, num_inference_steps=2, seed=0)
    frame = np.random.default_rng(0).integers(0, 256, (260, 260, 3), dtype=np.uint8)
    action = policy.select_action({"images": {"corner2": frame}, "instruction": "press the open"})
    assert action.shape == (4,) and (np.abs(action) <= 1).all()
    assert action[3] in np.float32([-1, 0, 0.1, 0.5, 0.6, 0.65, 0.7, 0.8, 0.9, 1])

    # the sentence goes through CLIP's own tower
    clip = OpenAIText(NUM_WORDS).eval()
    clip.load_state_dict(torch.load(files / "clip.pt"))
    tokens = processor.tokenize_instructions(["press the open"])
    ids = torch.where(tokens["attention_mask"].bool(), tokens["input_ids"], 0)
    with torch.no_grad():
        torch.testing.assert_close(model.model.embed_prompt(**tokens), clip(ids), atol=1e-5, rtol=1e-5)


def test_a_policy_without_thresholds_says_so_when_it_is_to_act(files):
    report = convert_vpdd(files / "out", **{**everything(files), "thresholds": None})
    assert any("tokenizer_12.npz" in line for line in report.missing)
    assert "tokenizer_12.npz" in (files / "out" / "README.md").read_text()
    with pytest.raises(InputError, match="action_bins"):
        RobotPolicy.from_pretrained(files / "out")


def test_a_policy_without_tower_is_no_controller(files):
    convert_vpdd(files / "clip", **everything(files))
    processor = AutoProcessor.from_pretrained(files / "clip")
    convert_vpdd(files / "out", policy=files / "state.pt")
    with pytest.raises(InputError, match="without its text tower"):
        RobotPolicy(VPDDForRobotPolicy.from_pretrained(files / "out"), processor)


def test_a_pretrained_model_can_be_fine_tuned(files):
    """What the authors publish has no action head: the whole road from there to a policy that acts."""
    from hf_vpdd.training import load_recipe, run_finetune
    from tests.training.small_data import experiment, write_dataset

    save_policy(files / "pretrained.pt", policy_state("pretrain"))
    options = {"policy": files / "pretrained.pt", "clip": files / "clip.pt", "tokenizer": files / "words.txt"}
    assert not convert_vpdd(files / "pretrained", **options).missing
    config = experiment(write_dataset(files / "data"), files / "policy")
    settings = {"init_from": str(files / "pretrained"), "image_size": 96, "steps": 2, "save_every": 0, "eval_every": 0}
    recipe = load_recipe("finetune", config, **settings)
    recipe.model = {"state_dim": 0}  # the official head reads none
    policy = RobotPolicy.from_pretrained(run_finetune(recipe), device="cpu", num_inference_steps=1)
    assert policy.model.config.loss_type == "vb" and policy.model.config.action_head == "causal"
    frame = np.zeros((96, 96, 3), np.uint8)
    action = policy.select_action({"images": {"corner2": frame}, "instruction": "press the open"})
    assert action.shape == (4,) and np.isfinite(action).all()


def test_rlbench_with_processor(files):
    save_policy(files / "rlbench.pt", policy_state("rlbench", RLBENCH))
    positions = np.random.default_rng(0).uniform(-1, 1, (5000, 3))
    np.savez(files / "tokenizer_360.npz", thresholds=quantile_thresholds(positions, 360), N=360)
    report = convert_vpdd(
        files / "out", policy=files / "rlbench.pt", clip=files / "clip.pt", tokenizer=files / "words.txt",
        thresholds=files / "tokenizer_360.npz",
    )  # fmt: skip
    assert not report.missing and any("released wiring" in line for line in report.notes)
    policy = RobotPolicy.from_pretrained(files / "out", device="cpu", num_inference_steps=1)
    frame = np.zeros((128, 128, 3), np.uint8)
    observation = {
        "images": dict.fromkeys(policy.processor.cameras, frame),
        "instruction": "open the press",
        "state": np.array([1, 0.04, 0.04, 1], np.float32),
    }
    action = policy.select_action(observation)
    assert action.shape == (8,) and action[7] in (0, 1)  # a pose: x y z, quaternion, gripper
    assert np.linalg.norm(action[3:7]) == pytest.approx(1, abs=1e-5)
    inputs = policy.processor.process_observations([observation])
    assert torch.equal(inputs["state"], torch.tensor([[1, 0.04, 0.04, 1]]))  # the released code scales nothing


def test_paper_wiring(tmp_path):
    # the two wirings fit the same weights where codebook and trunk have one width, as the official ones do
    path = save_policy(tmp_path / "state.pt", policy_state("rlbench", replace(RLBENCH, code_dim=RLBENCH.hidden)))
    report = convert_vpdd(tmp_path / "out", policy=path, wiring="paper")
    config = VPDDForRobotPolicy.from_pretrained(tmp_path / "out").config
    assert config.head_video_input == "forecast" and config.head_view_order is None
    assert any("fine-tune before use" in line for line in report.notes)


def test_256_bins_and_a_longer_schedule_come_from_the_shapes(tmp_path):
    path = save_policy(tmp_path / "state.pt", policy_state("metaworld", replace(TINY, bins=256, steps=150)))
    convert_vpdd(tmp_path / "out", policy=path)
    config = VPDDForRobotPolicy.from_pretrained(tmp_path / "out").config
    assert (config.num_action_bins, config.num_train_timesteps) == (256, 150)


def test_a_pretrained_file_knows_its_benchmark_by_its_vocabulary(tmp_path):
    path = save_policy(tmp_path / "state.pt", policy_state("pretrain", replace(TINY, bins=360)))
    report = convert_vpdd(tmp_path / "out", policy=path)
    config = VPDDForVideoPrediction.from_pretrained(tmp_path / "out").config
    assert "RLBench" in report.title and (config.num_views, config.num_action_bins) == (4, 360)


def test_the_importance_history_is_kept(tmp_path):
    from safetensors.torch import load_file

    state = policy_state("pretrain")
    state["Lt_history"], state["Lt_count"] = torch.rand(100), torch.full((100,), 12.0)
    convert_vpdd(tmp_path / "out", policy=save_policy(tmp_path / "state.pt", state))
    scheduler = VPDDForVideoPrediction.from_pretrained(tmp_path / "out").scheduler
    scheduler.load_state_dict(load_file(tmp_path / "out" / "scheduler_state.safetensors"))
    assert torch.equal(scheduler.Lt_history, state["Lt_history"].double()) and (scheduler.Lt_count == 12).all()


def test_one_copy_or_bare_tensors_do_too(tmp_path):
    from safetensors.torch import save_file

    state = policy_state("pretrain")
    report = convert_vpdd(tmp_path / "a", policy=save_policy(tmp_path / "a.pt", None, state))
    assert any("'ema', which this file lacks" in line for line in report.notes)
    torch.save(state, tmp_path / "b.pt")
    save_file({name: tensor.clone() for name, tensor in state.items()}, tmp_path / "c.safetensors")
    for name, path in (("b", tmp_path / "b.pt"), ("c", tmp_path / "c.safetensors")):
        convert_vpdd(tmp_path / name, policy=path)
        same_weights(VPDDForVideoPrediction.from_pretrained(tmp_path / name), state, rename_policy(state))
    with pytest.raises(InputError, match="--weights ema.*no such copy; it holds 'model'"):
        convert_vpdd(tmp_path / "d", policy=tmp_path / "a.pt", weights="ema")
    torch.save(tokenizer_state(), tmp_path / "e.pt")
    assert "VPDDVQVAE" in convert_vpdd(tmp_path / "e", vqvae=tmp_path / "e.pt").title


# ---- codes and codebook belong together -----------------------------------------------------------------------------


def test_the_policys_own_tokenizer_file_is_accepted_and_preferred(tmp_path):
    tokenizer = tokenizer_state()
    # what the moving average of 600 000 steps does to a number
    rounded = {n: t * (1 + 1e-6) if t.is_floating_point() else t for n, t in tokenizer.items()}
    policy = save_policy(tmp_path / "state.pt", policy_state("pretrain", tokenizer=rounded))
    vqvae = save_tokenizer(tmp_path / "last.ckpt", tokenizer)
    report = convert_vpdd(tmp_path / "out", policy=policy, vqvae=vqvae)
    assert len(report.sources) == 2
    alone = convert_vpdd(tmp_path / "alone", vqvae=vqvae)
    # the same codes: what was cached with the tokenizer's folder serves the policy
    assert report.facts["tokenizer_fingerprint"] == alone.facts["tokenizer_fingerprint"]
    model = VPDDForVideoPrediction.from_pretrained(tmp_path / "out").model.vqvae
    assert weights_fingerprint(model) == report.facts["tokenizer_fingerprint"]


@pytest.mark.parametrize("name", ["codebook.embeddings", "encoder.conv_last.conv.weight"])
def test_another_tokenizer_is_refused(name, tmp_path):
    tokenizer = tokenizer_state()
    policy = save_policy(tmp_path / "state.pt", policy_state("pretrain", tokenizer=dict(tokenizer)))
    tokenizer[name] = tokenizer[name] + 0.01
    vqvae = save_tokenizer(tmp_path / "last.ckpt", tokenizer)
    with pytest.raises(InputError, match=f"not the tokenizer that .*{name} by 0.01"):
        convert_vpdd(tmp_path / "out", policy=policy, vqvae=vqvae)
    bigger = save_tokenizer(tmp_path / "big.ckpt", tokenizer_state(replace(TINY, codes=20)))
    with pytest.raises(InputError, match="not the tokenizer that"):
        convert_vpdd(tmp_path / "out", policy=policy, vqvae=bigger)
    assert not (tmp_path / "out").exists()


def test_two_tokenizers_in_one_file_are_refused(tmp_path):
    state = policy_state("rlbench", RLBENCH)
    name = "model.act_model.vqvae.codebook.embeddings"
    state[name] = state[name] * 1.1
    with pytest.raises(InputError, match="two copies of the tokenizer"):
        convert_vpdd(tmp_path / "out", policy=save_policy(tmp_path / "state.pt", state))


# ---- bad input: one sentence that names file and tensor, and nothing is written -------------------------------------


def _without(state, name):
    return {key: value for key, value in state.items() if key != name}


BROKEN = {
    "a block lost a tensor": (
        lambda s: _without(s, "model.traj_model.layers.1.1.fn.net.2.weight"), r"1 missing.*layers\.1\.feed_forward"
    ),
    "no latents": (lambda s: _without(s, "model.traj_model.latents"), r"model\.traj_model\.latents is missing"),
    "an unknown tensor": (lambda s: {**s, "model.traj_model.extra": torch.zeros(1)}, r"1 unknown: .*extra"),
    "a wrong shape": (
        lambda s: {**s, "model.act_model.predict_act_y.2.weight": torch.zeros(13, 16)},
        r"wrong shape: model\.act_model\.predict_act_y\.2\.weight \(13, 16\) instead of \(12, 16\)",
    ),
    "NaN": (
        lambda s: {**s, "model.traj_model.embed_ln.bias": torch.full((16,), torch.nan)}, r"embed_ln\.bias holds NaN"
    ),
    "a schedule of another vocabulary": (
        lambda s: {**s, **{n: t for n, t in schedule(replace(TINY, bins=48)).items() if "act" in n}},
        r"made for 48 action bins, but the action head has 12",
    ),
    "another schedule": (
        lambda s: {**s, "log_cumprod_ct": s["log_cumprod_ct"] - 0.01}, r"schedule differs.*log_cumprod_ct by 0\.01"
    ),
    "a schedule cut short": (lambda s: {**s, "log_ct": s["log_ct"][:90]}, r"log_ct has 90 entries"),
    "no schedule": (lambda s: _without(s, "log_at"), r"log_at is missing"),
    "not tensors": (lambda s: {**s, "model.traj_model.note": "text"}, r"'model\.traj_model\.note' is str"),
    "another head": (
        lambda s: {n.replace("predict_act_x", "predict_all"): t for n, t in s.items()}, r"neither Meta-World's"
    ),
    "another project": (lambda s: {"model_clip.x": torch.zeros(1)}, r"not a VPDD diffusion .*looks like GR-1"),
}  # fmt: skip


@pytest.mark.parametrize("case", list(BROKEN))
def test_broken_policy_files(case, tmp_path):
    change, words = BROKEN[case]
    path = save_policy(tmp_path / "state.pt", change(policy_state("metaworld")))
    with pytest.raises(InputError, match=words) as raised:
        convert_vpdd(tmp_path / "out", policy=path)
    assert "state.pt" in str(raised.value) and len(str(raised.value)) < 900
    assert [p.name for p in tmp_path.iterdir()] == ["state.pt"]


def test_broken_tokenizer_files(tmp_path):
    good = tokenizer_state()
    for state, options, words in (
        (_without(good, "encoder.res_stack.1.block.3.bias"), {}, r"1 missing.*res_stack\.1\.norm2\.bias"),
        ({**good, "discriminator.weight": torch.zeros(1)}, {}, "1 unknown: discriminator"),
        ({**good, "pre_vq_conv.conv.bias": torch.zeros(9)}, {}, "of the wrong shape: pre_vq_conv.conv.bias"),
        ({"visual.conv1.weight": torch.zeros(1), "codebook.N": torch.zeros(1)}, {}, "looks like CLIP"),
    ):
        path = save_tokenizer(tmp_path / "last.ckpt", {"codebook.embeddings": torch.zeros(2, 2), **state}, **options)
        if "visual.conv1.weight" in state:
            torch.save({"state_dict": state}, path)
        with pytest.raises(InputError, match=words):
            convert_vpdd(tmp_path / "out", vqvae=path)
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": good, "hyper_parameters": {"downsample": (2, 4, 4)}}, path)
    with pytest.raises(InputError, match=r"downsample \(2, 4, 4\) is not supported"):
        convert_vpdd(tmp_path / "out", vqvae=path)


def test_files_given_under_the_wrong_option(files):
    with pytest.raises(InputError, match="give it with --policy"):
        convert_vpdd(files / "out", vqvae=files / "state.pt")
    torch.save(tokenizer_state(), files / "bare.pt")
    for name in ("last.ckpt", "bare.pt"):
        with pytest.raises(InputError, match="give it with --vqvae"):
            convert_vpdd(files / "out", policy=files / name)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing to convert"),
        (["--vqvae", "last.ckpt", "--clip", "clip.pt"], "--clip belong to a policy"),
        (["--policy", "state.pt", "--paper-wiring"], "--paper-wiring is for fine-tuned RLBench"),
        (["--policy", "state.pt", "--thresholds", "tokenizer_12.npz"], "give --tokenizer"),
        (["--policy", "absent.pt"], "absent.pt does not exist"),
    ],
)
def test_options_that_contradict_each_other(files, words, message, capsys, monkeypatch):
    monkeypatch.chdir(files)
    assert cli.main(["convert", "checkpoint", "--from", "vpdd", *words, "out"]) == 2
    printed = capsys.readouterr()
    assert message in printed.err and "Traceback" not in printed.err
    assert not (files / "out").exists()


def test_clip_of_another_size_is_refused(files):
    torch.save(OpenAIText(NUM_WORDS, projection=32).state_dict(), files / "clip.pt")
    with pytest.raises(InputError, match="vectors of 32, the checkpoint reads 24"):
        convert_vpdd(files / "out", policy=files / "state.pt", clip=files / "clip.pt")


def test_overwrite(files):
    out = files / "out"
    convert_vpdd(out, **everything(files))
    (out / "notes.txt").write_text("mine")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(InputError, match="not empty.*--overwrite"):
        convert_vpdd(out, vqvae=files / "last.ckpt")
    (files / "broken.pt").write_bytes(b"no")
    with pytest.raises(InputError, match="broken.pt"):
        convert_vpdd(out, policy=files / "broken.pt", overwrite=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    convert_vpdd(out, vqvae=files / "last.ckpt", overwrite=True)
    assert {path.name for path in out.iterdir()} == {
        "README.md", "config.json", "conversion.json", "hf_vpdd_auto.py", "model.safetensors", "notes.txt",
    }  # fmt: skip
    VPDDVQVAE.from_pretrained(out)

    (files / "other").mkdir()
    (files / "other" / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match="holds no model"):
        convert_vpdd(files / "other", vqvae=files / "last.ckpt", overwrite=True)
    with pytest.raises(InputError, match="is a file"):
        convert_vpdd(files / "state.pt", vqvae=files / "last.ckpt", overwrite=True)
