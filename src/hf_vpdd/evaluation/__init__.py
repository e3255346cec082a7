"""Policies in the simulator: explicit episodes, rollouts in processes, success rates with intervals, reports."""

import importlib


_HOMES = {
    "Episode": "episodes",
    "make_episodes": "episodes",
    "evaluate": "runner",
    "load_policy": "policies",
    "Interval": "report",
    "Report": "report",
    "Simulators": "simulators",
    "wilson_interval": "metrics",
}


def __getattr__(name: str):
    # Lazily, so that the simulator processes, which import this package, do not also load what the parent needs.
    if name in _HOMES:
        return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = sorted(_HOMES)
