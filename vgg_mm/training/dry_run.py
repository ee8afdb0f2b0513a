"""Is everything there for a run, and how long will it take? Without leaving a trace."""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from datetime import timedelta
from itertools import islice
from pathlib import Path
from statistics import median

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from vgg_mm.data.classes import metainfo
from vgg_mm.errors import UserError
from vgg_mm.training.checkpoints import CheckpointHook

STEPS = 4


class _EnoughError(Exception):
    """Ends a training after STEPS steps."""


class _Stopwatch(Hook):
    """Takes the time at every step's end."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def after_train_iter(self, runner: Runner, *args, **kwargs) -> None:
        self.times.append(time.perf_counter())
        if len(self.times) == STEPS:
            raise _EnoughError


def dry_run(cfg: Config) -> None:
    """Checks data, config and disk space, trains a few steps and prints how long a run takes.

    Nothing is written to the work dir.

    Raises:
        UserError: If something that the run needs is missing; it says what.
    """
    work_dir = Path(cfg.work_dir)
    with tempfile.TemporaryDirectory() as scratch:
        cfg.work_dir = scratch
        runner = Runner.from_cfg(cfg)
        watch = _Stopwatch()
        runner.register_hook(watch, priority="LOWEST")
        try:
            runner.train()
        except _EnoughError:
            pass
        else:
            raise UserError(f"the run has fewer than {STEPS} steps left; nothing to estimate.")
        loader, val_loader = runner.train_dataloader, runner.val_dataloader
        step = median(b - a for a, b in zip(watch.times, watch.times[1:], strict=False))
        start = time.perf_counter()
        runner.model.eval()
        for i, batch in enumerate(islice(val_loader, 2), 1):
            runner.val_loop.run_iter(i - 1, batch)
        validation = (time.perf_counter() - start) / i * len(val_loader)

    epochs = runner.max_epochs - runner.epoch
    tests = math.ceil(epochs / runner.train_loop.val_interval)
    total = epochs * len(loader) * step + tests * validation
    images = loader.batch_size * runner.world_size
    classes = metainfo(loader.dataset).get("classes")
    lines = [
        f"data: {len(loader.dataset)} training pictures"
        + (f" of {len(classes)} classes" if classes else "")
        + f", {len(val_loader.dataset)} for validation",
        f"start: {runner.message_hub.get_info('started_from')}",
        _disk(runner, work_dir),
        f"speed: {step:.3g} s a step of {images} images, {images / step:.3g} images/s; "
        f"{validation:.3g} s a validation",
        f"time: {timedelta(seconds=round(total))} for {epochs} epochs of {len(loader)} steps and "
        f"{tests} validations, at most",
    ]
    if is_main_process():
        print("\n".join(lines))


def _disk(runner: Runner, work_dir: Path) -> str:
    weights = sum(p.numel() * p.element_size() for p in runner.model.parameters())
    size = 2 * weights / 1e9  # with the optimiser's momentum
    (keep,) = (hook.keep for hook in runner.hooks if isinstance(hook, CheckpointHook))
    needed = (keep + 2) * size  # the best, and the one that is being written
    folder = work_dir.absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 1e9
    if needed > free:
        raise UserError(
            f"{keep + 2} checkpoints of {size:.2g} GB do not fit into the {free:.2g} GB that are "
            f"free at {folder}: make room, choose another --work-dir, or keep fewer with "
            "--cfg-options default_hooks.checkpoint.keep=1"
        )
    return f"disk: {keep + 2} checkpoints of {size:.2g} GB at most, {free:.3g} GB free at {folder}"
