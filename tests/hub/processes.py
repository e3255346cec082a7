"""Python in a new process, as a user has it, with the fake Hub instead of the real one."""

import json
import os
import subprocess
import sys
from pathlib import Path


ROOT = Path(__file__).parents[2]


def environment(hub_url: str | None, home: Path, token: str | None = "hf_fake") -> dict[str, str]:
    """The variables that huggingface_hub reads when it is imported."""
    keep = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    paths = os.pathsep.join(p for p in (str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH")) if p)
    keep |= {"PYTHONPATH": paths, "HF_HOME": str(home), "CUDA_VISIBLE_DEVICES": "", "HF_HUB_DISABLE_TELEMETRY": "1"}
    keep |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    if hub_url is None:
        return keep | {"HF_HUB_OFFLINE": "1"}
    keep |= {"HF_ENDPOINT": hub_url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0", "HF_DATASETS_OFFLINE": "0"}
    return keep | ({"HF_TOKEN": token} if token else {})


def python(code: str, *arguments, env: dict[str, str]) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], env=env, capture_output=True, text=True, timeout=280
    )


def answers(done: subprocess.CompletedProcess) -> dict:
    """What a process printed after ANSWERS."""
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.split("ANSWERS ")[1].splitlines()[0])
