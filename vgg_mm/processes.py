"""A pool of processes for work on many files, or the like."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

import cv2
from rich.console import Console
from rich.progress import track

from vgg_mm.errors import UserError
from vgg_mm.signals import STOPS

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_processes(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    jobs: int,
    doing: str,
    chunk: int | None = None,
) -> Iterator[Result]:
    """Yields the result of every item, in order; a progress bar goes to stderr.

    Args:
        work: What to do with an item, such as a file, a function that can be pickled.
        items: All of them.
        jobs: How many processes, one item at a time each.
        doing: What the bar says.
        chunk: How many items a process is handed at once; default: enough of many small ones.

    Raises:
        UserError: If a process was killed.
    """
    with ProcessPoolExecutor(max(1, min(jobs, len(items))), initializer=_start_worker) as pool:
        try:
            # Handing over many small items takes longer than they do.
            chunk = chunk or 8 + len(items) // 5000
            results = pool.map(work, items, chunksize=chunk)
            yield from track(results, doing, len(items), console=Console(stderr=True))
        except BrokenProcessPool:
            raise UserError(
                "a process was killed, perhaps for want of memory: try fewer --jobs."
            ) from None
        except BaseException:
            for child in multiprocessing.active_children():
                child.terminate()
            pool.shutdown(cancel_futures=True)
            raise


def _start_worker() -> None:
    for number in (signal.SIGINT, *STOPS):  # it ends at once, without a traceback
        signal.signal(number, signal.SIG_DFL)
    cv2.setNumThreads(0)
