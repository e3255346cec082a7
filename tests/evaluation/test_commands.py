"""`hf-vpdd eval` and `hf-vpdd demo` as a user types them."""

import json

import pytest

from hf_vpdd.cli import main
from hf_vpdd.commands.demo import clear
from hf_vpdd.errors import InputError
from hf_vpdd.saving import save_policy
from tests.pipelines.tiny_policy import tiny_policy


def test_the_expert_is_a_policy(tmp_path, capsys):
    out = tmp_path / "eval"
    words = f"eval --policy expert --tasks drawer-close --episodes 1 --workers 0 --videos 0 --out {out}"
    assert main(words.split()) == 0
    assert "drawer-close-v3          1         1" in capsys.readouterr().out
    assert json.loads((out / "summary.json").read_text())["mean_success"] == 1.0
    assert "lean renderer" in (out / "report.html").read_text()
    assert main(words.split()) == 2
    assert "--resume" in capsys.readouterr().err


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policy") / "tiny"
    save_policy(folder, *tiny_policy())
    return folder


def test_a_checkpoint_is_evaluated_and_identified(checkpoint, tmp_path, capsys):
    out = tmp_path / "eval"
    words = f"eval --policy {checkpoint} --tasks drawer-close --episodes 2 --max-steps 6 --videos 1 --perturb light"
    assert main([*words.split(), "--workers", "1", "--out", str(out)]) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert len(summary["policy"]["model.safetensors"]) == 64 and summary["policy"]["name"] == "tiny"
    assert summary["perturbation"] == ["light"] and summary["predict_ahead"] > 0
    assert summary["ms_per_action"] > 0
    assert len(list((out / "videos").glob("drawer-close-v3_*.mp4"))) >= 1


def test_the_sampler_is_recorded(checkpoint, tmp_path, capsys):
    out = tmp_path / "eval"
    words = f"eval --policy {checkpoint} --tasks drawer-close --episodes 1 --max-steps 4 --videos 0 --workers 0"
    options = "--sampler confidence --inference-steps 2 --action-steps 1 --guidance-scale 1"
    assert main([*words.split(), *options.split(), "--out", str(out)]) == 0
    expected = {"sampler": "confidence", "num_inference_steps": 2, "action_steps": 1, "guidance_scale": 1.0}
    for file in ("summary.json", "run.json"):
        sampling = json.loads((out / file).read_text())["policy"]["sampling"]
        assert {name: sampling[name] for name in expected} == expected
    assert main([*words.split(), "--out", str(out), "--resume"]) == 2  # other sampling, other results
    for option, message in (("--sampler beam", "none of ancestral"), ("--guidance-scale 2", "instruction_dropout")):
        capsys.readouterr()
        assert main([*words.split(), *option.split(), "--out", str(tmp_path / "no")]) == 2
        assert message in capsys.readouterr().err and not (tmp_path / "no").exists()


def test_the_demo_makes_a_page_and_says_what_is_next(checkpoint, tmp_path, capsys):
    out = tmp_path / "demo"
    words = f"demo --policy {checkpoint} --tasks drawer-close --episodes 1 --workers 0 --out {out}"
    assert main(words.split()) == 0
    text = capsys.readouterr().out
    assert "drawer-close-v3" in text and "report.html" in text and "hf-vpdd quickstart" in text
    assert "<video" in (out / "report.html").read_text()
    clear(out)
    assert not any(path.is_file() for path in out.rglob("*"))


def test_the_demo_deletes_nothing_but_a_demo(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="no earlier demo"):
        clear(tmp_path)
    assert (tmp_path / "thesis.txt").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--policy expert --tasks drawer-clos", "drawer-close"),
        ("--policy nowhere/at/all --tasks drawer-close", "nowhere/at/all"),
        ("--policy expert --tasks drawer-close --episodes 0", "at least 1"),
        ("--policy expert --tasks drawer-close --temperature 1", "takes no --temperature"),
        (
            "--policy null --tasks drawer-close --sampler halton --action-steps 2",
            "takes no --sampler, --action-steps:",
        ),
        ("--policy null --tasks drawer-close --execute 0", "at least 1 action"),
        ("--policy expert --tasks drawer-close --videos -1", "--videos"),
        ("--policy null --tasks drawer-close --max-steps 0", "max_steps"),
        ("--policy null --tasks drawer-close --workers -1", "workers"),
    ],
)
def test_wrong_words_end_with_2_and_no_folder(words, message, tmp_path, capsys):
    out = tmp_path / "eval"
    assert main(["eval", *words.split(), "--out", str(out)]) == 2
    assert message in capsys.readouterr().err
    assert not (out / "episodes.jsonl").exists()


def test_a_checkpoint_without_statistics_is_refused(checkpoint, tmp_path, capsys):
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(checkpoint, broken)
    config = json.loads((broken / "processor_config.json").read_text())
    config["state_stats"] = None
    (broken / "processor_config.json").write_text(json.dumps(config))
    assert main(["eval", "--policy", str(broken), "--tasks", "drawer-close", "--out", str(tmp_path / "eval")]) == 2
    assert "state" in capsys.readouterr().err
