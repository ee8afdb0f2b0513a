"""How far a test is."""

from __future__ import annotations

import atexit
import time
from collections.abc import Sequence

from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from vgg_mm.registry import HOOKS


@HOOKS.register_module()
class ProgressBarHook(Hook):
    """Shows how many images a test has scored and the time left: on stderr, by the main process.

    A terminal gets a bar, anything else a line now and then. Counted are the images of all
    processes, which share them evenly, and those that an interrupted test had scored.

    Args:
        every: Seconds between two lines where stderr is no terminal.
    """

    def __init__(self, every: float = 30) -> None:
        self.every = every

    def before_test_epoch(self, runner: Runner) -> None:
        """Starts with the images that are scored already."""
        dataset, sampler = runner.test_dataloader.dataset, runner.test_dataloader.sampler
        self.console = Console(stderr=True, quiet=not is_main_process())
        self.progress = Progress(
            "images",
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            "left",
            console=self.console,
            speed_estimate_period=float("inf"),  # a batch may take minutes
        )
        self.task = self.progress.add_task("", total=len(dataset), completed=sampler.scored)
        self.told = time.monotonic()
        if self.console.is_terminal:
            self.progress.start()
            atexit.register(self.progress.stop)  # after an error too, for the bar hides the cursor

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict, outputs: Sequence
    ) -> None:
        """Counts a batch."""
        (task,) = self.progress.tasks
        done = task.completed + len(outputs) * get_world_size()
        self.progress.update(self.task, completed=min(done, task.total))
        if not self.console.is_terminal and time.monotonic() - self.told >= self.every:
            self.told = time.monotonic()
            self.console.print(self.progress.get_renderable())

    def after_test_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Ends the bar."""
        if self.console.is_terminal:
            self.progress.stop()
