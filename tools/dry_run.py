"""Is everything there for a run, and how long will it take? Without leaving a trace."""

from __future__ import annotations

import gc
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import islice
from pathlib import Path
from statistics import median

from mmengine.config import Config
from mmengine.dist import barrier, broadcast_object_list, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from tools.resume import latest
from vgg_mm.data.classes import metainfo
from vgg_mm.errors import UserError
from vgg_mm.training.checkpoints import CheckpointHook

STEPS = 4


class _EnoughError(Exception):
    """Ends a training after some steps."""


class _Stopwatch(Hook):
    """Takes the time at every step's end, and ends the training after ``steps`` or by a signal."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.times: list[float] = []

    def after_train_iter(self, runner: Runner, *args, **kwargs) -> None:
        if stop := runner.train_loop.stop.number:
            raise SystemExit(128 + stop)  # before a checkpoint is saved that would not stay
        self.times.append(time.perf_counter())
        if len(self.times) == self.steps:
            raise _EnoughError


class _Few:
    """The first batches of a data loader."""

    def __init__(self, loader: DataLoader, batches: int) -> None:
        self.loader = loader
        self.batches = min(batches, len(loader))

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[dict]:
        return islice(self.loader, self.batches)

    def __getattr__(self, name: str) -> object:
        return getattr(self.loader, name)


def dry_run(cfg: Config, evaluate: Callable[..., dict] | None) -> None:
    """Does a little of all that a run does, and prints how long all of it takes.

    It trains a few steps, validates on a batch or two, saves a checkpoint, resumes it for a step
    and tests it on a batch, with the run's own hooks. The work dir stays as it is: a folder beside
    it, on the same disk, is removed at the end.

    Args:
        cfg: The run's config.
        evaluate: :func:`tools.evaluation.evaluate`; None leaves the test out.

    Raises:
        UserError: If something that the run needs is missing or fails; it says what.
    """
    work_dir = Path(cfg.work_dir)
    accumulated = cfg.optim_wrapper.get("accumulative_counts", 1)
    with _beside(work_dir) as scratch:
        cfg.work_dir = scratch
        runner, times = _train(cfg, accumulated * math.ceil(STEPS / accumulated))
        disk = _disk(runner, work_dir)
        loader, val_loader = runner.train_dataloader, runner.val_dataloader
        step = median(b - a for a, b in zip(times, times[1:], strict=False))
        few = runner.val_loop.dataloader = _Few(val_loader, 2)
        start = time.perf_counter()
        runner.val_loop.run()
        validation = (time.perf_counter() - start) / len(few) * len(val_loader)
        for hook in runner.hooks:
            if isinstance(hook, CheckpointHook):
                hook.save(runner)
        lines = _lines(runner, step, validation)
        lines.insert(2, disk)

        barrier()
        folder = [scratch]  # the one with the main process's checkpoint
        broadcast_object_list(folder)
        checkpoint = str(latest(folder[0]))
        end_workers(loader, val_loader)
        del runner, loader, val_loader, few, hook
        gc.collect()  # a GPU may not hold two nets
        cfg.resume, cfg.load_from = True, checkpoint
        runner, _ = _train(cfg, 1)
        end_workers(runner.train_dataloader)
        del runner
        gc.collect()
        if evaluate:
            evaluate(cfg, checkpoint, Path(folder[0], "scores.npz"), few=True)
        barrier()
    if is_main_process():
        print("\n".join(lines))
        print(f"tried: training, validation, a checkpoint, --resume{', the test' * bool(evaluate)}")


def end_workers(*loaders: DataLoader) -> None:
    """Ends the workers that data loaders keep.

    The garbage collector, which finds a loader in its run's circle of references, ends the queues
    to the workers first, and then torch waits in vain for 5 seconds for each of them.
    """
    for loader in loaders:
        loader._iterator = None


@contextmanager
def _beside(work_dir: Path) -> Iterator[str]:
    """A folder on the work dir's disk while it is needed."""
    folder = _existing(work_dir.parent)
    try:
        scratch = tempfile.mkdtemp(prefix=".dry_run_", dir=folder)
    except OSError as error:
        raise UserError(
            f"nothing can be written to {folder} ({error.strerror}): choose another --work-dir."
        ) from None
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder


def _train(cfg: Config, steps: int) -> tuple[Runner, list[float]]:
    """Takes so many steps of a run; returns it, and when each ended."""
    runner = Runner.from_cfg(cfg)
    watch = _Stopwatch(steps)
    runner.register_hook(watch, priority="HIGHEST")
    try:
        runner.train()
    except _EnoughError:
        runner.train_loop._iter += 1
        return runner, watch.times
    raise UserError(f"the run has fewer than {steps} steps left; nothing to estimate.")


def _lines(runner: Runner, step: float, validation: float) -> list[str]:
    loader, val_loader = runner.train_dataloader, runner.val_dataloader
    epochs = runner.max_epochs - runner.epoch
    tests = math.ceil(epochs / runner.train_loop.val_interval)
    total = epochs * len(loader) * step + tests * validation
    images = loader.batch_size * runner.world_size
    classes = metainfo(loader.dataset).get("classes")
    return [
        f"data: {len(loader.dataset)} training images"
        + (f" of {len(classes)} classes" if classes else "")
        + f", {len(val_loader.dataset)} for validation",
        f"start: {runner.message_hub.get_info('started_from')}",
        f"speed: {step:.3g} s a step of {images} images, {images / step:.3g} images/s; "
        f"{validation:.3g} s a validation",
        f"time: {timedelta(seconds=round(total))} for {epochs} epochs of {len(loader)} steps and "
        f"{tests} validations, at most",
    ]


def _disk(runner: Runner, work_dir: Path) -> str:
    weights = sum(p.numel() * p.element_size() for p in runner.model.parameters())
    size = 2 * weights / 1e9  # with the optimiser's momentum
    (keep,) = (hook.keep for hook in runner.hooks if isinstance(hook, CheckpointHook))
    needed = (keep + 2) * size  # the best, and the one that is being written
    folder = _existing(work_dir)
    free = shutil.disk_usage(folder).free / 1e9
    if needed > free:
        raise UserError(
            f"{keep + 2} checkpoints of {size:.2g} GB do not fit into the {free:.2g} GB that are "
            f"free at {folder}: make room, choose another --work-dir, or keep fewer with "
            "--cfg-options default_hooks.checkpoint.keep=1"
        )
    return f"disk: {keep + 2} checkpoints of {size:.2g} GB at most, {free:.3g} GB free at {folder}"
