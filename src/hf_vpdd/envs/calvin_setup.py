"""What CALVIN needs besides pip, and what of it this machine has."""

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path

from ..errors import InputError
from .calvin_process import probe
from .rlbench_setup import Part


PYTHON_VARIABLE = "HF_VPDD_CALVIN_PYTHON"
ROOT_VARIABLE = "HF_VPDD_CALVIN_ROOT"
# What was run here. NumPy 2 breaks gym 0.26; CALVIN itself pins hydra 1.1, which current Pythons refuse.
PACKAGES = (
    ("pybullet", "pybullet", "pybullet==3.2.7"),
    ("numpy", "numpy", "numpy<2"),
    ("gym", "gym", "gym==0.26.2"),
    ("hydra", "hydra-core", "hydra-core==1.3.2"),
    ("omegaconf", "omegaconf", "omegaconf==2.3.*"),
    ("quaternion", "numpy-quaternion", "numpy-quaternion"),
    ("cv2", "opencv-python-headless", "opencv-python-headless<5"),
    ("scipy", "scipy", "scipy"),
    ("git", "gitpython", "gitpython"),
    ("cloudpickle", "cloudpickle", "cloudpickle"),
)
INSTALL = "pip install " + " ".join(f"'{spec}'" for _, _, spec in PACKAGES)
OPENGL = "OpenGL"
ANNOTATIONS = "calvin_models/conf/annotations/new_playtable_validation.yaml"

HOW_TO = f"""\
CALVIN's simulator, calvin_env, is not on PyPI and needs NumPy 1 and the old gym. So it gets a Python environment of
its own, in which hf-vpdd starts it as a second process; yours stays as it is.

1. The sources (MIT licence; about 50 MB). The sentences, the oracle's thresholds and the scene are read from there:
       git clone --recurse-submodules https://github.com/mees/calvin $HOME/calvin
   `tacto`, a submodule of a submodule, is needed for tactile cameras only; it may fail to come.
2. Its environment; Python 3.11 is what was tried (PyBullet has a wheel for it, else it is compiled for minutes):
       python3.11 -m venv $HOME/calvin_venv
       $HOME/calvin_venv/bin/{INSTALL}
   Neither torch nor CALVIN's own install.sh is needed.
3. Where they are, in your shell's profile:
       export {PYTHON_VARIABLE}=$HOME/calvin_venv/bin/python
       export {ROOT_VARIABLE}=$HOME/calvin
4. Here: pip install 'hf-vpdd[calvin]'
5. For `--renderer egl`, with which CALVIN's data were drawn (`tiny` needs nothing; their pictures differ):
       sudo apt-get install -y libegl1 libgl1          # a GPU's driver, or Mesa's llvmpipe, does the rest
   On a machine with several GPUs EGL_VISIBLE_DEVICES chooses one.

Then: hf-vpdd eval --env calvin --policy MODEL --out outputs/calvin
The data (from 1.3 GB for `debug` to 656 GB for `ABCD`) are for training; an evaluation does without.
"""


def find_python(python: str | os.PathLike | None = None, environ: Mapping[str, str] = os.environ) -> Path:
    """The interpreter of CALVIN's environment: the argument, or HF_VPDD_CALVIN_PYTHON.

    Raises:
        InputError: Neither is given, or it is no executable file.
    """
    given = os.fspath(python) if python is not None else environ.get(PYTHON_VARIABLE, "")
    if not given:
        raise InputError(
            f"CALVIN runs in a Python environment of its own: give its interpreter, or set {PYTHON_VARIABLE}; "
            "`hf-vpdd doctor calvin` explains how to make one"
        )
    # Not resolved: a virtual environment's `python` is a link, and only under its own name does it find its packages.
    path = Path(given).expanduser().absolute()
    if not (path.is_file() and os.access(path, os.X_OK)):
        raise InputError(
            f"CALVIN's Python, {path}, is no program; give the file .../bin/python of its environment "
            "(`hf-vpdd doctor calvin`)"
        )
    return path


def find_root(root: str | os.PathLike | None = None, environ: Mapping[str, str] = os.environ) -> Path:
    """The checkout of mees/calvin: the argument, or HF_VPDD_CALVIN_ROOT.

    Raises:
        InputError: Neither is given, or it is no such checkout.
    """
    given = os.fspath(root) if root is not None else environ.get(ROOT_VARIABLE, "")
    if not given:
        raise InputError(
            f"CALVIN's sentences and scenes are read from your checkout of github.com/mees/calvin: give its folder, "
            f"or set {ROOT_VARIABLE}; `hf-vpdd doctor calvin` explains"
        )
    path = Path(given).expanduser().absolute()
    if not (path / ANNOTATIONS).is_file():
        raise InputError(f"{path} is no checkout of github.com/mees/calvin: it lacks {ANNOTATIONS}")
    return path


def examine(environ: Mapping[str, str] = os.environ) -> list[Part]:
    """All that CALVIN needs, in the order in which it is to be installed; asks the other Python, in half a second."""
    return [*_sources(environ), *_environment(environ), _gymnasium()]


def missing(environ: Mapping[str, str] = os.environ) -> list[Part]:
    """The parts without which CALVIN cannot be started (OpenGL is not one: `tiny` does without)."""
    return [part for part in examine(environ) if part.fix and part.name != OPENGL]


def _sources(environ: Mapping[str, str]) -> list[Part]:
    clone = "git clone --recurse-submodules https://github.com/mees/calvin $HOME/calvin"
    if not environ.get(ROOT_VARIABLE):
        return [Part("sources", f"{ROOT_VARIABLE} is not set", f"{clone}; export {ROOT_VARIABLE}=$HOME/calvin")]
    try:
        root = find_root(None, environ)
    except InputError as error:
        return [Part("sources", str(error), f"{clone}; export {ROOT_VARIABLE}=$HOME/calvin")]
    if not (root / "calvin_env" / "calvin_env").is_dir() or not (root / "calvin_env" / "data").is_dir():
        fix = f"git -C {root} submodule update --init calvin_env"
        return [Part("sources", str(root)), Part("calvin_env", "the submodule's folder is empty", fix)]
    return [Part("sources", str(root)), Part("calvin_env", str(root / "calvin_env"))]


def _environment(environ: Mapping[str, str]) -> list[Part]:
    make = f"python3.11 -m venv $HOME/calvin_venv; export {PYTHON_VARIABLE}=$HOME/calvin_venv/bin/python"
    if not environ.get(PYTHON_VARIABLE):
        return [Part("python", f"{PYTHON_VARIABLE} is not set", make)]
    try:
        python = find_python(None, environ)
        found = probe(python, _PROBE)
    except InputError as error:
        return [Part("python", str(error), make)]
    has = found["packages"]
    parts = [Part("python", f"{found['python']} ({python})")]
    wanted = [spec for module, name, spec in PACKAGES if has[module] is None]
    if has["numpy"] and int(has["numpy"].split(".")[0]) >= 2:
        wanted.append("numpy<2")
    pip = f"{python} -m pip install " + " ".join(f"'{spec}'" for spec in wanted)
    listed = ", ".join(f"{name} {has[module]}" for module, name, _ in PACKAGES if has[module])
    parts.append(Part("packages", listed or "none of those needed", pip if wanted else ""))
    if found["egl"]:
        parts.append(Part(OPENGL, "libEGL and libGL load, for --renderer egl"))
    else:
        fix = "sudo apt-get install -y libegl1 libgl1 (only for --renderer egl)"
        parts.append(Part(OPENGL, "libEGL or libGL does not load", fix))
    return parts


def _gymnasium() -> Part:
    if importlib.util.find_spec("gymnasium") is None:
        return Part("gymnasium", "not installed here", "pip install 'hf-vpdd[calvin]'")
    return Part("gymnasium", "installed here")


_PROBE = f"""
import ctypes, importlib.util, json, sys
from importlib import metadata
names = {dict((module, name) for module, name, _ in PACKAGES)!r}
def version(module, name):
    if importlib.util.find_spec(module) is None:
        return None
    for distribution in (name, name.replace("-headless", "")):
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            pass
    return "of unknown version"
def loads(library):
    try:
        return bool(ctypes.CDLL(library))
    except OSError:
        return False
print(json.dumps({{
    "python": sys.version.split()[0],
    "packages": {{module: version(module, name) for module, name in names.items()}},
    "egl": loads("libEGL.so.1") and loads("libGL.so.1"),
}}))
"""
