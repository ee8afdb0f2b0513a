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
    difference: float,
    low: float,
    high: float,
    images: int,
    claimed: tuple[float, float] = (0, math.inf),
) -> Verdict:
    """The rule: a claim holds if the whole interval lies where the claim says.

    It does not hold if the whole interval lies elsewhere, and is undecided else. Of a claim that
    one is larger: it is decided if the interval excludes zero.

    Args:
        difference: What was measured.
        low: The interval's lower end.
        high: Its upper end.
        images: Of how many images.
        claimed: The ends between which the claim says that the difference is.
    """
    inside = claimed[0] < low and high < claimed[1]
    outside = high < claimed[0] or claimed[1] < low
    verdict = HOLDS if inside else FAILS if outside else UNDECIDED
    enough = images_needed(difference, high - low, images, claimed)
    if verdict != UNDECIDED or enough is None:
        return Verdict(difference, low, high, verdict, None)
    return Verdict(difference, low, high, verdict, max(images + 1, enough))


def images_needed(
    difference: float, width: float, images: int, claimed: tuple[float, float]
) -> int | None:
    """How many images would decide a claim, other things equal.

    An interval shrinks with the square root of the number of images; half of it must be shorter
    than the way from the difference to the nearer end of what is claimed.

    Args:
        difference: As large as it may be.
        width: The interval's, of ``images`` images.
        images: How many there were.
        claimed: As for :func:`judge`.

    Returns:
        None where no number would: the difference is at an end, or no image tells the two apart.
    """
    distance = min(abs(difference - end) for end in claimed)
    if min(distance, width) < 1e-9:  # points: rounding
        return None
    return math.ceil(images * (width / 2 / distance) ** 2)


def joint(verdicts: Sequence[str]) -> str:
    """A claim of several parts holds if all do, and does not hold if one does not."""
    if FAILS in verdicts:
        return FAILS
    return HOLDS if set(verdicts) == {HOLDS} else UNDECIDED
