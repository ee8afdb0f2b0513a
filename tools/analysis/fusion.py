"""Fusion: the average of several models' posteriors (Sec. 3.2; Tables 5 and 6)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

import numpy as np

from vgg_mm.arrays import At, Rows
from vgg_mm.errors import UserError
from vgg_mm.testing.scores import Scores


def normalised(weights: Sequence[float] | None, n: int) -> list[float]:
    """The weights of ``n`` models, scaled to a sum of 1; equal ones in place of None.

    Raises:
        UserError: If there are more or fewer than ``n``, one is negative, or none is positive.
    """
    weights = [1.0] * n if weights is None else list(weights)
    if len(weights) != n:
        raise UserError(f"{len(weights)} weights for {n} files of scores: give each its own.")
    total = sum(weights)
    if not (min(weights) >= 0 and 0 < total < float("inf")):
        shown = " ".join(f"{weight:g}" for weight in weights)
        raise UserError(f"weights {shown}: use numbers of 0 or more, with a positive sum.")
    return [weight / total for weight in weights]


def fuse(named: Iterable[tuple[str | Path, Scores]], weights: Sequence[float]) -> Scores:
    """Averages posteriors, each model's first over its own views and scales.

    Args:
        named: Files' names and their scores.
        weights: One for each, which sum to 1, see :func:`normalised`.

    Returns:
        Posteriors (N, 1, classes) in float64, averaged as they are read, with the ``protocols`` of
        all.

    Raises:
        UserError: If two were not tested on the same data, see :func:`check_same_data`.
    """
    first, *others = named = list(named)
    for other in others:
        check_same_data(*first, *other)
    models = [scores for _, scores in named]

    def average(at: At) -> np.ndarray:
        means = (weight * scores.mean(at) for weight, scores in zip(weights, models, strict=True))
        return sum(means)[:, None]

    n, _, classes = models[0].posteriors.shape
    protocols = sum((scores.protocols for scores in models), [])
    posteriors = Rows((n, 1, classes), np.float64, average)
    return replace(models[0], posteriors=posteriors, protocols=protocols)


def check_same_data(name: str | Path, scores: Scores, other: str | Path, others: Scores) -> None:
    """Compares what two files' scores are of.

    Raises:
        UserError: If images, classes or labels differ, or their order; it names the files, the
            first position, counted from 0, and both values.
    """
    for field, what in (("names", "image"), ("classes", "class"), ("labels", "label")):
        pair = [getattr(each, field).tolist() for each in (scores, others)]
        for i, (one, two) in enumerate(zip_longest(*pair)):
            if one != two:
                ordered = sorted(pair[0]) == sorted(pair[1]) and field != "labels"
                raise UserError(
                    f"{name} and {other} were not tested on the same data: {what} {i} is "
                    f"{'missing' if one is None else repr(one)} in {name} and "
                    f"{'missing' if two is None else repr(two)} in {other}"
                    f"{' (the same ones in another order)' if ordered else ''}."
                )
