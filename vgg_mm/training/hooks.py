"""Hooks of the training run."""

from __future__ import annotations

import numpy as np
import torch
from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from vgg_mm.errors import UserError
from vgg_mm.registry import HOOKS


@HOOKS.register_module()
class ReseedHook(Hook):
    """Seeds torch from (seed, iteration, rank) before every iteration.

    Dropout is then a function of the three, and no random state need be saved to resume.
    """

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict) -> None:
        """Seeds torch's generators."""
        key = (runner.seed, runner.iter, get_rank())
        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))


@HOOKS.register_module()
class SpeedHook(Hook):
    """Logs how many images a second all processes train, and how long they wait for data."""

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict, outputs: object = None
    ) -> None:
        """Logs ``images/s``, and ``waiting`` for data in % of the time."""
        hub = runner.message_hub
        seconds, waiting = (
            hub.get_scalar(f"train/{key}").current() for key in ("time", "data_time")
        )
        images = len(data_batch["inputs"]) * get_world_size()
        hub.update_scalar("train/images/s", images / seconds)
        hub.update_scalar("train/waiting", 100 * waiting / seconds)


@HOOKS.register_module()
class CorruptImagesHook(Hook):
    """Counts the distinct corrupt pictures that :class:`vgg_mm.SeededDataset` replaced.

    Their names are the batch's ``corrupt``, from :func:`vgg_mm.collate_crops`.

    Args:
        limit: The share of the data set that may be bad before the training stops.
    """

    def __init__(self, limit: float = 0.01) -> None:
        self.limit = limit
        self.seen: set[str] = set()

    def before_train(self, runner: Runner) -> None:
        """Takes over what a resumed run had seen."""
        self.seen = set(runner.message_hub.get_info("corrupt", []))

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict) -> None:
        """Logs new names and stops when this process alone has seen too many."""
        new = set(data_batch.get("corrupt", ()))
        for name in sorted(new - self.seen):
            runner.logger.warning(f"Corrupt picture, another takes its place: {name}")
        if new - self.seen:
            self.seen |= new
            runner.message_hub.update_info("corrupt", sorted(self.seen))
            self._check(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        """Stops when all processes together have seen too many."""
        self.seen = set().union(*all_gather_object(self.seen))
        self._check(runner)

    def _check(self, runner: Runner) -> None:
        size = len(runner.train_dataloader.dataset)
        if len(self.seen) > self.limit * size:
            raise UserError(
                f"{len(self.seen)} of {size} training pictures are corrupt, more than "
                f"{self.limit:.0%}, the last ones {'; '.join(sorted(self.seen)[-3:])}. The log "
                "names all: mend or remove them, then --resume."
            )


@HOOKS.register_module()
class ClassCountHook(Hook):
    """Stops before the first step when the head and the data set count different classes."""

    def before_train(self, runner: Runner) -> None:
        """Compares the two.

        Raises:
            UserError: If they differ.
        """
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        outputs = model.head.fc8.out_channels
        classes = runner.train_dataloader.dataset.metainfo["classes"]
        if outputs != len(classes):
            raise UserError(
                f"the data set has {len(classes)} classes and the head {outputs} outputs: use "
                f"--cfg-options model.head.num_classes={len(classes)}"
            )
