"""Processes that train a toy and can be killed, without paying for their imports each time.

One server imports torch once and forks a process for every run: each is a real process, with its own id, that dies of
`kill -9` like any other.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path


ROOT = Path(__file__).resolve().parents[2]


class Server:
    """Starts runs of `tests.training.toy`. Use as a context manager."""

    def __enter__(self) -> "Server":
        path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.training.killable"], cwd=ROOT, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        return self

    def __exit__(self, *error) -> None:
        self.process.stdin.close()
        self.process.wait(60)

    def ask(self, **request) -> dict:
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def start(self, folder: Path, *arguments: str, processes: int = 1) -> "Run":
        """A toy, see `tests.training.toy`."""
        return Run(self, folder, [str(folder), *arguments], processes)

    def finetune(self, folder: Path, config: Path, *arguments: str) -> "Run":
        """The real thing: what training/finetune.py does with this recipe."""
        return Run(self, folder, ["finetune", "--config", str(config), "--output_dir", str(folder), *arguments], 1)


class Run:
    """One training by one or several processes."""

    def __init__(self, server: Server, folder: Path, arguments: list[str], processes: int):
        self.server, self.folder = server, folder
        self.log = folder.parent / f"{folder.name}.log"
        group = {}
        if processes > 1:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            group = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        self.pids = [
            server.ask(
                arguments=arguments, log=str(self.log),
                environment={**group, **({"RANK": str(rank), "LOCAL_RANK": str(rank)} if group else {})},
            )["pid"]
            for rank in range(processes)
        ]  # fmt: skip

    def send(self, number: int) -> None:
        for pid in self.pids:
            os.kill(pid, number)

    def kill(self) -> None:
        """`kill -9` to all of them, and wait until they are gone."""
        self.send(signal.SIGKILL)
        assert self.wait() == [-signal.SIGKILL] * len(self.pids), "it had ended before it was killed"

    def wait(self) -> list[int]:
        """Exit status of every process; minus the signal that ended it."""
        return [self.server.ask(wait=pid)["status"] for pid in self.pids]

    def running(self) -> bool:
        return all(self.server.ask(alive=pid)["alive"] for pid in self.pids)

    def until(self, condition, seconds: float = 120) -> None:
        """Wait for `condition()` while the run goes on."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.running(), self.log.read_text()
            assert time.monotonic() < deadline, "nothing happened in time"
            time.sleep(0.005)

    def finish(self) -> None:
        assert self.wait() == [0] * len(self.pids), self.log.read_text()


def serve() -> None:
    import peft  # noqa: F401  (imported for those who are forked)

    from . import toy

    ended = {}
    for line in sys.stdin:
        request = json.loads(line)
        if "arguments" in request:
            if request["arguments"][0] == "finetune":
                import hf_vpdd.training.stages.finetune  # noqa: F401
            pid = os.fork()
            if pid == 0:
                run(toy, request)
            answer = {"pid": pid}
        elif "wait" in request:
            pid = request["wait"]
            if pid not in ended:
                ended[pid] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            answer = {"status": ended[pid]}
        else:
            pid = request["alive"]
            if pid not in ended:
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    ended[pid] = os.waitstatus_to_exitcode(status)
            answer = {"alive": pid not in ended}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def run(toy, request: dict) -> None:
    """The forked process: never returns."""
    import traceback

    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.environ.update(request["environment"])
    code = 1
    try:
        first, *rest = request["arguments"]
        if first == "finetune":
            from hf_vpdd.training import parse_command_line, run_finetune

            run_finetune(parse_command_line("finetune", rest))
        else:
            toy.main([first, *rest])
        code = 0
    except SystemExit as error:
        code = error.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve()
