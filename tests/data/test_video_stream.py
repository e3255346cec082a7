"""Video columns of `datasets`, and streams of windows: the same whatever stops them, no window twice."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from hf_vpdd.data import open_dataset, video_stream
from hf_vpdd.data.video_rows import load_rows, open_video_rows
from hf_vpdd.data.video_stream import StreamMixture, VideoStream
from hf_vpdd.errors import InputError

from .conftest import read_numbers
from .video_files import even_times, numbers_of, write_video


COUNT = 8


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    from datasets import Dataset, Video

    folder = tmp_path_factory.mktemp("rows")
    paths = [write_video(folder / f"{n}.mp4", even_times(12, 10), 100 * (n + 1) + np.arange(12)) for n in range(COUNT)]
    # Half of the rows hold the bytes, as parquet files on the Hub do, half a path.
    cells = [
        {"bytes": p.read_bytes(), "path": None} if n % 2 else {"bytes": None, "path": str(p)}
        for n, p in enumerate(paths)
    ]
    rows = Dataset.from_dict({"clip": cells, "caption": [f"number {n}" for n in range(COUNT)]})
    return rows.cast_column("clip", Video(decode=False))


def test_a_video_column_is_a_dataset_of_clips(rows, tmp_path):
    dataset = open_video_rows(rows, fps=5, progress=False, cache=tmp_path)
    assert dataset.episodes.task == [f"number {n}" for n in range(COUNT)] and set(dataset.episodes.length) == {6}
    assert numbers_of(dataset.iterate(3)) == [400, 402, 404, 406, 408, 410]
    assert numbers_of(dataset.frames("video", 2, 1, 2)) == [302, 304]


@pytest.mark.parametrize("how", ["save_to_disk", "parquet"])
def test_a_video_column_on_disk_by_its_name(rows, tmp_path, how):
    odd = rows.select(range(1, COUNT, 2))  # with their bytes
    if how == "save_to_disk":
        odd.save_to_disk(tmp_path / "set")
    else:
        (tmp_path / "set").mkdir()
        odd.to_parquet(tmp_path / "set" / "train-0.parquet")
    dataset = open_dataset(f"datasets:{tmp_path / 'set'}", fps=10, progress=False)
    assert dataset.num_episodes == 4 and numbers_of(dataset.iterate(0)) == list(range(200, 212))
    assert (tmp_path / "set/.cache/hf_vpdd").is_dir()
    streamed = VideoStream(load_rows(f"datasets:{tmp_path / 'set'}", streaming=True), 10, 2, 48)
    assert [window["task"] for window in streamed] == ["number 1", "number 3", "number 5", "number 7"]


def stream(rows, files: int = 4, **options):
    options = {"fps": 10, "frames": 3, "image_size": 48, "seed": 1} | options
    return VideoStream(rows.to_iterable_dataset(num_shards=files), **options)


def flat(windows):
    """(task, first number) of each window; the windows must be whole."""
    output = []
    for window in windows:
        numbers = read_numbers(window["pixel_values"].numpy())
        assert (np.diff(numbers) == 1).all() and window["pixel_values"].shape == (3, 48, 48, 3)
        output.append((window["task"], int(numbers[0])))
    return output


def test_windows_are_the_same_under_a_seed(rows):
    first = flat(stream(rows, windows_per_video=2))
    assert first == flat(stream(rows, windows_per_video=2)) != flat(stream(rows, windows_per_video=2, seed=2))
    assert [task for task, _ in first] == [f"number {n // 2}" for n in range(2 * COUNT)]
    assert len({number % 100 for _, number in first}) > 3  # at different places


@pytest.mark.parametrize("files", [4, 3, 1])  # 4 consumers: whole files, or every fourth row
def test_processes_and_workers_share_the_rows(rows, files):
    tasks = []
    for rank in range(2):
        part = stream(rows, files, rank=rank, world_size=2)
        tasks += [task for worker in range(2) for task, _ in flat(part.windows(worker, 2, 0))]
    assert sorted(tasks) == [f"number {n}" for n in range(COUNT)]


def batches(data, count, workers, monkeypatch, size=2):
    """What a DataLoader with so many workers gives: they take turns, batch by batch."""
    several = []
    for worker in range(max(workers, 1)):
        info = SimpleNamespace(id=worker, num_workers=workers) if workers else None
        monkeypatch.setattr(video_stream, "get_worker_info", lambda info=info: info)
        iterator = iter(DataLoader(data, batch_size=size, num_workers=0))
        several.append((iterator, [next(iterator)]))  # which worker it is is asked at the start
    found = []
    for number in range(count):
        iterator, first = several[number % len(several)]
        batch = first.pop() if first else next(iterator)
        numbers = [int(read_numbers(window.numpy()[None])[0]) for window in batch["pixel_values"][:, 0]]
        found.append(list(zip(batch["task"], numbers)))
    return found


@pytest.mark.parametrize("workers", [0, 2, 3])
def test_mixtures_go_on_in_the_middle_of_an_epoch(rows, workers, monkeypatch):
    def mixture():
        few, many = rows.select(range(3)), rows.select(range(3, COUNT))
        parts = [stream(few, 3, epochs=None), stream(many, 2, epochs=None, windows_per_video=2)]
        return StreamMixture(parts, [3, 1], seed=5)

    whole = batches(mixture(), 9, workers, monkeypatch)
    assert whole == batches(mixture(), 9, workers, monkeypatch)
    for had in (1, 4, 7):
        assert batches(mixture().resume(had, 2), 9 - had, workers, monkeypatch) == whole[had:]


def test_weights_are_kept(rows):
    parts = [stream(rows.select([0]), 1, epochs=None), stream(rows.select([1]), 1, epochs=None)]
    mixture = iter(StreamMixture(parts, [1, 3], seed=0))
    tasks = [next(mixture)["task"] for _ in range(200)]
    assert 30 < tasks.count("number 0") < 70
    assert list(StreamMixture(parts, [0, 1]).windows(0, 1, 0).__next__()["task"]) == list("number 1")


def test_no_epoch_is_like_the_one_before(rows):
    endless = iter(stream(rows.select(range(2)), 1, epochs=None))
    found = flat(next(endless) for _ in range(12))
    assert [task for task, _ in found] == ["number 0", "number 1"] * 6 and len(set(found)) > 4


def test_short_videos_show_their_last_picture_on(rows):
    windows = list(stream(rows.select([0]), 1, frames=15))
    assert read_numbers(windows[0]["pixel_values"].numpy()).tolist() == [*range(100, 112), 111, 111, 111]


def test_broken_videos_stop_a_stream_or_are_counted(rows):
    cells = [{"video": {"bytes": b"no video", "path": None}, "text": "bad"}]
    cells += [{"video": {"bytes": rows[1]["clip"]["bytes"], "path": None}, "text": "good"}]
    options = {"fps": 10, "frames": 2, "image_size": 48}
    with pytest.raises(InputError, match="row 0 of consumer 0, epoch 0 of the stream cannot be opened"):
        list(VideoStream(lambda: iter(cells), **options))
    careful = VideoStream(lambda: iter(cells), **options, skip_bad=True)
    assert [window["task"] for window in careful] == ["good"] and len(careful.skipped) == 1
    with pytest.raises(InputError, match="none for worker 0 of 1"):
        list(VideoStream(lambda: iter([]), **options))


def test_what_cannot_be_mixed(rows):
    with pytest.raises(InputError, match="endless"):
        StreamMixture([stream(rows)], [1])
    with pytest.raises(InputError, match="2 weights for 1"):
        StreamMixture([stream(rows, epochs=None)], [1, 2])
    with pytest.raises(InputError, match="rank must be 0"):
        stream(rows, rank=2, world_size=2)
    with pytest.raises(InputError, match="no column 'words'"):
        stream(rows, text="words")
    with pytest.raises(InputError, match="video column is one of"):
        open_video_rows(rows.remove_columns("clip"))
    with pytest.raises(InputError, match="cannot be loaded"):
        load_rows("datasets:/nowhere/at/all")


def test_recipes_mix_roots_the_same_way_over_processes_and_from_the_middle():
    """Videos as roots of a recipe go through `IndexSampler`: a pure function of seed, step and process."""
    from hf_vpdd.training.sampling import IndexSampler

    groups = np.repeat([0, 1], [30, 70])
    one = IndexSampler(100, 8, 3, groups=groups, weights=[3, 1])
    two = [IndexSampler(100, 4, 3, rank=rank, world_size=2, groups=groups, weights=[3, 1]) for rank in range(2)]
    whole = [one.batch(step) for step in range(40)]
    for step, batch in enumerate(whole):
        assert np.concatenate([part.batch(step) for part in two]).tolist() == batch.tolist()
    resumed = IndexSampler(100, 8, 3, groups=groups, weights=[3, 1])
    assert [resumed.batch(step).tolist() for step in range(17, 40)] == [batch.tolist() for batch in whole[17:]]
    assert abs((np.concatenate(whole) < 30).mean() - 0.75) < 0.02
    assert torch.utils.data.get_worker_info() is None
