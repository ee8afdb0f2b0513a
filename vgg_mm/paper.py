"""The paper's tables as data: the one source of nets and rows for code, tests, docs and tools.

Simonyan & Zisserman, *Very Deep Convolutional Networks for Large-Scale Image Recognition*,
ICLR 2015 (arXiv 1409.1556).
"""

from __future__ import annotations

from dataclasses import dataclass

# Table 1: a net is five stages, each followed by a 2x2 max-pool of stride 2. `256` is a 3x3 conv of
# 256 channels, `256@1` a 1x1 conv, LRN AlexNet's normalisation; a ReLU follows every conv.
TABLE_1 = {
    #        stage 1   | stage 2   | stage 3          | stage 4          | stage 5
    "A":     "64        | 128       | 256 256         | 512 512         | 512 512",
    "A-LRN": "64 LRN    | 128       | 256 256         | 512 512         | 512 512",
    "B":     "64 64     | 128 128   | 256 256         | 512 512         | 512 512",
    "C":     "64 64     | 128 128   | 256 256 256@1   | 512 512 512@1   | 512 512 512@1",
    "D":     "64 64     | 128 128   | 256 256 256     | 512 512 512     | 512 512 512",
    "E":     "64 64     | 128 128   | 256 256 256 256 | 512 512 512 512 | 512 512 512 512",
}  # fmt: skip

# Sec. 4.1, in no table: net B with a 5x5 conv in place of each two of 3x3, which see as much.
SHALLOW = {"B-5x5": "64@5 | 128@5 | 256@5 | 512@5 | 512@5"}

# Table 2, in millions.
TABLE_2 = {"A": 133, "A-LRN": 133, "B": 133, "C": 134, "D": 138, "E": 144}

PARAMETERS = {
    "A": 132_863_336,
    "A-LRN": 132_863_336,
    "B": 133_047_848,
    "C": 133_638_952,
    "D": 138_357_544,
    "E": 143_667_240,
}

# The mean RGB that the authors subtract, and AlexNet's colour statistics of ImageNet: the
# eigenvalues and eigenvectors (columns) of the covariance of RGB pixels scaled to [0, 1].
MEAN_RGB = (123.68, 116.779, 103.939)
IMAGENET_EIGVAL = (0.2175, 0.0188, 0.0045)
IMAGENET_EIGVEC = (
    (-0.5675, 0.7192, 0.4009),
    (-0.5808, -0.0045, -0.8140),
    (-0.5836, -0.6948, 0.4203),
)


@dataclass(frozen=True)
class Layer:
    """A layer under its Caffe name: a conv (``kernel`` 1, 3 or 5) or an LRN (``kernel`` 0).

    ``channels`` are those of the layer's output.
    """

    name: str
    kernel: int
    channels: int

    @property
    def bn(self) -> str:
        """The name of the batch norm after a conv, in the nets that have them: ``bn1_1``."""
        return self.name.replace("conv", "bn")

    @property
    def relu(self) -> str:
        """The name of the ReLU after a conv: ``relu1_1``."""
        return self.name.replace("conv", "relu")


def stages(arch: str, width: int = 64) -> list[list[Layer]]:
    """Net ``arch`` of ``TABLE_1`` or ``SHALLOW`` as five lists of layers.

    ``width`` is the number of channels of stage 1 (the paper's is 64); the others keep the paper's
    ratios to it.
    """
    table: list[list[Layer]] = []
    for s, stage in enumerate((TABLE_1 | SHALLOW)[arch].split("|"), 1):
        layers: list[Layer] = []
        for cell in stage.split():
            n = sum(layer.kernel > 0 for layer in layers)
            if cell == "LRN":
                layers.append(Layer(f"norm{s}_{n}", 0, layers[-1].channels))
            else:
                channels, _, kernel = cell.partition("@")
                layers.append(
                    Layer(f"conv{s}_{n + 1}", int(kernel or 3), int(channels) * width // 64)
                )
        table.append(layers)
    return table


def convs(arch: str, width: int = 64) -> list[Layer]:
    """The conv layers of Table 1's column ``arch``, first to last; ``width`` as :func:`stages`'."""
    return [layer for stage in stages(arch, width) for layer in stage if layer.kernel]


S_JITTER = (256, 512)
Side = int | tuple[int, int]  # S: a shortest side, or the range that it is drawn from
Training = tuple[str, Side]  # a net and its S


def config_name(arch: str, S: Side) -> str:
    """The name of the config that trains net ``arch`` at ``S``, such as ``vgg16_d_jitter``."""
    depth = len(convs(arch)) + 3
    return f"vgg{depth}_{arch.lower().replace('-', '_')}_{S if isinstance(S, int) else 'jitter'}"


def box_config_name(S: int) -> str:
    """The name of the config that trains net D at ``S`` to predict boxes."""
    return f"{config_name('D', S)}_boxes"


def scaled(side: Side, crop: int) -> Side:
    """The paper's S or Q for crops of ``crop`` pixels in place of 224, such as 37 for 256 at 32."""
    if isinstance(side, tuple):
        smallest, largest = side
        return (round(smallest * crop / 224), round(largest * crop / 224))
    return round(side * crop / 224)


Model = tuple[str, Side, tuple[int, ...]]  # a net, its S and the test scales Q


@dataclass(frozen=True)
class Row:
    """A row of Tables 3-5: net ``arch`` trained at ``S`` and tested at scales ``Q``.

    ``top1`` and ``top5`` are errors in % on the validation set of ILSVRC-2012.
    """

    arch: str
    S: Side
    Q: tuple[int, ...]
    views: str
    top1: float
    top5: float

    @property
    def config(self) -> str:
        """The name of the config that trains the row's net, such as ``vgg16_d_jitter``."""
        return config_name(self.arch, self.S)

    @property
    def models(self) -> tuple[Model, ...]:
        """The row's one model as (arch, S, Q), as :class:`FusionRow` lists its own."""
        return ((self.arch, self.S, self.Q),)


def _rows(text: str) -> tuple[Row, ...]:
    """Reads lines of ``net S Q views top-1 top-5``, ``jitter`` standing for S in [256; 512]."""
    rows = []
    for arch, S, Q, views, top1, top5 in (line.split() for line in text.strip().splitlines()):
        side = S_JITTER if S == "jitter" else int(S)
        scales = tuple(map(int, Q.split(",")))
        rows.append(Row(arch, side, scales, views, float(top1), float(top5)))
    return tuple(rows)


# One test scale, dense.
TABLE_3 = _rows("""
    A      256     256  dense  29.6  10.4
    A-LRN  256     256  dense  29.7  10.5
    B      256     256  dense  28.7   9.9
    C      256     256  dense  28.1   9.4
    C      384     384  dense  28.1   9.3
    C      jitter  384  dense  27.3   8.8
    D      256     256  dense  27.0   8.8
    D      384     384  dense  26.8   8.7
    D      jitter  384  dense  25.6   8.1
    E      256     256  dense  27.3   9.0
    E      384     384  dense  26.9   8.7
    E      jitter  384  dense  25.5   8.0
""")

# Several test scales, dense.
TABLE_4 = _rows("""
    B      256     224,256,288  dense  28.2  9.6
    C      256     224,256,288  dense  27.7  9.2
    C      384     352,384,416  dense  27.8  9.2
    C      jitter  256,384,512  dense  26.3  8.2
    D      256     224,256,288  dense  26.6  8.6
    D      384     352,384,416  dense  26.5  8.6
    D      jitter  256,384,512  dense  24.8  7.5
    E      256     224,256,288  dense  26.9  8.7
    E      384     352,384,416  dense  26.7  8.6
    E      jitter  256,384,512  dense  24.8  7.5
""")

# Evaluation techniques.
TABLE_5 = _rows("""
    D      jitter  256,384,512  dense  24.8  7.5
    D      jitter  256,384,512  crops  24.6  7.5
    D      jitter  256,384,512  both   24.4  7.2
    E      jitter  256,384,512  dense  24.8  7.5
    E      jitter  256,384,512  crops  24.6  7.4
    E      jitter  256,384,512  both   24.4  7.1
""")


@dataclass(frozen=True)
class FusionRow:
    """A row of Table 6: the ``models`` whose posteriors are averaged, each as (arch, S, Q).

    Errors in % as in :class:`Row`; ``top5_test`` is the ILSVRC server's, None where not given.
    """

    models: tuple[Model, ...]
    views: str
    top1: float
    top5: float
    top5_test: float | None


_NARROW, _WIDE, _JITTERED = (224, 256, 288), (352, 384, 416), (256, 384, 512)
_SUBMISSION = (
    ("D", 256, _NARROW),
    ("D", 384, _WIDE),
    ("D", S_JITTER, _JITTERED),
    ("C", 256, _NARROW),
    ("C", 384, _WIDE),
    ("E", 256, _NARROW),
    ("E", 384, _WIDE),
)
_TWO_BEST = (("D", S_JITTER, _JITTERED), ("E", S_JITTER, _JITTERED))

# Fusion.
TABLE_6 = (
    FusionRow(_SUBMISSION, "dense", 24.7, 7.5, 7.3),
    FusionRow(_TWO_BEST, "dense", 24.0, 7.1, 7.0),
    FusionRow(_TWO_BEST, "crops", 23.9, 7.2, None),
    FusionRow(_TWO_BEST, "both", 23.7, 6.8, 6.8),
)

ROWS: tuple[Row | FusionRow, ...] = (*TABLE_3, *TABLE_4, *TABLE_5, *TABLE_6)
TRAININGS = tuple((row.arch, row.S) for row in TABLE_3)  # Table 3 has each once

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
