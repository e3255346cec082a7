"""Videos of every container, whose pictures say which number they have: `numbered_frames` of conftest."""

import json
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from .conftest import numbered_frames, read_numbers


CODECS = {
    ".mp4": "libx264",
    ".mov": "libx264",
    ".mkv": "libx264",
    ".webm": "libvpx-vp9",
    ".avi": "mpeg4",
    ".gif": "gif",
}
WORDS = ["Holding [something] next to [something]", "Pushing [something] from left to right"]


def write_video(
    path: Path, times, numbers=None, size: int = 48, clock: int = 1000, b_frames: bool = False, offset: float = 0.0,
    gop: int = 12,
) -> Path:  # fmt: skip
    """A video whose k-th picture, of the k-th number, is shown from the k-th time (s) on."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    times = np.asarray(times, float)
    numbers = np.arange(1, len(times) + 1) if numbers is None else numbers
    suffix = path.suffix
    base = Fraction(1, 100 if suffix == ".gif" else clock)
    rate = Fraction(12) if len(times) < 2 else Fraction(float(1 / np.median(np.diff(times)))).limit_denominator(1001)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(CODECS[suffix], rate=rate)
        stream.width = stream.height = size
        stream.pix_fmt = "rgb8" if suffix == ".gif" else "yuv420p"
        stream.codec_context.thread_count = 1
        if suffix == ".avi":  # counts pictures, has no times
            base = 1 / rate
        stream.time_base = stream.codec_context.time_base = base
        options = {"g": str(gop)}
        if CODECS[suffix] == "libx264":
            options |= {"crf": "10", "preset": "fast", "bf": "3" if b_frames else "0"}
        elif suffix == ".webm":
            options |= {"crf": "10", "b": "0", "cpu-used": "8", "deadline": "realtime", "lag-in-frames": "0"}
        elif suffix == ".avi":
            options |= {"qscale": "2", "b": "4000000"}
        stream.options = options
        ends = [*times[1:], times[-1] + (times[-1] - times[-2] if len(times) > 1 else 1 / 12)]
        for image, time, end in zip(numbered_frames(numbers, size), times, ends):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=stream.pix_fmt)
            frame.pts, frame.time_base = round((time + offset) / base), base
            frame.duration = round((end - time) / base)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def even_times(count: int, fps: float) -> np.ndarray:
    return np.arange(count) / fps


def turn(path: Path, degrees: int) -> None:
    """Marks an mp4 as a phone does: to be shown turned clockwise by 90, 180 or 270 degrees."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4
    version = data[at]
    at += 4 + (32 if version == 1 else 20) + 16
    a, b = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    one = 0x10000
    data[at : at + 36] = struct.pack(">9i", a * one, b * one, 0, -b * one, a * one, 0, 0, 0, 0x40000000)
    path.write_bytes(data)


def write_pictures(folder: Path, numbers, size: int = 48, suffix: str = ".png") -> Path:
    folder.mkdir(parents=True)
    for place, image in enumerate(numbered_frames(numbers, size), 1):
        Image.fromarray(image).save(folder / f"frame_{place}{suffix}")
    return folder


def numbers_of(frames) -> list[int]:
    return read_numbers(np.stack(list(frames))).tolist()


def write_ssv2(root: Path, count: int = 4, folder: str = "20bn-something-something-v2") -> Path:
    """As it is distributed; the last entry is of the validation split."""
    entries = []
    for number in range(count):
        write_video(
            root / folder / f"{100 + number}.webm", even_times(6 + number, 12), 100 * number + np.arange(1, 7 + number)
        )
        template = WORDS[number % 2]
        things = ["a potato", "a jar"][: template.count("[")]
        label = template.lower().replace("[something]", "{}").format(*things)
        entries.append({"id": str(100 + number), "label": label, "template": template, "placeholders": things})
    (root / "something-something-v2-train.json").write_text(json.dumps(entries[:-1]))
    (root / "something-something-v2-validation.json").write_text(json.dumps(entries[-1:]))
    labels = {template.replace("[", "").replace("]", ""): str(place) for place, template in enumerate(WORDS)}
    (root / "something-something-v2-labels.json").write_text(json.dumps(labels))
    return root


def write_ego4d(root: Path, clips: bool = False) -> Path:
    """One video of 20 s at 10 pictures a second, or instead of it the two clips that were cut out of it."""
    stretches = [("clip-a", 2.0, 8.0), ("clip-b", 10.0, 18.0)]
    if clips:
        for uid, start, end in stretches:
            numbers = np.arange(round(start * 10), round(end * 10))
            write_video(root / "v2/clips" / f"{uid}.mp4", even_times(len(numbers), 10), numbers)
    else:
        write_video(root / "v2/full_scale/video-1.mp4", even_times(200, 10), np.arange(200), b_frames=True)
    about = [
        {"clip_uid": uid, "video_uid": "video-1", "video_start_sec": start, "video_end_sec": end}
        for uid, start, end in stretches
    ]
    root.mkdir(exist_ok=True)
    (root / "ego4d.json").write_text(json.dumps({"videos": [{"video_uid": "video-1"}], "clips": about}))

    def narration(time: float, text: str) -> dict:
        return {"timestamp_sec": time, "timestamp_frame": round(time * 30), "narration_text": text}

    first = [narration(0.5, "#C C walks around"), narration(5.0, "#C C picks a #unsure from the table.")]
    second = [narration(15.0, "#O a man X waves"), narration(16.0, "#C C ")]
    passes = {"narration_pass_1": {"narrations": first, "summaries": []}, "narration_pass_2": {"narrations": second}}
    file = root / "v2/annotations/narration.json"
    file.parent.mkdir(parents=True)
    other = {"status": "complete", "narration_pass_1": {"narrations": [narration(3, "#C C cuts bread")]}}
    file.write_text(json.dumps({"video-1": {"status": "complete", **passes}, "video-not-here": other}))
    actions = [
        {
            "clip_uid": "clip-a", "video_uid": "video-1", "clip_parent_start_sec": 2.0, "action_clip_start_sec": 1.0,
            "action_clip_end_sec": 2.5, "verb": "take_(pick,_grab,_get)", "noun": "knife_(knife,_machete)",
        }
    ]  # fmt: skip
    (file.parent / "fho_lta_train.json").write_text(json.dumps({"clips": actions}))
    return root
