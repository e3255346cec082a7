"""What is wrong with a CALVIN folder ends in one error that names file, key, what was expected and what was found."""

import os
import shutil
import zipfile

import numpy as np
import pytest

from hf_vpdd.data import CalvinDataset
from hf_vpdd.errors import InputError

from .calvin_folder import SENTENCES, TASKS, WINDOWS, frame, write_annotations, write_calvin, write_frame


SMALL = {"rgb_static": 16, "rgb_gripper": 8}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write_calvin(tmp_path_factory.mktemp("calvin") / "task_D_D", sizes=SMALL) / "training"


@pytest.fixture
def split(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "task_D_D" / "training")


class Code:
    """Pickles to a call of `os.system`."""

    def __reduce__(self):
        return os.system, ("touch pwned",)


def save_annotations(split, content, **options):
    np.save(split / "lang_annotations" / "auto_lang_ann.npy", content, **options)


def cut(path, share=0.6):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def flip(path, key):
    """Changes one byte inside of an array, which leaves the archive as such readable."""
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(f"{key}.npy")
    data = bytearray(path.read_bytes())
    data[info.header_offset + 30 + len(info.filename) + info.compress_size - 4] ^= 0x55
    path.write_bytes(data)


FOLDER = {
    "no such folder": (shutil.rmtree, r"training does not exist"),
    "an empty folder": (
        lambda s: [shutil.rmtree(s), s.mkdir()],
        r"training is not a CALVIN dataset: expected training/ or validation/.*, found nothing",
    ),
    "no annotations": (
        lambda s: shutil.rmtree(s / "lang_annotations"),
        r"no language annotations: expected lang_annotations/auto_lang_ann.npy, found ep_lens.npy, ep_start_end_ids",
    ),
    "annotations cut short": (
        lambda s: cut(s / "lang_annotations" / "auto_lang_ann.npy"),
        r"auto_lang_ann.npy cannot be read \(cut short or damaged\)",
    ),
    "annotations are empty": (
        lambda s: (s / "lang_annotations" / "auto_lang_ann.npy").write_bytes(b""),
        r"auto_lang_ann.npy is not a file of np.save",
    ),
    "annotations run code": (
        lambda s: save_annotations(s, {"language": Code()}),
        r"auto_lang_ann.npy asks for \w+.system: .* refused; expected are arrays",
    ),
    "annotations are numbers": (
        lambda s: save_annotations(s, np.zeros((3, 2))),
        r"auto_lang_ann.npy holds an array of float64 \(3, 2\); expected is one Python object",
    ),
    "annotations are a list": (lambda s: save_annotations(s, {"a": 1}), r"a dictionary 'language', found \['a'\]"),
    "no sentences": (
        lambda s: save_annotations(s, {"language": {"task": TASKS}, "info": {}}),
        r"key language.ann is missing; language has \['task'\]",
    ),
    "an empty list": (
        lambda s: write_annotations(s, [], [], []),
        r"key language.ann is empty: expected at least one sentence, found none",
    ),
    "a number for a sentence": (
        lambda s: write_annotations(s, sentences=[*SENTENCES[:4], 5]),
        r"key language.ann, entry 4: expected a sentence, found 5",
    ),
    "a window too few": (
        lambda s: write_annotations(s, windows=WINDOWS[:4]),
        r"expected 5 entries in info.indx, found 4",
    ),
    "a task too many": (
        lambda s: write_annotations(s, tasks=[*TASKS, "lift"]),
        r"expected 5 entries in language.task, found 6",
    ),
    "a window that ends before it begins": (
        lambda s: write_annotations(s, windows=[(49, 40), *WINDOWS[1:]]),
        r"key info.indx, entry 0: expected 0 <= first <= last, found \(49, 40\)",
    ),
    "a window of fractions": (
        lambda s: write_annotations(s, info_indx=[(40.5, 49.0), *WINDOWS[1:]]),
        r"key info.indx, entry 0: expected two frame numbers",
    ),
    "a missing frame": (
        lambda s: (s / "episode_0000070.npz").unlink(),
        r"episode_0000070.npz is missing: window 3 .* expected the 12 frames 61 to 72, found 11 .*2 of 5 windows",
    ),
    "a window over a gap": (
        lambda s: write_annotations(s, windows=[(45, 62), *WINDOWS[1:]]),
        r"episode_0000050.npz is missing: window 0 .* expected the 18 frames 45 to 62, found 8",
    ),
    "no frames": (
        lambda s: [path.unlink() for path in s.glob("episode_*.npz")],
        r"holds no frames: expected files like episode_0000000.npz, found none",
    ),
    "names of two recordings": (
        lambda s: (s / "episode_0000075.npz").rename(s / "episode_000075.npz"),
        r"expected names with one number of digits, found episode_000075.npz and episode_",
    ),
    "the first frame is no archive": (
        lambda s: cut(s / "episode_0000040.npz"),
        r"episode_0000040.npz cannot be read: expected an npz archive, found one cut short",
    ),
    "no pictures": (
        lambda s: write_frame(s, 40, {"rel_actions": frame(40, SMALL)["rel_actions"]}),
        r"episode_0000040.npz: expected a picture under the key 'rgb_static' or 'rgb_gripper', found .* rel_actions",
    ),
}


@pytest.mark.parametrize("case", FOLDER)
def test_a_folder_that_is_not_right_is_refused_when_opened(split, case):
    damage, message = FOLDER[case]
    damage(split)
    with pytest.raises(InputError, match=message) as error:
        CalvinDataset(split)
    assert str(split) in str(error.value) and not (split / "pwned").exists() and not os.path.exists("pwned")


def changed(**changes):
    def damage(path):
        arrays = frame(63, SMALL)
        for key, value in changes.items():
            if value is None:
                del arrays[key]
            else:
                arrays[key] = value(arrays[key])
        np.savez_compressed(path, **arrays)

    return damage


def put(place, value):
    def change(array):
        array = array.copy()
        array[place] = value
        return array

    return change


FRAME = {
    "cut short": (cut, r": expected an npz archive, found one cut short or damaged \(BadZipFile"),
    "not an archive": (lambda p: p.write_bytes(b"hello" * 99), r": expected an npz archive, found one cut short"),
    "a flipped byte": (lambda p: flip(p, "rgb_static"), r": key 'rgb_static' cannot be read: .*(CRC|error|Error)"),
    "no action": (changed(rel_actions=None), r": key 'rel_actions' is missing; its keys are actions, depth_"),
    "a small picture": (
        changed(rgb_static=lambda a: a[:8]),
        r": key 'rgb_static' .*: expected uint8 \(16, 16, 3\), found uint8 \(8, 16, 3\)",
    ),
    "a huge picture": (
        changed(rgb_gripper=lambda a: np.zeros((400, 400, 3), np.uint8)),
        r": key 'rgb_gripper' .*: expected uint8 \(8, 8, 3\), found uint8 \(400, 400, 3\)",
    ),
    "a picture of floats": (
        changed(rgb_static=lambda a: a / 255),
        r": key 'rgb_static' .*: expected uint8 \(16, 16, 3\), found float64 \(16, 16, 3\)",
    ),
    "a short state": (
        changed(robot_obs=lambda a: a[:14]),
        r": key 'robot_obs' .*: expected floating-point numbers \(15,\), found float64 \(14,\)",
    ),
    "an action of objects": (
        changed(rel_actions=lambda a: np.array([Code()] * 7, object)),
        r": key 'rel_actions' .*: expected floating-point numbers \(7,\), found object \(7,\)",
    ),
    "a state with NaN": (
        changed(robot_obs=put(3, np.nan)),
        r": key 'robot_obs': expected finite numbers, found \[.*nan",
    ),
    "an absolute action": (
        changed(rel_actions=put(0, 1.7)),
        r": key 'rel_actions': expected movements within -1 and 1, found \[1.7",
    ),
    "a gripper of 0": (
        changed(rel_actions=put(6, 0.0)),
        r": key 'rel_actions': expected .* gripper, to be -1 \(close\) or 1 \(open\), found 0",
    ),
    "another polarity": (
        changed(robot_obs=put(14, 0.08)),
        r": key 'robot_obs': expected .* gripper, to be -1 .* found 0.08",
    ),
}


@pytest.mark.parametrize("case", FRAME)
def test_a_frame_that_is_not_right_is_refused_when_read(split, case):
    damage, message = FRAME[case]
    path = split / "episode_0000063.npz"
    damage(path)
    dataset = CalvinDataset(split)
    dataset.episode(0)
    with pytest.raises(InputError, match=message) as error:
        dataset.episode(3)
    assert str(error.value).startswith(str(path)) and not os.path.exists("pwned")


def test_any_flipped_byte_is_noticed_or_changes_nothing(split):
    """No damage to a file ends in another library's error, a hang, or wrong numbers."""
    path, rng = split / "episode_0000063.npz", np.random.default_rng(0)
    intact, dataset = path.read_bytes(), CalvinDataset(split)
    truth = dataset.episode(3)
    noticed = 0
    for place in rng.integers(len(intact), size=300):
        data = bytearray(intact)
        data[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        try:
            found = dataset.episode(3)
        except InputError as error:
            assert str(path) in str(error)
            noticed += 1
            continue
        for key, value in truth.items():
            np.testing.assert_array_equal(found[key], value)
    assert noticed > 100


def test_gaps_can_be_left_out(split):
    (split / "episode_0000070.npz").unlink()
    dataset = CalvinDataset(split, skip_bad=True)
    assert dataset.windows.tolist() == [0, 1, 2] and dataset.num_frames == 10 + 6 + 7
    assert [one["window"] for one in dataset.skipped] == [3, 4]
    assert "episode_0000070.npz is missing" in dataset.skipped[0]["reason"]
