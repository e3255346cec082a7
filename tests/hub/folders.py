"""Folders as training and evaluation leave them, small."""

import json
from pathlib import Path

import numpy as np

from hf_vpdd.files import file_sha256
from hf_vpdd.saving import save_policy
from tests.pipelines.tiny_policy import tiny_policy


def finished_run(folder: Path, seed: int = 0) -> Path:
    """A fine-tuned policy with its records, a checkpoint and logs beside it."""
    save_policy(folder, *tiny_policy(seed))
    recipe = {
        "data": {"root": ["/home/somebody/data/mt3"], "tasks": ["reach-v3"]},
        "finetune": {
            "output_dir": str(folder), "init_from": "/home/somebody/runs/pretrain",
            "train": {"steps": 10, "batch_size": 4, "learning_rate": 0.001},
        },
    }  # fmt: skip
    record = {
        "stage": "finetune", "seed": 3, "recipe": recipe, "fingerprints": {"dataset": "abcdef" * 10},
        "versions": {"hf_vpdd": "0.1", "torch": "2.13.0", "transformers": "5.23.0"}, "git_revision": "1234abcd",
        "command": ["training/finetune.py", "--config", "/home/somebody/recipes/mt3.yaml"], "device": "cpu",
        "processes": 1, "parameters": 1000, "trainable_parameters": 900,
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(record))
    summary = {"stage": "finetune", "metrics": {"loss": 1.25}, "skipped_steps": 0, "wall_seconds": 120.0}
    (folder / "training.json").write_text(json.dumps(summary))
    (folder / "metrics.jsonl").write_text("{}\n")
    for name in ("checkpoint-000010", "tensorboard"):
        (folder / name).mkdir()
        (folder / name / "state.pt").write_bytes(b"large")
    return folder


def evaluation(out: Path, policy: Path, perturbation: str = "None", finished: bool = True) -> Path:
    """What `hf-vpdd eval` writes at the end, of two tasks."""
    names = ("config.json", "model.safetensors", "processor_config.json")
    hashes = {name: file_sha256(policy / name) for name in names}

    def task(name, successes, low, high):
        return {"name": name, "successes": successes, "episodes": 20, "rate": successes / 20, "low": low, "high": high}

    summary = {
        "finished": finished, "policy": {"sampling": {"num_inference_steps": 4, "sampler": None}, **hashes},
        "protocol": "lean", "label": "lean renderer, 200 steps", "perturbation": [perturbation], "execute": 4,
        "seeds": [100000, 100019], "episodes": 40, "mean_success": 0.6,
        "overall": {**task("all", 24, 0.45, 0.74), "episodes": 40, "rate": 0.6}, "ms_per_action": 6.5,
        "tasks": [task("reach-v3", 18, 0.7, 0.97), task("push-v3", 6, 0.15, 0.52)], "warnings": [],
        "provenance": {
            "command": "hf-vpdd eval --policy /home/somebody/runs/finetune --tasks mt3", "date": "2026-11-21",
            "machine": "Linux, 2 cores",
        },
    }  # fmt: skip
    out.mkdir(parents=True)
    (out / "summary.json").write_text(json.dumps(summary))
    return out


def chains(out: Path, policy: Path) -> Path:
    """The same of CALVIN."""
    rows = [
        {"in_a_row": n, "successes": s, "rate": s / 10, "low": 0.1, "high": 0.9}
        for n, s in enumerate((8, 4, 2, 0, 0), 1)
    ]
    summary = {
        "finished": True, "policy": {"model.safetensors": file_sha256(policy / "model.safetensors")},
        "protocol": "calvin", "scene": "D", "renderer": "egl", "chains": 10, "success_in_a_row": rows,
        "average_length": {"mean": 1.4, "low": 0.8, "high": 2.0}, "tasks": [], "warnings": ["10 of 1000 chains"],
        "provenance": {"command": "hf-vpdd eval --env calvin"},
    }  # fmt: skip
    out.mkdir(parents=True)
    (out / "summary.json").write_text(json.dumps(summary))
    return out


def dataset(folder: Path, source: str = "/home/somebody/recordings") -> Path:
    """Two episodes of a camera, a state and an action."""
    from hf_vpdd.data.lerobot_writer import LeRobotWriter

    rng = np.random.default_rng(0)
    extra = {"recording": {"source": source, "noise": 0.1}}
    with LeRobotWriter(
        folder, fps=10, robot_type="sawyer", features={"action": {"names": ["dx", "dy"]}}, extra_info=extra
    ) as writer:
        for task in ("open it", "close it"):
            frames = rng.integers(0, 255, (6, 16, 16, 3), dtype=np.uint8)
            state, action = rng.normal(size=(6, 3)).astype(np.float32), rng.normal(size=(6, 2)).astype(np.float32)
            columns = {"observation.images.front": frames, "observation.state": state, "action": action}
            writer.add_episode(columns, task)
    return folder
