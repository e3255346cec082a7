"""What CALVIN needs besides pip, and what of it this machine has."""

import os
from collections.abc import Mapping
from pathlib import Path

from ..errors import InputError
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
ANNOTATIONS = "calvin_models/conf/annotations/new_playtable_validation.yaml"

HOW_TO = f"""\
CALVIN's simulator, calvin_env, is not on PyPI and needs NumPy 1 and the old gym. So it gets a Python environment of
its own, in which hf-vpdd starts it as a second process; yours stays as it is.

1. The sources (MIT licence; 70 MB). The sentences, the oracle's thresholds and the scene are read from there:
       git clone --recurse-submodules https://github.com/mees/calvin $HOME/calvin
   `tacto`, a submodule of a submodule, is needed for tactile cameras only; it may fail to come.
2. Its environment, with Python 3.11 (PyBullet has wheels for 3.8 to 3.12 or so; from its sources it takes a compiler):
       python3.11 -m venv $HOME/calvin_venv
       $HOME/calvin_venv/bin/{INSTALL}
   Neither torch nor CALVIN's own install.sh is needed. An environment made by install.sh (Python 3.8) works too.
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
