"""Official GR-1 files -> a folder: towers inside or apart, the official numbers out, wrong files refused by name."""

import functools
import json

import pytest
import torch
from transformers import AutoModel, AutoProcessor

from hf_vpdd import cli
from hf_vpdd.conversion.gr1 import convert_gr1
from hf_vpdd.errors import InputError
from hf_vpdd.modeling.vpdd.processing_vpdd import train_tokenizer
from tests.modeling.official_gr1 import Reference, config_of


TOWERS = ("model_mae.", "model_clip.")


@functools.cache
def official() -> dict[str, torch.Tensor]:
    return Reference("gr1_tiny", thinned=True).state()


def tower(prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in official().items() if name.startswith(prefix)}


def policy() -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in official().items() if not name.startswith(TOWERS)}


@pytest.fixture
def files(tmp_path):
    """Writes what an author would give; `write(name, content)` -> path."""

    def write(name, content):
        torch.save(content, tmp_path / name)
        return tmp_path / name

    write.mae = write("mae.pth", {"model": {**tower("model_mae."), "decoder_pred.bias": torch.zeros(3)}})
    write.clip = write("clip.pt", tower("model_clip.") | {"visual.proj": torch.zeros(2, 2)})
    return write


def convert(snapshot, out, **options):
    return convert_gr1(snapshot, out, config=config_of("gr1_tiny"), **options)


def check_numbers(folder):
    """The folder's network gives the official actions of the short window."""
    reference = Reference("gr1_tiny", thinned=True)
    model = AutoModel.from_pretrained(folder)
    frames = reference.frames("short")
    pixels = torch.stack((frames["static"], frames["wrist"]))[None]
    with torch.no_grad():
        output = model(
            pixel_values=pixels, input_ids=reference["token_ids"][1:].long(), state=reference.states("short")[None]
        )
    expected = reference["arm_action_preds"][1:, : pixels.shape[2]]
    assert (output.arm_actions[:, :, 0] - expected).abs().max() < 1e-4


@pytest.mark.parametrize("prefix", ["", "module.", "model."])
def test_snapshot_with_its_towers(files, tmp_path, prefix):
    snapshot = files("snapshot.pt", {"state_dict": {prefix + name: t for name, t in official().items()}})
    report = convert(snapshot, tmp_path / "out")
    assert report.kept + len(report.dropped) == len(official())
    assert "transformer.h.0.attn.bias" in report.dropped
    check_numbers(tmp_path / "out")


def test_snapshot_without_towers(files, tmp_path):
    snapshot = files("snapshot.pt", {"state_dict": policy()})
    report = convert(snapshot, tmp_path / "out", mae=files.mae, clip=files.clip)
    assert report.dropped["mae: decoder_pred.bias"] and report.dropped["clip: visual.proj"]
    written = json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert [source["file"] for source in written["sources"]] == ["snapshot.pt", "mae.pth", "clip.pt"]
    assert str(tmp_path) not in (tmp_path / "out" / "conversion.json").read_text()
    check_numbers(tmp_path / "out")


def test_towers_given_twice_are_compared(files, tmp_path):
    snapshot = files("snapshot.pt", {"state_dict": official()})
    half = {name: tensor.half() for name, tensor in tower("model_clip.").items()}  # as OpenAI publishes it
    convert(snapshot, tmp_path / "out", mae=files.mae, clip=files("half.pt", half))
    check_numbers(tmp_path / "out")
    other = tower("model_mae.")
    other["norm.weight"] = other["norm.weight"] + 0.1
    with pytest.raises(InputError, match=r"--mae: .*layernorm.weight by 0\.1"):
        convert(snapshot, tmp_path / "again", mae=files("other.pth", {"model": other}))
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize("tower_flag", ["mae", "clip"])
def test_a_tower_that_is_nowhere_is_asked_for(files, tmp_path, tower_flag):
    snapshot = files("snapshot.pt", {"state_dict": policy()})
    given = {"mae": files.mae, "clip": files.clip}
    del given[tower_flag]
    with pytest.raises(InputError, match=f"--{tower_flag}"):
        convert(snapshot, tmp_path / "out", **given)


def test_wrong_files_are_refused_by_name(files, tmp_path):
    out = tmp_path / "out"
    short = {name: tensor for name, tensor in official().items() if not name.startswith("transformer.h.1.")}
    with pytest.raises(InputError, match=r"12 missing: transformer\.h\.1\.ln_1\.weight"):
        convert(files("short.pt", {"state_dict": short}), out)
    more = official() | {"transformer.wpe.weight": torch.zeros(1)}
    with pytest.raises(InputError, match=r"1 unexpected: transformer\.wpe\.weight"):
        convert(files("more.pt", {"state_dict": more}), out)
    wide = official() | {"embed_ln.bias": torch.zeros(65)}
    with pytest.raises(InputError, match=r"model\.input_norm\.bias \(65,\) instead of \(64,\)"):
        convert(files("wide.pt", {"state_dict": wide}), out)
    broken = official() | {"embed_ln.bias": torch.full((64,), torch.nan)}
    with pytest.raises(InputError, match="embed_ln.bias holds NaN"):
        convert(files("nan.pt", {"state_dict": broken}), out)
    with pytest.raises(InputError, match="missing: cls_token"):
        convert(files("policy.pt", {"state_dict": policy()}), out, mae=files.clip, clip=files.clip)
    whole = files("whole.pt", {"state_dict": official()})
    (tmp_path / "cut.pt").write_bytes(whole.read_bytes()[:-1000])
    with pytest.raises(InputError, match=r"cut\.pt"):
        convert(tmp_path / "cut.pt", out)
    assert not out.exists()


class Hostile:
    def __reduce__(self):
        return print, ("code of a stranger ran",)


def test_a_file_that_wants_to_run_code_is_refused(files, tmp_path, capsys):
    snapshot = files("evil.pt", {"state_dict": official(), "hook": Hostile()})
    with pytest.raises(InputError, match="print"):
        convert(snapshot, tmp_path / "out")
    assert "stranger" not in capsys.readouterr().out


def test_with_a_tokenizer_the_folder_is_a_whole_policy(files, tmp_path, monkeypatch):
    words = train_tokenizer(["open the drawer"], vocab_size=300, max_length=16)
    monkeypatch.setattr("hf_vpdd.conversion.clip_text.load_tokenizer", lambda source, config: words)
    snapshot = files("snapshot.pt", {"state_dict": official()})
    report = convert(snapshot, tmp_path / "out", tokenizer="openai/clip-vit-base-patch32")
    assert not report.missing
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    assert processor.cameras == ["rgb_static", "rgb_gripper"] and processor.normalization == "raw"
    assert processor.image_size == 224 and processor.history_frames == 4
    processor.require_policy_statistics(7)


def test_the_command_names_what_a_small_snapshot_lacks(files, tmp_path, capsys):
    """The command knows the official network only; options may stand between the snapshot and OUT."""
    snapshot = files("snapshot.pt", {"state_dict": official()})
    argv = ["convert", "checkpoint", "--from", "gr1", str(snapshot), "--mae", str(files.mae), str(tmp_path / "out")]
    assert cli.main(argv) != 0
    told = capsys.readouterr()
    assert "perceiver_resampler.layers.2.0.to_q.weight" in told.err
    assert not (tmp_path / "out").exists()
