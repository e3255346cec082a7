"""Puts the stand-in of RLBench where the package, and the workers it spawns, will find it."""

import sys
from pathlib import Path


STANDIN = Path(__file__).parent / "rlbench_standin"


def install(monkeypatch, folder: Path, fork: bool = False):
    """An installed RLBench, as far as this machine can tell. Returns the stand-in's module."""
    forget()
    (folder / "libcoppeliaSim.so.1").touch()
    for name in ("COPPELIASIM_ROOT", "LD_LIBRARY_PATH", "QT_QPA_PLATFORM_PLUGIN_PATH"):
        monkeypatch.setenv(name, str(folder))
    monkeypatch.setenv("DISPLAY", ":99")
    monkeypatch.setenv("RLBENCH_STANDIN_FORK", "1" if fork else "0")
    monkeypatch.syspath_prepend(str(STANDIN))
    import rlbench

    assert Path(rlbench.__file__).parent.parent == STANDIN
    return rlbench


def forget() -> None:
    """Nothing of it is left behind for other tests."""
    for name in [name for name in sys.modules if name.split(".")[0] in ("rlbench", "pyrep")]:
        del sys.modules[name]
    session = sys.modules.get("hf_vpdd.envs.rlbench_session")
    if session is not None:
        session.Session.current = None
