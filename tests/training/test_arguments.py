"""Recipes and command lines: what is known is read, what is not is refused by name."""

from pathlib import Path

import pytest
import yaml

from hf_vpdd.errors import InputError
from hf_vpdd.training.arguments import (
    FAMILIES,
    STAGES,
    build_parser,
    config_class,
    config_fields,
    load_recipe,
    parse_command_line,
    recipe_family,
    set_elsewhere,
)
from hf_vpdd.training.config_help import field_help


RECIPES = sorted((Path(__file__).resolve().parents[2] / "recipes").glob("*.yaml"))
BASE = {"output_dir": "out", "data": {"root": ["data"]}}


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_every_recipe_of_the_repository_is_valid(path):
    named = {stage for stage, own in yaml.safe_load(path.read_text()).items() if "init_from" in (own or ())}
    for stage, before in FAMILIES[recipe_family(path)].items():
        recipe = load_recipe(stage, path)
        assert recipe.stage == stage
        if before and stage not in named:  # one that starts from what it names
            assert recipe.init_from.endswith(before)


def test_the_stage_overrides_the_experiment_and_the_command_line_overrides_both(tmp_path):
    content = {**BASE, "train": {"steps": 10, "seed": 4}, "finetune": {"train": {"steps": 20}, "state_noise": "1e-2"}}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(content))
    arguments = ["--config", str(tmp_path / "r.yaml"), "--learning_rate", "1e-4", "--train.batch_size", "7"]
    recipe = parse_command_line("finetune", [*arguments, "--model.hidden_size", "64", "--lora"])
    assert (recipe.train.steps, recipe.train.seed, recipe.train.batch_size) == (20, 4, 7)
    assert recipe.train.learning_rate == 1e-4 and recipe.options.state_noise == 0.01
    assert recipe.model == {"hidden_size": 64} and recipe.options.lora is True
    assert recipe.output_dir == str(Path("out") / "finetune") and recipe.init_from == str(Path("out") / "pretrain")


def test_fields_of_a_sub_config_on_the_command_line():
    arguments = ["--output_dir", "o", "--root", "a,b", "--model.text_config.hidden_size", "64"]
    recipe = parse_command_line("pretrain", [*arguments, "--model.text_config.num_hidden_layers", "2"])
    assert recipe.model == {"text_config": {"hidden_size": 64, "num_hidden_layers": 2}}
    assert recipe.data.root == ["a", "b"]


def test_a_resolved_recipe_can_be_read_again():
    recipe = load_recipe("pretrain", {**BASE, "model": {"hidden_size": 32}}, steps=3, paraphrase_prob=0.5)
    again = load_recipe("pretrain", yaml.safe_load(yaml.safe_dump(recipe.to_dict())))
    assert again == recipe


@pytest.mark.parametrize(
    "content, message",
    [
        ({"trian": {}}, "'trian'.*did you mean 'train'"),
        ({"train": {"learing_rate": 1}}, "'learing_rate'.*did you mean 'learning_rate'"),
        ({"data": {"camra": "x"}}, "'camra'.*did you mean 'camera'"),
        ({"pretrain": {"paraphrase_probability": 1}}, "did you mean 'paraphrase_prob'"),
        ({"vqvae": {"train": {"step": 1}}}, "'step' in section 'vqvae.train'.*did you mean 'steps'"),
        ({"model": {"hiden_size": 3}}, "'hiden_size'.*VPDDConfig.*did you mean 'hidden_size'"),
        ({"model": {"text_config": {"hiden_size": 3}}}, "'hiden_size'.*CLIPTextConfig"),
        ({"model": {"vqvae_config": {}}}, "vqvae_config is not set here"),
        (
            {"vqvae": {"model": {"codebok_size": 8}}},
            "'codebok_size' in section 'vqvae.model.*did you mean 'codebook_size'",
        ),
        ({"pretrain": {"model": {"text_config": {"hiden_size": 8}}}}, "'hiden_size'.*CLIPTextConfig.*did you mean"),
        ({"pretrain": {"data": {"camra": "x"}}}, "'camra' in section 'pretrain.data'.*did you mean 'camera'"),
        ({"train": {"ema_start": 10}}, "ema_start is about the average.*ema_decay 0 turns off"),
        ({"train": {"decay": 0.5}}, "train.decay is for the schedule wsd, train.schedule is onecycle"),
        (
            {"train": {"schedule": "wsd", "warmup": 0.5, "decay": 0.6}},
            "warmup and train.decay take 1100 steps together",
        ),
        ({"train": {"rollout_max_steps": 5}}, "no rollouts are asked for"),
        ({"train": {"keep_best": "lost"}}, "keep_best: 'lost' is no metric of finetune; it has loss"),
        ({"train": {"mixed_precision": "fp8"}}, "must be one of no, bf16, fp16"),
        ({"pretrain": {"train": {"rollout_evry": 1}}}, "did you mean 'rollout_every'"),
        ({"train": {"steps": "many"}}, "train.steps must be a whole number, got 'many'"),
        ({"train": {"steps": 1.5}}, "train.steps must be a whole number"),
        ({"train": {"clip": True}}, "train.clip must be a number"),
        ({"train": {"schedule": "linear"}}, "train.schedule must be one of onecycle"),
        ({"train": {"betas": [0.9]}}, "train.betas must be 2 values"),
        ({"train": {"warmup": 2000}}, "warmup .* longer than train.steps"),
        ({"train": {"ema_decay": 1}}, "ema_decay"),
        ({"train": []}, None),
        ({"train": 3}, "section 'train'.* must be a mapping"),
        ({"data": {"root": []}}, "data.root is empty"),
        ({"data": {"demo_draw": 1}}, "demo_draw needs data.episodes_per_task"),
        ({"finetune": {"from_scratch": True, "trunk_lr_multiplier": 0}}, "freeze a random trunk"),
        (
            {"finetune": {"video_loss_weight": 1, "trunk_lr_multiplier": 0}},
            "video_loss_weight needs a trunk that trains",
        ),
        ({"finetune": {"lora": True, "from_scratch": True}}, "lora adapts a pre-trained trunk"),
        ({"finetune": {"lora": "maybe"}}, "finetune.lora must be true or false"),
        ({"finetune": {"cotrain_samples": 8, "objective": "regression"}}, "cotrain_samples"),
        ({"finetune": {"paraphrase_prob": 1.5}}, "paraphrase_prob must lie in"),
    ],
)
def test_what_is_wrong_is_named(content, message):
    merged = {**BASE, **content}
    if "root" not in merged["data"]:
        merged["data"] = {**BASE["data"], **content["data"]}
    if message is None:
        load_recipe("finetune", merged)  # an empty section is no error
        return
    with pytest.raises(InputError, match=message):
        load_recipe("finetune", merged)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            {"bit_config": {"hiden_sizes": [8]}},
            "'hiden_sizes' in section 'model.bit_config .BitConfig.*'hidden_sizes'",
        ),
        ({"backbone_config": {"model_type": "resnet", "depth": [1]}}, "'depth' .*ResNetConfig.*did you mean 'depths'"),
        (
            {"backbone_config": {"model_type": "resnett"}},
            "model_type of a model in transformers.*did you mean 'resnet'",
        ),
        ({"backbone_config": {"depths": [1]}}, "needs the model_type"),
        ({"text_config": {"hiden_size": 8}}, "CLIPTextConfig"),
    ],
)
def test_typos_in_every_sub_config_are_found(section, message):
    config = {**BASE, "family": "vptr", "model": section}
    with pytest.raises(InputError, match=message):
        load_recipe("value_pretrain", config)


def test_only_policies_roll_out():
    with pytest.raises(InputError, match="vqvae trains no policy that could act"):
        load_recipe("vqvae", BASE, rollout_every=100)
    assert load_recipe("finetune", BASE, rollout_every=100, rollout_tasks="mt10").train.rollout_tasks == ["mt10"]


def test_an_option_given_twice_is_no_guess():
    for first, second in (("--steps", "--train.steps"), ("--steps", "--steps"), ("--model.hidden_size",) * 2):
        with pytest.raises(InputError, match=f"{first} and {second} are the same option"):
            parse_command_line("finetune", ["--output_dir", "o", "--root", "d", first, "8", f"{second}=9"])


def test_a_key_given_twice_is_no_guess(tmp_path):
    (tmp_path / "r.yaml").write_text("output_dir: o\ndata: {root: d}\ntrain:\n  steps: 3\n  seed: 1\n  steps: 4\n")
    with pytest.raises(InputError, match="'steps' is given twice in line 6"):
        load_recipe("vqvae", tmp_path / "r.yaml")


def test_typos_on_the_command_line_are_refused():
    base = ["--output_dir", "o", "--root", "d"]
    with pytest.raises(InputError, match="--learing_rate.*did you mean '--learning_rate'"):
        parse_command_line("vqvae", [*base, "--learing_rate", "1"])
    with pytest.raises(InputError, match="did you mean '--model.codebook_size'"):
        parse_command_line("vqvae", [*base, "--model.codebok_size", "1"])
    with pytest.raises(InputError, match="hidden_siz"):
        parse_command_line("pretrain", [*base, "--model.text_config.hidden_siz", "1"])
    with pytest.raises(InputError, match="--lr"):  # no abbreviations: --lora would swallow --lo
        parse_command_line("finetune", [*base, "--lr", "1"])
    with pytest.raises(InputError, match="no output folder: give --config RECIPE.yaml, or --output_dir"):
        parse_command_line("vqvae", ["--root", "d"])
    with pytest.raises(InputError, match="does not exist"):
        parse_command_line("vqvae", ["--config", "nowhere.yaml"])


def test_python_overrides_are_checked_too():
    with pytest.raises(InputError, match="unknown argument 'stepps' for vqvae; did you mean 'steps'"):
        load_recipe("vqvae", BASE, stepps=3)
    with pytest.raises(InputError, match="unknown key 'x'"):
        load_recipe("vqvae", BASE, {"train.x": 3})


LEARNING_RATES = {  # of families whose paper names one
    "value_pretrain": "[default: 5e-05]",
    "offline_rl": "[default: 0.0003]",
    "gr1_pretrain": "[default: 0.00036]",
}


@pytest.mark.parametrize("stage", STAGES)
def test_help_groups_every_option_with_its_default(stage):
    text = build_parser(stage).format_help()
    for part in (
        "data:",
        "train: optimisation",
        "train: precision, memory and speed",
        "train: checkpoints",
        "train: validation and rollouts in the simulator",
        "train: logging",
        "steps between checkpoints",
        f"{stage}:",
        "model: fields of",
        "--learning_rate X",
        LEARNING_RATES.get(stage, "[default: 0.001]"),
    ):
        assert part in text


def test_help_says_how_families_are_chosen():
    assert "--model NAME" in build_parser("pretrain").format_help()
    assert "vpdd | vptr | gr1" in " ".join(build_parser("gr1_pretrain").format_help().split())
    assert "family of models" not in build_parser("vqvae").format_help()


@pytest.mark.parametrize("stage", STAGES)
def test_every_option_has_a_help_line(stage):
    for action in build_parser(stage)._actions:
        assert action.help, action.option_strings
        assert action.metavar or not action.option_strings or action.nargs == 0, action.option_strings


@pytest.mark.parametrize("stage", STAGES)
def test_help_explains_the_fields_of_the_model(stage):
    cls = config_class(stage)
    told = field_help(cls)
    fields = [name for name in config_fields(cls) if name not in set_elsewhere(stage)]
    assert set(told) <= set(config_fields(cls))
    assert sum(name in told for name in fields) >= len(fields) - 2
    assert not any("`" in words for words in told.values())


def test_a_field_in_the_middle_of_another_ones_line_is_found():
    told = field_help(config_class("pretrain"))
    assert told["num_views"] == "Cameras, each with its own code grid."
    assert told["history_frames"] == "Frames of one history clip."
    assert told["trunk_heads"] == told["hidden_size"] and "CLIPTextConfig" not in told["text_config"]
