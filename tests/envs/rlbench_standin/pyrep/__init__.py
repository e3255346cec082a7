"""PyRep's names that the adapter imports. No simulator."""

import sys
from enum import Enum
from types import ModuleType


__version__ = "4.1.0.3"


class ConfigurationPathError(Exception):
    pass


class IKError(Exception):
    pass


class RenderMode(Enum):
    OPENGL = 0
    OPENGL3 = 7


def _module(name: str, **members) -> None:
    module = sys.modules[name] = ModuleType(name)
    vars(module).update(members)


_module("pyrep.errors", ConfigurationPathError=ConfigurationPathError, IKError=IKError)
_module("pyrep.const", RenderMode=RenderMode)
