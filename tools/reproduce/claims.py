"""The paper's claims as data: each a difference of rows of its tables."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vgg_mm.paper import S_JITTER, TABLE_3, TABLE_4, TABLE_5, TABLE_6, FusionRow, Row

MARGIN = 1.0  # points of error within which two nets are about equal
LARGER, NOT_SMALLER, EQUAL = (0, math.inf), (-MARGIN, math.inf), (-MARGIN, MARGIN)


@dataclass(frozen=True)
class Part:
    """One comparison: the mean top-1 error of ``worse`` minus that of ``better``.

    Attributes:
        text: What is compared.
        worse: Rows whose error should be larger.
        better: Rows whose error should be smaller.
        claimed: The ends between which the difference should be, in points.
    """

    text: str
    worse: tuple[Row | FusionRow, ...]
    better: tuple[Row | FusionRow, ...]
    claimed: tuple[float, float] = LARGER

    @property
    def papers(self) -> float:
        """The paper's difference in points."""
        worse, better = (
            sum(row.top1 for row in rows) / len(rows) for rows in (self.worse, self.better)
        )
        return worse - better


@dataclass(frozen=True)
class Claim:
    """A statement of the paper, and the comparisons that test it."""

    text: str
    parts: tuple[Part, ...]


def _single(*archs: str, S: int | tuple[int, int] = 256) -> tuple[Row, ...]:
    return tuple(row for row in TABLE_3 if row.arch in archs and row.S == S)


def _method(views: str) -> tuple[Row, ...]:
    return tuple(row for row in TABLE_5 if row.views == views)


def _deeper(shallow: str, deep: str) -> Part:
    return Part(f"{shallow} - {deep}", _single(shallow), _single(deep))


_ONE_SCALE = tuple(
    row for multi in TABLE_4 for row in TABLE_3 if (row.arch, row.S) == (multi.arch, multi.S)
)
_TWO_NETS = {row.views: row for row in TABLE_6[1:]}

CLAIMS = (
    Claim(
        "A-LRN is no better than A.",
        (Part("A-LRN - A, 0 or more", _single("A-LRN"), _single("A"), NOT_SMALLER),),
    ),
    Claim(
        "Deeper is better: the error falls from A over B and C to D, and E is about D.",
        (
            _deeper("A", "B"),
            _deeper("B", "C"),
            _deeper("C", "D"),
            _deeper("A", "D"),
            Part("D - E, about 0", _single("D"), _single("E"), EQUAL),
        ),
    ),
    Claim(
        "C (1x1 convs) beats B, and D (3x3 convs) beats C.",
        (_deeper("B", "C"), _deeper("C", "D")),
    ),
    Claim(
        "Training with scale jitter beats a fixed S, at one test scale.",
        (
            Part(
                "S = 256 - jitter, mean of C, D, E",
                _single("C", "D", "E"),
                _single("C", "D", "E", S=S_JITTER),
            ),
            Part(
                "S = 384 - jitter, mean of C, D, E",
                _single("C", "D", "E", S=384),
                _single("C", "D", "E", S=S_JITTER),
            ),
        ),
    ),
    Claim(
        "Several test scales beat one.",
        (Part("one Q - three Q, mean of Table 4's models", _ONE_SCALE, TABLE_4),),
    ),
    Claim(
        "Multi-crop is slightly better than dense, and the two together beat each.",
        (
            Part("dense - multi-crop, mean of D, E", _method("dense"), _method("crops")),
            Part("dense - both, mean of D, E", _method("dense"), _method("both")),
            Part("multi-crop - both, mean of D, E", _method("crops"), _method("both")),
        ),
    ),
    Claim(
        "Two fused nets beat one.",
        (
            Part("D - D fused with E, both views", _method("both")[:1], (_TWO_NETS["both"],)),
            Part("E - D fused with E, both views", _method("both")[1:], (_TWO_NETS["both"],)),
        ),
    ),
)
