"""Run as a program: mixtures through real DataLoaders, two processes with two workers each; prints JSON.

python sharing.py FOLDER_OF_VIDEOS
"""

import json
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

from hf_vpdd.data.video_stream import StreamMixture, VideoStream
from hf_vpdd.training.sampling import IndexSampler


RANKS, WORKERS, BATCH = 2, 2, 2


class Numbers(torch.utils.data.Dataset):
    """A map-style dataset whose samples are their numbers, batch-wise as `WindowDataset`."""

    def __getitems__(self, indices):
        return torch.as_tensor(np.asarray(indices))


class Steps:
    """Batches of a run from a step on, for `batch_sampler`."""

    def __init__(self, sampler, first, last):
        self.sampler, self.steps = sampler, range(first, last)

    def __iter__(self):
        return (self.sampler.batch(step).tolist() for step in self.steps)


def map_style(rank, first=0, last=15, **options):
    sampler = IndexSampler(60, BATCH, 5, rank=rank, world_size=RANKS, **options)
    loader = DataLoader(Numbers(), batch_sampler=Steps(sampler, first, last), num_workers=WORKERS, collate_fn=list)
    return [[int(number) for number in batch] for batch in loader]


def rows_of(paths):
    return lambda: ({"video": str(path), "text": path.stem} for path in paths)


def stream(paths, rank, **options):
    return VideoStream(rows_of(paths), 10, 2, 48, seed=3, rank=rank, world_size=RANKS, **options)


def mixture(paths, rank):
    parts = [stream(paths[:5], rank, epochs=None), stream(paths[5:], rank, epochs=None, windows_per_video=2)]
    return StreamMixture(parts, [1, 2], seed=1, rank=rank)


def batches(data, count=None):
    """[[task, a number that tells the window], ...] of each batch."""
    loader = DataLoader(data, batch_size=BATCH, num_workers=WORKERS)
    found = [
        [[task, int(window.long().sum())] for task, window in zip(batch["task"], batch["pixel_values"])]
        for batch in islice(loader, count)
    ]
    return found


def run(folder):
    paths = sorted(Path(folder).glob("*.mp4"))
    groups = np.repeat([0, 1, 2], [6, 24, 30])
    shares = {"groups": groups, "weights": [1, 2, 1]}
    output = {
        "map": [map_style(rank) for rank in range(RANKS)],
        "map weighted": [map_style(rank, **shares) for rank in range(RANKS)],
        "map resumed": [map_style(rank, first=7, **shares) for rank in range(RANKS)],
        "stream": [batches(stream(paths, rank)) for rank in range(RANKS)],
        "mixture": [batches(mixture(paths, rank), 12) for rank in range(RANKS)],
        "mixture again": batches(mixture(paths, 0), 12),
    }
    for had in (1, 2):
        output[f"stream from {had}"] = [batches(stream(paths, rank).resume(had, BATCH)) for rank in range(RANKS)]
    for had in (5, 8):
        output[f"mixture from {had}"] = [
            batches(mixture(paths, rank).resume(had, BATCH), 12 - had) for rank in range(RANKS)
        ]
    print(json.dumps(output))


if __name__ == "__main__":
    run(sys.argv[1])
