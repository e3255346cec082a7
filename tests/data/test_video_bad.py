"""Broken videos, lists and annotations end in one sentence that names the file: no hang, no traceback of a library."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_vpdd.data import open_dataset
from hf_vpdd.data.ego4d import open_ego4d
from hf_vpdd.data.ssv2 import open_ssv2
from hf_vpdd.data.timed_video import TimedReader, probe_video
from hf_vpdd.data.video_folder import open_video_folder
from hf_vpdd.errors import InputError

from .conftest import read_numbers
from .video_files import CODECS, even_times, write_ego4d, write_pictures, write_ssv2, write_video


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    return {
        suffix: write_video(folder / f"a{suffix}", even_times(24, 12), b_frames=suffix == ".mp4") for suffix in CODECS
    }


@pytest.mark.parametrize("suffix", CODECS)
@pytest.mark.parametrize("damage", ["empty", "head", "noise", "text"])
def test_files_that_are_no_videos(videos, tmp_path, suffix, damage):
    data = videos[suffix].read_bytes()
    broken = {"empty": b"", "head": data[:40], "noise": bytes(2000), "text": b"not a video\n" * 100}[damage]
    (tmp_path / "good.mp4").write_bytes(videos[".mp4"].read_bytes())
    (tmp_path / f"bad{suffix}").write_bytes(broken)
    with pytest.raises(InputError, match=f"bad{suffix}.*1 of 2 videos cannot be read"):
        open_dataset(tmp_path, progress=False)
    partly = open_video_folder(tmp_path, progress=False, skip_bad=True)
    assert [clip.name for clip in partly.clips] == ["good.mp4"] and partly.skipped[0]["clip"] == f"bad{suffix}"


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm", ".avi"])
@pytest.mark.parametrize("part", [0.3, 0.7])
def test_files_that_are_cut_short(videos, tmp_path, suffix, part):
    data = videos[suffix].read_bytes()
    path = tmp_path / f"a{suffix}"
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(InputError, match=f"a{suffix}"):
        list(open_dataset(tmp_path, progress=False).iterate(0))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".gif"])
@pytest.mark.parametrize("seed", range(3))
def test_flipped_bytes_end_in_an_error_or_in_as_many_pictures(videos, tmp_path, suffix, seed):
    """Containers have no checksums, so that some damage cannot be seen; but none may hang or raise something else."""
    data = bytearray(videos[suffix].read_bytes())
    random = np.random.default_rng(seed)
    for place in random.integers(40, len(data), 12):
        data[place] ^= int(random.integers(1, 256))
    path = tmp_path / f"a{suffix}"
    path.write_bytes(bytes(data))
    try:
        facts = probe_video(path)
        count = max(1, min(100, int(facts.seconds * 12)))
        assert len(list(TimedReader().iterate(path, np.arange(count) / 12, facts))) == count
    except InputError as error:
        assert path.name in str(error)


def test_a_file_that_shrinks_after_it_was_opened(videos, tmp_path):
    path = tmp_path / "a.mkv"
    path.write_bytes(videos[".mkv"].read_bytes())
    dataset = open_dataset(tmp_path, progress=False)
    data = videos[".mkv"].read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match="episode 0 .*a.mkv"):
        list(dataset.iterate(0))
    path.unlink()
    with pytest.raises(InputError, match="missing"):
        list(open_video_folder_like(dataset).iterate(0))


def open_video_folder_like(dataset):
    import pickle

    return pickle.loads(pickle.dumps(dataset))  # with no file open


def test_sound_is_no_video(tmp_path):
    import wave

    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setnchannels(1), file.setsampwidth(2), file.setframerate(8000), file.writeframes(bytes(16000))
    (tmp_path / "a.wav").rename(tmp_path / "a.avi")
    with pytest.raises(InputError, match="holds no video stream"):
        open_dataset(tmp_path, progress=False)


def test_pictures_that_cannot_be_read(tmp_path):
    folder = write_pictures(tmp_path / "clips" / "walk", range(1, 9))
    data = (folder / "frame_5.png").read_bytes()
    (folder / "frame_5.png").write_bytes(data[: len(data) // 2])
    dataset = open_video_folder(tmp_path / "clips", picture_rate=4, progress=False)
    assert read_numbers(dataset.frames("video", 0, 0, 4)).tolist() == [1, 2, 3, 4]
    with pytest.raises(InputError, match="frame_5.png is not a picture"):
        dataset.frames("video", 0)
    (folder / "frame_8.png").unlink()
    with pytest.raises(InputError, match="shrunk"):
        dataset.frames("video", 0, 7)
    with pytest.raises(InputError, match="--picture-rate"):
        open_dataset(tmp_path / "clips", progress=False)


LISTS = {
    "no file": ("a.jsonl", '{"text": "open it"}', "line 1: no file"),
    "not json": ("a.jsonl", '{"file": "a.mp4"}\n{"file": "a', "line 2 is not valid JSON"),
    "no object": ("a.jsonl", '["a.mp4"]', "line 1: expected an object"),
    "text is a number": ("a.jsonl", '{"file": "a.mp4", "text": 3}', "line 1: the text must be a sentence"),
    "start is a word": ("a.jsonl", '{"file": "a.mp4", "start": "soon"}', "line 1: start must be a number"),
    "start is nan": ("a.jsonl", '{"file": "a.mp4", "start": NaN}', "start must be a number"),
    "end before start": ("a.jsonl", '{"file": "a.mp4", "start": 2, "end": 1}', "0 <= start < end"),
    "negative start": ("a.jsonl", '{"file": "a.mp4", "start": -1}', "0 <= start < end"),
    "after the end": ("a.jsonl", '{"file": "a.mp4", "start": 7}', "clip a.mp4 is 7 to 2"),
    "fps of zero": ("a.jsonl", '{"file": "a.mp4", "fps": -2}', "fps must be above 0"),
    "missing video": ("a.jsonl", '{"file": "b.mp4"}', "line 1: .*b.mp4 is missing .1 of 1"),
    "empty": ("a.jsonl", "\n\n", "has no rows"),
    "no rows": ("a.csv", "file,text\n", "has no rows"),
    "too many cells": ("a.csv", "file,text\na.mp4,open it, now\n", "line 2 has more cells"),
    "unclosed quote": ("a.csv", 'file,text\n"a.mp4,open it\n', "not valid CSV"),
    "not utf-8": ("a.csv", b"file,text\na.mp4,\xff\xfe\n", "cannot be read as text"),
    "no parquet": ("a.parquet", "PAR1", "cut short or not parquet"),
    "missing in txt": ("a.txt", "a.mp4\nc.mp4\n", "line 2: .*c.mp4 is missing"),
}


@pytest.mark.parametrize("case", LISTS)
def test_broken_lists(videos, tmp_path, case):
    name, content, message = LISTS[case]
    (tmp_path / "a.mp4").write_bytes(videos[".mp4"].read_bytes())
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=message) as error:
        open_dataset(path, progress=False)
    assert name in str(error.value) or "a.mp4" in str(error.value)


def test_parquet_lists_without_files(videos, tmp_path):
    pq.write_table(pa.table({"words": ["open it"]}), tmp_path / "captions.parquet")
    with pytest.raises(InputError, match="row 0: no file"):
        open_dataset(tmp_path, progress=False)


ENTRIES = {
    "cut short": ('[{"id": "100"', "not valid JSON"),
    "no list": ('{"id": "100"}', "expected a list"),
    "empty": ("[]", "expected a list"),
    "no id": ('[{"label": "x"}]', "entry 0: expected an object with an id"),
    "a path for an id": ('[{"id": "../100"}]', "key id: expected a number"),
    "too few things": ('[{"id": "100", "template": "[a] on [b]", "placeholders": ["x"]}]', "2 places, but 1 things"),
    "things are no list": ('[{"id": "100", "template": "[a]", "placeholders": "x"}]', "placeholders a list"),
    "label is a number": ('[{"id": "100", "label": 4}]', "key label must be a text"),
    "not there": ('[{"id": "999", "label": "x"}]', "999.webm is missing"),
}


@pytest.mark.parametrize("case", ENTRIES)
def test_broken_labels_of_ssv2(tmp_path, case):
    root = write_ssv2(tmp_path / "ssv2", 2)
    content, message = ENTRIES[case]
    (root / "something-something-v2-train.json").write_text(content)
    with pytest.raises(InputError, match=message) as error:
        open_ssv2(root, progress=False)
    assert "something-something-v2-train.json" in str(error.value)


def test_ssv2_without_videos_or_labels(tmp_path):
    (tmp_path / "something-something-v2-train.json").write_text('[{"id": "1"}]')
    with pytest.raises(InputError, match="no .webm files"):
        open_ssv2(tmp_path)
    with pytest.raises(InputError, match="has no something-something-v2-test.json"):
        open_ssv2(tmp_path, "test")
    with pytest.raises(InputError, match="split is 'val'"):
        open_ssv2(tmp_path, "val")


NARRATIONS = {
    "cut short": ("narration.json", '{"video-1": {', "not valid JSON"),
    "a list": ("narration.json", "[1]", "expected an object from video uids"),
    "no time": ("narration.json", {"narration_text": "x"}, r"narration_pass_1\[0\]: expected timestamp_sec"),
    "time is a word": ("narration.json", {"timestamp_sec": "5", "narration_text": "x"}, "expected timestamp_sec"),
    "time is nan": (
        "narration.json",
        {"timestamp_sec": float("nan"), "narration_text": "x"},
        "expected timestamp_sec",
    ),
    "no text": ("narration.json", {"timestamp_sec": 5}, "expected timestamp_sec"),
    "no narration": ("narration.json", 7, "expected timestamp_sec"),
    "after the end": (
        "narration.json",
        {"timestamp_sec": 60, "narration_text": "x"},
        "58.5 to 20",
    ),
    "no clips": ("fho_lta_train.json", '{"clip": []}', "expected an object with the list clips"),
    "no verb": ("fho_lta_train.json", '{"clips": [{"clip_uid": "clip-a"}]}', r"clips\[0\]: expected clip_uid"),
}


@pytest.fixture(scope="module")
def ego4d(tmp_path_factory):
    return write_ego4d(tmp_path_factory.mktemp("ego") / "ego4d")


@pytest.mark.parametrize("case", NARRATIONS)
def test_broken_annotations_of_ego4d(ego4d, case):
    name, content, message = NARRATIONS[case]
    path = ego4d / "v2/annotations" / name
    before = path.read_text()
    if not isinstance(content, str):
        good = {"timestamp_sec": 4, "narration_text": "#C C stirs"}
        content = json.dumps({"video-1": {"narration_pass_1": {"narrations": [content, good]}}})
    path.write_text(content)
    try:
        with pytest.raises(InputError, match=message):
            open_ego4d(ego4d, name, progress=False)
        if "stirs" in content:
            partly = open_ego4d(ego4d, name, progress=False, skip_bad=True)
            assert partly.episodes.task == ["stirs"] and len(partly.skipped) == 1
    finally:
        path.write_text(before)


def test_ego4d_without_videos_or_with_a_broken_list_of_clips(tmp_path):
    root = write_ego4d(tmp_path / "ego4d", clips=True)
    (root / "ego4d.json").write_text('{"clips": [{"clip_uid": "clip-a"}]}')
    with pytest.raises(InputError, match=r"ego4d.json: clips\[0\]: expected clip_uid, video_uid"):
        open_ego4d(root, progress=False)
    (root / "ego4d.json").unlink()
    with pytest.raises(InputError, match="of none is the video"):
        open_ego4d(root, progress=False)
    with pytest.raises(InputError, match="annotations is 'x.json'"):
        open_ego4d(root, "x.json")


@pytest.mark.parametrize("options", [{"fps": 0}, {"fps": float("nan")}, {"clip_seconds": -1}])
def test_settings_out_of_range(videos, options):
    with pytest.raises(InputError, match="must be above 0"):
        open_video_folder(videos[".mp4"].parent, progress=False, **options)
