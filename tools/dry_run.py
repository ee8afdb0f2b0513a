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
from vgg_mm.training.loop import TrainLoop

STEPS = 4


class _EnoughError(Exception):
    """Ends a training after some steps."""


class _Stopwatch(Hook):
    """Takes the time at every step's end, and ends the training after ``steps`` or by a signal."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.times: list[float] = []

    def before_train(self, runner: Runner) -> None:
        ours = any(isinstance(hook, CheckpointHook) for hook in runner.hooks)
        if not (ours and isinstance(runner.train_loop, TrainLoop)):
            raise UserError(
                "--dry-run wants train_cfg.type='vgg_mm.TrainLoop' and "
                "default_hooks.checkpoint.type='vgg_mm.CheckpointHook'."
            )

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
        loaders, free = [runner.train_dataloader], _free(work_dir)
        step = median(b - a for a, b in zip(times, times[1:], strict=False))
        validation = 0.0
        if runner.val_loop:
            loaders.append(val_loader := runner.val_dataloader)
            few = runner.val_loop.dataloader = _Few(val_loader, 2)
            start = time.perf_counter()
            runner.val_loop.run()
            validation = (time.perf_counter() - start) / len(few) * len(val_loader)
        (hook,) = (hook for hook in runner.hooks if isinstance(hook, CheckpointHook))
        hook.save(runner)
        lines = _lines(runner, step, validation)

        barrier()
        folder = [scratch]  # the one with the main process's checkpoint
        broadcast_object_list(folder)
        checkpoint = latest(folder[0])
        lines.insert(2, _disk(checkpoint, hook.keep, free, work_dir))
        end_workers(*loaders)
        del runner, loaders, hook
        gc.collect()  # a GPU may not hold two nets
        cfg.resume, cfg.load_from = True, str(checkpoint)
        runner, _ = _train(cfg, 1)
        end_workers(runner.train_dataloader)
        del runner
        gc.collect()
        if evaluate:
            evaluate(cfg, str(checkpoint), Path(folder[0], "scores.npz"), few=True)
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
        if shards := getattr(runner.model, "shards", None):
            shards.join()
        return runner, watch.times
    raise UserError(f"the run has fewer than {steps} steps left; nothing to estimate.")


def _lines(runner: Runner, step: float, validation: float) -> list[str]:
    loader, epochs = runner.train_dataloader, runner.max_epochs - runner.epoch
    tests = math.ceil(epochs / runner.train_loop.val_interval) if runner.val_loop else 0
    tested = f", {len(runner.val_dataloader.dataset)} for validation" if tests else ""
    total = epochs * len(loader) * step + tests * validation
    images = loader.batch_size * runner.world_size
    classes = metainfo(loader.dataset).get("classes")
    return [
        f"data: {len(loader.dataset)} training images"
        + (f" of {len(classes)} classes" if classes else "")
        + tested,
        f"start: {runner.message_hub.get_info('started_from')}",
        f"speed: {step:.3g} s a step of {images} images, {images / step:.3g} images/s; "
        f"{validation:.3g} s a validation",
        f"time: {timedelta(seconds=round(total))} for {epochs} epochs of {len(loader)} steps and "
        f"{tests} validations, at most",
    ]


def _free(work_dir: Path) -> float:
    """GB."""
    return shutil.disk_usage(_existing(work_dir)).free / 1e9


def _disk(checkpoint: Path, keep: int, free: float, work_dir: Path) -> str:
    size, folder = checkpoint.stat().st_size / 1e9, _existing(work_dir)
    needed = (keep + 2) * size  # the best, and the one that is being written
    if needed > free:
        raise UserError(
            f"{keep + 2} checkpoints of {size:.2g} GB do not fit into the {free:.2g} GB that are "
            f"free at {folder}: make room, choose another --work-dir, or keep fewer with "
            "--cfg-options default_hooks.checkpoint.keep=1"
        )
    return f"disk: {keep + 2} checkpoints of {size:.2g} GB at most, {free:.3g} GB free at {folder}"
