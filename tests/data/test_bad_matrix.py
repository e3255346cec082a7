"""Every format, damaged in five ways: truncated, bit-flipped, missing, wrong-typed, inconsistent.

One error that names the file, or, of a flipped bit, what was there before: never a hang, another library's error, or
another picture. Formats without checksums of their own cannot see every flip; those are marked, and of them it is
asked that lengths and shapes stay. (More of what can be wrong with each format is in the tests beside this.)
"""

import json
import pickle
import shutil
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_vpdd.data import open_dataset, open_ego4d
from hf_vpdd.errors import InputError

from .calvin_folder import write_annotations, write_calvin
from .conftest import make_episodes, write_dataset
from .robot_folders import (
    example,
    trajectory_arrays,
    trajectory_tensors,
    write_bridge,
    write_bridge_npy,
    write_bridge_tfrecord,
    write_libero,
    write_rlbench,
    write_robomimic,
)
from .test_lerobot import write_v21
from .test_lerobot_gaps import pictures_in_rows
from .video_files import even_times, write_ego4d, write_pictures, write_ssv2, write_video


FLIPS = 6  # places per format; each is a case of its own to the reader
SMALL = {"sizes": {"rgb_static": 16, "rgb_gripper": 8}}


def _lerobot(root):
    return write_dataset(root, make_episodes((5, 7)))


def _version_2(root):
    return write_v21(root, make_episodes((5, 7)))


def _pictures(root):
    episodes = make_episodes((5, 7))
    return pictures_in_rows(write_dataset(root, episodes), episodes)


def _videos(root):
    for name in ("a", "b"):
        write_video(root / f"{name}.mp4", even_times(8, 10), np.arange(8))
    return root


def _captions(name):
    def write(root):
        _videos(root)
        rows = [{"file": "a.mp4", "text": "open it", "end": 0.5}, {"file": "b.mp4", "text": "close it", "end": 0.5}]
        if name.endswith("jsonl"):
            (root / name).write_text("\n".join(map(json.dumps, rows)))
        elif name.endswith("csv"):
            (root / name).write_text(
                "file,text,end\n" + "".join(f"{r['file']},{r['text']},{r['end']}\n" for r in rows)
            )
        else:
            pq.write_table(pa.Table.from_pylist(rows), root / name, write_page_checksum=True)
        return root

    return write


def _column(root):
    from datasets import Dataset, Video

    videos = [write_video(root / f"{n}.mp4", even_times(8, 10), np.arange(8)).read_bytes() for n in (0, 1)]
    cells = [{"bytes": data, "path": None} for data in videos]
    shutil.rmtree(root)
    rows = Dataset.from_dict({"video": cells, "text": ["a", "b"]}).cast_column("video", Video(decode=False))
    root.mkdir()
    rows.to_parquet(root / "train-0.parquet")
    return root


def words(path):
    path.write_text("text")


def text(change):
    return lambda path: path.write_text(change(path.read_text()))


def swap(before, after):
    """Another text in a file that must have the first one."""

    def change(content):
        assert before in content
        return content.replace(before, after, 1)

    return text(change)


def column(name, change):
    """Another column in a parquet file."""

    def damage(path):
        table = pq.read_table(path)
        values = change(table.column(name).to_pylist())
        pq.write_table(table.set_column(table.column_names.index(name), name, [values]), path)

    return damage


def hdf5(key, change):
    def damage(path):
        import h5py

        with h5py.File(path, "a") as file:
            value = change(file[key][()])
            del file[key]
            file[key] = value

    return damage


def dump(value):
    return lambda path: path.write_bytes(pickle.dumps(value))


def other_video(path):
    write_video(path, even_times(3, 10), np.arange(3))


def folder_for_file(path):
    path.unlink()
    path.mkdir()


def cell(value):
    def damage(path):
        table = pq.read_table(path)
        cells = table.column("video").to_pylist()
        cells[1] = {"bytes": value, "path": None}
        place, kind = table.column_names.index("video"), table.schema.field("video")
        pq.write_table(table.set_column(place, kind, pa.array(cells, kind.type)), path)

    return damage


def npz(**changes):
    def damage(path):
        with np.load(path) as arrays:
            content = {key: arrays[key] for key in arrays}
        np.savez_compressed(path, **content | {key: change(content[key]) for key, change in changes.items()})

    return damage


@dataclass
class Format:
    """write: a whole dataset in a folder. file: the damaged one, by its name. typed, inconsistent: what is done to it.
    seals: whether it has checksums, so that no flip may pass. named: what the error must name, if not the file."""

    write: object
    file: str
    typed: object
    inconsistent: object
    seals: bool = False
    named: str = ""
    prefix: str = ""


KEY = "observation.images.corner2"
FORMATS = {
    "LeRobot v3 info": Format(
        _lerobot, "meta/info.json", swap('"fps": 20', '"fps": "fast"'), swap('"fps": 20', '"fps": 33'),
        named="info.json|fps in meta",
    ),
    "LeRobot v3 episodes": Format(
        _lerobot, "meta/episodes/chunk-000/file-000.parquet", column("length", lambda v: ["five"] * len(v)),
        column("length", lambda v: [v[0] + 1, v[1]]), seals=True, named="file-000.parquet|episode table|set",
    ),
    "LeRobot v3 tasks": Format(
        _lerobot, "meta/tasks.parquet", column("task_index", lambda v: ["a", "b"]),
        column("task_index", lambda v: [0, 5]), seals=True,
    ),
    "LeRobot v3 rows": Format(
        _lerobot, "data/chunk-000/file-000.parquet", column("action", lambda v: [None, *v[1:]]),
        column("episode_index", lambda v: v[::-1]), seals=True,
    ),
    "LeRobot v3 video": Format(_lerobot, f"videos/{KEY}/chunk-000/file-000.mp4", folder_for_file, other_video),
    "LeRobot v3 pictures": Format(
        _pictures, "data/chunk-000/file-000.parquet", column(KEY, lambda v: [{"bytes": b"no", "path": None}, *v[1:]]),
        column(KEY, lambda v: [None, *v[1:]]), named="file-000.parquet|image of",
    ),
    "LeRobot v2.1 episodes": Format(
        _version_2, "meta/episodes.jsonl", text(lambda t: t.replace("5", '"5"')),
        swap('"episode_index": 1', '"episode_index": 3'),
    ),
    "LeRobot v2.1 tasks": Format(
        _version_2, "meta/tasks.jsonl", text(lambda t: "[1]\n[2]"),
        swap('"task_index": 1', '"task_index": 4'),
    ),
    "LeRobot v2.1 rows": Format(
        _version_2, "data/chunk-000/episode_000001.parquet",
        column("action", lambda v: [None, *v[1:]]), column("episode_index", lambda v: [0] * len(v)),
    ),
    "video": Format(_videos, "a.mp4", words, lambda path: path.write_bytes(b"\0" * 900)),
    "folder of pictures": Format(
        lambda root: write_pictures(root / "clip", range(6)) and _captions_of_pictures(root), "clip/frame_3.png",
        words, lambda path: write_picture(path, 24), seals=True, named="clip|frame_",
    ),
    "captions jsonl": Format(
        _captions("captions.jsonl"), "captions.jsonl", swap('"close it"', "7"), swap('"end": 0.5', '"end": -1'),
    ),
    "captions csv": Format(
        _captions("captions.csv"), "captions.csv", swap("0.5", "soon"), swap("b.mp4", "c.mp4"),
    ),
    "captions parquet": Format(
        _captions("captions.parquet"), "captions.parquet", column("text", lambda v: [1, 2]),
        column("end", lambda v: [-1.0, -1.0]), seals=True,
    ),
    "Something-Something labels": Format(
        write_ssv2, "something-something-v2-train.json", swap('"id": "100"', '"id": [100]'),
        swap('"a potato", "a jar"', '"a potato"') , named="train.json",
    ),
    "Ego4D narrations": Format(
        write_ego4d, "v2/annotations/narration.json", swap('"timestamp_sec": 5.0', '"timestamp_sec": "5"'),
        swap('"timestamp_sec": 15.0', '"timestamp_sec": 99.0'), named="narration.json|video-1.mp4",
    ),
    "datasets column": Format(
        _column, "train-0.parquet", cell(None), cell(b"no video"), prefix="datasets:", named="datasets:",
    ),
    "CALVIN frames": Format(
        lambda root: write_calvin(root, **SMALL), "training/episode_0000063.npz",
        npz(rel_actions=lambda a: a.astype(str)), npz(rgb_static=lambda a: a[:9]), seals=True,
    ),
    "CALVIN annotations": Format(
        lambda root: write_calvin(root, **SMALL), "training/lang_annotations/auto_lang_ann.npy",
        lambda path: np.save(path, np.zeros(3)),
        lambda path: write_annotations(path.parent.parent, windows=[(40, 49)]), named="auto_lang_ann|CALVIN dataset",
    ),
    "RLBench numbers": Format(
        lambda root: write_rlbench(root, 2), "close_jar/all_variations/episodes/episode1/low_dim_obs.pkl", dump([1]),
        lambda path: shutil.copy(_shorter(path), path),
    ),
    "RLBench pictures": Format(
        lambda root: write_rlbench(root, 2), "close_jar/all_variations/episodes/episode1/wrist_rgb/4.png",
        words, lambda path: write_picture(path, 24), seals=True, named="4.png|wrist_rgb",
    ),
    "Bridge numbers": Format(
        write_bridge, "rss/toykitchen2/put_pot_on_stove/00/2022-01-01_00-00-00/raw/traj_group0/traj1/obs_dict.pkl",
        dump([1]), dump({"full_state": np.zeros((3, 7))}),
    ),
    "Bridge pictures": Format(
        write_bridge, "rss/toykitchen2/put_pot_on_stove/00/2022-01-01_00-00-00/raw/traj_group0/traj1/images0/im_2.jpg",
        words, lambda path: write_picture(path, 24), named="im_2.jpg|images0",
    ),
    "Bridge numpy": Format(
        write_bridge_npy, "rss/toykitchen2/put_pot_on_stove/00/train/out.npy", lambda path: np.save(path, np.zeros(3)),
        lambda path: write_bridge_npy(path.parents[5], trajectories=[trajectory_arrays(actions=[np.zeros(7)])]),
    ),
    "Bridge TFRecord": Format(
        write_bridge_tfrecord, "rss/toykitchen2/put_pot_on_stove/00/train/out.tfrecord",
        lambda path: write_bridge_tfrecord(path.parents[5], examples=[b"no example"]),
        lambda path: write_bridge_tfrecord(path.parents[5], examples=[_short_example()]), seals=True,
    ),
    "robomimic": Format(
        lambda root: write_robomimic(root / "can.hdf5").parent, "can.hdf5",
        hdf5("data/demo_0/actions", lambda a: [b"text"] * len(a)), hdf5("data/demo_0/actions", lambda a: a[:-1]),
    ),
    "LIBERO": Format(
        lambda root: write_libero(root / "pick_demo.hdf5").parent, "pick_demo.hdf5",
        hdf5("data/demo_1/obs/agentview_rgb", lambda a: a / 255), hdf5("data/demo_1/obs/ee_states", lambda a: a[:-1]),
    ),
}  # fmt: skip


def _captions_of_pictures(root):
    (root / "captions.jsonl").write_text('{"file": "clip", "text": "walk", "fps": 4}')
    return root


def write_picture(path, size):
    from PIL import Image

    Image.fromarray(np.zeros((size, size, 3), np.uint8)).save(path)


def _shorter(path):
    """The numbers of a demonstration that is shorter than its pictures."""
    other = path.parent.parent.parent.parent / "other"
    from .robot_folders import write_episode

    return write_episode(other, length=5) / "low_dim_obs.pkl"


def _short_example():
    tensors = trajectory_tensors(8)
    return example(tensors | {"actions": tensors["actions"][:3]})


def read_all(format_, root):
    """Everything that a dataset gives."""
    dataset = open_dataset(f"{format_.prefix}{root}", progress=False)
    found = [dataset.episode(number) for number in range(dataset.num_episodes)]
    return [{key: np.asarray(value) for key, value in episode.items()} for episode in found]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Datasets without damage, each written and read once, when it is asked for."""
    made = {}

    def make(name):
        if name not in made:
            if name in ("robomimic", "LIBERO"):
                pytest.importorskip("h5py")
            root = FORMATS[name].write(tmp_path_factory.mktemp("whole") / "set")
            made[name] = root, read_all(FORMATS[name], root)
        return made[name]

    return make


def damaged(whole, name, tmp_path):
    root, truth = whole(name)
    copy = shutil.copytree(root, tmp_path / "set", ignore=shutil.ignore_patterns(".cache"))
    path = copy / FORMATS[name].file
    assert path.is_file()
    return copy, path, truth


def refused(name, root, path):
    with pytest.raises(InputError, match=FORMATS[name].named or path.name) as error:
        read_all(FORMATS[name], root)
    assert len(str(error.value)) < 1500


def cut(path):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.6)])


# of what is refused; None: each format has its own
WAYS = {
    "truncated": cut,
    "missing": lambda path: path.unlink(),
    "wrong-typed": "typed",
    "inconsistent": "inconsistent",
}


# Without these a folder is another dataset, of so many episodes; a file that was named is missed all the same.
OPTIONAL = {"captions jsonl": 2, "captions csv": 2, "captions parquet": 2, "video": 1, "Ego4D narrations": 1}
OPENED_BY_NAME = {"Ego4D narrations": lambda path, **quiet: open_ego4d(path.parents[2], path.name, **quiet)}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", FORMATS)
def test_damage_is_refused_with_the_name_of_the_file(whole, tmp_path, name, way):
    root, path, _ = damaged(whole, name, tmp_path)
    damage = WAYS[way]
    (getattr(FORMATS[name], damage) if isinstance(damage, str) else damage)(path)
    if way == "missing" and name in OPTIONAL:
        assert len(read_all(FORMATS[name], root)) == OPTIONAL[name]
        with pytest.raises(InputError, match=path.name):
            OPENED_BY_NAME.get(name, open_dataset)(path, progress=False)
        return
    if way == "missing" and not any(other.is_file() for other in root.rglob("*")):
        with pytest.raises(InputError, match=f"{root} (is not|.* cannot be loaded)"):  # it was the only file
            read_all(FORMATS[name], root)
        return
    refused(name, root, path)


@pytest.mark.parametrize("name", FORMATS)
def test_a_flipped_bit_is_noticed_or_changes_no_length(whole, tmp_path, name):
    root, path, truth = damaged(whole, name, tmp_path)
    intact, random = path.read_bytes(), np.random.default_rng(0)
    for place in random.integers(len(intact), size=FLIPS):
        data = bytearray(intact)
        data[place] ^= 1 << int(random.integers(8))
        path.write_bytes(data)
        try:
            found = read_all(FORMATS[name], root)
        except InputError:
            continue
        assert len(found) <= len(truth)
        for one, other in zip(found, truth):
            assert set(one) == set(other)
            for key, value in other.items():
                if FORMATS[name].seals:
                    assert np.array_equal(one[key], value), (place, key)
                elif len(found) == len(truth) and value.ndim > 1:
                    assert one[key].shape[1:] == value.shape[1:], (place, key)
