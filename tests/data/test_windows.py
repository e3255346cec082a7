import dataclasses

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from hf_vpdd.data.frame_store import FrameStore
from hf_vpdd.data.windows import WindowDataset
from hf_vpdd.errors import InputError


@pytest.fixture(scope="module")
def codes(store):
    return np.random.default_rng(0).integers(0, 65_536, (store.num_frames, 1, 2, 2), dtype=np.uint16)


def slow_sample(store, codes, k, history_frames, history_stride, predict_ahead, chunk_size):
    """The definition, one sample and one frame at a time."""
    episode = next(e for e in range(store.num_episodes) if store.episode_from[e] <= k < store.episode_to[e])
    first, last = store.episode_from[episode], store.episode_to[episode] - 1
    pixels = []
    for step in range(history_frames - 1, -1, -1):
        row = k - step * history_stride
        pixels.append(store.frames[int(row)] if row >= first else np.zeros_like(store.frames[0]))
    actions, pad = [], []
    for step in range(chunk_size):
        actions.append(store.action[min(k + step, last)])
        pad.append(k + step > last)
    return {
        "pixel_values": np.stack(pixels)[None],
        "history_codes": codes[k][None].astype(np.int64),
        "video_codes": codes[min(k + predict_ahead, last)][None].astype(np.int64),
        "state": store.state[k],
        "action": np.stack(actions),
        "action_is_pad": np.array(pad),
        "task_index": np.int64(store.tasks.index(store.episode_task[episode])),
        "frame_index": np.int64(k),
    }


@pytest.mark.parametrize(
    "sizes",
    [
        {"history_frames": 1, "history_stride": 1, "predict_ahead": 16, "chunk_size": 8},
        {"history_frames": 4, "history_stride": 3, "predict_ahead": 5, "chunk_size": 1},
        {"history_frames": 2, "history_stride": 50, "predict_ahead": 0, "chunk_size": 60},
    ],
)
@pytest.mark.parametrize("subset", [None, [1, 2, 4]])
def test_equals_the_definition(store, codes, sizes, subset):
    chosen = store if subset is None else store.subset(subset)
    own_codes = codes if subset is None else codes[chosen.rows]
    dataset = WindowDataset(chosen, codes, **sizes)  # codes of the whole store serve its subset
    assert len(dataset) == chosen.num_frames
    order = np.random.default_rng(1).permutation(len(dataset))
    batch = dataset.__getitems__(order.tolist())
    for position, k in enumerate(order):
        for key, value in slow_sample(chosen, own_codes, k, **sizes).items():
            got = batch[key][position].numpy()
            assert got.dtype == value.dtype and got.shape == value.shape and (got == value).all(), (key, k)


def test_types_are_those_the_models_take(store, codes):
    batch = WindowDataset(store, codes)[[0, 50]]
    types = {key: (value.dtype, tuple(value.shape)) for key, value in batch.items()}
    assert types == {
        "pixel_values": (torch.uint8, (2, 1, 1, 48, 48, 3)),
        "history_codes": (torch.int64, (2, 1, 1, 2, 2)),
        "video_codes": (torch.int64, (2, 1, 1, 2, 2)),
        "state": (torch.float32, (2, 3)),
        "action": (torch.float32, (2, 8, 2)),
        "action_is_pad": (torch.bool, (2, 8)),
        "task_index": (torch.int64, (2,)),
        "frame_index": (torch.int64, (2,)),
    }


def test_single_samples_slices_and_chosen_rows(store, codes):
    dataset = WindowDataset(store, codes, frame_indices=[70, 3, 41])
    assert len(dataset) == 3 and dataset[:]["frame_index"].tolist() == [70, 3, 41]
    assert dataset[1]["frame_index"].item() == 3 and dataset[1]["action"].shape == (8, 2)
    assert dataset[-1]["frame_index"].item() == 41
    with pytest.raises(IndexError):
        dataset[3]


def test_parts_can_be_left_out(store, codes):
    batch = WindowDataset(store, codes, with_pixels=False, with_actions=False)[[0]]
    assert set(batch) == {"history_codes", "video_codes", "state", "task_index", "frame_index"}
    assert set(WindowDataset(store, with_actions=False)[[0]]) == {"pixel_values", "state", "task_index", "frame_index"}


@pytest.mark.parametrize("workers", [0, 1])
def test_in_a_data_loader(store, codes, workers):
    dataset = WindowDataset(store, codes)
    loader = DataLoader(dataset, 32, num_workers=workers, collate_fn=dataset.collate)
    seen = torch.cat([batch["frame_index"] for batch in loader])
    assert seen.tolist() == list(range(83))


def test_joined_stores_share_one_list_of_tasks(store):
    renamed = dataclasses.replace(store, episode_task=["close it"] * 4 + ["wave"])
    both = FrameStore.concat([store, renamed])
    dataset = WindowDataset(both)
    assert dataset.tasks == ["open it", "close it", "wave"]
    assert dataset[:]["task_index"].tolist() == [*store.frame_task, *[1] * 71, *[2] * 12]


def test_bad_input_is_named(store, codes):
    silent = dataclasses.replace(store, action=None)
    with pytest.raises(InputError, match="dataset has no actions.*hf-vpdd record"):
        WindowDataset(silent)
    assert "action" not in WindowDataset(silent, with_actions=False)[[0]]
    with pytest.raises(InputError, match="do not belong to the 83 frames"):
        WindowDataset(store, codes[:80])
    with pytest.raises(InputError, match="chunk_size"):
        WindowDataset(store, chunk_size=0)
    with pytest.raises(InputError, match="predict_ahead"):
        WindowDataset(store, predict_ahead=-1)
    for rows in ([], [83], [-1]):
        with pytest.raises(InputError, match="frame_indices"):
            WindowDataset(store, frame_indices=rows)


def with_keyframes(store):
    """The store, and by hand the keyframes of its episodes of 7, 23, 1, 40 and 12 frames."""
    rows = [[2, 6], [8, 15, 29], [], [33, 40, 41, 70], [82]]
    keyframe = np.zeros(store.num_frames, bool)
    keyframe[sum(rows, [])] = True
    return dataclasses.replace(store, keyframe=keyframe), rows


@pytest.mark.parametrize("subset", [None, [1, 2, 4]])
def test_chunks_of_keyframes_equal_the_definition(store, subset):
    whole, rows = with_keyframes(store)
    chosen = whole if subset is None else whole.subset(subset)
    dataset = WindowDataset(chosen, chunk_size=3, targets="keyframes", with_pixels=False)
    batch = dataset[np.random.default_rng(0).permutation(len(dataset))]
    for k, action, pad in zip(batch["frame_index"].numpy(), batch["action"].numpy(), batch["action_is_pad"].numpy()):
        row = k if subset is None else chosen.rows[k]
        episode = whole.frame_episode[row]
        ahead = [keyframe for keyframe in rows[episode] if keyframe > row][:3]
        expected = [*ahead, *[whole.episode_to[episode] - 1] * (3 - len(ahead))]
        assert (action == whole.action[expected]).all() and pad.tolist() == [False] * len(ahead) + [True] * (
            3 - len(ahead)
        )
    useful = [k for k in range(whole.num_frames) if any(k < f for f in rows[whole.frame_episode[k]])]
    assert np.flatnonzero(WindowDataset(whole, targets="keyframes").with_targets()).tolist() == useful


def test_keyframes_must_be_known(store):
    with pytest.raises(InputError, match="does not say which frames are keyframes.*joint_velocities"):
        WindowDataset(store, targets="keyframes")
    with pytest.raises(InputError, match="must be one of steps, keyframes"):
        WindowDataset(store, targets="poses")
    WindowDataset(store, targets="keyframes", with_actions=False)  # video needs none
