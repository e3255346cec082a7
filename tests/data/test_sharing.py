"""Two processes with two workers each share mixtures: nothing twice, nothing lost, and a run goes on where it was."""

import json
import subprocess
import sys
from collections import Counter
from itertools import chain

import numpy as np
import pytest

from . import sharing
from .video_files import even_times, write_video


pytestmark = pytest.mark.timeout(900)  # ten seconds of work, but on a busy machine
VIDEOS = 11  # four consumers: 3, 3, 3 and 2


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for number in range(VIDEOS):
        write_video(folder / f"{number:02d}.mp4", even_times(8, 10), 100 * (number + 1) + np.arange(8))
    child = subprocess.run(
        [sys.executable, sharing.__file__, str(folder)], capture_output=True, text=True, timeout=800
    )
    assert child.returncode == 0, child.stderr
    return json.loads(child.stdout)


def flat(batches):
    return list(chain.from_iterable(batches))


def test_an_epoch_of_a_map_style_dataset_holds_every_sample_once(seen):
    assert sorted(flat(map(flat, seen["map"]))) == list(range(60))


def test_an_epoch_of_a_weighted_one_holds_each_group_in_its_share(seen):
    found = Counter(flat(map(flat, seen["map weighted"])))
    counts = [sum(found[n] for n in members) for members in (range(6), range(6, 30), range(30, 60))]
    assert counts == [15, 30, 15]
    # Within a group no sample comes again before all have come.
    assert {found[n] for n in range(6)} == {2, 3} and {found[n] for n in range(6, 30)} == {1, 2}
    assert max(found[n] for n in range(30, 60)) == 1


def test_a_map_style_run_goes_on_in_the_middle_of_an_epoch(seen):
    assert seen["map resumed"] == [batches[7:] for batches in seen["map weighted"]]


def test_a_stream_gives_every_video_once(seen):
    tasks = [task for task, _ in flat(map(flat, seen["stream"]))]
    assert sorted(tasks) == [f"{number:02d}" for number in range(VIDEOS)]


@pytest.mark.parametrize("had", [1, 2])
def test_a_stream_goes_on_in_the_middle(seen, had):
    for whole, rest in zip(seen["stream"], seen[f"stream from {had}"]):
        assert rest == whole[had:]


def test_a_mixture_of_streams_is_the_same_in_every_run_and_other_in_every_process(seen):
    assert seen["mixture"][0] == seen["mixture again"] != seen["mixture"][1]
    tasks = [{task for task, _ in flat(batches)} for batches in seen["mixture"]]
    assert not tasks[0] & tasks[1]  # processes have videos of their own


def test_in_a_mixture_no_video_comes_again_before_the_others_of_its_consumer(seen):
    for rank, batches in enumerate(seen["mixture"]):
        for worker in range(sharing.WORKERS):
            windows = flat(batches[worker :: sharing.WORKERS])
            assert len(windows) == 12
            for first, last, at_a_time in ((0, 5, 1), (5, VIDEOS, 2)):
                own = [number for number in range(last - first) if number % 4 == rank * 2 + worker]
                order = [int(task) - first for task, _ in windows if first <= int(task) < last]
                laps = [own[(place // at_a_time) % len(own)] for place in range(len(order))]
                assert order == laps and order


@pytest.mark.parametrize("had", [5, 8])
def test_a_mixture_of_streams_goes_on_in_the_middle_of_an_epoch(seen, had):
    for whole, rest in zip(seen["mixture"], seen[f"mixture from {had}"]):
        assert rest == whole[had:] and len(rest) == 12 - had
