"""Simulators behind one Gymnasium interface. Nothing here imports a simulator before an environment is made."""

from .tasks import METAWORLD_TASKS, MT10, QUICKSTART_TASKS, TaskInfo, instruction


def __getattr__(name: str):
    if name in ("MetaWorldEnv", "expert_action"):
        from . import metaworld

        return getattr(metaworld, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "METAWORLD_TASKS",
    "MT10",
    "MetaWorldEnv",
    "QUICKSTART_TASKS",
    "TaskInfo",
    "expert_action",
    "instruction",
]
