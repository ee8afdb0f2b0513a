"""Boxes at test time (Appendix A): ILSVRC's error, boxes of a dense map, and their merging.

Boxes are corners x1, y1, x2, y2 in pixels, pixel i reaching from i to i + 1, as mmcv has them.
ILSVRC's devkit counts pixels inclusively: its xmax is x2 - 1, so its width, xmax - xmin + 1, is
x2 - x1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vgg_mm.errors import UserError
from vgg_mm.models import BoxHead

THRESHOLD = -0.3  # the match score up to which boxes merge
FINEST = -0.6  # the least threshold that the cells of `merge` allow
MOST = 128  # boxes of a class that are compared pair by pair


# The error.


def overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes (..., 4) and others (..., 4), broadcast; 0 if they part."""
    low = np.maximum(boxes[..., :2], others[..., :2])
    high = np.minimum(boxes[..., 2:], others[..., 2:])
    shared = (high - low).clip(0).prod(-1)
    one, other = ((each[..., 2:] - each[..., :2]).prod(-1) for each in (boxes, others))
    return shared / (one + other - shared)


def fits(
    label: int, truth: np.ndarray, classes: Sequence[int] | np.ndarray, boxes: np.ndarray
) -> np.ndarray:
    """How well each guess fits an image: right, by ILSVRC's rule, from 0.5 on.

    Args:
        label: The image's class.
        truth: (n, 4), all things of that class in the image.
        classes: (G,), the guesses' classes.
        boxes: (G, 4), the guesses' boxes.

    Returns:
        (G,), the overlap with the thing that fits best; 0 if the class is another, or there is no
        box (NaN).
    """
    boxes, truth = (np.asarray(each, np.float64).reshape(-1, 4) for each in (boxes, truth))
    best = overlaps(boxes[:, None], truth).max(1, initial=0)
    return np.where(np.asarray(classes) == label, np.nan_to_num(best), 0)


# From a map to boxes.


def map_corners(head: BoxHead, boxes: Tensor, stride: int) -> Tensor:
    """Where the boxes of a dense map lie in the image that the net saw.

    Position (i, j) looks at the window whose corner is the pixel (stride * i, stride * j), and
    which is as large as a training crop.

    :meth:`vgg_mm.BoxHead.box_map`'s boxes (..., 4, h, w) -> (..., h * w, 4) in pixels, row by row.
    """
    h, w = boxes.shape[-2:]
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    corners = stride * torch.stack([x, y, x, y], -1).to(boxes)  # (h, w, 4)
    return (head.pixels(boxes.movedim(-3, -1)) + corners).flatten(-3, -2)


def mirrored(boxes: Tensor, width: int) -> Tensor:
    """Boxes (..., 4) of an image of ``width`` pixels, in its mirror image."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack([width - x2, y1, width - x1, y2], -1)


# Merging.


def match_scores(boxes: np.ndarray) -> np.ndarray:
    """How badly boxes (n, 4) match each other: (n, n), from -1 (the same) to 1 (far apart).

    OverFeat builds its score from the distance of the centres and the intersection's area. Here
    both are without a unit: the distance's square, in units of the diagonal of the smallest box
    around both, minus intersection over union.
    """
    low, high = boxes[:, :2].T, boxes[:, 2:].T  # (2, n): x and y
    middle = (low + high) / 2
    area = (high[0] - low[0]) * (high[1] - low[1])
    shared, apart, around = 1.0, 0.0, 0.0
    for a, b, c in zip(low, high, middle, strict=True):
        first, last = np.maximum.outer(a, a), np.minimum.outer(b, b)
        shared = shared * (last - first).clip(0)
        around = around + (np.maximum.outer(b, b) - np.minimum.outer(a, a)) ** 2
        apart = apart + np.subtract.outer(c, c) ** 2
    return apart / around - shared / (np.add.outer(area, area) - shared)


def merge(
    boxes: np.ndarray, scores: np.ndarray, threshold: float = THRESHOLD
) -> tuple[np.ndarray, np.ndarray]:
    """OverFeat's greedy merge of one class's boxes, in time that is bounded.

    The two that match best become one, again and again, until no two match up to the threshold.
    The one is their average, each weighted by the scores of the windows that it comes from, for the
    plain one would make much of what joins late; so it is the mean of its windows' boxes, whatever
    the order. All pairs that are each other's best match become one at the same time.

    More than :data:`MOST` boxes are averaged before, in cells in which all would match up to
    :data:`FINEST` (sizes within a quarter of an octave, centres within an eighth of the size), and
    of these the cells of the largest scores go on. The order of the boxes changes nothing. 3,000
    boxes take 3 ms of one core.

    Args:
        boxes: (n, 4); those that are not finite do not count.
        scores: (n,), the class's scores in the windows they come from, 0 or more.
        threshold: See :func:`match_scores`.

    Returns:
        The merged boxes (m, 4), best first, and their ratings (m,), each the sum of the scores.

    Raises:
        UserError: If the threshold is less than :data:`FINEST`.
    """
    if not threshold >= FINEST:
        raise UserError(f"boxes merge up to a match score of {FINEST} or more, not {threshold}.")
    usable = np.isfinite(boxes).all(1) & np.isfinite(scores)
    boxes, weights = boxes[usable].astype(np.float64), scores[usable].astype(np.float64)
    weights = weights.clip(np.finfo(np.float32).tiny)
    if len(boxes) > MOST:
        boxes, weights = _in_cells(boxes, weights)
    if len(boxes) > MOST:  # ties with the last one stay
        kept = weights >= np.partition(weights, -MOST)[-MOST]
        boxes, weights = boxes[kept], weights[kept]
    boxes, weights = _best_first(boxes, weights)
    boxes, weights = boxes[:MOST], weights[:MOST]
    while len(boxes) > 1:
        matches = match_scores(boxes.astype(np.float32))
        np.fill_diagonal(matches, np.inf)
        best = matches.argmin(1)
        rows = np.arange(len(boxes))
        pairs = (best[best] == rows) & (rows < best) & (matches[rows, best] <= threshold)
        if not pairs.any():
            break
        one, other = rows[pairs], best[pairs]
        boxes[one] = _mean(boxes[one], weights[one], boxes[other], weights[other])
        weights[one] += weights[other]
        boxes, weights = np.delete(boxes, other, 0), np.delete(weights, other)
    return _best_first(boxes, weights)


def _best_first(boxes: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.lexsort((*boxes.T, -weights))
    return boxes[order], weights[order]


def _mean(one: np.ndarray, weight: np.ndarray, other: np.ndarray, others: np.ndarray) -> np.ndarray:
    return one + (other - one) * (others / (weight + others))[:, None]


def _in_cells(boxes: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Averages the boxes of each cell."""
    octaves = np.rint(4 * np.log2((boxes[:, 2:] - boxes[:, :2]).clip(1)))  # (n, 2)
    places = np.floor((boxes[:, :2] + boxes[:, 2:]) * 4 / 2 ** (octaves / 4))
    numbers = np.concatenate([octaves, places.clip(-(2**23), 2**23 - 1)], 1).astype(np.int64)
    cells = numbers @ [2**55, 2**48, 2**24, 1]
    # Sums depend on the order: the same one for the same boxes, whatever it was.
    mixed = sum(x * 2**0.5**i for i, x in enumerate((weights, *boxes.T)))
    order = np.lexsort((mixed, cells))
    boxes, weights, cells = boxes[order], weights[order], cells[order]
    starts = np.flatnonzero(np.diff(cells, prepend=cells[0] - 1))
    sums = np.add.reduceat(weights, starts)
    return np.add.reduceat(boxes * weights[:, None], starts) / sums[:, None], sums
