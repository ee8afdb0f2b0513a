"""The rule, which was fixed before the run: intervals over trainings and images, and verdicts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

DRAWS = 10_000
LEVEL = 95  # %
POWER = 80  # %
HOLDS, FAILS, UNDECIDED, UNTESTED = "holds", "does not hold", "undecided", "not testable here"
LEAST = 3  # trainings, to decide anything

RULE = f"""\
Differences are of error in points, the first minus the second. Each is claimed to lie in a range:
above 0 where one is said to be worse; within 1 point of 0 where two are said to be about equal;
above -1 where one is said to be no better.

- **Intervals** ({LEVEL}%) come from a paired bootstrap at two levels: a draw takes as many
  trainings and as many test images as there are, with replacement, the same for both sides. The
  means of N trainings, drawn from N, vary by sqrt(1 - 1/N) of what they should: this part is
  widened to it.
- **p** is twice the share of draws outside of the claimed range, or inside of it where the claim
  would be refuted. **Holm's correction** is over all comparisons of the report.
- A comparison is decided if there are {LEAST} trainings or more and its corrected p is below
  {1 - LEVEL / 100:.2g}: it **holds** if the draws lie in the range, and **does not hold** if they
  lie elsewhere. Else it is **undecided**. A claim of several comparisons holds if all do, does not
  hold if one does not, and is undecided else.
- It is **not testable here** if a dense map that it rests on has another size than the paper's.
- **Detectable** is the difference from the range's end that an uncorrected test at 5% finds with a
  power of {POWER}%: 2.8 standard errors.
- The **effect** is the difference as a part of the first one's error, which compares with the
  paper's where the errors do not."""


def bootstrap(values: np.ndarray, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """Paired bootstrap over images and trainings: what the rows' means might have been.

    A draw takes as many images as there are, with replacement, and as many trainings; the same ones
    for all rows, so that differences of rows are differences of columns.

    Args:
        values: (R, N, n) of R rows, N trainings and n images.
        draws: How many draws.
        seed: Of the random numbers.

    Returns:
        (draws, R), the mean over images and trainings of each draw.
    """
    rng = np.random.default_rng(seed)
    rows, N, n = values.shape
    flat = values.reshape(rows * N, n).T.astype(np.float32)  # (n, R N)
    weights = rng.multinomial(N, np.full(N, 1 / N), draws) / N  # (draws, N)
    # N drawn of N scatter too little: what is beyond the mean of all is widened.
    weights = 1 / N + (weights - 1 / N) * math.sqrt(N / max(1, N - 1))
    total = np.zeros((draws, rows))
    for some in np.array_split(np.arange(draws), max(1, draws * n // 10_000_000)):
        taken = rng.integers(n, size=(len(some), n))
        taken += n * np.arange(len(some))[:, None]
        counts = np.bincount(taken.ravel(), minlength=n * len(some)).reshape(len(some), n)
        sums = (counts.astype(np.float32) @ flat).reshape(len(some), rows, N)
        total[some] = np.einsum("drs,ds->dr", sums, weights[some])
    return total / n


def interval(draws: np.ndarray) -> tuple[float, float]:
    """The ends of the central 95% of draws (D,)."""
    low, high = np.percentile(draws, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class Verdict:
    """What was measured of a comparison.

    Attributes:
        difference: In points.
        low: The lower end of its interval.
        high: The upper end.
        p: Corrected, of what the verdict would say.
        verdict: ``HOLDS``, ``FAILS`` or ``UNDECIDED``.
        detectable: The difference from the claimed range's end that is found with 80% power.
        trainings: The difference in each training.
    """

    difference: float
    low: float
    high: float
    p: float
    verdict: str
    detectable: float
    trainings: tuple[float, ...]

    def times(self, claimed: tuple[float, float], difference: float) -> float | None:
        """How many times the trainings and images would decide it with 80% power.

        Args:
            claimed: The ends of the claimed range.
            difference: What it is in truth.

        Returns:
            None where it is at an end of the range, which nothing can tell.
        """
        distance = min(abs(difference - end) for end in claimed)
        return (self.detectable / distance) ** 2 if distance > 1e-9 else None


def judge(
    differences: np.ndarray, claimed: Sequence[tuple[float, float]], draws: int = DRAWS
) -> list[Verdict]:
    """The verdicts on all comparisons of a report.

    Args:
        differences: (P, N, n), in points, of P comparisons, N trainings and n images.
        claimed: The ends of the range in which each is claimed to lie.
        draws: The bootstrap's.
    """
    drawn = bootstrap(differences, draws)
    p = np.array([_p(column, ends) for column, ends in zip(drawn.T, claimed, strict=True)])
    corrected = holm(p.min(1))
    z = NormalDist().inv_cdf((1 + LEVEL / 100) / 2) + NormalDist().inv_cdf(POWER / 100)
    verdicts = []
    for each, column, (holds, fails), one in zip(differences, drawn.T, p, corrected, strict=True):
        decided = HOLDS if holds < fails else FAILS
        verdict = Verdict(
            float(each.mean()),
            *interval(column),
            float(one),
            decided if one < 1 - LEVEL / 100 and len(each) >= LEAST else UNDECIDED,
            float(z * column.std()),
            tuple(each.mean(1).tolist()),
        )
        verdicts.append(verdict)
    return verdicts


def _p(draws: np.ndarray, claimed: tuple[float, float]) -> tuple[float, float]:
    """Twice the share of draws that speaks against 'within the range', and against 'elsewhere'."""
    low, high = claimed
    below, above = ((draws <= low).sum() + 1, (draws >= high).sum() + 1)
    within_low, within_high = ((draws >= low).sum() + 1, (draws <= high).sum() + 1)
    D = len(draws) + 1
    holds = 2 * max(below, above if high < math.inf else 0) / D
    fails = 2 * min(within_low, within_high if high < math.inf else D) / D
    return min(1.0, holds), min(1.0, fails)


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's correction of P values."""
    order = np.argsort(p, kind="stable")
    raised = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1)
    corrected = np.empty_like(raised)
    corrected[order] = raised
    return corrected


def joint(verdicts: Sequence[str]) -> str:
    """A claim of several comparisons holds if all do, and does not hold if one does not."""
    if FAILS in verdicts:
        return FAILS
    return HOLDS if set(verdicts) == {HOLDS} else UNDECIDED
