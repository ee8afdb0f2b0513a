"""Tables 7 to 12 of the paper as data; those before are in :mod:`vgg_mm.paper`."""

from __future__ import annotations

from dataclasses import dataclass

from vgg_mm.paper import TABLE_5, TABLE_6

# The field in 2014: method, top-1 val, top-5 val, top-5 test error in %. GoogLeNet's figures are
# printed as one cell over both top-5 columns.
TABLE_7 = (
    ("VGG (2 nets, multi-crop & dense eval.)", 23.7, 6.8, 6.8),
    ("VGG (1 net, multi-crop & dense eval.)", 24.4, 7.1, 7.0),
    ("VGG (ILSVRC submission, 7 nets, dense eval.)", 24.7, 7.5, 7.3),
    ("GoogLeNet (1 net)", None, 7.9, 7.9),
    ("GoogLeNet (7 nets)", None, 6.7, 6.7),
    ("MSRA (11 nets)", None, None, 8.1),
    ("MSRA (1 net)", 27.9, 9.1, 9.1),
    ("Clarifai (multiple nets)", None, None, 11.7),
    ("Clarifai (1 net)", None, None, 12.5),
    ("Zeiler & Fergus (6 nets)", 36.0, 14.7, 14.8),
    ("Zeiler & Fergus (1 net)", 37.5, 16.0, 16.1),
    ("OverFeat (7 nets)", 34.0, 13.2, 13.6),
    ("OverFeat (1 net)", 35.7, 14.2, None),
    ("Krizhevsky et al. (5 nets)", 38.1, 16.4, 16.4),
    ("Krizhevsky et al. (1 net)", 40.7, 18.2, None),
)

# Table 7's first three methods are rows of the tables above.
TABLE_7_VGG = (TABLE_6[3], TABLE_5[5], TABLE_6[0])


# Appendix A: localisation. A regression predicts one box (SCR) or one for each class (PCR).
BoxModel = tuple[int, tuple[int, ...]]  # the S of a net D that predicts boxes, and Q


@dataclass(frozen=True)
class BoxSettingRow:
    """A row of Table 8: what was trained, and the error on centre crops if the class is known.

    All are net D at S = 384. ``trained`` is ``fc`` (the first two FC layers fine-tuned, the last
    one new) or ``all`` (all layers fine-tuned); ``regression`` is ``SCR`` or ``PCR``; ``top1`` is
    the localisation error in % on the validation set of ILSVRC.
    """

    trained: str
    regression: str
    top1: float


TABLE_8 = (
    BoxSettingRow("fc", "SCR", 36.4),
    BoxSettingRow("fc", "PCR", 34.3),
    BoxSettingRow("all", "PCR", 33.1),
)


@dataclass(frozen=True)
class BoxRow:
    """A row of Table 9: the ``models`` whose boxes are merged, each as (S, Q).

    All are net D with per-class regression, all layers fine-tuned, run densely. ``val`` and
    ``test`` are top-5 localisation errors in %, None where not given.
    """

    models: tuple[BoxModel, ...]
    val: float
    test: float | None


TABLE_9 = (
    BoxRow(((256, (256,)),), 29.5, None),
    BoxRow(((384, (384,)),), 28.2, 26.7),
    BoxRow(((384, (352, 384)),), 27.5, None),
    BoxRow(((256, (256,)), (384, (352, 384))), 26.9, 25.3),
)


# Localisation in 2014: method, top-5 val and test error in %.
TABLE_10 = (
    ("VGG", 26.9, 25.3),
    ("GoogLeNet", None, 26.7),
    ("OverFeat", 30.0, 29.9),
    ("Krizhevsky et al.", None, 34.2),
)


@dataclass(frozen=True)
class FeatureRow:
    """A row of Table 11 (Appendix B): ``nets`` whose features are stacked, on other data sets.

    ``voc2007`` and ``voc2012`` are mAP in %; ``caltech101`` and ``caltech256`` mean class recall in
    % and its standard deviation over three splits.
    """

    nets: tuple[str, ...]
    voc2007: float
    voc2012: float
    caltech101: tuple[float, float]
    caltech256: tuple[float, float]


TABLE_11 = (
    FeatureRow(("D",), 89.3, 89.0, (91.8, 1.0), (85.0, 0.2)),
    FeatureRow(("E",), 89.3, 89.0, (92.3, 0.5), (85.1, 0.3)),
    FeatureRow(("D", "E"), 89.7, 89.3, (92.7, 0.5), (86.2, 0.3)),
)

# VOC-2012's actions: method, mAP in %. VGG's are nets D and E, stacked.
TABLE_12 = (
    ("VGG (image only)", 79.2),
    ("VGG (image and the person's box)", 84.0),
    ("Hoai", 76.3),
    ("Gkioxari et al.", 73.6),
    ("Oquab et al.", 70.2),
)
