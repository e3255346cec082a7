"""Folders and lists of videos, Something-Something v2, Ego4D: which clips there are, and what is in them."""

import json
import pickle
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_vpdd.data import open_dataset
from hf_vpdd.data.ego4d import narration_sentence, open_ego4d
from hf_vpdd.data.frame_store import FrameStore
from hf_vpdd.data.ssv2 import fill_template, open_ssv2
from hf_vpdd.data.video_dataset import VideoDataset
from hf_vpdd.data.video_folder import open_video_folder
from hf_vpdd.errors import InputError

from .conftest import read_numbers
from .video_files import even_times, numbers_of, write_ego4d, write_pictures, write_ssv2, write_video


ROWS = [
    {"file": "a.mp4", "text": "pour the tea"},
    {"file": "sub/b.webm", "text": "open the door", "start": 0.5, "end": 1.5},
    {"file": "sub/b.webm", "text": "close, then lock it", "start": 1.5},
    {"file": "walk", "text": "walk", "fps": 20},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("clips") / "clips"
    write_video(root / "a.mp4", even_times(20, 10), np.arange(1, 21))
    write_video(root / "sub/b.webm", even_times(24, 10), np.arange(101, 125))
    write_pictures(root / "walk", np.arange(201, 217), suffix=".jpg")
    write_video(root / ".hidden.mp4", even_times(3, 10))
    return root


def captioned(folder, tmp_path, suffix):
    root = shutil.copytree(folder, tmp_path / "clips", ignore=shutil.ignore_patterns(".cache"))
    path = root / f"captions{suffix}"
    if suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    elif suffix == ".json":
        path.write_text(json.dumps(ROWS))
    elif suffix == ".csv":
        lines = [f'{r["file"]},"{r["text"]}",{r.get("start", "")},{r.get("end", "")},{r.get("fps", "")}' for r in ROWS]
        path.write_text("\n".join(["video_path,caption,start_sec,end_sec,fps", *lines]))
    else:
        rows = [{key: row.get(key) for key in ("file", "text", "start", "end", "fps")} for row in ROWS]
        pq.write_table(pa.Table.from_pylist(rows), path)
    return root, path


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_captions_of_every_format(folder, tmp_path, suffix):
    root, path = captioned(folder, tmp_path, suffix)
    for opened in (root, path):
        dataset = open_dataset(opened, progress=False)
        assert isinstance(dataset, VideoDataset) and dataset.fps == 10
        assert dataset.episodes.task == [row["text"] for row in ROWS]
        assert dataset.episodes.length.tolist() == [20, 10, 9, 8]
        assert numbers_of(dataset.iterate(0)) == list(range(1, 21))
        assert numbers_of(dataset.frames("video", 1)) == list(range(106, 116))
        assert numbers_of(dataset.frames("video", 2, 3, 4)) == [119, 120, 121, 122]
        assert numbers_of(dataset.frames("observation.images.video", 3)) == list(range(201, 217, 2))


def test_a_folder_without_captions(folder):
    dataset = open_video_folder(folder, fps=5, picture_rate=20, text="a hand", progress=False)
    assert [clip.name for clip in dataset.clips] == ["a.mp4", "sub/b.webm", "walk"]
    assert dataset.episodes.task == ["a hand"] * 3 and dataset.episodes.length.tolist() == [10, 12, 4]
    assert numbers_of(dataset.iterate(0)) == list(range(1, 21, 2))
    episode = dataset.episode(1)
    assert read_numbers(episode["observation.images.video"]).tolist() == list(range(101, 125, 2))
    assert episode["index"].tolist() == list(range(10, 22)) and episode["timestamp"][5] == 1


def test_long_clips_in_pieces(folder):
    dataset = open_video_folder(folder / "sub", clip_seconds=1, progress=False)
    assert dataset.episodes.length.tolist() == [10, 10, 4]
    assert [clip.name for clip in dataset.clips] == ["b.webm#0", "b.webm#1", "b.webm#2"]
    assert numbers_of(dataset.iterate(2)) == [121, 122, 123, 124]


def test_a_list_of_paths_and_names_without_suffix(folder, tmp_path):
    listing = tmp_path / "some.txt"
    listing.write_text(f"{folder / 'a.mp4'}\n\n{folder / 'sub' / 'b.webm'}\n")
    assert open_dataset(listing, progress=False).episodes.length.tolist() == [20, 24]
    (folder / "few.csv").write_text("id,label\nb,open it\n")
    dataset = open_dataset(folder / "few.csv", progress=False)
    assert dataset.episodes.task == ["open it"] and dataset.num_frames == 24


def test_the_most_common_rate_counts_and_lengths_are_remembered(tmp_path, monkeypatch):
    for number, fps in enumerate([10, 10, 15]):
        write_video(tmp_path / f"{number}.mp4", even_times(15, fps))
    dataset = open_dataset(tmp_path, progress=False)
    assert dataset.fps == 10 and dataset.episodes.length.tolist() == [15, 15, 10]
    from hf_vpdd.data import video_dataset

    looked = []
    real = video_dataset.probe_video
    monkeypatch.setattr(video_dataset, "probe_video", lambda source, rate: looked.append(source) or real(source, rate))
    assert open_dataset(tmp_path, progress=False).fingerprint == dataset.fingerprint and not looked
    write_video(tmp_path / "1.mp4", even_times(8, 10))
    changed = open_dataset(tmp_path, progress=False)
    assert [path.name for path in looked] == ["1.mp4"]
    assert changed.episodes.length.tolist() == [15, 8, 10] and changed.fingerprint != dataset.fingerprint


def test_datasets_travel_to_other_processes(folder):
    dataset = open_video_folder(folder / "sub", progress=False)
    next(dataset.iterate(0))
    assert numbers_of(pickle.loads(pickle.dumps(dataset)).iterate(0)) == list(range(101, 125))


def test_frame_stores_take_videos_as_they_are(folder, tmp_path):
    root, _ = captioned(folder, tmp_path, ".jsonl")
    store = FrameStore.build(root, "video", 48, progress=False)
    assert store.num_frames == 47 and store.action is None and store.fps == 10
    assert store.tasks == [row["text"] for row in ROWS]
    expected = [*range(1, 21), *range(106, 116), *range(116, 125), *range(201, 217, 2)]
    assert read_numbers(store.frames[:]).tolist() == expected
    slow = FrameStore.build(root, "video", 48, progress=False, fps=5)
    assert slow.num_frames == 10 + 5 + 4 + 4 and slow.fingerprint != store.fingerprint
    assert len(list((root / ".cache/hf_vpdd").glob("frames-*"))) == 2  # another rate is not an outdated cache
    with pytest.raises(InputError, match="its camera is called 'video'"):
        FrameStore.build(root, "corner2", 48, progress=False)


def test_robot_datasets_keep_their_rate_and_folders_stay_what_they_are(dataset_root, tmp_path):
    assert open_dataset(dataset_root, fps=20).fps == 20
    with pytest.raises(InputError, match="20 frames per second of its own, 5 were asked for"):
        open_dataset(dataset_root, fps=5)
    half = shutil.copytree(dataset_root, tmp_path / "half")
    (half / "meta/info.json").unlink()
    with pytest.raises(InputError, match="half-written recording"):
        open_dataset(half)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="not a LeRobot dataset"):
        open_dataset(tmp_path / "empty")


# -- Something-Something v2 ------------------------------------------------------------------------------------------


def test_ssv2_as_it_is_distributed(tmp_path):
    root = write_ssv2(tmp_path / "ssv2")
    dataset = open_dataset(root, progress=False)
    assert dataset.episodes.task == [
        "Holding a potato next to a jar", "Pushing a potato from left to right", "Holding a potato next to a jar",
    ]  # fmt: skip
    assert dataset.fps == 12 and dataset.episodes.length.tolist() == [6, 7, 8]
    assert numbers_of(dataset.iterate(2)) == list(range(201, 209))
    other = open_dataset(root / "something-something-v2-validation.json", progress=False)
    assert [clip.name for clip in other.clips] == ["103.webm"]
    assert open_ssv2(root, "validation", fps=6, progress=False).episodes.length.tolist() == [4]


def test_ssv2_with_labels_in_a_folder_and_a_test_split_without_sentences(tmp_path):
    root = write_ssv2(tmp_path / "ssv2")
    (root / "labels").mkdir()
    (root / "something-something-v2-train.json").rename(root / "labels/train.json")
    (root / "labels/test.json").write_text('[{"id": "103"}]')
    assert len(open_dataset(root, progress=False)) == 3
    assert open_ssv2(root, "test", text="a hand", progress=False).episodes.task == ["a hand"]
    (root / "20bn-something-something-v2/101.webm").unlink()
    with pytest.raises(InputError, match=r"entry 1: .*101.webm is missing \(1 of 3 videos are\)"):
        open_ssv2(root, progress=False)
    partly = open_ssv2(root, progress=False, skip_bad=True)
    assert len(partly) == 2 and [note["clip"] for note in partly.skipped] == ["101.webm"]


def test_templates_are_filled_in_order():
    assert fill_template("Putting [something] on [something]", ["a cup", "[it]"]) == "Putting a cup on [it]"
    with pytest.raises(InputError, match="1 places, but 2 things"):
        fill_template("Holding [something]", ["a", "b"])


# -- Ego4D -----------------------------------------------------------------------------------------------------------


def test_ego4d_narrations_of_whole_videos(tmp_path):
    root = write_ego4d(tmp_path / "ego4d")
    dataset = open_dataset(root, progress=False, fps=10)
    assert dataset.episodes.task == ["walks around", "picks a something from the table", "a man X waves"]
    assert dataset.absent == 1  # of the video that was not downloaded
    # 3 s around each moment, as far as the video goes.
    assert numbers_of(dataset.iterate(0)) == list(range(0, 20))
    assert numbers_of(dataset.iterate(1)) == list(range(35, 65))
    assert numbers_of(dataset.iterate(2)) == list(range(135, 165))
    slow = open_ego4d(root / "v2/annotations/narration.json", fps=2, clip_seconds=1, progress=False)
    assert numbers_of(slow.iterate(1)) == [45, 50]


def test_ego4d_narrations_of_clips(tmp_path):
    dataset = open_ego4d(write_ego4d(tmp_path / "ego4d", clips=True), fps=10, progress=False)
    # The first narration lies before the first clip; the pictures' numbers are times in the video they were cut from.
    assert [clip.name for clip in dataset.clips] == ["clip-a@1.500", "clip-b@3.500"] and dataset.absent == 2
    assert numbers_of(dataset.iterate(0)) == list(range(35, 65))
    assert numbers_of(dataset.iterate(1)) == list(range(135, 165))


@pytest.mark.parametrize("clips", [True, False])
def test_ego4d_actions(tmp_path, clips):
    root = write_ego4d(tmp_path / "ego4d", clips)
    dataset = open_ego4d(root, "fho_lta_train.json", fps=10, progress=False)
    assert dataset.episodes.task == ["take knife"]
    assert numbers_of(dataset.iterate(0)) == list(range(30, 45))  # 2 s into the video, 1 to 2.5 s of the clip


def test_ego4d_narrations_of_the_second_release(tmp_path):
    root = write_ego4d(tmp_path / "ego4d")
    (root / "v2/annotations/narration.json").unlink()
    rows = {"video-1": {"narrations": [{"time": 5.0, "text": "#C C stirs"}], "summaries": []}}
    (root / "v2/annotations/all_narrations_redacted.json").write_text(json.dumps({"version": "2", "videos": rows}))
    dataset = open_dataset(root, progress=False, fps=10)
    assert dataset.episodes.task == ["stirs"] and numbers_of(dataset.iterate(0)) == list(range(35, 65))


def test_sentences_of_narrations():
    assert narration_sentence("#C C picks  a knife .") == "picks a knife"
    assert narration_sentence("# C C looks at #Unsure") == "looks at something"
    assert narration_sentence("#O a lady X talks to C") == "a lady X talks to C"
    assert narration_sentence("Cuts the bread") == "Cuts the bread"
    assert narration_sentence("#c c washes hands") == "washes hands"
