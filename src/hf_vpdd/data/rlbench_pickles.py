"""RLBench's pickles without RLBench, and without running anything they contain (see `safe_pickle`)."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from .safe_pickle import read_pickle


def read_demo(path: str | os.PathLike) -> list[Any]:
    """The observations of a `low_dim_obs.pkl`, as objects with RLBench's attributes (gripper_pose, ...).

    Raises:
        InputError: The file is missing or damaged, holds something else, or asks for any other class or function.
    """
    names, demo_class, observation_class = _allowed()
    demo = _read(path, names)
    observations = getattr(demo, "_observations", None) if isinstance(demo, demo_class) else demo
    if not isinstance(observations, list) or not observations:
        raise InputError(f"{path}: expected a Demo with a list of observations, found {_kind(demo, observations)}")
    for frame, observation in enumerate(observations):
        if not isinstance(observation, observation_class):
            raise InputError(
                f"{path}: frame {frame}: expected an Observation, found a {type(observation).__name__}; copy it again"
            )
    return observations


def read_plain(path: str | os.PathLike) -> Any:
    """A pickle of lists, strings and numbers (`variation_descriptions.pkl`, `variation_number.pkl`)."""
    return _read(path, {})


def _read(path: str | os.PathLike, names: dict) -> Any:
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} is missing; copy the demonstration again")
    with open(path, "rb") as file:
        return read_pickle(file, path, names)


def _allowed() -> tuple[dict[tuple[str, str], Any], type, type]:
    """What these pickles may name, made anew for each: a pickle can write into a class that it gets hold of."""
    demo = type("Demo", (), {})
    observation = type("Observation", (), {})

    def frombuffer(buffer, dtype, shape, order="C"):  # arrays of protocol 5
        return np.frombuffer(buffer, dtype=dtype).reshape(shape, order=order)

    def encode(text, encoding):  # bytes of protocols 0 to 2
        if encoding != "latin1":
            raise ValueError(f"bytes encoded as {encoding!r}")
        return text.encode("latin1")

    def reconstruct(kind, base, state):  # objects of protocols 0 and 1
        if kind not in (demo, observation) or base is not object:
            raise ValueError(f"an object of {kind!r}")
        return kind()

    names = {
        ("rlbench.demo", "Demo"): demo,
        ("rlbench.backend.observation", "Observation"): observation,
        ("_codecs", "encode"): encode,
        ("copyreg", "_reconstructor"): reconstruct,
        ("copy_reg", "_reconstructor"): reconstruct,
        ("builtins", "object"): object,
        ("__builtin__", "object"): object,
    }
    names |= {(f"numpy.{core}.numeric", "_frombuffer"): frombuffer for core in ("core", "_core")}
    return names, demo, observation


def _kind(demo: Any, observations: Any) -> str:
    if isinstance(observations, list):
        return "an empty one"
    return f"a {type(demo).__name__}"
