"""How fast data is read, beside a plain reader that opens the video anew for every sample.

    python benchmarks/data.py                    # all of it: half an hour, ten minutes of which watch the memory
    python benchmarks/data.py --quick            # under a minute on 2 cores; sizes that need long are left out
    python benchmarks/data.py --quick --json     # one object a line: name, ms, ratio, peak_mb, cpu_ms, cpu_ratio
    python benchmarks/data.py --only windows tokens

The files are made first (textured pictures in which squares move, H.264 as `hf-vpdd record` writes it, packed as
LeRobot v3.0 packs them) and are the same for all sides. Sides take turns of a few windows each, so that whatever else
the machine does hits all alike; `ms` and `cpu_ms` (wall and processor time of this process, per window) are medians
over the turns, `ratio` and `cpu_ratio` the medians of (first row of the group) / (this row) within a turn.

windows  Random windows of 8 frames. "plain" opens the file, seeks, decodes 8 frames, closes, as LeRobot's PyAV path
         does for each sample (what that adds, float conversion and row look-ups, is left out). "lazy" is
         `LeRobotDataset.frames`: containers stay open. "store" is `FrameStore.clips`, what training reads: every
         frame decoded once, then memory-mapped; drawn 32 at a time. The row "building" is the one-off cost of it.
tokens   Windows of video codes, states and actions from `WindowDataset`, without pixels; ms per window.
memory   Random windows of a dataset with 1,000 video files, 8 of which are open at a time; resident memory over time.
info     `hf-vpdd info` as a command, the start of Python included; cpu_ms is user + system time of that process.
growth   Opening a dataset, and a random lazy window, for more and more episodes.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path


FRAMES, FPS = 8, 30  # of a window; of the videos
BATCH = 32
SECTIONS = ("windows", "tokens", "info", "growth", "memory")
COMMAND = "import sys; sys.argv[0] = 'hf-vpdd'; from hf_vpdd.cli import main; sys.exit(main())"  # the installed script
CODES = (1, 24, 24)  # per window, as of VPDD's tokenizer for 4 frames of 96 by 96 pixels


# -- the files -------------------------------------------------------------------------------------------------------


def moving_squares(size: int, length: int, rng):
    """uint8 (length, size, size, 3): four coloured squares on a textured ground."""
    import numpy as np

    ground = np.kron(rng.integers(60, 190, (8, 8, 3)), np.ones((size // 8, size // 8, 1)))
    ground = ground + rng.normal(0, 4, (size, size, 3))
    side = size // 6
    start, speed = rng.uniform(0, size, (4, 2)), rng.normal(0, size / 64, (4, 2))
    colour = rng.integers(0, 256, (4, 3))
    frames = np.repeat(np.clip(ground, 0, 255).astype(np.uint8)[None], length, axis=0)
    for t in range(length):
        for (top, left), tint in zip(((start + speed * t) % (size - side)).astype(int), colour):
            frames[t, top : top + side, left : left + side] = tint
    return frames


def make_dataset(root: Path, size: int, episodes: int, length: int, video_file_mb: float = 200) -> Path:
    """A LeRobot dataset of so many episodes; at most 16 of them are different, which no reader can know."""
    import numpy as np

    from hf_vpdd.data.lerobot_writer import LeRobotWriter
    from hf_vpdd.data.video import encode_video

    if (root / "meta" / "info.json").is_file():
        return root
    rng = np.random.default_rng(size)
    clips = [
        encode_video(root.parent / f"{root.name}-{i}.mp4", moving_squares(size, length, rng), FPS)
        for i in range(min(16, episodes))
    ]
    with LeRobotWriter(root, FPS, video_file_mb=video_file_mb) as writer:
        for episode in range(episodes):
            columns = {"observation.state": rng.normal(size=(length, 8)), "action": rng.normal(size=(length, 7))}
            writer.add_encoded_episode({"front": clips[episode % len(clips)]}, columns, f"task {episode % 50}")
    for clip in clips:
        clip.unlink()
    return root


def plain_window(path, first: int, fps: float):
    """Frames first ... first + 7 of a video file, uint8 (8, H, W, 3), with PyAV as its manual shows it."""
    import av
    import numpy as np

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        container.seek(int((first + 0.25) / fps / stream.time_base), stream=stream)
        frames = []
        for frame in container.decode(stream):
            if frame.time * fps > first - 0.5:
                frames.append(frame.to_ndarray(format="rgb24"))
            if len(frames) == FRAMES:
                return np.stack(frames)
    raise EOFError(path)


class Windows:
    """Random windows of one dataset and the ways to read them."""

    def __init__(self, root: Path, seed: int = 0):
        import numpy as np

        from hf_vpdd.data.lerobot import LeRobotDataset

        self.dataset = LeRobotDataset(root, video_backend="pyav")
        self.rng = np.random.default_rng(seed)
        self.key = self.dataset.camera_key("front")

    def draw(self, number: int) -> list[tuple[int, int]]:
        """(episode, first frame) of each."""
        episodes = self.rng.integers(self.dataset.num_episodes, size=number)
        return [(int(e), int(self.rng.integers(self.dataset.episodes.length[e] - FRAMES + 1))) for e in episodes]

    def plain(self, windows) -> list:
        table = self.dataset.episodes
        return [
            plain_window(
                table.video_files[self.key][table.video_file[self.key][episode]],
                int(table.video_start[self.key][episode]) + first,
                FPS,
            )
            for episode, first in windows
        ]

    def lazy(self, windows) -> list:
        return [self.dataset.frames("front", episode, first, FRAMES) for episode, first in windows]

    def stored(self, store, windows) -> list:
        last = [store.episode_from[episode] + first + FRAMES - 1 for episode, first in windows]
        return [clip for at in range(0, len(last), BATCH) for clip in store.clips(last[at : at + BATCH], FRAMES)]


# -- clocks ----------------------------------------------------------------------------------------------------------


def timed(function: Callable[[], object]) -> tuple[float, float]:
    """(wall, processor) milliseconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    return 1000 * (time.perf_counter() - wall), 1000 * (time.process_time() - cpu)


def take_turns(sides: dict[str, tuple[Callable, int]], draw: Callable[[int], list], turns: int) -> list[dict]:
    """Rows of sides that take turns, each (function of a list of windows, how many a turn)."""
    from reporting import resident_mb

    taken = {name: [] for name in sides}
    for turn in range(1 + turns):
        for name, (function, number) in sides.items():
            windows = draw(number)
            wall, cpu = timed(lambda function=function, windows=windows: function(windows))
            if turn:  # the first one warms up
                taken[name].append((wall / number, cpu / number))
    base = next(iter(taken.values()))
    return [
        row(
            name,
            ms=statistics.median(wall for wall, _ in times),
            cpu_ms=statistics.median(cpu for _, cpu in times),
            ratio=statistics.median(b[0] / t[0] for b, t in zip(base, times)),
            cpu_ratio=statistics.median(b[1] / t[1] for b, t in zip(base, times)),
            peak_mb=resident_mb(peak=True),
        )
        for name, times in taken.items()
    ]


def row(name: str, ms: float, ratio: float | None = None, peak_mb: float | None = None, **more) -> dict:
    return {"name": name, "ms": ms, "ratio": ratio, "peak_mb": peak_mb, "cpu_ms": None, "cpu_ratio": None} | more


# -- what is measured ------------------------------------------------------------------------------------------------


def windows(args, folder: Path) -> tuple[list[dict], list[str]]:
    import numpy as np

    from hf_vpdd.data.frame_store import FrameStore

    rows, notes = [], []
    for size in (96, 224):
        episodes = args.episodes or (24 if args.quick else 240 if size == 96 else 80)
        root = make_dataset(folder / f"pictures-{size}", size, episodes, 100)
        reader = Windows(root)
        cache = folder / f"cache-{size}"
        stores = []
        built = timed(
            lambda root=root, size=size, cache=cache, stores=stores: stores.append(
                FrameStore.build(root, "front", size, cache, progress=False)
            )
        )
        store = stores[0]
        some = reader.draw(20)
        for a, b, c in zip(reader.plain(some), reader.lazy(some), reader.stored(store, some)):
            assert np.array_equal(a, b) and np.array_equal(a, c), "the sides read different frames"
        name = f"{size} x {size}"
        sides = {
            f"{name}, plain": (reader.plain, 8),
            f"{name}, lazy": (reader.lazy, 32),
            f"{name}, store": (partial(reader.stored, store), 4 * BATCH),
        }
        plain, lazy, stored = group = take_turns(sides, reader.draw, 9 if args.quick else 30)
        rows += group
        rows.append(row(f"{name}, building the store", ms=built[0], cpu_ms=built[1]))
        after = [built[1] / (other["cpu_ms"] - stored["cpu_ms"]) for other in (plain, lazy)]
        notes.append(
            f"{name}: the store of {store.num_frames} frames has paid after {after[0]:.0f} windows beside the plain "
            f"reader, {after[1]:.0f} beside the lazy one (an epoch has {store.num_frames}); it takes "
            f"{store.frames.shape[0] * size * size * 3 / 1e6:.0f} MB of disk, the videos "
            f"{sum(p.stat().st_size for p in root.rglob('*.mp4')) / 1e6:.1f} MB"
        )
        reader.dataset._videos.close()
    return rows, notes


def tokens(args, folder: Path) -> tuple[list[dict], list[str]]:
    import numpy as np

    from hf_vpdd.data.frame_rows import FrameRows
    from hf_vpdd.data.frame_store import FrameStore
    from hf_vpdd.data.windows import WindowDataset

    episodes, length = (200 if args.quick else 1000), 100
    number = episodes * length
    rng = np.random.default_rng(0)
    for name, shape, top in (("codes", CODES, 2048), ("frames", (2, 2, 3), 256)):
        place = folder / f"{name}-{number}.npy"
        if not place.is_file():
            np.save(place, rng.integers(0, top, (number, *shape), np.uint16 if name == "codes" else np.uint8))
    ends = length * np.arange(1, episodes + 1)
    store = FrameStore(
        frames=FrameRows([np.load(folder / f"frames-{number}.npy", mmap_mode="r")]),
        state=rng.normal(size=(number, 39)).astype(np.float32),
        action=rng.normal(size=(number, 4)).astype(np.float32),
        episode_from=ends - length,
        episode_to=ends,
        episode_task=[f"task {episode % 50}" for episode in range(episodes)],
        fps=FPS,
        camera="front",
        image_size=2,
        fingerprint="benchmark",
        name="benchmark",
        cache_dir=folder,
    )
    codes = np.load(folder / f"codes-{number}.npy", mmap_mode="r")
    dataset = WindowDataset(store, codes, with_pixels=False)
    sides = {
        f"token windows, batches of {batch}": (
            lambda picked, batch=batch: [dataset[picked[i : i + batch]] for i in range(0, len(picked), batch)],
            max(batch, 512),
        )
        for batch in (1, 32, 256, 1024)
    }
    rows = take_turns(sides, lambda n: rng.integers(0, number, n), 9 if args.quick else 50)
    shown = ", ".join(f"{1000 / r['ms']:,.0f} in {r['name'].split(', ')[1]}" for r in rows)
    return rows, [f"token windows a second in one process: {shown} (codes {CODES} at the frame and 16 ahead)"]


def memory(args, folder: Path) -> tuple[list[dict], list[str]]:
    """Memory is watched in a process of its own."""
    from reporting import in_child

    files = args.files or (40 if args.quick else 1000)
    root = make_dataset(folder / f"files-{files}", 96, files, 60, video_file_mb=1e-6)
    seconds = 60 * args.minutes if args.minutes is not None else 4 if args.quick else 600
    found = in_child(["--watch", str(root), "--minutes", str(seconds / 60)])
    (folder / "memory.json").write_text(json.dumps(found))
    one = found["rows"]
    for r in one:
        r["name"] += f", {files} files"
    notes = [
        f"memory, {files} files, at most {found['open']} open, {found['windows']} windows, {found['seconds']:.0f} s: "
        f"{found['first_mb']:.1f} MB after a tenth of the time, {found['last_mb']:.1f} MB at the end, slope "
        f"{found['mb_per_minute']:+.3f} MB a minute"
    ]
    return one, notes


def watch(root: Path, seconds: float) -> dict:
    """Random windows for so long; resident memory is sampled a hundred times."""
    sys.argv[0] = "hf-vpdd"  # as its workers: torch is not loaded, and what grows is easier to see
    import numpy as np
    from reporting import resident_mb

    reader = Windows(root)
    rows = take_turns({"plain": (reader.plain, 8), "lazy, 8 open": (reader.lazy, 8)}, reader.draw, 5)
    began, samples, count = time.perf_counter(), [], 0
    for number in range(1, 101):
        while time.perf_counter() - began < number * seconds / 100:
            reader.lazy(reader.draw(8))
            count += 8
        samples.append((time.perf_counter() - began, resident_mb()))
    times, mb = np.array(samples[10:]).T  # what the first tenth fills are caches of a fixed size
    return {
        "rows": rows,
        "windows": count,
        "seconds": seconds,
        "open": len(reader.dataset._videos._open),
        "first_mb": mb[0],
        "last_mb": mb[-1],
        "mb_per_minute": 60 * np.polyfit(times, mb, 1)[0],
        "samples": [(round(t, 1), round(m, 2)) for t, m in samples],
    }


def sizes(args) -> list[int]:
    return args.sizes or ([100, 1000] if args.quick else [100, 1000, 10_000])


def dataset_of(folder: Path, episodes: int) -> Path:
    """Episodes of 20 frames, as many in a file as LeRobot packs."""
    return make_dataset(folder / f"episodes-{episodes}", 64, episodes, 20)


def info(args, folder: Path) -> tuple[list[dict], list[str]]:
    rows = []
    for episodes in sizes(args):
        root = dataset_of(folder, episodes)
        command = [sys.executable, "-c", COMMAND, "info", str(root), "--out", str(folder / "sheet.png")]
        taken = []
        for _ in range(2 if args.quick else 5):
            began, before = time.perf_counter(), os.times()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            after = os.times()
            used = after.children_user + after.children_system - before.children_user - before.children_system
            taken.append((1000 * (time.perf_counter() - began), 1000 * used))
        wall, cpu = (statistics.median(column) for column in zip(*taken))
        rows.append(row(f"hf-vpdd info, {episodes} episodes", ms=wall, cpu_ms=cpu))
    return rows, [_law("hf-vpdd info", rows, sizes(args))]


def growth(args, folder: Path) -> tuple[list[dict], list[str]]:
    from hf_vpdd.data.lerobot import LeRobotDataset

    opening, reading = [], []
    for episodes in sizes(args):
        root = dataset_of(folder, episodes)
        LeRobotDataset(root)  # imports, and the tables into the system's cache
        taken = [timed(partial(LeRobotDataset, root)) for _ in range(5 if args.quick else 15)]
        wall, cpu = (statistics.median(column) for column in zip(*taken))
        opening.append(row(f"opening, {episodes} episodes", ms=wall, cpu_ms=cpu))
        reader = Windows(root)
        name = f"random window (lazy), {episodes} episodes"
        (one,) = take_turns({name: (reader.lazy, 16)}, reader.draw, 9)
        reading.append(one | {"ratio": None, "cpu_ratio": None})
        reader.dataset._videos.close()
    numbers = sizes(args)
    return opening + reading, [_law("opening", opening, numbers), _law("a random window", reading, numbers)]


def _law(what: str, rows: list[dict], numbers: list[int]) -> str:
    slope = (rows[-1]["cpu_ms"] - rows[0]["cpu_ms"]) / max(numbers[-1] - numbers[0], 1)
    return f"{what}: {rows[0]['cpu_ms']:.2f} ms of CPU at {numbers[0]} episodes, {1000 * slope:+.3f} ms per 1,000 more"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--quick", action="store_true", help="small data and few turns: under a minute on 2 cores")
    add("--json", action="store_true", help="one JSON object a line")
    add("--only", nargs="+", choices=SECTIONS, default=SECTIONS, metavar="SECTION", help=", ".join(SECTIONS))
    add("--folder", type=Path, help="where the files are made, and found again; a temporary one if not given")
    add("--episodes", type=int, help="of the datasets for windows, 100 frames each")
    add("--files", type=int, help="of the dataset for memory")
    add("--minutes", type=float, help="how long the memory is watched")
    add("--sizes", type=int, nargs="+", help="numbers of episodes for info and growth")
    add("--watch", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.watch:
        print(json.dumps(watch(args.watch, 60 * args.minutes)))
        return 0

    from reporting import print_rows
    from tqdm import tqdm

    rows, notes = [], []
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for name in tqdm([s for s in SECTIONS if s in args.only], disable=None):
            more, said = globals()[name](args, folder)
            if args.json:  # as they come: a full run takes long
                print_rows(more, True)
                print("\n".join(said), file=sys.stderr)
            rows += more
            notes += said
    if not args.json:
        print_rows(rows, False, tuple(notes))
    return 0


if __name__ == "__main__":
    # Run as a file, the package may not be installed; the processes started here need to find it too.
    source = str(Path(__file__).resolve().parents[1] / "src")
    sys.path.insert(0, source)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
    sys.exit(main())
