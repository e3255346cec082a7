"""Pictures by time: every container, variable rates, late clocks, rotations, random access."""

import numpy as np
import pytest

from hf_vpdd.data.timed_video import TimedReader, clip_times, natural_key, nominal_rate, probe_video
from hf_vpdd.errors import InputError

from .conftest import numbered_frames
from .video_files import CODECS, even_times, numbers_of, turn, write_pictures, write_video


def frames_at(path, times, reader=None):
    return list((reader or TimedReader()).iterate(path, np.asarray(times, float), probe_video(path)))


@pytest.mark.parametrize("suffix", CODECS)
def test_every_container_gives_each_picture_at_its_time(tmp_path, suffix):
    path = write_video(tmp_path / f"a{suffix}", even_times(30, 10))
    facts = probe_video(path)
    assert (facts.height, facts.width, facts.rotation) == (48, 48, 0)
    assert facts.seconds == pytest.approx(3, abs=0.011) and facts.rate == pytest.approx(10, rel=0.005)
    times = clip_times(0, facts.seconds, 10)
    assert numbers_of(frames_at(path, times)) == list(range(1, 31))
    assert numbers_of(frames_at(path, times[::5])) == [1, 6, 11, 16, 21, 26]
    # Faster than the file: pictures stay until the next one.
    assert numbers_of(frames_at(path, [0, 0.05, 0.1, 0.15, 0.25])) == [1, 1, 2, 2, 3]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm"])
def test_variable_rates_go_by_time_and_not_by_count(tmp_path, suffix):
    # Slow, then fast, then a still picture of one and a half seconds.
    times = [0, 0.5, 1.0, 1.5, 1.55, 1.6, 1.65, 1.7, 3.2, 3.3]
    path = write_video(tmp_path / f"a{suffix}", times)
    expected = [int(np.searchsorted(times, moment + 1e-6, side="right")) for moment in even_times(14, 4)]
    assert numbers_of(frames_at(path, even_times(14, 4))) == expected
    assert expected == [1, 1, 2, 2, 3, 3, 4, 8, 8, 8, 8, 8, 8, 9]
    assert 3.3 < probe_video(path).seconds < 3.52


def test_reordered_pictures_and_a_clock_that_starts_late(tmp_path):
    path = write_video(tmp_path / "a.mkv", even_times(40, 20), b_frames=True, offset=7.25)
    facts = probe_video(path)
    assert facts.origin == pytest.approx(7.25, abs=0.002) and facts.seconds == pytest.approx(2, abs=0.01)
    assert numbers_of(frames_at(path, even_times(40, 20))) == list(range(1, 41))


def test_a_rate_that_is_no_round_number(tmp_path):
    path = write_video(tmp_path / "a.webm", even_times(60, 29.97))  # rounded to milliseconds by the container
    assert numbers_of(frames_at(path, even_times(60, 29.97))) == list(range(1, 61))


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation_marks_are_carried_out(tmp_path, degrees):
    path = write_video(tmp_path / "a.mp4", even_times(3, 10), [7, 300, 9000])
    turn(path, degrees)
    assert probe_video(path).rotation == (-degrees // 90) % 4
    upright = numbered_frames([7, 300, 9000])
    for ours, original in zip(frames_at(path, even_times(3, 10)), upright):
        clockwise = np.rot90(original, -degrees // 90)
        assert np.abs(ours.astype(int) - clockwise).mean() < 12 < np.abs(ours.astype(int) - original).mean()


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".avi", ".gif"])
def test_random_access_is_what_sequential_access_is(tmp_path, suffix):
    paths = [
        write_video(tmp_path / f"{name}{suffix}", even_times(60, 10), 100 * name + np.arange(60)) for name in (1, 2, 3)
    ]
    facts = {path: probe_video(path) for path in paths}
    reader = TimedReader(max_open=2)
    random = np.random.default_rng(0)
    for _ in range(40):
        which, first = int(random.integers(3)), int(random.integers(55))
        path = paths[which]
        found = numbers_of(reader.iterate(path, (first + np.arange(5)) / 10, facts[path]))
        assert found == list(100 * (which + 1) + first + np.arange(5))
        assert len(reader._open) <= 2
    reader.close()
    assert not reader._open


def test_a_walk_that_is_broken_off_disturbs_no_other(tmp_path):
    path = write_video(tmp_path / "a.mp4", even_times(30, 10))
    reader, facts = TimedReader(), probe_video(path)
    first = reader.iterate(path, even_times(30, 10), facts)
    next(first), next(first)
    second = reader.iterate(path, even_times(30, 10)[10:12], facts)
    assert numbers_of(second) == [11, 12]
    first.close()
    assert numbers_of(reader.iterate(path, even_times(4, 10), facts)) == [1, 2, 3, 4]


def test_long_files_are_looked_at_from_both_ends(tmp_path):
    path = write_video(tmp_path / "a.mp4", even_times(400, 4), size=16, gop=40)
    facts = probe_video(path)
    assert facts.seconds == pytest.approx(100, abs=0.01) and facts.rate == pytest.approx(4, rel=0.01)


def test_folders_of_pictures_in_the_order_of_their_numbers(tmp_path):
    folder = write_pictures(tmp_path / "walk", np.arange(1, 13))
    assert natural_key("frame_2.png") < natural_key("frame_10.png")
    facts = probe_video(folder, rate=6)
    assert (facts.seconds, facts.rate, facts.height) == (2, 6, 48)
    assert numbers_of(TimedReader().iterate(folder, clip_times(0, 2, 3), facts, 6)) == [1, 3, 5, 7, 9, 11]
    with pytest.raises(InputError, match="how many a second"):
        probe_video(folder)


def test_times_of_a_clip():
    assert clip_times(1, 2, 4).tolist() == [1, 1.25, 1.5, 1.75]
    assert len(clip_times(0, 2.996, 10)) == 30  # containers round
    assert len(clip_times(0, 0.01, 10)) == 1


def test_rates_that_were_meant():
    rates = [12.01, 29.968, 30.001, 23.98, 59.95, 12.5, 0.2]
    assert [nominal_rate(rate) for rate in rates] == [12, 29.97, 30, 23.976, 59.94, 12.5, 0.2]
