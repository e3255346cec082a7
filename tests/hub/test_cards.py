"""Cards: what stands in them stands in the files, and the Hub's own classes read them."""

import json

import datasets
import pytest
from huggingface_hub import DatasetCard, ModelCard

from hf_vpdd import cli
from hf_vpdd.errors import InputError
from hf_vpdd.hub.contents import look_into
from hf_vpdd.hub.evaluations import find_results
from hf_vpdd.hub.families import FAMILIES, PAPERS
from hf_vpdd.hub.model_card import MARK, is_rendered, render_model_card
from hf_vpdd.hub.paths import shorten_paths
from tests.hub.folders import chains, dataset, evaluation, finished_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run, with an evaluation inside it, one elsewhere and one of other weights."""
    folder = finished_run(tmp_path_factory.mktemp("cards") / "finetune")
    evaluation(folder / "eval", folder)
    evaluation(folder.parent / "camera", folder, perturbation="camera")
    other = finished_run(folder.parent / "other", seed=1)
    evaluation(folder.parent / "others_eval", other)
    return folder


def test_the_card_of_a_run_says_what_its_files_say(run):
    contents = look_into(run)
    results = find_results(contents, [run.parent / "camera"])
    card = render_model_card(
        contents, "me/policy", results, licence="apache-2.0", data_licence="cc-by-4.0", datasets=["me/data"]
    )
    data, text = card.data, card.text
    assert (data.license, data.library_name, data.pipeline_tag) == ("apache-2.0", "hf_vpdd", "robotics")
    assert {"robotics", "vpdd", "metaworld"} <= set(data.tags) and data.datasets == ["me/data"]
    for said in (
        "| reach-v3 | 18 | 20 | 90.0 % [70, 97] |", "| all | 24 | 40 | 60.0 % [45, 74] |",
        "seeds 100000 to 100019",
        "num_inference_steps 4", "6.5 ms of the policy per action", "changed: camera", "seed 3",
        "10 steps of 4 samples",
        "abcdef", "900 of 1,000 parameters", "commit `1234abcd`", "loss 1.25", "2 min on cpu", "cc-by-4.0",
        "fails more often than not at: push-v3 (30.0 % [15, 52])", "One training seed (3)", 'images["corner2"]',
        "hf-vpdd eval --policy runs/finetune --tasks mt3", "accelerate launch training/finetune.py", "2402.14407",
        'pipeline("robot-policy", "me/policy", trust_remote_code=True)', "tasks: reach-v3",
    ):  # fmt: skip
        assert said in text, said
    assert "/home/somebody" not in text and str(run) not in text


def test_the_results_are_a_model_index_that_the_hub_reads(run, tmp_path):
    contents = look_into(run)
    card = render_model_card(contents, "me/policy", find_results(contents))
    card.save(tmp_path / "README.md")
    results = ModelCard.load(tmp_path / "README.md").data.eval_results  # parsed from the YAML again
    found = {result.metric_name: result for result in results}
    overall = found["success rate"]
    assert (overall.metric_type, overall.metric_value, overall.dataset_type) == ("success_rate", 0.6, "metaworld")
    assert overall.dataset_args == {"protocol": "lean", "episodes": 40, "seeds": [100000, 100019]}
    assert overall.metric_args == {"interval_95": [0.45, 0.74], "successes": 24, "episodes": 40}
    assert found["success rate, push-v3"].metric_value == 0.3 and len(found) == 3


def test_chains_have_their_own_table(run, tmp_path):
    contents = look_into(run)
    (results,) = (one for one in find_results(contents, [chains(tmp_path / "calvin", run)]) if one.env == "calvin")
    card = render_model_card(contents, "me/policy", [results])
    assert "Tasks done in a row, of 5: **1.40** [0.80, 2.00]" in card.text and "| 2 in a row | 4 | 10 |" in card.text
    assert "Note: 10 of 1000 chains." in card.text and "2112.03227" in card.text
    assert card.data.eval_results[0].metric_type == "chain_length"


def test_results_of_other_weights_are_refused_and_changed_processors_noted(run, tmp_path):
    contents = look_into(run)
    with pytest.raises(InputError, match="others_eval: these are results of other weights"):
        find_results(contents, [run.parent / "others_eval"])
    with pytest.raises(InputError, match="does not exist. Give the --out folder"):
        find_results(contents, [tmp_path / "nothing"])
    with pytest.raises(InputError, match="not the summary of a finished evaluation"):
        find_results(contents, [evaluation(tmp_path / "half", run, finished=False)])
    changed = finished_run(tmp_path / "changed")
    evaluation(changed / "eval", changed)
    processor = json.loads((changed / "processor_config.json").read_text()) | {"execute": 1}
    (changed / "processor_config.json").write_text(json.dumps(processor))
    contents = look_into(changed)
    assert "another processor_config.json" in render_model_card(contents, "me/x", find_results(contents)).text


def test_a_card_without_evaluation_claims_nothing(tmp_path):
    contents = look_into(finished_run(tmp_path / "run"))
    card = render_model_card(contents, "me/policy")
    assert "No evaluation is recorded here" in card.text and card.data.eval_results is None
    assert "It was not evaluated in a simulator." in card.text and "Not stated." in card.text
    assert card.data.license is None


def test_words_for_every_class_that_is_saved():
    from hf_vpdd.modeling import gr1, vpdd, vptr

    saved = {name for room in (gr1, vpdd, vptr) for name in dir(room) if "For" in name and not name.startswith("_")}
    assert saved and saved <= set(FAMILIES)
    assert all(paper in PAPERS for family in FAMILIES.values() for paper in family.papers)


def test_the_card_of_a_dataset_opens_with_datasets(tmp_path, monkeypatch):
    folder = dataset(tmp_path / "demos")
    assert cli.main(["card", str(folder), "--name", "me/demos", "--write", "--licence", "cc-by-4.0"]) == 0
    card = DatasetCard.load(folder / "README.md")
    assert card.data.task_categories == ["robotics"] and "LeRobot" in card.data.tags
    assert card.data.license == "cc-by-4.0" and card.data.size_categories == "n<1K"
    assert "| `action` | float32 | 2 | dx, dy |" in card.text and "* close it" in card.text
    assert "2 episodes of sawyer, 12 frames at 10 per second" in card.text and "/home/somebody" not in card.text
    rows = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(rows) == 12 and "action" in rows.column_names


def test_the_verb_prints_writes_and_spares_what_somebody_wrote(run, tmp_path, capsys):
    assert cli.main(["card", str(run), "--name", "me/policy"]) == 0
    assert "# policy" in capsys.readouterr().out
    folder = finished_run(tmp_path / "run")
    assert cli.main(["card", str(folder), "--write"]) == 0
    text = (folder / "README.md").read_text()
    assert MARK in text and is_rendered(text)
    assert cli.main(["card", str(folder), "--write"]) == 0  # its own may be replaced
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# My policy\n")
    assert cli.main(["card", str(folder), "--write"]) == 2
    assert "was written by hand" in capsys.readouterr().err
    assert cli.main(["card", str(folder), "--out", str(tmp_path / "card.md")]) == 0
    assert MARK in (tmp_path / "card.md").read_text()


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("/home/me/data/mt10", "data/mt10"),
        ("--root /work/data/runs/tiny --x 1", "--root runs/tiny --x 1"),
        ("--out=/a/b/c", "--out=b/c"),
        ("~/data/robots/mt3", "robots/mt3"),
        ("C:\\Users\\me\\data", "me/data"),
        ("--init vptr:/work/data/values/icvf", "--init vptr:values/icvf"),
        ("C:/Users/me/data", "me/data"),
        ("outputs/mt10", "outputs/mt10"),
        (r"(?:model\.)?trunk\.(?:\w+\.)*(?:q|v)_proj", r"(?:model\.)?trunk\.(?:\w+\.)*(?:q|v)_proj"),
        (r"action_head\.layers\.\d+\.fc[12]", r"action_head\.layers\.\d+\.fc[12]"),
        ("user/name", "user/name"),
        ("and/or 3/4", "and/or 3/4"),
        ("https://huggingface.co/me/x", "https://huggingface.co/me/x"),
        ("videos/{key}/chunk-{i:03d}/file.mp4", "videos/{key}/chunk-{i:03d}/file.mp4"),
    ],
)  # fmt: skip
def test_paths_lose_what_belongs_to_one_machine(text, short):
    assert shorten_paths({"a": [text, 3]}) == {"a": [short, 3]}
