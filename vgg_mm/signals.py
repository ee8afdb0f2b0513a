"""SIGTERM and SIGUSR1: the end of a machine's or a job's time."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch takes seconds, which a --help spares
    from torch.utils.data import DataLoader

STOPS = [signal.SIGTERM, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else [])]
Handler = Callable[[int, FrameType | None], None]


@contextmanager
def handled(handler: Handler) -> Iterator[None]:
    """Has ``handler`` called on ``STOPS``; in another thread than the main one, nothing is done."""
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, handler) for number in STOPS} if main else {}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous or signal.SIG_DFL)


def leave(number: int, frame: FrameType | None) -> None:
    """Ends a tool as an exception does: what it opened is closed, its children end.

    Raises:
        SystemExit: With status 128 + the signal, as a shell reports it.
    """
    sys.exit(128 + number)


class Noted:
    """A handler that notes the first signal, for a loop to end where it can go on.

    One that comes ``after`` seconds later or more ends the process at once: until then it may be
    the same, sent to the process and to its group.

    Attributes:
        number: The signal's, or 0.
    """

    def __init__(self, after: float = 3) -> None:
        self.after = after
        self.number = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Notes the signal, or ends the process."""
        now = time.monotonic()
        if not self.number:
            self.number, self.at = number, now
        elif now - self.at >= self.after:
            _end_children()
            os._exit(128 + number)


def outlive(loader: DataLoader) -> None:
    """Lets a data loader's workers live through a signal to all processes: their parent ends them.

    Torch's die of it, of which the parent hears in the middle of a step.
    """
    loader.worker_init_fn = partial(_start_worker, loader.worker_init_fn)
    atexit.unregister(_end_children)
    atexit.register(_end_children)  # before multiprocessing's own, which asks by SIGTERM and waits


def _end_children() -> None:
    if hasattr(signal, "SIGCHLD"):  # torch takes the death of a worker for an error
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for child in multiprocessing.active_children():
        child.kill()


def _start_worker(init: Callable[[int], None] | None, worker: int) -> None:
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)
    if init:
        init(worker)
