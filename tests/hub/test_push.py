"""`hf-vpdd push`: what goes to the Hub, what stays, and what is refused before anything is sent."""

import json

import pytest

from hf_vpdd import cli
from hf_vpdd.errors import InputError
from hf_vpdd.files import file_sha256
from hf_vpdd.hub import push as push_module
from hf_vpdd.hub.contents import look_into
from hf_vpdd.hub.push import check_repo_id, push_to_hub
from hf_vpdd.modeling import saved_files
from hf_vpdd.pipelines.robot_policy import RobotPolicyPipeline
from hf_vpdd.saving import save_policy
from tests.fakehub import FakeHub
from tests.hub.folders import dataset, evaluation, finished_run
from tests.hub.processes import answers, environment, python
from tests.pipelines.tiny_policy import tiny_policy


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = finished_run(tmp_path_factory.mktemp("push") / "finetune")
    evaluation(folder / "eval", folder)
    return folder


PUSHED = {
    "README.md", "config.json", "evaluations.json", "hf_vpdd_auto.py", "model.safetensors", "model_index.json",
    "processor_config.json", "run.json", "scheduler_config.json", "tokenizer.json", "tokenizer_config.json",
    "training.json",
}  # fmt: skip


def test_a_dry_run_needs_no_token_and_takes_known_files_alone(run, monkeypatch, capsys):
    monkeypatch.setattr(saved_files, "get_token", lambda: None)
    push = push_to_hub(run, "me/policy", dry_run=True)
    assert set(push.files) == PUSHED and push.rendered and push.commit is None
    assert push.url.endswith("/me/policy")
    assert cli.main(["push", str(run), "me/policy", "--dry-run", "--licence", "mit"]) == 0
    printed = capsys.readouterr().out
    assert "model.safetensors" in printed and "license: mit" in printed and "Nothing was sent" in printed


def test_nothing_of_this_machine_is_pushed(run):
    files = look_into(run).files
    for name, file in files.items():
        text = (file if isinstance(file, bytes) else file.read_bytes()).decode(errors="ignore")
        assert "/home/somebody" not in text and str(run.parent) not in text, name
    config = json.loads(files["config.json"])
    assert config["auto_map"] == {"AutoConfig": "hf_vpdd_auto.VPDDConfig"} and config["hf_vpdd_format"] == 1


def test_a_missing_token_stops_everything(run, monkeypatch, capsys):
    monkeypatch.setattr(saved_files, "get_token", lambda: None)
    monkeypatch.setattr(push_module, "look_into", lambda *args: pytest.fail("the folder was read first"))
    assert cli.main(["push", str(run), "me/policy"]) == 2
    assert "No token for the Hub" in capsys.readouterr().err
    model, processor = tiny_policy()
    monkeypatch.setattr(model, "save_pretrained", lambda *args: pytest.fail("the model was saved first"))
    pipe = RobotPolicyPipeline(model, processor=processor, device="cpu")
    for thing in (model, processor, pipe):
        with pytest.raises(InputError, match="No token for the Hub"):
            thing.push_to_hub("me/policy")


@pytest.mark.parametrize(
    "name", ["policy", "a/b/c", "me/", "/policy", "me/po--licy", "me/.policy", "me/p q", "me/" + 97 * "a", "../x"]
)
def test_malformed_names_are_refused(name):
    with pytest.raises(InputError, match="no name of a repository. Give USER/NAME"):
        check_repo_id(name)
    check_repo_id("me/policy_1.2-b")


def damaged(folder, change):
    change(folder)
    return folder


def _without(name):
    return lambda folder: (folder / name).unlink()


def _with(name, text):
    return lambda folder: (folder / name).write_text(text)


def _newer(folder):
    config = json.loads((folder / "config.json").read_text()) | {"hf_vpdd_format": 2, "hf_vpdd_version": "9.1"}
    (folder / "config.json").write_text(json.dumps(config))


def _cut(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without("processor_config.json"), "processor_config.json is missing, and a VPDDForRobotPolicy"),
        (_without("tokenizer_config.json"), "tokenizer_config.json is missing, and the VPDDProcessor"),
        (_without("model.safetensors"), "model.safetensors is missing"),
        (_without("config.json"), "holds nothing to push|not finished"),
        (_cut, "model.safetensors is damaged"),
        (_with("config.json", "{"), "config.json is damaged"),
        (_with("config.json", '{"model_type": "bert", "architectures": ["BertModel"]}'), "no model of this package"),
        (_newer, "saved by hf_vpdd 9.1 in format 2"),
        (_with("run.json", "[]"), "run.json is damaged"),
    ],
)
def test_folders_that_are_not_whole_are_refused(tmp_path, change, message):
    folder = damaged(finished_run(tmp_path / "run"), change)
    with pytest.raises(InputError, match=message):
        push_to_hub(folder, "me/policy", dry_run=True)


def test_what_is_no_folder_of_ours(tmp_path):
    (tmp_path / "file").write_text("")
    for place, message in (
        (tmp_path / "absent", "does not exist"),
        (tmp_path / "file", "is a file"),
        (tmp_path, "nothing to push"),
    ):
        with pytest.raises(InputError, match=message):
            look_into(place)
    (tmp_path / "half" / "checkpoint-000500" / "model").mkdir(parents=True)
    with pytest.raises(InputError, match=r"not finished.*checkpoint-000500/model"):
        look_into(tmp_path / "half")


def test_an_adapter_needs_a_base_that_others_have(tmp_path, run):
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes((run / "model.safetensors").read_bytes())
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(run), "r": 4}))
    with pytest.raises(InputError, match="which nobody else has. Push that model first"):
        look_into(folder)
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "outputs/tiny/base", "r": 4}))
    with pytest.raises(InputError, match="'outputs/tiny/base', which nobody else has"):  # gone, or seen from elsewhere
        look_into(folder)
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "outputs/base", "r": 4}))
    (folder / "adapter_base.json").write_text(json.dumps({"name": "outputs/base", "revision": None}))
    with pytest.raises(InputError, match="'outputs/base', which nobody else has"):  # looks like USER/NAME, is a folder
        look_into(folder)
    (folder / "adapter_base.json").unlink()
    with pytest.raises(InputError, match="processor_config.json is missing, here and one folder up"):
        look_into(folder, base_model="me/base")
    for name in ("processor_config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((run / name).read_bytes())  # as the merged policy has it, one folder up
    push = push_to_hub(folder, "me/adapter", base_model="me/base", dry_run=True)
    assert {"adapter_config.json", "adapter_model.safetensors", "processor_config.json"} <= set(push.files)
    assert "base_model: me/base" in push.card and "LoRA, rank 4" in push.card


def test_an_adapter_of_this_package_is_moved_onto_its_base_on_the_hub(tmp_path, run):
    folder = finished_run(tmp_path / "adapter")
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": str(run), "r": 4, "target_modules": r"model\.trunk\.(a|b)\.fc"})
    )
    record = {"name": str(run), "revision": None, "architecture": "VPDDForRobotPolicy", "weights": {"a": "b"}}
    (folder / "adapter_base.json").write_text(json.dumps({**record, "relative": "../finetune"}))
    contents = look_into(folder, base_model="me/base")
    assert contents.kind == "adapter" and contents.architecture == "VPDDForRobotPolicy"
    there = json.loads(contents.files["adapter_base.json"])
    assert json.loads(contents.files["adapter_config.json"])["target_modules"] == r"model\.trunk\.(a|b)\.fc"
    assert there == {**record, "name": "me/base", "revision": "main", "weights": {}, "relative": None}
    push = push_to_hub(folder, "me/adapter", base_model="me/base", dry_run=True)
    assert {"config.json", "adapter_base.json", "model_index.json"} <= set(push.files)
    assert "model.safetensors" not in push.files and "denoises the camera's future" in push.card


def test_a_card_by_hand_is_pushed_as_it_is(tmp_path):
    folder = finished_run(tmp_path / "run")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# My policy\n")
    push = push_to_hub(folder, "me/policy", dry_run=True)
    assert push.card.endswith("# My policy\n") and not push.rendered
    with pytest.raises(InputError, match="was written by hand"):
        push_to_hub(folder, "me/policy", licence="mit", dry_run=True)
    assert push_to_hub(folder, "me/policy", licence="mit", render_card=True, dry_run=True).rendered


# ---- with a Hub ---------------------------------------------------------------------------------------------------

PUSH_TWICE = """
import json, sys
from pathlib import Path
from hf_vpdd import push_to_hub
from huggingface_hub import HfApi

run, demos, shards = sys.argv[1:4]
first = push_to_hub(shards, "me/policy", private=True)
second = push_to_hub(run, "me/policy", licence="mit")
third = push_to_hub(demos, "me/demos")
mine = b"---\\nlibrary_name: hf_vpdd\\n---\\n# Mine"
HfApi().upload_file(path_or_fileobj=mine, path_in_repo="README.md", repo_id="me/policy")
push_to_hub(run, "me/policy", keep_card=True)
from datasets import load_dataset
from hf_vpdd.data import open_dataset
print("ANSWERS " + json.dumps({
    "commit": second.commit, "rows": len(load_dataset("me/demos", split="train")),
    "frames": list(open_dataset("me/demos").frames("front", 0, 0, 2).shape),
}))
"""


def test_a_second_push_replaces_the_weights_and_datasets_are_tagged(run, tmp_path):
    shards = save_policy(tmp_path / "shards", *tiny_policy(1), max_shard_size="20KB")
    demos = dataset(tmp_path / "demos")
    with FakeHub() as hub:
        done = python(PUSH_TWICE, run, demos, shards, env=environment(hub.url, tmp_path / "home"))
        found = answers(done)
        files = hub.hub.repos[("model", "me/policy")]["files"]
        assert set(files) == PUSHED, "shards of the first push are gone"
        assert files["model.safetensors"] == (run / "model.safetensors").read_bytes()
        assert b"# Mine" in files["README.md"]
        assert hub.hub.repos[("dataset", "me/demos")]["refs"] == ["v3.0"]  # LeRobot looks for this tag
        assert b"/home/somebody" not in hub.hub.repos[("dataset", "me/demos")]["files"]["meta/info.json"]
        assert not [entry for entry in hub.hub.log if entry[0] == "UNHANDLED"]
    assert "/me/policy/commit/" in found["commit"] and found["rows"] == 12 and found["frames"] == [2, 16, 16, 3]


PUSH_ADAPTER = """
import json, sys
from hf_vpdd import InputError, push_to_hub
push_to_hub(sys.argv[1], "me/base")
push = push_to_hub(sys.argv[2], "me/adapter", base_model="me/base")
said = []
for base in ("me/nothing", "me/other"):
    if base == "me/other":
        push_to_hub(sys.argv[3], "me/other")
    try:
        push_to_hub(sys.argv[2], "me/adapter2", base_model=base)
    except InputError as error:
        said.append(str(error))
print("ANSWERS " + json.dumps(said))
"""


def test_an_adapter_names_the_commit_of_its_base_and_refuses_another(run, tmp_path):
    folder = finished_run(tmp_path / "adapter")
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(run), "r": 4}))
    weights = {"model.safetensors": file_sha256(run / "model.safetensors")}
    (folder / "adapter_base.json").write_text(json.dumps({"name": str(run), "revision": None, "weights": weights}))
    other = finished_run(tmp_path / "other", seed=1)
    with FakeHub() as hub:
        said = answers(python(PUSH_ADAPTER, run, folder, other, env=environment(hub.url, tmp_path / "home")))
        repositories = {name: repo for (_, name), repo in hub.hub.repos.items()}
    assert "there is no such repository" in said[0] and "not the one this adapter was trained on" in said[1]
    assert set(repositories) == {"me/base", "me/adapter", "me/other"}
    base = json.loads(repositories["me/adapter"]["files"]["adapter_base.json"])
    assert base["revision"] == repositories["me/base"]["sha"] and base["name"] == "me/base"


REFUSED = """
import sys
from hf_vpdd import cli
sys.exit(cli.main(["push", sys.argv[1], "me/policy"]))
"""


@pytest.mark.parametrize(
    ("token", "message"), [("hf_bad", "the token is not valid"), ("hf_read", "the token may not write there")]
)
def test_a_token_that_is_refused(run, tmp_path, token, message):
    with FakeHub() as hub:
        done = python(REFUSED, run, env=environment(hub.url, tmp_path, token))
        assert done.returncode == 2 and message in done.stderr, done.stderr[-2000:]
        assert not hub.hub.repos


def test_no_hub_at_all(run, tmp_path):
    done = python(REFUSED, run, env=environment("http://127.0.0.1:9", tmp_path))
    assert done.returncode == 2 and "cannot be reached" in done.stderr, done.stderr[-2000:]
