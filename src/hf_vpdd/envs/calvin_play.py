"""Small data of CALVIN's own form, made by the scripted hands of `calvin_skills` in the real simulator.

    python -m hf_vpdd.envs.calvin_play data/calvin_scripted --episodes 100

writes `training/` and `validation/` as `task_D_D` has them, so that everything which reads CALVIN's data reads this:
`episode_0000000.npz` one file a frame with rgb_static, rgb_gripper, robot_obs, scene_obs, actions, rel_actions;
`ep_start_end_ids.npy`, `ep_lens.npy`; `lang_annotations/auto_lang_ann.npy`; `.hydra/merged_config.yaml`. Different
from CALVIN's: no depth and no tactile pictures; an episode is one task; `emb` is zeros, since no sentence encoder was
asked; and `rel_actions` are the actions that were sent, so that replaying them gives the same episode, where CALVIN
computes them afterwards from `actions` and `robot_obs`.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..files import atomic_path
from .calvin import RENDERERS, CalvinEnv
from .calvin_skills import NEUTRAL, SKILLS, skill_actions, starting_scene


LONGEST = 120  # steps of an episode
AFTER = 4  # steps after a success: the end of a motion belongs to it
ATTEMPTS = 5  # a script fails now and then; failures are not data


def record(
    env: CalvinEnv,
    folder: str | os.PathLike,
    episodes: int,
    tasks: Sequence[str] = tuple(SKILLS),
    seed: int = 0,
    noise: float = 0.1,
    validation: bool = False,
    first_frame: int = 0,
    progress: bool = False,
) -> dict[str, int]:
    """Writes one split: whole, or not at all.

    Args:
        env: With both cameras, in scene D.
        folder: The split's, e.g. `data/training`; must not exist, or be empty.
        episodes: How many. The tasks take turns.
        tasks: Of `calvin_skills.SKILLS`.
        seed: Of the scenes, the noise and the sentences. The same seed gives the same files with the same renderer.
        noise: Standard deviation that is added to the six pose numbers of an action. The scripts put it right again,
            which is what a policy has to learn.
        validation: Take the one sentence of the evaluation for each task, not those of CALVIN's training data.
        first_frame: Number of the first frame's file.
        progress: Show a bar.

    Returns:
        How many episodes there are of each task.

    Raises:
        InputError: Unknown task, a camera is missing, the folder is full, or a script failed five times in a row.
    """
    folder = Path(folder)
    unknown = [task for task in tasks if task not in SKILLS]
    if unknown or not tasks:
        raise InputError(f"there is no scripted motion for {unknown}; there are {', '.join(SKILLS)}")
    if set(env.cameras) != {"static", "gripper"} or env.scene != "D":
        raise InputError("CALVIN's data have the cameras static and gripper, and the scripts know scene D")
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty; give another folder")
    said, number, spans, counts = [], first_frame, [], dict.fromkeys(tasks, 0)
    with atomic_path(folder) as work:
        for index in _bar(range(episodes), progress, f"recording {folder.name}"):
            task = tasks[index % len(tasks)]
            generator = np.random.default_rng([seed, index])
            frames = _episode(env, task, generator, noise)
            for shift, frame in enumerate(frames):
                path = work / f"episode_{number + shift:07d}.npz"
                path.parent.mkdir(exist_ok=True)
                np.savez_compressed(path, **frame)
            spans.append((number, number + len(frames) - 1))
            number += len(frames)
            sentences = [env.sentences()[task]] if validation else env.training_sentences()[task]
            said.append((task, str(generator.choice(sentences))))
            counts[task] += 1
        _write_index(work, spans, said, env.config)
    return counts


def _episode(env: CalvinEnv, task: str, generator: np.random.Generator, noise: float) -> list[dict[str, np.ndarray]]:
    for _ in range(ATTEMPTS):
        scene = starting_scene(task, generator)
        obs, info = env.reset(options={"robot_obs": NEUTRAL, "scene_obs": scene})
        env.begin_subtask(task, env.sentences()[task])
        motion, frames, left, sent = skill_actions(task, info), [], None, None
        while left != 0 and len(frames) < LONGEST:
            try:
                action = motion.send(sent)
            except StopIteration:
                if left is None:
                    break  # the motion is over without success
                action = np.r_[np.zeros(6), frames[-1]["rel_actions"][6]]
            action[:6] = np.clip(action[:6] + noise * generator.standard_normal(6), -1, 1)
            before = info
            pictures = {f"rgb_{name}": image for name, image in obs["images"].items()}
            obs, _, success, _, info = env.step(action)
            sent = info
            frames.append(
                {
                    **pictures,
                    "robot_obs": before["robot_obs"],
                    "scene_obs": before["scene_obs"],
                    "actions": np.r_[info["target"], action[6]],
                    "rel_actions": action,
                }
            )
            if left is not None:
                left -= 1
            elif success:
                left = AFTER
        if left is not None:
            return frames
    raise InputError(f"the script for {task} failed {ATTEMPTS} times in a row; less noise than {noise} may help")


def _write_index(folder: Path, spans: list[tuple[int, int]], said: list[tuple[str, str]], config: str) -> None:
    ends = np.array(spans, np.int64).reshape(-1, 2)
    np.save(folder / "ep_start_end_ids.npy", ends)
    np.save(folder / "ep_lens.npy", ends[:, 1] - ends[:, 0] + 1)
    annotations: dict[str, Any] = {
        "language": {
            "ann": [sentence for _, sentence in said],
            "task": [task for task, _ in said],
            "emb": np.zeros((len(said), 1, 384), np.float32),
        },
        "info": {"episodes": [], "indx": spans},
    }
    (folder / "lang_annotations").mkdir()
    np.save(folder / "lang_annotations" / "auto_lang_ann.npy", annotations, allow_pickle=True)
    (folder / ".hydra").mkdir()
    (folder / ".hydra" / "merged_config.yaml").write_text(config, encoding="utf-8")


def _bar(steps, progress: bool, label: str):
    if not progress:
        return steps
    from tqdm.auto import tqdm

    return tqdm(steps, desc=label, unit="episode")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m hf_vpdd.envs.calvin_play",
        description="Record scripted demonstrations in CALVIN's simulator, in CALVIN's own form.",
        epilog="needs CALVIN's environment: `hf-vpdd doctor calvin`",
    )
    parser.add_argument("out", type=Path, help="folder that gets training/ and validation/")
    parser.add_argument("--episodes", type=int, default=100, help="of training (default 100; about 35 frames each)")
    parser.add_argument("--validation", type=int, default=None, help="of validation (default: a tenth)")
    parser.add_argument("--tasks", default="all", help=f"with commas, or all (default): {', '.join(SKILLS)}")
    parser.add_argument("--seed", type=int, default=0, help="of scenes, noise and sentences (default 0)")
    parser.add_argument("--noise", type=float, default=0.1, help="added to the actions (default 0.1 of the largest)")
    parser.add_argument("--renderer", choices=RENDERERS, default="tiny", help="default tiny; egl as in CALVIN's data")
    args = parser.parse_args(argv)
    tasks = tuple(SKILLS) if args.tasks == "all" else tuple(args.tasks.split(","))
    validation = max(1, args.episodes // 10) if args.validation is None else args.validation
    env = CalvinEnv(renderer=args.renderer)
    try:
        options = {"tasks": tasks, "noise": args.noise, "progress": True}
        record(env, args.out / "training", args.episodes, seed=args.seed, **options)
        # Far from training's seeds, and with the sentences of the evaluation.
        later = {"validation": True, "first_frame": 1_000_000}
        counts = record(env, args.out / "validation", validation, seed=args.seed + 1_000_000, **options, **later)
    finally:
        env.close()
    print(f"{args.out}: {args.episodes} episodes of training, {sum(counts.values())} of validation")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        raise SystemExit(str(error)) from None
