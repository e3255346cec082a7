"""Files are whole or absent."""

import hashlib
import multiprocessing
import os
import signal
import time

import pytest

from hf_vpdd.files import atomic_path, atomic_write_bytes, atomic_write_text, file_sha256


def test_text_is_written_as_it_is_and_folders_are_made(tmp_path):
    path = tmp_path / "new" / "folder" / "note.txt"
    atomic_write_text(path, "Zürich\r\n→\n")
    assert path.read_bytes() == "Zürich\r\n→\n".encode()
    atomic_write_text(path, "second")
    assert path.read_text() == "second"
    assert os.listdir(path.parent) == ["note.txt"]


def test_the_temporary_name_keeps_suffix_and_folder(tmp_path):
    with atomic_path(tmp_path / "clip.mp4") as temporary:
        assert temporary.suffix == ".mp4"
        assert temporary.parent == tmp_path
        assert temporary.name.startswith(".")
        temporary.write_bytes(b"x")
        assert not (tmp_path / "clip.mp4").exists()
    assert (tmp_path / "clip.mp4").read_bytes() == b"x"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file_and_no_rest(tmp_path, error):
    path = tmp_path / "data.bin"
    atomic_write_bytes(path, b"old")
    with pytest.raises(error):
        with atomic_path(path) as temporary:
            temporary.write_bytes(b"half of the n")
            raise error
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["data.bin"]


def test_writing_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing was written"):
        with atomic_path(tmp_path / "data.bin"):
            pass


def test_a_folder_becomes_visible_whole_and_replaces_no_full_one(tmp_path):
    target = tmp_path / "dataset"
    with atomic_path(target) as temporary:
        temporary.mkdir()
        (temporary / "part").write_text("1")
        assert not target.exists()
    assert (target / "part").read_text() == "1"
    with pytest.raises(OSError):
        with atomic_path(target) as temporary:
            temporary.mkdir()
            (temporary / "part").write_text("2")
    assert (target / "part").read_text() == "1"
    assert os.listdir(tmp_path) == ["dataset"]


def _write_half_and_wait(path):
    with atomic_path(path) as temporary:
        temporary.write_bytes(b"half")
        time.sleep(60)


def test_a_kill_leaves_nothing_under_the_final_name(tmp_path):
    path = tmp_path / "data.bin"
    worker = multiprocessing.get_context("fork").Process(target=_write_half_and_wait, args=(path,))
    worker.start()
    deadline = time.monotonic() + 20
    while not os.listdir(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    assert not path.exists()
    assert all(name.startswith(".") for name in os.listdir(tmp_path))
    atomic_write_bytes(path, b"whole")  # the leftover is in nobody's way
    assert path.read_bytes() == b"whole"


def test_sha256_of_more_than_one_piece(tmp_path):
    data = os.urandom((1 << 20) + 17)
    (tmp_path / "big").write_bytes(data)
    assert file_sha256(tmp_path / "big") == hashlib.sha256(data).hexdigest()
