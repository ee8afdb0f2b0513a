"""What a test does while it runs: it keeps what is computed, goes on after a kill, shows a bar."""

from __future__ import annotations

import atexit
import hashlib
import json
import logging
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import count, repeat
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dataset import BaseDataset
from mmengine.dist import (
    barrier,
    broadcast_object_list,
    get_dist_info,
    get_world_size,
    is_main_process,
)
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from torch.utils.data import Sampler

from vgg_mm.arrays import BLOCK, Rows, read_arrays, write_arrays
from vgg_mm.errors import UserError
from vgg_mm.registry import DATA_SAMPLERS, HOOKS, METRICS
from vgg_mm.testing import Features, Guesses, Scores
from vgg_mm.testing.scores import Stored
from vgg_mm.writing import replacing


def parts_folder(file: str | Path, *what: object) -> Path:
    """Where a test keeps what is scored: another folder for anything else that is tested."""
    key = hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()[:12]
    return Path(f"{file}.{key}.parts")


@DATA_SAMPLERS.register_module()
class RemainingSampler(Sampler):
    """Yields the indices of the images that an interrupted test has not scored yet.

    Of N processes, each takes every N-th.

    Args:
        dataset: The data set to test on.
        parts: The folder where :class:`SaveScores` keeps what is scored.

    Attributes:
        scored: How many images have been scored, by all processes.
    """

    def __init__(self, dataset: BaseDataset, parts: str, seed: int | None = None) -> None:
        rank, world_size = get_dist_info()
        kept = (read_arrays(part)["names"].tolist() for part in Path(parts).glob("*.npz"))
        done = {name for names in kept for name in names}
        names = [dataset.get_data_info(i)["img_path"] for i in range(len(dataset))]
        if twice := [name for name, times in Counter(names).items() if times > 1]:
            raise UserError(f"{twice[0]} is in the data set more than once: list each image once.")
        remaining = [i for i, name in enumerate(names) if name not in done]
        remaining.sort(key=names.__getitem__)  # as in the file: a part then holds neighbours
        self.scored = len(dataset) - len(remaining)
        self.indices = remaining[rank::world_size]
        barrier()  # no process may add parts while another reads them

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)

    def __len__(self) -> int:
        return len(self.indices)


@METRICS.register_module()
class SaveScores(BaseMetric):
    """Keeps the posteriors of every image and writes them, sorted by name.

    While the test runs, what is scored is kept in a folder beside the file, so that a test that is
    interrupted goes on where it was (:class:`RemainingSampler`).

    Args:
        file: The file to write, see :class:`Scores`.
        protocol: The :class:`vgg_mm.testing.Protocol` as a dict.
        parts: The folder to keep what is scored in, see :func:`parts_folder`.
        half: Whether to store float16 in place of float32.
        every: How many seconds after it last did so a process keeps what it has scored; after long
            it is a hundredth of the time so far.
    """

    default_prefix = "error"
    stored: type[Stored] = Scores

    def __init__(
        self, file: str, protocol: dict, parts: str, half: bool = False, every: float = 1
    ) -> None:
        super().__init__()
        self.file = Path(file)
        self.protocol = protocol
        self.dtype = np.float16 if half else np.float32
        self.every = every
        self.began = self.kept = time.monotonic()
        self.parts = Path(parts)

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keeps a batch's posteriors."""
        self.results += [
            (s["img_path"], np.ravel(s["gt_label"]), s[self.stored.holds].float().cpu().numpy())
            for s in data_samples
        ]
        now, numbers = time.monotonic(), len(self.results) * self.results[-1][2].size
        if numbers >= BLOCK or now - self.kept >= max(self.every, (now - self.began) / 100):
            self._keep()
            self.kept = now

    def _keep(self) -> None:
        if self.results:
            names, labels, values = zip(*self.results, strict=True)
            name = hashlib.sha256(os.fsencode("\n".join(names))).hexdigest()[:16]
            with replacing(self.parts / f"{name}.npz") as file:
                rows = np.array(values, self.dtype)
                write_arrays(file, dict(names=names, labels=labels, values=rows))
            self.results.clear()

    def evaluate(self, size: int) -> dict[str, float]:
        """Puts all processes' parts together and writes the file.

        Returns:
            What the file's own ``metrics`` are: ``error/top1`` and ``error/top5`` in %.
        """
        self._keep()
        barrier()
        metrics: list[dict[str, float]] = [{}]
        if is_main_process():
            self._merge(size).save(self.file)
            shutil.rmtree(self.parts)
            stored = self.stored.load(self.file)
            if (bad := stored.no_numbers()).any():
                print_log(
                    f"{bad.sum()} of {size} images have {stored.holds} that are no numbers (NaN or "
                    f"infinite), {stored.names[bad.argmax()]} first: the net's weights may be so "
                    "too.",
                    "current",
                    logging.WARNING,
                )
            metrics = [{f"{self.prefix}/{key}": value for key, value in stored.metrics().items()}]
        broadcast_object_list(metrics)
        return metrics[0]

    def _merge(self, size: int) -> Stored:
        """What all parts hold, sorted by name; the values are read as they are used.

        Raises:
            UserError: If an image is missing or is there twice.
        """
        rows: list[tuple] = []
        for path in sorted(self.parts.glob("*.npz")):
            part = read_arrays(path)
            rows += zip(part["names"].tolist(), part["labels"].tolist(), repeat(path), count())
        names, labels, paths, places = zip(*sorted(rows), strict=True)
        if len(names) != size or len(set(names)) != size:
            raise UserError(
                f"{self.parts} holds {len(names)} images of {size}: remove it, test anew."
            )
        kept = lru_cache(256)(lambda path: read_arrays(path)["values"])

        def make(at: Any) -> np.ndarray:
            return np.stack([kept(p)[i].copy() for p, i in zip(paths[at], places[at], strict=True)])

        values = Rows((size, *part["values"].shape[1:]), self.dtype, make)
        root = os.path.commonpath([os.path.dirname(name) for name in names])
        meta = self.dataset_meta or {}
        each = np.array(labels)
        numbers = range(values.shape[-1] if self.stored is Scores else each.max() + 1)
        return self.stored(
            labels=each if meta.get("multi_label") else each[:, 0],
            names=np.array([os.path.relpath(name, root) for name in names]),
            classes=np.array(meta.get("classes") or [str(number) for number in numbers]),
            root=root,
            protocols=[self.protocol],
            **{self.stored.holds: values},
        )

    def compute_metrics(self, results: list) -> dict:
        """Computes nothing: :meth:`evaluate` reads the results, which are on the disk."""
        return {}


@METRICS.register_module()
class SaveGuesses(SaveScores):
    """Keeps the guesses of every image and writes :class:`Guesses`, sorted by name.

    Takes :class:`SaveScores`' arguments.
    """

    default_prefix = "localisation"
    stored = Guesses

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keeps a batch's guesses.

        Raises:
            UserError: If a sample has no ``gt_bboxes`` to compare them with.
        """
        for sample in data_samples:
            if "gt_bboxes" not in sample:
                raise UserError(
                    f"{sample['img_path']} comes without gt_bboxes: test on a data set with boxes, "
                    "such as vgg_mm.ImageNetBoxes, and have tta_pipeline pack them "
                    "(algorithm_keys=['gt_bboxes'])."
                )
        super().process(data_batch, data_samples)


@METRICS.register_module()
class SaveFeatures(SaveScores):
    """Keeps the descriptor of every image and writes :class:`Features`, sorted by name.

    Takes :class:`SaveScores`' arguments.
    """

    default_prefix = "features"
    stored = Features


@HOOKS.register_module()
class PrepareHook(Hook):
    """Has a Localizer read its files once the data set has the checkpoint's classes."""

    priority = "VERY_LOW"

    def before_test(self, runner: Runner) -> None:
        """Calls :meth:`vgg_mm.testing.Localizer.prepare`."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        model.prepare(runner.test_loop.dataloader.dataset)


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
