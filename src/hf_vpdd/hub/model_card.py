"""The card of a model, rendered from what its folder says of itself: nothing is claimed that no file holds."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard, ModelCardData

from ..errors import InputError
from .contents import Contents
from .evaluations import Results, changed
from .families import PAPERS, Family, family_of, usage
from .paths import shorten_paths


TEMPLATE = Path(__file__).with_name("model_card.md")
MARK = "<!-- hf-vpdd card:"  # of a text that this module may render again
UNKNOWN_LICENCE = "Not stated. Ask who trained it before using it for anything but a look."


def render_model_card(
    contents: Contents,
    name: str,
    results: Sequence[Results] = (),
    licence: str | None = None,
    data_licence: str | None = None,
    datasets: Iterable[str] = (),
    base_model: str | None = None,
) -> ModelCard:
    """The README.md of a model or an adapter.

    Args:
        contents: Of its folder.
        name: Of the repository, "user/name".
        results: Its evaluations.
        licence: Identifier as the Hub knows it ("apache-2.0"); None: the card says that it is not stated.
        data_licence: Of the data it was trained on, in words.
        datasets: Hub names of these.
        base_model: Hub name of the model it was fine-tuned from.
    """
    adapter = contents.kind == "adapter"
    family = family_of(contents.architecture)
    base_model = base_model or contents.base
    tags = ["robotics", *family.tags, *(["lora", "peft"] if adapter else [])]
    environments = dict.fromkeys(one.env for one in results)
    entries = [entry for one in results for entry in one.to_eval_results()]
    data = ModelCardData(
        license=licence, library_name="hf_vpdd", pipeline_tag="robotics", language=_language(contents),
        tags=list(dict.fromkeys([*tags, *environments])), datasets=list(datasets) or None, base_model=base_model,
        model_name=name.split("/")[-1] if entries else None, eval_results=entries or None,
    )  # fmt: skip
    run = shorten_paths(contents.run)
    recipe = run.get("recipe")
    values = {
        "name": name.split("/")[-1],
        "what": _what(contents, family, base_model),
        "size": _size(contents),
        "usage": usage("adapter" if adapter else family.kind, contents.architecture, name, contents.processor),
        "inputs": _inputs(contents, family),
        "intended": family.use,
        "results": [_section(one) for one in results],
        "held_out": "video" if family.kind in ("video", "tokenizer", "value") else "episodes",
        "metrics": ", ".join(f"{key} {value:.4g}" for key, value in contents.training.get("metrics", {}).items()),
        "training": _training(contents, run, data_licence),
        "command": _command(run),
        "recipe": yaml.safe_dump(recipe, sort_keys=False).rstrip() if recipe else None,
        "limits": [*_found_limits(results, run), *family.limits],
        "licence": f"{licence}." if licence else UNKNOWN_LICENCE,
        "papers": [PAPERS[key] for key in dict.fromkeys([*family.papers, *environments]) if key in PAPERS],
    }
    try:
        card = ModelCard.from_template(data, template_path=str(TEMPLATE), **values)
    except ImportError as error:  # huggingface_hub renders with jinja2, which comes with torch
        raise InputError("Cards are rendered with jinja2, which is missing: pip install jinja2") from error
    return card


def is_rendered(card: str | None) -> bool:
    """Whether a README.md may be replaced: there is none, it is a library's stock card, or this package wrote it and
    nobody took it over."""
    stock = (MARK, "No evaluation is recorded here.\n", "[More Information Needed]")
    return card is None or any(sign in card for sign in stock)


def _language(contents: Contents) -> list[str] | None:
    return ["en"] if "tokenizer_config.json" in contents.files else None


def _what(contents: Contents, family: Family, base_model: str | None) -> str:
    if contents.kind != "adapter":
        return family.what
    config = contents.adapter
    return (
        f"A low-rank adapter (LoRA, rank {config.get('r')}, alpha {config.get('lora_alpha')}) for "
        f"[{base_model}](https://huggingface.co/{base_model}). {family.what if family.papers else ''}".rstrip()
    )


def _size(contents: Contents) -> str:
    count = contents.parameters()
    number = f"{count / 1e6:.1f} million" if count >= 1e6 else f"{count:,}"
    return f"{number} numbers in the weights' files, {contents.num_bytes / 1e6:.1f} MB in all."


def _inputs(contents: Contents, family: Family) -> list[tuple[str, str, str]]:
    """Rows of the table of inputs and outputs, as the processor knows them."""
    processor, config = contents.processor, contents.config
    if family.kind not in ("policy", "video", "value", "model") or not processor:
        return []
    size = processor.get("image_processor", {}).get("size")
    size = size.get("height") if isinstance(size, Mapping) else size
    frames = processor.get("history_frames", 1)
    window = f", or the last {frames}, oldest first" if frames > 1 else ""
    rows = [
        (f'`images["{camera}"]`', "(H, W, 3) uint8" + window, f"resized to {size} px")
        for camera in processor["cameras"]
    ]
    stats = processor.get("state_stats") or {}
    if stats.get("mean") and family.kind == "policy":
        spread = ", ".join(f"{m:.3g} ± {s:.2g}" for m, s in zip(stats["mean"], stats["std"]))
        rows.append(("`state`", f"({len(stats['mean'])},) float32", f"robot units; in training {spread}"))
    elif processor.get("state_dim") and family.kind == "policy":
        rows.append(("`state`", f"({processor['state_dim']},) float32", "robot units"))
    if processor.get("tasks"):
        rows.append(("`instruction`", "text", "one of: " + "; ".join(processor["tasks"])))
    elif "tokenizer_config.json" in contents.files:
        rows.append(("`instruction`", "text", "what to do, in the words it was trained on"))
    if family.kind == "policy":
        chunk = processor.get("chunk_size", 1)
        low, high = _action_range(processor)
        dims = len(low) if low else processor.get("action_dim") or config.get("action_dim") or "A"
        ranges = ", ".join(f"{a:.3g} to {b:.3g}" for a, b in zip(low, high)) or "as in the demonstrations"
        run = processor.get("execute")
        carried = f"; {run} of them are carried out before the next plan" if run not in (None, chunk) else ""
        rows.append(("**output** `actions`", f"({chunk}, {dims}) float32", f"robot units, {ranges}{carried}"))
    return rows


def _action_range(processor: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    stats = processor.get("action_stats") or {}
    low, high = stats.get("min", processor.get("action_low")), stats.get("max", processor.get("action_high"))
    return list(low or []), list(high or [])


def _section(one: Results) -> dict[str, Any]:
    """What the template shows of an evaluation."""
    length = ""
    if one.mean_length is not None:
        mean, low, high = one.mean_length
        length = f"Tasks done in a row, of 5: **{mean:.2f}** [{low:.2f}, {high:.2f}]."
    names = [name for name in one.summary.get("perturbation", []) if name not in ("None", "none")]
    return {
        "title": one.title, "heading": one.heading, "changed": "changed: " + ", ".join(names) if names else "",
        "length": length, "rows": one.rows, "first": "tasks" if one.env == "calvin" else "task",
        "tries": "chains" if one.env == "calvin" else "episodes",
        "facts": "; ".join(one.facts) or "No more is recorded",
        "notes": " ".join(f"Note: {note}." for note in one.notes), "command": one.command,
    }  # fmt: skip


def _training(contents: Contents, run: Mapping[str, Any], data_licence: str | None) -> str:
    """Data, steps, seed, machine, versions: one paragraph, and what is not recorded is said to be so."""
    if not run:
        how = "converted from another project's weights" if "conversion.json" in contents.files else "not recorded"
        text = f"How it was made: {how}"
        return text + (" (conversion.json says what was kept)." if "conversion.json" in contents.files else ".")
    data, stage = run["recipe"].get("data", {}), run["stage"]
    section = run["recipe"].get(stage, {})
    train = section.get("train", {})
    roots = data.get("root") or []
    lines = [f"Stage `{stage}`, seed {run['seed']}"]
    if train:
        lines[0] += (
            f", {train.get('steps')} steps of {train.get('batch_size')} samples, learning rate "
            f"{train.get('learning_rate')}"
        )
    where = ", ".join(f"`{root}`" for root in ([roots] if isinstance(roots, str) else roots)) or "not recorded"
    prints = run.get("fingerprints", {})
    tasks = f"; tasks: {', '.join(data['tasks'])}" if data.get("tasks") else ""
    lines.append(f"Data: {where}{tasks}; fingerprint `{str(prints.get('dataset', '?'))[:16]}`")
    lines.append(f"Licence of the data: {data_licence or 'not stated'}")
    if section.get("init_from"):
        lines.append(f"Started from `{section['init_from']}`")
    if run.get("trainable_parameters") is not None:
        lines.append(f"{run['trainable_parameters']:,} of {run['parameters']:,} parameters were trained")
    done = contents.training
    if done.get("wall_seconds"):
        count = run.get("processes", 1)
        lines.append(f"{done['wall_seconds'] / 60:.0f} min on {run['device']}, {count} process{'es' * (count > 1)}")
    if done.get("skipped_steps"):
        lines.append(f"{done['skipped_steps']} steps were skipped: their loss was not finite")
    versions = {key: run["versions"].get(key) for key in ("hf_vpdd", "torch", "transformers") if run.get("versions")}
    lines.append("Versions: " + ", ".join(f"{key} {value}" for key, value in versions.items() if value))
    if run.get("git_revision"):
        lines.append(f"Source: commit `{run['git_revision']}`")
    return ". ".join(lines) + "."


def _command(run: Mapping[str, Any]) -> str | None:
    words = run.get("command") or []
    if not words:
        return None
    return " ".join((["accelerate launch"] if str(words[0]).endswith(".py") else []) + words)


def _found_limits(results: Sequence[Results], run: Mapping[str, Any]) -> list[str]:
    """What the numbers themselves say against the model."""
    found = []
    for one in results:
        poor = [f"{row.name} ({row.text})" for row in one.rows if row.rate < 0.5 and row.name != "all"]
        if poor and not changed(one.summary):
            found.append(f"On {one.title} it fails more often than not at: {'; '.join(poor)}.")
    if results and not any(changed(one.summary) for one in results):
        found.append("Changed conditions (another camera, light, table, wording) were not tried.")
    if not results:
        found.append("It was not evaluated in a simulator.")
    if run:
        found.append(f"One training seed ({run['seed']}).")
    return found
