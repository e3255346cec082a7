import json
import pickle
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hf_vpdd.data import frame_store, video_backends
from hf_vpdd.data.frame_store import FrameRows, FrameStore, fit_square
from hf_vpdd.data.lerobot import LeRobotDataset
from hf_vpdd.data.packet_sums import SUMS_FILE
from hf_vpdd.errors import InputError

from .conftest import LENGTHS, make_episodes, numbered_frames, read_numbers, task_of, write_dataset


def build(root, **options):
    return FrameStore.build(root, **({"image_size": 48, "progress": False} | options))


def test_every_frame_with_its_state_and_action(store, episodes):
    assert store.frames.shape == (83, 48, 48, 3) and store.frames.dtype == np.uint8
    assert read_numbers(store.frames[:]).tolist() == list(range(1, 84))
    assert (store.state == np.concatenate([e["observation.state"] for e in episodes])).all()
    assert (store.action == np.concatenate([e["action"] for e in episodes])).all()
    assert store.episode_from.tolist() == [0, 7, 30, 31, 71] and store.episode_to.tolist() == [7, 30, 31, 71, 83]
    assert store.episode_task == [task_of(i) for i in range(5)] and store.tasks == ["open it", "close it"]
    assert store.frame_episode.tolist() == np.repeat(np.arange(5), LENGTHS).tolist()
    assert store.frame_task.tolist() == (store.frame_episode % 2).tolist()
    assert (store.fps, store.camera, store.image_size) == (20, "corner2", 48)


def test_episodes_over_several_video_files(tmp_path, episodes):
    root = write_dataset(tmp_path / "set", episodes, video_file_mb=0.004)
    assert len(list(root.rglob("*.mp4"))) > 1
    assert read_numbers(build(root).frames[:]).tolist() == list(range(1, 84))


def test_cache_is_reused_and_rebuilt_when_the_dataset_changes(tmp_path, dataset_root, monkeypatch):
    root = shutil.copytree(dataset_root, tmp_path / "set")
    decoded = []
    original = frame_store._decode_into
    monkeypatch.setattr(frame_store, "_decode_into", lambda *a: (decoded.append(a[0]), original(*a)))
    first = build(root)
    assert (root / ".cache" / "hf_vpdd").is_dir() and len(decoded) == 1
    again = build(root)
    assert len(decoded) == 1 and again.fingerprint == first.fingerprint
    assert (again.frames[:] == first.frames[:]).all() and (again.action == first.action).all()

    path = root / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    changed = table.column("action").to_pylist()
    changed[3] = [0.125, -0.5]
    index = table.schema.get_field_index("action")
    pq.write_table(table.set_column(index, "action", pa.array(changed, table.schema.field("action").type)), path)
    new = build(root)
    assert len(decoded) == 2 and new.fingerprint != first.fingerprint
    assert new.action[3].tolist() == [0.125, -0.5]
    assert len(list((root / ".cache" / "hf_vpdd").iterdir())) == 1  # the outdated one is gone

    build(root, image_size=24)
    assert len(decoded) == 3 and len(list((root / ".cache" / "hf_vpdd").iterdir())) == 2  # sizes live side by side


def test_a_killed_build_is_not_trusted(tmp_path, dataset_root, monkeypatch):
    def die(path, *rest):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(frame_store, "_decode_into", die)
        with pytest.raises(KeyboardInterrupt):
            build(dataset_root, cache_dir=tmp_path)
    assert not list(tmp_path.iterdir())
    assert build(dataset_root, cache_dir=tmp_path).num_frames == 83


def test_other_sizes_are_antialiased_and_cropped_to_the_middle(store):
    image = np.asarray(store.frames[40])
    small = fit_square(image, 24)
    assert np.abs(small.astype(int) - np.asarray(Image.fromarray(image).resize((24, 24), 2)).astype(int)).max() == 0
    assert np.abs(small - image.reshape(24, 2, 24, 2, 3).mean(axis=(1, 3))).mean() < 6
    wide = np.zeros((40, 100, 3), np.uint8)
    wide[:, 30:70] = numbered_frames([1234], 40)[0]
    assert (fit_square(wide, 40) == wide[:, 30:70]).all()
    assert read_numbers(fit_square(wide, 20)[None]).tolist() == [1234]
    assert fit_square(image, 48) is image


def test_a_subset_holds_its_episodes_and_nothing_else(store):
    few = store.subset([3, 0])
    rows = [*range(0, 7), *range(31, 71)]
    assert few.num_frames == len(few.frames) == len(few.action) == 47
    assert read_numbers(few.frames[:]).tolist() == [row + 1 for row in rows]
    assert (few.state == store.state[rows]).all() and (few.action == store.action[rows]).all()
    assert few.episode_from.tolist() == [0, 7] and few.episode_to.tolist() == [7, 47]
    assert few.episode_task == ["open it", "close it"] and few.rows.tolist() == rows and few.rows_of == 83
    nested = few.subset([1])
    assert read_numbers(nested.frames[:]).tolist() == list(range(32, 72)) and nested.rows.tolist() == rows[7:]
    assert len({store.fingerprint, few.fingerprint, nested.fingerprint}) == 3
    assert store.subset(range(5)) is store
    for bad in ([], [5], [-1], [1, 1]):
        with pytest.raises(InputError):
            store.subset(bad)


def test_the_first_or_drawn_episodes_of_each_task(store):
    assert store.per_task(1).episode_from.tolist() == [0, 7]
    assert read_numbers(store.per_task(2).frames[:]).tolist() == [*range(1, 31), 31, *range(32, 72)]
    draws = {tuple(store.per_task(1, seed=seed).rows[[0, -1]]) for seed in range(20)}
    assert len(draws) > 3
    assert store.per_task(1, seed=4).fingerprint == store.per_task(1, seed=4).fingerprint
    with pytest.raises(InputError, match="2 episodes of the task 'close it'; 3"):
        store.per_task(3)


def test_stores_joined(tmp_path, store):
    other_root = write_dataset(tmp_path / "other", make_episodes((5, 6)), video_file_mb=0.001)
    other = build(other_root)
    both = FrameStore.concat([store.subset([4, 1]), other])
    expected = [*range(8, 31), *range(72, 84), *range(1, 12)]
    assert read_numbers(both.frames[:]).tolist() == expected
    picks = np.array([[45, 0], [22, 23], [35, 34]])
    assert (read_numbers(both.frames[picks].reshape(-1, 48, 48, 3)) == np.array(expected)[picks].reshape(-1)).all()
    assert (both.action == np.concatenate([store.action[both_rows(store)], other.action])).all()
    assert both.episode_from.tolist() == [0, 23, 35, 40] and both.episode_to.tolist() == [23, 35, 40, 46]
    assert read_numbers(both.subset([0, 3]).frames[:]).tolist() == [*range(8, 31), *range(6, 12)]

    silent_root = write_dataset(tmp_path / "silent", make_episodes((4, 4), actions=False))
    silent = build(silent_root)
    assert silent.action is None and FrameStore.concat([store, silent]).action is None
    assert FrameStore.concat([store, silent]).state.shape == (91, 3)
    with pytest.raises(InputError, match="image_size"):
        FrameStore.concat([store, build(silent_root, image_size=24)])
    with pytest.raises(InputError, match="at least one"):
        FrameStore.concat([])


def both_rows(store):
    return [*range(7, 30), *range(71, 83)]


def test_rows_index_like_an_array(tmp_path):
    data = np.arange(60, dtype=np.uint8).reshape(10, 2, 3)
    order = np.array([9, 8, 7, 1, 0, 2, 3, 4])
    views = {
        "one": (FrameRows([data]), data),
        "parts": (FrameRows([data[:3], data[3:4], data[4:]]), data),
        "rows": (FrameRows([data[:3], data[3:]], order), data[order]),
    }
    slices = [slice(None), slice(2, 7, 2), slice(None, None, -1)]
    for name, (rows, truth) in views.items():
        for index in (0, -1, 3, *slices, [1, 1, 5], np.array([[0, 7], [6, -2]])):
            assert (rows[index] == truth[index]).all() and rows[index].shape == truth[index].shape, (name, index)
        mask = np.arange(len(truth)) % 3 == 0
        assert (rows[mask] == truth[mask]).all() and (rows[2:5, 1] == truth[2:5, 1]).all()
        assert (np.asarray(rows) == truth).all() and rows.shape == truth.shape and len(list(rows)) == len(truth)
        for outside in (len(truth), -len(truth) - 1):
            with pytest.raises(IndexError):
                rows[[0, outside]]


def test_other_processes_map_the_same_file(store):
    """A pickled store must not carry gigabytes of frames."""
    data = pickle.dumps(store.subset([1, 3]))
    assert len(data) < 20_000
    assert read_numbers(pickle.loads(data).frames[:3]).tolist() == [8, 9, 10]


def test_clips_begin_black(store):
    clips = store.clips(np.array([7, 8, 29, 30, 36]), 3, stride=2)
    assert clips.shape == (5, 3, 48, 48, 3)
    black = (clips == 0).all(axis=(2, 3, 4))
    assert black.tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 0], [1, 1, 0], [0, 0, 0]]
    assert read_numbers(clips[2]).tolist() == [26, 28, 30] and read_numbers(clips[4]).tolist() == [33, 35, 37]
    assert (store.frames[:7] != 0).any(axis=(1, 2, 3)).all()  # what is cleared is a copy


def test_nan_in_the_numbers_is_found(tmp_path, dataset_root):
    root = shutil.copytree(dataset_root, tmp_path / "set")
    path = root / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    values = table.column("observation.state").to_pylist()
    values[33] = [0.0, float("nan"), 0.0]
    index = table.schema.get_field_index("observation.state")
    type_ = table.schema.field("observation.state").type
    pq.write_table(table.set_column(index, "observation.state", pa.array(values, type_)), path)
    with pytest.raises(InputError, match="observation.state is NaN.* episode 3, frame 2"):
        build(root)


def test_a_video_that_is_too_short_is_found(tmp_path, dataset_root, episodes):
    from hf_vpdd.data.lerobot_writer import encode_video

    root = shutil.copytree(dataset_root, tmp_path / "set")
    path = root / "videos/observation.images.corner2/chunk-000/file-000.mp4"
    frames = np.concatenate([e["observation.images.corner2"] for e in episodes])
    encode_video(path, frames[:75], 20)
    with pytest.raises(InputError, match="episode 1, observation.images.corner2: .* does not have its checksum"):
        build(root)
    (root / "meta" / SUMS_FILE).unlink()
    with pytest.raises(InputError, match="lacks 8 frames, the first is frame 4 of episode 4"):
        build(root)
    assert not list((root / ".cache" / "hf_vpdd").iterdir())


def test_bad_arguments(dataset_root):
    with pytest.raises(InputError, match="no camera 'gripper'"):
        build(dataset_root, camera="gripper")
    with pytest.raises(InputError, match="image_size is 0"):
        build(dataset_root, image_size=0)


def test_the_cache_says_what_it_is(tmp_path, dataset_root):
    build(dataset_root, cache_dir=tmp_path)
    about = json.loads(next(tmp_path.glob("*/store.json")).read_text())
    assert about["camera"] == "observation.images.corner2" and about["image_size"] == 48


def test_no_room_for_the_cache_is_said_before_decoding(tmp_path, dataset_root):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot be written to .* choose another cache_dir"):
        build(dataset_root, cache_dir=tmp_path / "file")
    with pytest.raises(InputError, match="are free; choose another cache_dir or a smaller image_size"):
        build(dataset_root, cache_dir=tmp_path, image_size=10_000_000)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("feature", ["keyframe", "observation.joint_velocities"])
def test_keyframes_are_read_or_found(tmp_path, feature):
    episodes = make_episodes((9, 14))
    generator = np.random.default_rng(0)
    expected = []
    for episode in episodes:
        length = len(episode["action"])
        gripper = np.arange(length) >= 5
        episode["action"][:, -1] = gripper
        velocities = generator.uniform(0.2, 1, (length, 7)).astype(np.float32)
        if feature == "keyframe":
            episode[feature] = gripper.astype(np.float32)
            expected += gripper.tolist()
        else:
            episode[feature] = velocities
            expected += [step in (5, length - 1) for step in range(length)]
    store = build(write_dataset(tmp_path / "set", episodes))
    assert store.keyframe.dtype == bool and store.keyframe.tolist() == expected
    assert store.subset([1]).keyframe.tolist() == expected[9:]
    assert FrameStore.concat([store, store]).keyframe.tolist() == expected * 2
    assert build(write_dataset(tmp_path / "without", make_episodes((4,)))).keyframe is None


def _numbers_through(root, tmp_path, monkeypatch, backend):
    monkeypatch.setenv(video_backends.VARIABLE, backend)
    store = FrameStore.build(root, image_size=48, cache_dir=tmp_path / backend, progress=False)
    (about,) = (tmp_path / backend).glob("*/store.json")
    return read_numbers(store.frames[:]).tolist(), json.loads(about.read_text())["video_backend"]


def test_the_decoder_is_chosen_and_named(tmp_path, dataset_root, monkeypatch):
    numbers, decoder = _numbers_through(dataset_root, tmp_path, monkeypatch, "pyav")
    assert numbers == list(range(1, 84)) and decoder == video_backends.describe_backend("pyav")


@pytest.mark.skipif(bool(video_backends._torchcodec_problem()), reason="torchcodec is not installed")
def test_torchcodec_fills_the_cache_too(tmp_path, dataset_root, monkeypatch):
    numbers, decoder = _numbers_through(dataset_root, tmp_path, monkeypatch, "torchcodec")
    assert numbers == list(range(1, 84)) and decoder.startswith("torchcodec ")
    root = shutil.copytree(dataset_root, tmp_path / "set")
    path = next(root.rglob("*.mp4"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(bytes(data))
    with pytest.raises(InputError, match="episode 0, observation.images.corner2: .*does not have its checksum"):
        _numbers_through(root, tmp_path / "damaged", monkeypatch, "torchcodec")


def test_a_reader_of_windows_gives_every_frame_that_is_wanted(dataset_root):
    """How other decoders than PyAV are asked: in runs of wanted frames, 64 at a time; here through PyAV's reader."""
    dataset = LeRobotDataset(dataset_root)
    dataset.video_backend = "windows"
    key = dataset.camera_key("corner2")
    target = np.arange(83)
    target[[0, 1, 70]] = -1
    got = list(frame_store._numbered_frames(dataset, key, 0, target))
    assert [index for index, _ in got] == np.flatnonzero(target >= 0).tolist()
    assert read_numbers(np.stack([image for _, image in got])).tolist() == [index + 1 for index, _ in got]
