import hashlib
import threading

import numpy as np
import pytest

from hf_vpdd.data.frame_store import FrameStore
from hf_vpdd.data.token_shards import open_codes, read_index, verify_codes
from hf_vpdd.data.tokens import Share, tokenize
from hf_vpdd.data.video_frames import decode_frames
from hf_vpdd.errors import InputError

from .conftest import read_numbers


class Tokenizer:
    """Codes that say which frames they saw: (number of the last frame, number of the first, 7)."""

    def __init__(self, die_after=None):
        self.seen = 0
        self.die_after = die_after

    def __call__(self, clips):
        if self.die_after is not None and self.seen >= self.die_after:
            raise KeyboardInterrupt
        self.seen += len(clips)
        assert clips.dtype == np.uint8
        last, first = read_numbers(clips[:, -1]), read_numbers(clips[:, 0])
        return np.stack([last, first, np.full(len(clips), 7)], axis=-1).reshape(-1, 1, 1, 3)


def run(store, tokenizer, place, fingerprint="v1", latent=(1, 1, 3), **options):
    options = {"clip_frames": 4, "batch_size": 10, "progress": False, "shard_size": 20} | options
    return tokenize(store, tokenizer, latent, fingerprint, place, **options)


def contents(place) -> dict:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in place.iterdir()
        if path.name.startswith(("codes-", "tokens"))
    }


def test_codes_of_every_frame_and_its_history(store, tmp_path):
    codes = run(store, Tokenizer(), tmp_path)
    assert codes.shape == (83, 1, 1, 3) and codes.dtype == np.uint16
    assert len(codes.parts) == 5 and all(isinstance(part, np.memmap) for part in codes.parts)
    first = np.repeat(store.episode_from, store.episode_to - store.episode_from)
    row = np.arange(83)
    assert (codes[:, 0, 0, 0] == row + 1).all()
    assert (codes[:, 0, 0, 1] == np.where(row - 3 < first, 0, row - 2)).all()  # black reads as 0


def test_the_second_time_costs_nothing(store, tmp_path):
    codes = run(store, Tokenizer(), tmp_path)
    again = run(store, Tokenizer(die_after=0), tmp_path)
    assert (codes[:] == again[:]).all()


def test_goes_on_where_it_was_killed(store, tmp_path):
    whole = np.array(run(store, Tokenizer(), tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        run(store, Tokenizer(die_after=70), tmp_path / "killed", batch_size=1)
    with pytest.raises(InputError, match="not finished: 3 of 5 shards are there; run the same hf-vpdd tokenize again"):
        open_codes(tmp_path / "killed")
    tokenizer = Tokenizer()
    assert (run(store, tokenizer, tmp_path / "killed", batch_size=1, shard_size=None)[:] == whole).all()
    assert tokenizer.seen == 83 - 60
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_two_runs_at_once_do_not_spoil_each_other(store, tmp_path):
    """The second begins while the first encodes, and waits for it instead of emptying its file."""
    second, answers = Tokenizer(), []
    thread = threading.Thread(target=lambda: answers.append(run(store, second, tmp_path)))

    class Slow(Tokenizer):
        def __call__(self, clips):
            if not self.seen:
                thread.start()
                thread.join(0.5)
            return super().__call__(clips)

    codes = run(store, Slow(), tmp_path)
    thread.join()
    assert (codes[:, 0, 0, 0] == np.arange(83) + 1).all() and (answers[0][:] == codes[:]).all()
    assert second.seen == 0


def test_codes_of_others_are_refused(store, tmp_path):
    run(store, Tokenizer(), tmp_path)
    with pytest.raises(InputError, match="made with tokenizer 'v1', needed is 'v2'"):
        run(store, Tokenizer(), tmp_path, fingerprint="v2")
    with pytest.raises(InputError, match="clip_frames 4, needed is 1"):
        run(store, Tokenizer(), tmp_path, clip_frames=1)
    with pytest.raises(InputError, match="frames"):
        run(store.subset([0]), Tokenizer(), tmp_path)
    (tmp_path / "tokens.json").write_text("[]")
    with pytest.raises(InputError, match="not a description of video codes"):
        run(store, Tokenizer(), tmp_path)


def test_processes_share_the_shards_and_the_bytes_are_the_same(store, tmp_path):
    run(store, Tokenizer(), tmp_path / "one")
    barrier, tokenizers = threading.Barrier(2), [Tokenizer(), Tokenizer()]

    def work(number):
        run(store, tokenizers[number], tmp_path / "two", share=Share(number, 2, barrier.wait))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(tokenizer.seen for tokenizer in tokenizers) == [40, 43]
    assert contents(tmp_path / "one") == contents(tmp_path / "two") and len(contents(tmp_path / "one")) == 6


@pytest.mark.parametrize("clip_frames", [1, 4, 30])
def test_straight_from_the_videos(dataset_root, store, tmp_path, clip_frames):
    """The same bytes, from one pass over the videos and with nothing decoded on the disk."""
    bare = FrameStore.build(dataset_root, image_size=48, cache_dir=tmp_path / "cache", progress=False, decode=False)
    assert bare.fingerprint == store.fingerprint and (bare.state == store.state).all()
    run(bare, Tokenizer(), tmp_path / "videos", clip_frames=clip_frames)
    run(store, Tokenizer(), tmp_path / "store", clip_frames=clip_frames)
    assert contents(tmp_path / "videos") == contents(tmp_path / "store")
    assert [path.name[:8] for path in (tmp_path / "cache").iterdir()] == ["numbers-"]


def test_pictures_of_a_store_that_is_not_decoded(dataset_root, store, tmp_path):
    bare = FrameStore.build(dataset_root, image_size=48, cache_dir=tmp_path, progress=False, decode=False)
    some = np.array([[5, 70], [6, 5]])
    few = bare.subset([1, 3])
    assert (bare.frames[some] == store.frames[some]).all() and (bare.frames[8:3] == store.frames[8:3]).all()
    assert (few.clips([3, 40], 3) == store.subset([1, 3]).clips([3, 40], 3)).all()
    assert not list(tmp_path.glob("frames-*"))
    decode_frames(bare)
    assert len(list(tmp_path.glob("frames-*"))) == 1
    assert (few.frames[:] == store.subset([1, 3]).frames[:]).all()


def test_altered_shards_are_found_and_made_anew(store, tmp_path):
    run(store, Tokenizer(), tmp_path, clip_frames=1)
    whole = contents(tmp_path)
    assert verify_codes(tmp_path) == []
    index = read_index(tmp_path)
    assert (index.dataset, index.camera, index.image_size, index.fps) == ("dataset", "corner2", 48, 20.0)
    assert index.codes_used == 83 and 1 < index.perplexity < 83
    for number, change in enumerate((lambda b: b[:-2], lambda b: b[:-1] + b"x", lambda b: b"", lambda b: b[::-1])):
        path = tmp_path / f"codes-{number:05d}.npy"
        path.write_bytes(change(path.read_bytes()))
    assert [number for number, _ in verify_codes(tmp_path)] == [0, 1, 2, 3]
    with pytest.raises(InputError, match="codes-00000.npy has .* cut short or altered; .* --verify"):
        open_codes(tmp_path)
    tokenizer = Tokenizer()
    run(store, tokenizer, tmp_path, clip_frames=1, verify=True)
    assert contents(tmp_path) == whole and tokenizer.seen == 80
    run(store, Tokenizer(die_after=0), tmp_path, clip_frames=1, verify=True)


def test_what_is_in_the_middle_of_a_shard_only_the_hash_sees(store, tmp_path):
    codes = run(store, lambda clips: np.full((len(clips), 1, 64, 8), 3), tmp_path, shard_size=None, latent=(1, 64, 8))
    path = tmp_path / "codes-00000.npy"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert len(open_codes(tmp_path)) == len(codes)
    assert "another hash" in verify_codes(tmp_path)[0][1]


def test_a_run_goes_on_with_what_it_was_begun_with(store, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(store, Tokenizer(die_after=50), tmp_path)
    with pytest.raises(InputError, match="begun with shard_size 20, not 30"):
        run(store, Tokenizer(), tmp_path, shard_size=30)
    with pytest.raises(InputError, match="begun with dtype 'float32', not 'bfloat16'"):
        run(store, Tokenizer(), tmp_path, dtype="bfloat16")
    (tmp_path / ".codes-00003.1-ab.tmp.npy").write_bytes(b"of the one that was killed")
    assert len(run(store, Tokenizer(), tmp_path)) == 83 and not list(tmp_path.glob(".codes*"))


def test_errors_of_the_decoder_arrive(store, tmp_path):
    class Broken:
        def __getattr__(self, name):
            return getattr(store, name)

        @property
        def frames(self):
            raise InputError("video is cut short")

    with pytest.raises(InputError, match="video is cut short"):
        run(Broken(), Tokenizer(), tmp_path)


def test_default_places_keep_tokenizers_apart(store):
    one, two = run(store, Tokenizer(), None), run(store, Tokenizer(), None, fingerprint="v2")
    assert one.parts[0].filename != two.parts[0].filename and (one[:] == two[:]).all()
    assert run(store, Tokenizer(die_after=0), None).parts[0].filename == one.parts[0].filename


@pytest.mark.parametrize(
    "encode, message",
    [
        (lambda clips: np.zeros((len(clips), 1, 1, 2), int), "promised"),
        (lambda clips: np.zeros((len(clips), 1, 1, 3)), "promised"),
        (lambda clips: np.full((len(clips), 1, 1, 3), 70_000), "uint16"),
        (lambda clips: np.full((len(clips), 1, 1, 3), -1), "uint16"),
    ],
)
def test_a_tokenizer_that_breaks_its_promise(store, tmp_path, encode, message):
    with pytest.raises(InputError, match=message):
        run(store, encode, tmp_path)
