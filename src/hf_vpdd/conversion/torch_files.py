"""Reading other people's PyTorch files without running anything they contain.

A `.pt` or `.ckpt` file is a pickle, and a pickle is a program. Here it is only ever read by torch's restricted reader
(`weights_only`: tensors and plain Python values) plus two exceptions that can do nothing: `argparse.Namespace`, which
Lightning stores its options in, and names of Lightning itself, which are replaced by an empty class. Everything else
is refused by name.
"""

import argparse
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import InputError


# Old Lightning wrote its callback classes and default functions into checkpoints. Nothing here needs them, nor are
# they imported: `_Unused` takes their place.
_LIGHTNING = ("pytorch_lightning.", "lightning.", "lightning_fabric.")
_LFS_POINTER = b"version https://git-lfs"


class _Unused:
    """Stands for an object of Lightning that is not looked at."""

    def __init__(self, *args, **kwargs):
        pass

    def __setstate__(self, state):
        pass


def read_checkpoint(path: str | Path) -> Any:
    """What `torch.save` (or safetensors) put into a file; tensors lie on the CPU and are read when used.

    Raises:
        InputError: No such file, not a checkpoint, truncated, or it needs code to be loaded (then the names are told).
    """
    path = _existing_file(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    # Files of torch 1.6 and later are zip archives; their tensors are mapped into memory instead of copied.
    zipped = zipfile.is_zipfile(path)
    if zipped and is_torchscript(path):
        raise InputError(
            f"{path} is a TorchScript archive (a compiled network), not a training checkpoint. OpenAI's clip.pt is "
            "one: give it with --clip."
        )
    with torch.serialization.safe_globals([argparse.Namespace]):
        try:
            wanted = torch.serialization.get_unsafe_globals_in_checkpoint(path) if zipped else []
        except Exception as error:  # a damaged pickle fails in as many ways as there are bytes
            raise _damaged(path, error) from error
    foreign = [name for name in wanted if not name.startswith(_LIGHTNING)]
    if foreign:
        raise _needs_code(path, foreign)
    allowed = [argparse.Namespace, *((_Unused, name) for name in wanted)]
    with torch.serialization.safe_globals(allowed):
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
        except pickle.UnpicklingError as error:
            if "Unsupported global" in str(error):  # the older format, whose names cannot be listed beforehand
                raise _needs_code(path, [str(error).split("GLOBAL ", 1)[-1].split(" was not", 1)[0]]) from error
            raise _damaged(path, error) from error
        except Exception as error:
            raise _damaged(path, error) from error


def is_torchscript(path: str | Path) -> bool:
    """Whether the file is an archive written by `torch.jit.save`."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read_torchscript_tensors(path: str | Path) -> dict[str, torch.Tensor]:
    """Parameters and buffers of a TorchScript archive by their dotted names.

    `torch.jit.load`, the usual reader, compiles the archive's code, and loading may already run parts of it;
    TorchScript can write files, so torch's security policy counts such archives as programs. The numbers do not need
    that: the archive is a zip file with a small pickle that describes the modules and one file for each tensor. The
    pickle is read here with every class replaced by an empty one, so no code of the archive is compiled or run.

    Raises:
        InputError: Not such an archive, damaged, or its pickle asks for anything but modules and tensors.
    """
    path = _existing_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            (root,) = {name.split("/")[0] for name in archive.namelist()}
            if f"{root}/byteorder" in archive.namelist() and archive.read(f"{root}/byteorder").strip() != b"little":
                raise InputError(f"{path} holds big-endian tensors, which are not supported.")
            with archive.open(f"{root}/data.pkl") as data:
                module = _ModuleReader(data, archive, root, path).load()
            tensors: dict[str, torch.Tensor] = {}
            _collect(module, "", tensors)
    except InputError:
        raise
    except Exception as error:
        raise _damaged(path, error) from error
    return tensors


class _ModuleReader(pickle.Unpickler):
    """Unpickles the modules of a TorchScript archive as empty objects that carry their attributes."""

    def __init__(self, file, archive: zipfile.ZipFile, root: str, path: Path):
        super().__init__(file)
        self.archive, self.root, self.path = archive, root, path
        self.storages: dict[str, torch.Tensor] = {}

    def find_class(self, module: str, name: str):
        if module == "__torch__" or module.startswith("__torch__."):
            return type(name, (), {})
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if module == "torch" and name.endswith("Storage"):
            storage = getattr(torch, name, None)
            if isinstance(getattr(storage, "dtype", None), torch.dtype):
                return storage.dtype
        if module == "torch.jit._pickle":  # lists and tuples with the type of their content
            return lambda value, *types: value
        raise _needs_code(self.path, [f"{module}.{name}"])

    def persistent_load(self, pid):
        kind, dtype, key, _, count = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError(f"unknown record {kind!r}")
        if key not in self.storages:
            raw = bytearray(self.archive.read(f"{self.root}/data/{key}"))
            if len(raw) < count * dtype.itemsize:
                raise pickle.UnpicklingError(f"tensor record {key} is too short")
            self.storages[key] = torch.frombuffer(raw, dtype=dtype, count=count) if count else torch.empty(0).to(dtype)
        return self.storages[key]


def _rebuild_tensor(storage: torch.Tensor, offset: int, size, stride, *unused) -> torch.Tensor:
    return torch.as_strided(storage, tuple(size), tuple(stride), offset)


def _collect(module: Any, prefix: str, tensors: dict[str, torch.Tensor]) -> None:
    for name, value in vars(module).items():
        if isinstance(value, torch.Tensor):
            tensors[prefix + name] = value
        elif hasattr(value, "__dict__") and not isinstance(value, type):
            _collect(value, f"{prefix}{name}.", tensors)


def check_tensors(state: Any, path: str | Path, what: str) -> dict[str, torch.Tensor]:
    """`state` as a dictionary of named tensors, all finite.

    Raises:
        InputError: It is something else, or a tensor holds NaN or infinity.
    """
    if not isinstance(state, Mapping) or not state:
        raise InputError(f"{path}: {what} should be named tensors, but it is {_described(state)}.")
    odd = [name for name, value in state.items() if not isinstance(name, str) or not isinstance(value, torch.Tensor)]
    if odd:
        raise InputError(f"{path}: {what} should be named tensors, but {odd[0]!r} is {_described(state[odd[0]])}.")
    return dict(state)


def check_finite(state: Mapping[str, torch.Tensor], names, path: str | Path) -> None:
    """Raises an `InputError` that names the first of these tensors with NaN or infinity."""
    for name in names:
        if state[name].is_floating_point() and not bool(torch.isfinite(state[name]).all()):
            raise InputError(f"{path}: {name} holds NaN or infinity; the file is damaged or its training failed.")


def _existing_file(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} {'is a folder' if path.is_dir() else 'does not exist'}; give a checkpoint file.")
    with open(path, "rb") as file:
        start = file.read(len(_LFS_POINTER))
    if not start:
        raise InputError(f"{path} is empty.")
    if start == _LFS_POINTER:
        raise InputError(f"{path} is a Git LFS pointer, not the file itself: run `git lfs pull` or download it.")
    return path


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, struct.error) as error:
        raise _damaged(path, error) from error


def _described(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"a tensor {tuple(value.shape)}"
    return f"empty ({type(value).__name__})" if isinstance(value, (dict, list)) and not value else type(value).__name__


def _damaged(path: Path, error: Exception) -> InputError:
    first_line = (str(error).splitlines() or [""])[0][:160]
    return InputError(
        f"{path} cannot be read as a PyTorch checkpoint ({type(error).__name__}: {first_line}). It is damaged, not "
        "completely downloaded, or another kind of file."
    )


def _needs_code(path: Path, names: list[str]) -> InputError:
    return InputError(
        f"{path} is refused: loading it would call {', '.join(sorted(names)[:8])}, and whatever a file calls runs "
        "with your rights. A checkpoint needs no more than tensors and argparse.Namespace. If you trust the file, load "
        "it yourself with torch.load(..., weights_only=False), save its tensors alone, and convert that."
    )
