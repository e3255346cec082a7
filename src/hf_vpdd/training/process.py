"""What a run changes in its process: the answer to SIGTERM, the number of torch's threads."""

import signal
import threading
from contextlib import contextmanager

import torch


class SignalFlag:
    """Remembers SIGTERM while inside; signals can be caught in the main thread only, elsewhere this does nothing."""

    def __init__(self) -> None:
        self.raised = False

    def __enter__(self) -> "SignalFlag":
        self.installed = threading.current_thread() is threading.main_thread()
        if self.installed:
            self.before = signal.signal(signal.SIGTERM, self._catch)
        return self

    def _catch(self, signum, frame) -> None:
        self.raised = True

    def __exit__(self, *exc) -> None:
        if self.installed:
            signal.signal(signal.SIGTERM, self.before)


@contextmanager
def torch_threads(number: int):
    before = torch.get_num_threads()
    if number:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
