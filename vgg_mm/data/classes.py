"""A class is its name: data sets and checkpoints agree on their classes by name, never by rank."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.dataset import ConcatDataset, RepeatDataset
from mmengine.logging import print_log
from mmpretrain.registry import DATASETS

from vgg_mm.data.wrappers import holds_images, innermost, levels
from vgg_mm.errors import UserError

_KEYS = ("folders", "classes")  # of a metainfo


def metainfo(dataset: Any) -> dict:
    """A data set's ``metainfo``; empty where it has none."""
    return getattr(dataset, "metainfo", None) or {}


def shortened(names: Sequence[str], most: int = 8) -> str:
    """The names in one line; of many the first and how many they are."""
    more = f" ... ({len(names)} in all)" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more


def positions(among: Mapping, of: Mapping) -> list[int] | None:
    """The number that each class of a ``metainfo`` has in another; None if one is not there.

    Both need ``classes``. Where both have ``folders``, as ImageNet's, these are the names, for two
    of its classes are called crane.

    Args:
        among: The ``metainfo`` of the data set that a net was trained on.
        of: That of other data; or, to take the rows of a classifier (``weight[positions]``), that
            of the classes which another classifier shall tell apart.
    """
    ways = [(theirs, ours) for theirs in _names(among) for ours in _names(of)]
    if "folders" in among and "folders" in of:
        ways = ways[:1]
    for theirs, ours in ways:
        if theirs == ours:
            return list(range(len(ours)))
        number = {name: i for i, name in enumerate(theirs)}
        if len(number) == len(theirs) and len(set(ours)) == len(ours) and number.keys() >= {*ours}:
            return [number[name] for name in ours]
    return None


def _names(meta: Mapping) -> list[list[str]]:
    return [list(meta[key]) for key in _KEYS if meta.get(key)]


def differences(one: str, ours: Mapping, other: str, theirs: Mapping) -> str:
    """What to tell of two that do not agree: who they are, the odd names, and both lists."""
    a, b = (_names(meta)[0] for meta in (ours, theirs))
    if odd := [name for name in a if name not in b]:
        lead = f"{one} has classes that {other} lacks: {shortened(odd)}"
    elif odd := [name for name in b if name not in a]:
        lead = f"{one} lacks classes of {other}: {shortened(odd)}"
    else:
        lead = f"{one} and {other} have the same classes in another order"
    return f"{lead}. The classes of {one}: {shortened(a)}; of {other}: {shortened(b)}."


def agree(dataset: Any, meta: Mapping, name: str, other: str) -> list[str]:
    """Gives a data set the labels that its classes have elsewhere.

    Args:
        dataset: The data set; from then on, its samples are labelled by ``meta``, which becomes its
            ``metainfo``.
        meta: The ``metainfo`` with all ``classes``, in the order of a net's outputs.
        name: What to call the data set.
        other: What to call the owner of ``meta``.

    Returns:
        The classes of which the data set has no image, as far as it knows.

    Raises:
        UserError: If the data set has a class that ``meta`` lacks, or its labels cannot be changed.
    """
    ours = metainfo(dataset)
    for each in levels(dataset):
        # The parts of one that wraps several have classes of their own.
        own = metainfo(each) if metainfo(each).get("classes") else ours
        if (numbers := positions(meta, own)) is None:
            which = name if each is dataset else f"a part of {name}"
            raise UserError(
                differences(which, own, other, meta) + " Name them alike: rename or remove a "
                "folder, or give the data set classes=[...]."
            )
        if numbers == list(range(len(meta["classes"]))):
            continue
        if holds_images(each):
            relabelled = partial(_relabelled, numbers, len(meta["classes"]))
            each.pipeline.transforms.insert(0, relabelled)
            each.empty = {*range(len(meta["classes"]))} - {*numbers} | {
                numbers[label] for label in getattr(each, "empty", ())
            }
        if hasattr(each, "_metainfo"):
            each._metainfo.pop("folders", None)
            each._metainfo.update({key: meta[key] for key in _KEYS if key in meta})
    return empty_classes(dataset)


def empty_classes(dataset: Any) -> list[str]:
    """The classes without an image, as far as the data sets in it know."""
    known = [{*each.empty} for each in levels(dataset) if hasattr(each, "empty")]
    names = metainfo(dataset).get("classes", ())
    return [names[label] for label in sorted(set.intersection(*known))] if known else []


def _relabelled(numbers: Sequence[int], classes: int, results: dict) -> dict:
    """A transform: ``gt_label`` in the new ``numbers`` of the ``classes``.

    It is a number, a list of numbers, or an array of one value a class.
    """
    label = results.get("gt_label")
    if isinstance(label, np.ndarray) and label.ndim:
        results["gt_label"] = np.zeros(classes, label.dtype)  # 0: nothing is known of it
        results["gt_label"][numbers] = label
    elif isinstance(label, list | tuple):
        results["gt_label"] = [numbers[each] for each in label]
    elif label is not None:
        results["gt_label"] = numbers[label]
    return results


def _get_cat_ids(self: Any, idx: int) -> list[int]:
    """A sample's classes: of parts that number them in their own way, by the first one's."""
    part, at = innermost(self, idx)
    known = self.__dict__.setdefault("_numbers", {})
    if id(part) not in known:
        known[id(part)] = positions(metainfo(self), metainfo(part))
    numbers, labels = known[id(part)], part.get_cat_ids(at)
    return [numbers[label] for label in labels] if numbers else labels


for _wrapper in (ConcatDataset, RepeatDataset):  # so that ClassBalancedDataset takes them
    if not hasattr(_wrapper, "get_cat_ids"):
        _wrapper.get_cat_ids = _get_cat_ids


def of_config(cfg: Config) -> Sequence[str]:
    """The names of the config's training data, whose order is the net's, or else of its test data.

    None, with a warning, where neither is here or names its classes.
    """
    errors = []
    for loader in ("train_dataloader", "test_dataloader"):
        if not (data := (cfg.get(loader) or {}).get("dataset")):
            continue
        data = next(each for each in levels(data) if {"dataset", "datasets"}.isdisjoint(each))
        try:
            dataset = DATASETS.build({**data, "pipeline": [], "lazy_init": True})
            if "classes" not in metainfo(dataset):  # they are its folders
                dataset.full_init()
        except (UserError, OSError) as error:  # the latter is other libraries'
            errors.append(str(error))
            continue
        if classes := metainfo(dataset).get("classes"):
            return classes
    reason = errors[0] if errors else "The config's data sets name none."
    warning = f"classes are numbers, for the weights' file does not name them. {reason}"
    print_log(warning, "current", logging.WARNING)
    return ()
