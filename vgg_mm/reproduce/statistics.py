"""Confidence intervals and verdicts, by rules that were fixed before the run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 10_000
LEVEL = 95  # %
HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided"


def bootstrap(folds: Sequence[np.ndarray], draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """Paired bootstrap over images and seeds: what the rows' means might have been.

    A draw takes as many images of each fold as it has, with replacement, and as many of its seeds;
    the same ones for all rows, so that differences of rows are differences of columns.

    Args:
        folds: For each fold the values (R, N, n) of R rows, N seeds and n images.
        draws: How many draws.
        seed: Of the random numbers.

    Returns:
        (draws, R), the mean over images and seeds of each draw.
    """
    rng = np.random.default_rng(seed)
    rows, images = len(folds[0]), sum(fold.shape[2] for fold in folds)
    total = np.zeros((draws, rows))
    for fold in folds:
        _, N, n = fold.shape
        flat = fold.reshape(rows * N, n).T.astype(np.float64)  # (n, R N)
        seeds = rng.multinomial(N, np.full(N, 1 / N), draws) / N  # (draws, N)
        for some in np.array_split(np.arange(draws), max(1, draws * n // 10_000_000)):
            taken = rng.multinomial(n, np.full(n, 1 / n), len(some))  # (some, n)
            sums = (taken @ flat).reshape(len(some), rows, N)
            total[some] += np.einsum("drs,ds->dr", sums, seeds[some])
    return total / images


def interval(draws: np.ndarray) -> tuple[float, float]:
    """The ends of the central 95% of draws (D,)."""
    low, high = np.percentile(draws, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class Verdict:
    """A measured difference and what it says of a claim.

    Attributes:
        difference: Positive where the claim says so.
        low: The lower end of its interval.
        high: The upper end.
        verdict: ``holds``, ``does not hold`` or ``undecided``.
        images: How many test images would decide it, were the difference what was measured; None
            where it is decided or no number would.
    """

    difference: float
    low: float
    high: float
    verdict: str
    images: int | None


def judge(
    difference: float, low: float, high: float, images: int, margin: float | None = None
) -> Verdict:
    """The rule: a claim holds if the interval excludes zero on the claimed side.

    It does not hold if the interval excludes zero on the other side, and is undecided else. A claim
    that two are equal has a ``margin``: it holds if the interval lies inside of it on both sides of
    zero, and does not hold if the interval lies outside.

    An interval shrinks with the square root of the number of images: hence the number that decides.

    Args:
        difference: What was measured.
        low: The interval's lower end.
        high: Its upper end.
        images: Of how many images.
        margin: What counts as equal.
    """
    if margin is None:
        verdict = HOLDS if low > 0 else FAILS if high < 0 else UNDECIDED
        distance = abs(difference)
    else:
        outside = low > margin or high < -margin
        inside = -margin < low and high < margin
        verdict = HOLDS if inside else FAILS if outside else UNDECIDED
        distance = abs(margin - abs(difference))
    needed = None
    if verdict == UNDECIDED and distance > 0:
        # The end of the interval that is in the way; never fewer than there are.
        half = (high - low) / 2
        needed = max(images + 1, math.ceil(images * (half / distance) ** 2))
    return Verdict(difference, low, high, verdict, needed)


def joint(verdicts: Sequence[str]) -> str:
    """A claim of several parts holds if all do, and does not hold if one does not."""
    if FAILS in verdicts:
        return FAILS
    return HOLDS if set(verdicts) == {HOLDS} else UNDECIDED
