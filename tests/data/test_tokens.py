import json
import threading

import numpy as np
import pytest

from hf_vpdd.data.tokens import tokenize
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


def run(store, tokenizer, place, fingerprint="v1", **options):
    options = {"clip_frames": 4, "batch_size": 10, "progress": False} | options
    return tokenize(store, tokenizer, (1, 1, 3), fingerprint, place, **options)


def test_codes_of_every_frame_and_its_history(store, tmp_path):
    codes = run(store, Tokenizer(), tmp_path)
    assert codes.shape == (83, 1, 1, 3) and codes.dtype == np.uint16 and isinstance(codes, np.memmap)
    first = np.repeat(store.episode_from, store.episode_to - store.episode_from)
    row = np.arange(83)
    assert (codes[:, 0, 0, 0] == row + 1).all()
    assert (codes[:, 0, 0, 1] == np.where(row - 3 < first, 0, row - 2)).all()  # black reads as 0


def test_the_second_time_costs_nothing(store, tmp_path):
    codes = run(store, Tokenizer(), tmp_path)
    again = run(store, Tokenizer(die_after=0), tmp_path)
    assert (codes == again).all()


def test_goes_on_where_it_was_killed(store, tmp_path):
    whole = np.array(run(store, Tokenizer(), tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        run(store, Tokenizer(die_after=70), tmp_path / "killed", batch_size=1)
    done = json.loads((tmp_path / "killed" / "tokens.json").read_text())["done"]
    assert 0 < done <= 70
    tokenizer = Tokenizer()
    assert (run(store, tokenizer, tmp_path / "killed", batch_size=1) == whole).all()
    assert tokenizer.seen == 83 - done


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
    assert (codes[:, 0, 0, 0] == np.arange(83) + 1).all() and (answers[0] == codes).all()
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


def test_default_places_keep_tokenizers_apart(store):
    one, two = run(store, Tokenizer(), None), run(store, Tokenizer(), None, fingerprint="v2")
    assert one.filename != two.filename and (one == two).all()
    assert run(store, Tokenizer(die_after=0), None).filename == one.filename


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
