"""Hooks of the training run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import BaseLoop, Runner
from torch import nn
from torch.utils.data import Dataset

from vgg_mm.data.classes import agree, differences, empty_classes, metainfo, positions, shortened
from vgg_mm.data.wrappers import holds_images, levels, with_pipeline
from vgg_mm.errors import UserError
from vgg_mm.models.dropout import free_dropout, seed_dropout
from vgg_mm.registry import DATASETS, HOOKS
from vgg_mm.training.distributed import unwrapped


@HOOKS.register_module()
class ReseedHook(Hook):
    """Makes chance a function of the seed and the iteration, so that a resumed run has the same.

    Dropout in fc6 and fc7 is one of the position in the whole batch besides, and the same whatever
    the number of processes (:class:`vgg_mm.models.dropout.Dropout`); what draws from torch's
    generators finds them seeded from (seed, iteration, rank).
    """

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict) -> None:
        """Seeds dropout and torch's generators."""
        key = (runner.seed, runner.iter, get_rank())
        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))
        processes, gathered = get_world_size(), getattr(runner.model, "shards", None)
        ranks = range(processes) if gathered else [get_rank()]
        seed_dropout(runner.model, runner.seed, runner.iter, ranks, processes)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict, outputs: object = None
    ) -> None:
        """Leaves dropout to torch."""
        free_dropout(runner.model)


@HOOKS.register_module()
class SpeedHook(Hook):
    """Logs how many images a second all processes train, and how long they wait for data.

    A run's first step gets a line of its own in the log.
    """

    def before_train(self, runner: Runner) -> None:
        """Waits for the first step."""
        self.first = True

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
        if self.first:
            self.first = False
            runner.logger.info(
                runner.log_processor.get_log_after_iter(runner, batch_idx, "train")[1]
            )


@HOOKS.register_module()
class CorruptImagesHook(Hook):
    """Counts the distinct corrupt pictures that :class:`vgg_mm.SeededDataset` replaced.

    Their names are the batch's ``corrupt``, from :func:`vgg_mm.collate_crops`.

    Args:
        limit: The share of the data set that may be bad before the training stops; one always may.
    """

    def __init__(self, limit: float = 0.01) -> None:
        self.limit = limit
        self.seen: set[str] = set()

    def before_train(self, runner: Runner) -> None:
        """Counts from none: what a resumed run had seen may be mended, and an epoch has all."""
        self.seen = set()

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict) -> None:
        """Logs new names and stops when this process alone has seen too many."""
        new = set(data_batch.get("corrupt", ()))
        for name in sorted(new - self.seen):
            runner.logger.warning(f"Corrupt picture, another takes its place: {name}")
        if new - self.seen:
            self.seen |= new
            self._check(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        """Stops when all processes together have seen too many."""
        self.seen = set().union(*all_gather_object(self.seen))
        self._check(runner)

    def _check(self, runner: Runner) -> None:
        size = len(runner.train_dataloader.dataset)
        if len(self.seen) > max(1, self.limit * size):
            raise UserError(
                f"{len(self.seen)} of {size} training pictures are corrupt, more than "
                f"{self.limit:.0%}, such as {' '.join(sorted(self.seen)[-3:])} The log names all: "
                "mend them, then --resume; or remove them and begin a new run with --start-from."
            )


@HOOKS.register_module(name=["ClassesHook", "ClassCountHook"])  # the second: its name of old
class ClassesHook(Hook):
    """Sees that net, checkpoint and data sets mean the same classes, before the first step.

    A class is its name. Data to validate or test on gets the labels that its classes have in the
    training set, or in the checkpoint that is tested; classes that it lacks are logged. Only what
    is there is compared: a head that tells its ``num_classes``, data sets that name their classes.
    """

    priority = "LOWEST"  # another net's checkpoint is told first

    def before_train(self, runner: Runner) -> None:
        """Compares the training set with the head, and the other sets with the training set."""
        train = runner.train_dataloader.dataset
        meta, outputs = metainfo(train), _outputs(runner.model)
        classes = meta.get("classes")
        if classes and outputs and outputs != len(classes):
            raise UserError(
                f"the data set has {len(classes)} classes and the head {outputs} outputs: use "
                f"--cfg-options model.head.num_classes={len(classes)}"
            )
        if empty := empty_classes(train):
            message = f"no picture to train on of {len(empty)} class(es): {shortened(empty)}."
            if not any(getattr(each, "ann_file", "") for each in levels(train)):
                raise UserError(
                    f"{message} Fill their folders, or name the classes that there are; "
                    "vgg_mm.Folders takes them from the folders."
                )
            runner.logger.warning(message)
        _check_labels(train, "training", len(classes) if classes else outputs)
        if isinstance(runner.val_loop, BaseLoop):
            validation = runner.val_loop.dataloader.dataset
            _relabel(runner, validation, "validation", meta, "the training set")
            runner.val_evaluator.dataset_meta = metainfo(validation)
        # The data set to test on after the training, if it is not that of the validation.
        configs = [runner.cfg.get(f"{name}_dataloader") or {} for name in ("val", "test")]
        val, test = (with_pipeline(each.get("dataset", {}), []) for each in configs)
        if "type" in test and test != val:
            _relabel(runner, DATASETS.build(test), "test", meta, "the training set")

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compares the classes of a checkpoint with those of the data to resume or test on."""
        meta = checkpoint.get("meta", {}).get("dataset_meta") or {}
        if isinstance(runner._train_loop, BaseLoop):
            ours = metainfo(runner.train_dataloader.dataset)
            if runner._resume and meta.get("classes") and ours.get("classes"):
                if positions(meta, ours) != list(range(len(meta["classes"]))):
                    name = f"{runner._load_from}"
                    raise UserError(
                        differences("the training set", ours, name, meta)
                        + " Resume with the classes that it was saved with, or begin a new run "
                        "with --start-from."
                    )
            return
        for loop in (runner._val_loop, runner._test_loop):
            if isinstance(loop, BaseLoop):
                dataset = loop.dataloader.dataset
                _relabel(runner, dataset, "test", meta, str(runner._load_from))
                loop.evaluator.dataset_meta = metainfo(dataset)


def _outputs(model: nn.Module) -> int | None:
    """How many classes a classifier tells apart, if its head says so."""
    outputs = getattr(getattr(unwrapped(model), "head", None), "num_classes", None)
    return outputs if isinstance(outputs, int) and outputs > 0 else None


def _relabel(runner: Runner, dataset: Dataset, name: str, meta: Mapping, other: str) -> None:
    """Gives the data set ``name`` the labels of the classes in ``meta``, which is of ``other``."""
    outputs, theirs = _outputs(runner.model), meta.get("classes")
    _check_labels(dataset, name, len(theirs) if theirs else outputs)
    classes = metainfo(dataset).get("classes")
    if not classes:
        return
    if not theirs:
        if outputs and len(classes) != outputs:
            raise UserError(
                f"the {name} set has {len(classes)} classes ({shortened(classes)}), the head "
                f"{outputs} outputs, and {other} names no classes: name them in the same order, "
                "with metainfo=dict(classes=[...])."
            )
        runner.logger.warning(
            f"{other} names no classes: that they are those of the {name} set, in the same order, "
            f"is taken for granted: {shortened(classes)}."
        )
    elif missing := agree(dataset, meta, f"the {name} set", other):
        runner.logger.warning(
            f"the {name} set has no picture of {len(missing)} of {len(theirs)} classes: "
            f"{shortened(missing)}."
        )


def _check_labels(dataset: Dataset, name: str, classes: int | None) -> None:
    """Looks for labels beyond the classes, where the data set has not done so itself."""
    if classes is None:
        return
    for label, place in chain.from_iterable(map(_labels, levels(dataset))):
        for number in label if isinstance(label, list | tuple) else [label]:
            if isinstance(number, int | np.integer) and not 0 <= number < classes:
                raise UserError(
                    f"{place}: the label {number} is none of the {classes} classes in the "
                    f"{name} set. Labels count from 0: 0 to {classes - 1}."
                )


def _labels(dataset: Any) -> Iterator[tuple[Any, str]]:
    """A data set's labels and whose they are; of ours, which looked through them, the largest."""
    if hasattr(dataset, "largest"):
        yield from [dataset.largest] if dataset.largest else []
    elif holds_images(dataset):
        for info in map(dataset.get_data_info, range(len(dataset))):
            yield info.get("gt_label"), info.get("img_path", "an image")
