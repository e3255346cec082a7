"""Starts the process in which CALVIN runs, talks to it, and says what happened when it dies."""

import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from . import calvin_wire as wire


SERVER = Path(__file__).with_name("calvin_server.py")
START_SECONDS = 120.0  # the first start of a new environment compiles its modules, and the table's meshes are read
ANSWER_SECONDS = 120.0  # a step takes 0.1 s; this is for a machine that swaps
LAST_LINES = 12
# Python of the main environment must not look into the other one, and the other way round.
NOT_INHERITED = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")


class CalvinServerError(RuntimeError):
    """The process with the simulator died, hangs, or speaks nonsense. `CalvinEnv.reset` starts another one."""


class CalvinProcess:
    """The simulator's process; one request, one answer.

    The two talk over a socket pair that the child inherits: there is no name or port that anybody else could connect
    to. The child ends when this object is closed, or when this process ends in whatever way.

    Args:
        python: Interpreter of the environment in which calvin_env's packages are installed.
        settings: Of `calvin_server.Table`.
        start_seconds, answer_seconds: How long to wait for the first and for any other answer.
        server: The script.

    Raises:
        InputError: The interpreter cannot be run, or the simulator refuses to start with these settings.
    """

    def __init__(
        self,
        python: str | os.PathLike,
        settings: Mapping[str, Any],
        start_seconds: float = START_SECONDS,
        answer_seconds: float = ANSWER_SECONDS,
        server: str | os.PathLike = SERVER,
    ) -> None:
        self.answer_seconds = answer_seconds
        self._owner = os.getpid()
        self._log = tempfile.TemporaryFile()  # what the simulator prints; read only when something goes wrong
        self._socket, theirs = socket.socketpair()
        try:
            self._child = subprocess.Popen(
                [os.fspath(python), "-u", "-W", "ignore", os.fspath(server), str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=subprocess.STDOUT,
                pass_fds=(theirs.fileno(),),
                env=child_environment(os.environ),
                start_new_session=True,  # Ctrl-C is for us; we end the child when we end
            )
        except OSError as error:
            self._socket.close()
            self._log.close()
            raise InputError(
                f"CALVIN's Python cannot be run: {os.fspath(python)} ({error.strerror}). "
                "`hf-vpdd doctor calvin` explains how to make its environment"
            ) from None
        finally:
            theirs.close()
        try:
            self.description, _ = self.ask("start", start_seconds, **settings)
        except CalvinServerError as error:
            self.close()
            hint = " (--renderer tiny needs no OpenGL)" if settings.get("renderer") == "egl" else ""
            raise InputError(
                f"CALVIN does not start{hint}: {error}\n`hf-vpdd doctor calvin` says what to do"
            ) from None
        except BaseException:
            self.close()
            raise

    def ask(
        self, what: str, seconds: float | None = None, arrays: Mapping[str, np.ndarray] | None = None, **message: Any
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Sends a request and waits for its answer.

        Raises:
            InputError: The simulator says that the request is wrong; it goes on.
            CalvinServerError: It is gone, or was ended because it did not answer in time.
        """
        if self._child is None:
            raise CalvinServerError("CALVIN's process was closed")
        deadline = time.monotonic() + (self.answer_seconds if seconds is None else seconds)
        try:
            wire.send(self._socket, {"do": what, **message}, dict(arrays or {}), deadline)
            answer, found = wire.receive(self._socket, deadline)
        except TimeoutError:
            waited = self.answer_seconds if seconds is None else seconds
            raise self._failure(f"did not answer '{what}' within {waited:g} s and was ended") from None
        except wire.Closed:
            raise self._failure(f"died during '{what}'") from None
        except wire.WireError as error:
            raise self._failure(f"answered '{what}' with nonsense ({error})") from None
        except BaseException:  # Ctrl-C in the middle of a frame: the two would misunderstand each other from here on
            self.close()
            raise
        if "error" in answer:
            self._raise(answer)
        return answer, found

    def _raise(self, answer: Mapping[str, Any]) -> None:
        """The simulator refused, or one of its functions failed; after a failure its state cannot be trusted."""
        kind, reason = str(answer.get("kind")), str(answer["error"])
        if kind == "BadInput":
            raise InputError(reason)
        if kind in ("ImportError", "ModuleNotFoundError"):
            text = self.last_lines()
            self.close()
            raise InputError(
                f"CALVIN's Python lacks something ({reason}); `hf-vpdd doctor calvin` lists the packages\n{text}"
            )
        raise self._failure(f"failed with {kind}: {reason}")

    def _failure(self, what: str) -> CalvinServerError:
        status = self._end()
        lines = self.last_lines()
        self.close()
        said = f"; the last it said:\n{lines}" if lines else ", without a word"
        return CalvinServerError(f"CALVIN's process {what}{_died(status)}{said}")

    def last_lines(self, count: int = LAST_LINES) -> str:
        """The end of what the simulator printed, indented."""
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - 8192))
        text = self._log.read().decode("utf-8", "replace")
        return "\n".join("    " + line for line in text.splitlines()[-count:] if line.strip())

    @property
    def alive(self) -> bool:
        return self._child is not None and self._child.poll() is None

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child is not None else None

    def _end(self) -> int | None:
        """Ends the child; returns its exit status if it had died of itself."""
        if self._child is None:
            return None
        self._socket.close()
        status = None
        try:
            status = self._child.wait(2.0)  # it ends by itself when its socket is closed
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        return status

    def close(self) -> None:
        """Ends the process. May be called twice."""
        if self._child is None:
            return
        if os.getpid() == self._owner:
            self._end()
        else:  # a fork of the owner: the child is not ours to end
            self._socket.close()
        self._log.close()
        self._child = None

    def __del__(self) -> None:
        if getattr(self, "_child", None) is not None:
            self.close()


def child_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables for the other Python: without those that would lead it into this one's packages."""
    kept = {key: value for key, value in environ.items() if key not in NOT_INHERITED}
    # One table keeps one core busy; several workers would fight over the cores with threads of theirs.
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "LP_NUM_THREADS"):
        kept.setdefault(name, "1")
    kept["PYTHONIOENCODING"] = "utf-8"
    return kept


def probe(python: str | os.PathLike, code: str, seconds: float = 60.0) -> Any:
    """What a few lines of Python print as JSON in the other environment.

    Raises:
        InputError: They cannot be run there, or fail.
    """
    try:
        done = subprocess.run(
            [os.fspath(python), "-W", "ignore", "-c", code],
            capture_output=True,
            text=True,
            timeout=seconds,
            env=child_environment(os.environ),
            check=True,
        )
        return json.loads(done.stdout.strip().splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        raise InputError(f"{os.fspath(python)} does not work as CALVIN's Python: {error}") from None


def _died(status: int | None) -> str:
    if status is None or status == 0:
        return ""
    if status < 0:
        try:
            return f" ({signal.Signals(-status).name})"
        except ValueError:
            return f" (signal {-status})"
    return f" (exit status {status})"
