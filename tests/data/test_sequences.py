import numpy as np
import pytest

from hf_vpdd.data.features import encode_frames
from hf_vpdd.data.sequences import SequenceDataset
from hf_vpdd.errors import InputError

from .conftest import read_numbers


def test_windows_run_forward_and_end_with_the_episode(store):
    dataset = SequenceDataset(store, steps=4, stride=2, chunk_size=3, with_actions=store.action is not None)
    first, end = int(store.episode_from[1]), int(store.episode_to[1])
    batch = dataset[[first, end - 3]]
    numbers = read_numbers(batch["pixel_values"][:, 0].flatten(0, 1).numpy()).reshape(2, 4) - 1  # frame k says k + 1
    assert numbers[0].tolist() == [first, first + 2, first + 4, first + 6]
    assert numbers[1].tolist() == [end - 3, end - 1, end - 1, end - 1]
    assert batch["step_mask"].tolist() == [[True] * 4, [True, True, False, False]]
    assert np.array_equal(batch["state"][0].numpy(), store.state[first : first + 7 : 2])
    assert np.array_equal(batch["action"][0, 1].numpy(), store.action[first + 2 : first + 5])
    assert batch["action_is_pad"][1].tolist() == [[False] * 3, *[[False, True, True]] * 3]
    one = dataset[first]
    assert all(np.array_equal(one[key], batch[key][0]) for key in batch)
    assert len(dataset) == store.num_frames and dataset.tasks == store.tasks


def test_features_are_made_once_and_belong_to_their_frames(store, tmp_path):
    seen = []

    def encode(frames):
        seen.append(len(frames))
        return read_numbers(frames).reshape(-1, 1, 1) + np.zeros((1, 2, 3), np.float32)

    options = {"cache_dir": tmp_path / "cache", "batch_size": 20, "progress": False}
    features = encode_frames(store, encode, (2, 3), "v1", **options)
    assert features.shape == (store.num_frames, 2, 3) and features.dtype == np.float16
    assert isinstance(features, np.memmap) and sum(seen) == store.num_frames
    assert np.array_equal(encode_frames(store, encode, (2, 3), "v1", **options), features)
    assert sum(seen) == store.num_frames
    with pytest.raises(InputError, match="image features in .* were made with network 'v1', needed is 'v2'"):
        encode_frames(store, encode, (2, 3), "v2", **options)
    batch = SequenceDataset(store, features, steps=3, with_actions=False)[[0, 5]]
    assert batch["image_features"].shape == (2, 1, 3, 2, 3)
    assert (batch["image_features"][1, 0, :, 0, 0] == read_numbers(batch["pixel_values"][1, 0].numpy())).all()
    with pytest.raises(InputError, match="do not belong to"):
        SequenceDataset(store, features[1:])
    with pytest.raises(InputError, match="not finite"):
        encode_frames(store, lambda f: np.full((len(f), 1), np.nan), (1,), "v1", tmp_path / "nan", progress=False)
    with pytest.raises(InputError, match="promised were"):
        encode_frames(store, encode, (3, 3), "v1", tmp_path / "shape", progress=False)


def test_sizes_and_missing_actions_are_named(store):
    with pytest.raises(InputError, match="sizes of at least 1"):
        SequenceDataset(store, steps=0)
    from dataclasses import replace

    with pytest.raises(InputError, match="has no actions"):
        SequenceDataset(replace(store, action=None))
