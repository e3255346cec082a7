"""Arguments of a training run: a recipe YAML, overrides on the command line, and checks that refuse what is not known.

One YAML describes a whole experiment (see ``recipes/metaworld_tiny.yaml``)::

    output_dir: outputs/metaworld_tiny     # stages write to <output_dir>/<stage>; each starts from the one before
    data:     {root: data/metaworld, ...}  # DataArguments, shared by all stages
    train:    {seed: 0, ...}               # TrainArguments, shared by all stages
    model:    {...}                        # VPDDConfig fields of pretrain and finetune
    vqvae:    {model: {...VPDDVQVAEConfig}, train: {...}, ...VQVAEArguments}
    pretrain: {train: {...}, data: {...}, model: {...}, ...PretrainArguments}
    finetune: {train: {...}, data: {...}, model: {...}, ...FinetuneArguments}

With ``family: vptr`` the stages are value_pretrain (ValueArguments) and offline_rl (OfflineRLArguments), and model is
VPTRConfig's; with ``family: gr1`` they are gr1_pretrain and gr1_finetune (Gr1PretrainArguments, Gr1FinetuneArguments),
and model is GR1Config's.

Later wins: defaults < top-level sections < the stage's own section < overrides. An override is named by its field
where that is unique (``--learning_rate 1e-4``) or by its path (``--train.learning_rate``, ``--model.hidden_size``).
Configs of transformers keep unknown keyword arguments without a word, so the keys of ``model`` are held against the
config's own fields here.
"""

import argparse
import dataclasses
import difflib
import sys
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..errors import InputError
from .best import BestCheckpoint
from .config_help import field_help
from .families import (
    FAMILIES,
    FAMILY_OF,
    POLICY_STAGES,
    PREVIOUS_STAGE,
    SCRIPTS,
    STAGE_ARGUMENTS,
    STAGES,
    TRAIN_DEFAULTS,
    config_class,
    set_elsewhere,
)
from .lora_arguments import LoraArguments
from .options import DataArguments, TrainArguments
from .values import choices, coerce, metavar, number_text, show


_ALIASES = {"data.root": ("--data_dir",)}  # options that other training scripts call by another name


@dataclass
class Recipe:
    """Everything one stage needs, resolved and checked. `load_recipe` makes it."""

    stage: str
    output_dir: str
    init_from: str | None
    resume: str
    data: DataArguments
    train: TrainArguments
    options: Any  # of the stage, see STAGE_ARGUMENTS
    model: dict[str, Any] = field(default_factory=dict)  # fields of the stage's config that differ from its defaults

    def check(self) -> None:
        self.data.check()
        self.train.check()
        self.options.check()
        if self.resume not in ("auto", "no") and not Path(self.resume).is_dir():
            raise InputError(f"resume must be auto, no or a checkpoint folder; {self.resume!r} is no folder")
        if self.train.rollout_every and self.stage not in POLICY_STAGES:
            raise InputError(
                f"train.rollout_every: {self.stage} trains no policy that could act; set it in the section of "
                f"{' or '.join(POLICY_STAGES)}"
            )
        BestCheckpoint(self.train.keep_best, self.stage)  # refuses what is no metric of this stage

    def to_dict(self) -> dict[str, Any]:
        """Plain data in the layout of a recipe YAML: it can be given to --config again."""
        stage = {
            "output_dir": self.output_dir, "init_from": self.init_from, "model": self.model,
            "train": _plain(self.train), **_plain(self.options),
        }  # fmt: skip
        family = FAMILY_OF[self.stage]
        return {**({} if family == "vpdd" else {"family": family}), "data": _plain(self.data), self.stage: stage}

    def flat(self) -> dict[str, int | float | str | bool]:
        """`section.key -> scalar`, for trackers."""
        sections = {"data": _plain(self.data), "train": _plain(self.train), self.stage: _plain(self.options)}
        sections["model"] = self.model
        flat = {f"{name}.{key}": value for name, section in sections.items() for key, value in section.items()}
        return {k: v if isinstance(v, (int, float, str, bool)) else str(v) for k, v in flat.items()}


# ---------------------------------------------------------------------------------------------------------- reading


def config_fields(cls: type) -> dict[str, dataclasses.Field]:
    """The config's own fields, without those every transformers config has."""
    from transformers import PreTrainedConfig

    common = {f.name for f in dataclasses.fields(PreTrainedConfig)}
    return {f.name: f for f in dataclasses.fields(cls) if f.name not in common}


def load_recipe(
    stage: str, config: str | Path | dict | None = None, overrides: dict[str, Any] | None = None, **more: Any
) -> Recipe:
    """Read, merge and check the recipe of one stage.

    Args:
        stage: vqvae, pretrain or finetune of VPDD; value_pretrain or offline_rl of V-PTR; gr1_pretrain or gr1_finetune
            of GR-1.
        config: a recipe YAML (or the same as a dict); None for defaults only.
        overrides: `{"learning_rate": 1e-4, "model.hidden_size": 64, "output_dir": ...}`, as on the command line.
        more: further overrides, as keyword arguments.

    Raises:
        InputError: an unknown key (with the nearest known one), a value of the wrong type, contradictory options.
    """
    if stage not in STAGES:
        raise InputError(f"unknown stage {stage!r}: choose one of {', '.join(STAGES)}")
    content, source = _read_config(config)
    family = recipe_family(content, source)
    if family != FAMILY_OF[stage] and ("family" in content or family != "vpdd"):
        stages = ", ".join(FAMILIES[family])
        raise InputError(f"{source} is of the family {family}, which has {stages}; {stage} is {FAMILY_OF[stage]}'s")
    known = {"output_dir", "init_from", "resume", "data", "train", "model", "family", *STAGES}
    _refuse_unknown(content, known, source, "")
    own = _section(content, stage, source)
    option_class = STAGE_ARGUMENTS[stage]
    nested = {"output_dir", "init_from", "resume", "data", "train", "model"}
    _refuse_unknown(own, nested | _field_names(option_class), source, stage)
    for other in STAGES:  # a typo in another stage's section is found now, not an hour later
        section = _section(content, other, source)
        _refuse_unknown(section, nested | _field_names(STAGE_ARGUMENTS[other]), source, other)
        for name, cls in (("data", DataArguments), ("train", TrainArguments)):
            _refuse_unknown(_section(section, name, source), _field_names(cls), source, f"{other}.{name}")

        if other != stage and FAMILY_OF[other] == family:
            _check_model_section(other, _model_section(content, other, source), source)

    values: dict[str, dict[str, Any]] = {
        "data": {},
        "train": dict(TRAIN_DEFAULTS.get(stage, {})),
        stage: {},
        "model": {},
    }
    for scope in (content, own):
        for name in ("data", "train"):
            values[name].update(_section(scope, name, source))
    values["model"] = _model_section(content, stage, source)
    values[stage].update({k: v for k, v in own.items() if k not in nested})

    root = content.get("output_dir")
    general = {
        "output_dir": own.get("output_dir") or (str(Path(root) / stage) if root else None),
        "init_from": own.get("init_from") or content.get("init_from"),
        "resume": own.get("resume", content.get("resume", "auto")),
    }
    given = {**(overrides or {}), **more}
    for key, value in given.items():
        _apply_override(stage, values, general, key, value)
    if issubclass(option_class, LoraArguments):
        option_class.settle(values[stage], {key.removeprefix(f"{stage}.") for key in given})

    previous = PREVIOUS_STAGE[stage]
    if general["init_from"] is None and previous and root:
        earlier = _section(content, previous, source).get("output_dir")
        general["init_from"] = earlier or str(Path(root) / previous)
    if not general["output_dir"]:
        where = f"set output_dir in {source} or give" if config else "give --config RECIPE.yaml, or"
        raise InputError(f"no output folder: {where} --output_dir (--help tells all options)")
    recipe = Recipe(
        stage=stage,
        output_dir=str(general["output_dir"]),
        init_from=None if general["init_from"] is None else str(general["init_from"]),
        resume=_resume_value(general["resume"]),
        data=_build(DataArguments, values["data"], source, "data"),
        train=_build(TrainArguments, values["train"], source, "train"),
        options=_build(option_class, values[stage], source, stage),
        model=_check_model_section(stage, values["model"], source),
    )
    recipe.check()
    return recipe


def recipe_family(config: str | Path | dict | None, source: str = "the recipe") -> str:
    """The family of models a recipe is about: its key `family`, vpdd without one."""
    family = _read_config(config)[0].get("family", "vpdd")
    if family not in FAMILIES:
        raise InputError(f"family of {source} must be one of {', '.join(FAMILIES)}; got {family!r}")
    return family


def parse_command_line(stage: str, argv: list[str] | None = None, description: str | None = None) -> Recipe:
    """The recipe of a training script: `--config recipe.yaml` plus `--key value` overrides."""
    parser = build_parser(stage, description)
    _refuse_twice(parser, sys.argv[1:] if argv is None else argv)
    namespace, unknown = parser.parse_known_args(argv)
    nested = {}
    while len(unknown) > 1 and unknown[0].startswith("--model.") and unknown[0].count(".") > 1:
        nested[unknown[0][2:]] = unknown[1]  # a field of a sub-config: --model.text_config.hidden_size 64
        unknown = unknown[2:]
    if unknown:
        options = [name for action in parser._actions for name in action.option_strings]
        flag = unknown[0].split("=")[0]
        raise InputError(f"unknown argument {unknown[0]!r}{_nearest(flag, options)} (see --help)")
    given = {key: value for key, value in {**vars(namespace), **nested}.items() if value is not None}
    given.pop("model", None)  # the family, by which the script chose `stage`
    return load_recipe(stage, given.pop("config", None), given)


def _refuse_twice(parser: argparse.ArgumentParser, words: list[str]) -> None:
    """An option that is given twice, under one name or two (--steps, --train.steps): argparse would take the last."""
    places = {name: action.dest for action in parser._actions for name in action.option_strings}
    seen: dict[str, str] = {}
    for word in words:
        name = word.split("=")[0]
        place = places.get(name, name if name.startswith("--model.") else None)
        if place is not None and place in seen:
            raise InputError(f"{seen[place]} and {name} are the same option: give it once")
        if place is not None:
            seen[place] = name


def _script(stage: str) -> str:
    return SCRIPTS[stage].split()[0]


def build_parser(stage: str, description: str | None = None) -> argparse.ArgumentParser:
    """An argparse parser with one group of options per section; every option defaults to None, i.e. to the recipe."""
    parser = argparse.ArgumentParser(
        prog=SCRIPTS[stage], usage="%(prog)s --config RECIPE.yaml [--OPTION VALUE ...]", description=description,
        allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    group = parser.add_argument_group("run")
    group.add_argument("--config", metavar="YAML", help="recipe; everything below overrides it")
    if stage != "vqvae":
        families = [family for family, stages in FAMILIES.items() if _script(stage) in map(_script, stages)]
        group.add_argument("--model", metavar="NAME", help=f"family of models: {' | '.join(families)} (default: the "
                           "recipe's key `family`, else the first); give it before --help")  # fmt: skip
    group.add_argument("--output_dir", metavar="FOLDER", help="folder of this stage's model, checkpoints and logs")
    if PREVIOUS_STAGE[stage]:
        group.add_argument("--init_from", metavar="FOLDER", help=f"output folder of the {PREVIOUS_STAGE[stage]} stage")
    group.add_argument("--resume", metavar="HOW", help="auto: go on from the newest valid checkpoint in output_dir; "
                                        "no: start again; or a checkpoint folder (default: auto)")  # fmt: skip
    for section, cls in (("data", DataArguments), ("train", TrainArguments), (stage, STAGE_ARGUMENTS[stage])):
        hints, title = typing.get_type_hints(cls), None
        own = vars(cls).get("__annotations__", {})  # inherited options, shared with other stages, come last
        for f in sorted(dataclasses.fields(cls), key=lambda f: f.name not in own):
            wanted = f.metadata.get("group") or cls.__doc__.splitlines()[0].rstrip(".")
            if wanted != title:
                group, title = parser.add_argument_group(f"{section}: {wanted}"), wanted
            default = f.default_factory() if f.default is dataclasses.MISSING else f.default
            if section == "train":
                default = TRAIN_DEFAULTS.get(stage, {}).get(f.name, default)
            shown = "" if default is None or default == [] else f" [default: {show(default)}]"
            known = choices(hints[f.name])
            text = f"{f.metadata['help']}{': ' + ' | '.join(known) if known else ''}{shown}".replace("%", "%%")
            names = (f"--{f.name}", f"--{section}.{f.name}", *_ALIASES.get(f"{section}.{f.name}", ()))
            if hints[f.name] is bool:
                group.add_argument(
                    *names, dest=f"{section}.{f.name}", nargs="?", const="true", metavar="BOOL", help=text
                )
            else:
                group.add_argument(*names, dest=f"{section}.{f.name}", metavar=metavar(hints[f.name]), help=text)
    cls = config_class(stage)
    group = parser.add_argument_group(
        f"model: fields of {cls.__name__} (of a sub-config: --model.text_config.hidden_size 64)"
    )
    told = field_help(cls)
    for f in config_fields(cls).values():
        if f.name in set_elsewhere(stage):
            continue
        default = None if f.default is dataclasses.MISSING else f.default
        group.add_argument(
            f"--model.{f.name}",
            dest=f"model.{f.name}",
            metavar="VALUE",
            help=f"{told.get(f.name, '')} [default: {default}]".strip().replace("%", "%%"),
        )
    return parser


# ---------------------------------------------------------------------------------------------------------- helpers


class _Loader(yaml.SafeLoader):
    """Refuses a key that is given twice: YAML would silently take the last one."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key_node, _ in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key is not None and key != "<<" and key in seen:
                raise InputError(
                    f"{key!r} is given twice in line {key_node.start_mark.line + 1} of the recipe: which one counts?"
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def _read_config(config: str | Path | dict | None) -> tuple[dict, str]:
    if config is None:
        return {}, "the command line"
    if isinstance(config, dict):
        return config, "the recipe"
    path = Path(config)
    if not path.is_file():
        raise InputError(f"recipe {path} does not exist (recipes of this package stand in recipes/)")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader) or {}
    except yaml.YAMLError as error:
        raise InputError(f"recipe {path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"recipe {path} must be a mapping of sections, got a {type(content).__name__}")
    return content, str(path)


def _section(scope: dict, name: str, source: str) -> dict:
    section = scope.get(name) or {}
    if not isinstance(section, dict):
        raise InputError(f"section {name!r} of {source} must be a mapping, got {section!r}")
    return section


def _model_section(content: dict, stage: str, source: str) -> dict[str, Any]:
    """The top-level `model` describes the family's network; the VQ-VAE has its own under `vqvae`."""
    own, merged = _section(content, stage, source), {}
    for scope in (own,) if stage == "vqvae" else (content, own):
        _deep_update(merged, _section(scope, "model", source))
    return merged


def _deep_update(target: dict, source: dict) -> None:
    for key, value in source.items():
        if isinstance(value, dict) and isinstance(target.get(key), dict):
            target[key] = dict(target[key])
            _deep_update(target[key], value)
        else:
            target[key] = value


def _field_names(cls: type) -> set[str]:
    return {f.name for f in dataclasses.fields(cls)}


def _nearest(name: str, known) -> str:
    matches = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def _refuse_unknown(section: dict, known, source: str, where: str) -> None:
    for key in section:
        if key not in known:
            place = f"section {where!r} of {source}" if where else source
            raise InputError(f"unknown key {key!r} in {place}{_nearest(str(key), known)}")


def _apply_override(stage: str, values: dict, general: dict, key: str, value: Any) -> None:
    if key in general:
        general[key] = value
        return
    sections = {"data": DataArguments, "train": TrainArguments, stage: STAGE_ARGUMENTS[stage]}
    head, _, rest = key.partition(".")
    if rest and head in sections:
        values[head][rest] = value  # unknown names are refused by _build
        return
    if rest and head == "model":
        target = values["model"]
        *parents, leaf = rest.split(".")
        for parent in parents:
            target[parent] = dict(target.get(parent) or {})
            target = target[parent]
        target[leaf] = yaml.safe_load(value) if isinstance(value, str) else value
        return
    owners = [name for name, cls in sections.items() if key in _field_names(cls)]
    if len(owners) != 1:
        known = {n for cls in sections.values() for n in _field_names(cls)} | set(general)
        if len(owners) > 1:
            raise InputError(f"{key!r} is ambiguous: write {' or '.join(f'{o}.{key}' for o in owners)}")
        raise InputError(f"unknown argument {key!r} for {stage}{_nearest(key, known)}")
    values[owners[0]][key] = value


def _resume_value(value: Any) -> str:
    if isinstance(value, bool):  # YAML reads a bare `no` as False
        return "auto" if value else "no"
    return str(value)


def _build(cls: type, values: dict, source: str, where: str) -> Any:
    _refuse_unknown(values, _field_names(cls), source, where)
    hints = typing.get_type_hints(cls)
    return cls(**{key: coerce(value, hints[key], f"{where}.{key}") for key, value in values.items()})


def _check_model_section(stage: str, section: dict, source: str) -> dict[str, Any]:
    """Keys must be fields of the stage's config and its sub-configs; text that is a number (1e-6 in YAML) is one."""
    if not section:
        return {}
    cls = config_class(stage)
    fields = config_fields(cls)
    _refuse_unknown(
        section, fields, source, f"{stage}.model ({cls.__name__})" if stage == "vqvae" else f"model ({cls.__name__})"
    )
    elsewhere = set_elsewhere(stage)
    for name in set(section) & set(elsewhere):
        raise InputError(f"model.{name} is not set here: {elsewhere[name]}")
    _check_sub_configs(cls, section, source, "model")
    return {key: number_text(value) for key, value in section.items()}


def _check_sub_configs(cls: type, section: dict, source: str, where: str) -> None:
    """Unknown keys in sections of sub-configs, and in theirs: transformers would keep them without a word."""
    from transformers import CONFIG_MAPPING, AutoConfig

    for name, sub_class in cls.sub_configs.items():
        inner = section.get(name)
        if not isinstance(inner, dict):
            continue
        place = f"{where}.{name}"
        if sub_class is AutoConfig:  # any model: the section says which
            kind = inner.get("model_type")
            if kind not in CONFIG_MAPPING:
                known = sorted(CONFIG_MAPPING.keys())
                raise InputError(
                    f"{place} of {source} needs the model_type of a model in transformers, got {kind!r}"
                    f"{_nearest(str(kind), known)}"
                )
            sub_class = CONFIG_MAPPING[kind]
        aliases = getattr(sub_class, "attribute_map", {})
        _refuse_unknown(
            inner, {*_field_names(sub_class), *aliases, "model_type"}, source, f"{place} ({sub_class.__name__})"
        )
        _check_sub_configs(sub_class, inner, source, place)


def build_config(stage: str, section: dict, **fixed: Any) -> Any:
    """The stage's config object from a checked `model` section."""
    cls = config_class(stage)
    try:
        return cls(**{**section, **fixed})
    except Exception as error:  # huggingface_hub's strict dataclass errors share no public base class
        raise InputError(f"the model section does not make a valid {cls.__name__}: {error}") from error


def _plain(arguments: Any) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(arguments).items()}
