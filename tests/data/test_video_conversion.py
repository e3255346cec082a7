"""Videos -> LeRobot: by the command, resumable to the byte, broken ones counted."""

import hashlib
import json
import sys

import numpy as np
import pytest

from hf_vpdd.cli import main
from hf_vpdd.data import LeRobotDataset, open_dataset
from hf_vpdd.data.video_conversion import convert_video
from hf_vpdd.data.video_folder import open_video_folder
from hf_vpdd.errors import InputError

from .conftest import read_numbers
from .video_files import even_times, write_ego4d, write_ssv2, write_video


@pytest.fixture(scope="module", autouse=True)
def _workers_without_torch():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["hf-vpdd"])
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("clips") / "clips"
    for number, fps in enumerate([10, 10, 20]):
        write_video(root / f"{number}.mp4", even_times(2 * fps, fps), 100 * number + np.arange(2 * fps))
    rows = [{"file": f"{number}.mp4", "text": f"clip {number}"} for number in range(3)]
    (root / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return root


def tree(folder):
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def convert(folder, out, **options):
    dataset = open_video_folder(folder, progress=False, skip_bad=options.get("skip_bad", False))
    return convert_video(dataset, out, image_size=48, workers=1, progress=False, **options)


def test_a_folder_by_the_command(folder, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["convert", "dataset", "--from", "video", str(folder), str(out), "--image-size", "48"]
    assert main([*command, "--workers", "2"]) == 0
    assert "3 episodes, 60 frames" in capsys.readouterr().out
    converted = LeRobotDataset(out)
    assert converted.fps == 10 and converted.cameras == ["video"] and "action" not in converted.features
    assert converted.episodes.task == ["clip 0", "clip 1", "clip 2"]
    for number in range(3):
        expected = 100 * number + np.arange(20) * (2 if number == 2 else 1)
        assert read_numbers(converted.frames("video", number)).tolist() == expected.tolist()
        times = converted.episode(number)["timestamp"]
        assert (times == (np.arange(20) / 10).astype(np.float32)).all()
    notes = [json.loads(line) for line in (out / "meta/conversion.jsonl").read_text().splitlines()]
    assert [note["clip"] for note in notes] == ["0.mp4", "1.mp4", "2.mp4"]
    assert main(command) == 0 and "nothing was done" in capsys.readouterr().out
    assert main([*command, "--fps", "5"]) != 0
    assert "holds another dataset: fps 10.0 (now 5.0)" in capsys.readouterr().err


def test_stopped_it_goes_on_and_no_byte_differs(folder, tmp_path, monkeypatch):
    from hf_vpdd.data import conversion

    convert(folder, tmp_path / "whole")
    real, calls = conversion.encode_video, []

    def second_dies(*args, **options):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **options)

    monkeypatch.setattr(conversion, "encode_video", second_dies)
    with pytest.raises(KeyboardInterrupt):
        convert(folder, tmp_path / "out")
    assert not (tmp_path / "out/meta").exists()
    result = convert(folder, tmp_path / "out")
    assert result.resumed == 1 and tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_broken_and_missing_videos_are_counted(folder, tmp_path):
    import shutil

    root = shutil.copytree(folder, tmp_path / "clips")
    (root / "1.mp4").write_bytes((root / "1.mp4").read_bytes()[:300])
    (root / "2.mp4").unlink()
    with pytest.raises(InputError, match=r"line 3: .*2.mp4 is missing"):
        convert(root, tmp_path / "out")
    result = convert(root, tmp_path / "out", skip_bad=True)
    assert result.episodes == 1 and len(result.skipped) == 2
    skipped = [json.loads(line) for line in (tmp_path / "out/meta/skipped.jsonl").read_text().splitlines()]
    assert {note["clip"] for note in skipped} == {"1.mp4", "2.mp4"}


def test_sizes_must_agree_unless_they_are_made_to(folder, tmp_path):
    write_video(tmp_path / "in/a.mp4", even_times(4, 10))
    write_video(tmp_path / "in/b.mp4", even_times(4, 10), size=64)
    dataset = open_dataset(tmp_path / "in", progress=False)
    with pytest.raises(InputError, match="pictures of 2 sizes"):
        convert_video(dataset, tmp_path / "out", image_size=None, progress=False)
    with pytest.raises(InputError, match="is the folder of the videos itself"):
        convert_video(dataset, tmp_path / "in", progress=False)


def test_ssv2_and_ego4d_by_the_command(tmp_path, capsys):
    ssv2, ego4d = write_ssv2(tmp_path / "ssv2"), write_ego4d(tmp_path / "ego4d")
    size = ["--image-size", "48", "--workers", "1"]
    assert (
        main(["convert", "dataset", "--from", "ssv2", str(ssv2), str(tmp_path / "a"), "--split", "validation", *size])
        == 0
    )
    assert LeRobotDataset(tmp_path / "a").episodes.task == ["Pushing a potato from left to right"]
    command = ["convert", "dataset", "--from", "ego4d", str(ego4d), str(tmp_path / "b"), "--fps", "5", *size]
    assert main([*command, "--clip-seconds", "1"]) == 0
    converted = LeRobotDataset(tmp_path / "b")
    assert converted.fps == 5 and converted.episodes.length.tolist() == [5, 5, 5]
    assert read_numbers(converted.frames("video", 1)).tolist() == [45, 47, 49, 51, 53]
    capsys.readouterr()


def test_info_shows_a_folder_of_videos(folder, tmp_path, capsys):
    assert main(["info", str(folder), "--json", "--out", str(tmp_path / "sheet.png")]) == 0
    about = json.loads(capsys.readouterr().out)
    assert (about["format"], about["episodes"], about["frames"], about["data_files"]) == ("video", 3, 60, 3)
    assert (tmp_path / "sheet.png").stat().st_size > 1000
    assert main(["info", str(folder), "--no-sheet"]) == 0
    text = capsys.readouterr().out
    assert "(video, robot not named)" in text and "LeRobot" not in text
