"""What RLBench needs besides pip, and what of it this machine has. Nothing is imported or started here."""

import importlib.util
import os
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .rlbench_tasks import FORK_TASKS


PYREP_SOURCE = "git+https://github.com/stepjam/PyRep.git"
RLBENCH_SOURCE = "git+https://github.com/stepjam/RLBench.git"
FORK_SOURCE = "git+https://github.com/MohitShridhar/RLBench.git@peract"
ARCHIVE = "https://downloads.coppeliarobotics.com/V4_1_0/CoppeliaSim_Edu_V4_1_0_Ubuntu20_04.tar.xz"

HOW_TO = f"""\
RLBench is not on PyPI, and its simulator, CoppeliaSim, is closed software that you download yourself (free for
education). Linux only. Beware: the `pyrep` on PyPI is an unrelated project. `pip install pyrep` does harm here; if you
did, `pip uninstall pyrep`.

1. CoppeliaSim 4.1.0, this very version (there are archives for Ubuntu 16.04, 18.04 and 20.04):
       export COPPELIASIM_ROOT=$HOME/CoppeliaSim
       wget {ARCHIVE}
       mkdir -p $COPPELIASIM_ROOT
       tar -xf CoppeliaSim_Edu_V4_1_0_Ubuntu20_04.tar.xz -C $COPPELIASIM_ROOT --strip-components 1
2. Its three variables, in your shell's profile: they must be there before Python starts.
       export COPPELIASIM_ROOT=$HOME/CoppeliaSim
       export LD_LIBRARY_PATH=$LD_LIBRARY_PATH:$COPPELIASIM_ROOT
       export QT_QPA_PLATFORM_PLUGIN_PATH=$COPPELIASIM_ROOT
3. PyRep, from its repository (compiles against CoppeliaSim; needs a C compiler and python3-dev):
       pip install {PYREP_SOURCE}
4. RLBench, from its repository; or PerAct's fork, which alone has {len(FORK_TASKS)} of PerAct's 18 tasks (17 in VPDD):
       pip install {RLBENCH_SOURCE}
       pip install --no-deps {FORK_SOURCE}      # the fork
       pip install 'hf-vpdd[rlbench]' pyquaternion natsort
5. Without a screen CoppeliaSim needs an X server, with OpenGL: `xvfb-run -a hf-vpdd eval --env rlbench ...` draws in
   software; a GPU draws through a headless X server (README of RLBench, "Running Headless").

Then: hf-vpdd eval --env rlbench --policy MODEL --tasks vpdd17 --workers 4 --out outputs/rlbench
"""


@dataclass(frozen=True)
class Part:
    """One thing that RLBench needs: what was `found`, and what to do about it; `fix` is empty when all is well."""

    name: str
    found: str
    fix: str = ""


def examine(environ: Mapping[str, str] = os.environ) -> list[Part]:
    """All that RLBench needs, in the order in which it is to be installed."""
    return [_coppelia(environ), *_variables(environ), _pyrep(), _rlbench(), _display(environ)]


def missing(environ: Mapping[str, str] = os.environ) -> list[Part]:
    """The parts without which CoppeliaSim cannot be started."""
    return [part for part in examine(environ) if part.fix]


def _coppelia(environ: Mapping[str, str]) -> Part:
    root = environ.get("COPPELIASIM_ROOT", "")
    if not root:
        return Part("CoppeliaSim", "COPPELIASIM_ROOT is not set", "steps 1 and 2")
    if not Path(root).is_dir():
        return Part("CoppeliaSim", f"COPPELIASIM_ROOT={root} is no folder", "step 1")
    if not list(Path(root).glob("libcoppeliaSim.so*")):
        return Part("CoppeliaSim", f"{root} holds no libcoppeliaSim.so", "step 1: unpack version 4.1.0 there")
    return Part("CoppeliaSim", root)


def _variables(environ: Mapping[str, str]) -> list[Part]:
    root = environ.get("COPPELIASIM_ROOT", "")
    found = []
    for name in ("LD_LIBRARY_PATH", "QT_QPA_PLATFORM_PLUGIN_PATH"):
        there = root and root.rstrip("/") in [entry.rstrip("/") for entry in environ.get(name, "").split(":")]
        text = "holds COPPELIASIM_ROOT" if there else "does not hold COPPELIASIM_ROOT"
        found.append(Part(name, text, "" if there else "step 2, before Python starts"))
    return found


def _pyrep() -> Part:
    folder = package_folder("pyrep")
    if folder is None:
        return Part("PyRep", "not installed", f"pip install {PYREP_SOURCE}")
    if is_unrelated_pyrep(folder):
        fix = f"pip uninstall pyrep; pip install {PYREP_SOURCE}"
        return Part("PyRep", f"{folder} is PyPI's pyrep, an unrelated project", fix)
    return Part("PyRep", _version(folder))


def _rlbench() -> Part:
    folder = package_folder("rlbench")
    if folder is None:
        return Part("RLBench", "not installed", f"pip install {RLBENCH_SOURCE} (or the fork, step 4)")
    absent = [task for task in FORK_TASKS if not (folder / "tasks" / f"{task}.py").is_file()]
    kind = f"without PerAct's {', '.join(absent)} (step 4)" if absent else "with PerAct's tasks"
    return Part("RLBench", f"{_version(folder)}, {kind}")


def _display(environ: Mapping[str, str]) -> Part:
    if display := environ.get("DISPLAY", ""):
        return Part("display", f"DISPLAY={display}")
    how = "xvfb-run -a hf-vpdd ..." if shutil.which("xvfb-run") else "sudo apt-get install -y xvfb; xvfb-run -a ..."
    return Part("display", "no X server (DISPLAY is not set)", f"{how} (step 5)")


def package_folder(name: str) -> Path | None:
    """Where an installed package lies, found without importing it (PyRep's import fails without CoppeliaSim)."""
    if name in sys.modules:
        spec = sys.modules[name].__spec__
    else:
        spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent if spec is not None and spec.origin else None


def is_unrelated_pyrep(folder: Path) -> bool:
    """PyPI's `pyrep` keeps files in repositories; the robots' one has a `robots` package."""
    return not (folder / "robots").is_dir()


def _version(folder: Path) -> str:
    text = (folder / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r"^__version__\s*=\s*[\"']([^\"']+)", text, re.MULTILINE)
    return found.group(1) if found else "of unknown version"
