"""The folder of one evaluation: what was run, one line per episode, and what it came to.

    run.json          what must be the same for episodes to belong together: policy, protocol, view, sampling
    episodes.jsonl    one line per finished episode, in the order in which they ended
    summary.json      success rates with intervals, time per action, and where the numbers come from
    videos/           some successes and failures

A line is appended whole, in one write; a run that was killed may leave half a line at the end, which the next one
drops. So the folder can be resumed after anything.
"""

import json
import os
import platform
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import atomic_write_text
from ..provenance import package_versions, source_revision
from ..version import __version__
from .episodes import Episode


PACKAGES = ("torch", "transformers", "diffusers", "metaworld", "mujoco", "rlbench", "pyrep", "gymnasium", "numpy")


class ResultFolder:
    """Opens the folder of an evaluation, new or to be resumed.

    Args:
        path: The folder; created if need be.
        run: What identifies the run, as plain JSON values.
        resume: Go on with what is there.

    Raises:
        InputError: There are results already and `resume` is false; or they come from another run (the message names
            the differences); or they cannot be read.
    """

    def __init__(self, path: str | os.PathLike, run: Mapping[str, Any], resume: bool = False) -> None:
        self.path = Path(path)
        self.videos = self.path / "videos"
        self._lines = self.path / "episodes.jsonl"
        run = json.loads(json.dumps(run))  # as it will be read back: tuples become lists
        marker = self.path / "run.json"
        if self._lines.exists() or marker.exists():
            if not resume:
                raise InputError(
                    f"{self.path} holds results already; give --resume to go on with them, or another --out"
                )
            there = read_json(marker)
            if there != run:
                raise InputError(
                    f"{self.path} cannot be resumed: it was run with other settings "
                    f"({'; '.join(differences(there, run))}). Use those, or give another --out"
                )
        self.path.mkdir(parents=True, exist_ok=True)
        self.results: dict[tuple, dict[str, Any]] = {}
        for result in self._read_lines():
            self.results[_key(result)] = result
        atomic_write_text(marker, json.dumps(run, indent=2) + "\n")

    def has(self, episode: Episode) -> bool:
        return episode.key in self.results

    def append(self, result: Mapping[str, Any]) -> None:
        """Adds a finished episode, at once and for good."""
        line = (json.dumps(result) + "\n").encode()
        descriptor = os.open(self._lines, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(descriptor, line)
        finally:
            os.close(descriptor)
        self.results[_key(result)] = dict(result)

    def write_summary(self, summary: Mapping[str, Any]) -> Path:
        path = self.path / "summary.json"
        atomic_write_text(path, json.dumps(summary, indent=2) + "\n")
        return path

    def _read_lines(self) -> list[dict[str, Any]]:
        if not self._lines.exists():
            return []
        data = self._lines.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):  # the run was killed in the middle of a line
            os.truncate(self._lines, len(whole))
        results = []
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                result = json.loads(line)
                _key(result), result["success"], result["steps"]
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(
                    f"{self._lines} line {number} is no episode result ({error!r}); remove that line "
                    "or give another --out"
                ) from error
            results.append(result)
        return results


def provenance() -> dict[str, Any]:
    """Where numbers come from: versions, the source's revision, the machine, the command and the time."""
    return {
        "command": " ".join(["hf-vpdd", *sys.argv[1:]] if Path(sys.argv[0]).stem == "hf-vpdd" else sys.argv),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "hf_vpdd": __version__,
        "revision": source_revision(),
        "versions": {"python": platform.python_version(), **package_versions(PACKAGES)},
        "machine": f"{platform.system()} {platform.machine()}, {_processor()}, {os.cpu_count()} cores",
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or "unknown processor"


def _key(result: Mapping[str, Any]) -> tuple:
    return Episode.from_dict(result).key


def read_json(path: Path) -> dict[str, Any]:
    """What a JSON file of results holds, or an InputError."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}); give another --out") from error


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What tells two runs apart, in words, one entry a setting."""
    found = []
    for name in sorted({*old, *new}):
        before, now = old.get(name), new.get(name)
        if isinstance(before, dict) and isinstance(now, dict):
            found += differences(before, now, f"{prefix}{name}.")
        elif before != now:
            found.append(f"{prefix}{name} was {str(before)[:24]!r}, now {str(now)[:24]!r}")
    return found
