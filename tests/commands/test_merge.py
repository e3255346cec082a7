"""`hf-vpdd merge`: a policy that does what base and adapter do together, or one sentence and nothing written."""

import shutil

import pytest
import torch
from transformers import AutoModel, AutoProcessor

from hf_vpdd import VPDDPipeline, save_policy
from hf_vpdd.cli import main
from hf_vpdd.modeling.adapters import adapters_of
from tests.pipelines.test_adapters import adapted, logits
from tests.pipelines.tiny_gr1 import tiny_gr1_policy
from tests.pipelines.tiny_policy import tiny_policy, tiny_processor


@pytest.fixture
def folder(tmp_path):
    """With `base`, and `adapter` with a processor of its own."""
    save_policy(tmp_path / "base", *tiny_policy())
    processor = tiny_processor()
    processor.execute = 2
    adapted(tmp_path / "base", tmp_path / "adapter", processor=processor, lora_variant="dora")
    return tmp_path


def test_merged_is_base_and_adapter(folder, capsys):
    assert main(["merge", str(folder / "adapter"), "--out", str(folder / "merged")]) == 0
    said = capsys.readouterr().out
    assert f"base: {folder / 'base'}" in said and "MB of weights" in said
    merged, both = (AutoModel.from_pretrained(folder / name) for name in ("merged", "adapter"))
    assert not adapters_of(merged) and not list((folder / "merged").glob("adapter*"))
    torch.testing.assert_close(logits(merged), logits(both), rtol=1e-4, atol=1e-5)
    assert (logits(merged) - logits(AutoModel.from_pretrained(folder / "base"))).abs().max() > 0.01
    assert AutoProcessor.from_pretrained(folder / "merged").execute == 2
    assert VPDDPipeline.from_pretrained(folder / "merged").scheduler is not None
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_a_base_that_was_moved_or_is_another(folder, capsys):
    shutil.move(folder / "base", folder / "moved")
    arguments = ["merge", str(folder / "adapter"), "--out", str(folder / "merged")]
    assert main(arguments) == 2 and "is not there" in capsys.readouterr().err
    save_policy(folder / "gr1", *tiny_gr1_policy())
    assert main([*arguments, "--base", str(folder / "gr1")]) == 2
    assert "'vpdd'" in (said := capsys.readouterr().err) and "'gr1'" in said
    assert main([*arguments, "--base", str(folder / "nowhere")]) == 2 and "was not found" in capsys.readouterr().err
    assert not (folder / "merged").exists()
    assert main([*arguments, "--base", str(folder / "moved")]) == 0


def test_what_cannot_be_merged_is_said_before_anything_is_written(folder, capsys, monkeypatch):
    def refused(*arguments):
        assert main(["merge", *map(str, arguments)]) == 2
        return capsys.readouterr().err

    out = folder / "out"
    assert "holds no adapter" in refused(folder / "base", "--out", out)
    assert "holds no adapter" in refused(folder / "nowhere", "--out", out)
    assert "is not empty" in refused(folder / "adapter", "--out", folder / "adapter")
    assert "is the folder of the adapter" in refused(folder / "adapter", "--out", folder / "adapter", "--overwrite")
    shutil.copytree(folder / "adapter", folder / "bare")
    (folder / "bare" / "processor_config.json").unlink()
    assert "has no processor" in refused(folder / "bare", "--out", out)
    monkeypatch.setattr("transformers.ProcessorMixin.save_pretrained", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["merge", str(folder / "adapter"), "--out", str(out)])
    assert sorted(path.name for path in folder.iterdir()) == ["adapter", "bare", "base"]


def test_an_output_folder_that_cannot_be_written_to(tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    assert main(["merge", str(tmp_path / "adapter"), "--out", str(tmp_path / "file" / "merged")]) == 2
    assert "is a file, not a folder: give another --out" in capsys.readouterr().err
