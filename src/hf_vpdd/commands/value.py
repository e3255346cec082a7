"""`hf-vpdd value`: how near a clip comes to a goal, as V-PTR's value sees it, and where it looks.

hf-vpdd value clip.mp4 --model outputs/vptr_metaworld_tiny/value_pretrain --out outputs/value
hf-vpdd value data/metaworld_tiny --episode 3 --goal 40 --model ...    # an episode of a dataset, toward its frame 40
hf-vpdd value clip.mp4 --goal "press the button" --model ...           # a model that was trained with intents in words
"""

import argparse
import io
import json
from pathlib import Path

from ..errors import InputError


SUMMARY = "Draw the value of every frame of a clip toward a goal, as a picture and as a video."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="VIDEO", help="video file, or folder (or Hub id) of a LeRobot dataset")
    parser.add_argument(
        "--model", required=True, help="folder or Hub id of a value model (training/pretrain.py --model vptr)"
    )
    parser.add_argument(
        "--goal", default="last", help="number of a frame of the clip, last, an image file, or a sentence"
    )
    parser.add_argument("--episode", type=int, default=0, help="which episode of a dataset")
    parser.add_argument("--camera", help="camera of a dataset; the model's own if not given")
    parser.add_argument("--every", type=int, default=1, help="show every n-th frame")
    parser.add_argument("--fps", type=float, help="frames per second of the video written; the clip's if not given")
    parser.add_argument("--device", help="cpu or cuda; a GPU if there is one")
    parser.add_argument("--out", type=Path, default=Path("outputs/value"), help="folder for value.png, .mp4, .json")


def run(args: argparse.Namespace) -> int:
    import numpy as np
    import torch
    from PIL import Image

    from ..data.video import encode_video
    from ..evaluation.value_order import pixel_values, value_order
    from ..evaluation.value_pictures import ValueClip, film, still
    from ..files import atomic_write_bytes, atomic_write_text
    from ..values import attention_map, encode_frames, goal_values, image_goal, load_value_model, text_goal

    if args.every < 1 or (args.fps is not None and not args.fps > 0):
        raise InputError(f"--every must be at least 1 and --fps above 0, got {args.every} and {args.fps}")
    model, processor = load_value_model(args.model, args.device)
    raw, fps, name = read_clip(args.source, args.episode, args.camera or processor.cameras[0])
    goal_frame, picture = pick_goal(args.goal, len(raw))
    shown = raw[:: args.every]
    if len(shown) < 2:
        raise InputError(f"{args.source}: {len(shown)} frame(s) with --every {args.every}; a curve needs two")
    seen = processor.image_processor.frames_to_uint8(shown, "video")
    if picture is not None:
        target = processor.image_processor.frames_to_uint8(picture, "goal")
    else:
        target = None if goal_frame is None else processor.image_processor.frames_to_uint8(raw[goal_frame], "goal")
    if target is None:
        goal, caption = text_goal(model, processor, [args.goal]), f"“{args.goal}”"
    else:
        goal = image_goal(model, target)
        caption = f"frame {goal_frame}" if picture is None else Path(args.goal).name
    values = goal_values(model, encode_frames(model, seen), goal).float().cpu().numpy()
    heat = torch.cat([attention_map(model, part.float() / 255, goal).cpu() for part in seen.split(64)]).numpy()
    frames = seen.movedim(1, -1).numpy()
    reference = frames[-1] if target is None else target[0].movedim(0, -1).numpy()
    clip = ValueClip(frames, values, heat, pixel_values(frames, reference), caption, goal_frame, args.every)
    args.out.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    Image.fromarray(still(clip, name)).save(buffer, format="PNG")
    atomic_write_bytes(args.out / "value.png", buffer.getvalue())
    encode_video(args.out / "value.mp4", film(clip, name), args.fps or fps / args.every, crf=22)
    curve = values.mean(0)
    # up to the goal: after it a clip may well move away again
    until = len(curve) if goal_frame is None else max(goal_frame // args.every + 1, 2)
    summary = {
        "source": name, "goal": args.goal, "frames": len(curve), "first": float(curve[0]), "last": float(curve[-1]),
        "value_order": value_order(curve[:until]), "pixel_order": value_order(clip.pixels[:until]),
        "values": np.round(values.astype(np.float64), 6).tolist(),
    }  # fmt: skip
    atomic_write_text(args.out / "value.json", json.dumps(summary, indent=1) + "\n")
    print(
        f"value toward {caption}: {curve[0]:.2f} at the start, {curve[-1]:.2f} at the end\n"
        f"order of the values in time: {summary['value_order']:.3f} (of the pixel distance: "
        f"{summary['pixel_order']:.3f}; 1 is perfect)\n"
        f"wrote {args.out}/value.png, value.mp4, value.json"
    )
    return 0


def pick_goal(goal: str, length: int):
    """(index of a frame or None, picture or None); neither: a sentence.

    Raises:
        InputError: A frame outside of the clip.
    """
    from PIL import Image, UnidentifiedImageError

    if goal == "last":
        return length - 1, None
    try:
        frame = int(goal)
    except ValueError:
        frame = None
    if frame is not None:
        if not -length <= frame < length:
            raise InputError(f"--goal {frame} lies outside of the clip, which has frames 0 to {length - 1}")
        return frame % length, None
    if not goal.strip():
        raise InputError("--goal is empty: give a frame, last, an image file or a sentence")
    if Path(goal).is_file():
        try:
            return None, Image.open(goal).convert("RGB")
        except (UnidentifiedImageError, OSError) as error:
            raise InputError(f"--goal {goal} is no image: {error}") from error
    return None, None


def read_clip(source: str, episode: int, camera: str):
    """(frames uint8 (T, H, W, 3), frames per second, a name) of a video file or an episode."""
    from ..data.lerobot import LeRobotDataset
    from ..data.video import decode_video, open_video

    path = Path(source)
    if path.is_file():
        with open_video(path) as container:
            rate = container.streams.video[0].average_rate if container.streams.video else None
        return decode_video(path), float(rate or 20), path.name
    if not path.exists() and (path.suffix or source.count("/") != 1):
        raise InputError(f"{source} does not exist: name a video file, or the folder or Hub id of a LeRobot dataset")
    dataset = LeRobotDataset(source)
    if not 0 <= episode < dataset.num_episodes:
        raise InputError(f"--episode {episode}: {source} has episodes 0 to {dataset.num_episodes - 1}")
    return (
        dataset.frames(camera, episode),
        float(dataset.fps),
        f"{path.name}, episode {episode}: {dataset.episodes.task[episode]}",
    )
