"""Several cameras of one dataset: side by side for a policy, one after the other for what looks at single pictures."""

import dataclasses
import pickle

import numpy as np
import pytest

from hf_vpdd.data import FrameStore, WindowDataset, build_views, flatten_views, join_views
from hf_vpdd.errors import InputError

from .conftest import LENGTHS, make_episodes, read_numbers, write_dataset


CAMERAS = ("corner2", "wrist", "front")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    episodes = make_episodes(cameras=CAMERAS)
    return write_dataset(tmp_path_factory.mktemp("views") / "set", episodes)


@pytest.fixture(scope="module")
def both(root):
    """Two of the three cameras, not in the order of the dataset."""
    return build_views(root, ["wrist", "corner2"], image_size=48, progress=False)


@pytest.fixture(scope="module")
def codes(both):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 99, (both.num_frames, 1, 2, 2), dtype=np.uint16) for _ in both.cameras]


def numbers_of(batch) -> np.ndarray:
    """(B, V, T): the number that each picture of `pixel_values` spells."""
    pixels = batch["pixel_values"].numpy()
    return read_numbers(pixels.reshape(-1, *pixels.shape[3:])).reshape(pixels.shape[:3])


def test_views_share_everything_but_the_pictures(both, root):
    one = FrameStore.build(root, camera="wrist", image_size=48, progress=False)
    assert both.cameras == ["wrist", "corner2"] and one.cameras == ["wrist"]
    assert (both.state == one.state).all() and (both.action == one.action).all()
    assert both.fingerprint not in {view.fingerprint for view in both.views}
    assert both.views[0].fingerprint == one.fingerprint  # so that tokens of one camera are found again
    other_way = build_views(root, ["corner2", "wrist"], image_size=48, progress=False)
    assert other_way.fingerprint != both.fingerprint


def test_windows_hold_every_view_of_the_same_moment(both, codes):
    windows = WindowDataset(both, codes, history_frames=3, history_stride=2, predict_ahead=5)
    order = np.random.default_rng(1).permutation(len(windows))
    batch = windows[order]
    assert batch["pixel_values"].shape == (len(order), 2, 3, 48, 48, 3)
    assert batch["history_codes"].shape == batch["video_codes"].shape == (len(order), 2, 1, 2, 2)
    numbers = numbers_of(batch)
    first = both.episode_from[both.frame_episode[order]][:, None]
    last = (both.episode_to[both.frame_episode[order]] - 1)[:, None]
    moments = order[:, None] - 2 * np.arange(2, -1, -1)
    for view, offset in enumerate((5001, 1)):  # "wrist" is the dataset's second camera
        assert (numbers[:, view] == np.where(moments < first, 0, moments + offset)).all()
        assert (batch["history_codes"][:, view].numpy() == codes[view][order]).all()
        future = np.minimum(order + 5, last[:, 0])
        assert (batch["video_codes"][:, view].numpy() == codes[view][future]).all()
    assert batch["action"].shape == (len(order), 8, 2) and batch["state"].shape == (len(order), 3)


def test_a_subset_and_a_pickled_copy_keep_their_views(both, codes):
    chosen = both.subset([1, 4])
    batch = WindowDataset(chosen, codes)[:]
    assert numbers_of(batch)[:, 1, 0].tolist() == [*range(8, 31), *range(72, 84)]
    assert (batch["history_codes"][:, 0].numpy() == codes[0][chosen.rows]).all()
    assert (pickle.loads(pickle.dumps(chosen)).view_frames[:] == chosen.view_frames[:]).all()


def test_one_camera_after_the_other(both, codes):
    flat = flatten_views(both)
    assert flat.cameras == ["wrist"] and flat.num_episodes == 10 and not flat.views
    assert read_numbers(flat.frames[:]).tolist() == [*range(5001, 5084), *range(1, 84)]
    assert flat.takes.tolist() == [*range(5), *range(5)] and len(flat.pieces) == 2
    assert (flat.episode_to - flat.episode_from).tolist() == [*LENGTHS, *LENGTHS]
    clips = flat.clips([83], 2)  # the second camera's history does not reach into the first camera's end
    assert (clips[0, 0] == 0).all() and read_numbers(clips[0, 1:]) == [1]
    assert flatten_views(both.views[0]) is both.views[0]
    again = FrameStore.concat([flat, flatten_views(both.subset([0]))])
    assert again.takes.tolist() == [*range(5), *range(5), 5, 5] and len(again.pieces) == 4


def test_several_roots_with_several_cameras(both, root):
    renamed = join_views([dataclasses.replace(view, name="elsewhere") for view in both.views])
    joined = FrameStore.concat([both, renamed])
    assert joined.cameras == both.cameras and joined.num_episodes == 10
    assert numbers_of(WindowDataset(joined)[[84]])[0, :, 0].tolist() == [5002, 2]
    assert joined.roots == [both.name] * 5 + ["elsewhere"] * 5
    with pytest.raises(InputError, match="different numbers of cameras"):
        FrameStore.concat([both, both.views[0]])


def test_video_of_unlike_robots_can_be_joined(both, root):
    one = both.views[0]
    other = dataclasses.replace(one, fps=30, state=None, action=one.action[:, :1], name="other")
    with pytest.raises(InputError, match="fps"):
        FrameStore.concat([one, other])
    joined = FrameStore.concat([one, other], video_only=True)
    assert joined.state is None and joined.action is None and joined.num_frames == 2 * one.num_frames
    with pytest.raises(InputError, match="image_size"):
        FrameStore.concat([one, dataclasses.replace(one, image_size=32)], video_only=True)


def test_what_does_not_belong_together_is_named(both, codes):
    first, second = both.views
    with pytest.raises(InputError, match="'wrist'.*'corner2'.*have 5 and 4: episode 4 is missing"):
        join_views([first, second.subset([0, 1, 2, 3])])
    shorter = dataclasses.replace(
        second, episode_to=second.episode_to - [0, 0, 0, 2, 2], episode_from=second.episode_from - [0, 0, 0, 0, 2]
    )
    with pytest.raises(InputError, match="episode 3 has 40 frames through 'wrist' and 38 through 'corner2'"):
        join_views([first, shorter])
    tasks = ["open it", "wave", *second.episode_task[2:]]
    with pytest.raises(InputError, match="instruction of episode 1 is 'close it' for 'wrist' and 'wave'"):
        join_views([first, dataclasses.replace(second, episode_task=tasks)])
    with pytest.raises(InputError, match="named twice: wrist, wrist"):
        join_views([first, first])
    with pytest.raises(InputError, match="codes of 1 cameras were given for the 2"):
        WindowDataset(both, codes[:1])
    with pytest.raises(InputError, match="camera 'corner2'"):
        WindowDataset(both, [codes[0], codes[1][:7]])
