"""The paper's claims as data: each a difference of what is measured."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from tools.reproduce.plan import D_256, D_384, A
from vgg_mm.paper import (
    S_JITTER,
    TABLE_3,
    TABLE_4,
    TABLE_5,
    TABLE_6,
    TABLE_8,
    TABLE_9,
    FusionRow,
    Row,
    config_name,
)

MARGIN = 1.0  # points of error within which two nets are about equal
LARGER, NOT_SMALLER, EQUAL = (0, math.inf), (-MARGIN, math.inf), (-MARGIN, MARGIN)


class Entry(NamedTuple):
    """Something whose error is measured on every test image.

    Attributes:
        models: The names of the models whose posteriors are averaged, each with the paper's Q; of
            boxes the one name of the test, with no Q.
        views: ``dense``, ``crops`` or ``both``; ``boxes``.
        top: The error that is compared is top-``top``.
        paper: The paper's, in %, if it has one.
    """

    models: tuple[tuple[str, tuple[int, ...]], ...]
    views: str
    top: int = 1
    paper: float | None = None

    @property
    def key(self) -> str:
        """What it is called in files."""
        models = "+".join(f"{name}@{'_'.join(map(str, Q))}".rstrip("@") for name, Q in self.models)
        return f"{self.views} {models}"


def entry(row: Row | FusionRow) -> Entry:
    """That of a row of Tables 3-6."""
    models = tuple((config_name(arch, S), Q) for arch, S, Q in row.models)
    return Entry(models, row.views, 1, row.top1)


def _model(name: str, Q: int = 256, paper: float | None = None) -> Entry:
    return Entry(((name, (Q,)),), "dense", 1, paper)


def _boxes(name: str, top: int, paper: float) -> Entry:
    return Entry(((name, ()),), "boxes", top, paper)


@dataclass(frozen=True)
class Part:
    """One comparison: the mean error of ``worse`` minus that of ``better``.

    Attributes:
        text: What is compared.
        worse: What should have the larger error.
        better: What should have the smaller one.
        claimed: The ends between which the difference should be, in points.
        papers: The paper's difference in points, where it is not that of the entries.
    """

    text: str
    worse: tuple[Entry, ...]
    better: tuple[Entry, ...]
    claimed: tuple[float, float] = LARGER
    papers: float | None = None

    @property
    def paper(self) -> tuple[float, float | None] | None:
        """The paper's difference in points, and as a part of the first one's error in %."""
        if self.papers is not None:
            return self.papers, None
        means = []
        for side in (self.worse, self.better):
            errors = [each.paper for each in side if each.paper is not None]
            if len(errors) < len(side):
                return None
            means.append(sum(errors) / len(errors))
        return means[0] - means[1], 100 * (means[0] - means[1]) / means[0]


@dataclass(frozen=True)
class Claim:
    """A statement of the paper, and the comparisons that test it.

    Attributes:
        text: The statement.
        parts: The comparisons.
        maps: Whether it is about dense maps, so that they must be of the paper's size.
    """

    text: str
    parts: tuple[Part, ...]
    maps: bool = False


def _single(*archs: str, S: int | tuple[int, int] = 256) -> tuple[Entry, ...]:
    return tuple(entry(row) for row in TABLE_3 if row.arch in archs and row.S == S)


def _deeper(shallow: str, deep: str) -> Part:
    return Part(f"{shallow} - {deep}", _single(shallow), _single(deep))


(_DENSE,), (_CROPS,), (_BOTH,) = (
    [entry(row) for row in TABLE_5 if (row.arch, row.views) == ("D", views)]
    for views in ("dense", "crops", "both")
)
_TWO_NETS = entry(TABLE_6[1])
_E_DENSE = entry(next(row for row in TABLE_5 if (row.arch, row.views) == ("E", "dense")))
_TWICE = _model("vgg11_a_256_twice")
_SCR_FC, _PCR_FC, _PCR = (
    _boxes(f"{D_384}_boxes{suffix}", 1, row.top1)
    for row, suffix in zip(TABLE_8, ("_scr_fc", "_fc", ""), strict=True)
)
_ONE_SCALE, _TWO_SCALES, _TWO_BOXES = (
    _boxes(name, 5, row.val)
    for name, row in zip(("one_scale", "two_scales", "two_nets"), TABLE_9[1:], strict=True)
)
_JITTERED, _MORE = _single("D", S=S_JITTER), "D with as many passes"

CLAIMS = (
    Claim(
        "A-LRN is no better than A.",
        (Part("A-LRN - A, 0 or more", _single("A-LRN"), _single("A"), NOT_SMALLER),),
    ),
    Claim(
        "Deeper is better: the error falls from A over B to D, and E is about D.",
        (
            _deeper("A", "B"),
            _deeper("B", "D"),
            _deeper("A", "D"),
            Part("A from A's layers, as D is, - D", (_TWICE,), _single("D"), papers=2.6),
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
            Part(f"S = 256 - jitter, {_MORE}", (_model(f"{D_256}_thrice"),), _JITTERED, papers=1.4),
            Part(
                f"S = 384 - jitter, {_MORE}",
                (_model(f"{D_384}_twice", 384),),
                _JITTERED,
                papers=1.2,
            ),
        ),
        maps=True,
    ),
    Claim(
        "Several test scales beat one.",
        (
            Part(
                "one Q - three Q, mean of Table 4's models",
                tuple(
                    entry(row)
                    for multi in TABLE_4
                    for row in TABLE_3
                    if (row.arch, row.S) == (multi.arch, multi.S)
                ),
                tuple(map(entry, TABLE_4)),
            ),
        ),
        maps=True,
    ),
    Claim(
        "Multi-crop is slightly better than dense, and the two together beat each.",
        (
            Part("dense - multi-crop, D", (_DENSE,), (_CROPS,)),
            Part("dense - both, D", (_DENSE,), (_BOTH,)),
            Part("multi-crop - both, D", (_CROPS,), (_BOTH,)),
        ),
        maps=True,
    ),
    Claim(
        "Two fused nets beat one.",
        (
            Part("D - D fused with E, dense", (_DENSE,), (_TWO_NETS,)),
            Part("E - D fused with E, dense", (_E_DENSE,), (_TWO_NETS,)),
        ),
    ),
    Claim(
        "A deep net of small filters beats a shallow one of larger ones (Sec. 4.1).",
        (
            Part(
                "five 5x5 convs - B, both from random weights",
                (_model("vgg8_b_5x5_256"),),
                (_model("vgg13_b_256_new"),),
                papers=7.0,
            ),
        ),
    ),
    Claim(
        "Net A's layers let deep nets start (Sec. 3.1).",
        (Part("E from random weights - E from A's", (_model("vgg19_e_256_new"),), _single("E")),),
    ),
    Claim(
        "Shifting the colours in training lowers the error (Sec. 3.1).",
        (Part("A without - A with it", (_model("vgg11_a_256_unlit"),), _single("A")),),
    ),
    Claim(
        "Boxes for each class beat one for all (Appendix A).",
        (Part("SCR - PCR, FC layers trained, centre crop", (_SCR_FC,), (_PCR_FC,)),),
    ),
    Claim(
        "Training all layers on boxes beats training the FC layers (Appendix A).",
        (Part("FC layers - all, PCR, centre crop", (_PCR_FC,), (_PCR,)),),
    ),
    Claim(
        "Boxes from two scales beat those from one (Appendix A).",
        (Part("Q = 384 - Q in {352, 384}, top-5", (_ONE_SCALE,), (_TWO_SCALES,)),),
        maps=True,
    ),
    Claim(
        "Boxes from two nets beat those from one (Appendix A).",
        (Part("S = 384 - it and S = 256, top-5", (_TWO_SCALES,), (_TWO_BOXES,)),),
    ),
)
PARTS = tuple(part for claim in CLAIMS for part in claim.parts)
assert A == _single("A")[0].models[0][0]
