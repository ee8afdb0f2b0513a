"""Tables 1-12, retyped from the paper in another form."""

import re
from pathlib import Path

import numpy as np
import pytest

from vgg_mm import paper
from vgg_mm.paper import (
    TABLE_3,
    TABLE_4,
    TABLE_5,
    TABLE_6,
    TABLE_7,
    TABLE_9,
    box_config_name,
    stages,
)

CONFIGS = Path(__file__).parents[1] / "configs"

# The columns of Table 1: 3x64 is a 3x3 conv, M a max-pool.
NETS = {
    "A": "3x64 M 3x128 M 3x256 3x256 M 3x512 3x512 M 3x512 3x512 M",
    "A-LRN": "3x64 LRN M 3x128 M 3x256 3x256 M 3x512 3x512 M 3x512 3x512 M",
    "B": "3x64 3x64 M 3x128 3x128 M 3x256 3x256 M 3x512 3x512 M 3x512 3x512 M",
    "C": ("3x64 3x64 M 3x128 3x128 M 3x256 3x256 1x256 M 3x512 3x512 1x512 M 3x512 3x512 1x512 M"),
    "D": ("3x64 3x64 M 3x128 3x128 M 3x256 3x256 3x256 M 3x512 3x512 3x512 M 3x512 3x512 3x512 M"),
    "E": (
        "3x64 3x64 M 3x128 3x128 M 3x256 3x256 3x256 3x256 M"
        " 3x512 3x512 3x512 3x512 M 3x512 3x512 3x512 3x512 M"
    ),
}
DEPTHS = {"A": 11, "A-LRN": 11, "B": 13, "C": 16, "D": 16, "E": 19}
MILLIONS = {"A": 133, "A-LRN": 133, "B": 133, "C": 134, "D": 138, "E": 144}
SHALLOW = "vgg8_b_5x5_256"  # Sec. 4.1's
CONFIG_NAMES = [
    "vgg11_a_256",
    "vgg11_a_lrn_256",
    "vgg13_b_256",
    *("vgg16_c_256", "vgg16_c_384", "vgg16_c_jitter"),
    *("vgg16_d_256", "vgg16_d_384", "vgg16_d_jitter"),
    *("vgg19_e_256", "vgg19_e_384", "vgg19_e_jitter"),
]

# Tables 3 and 4: for each net, (S, top-1, top-5) by training scale.
SINGLE_SCALE = {
    "A": [(256, 29.6, 10.4)],
    "A-LRN": [(256, 29.7, 10.5)],
    "B": [(256, 28.7, 9.9)],
    "C": [(256, 28.1, 9.4), (384, 28.1, 9.3), ((256, 512), 27.3, 8.8)],
    "D": [(256, 27.0, 8.8), (384, 26.8, 8.7), ((256, 512), 25.6, 8.1)],
    "E": [(256, 27.3, 9.0), (384, 26.9, 8.7), ((256, 512), 25.5, 8.0)],
}
MULTI_SCALE = {
    "B": [(256, 28.2, 9.6)],
    "C": [(256, 27.7, 9.2), (384, 27.8, 9.2), ((256, 512), 26.3, 8.2)],
    "D": [(256, 26.6, 8.6), (384, 26.5, 8.6), ((256, 512), 24.8, 7.5)],
    "E": [(256, 26.9, 8.7), (384, 26.7, 8.6), ((256, 512), 24.8, 7.5)],
}


def single_scale(S):
    """Sec. 3.2's one Q for a training scale."""
    return (S,) if isinstance(S, int) else (384,)


def multi_scale(S):
    """Sec. 3.2's three Q for a training scale."""
    return (S - 32, S, S + 32) if isinstance(S, int) else (256, 384, 512)


def test_the_shallow_net_sees_as_much_as_net_b():
    (arch,) = paper.SHALLOW
    assert paper.config_name(arch, 256) == SHALLOW
    for shallow, deep in zip(stages(arch), stages("B"), strict=True):
        assert [layer.channels for layer in shallow] == [deep[0].channels]
        assert [layer.kernel - 1 for layer in shallow] == [sum(x.kernel - 1 for x in deep)]


def test_nets_in_the_papers_order():
    assert list(paper.TABLE_1) == list(NETS)


@pytest.mark.parametrize("arch", NETS)
def test_table_1(arch):
    cells = []
    for stage in stages(arch):
        cells += [f"{layer.kernel}x{layer.channels}" if layer.kernel else "LRN" for layer in stage]
        cells += ["M"]
    assert cells == NETS[arch].split()


@pytest.mark.parametrize("arch", NETS)
def test_caffes_names(arch):
    for s, stage in enumerate(stages(arch), 1):
        convs = [layer.name for layer in stage if layer.kernel]
        assert convs == [f"conv{s}_{i}" for i in range(1, len(convs) + 1)]
    lrn = [layer for stage in stages(arch) for layer in stage if not layer.kernel]
    assert lrn == ([paper.Layer("norm1_1", 0, 64)] if arch == "A-LRN" else [])


@pytest.mark.parametrize("arch", NETS)
def test_parameters_and_table_2(arch):
    parameters, channels = 0, 3
    for stage in stages(arch):
        for layer in stage:
            if layer.kernel:
                parameters += (channels * layer.kernel**2 + 1) * layer.channels
                channels = layer.channels
    parameters += (512 * 7 * 7 + 1) * 4096 + (4096 + 1) * 4096 + (4096 + 1) * 1000
    assert paper.PARAMETERS[arch] == parameters
    assert paper.TABLE_2[arch] == MILLIONS[arch] == round(parameters / 1e6)


@pytest.mark.parametrize("width", [1, 3, 16, 128])
def test_width_keeps_the_ratios(width):
    for arch in NETS:
        for narrow, full in zip(sum(stages(arch, width), []), sum(stages(arch), []), strict=True):
            assert narrow.channels * 64 == full.channels * width
            assert (narrow.name, narrow.kernel) == (full.name, full.kernel)


@pytest.mark.parametrize(
    ("table", "figures", "scales"),
    [(TABLE_3, SINGLE_SCALE, single_scale), (TABLE_4, MULTI_SCALE, multi_scale)],
    ids=["table 3", "table 4"],
)
def test_tables_3_and_4(table, figures, scales):
    assert table == tuple(
        paper.Row(arch, S, scales(S), "dense", top1, top5)
        for arch, rows in figures.items()
        for S, top1, top5 in rows
    )


def test_table_5():
    assert {(row.arch, row.views): (row.top1, row.top5) for row in TABLE_5} == {
        ("D", "dense"): (24.8, 7.5),
        ("D", "crops"): (24.6, 7.5),
        ("D", "both"): (24.4, 7.2),
        ("E", "dense"): (24.8, 7.5),
        ("E", "crops"): (24.6, 7.4),
        ("E", "both"): (24.4, 7.1),
    }
    assert len(TABLE_5) == 6
    assert all((row.S, row.Q) == ((256, 512), (256, 384, 512)) for row in TABLE_5)
    # The paper repeats Table 4's dense results.
    assert {row for row in TABLE_5 if row.views == "dense"} <= set(TABLE_4)


def test_table_6():
    assert [(row.views, row.top1, row.top5, row.top5_test) for row in TABLE_6] == [
        ("dense", 24.7, 7.5, 7.3),
        ("dense", 24.0, 7.1, 7.0),
        ("crops", 23.9, 7.2, None),
        ("both", 23.7, 6.8, 6.8),
    ]
    submission, *pairs = (row.models for row in TABLE_6)
    known = {(row.arch, row.S, row.Q) for row in TABLE_4}
    jitter = {model for model in known if model[1] == (256, 512)}
    best = {model for model in jitter if model[0] in "DE"}
    # All nets but B, and but C and E with jitter.
    fixed = {model for model in known - jitter if model[0] != "B"}
    assert set(submission) == fixed | {("D", (256, 512), (256, 384, 512))}
    assert len(submission) == 7
    assert all(set(models) == best and len(models) == 2 for models in pairs)


@pytest.mark.parametrize(
    ("row", "method", "nets", "figures"),
    [
        (0, "VGG", 2, (23.7, 6.8, 6.8)),
        (1, "VGG", 1, (24.4, 7.1, 7.0)),
        (2, "VGG (ILSVRC submission", 7, (24.7, 7.5, 7.3)),
        (3, "GoogLeNet", 1, (None, 7.9, 7.9)),
        (4, "GoogLeNet", 7, (None, 6.7, 6.7)),
        (5, "MSRA", 11, (None, None, 8.1)),
        (6, "MSRA", 1, (27.9, 9.1, 9.1)),
        (7, "Clarifai", "multiple", (None, None, 11.7)),
        (8, "Clarifai", 1, (None, None, 12.5)),
        (9, "Zeiler & Fergus", 6, (36.0, 14.7, 14.8)),
        (10, "Zeiler & Fergus", 1, (37.5, 16.0, 16.1)),
        (11, "OverFeat", 7, (34.0, 13.2, 13.6)),
        (12, "OverFeat", 1, (35.7, 14.2, None)),
        (13, "Krizhevsky et al.", 5, (38.1, 16.4, 16.4)),
        (14, "Krizhevsky et al.", 1, (40.7, 18.2, None)),
    ],
)
def test_table_7(row, method, nets, figures):
    assert len(TABLE_7) == 15
    assert TABLE_7[row][0].startswith(method)
    assert re.search(rf"[( ]{nets} nets?\b", TABLE_7[row][0])
    assert TABLE_7[row][1:] == figures


def test_every_row_has_its_config():
    assert [row.config for row in TABLE_3] == CONFIG_NAMES
    assert [DEPTHS[row.arch] for row in TABLE_3] == [int(name[3:5]) for name in CONFIG_NAMES]
    assert {row.config for row in (*TABLE_4, *TABLE_5)} <= set(CONFIG_NAMES)
    boxes = {box_config_name(S) for row in TABLE_9 for S, _ in row.models}
    assert {path.stem for path in CONFIGS.glob("vgg*.py")} == {*CONFIG_NAMES, *boxes, SHALLOW}


def test_colours():
    assert paper.MEAN_RGB == (123.68, 116.779, 103.939)
    assert paper.IMAGENET_EIGVAL == (0.2175, 0.0188, 0.0045)
    eigvec = np.array(paper.IMAGENET_EIGVEC)
    # Columns are orthonormal, the first one grey: brightness varies most.
    assert np.allclose(eigvec.T @ eigvec, np.eye(3), atol=1e-3)
    assert np.allclose(np.abs(eigvec[:, 0]), 3**-0.5, atol=0.01)


def test_table_8():
    errors = {"1st and 2nd FC": {"SCR": 36.4, "PCR": 34.3}, "all layers": {"PCR": 33.1}}
    names = {"fc": "1st and 2nd FC", "all": "all layers"}
    assert len(paper.TABLE_8) == 3
    for row in paper.TABLE_8:
        assert errors[names[row.trained]].pop(row.regression) == row.top1
    assert not any(errors.values())


def test_table_9():
    lines = [
        f"{'+'.join(str(S) for S, _ in row.models)} at "
        f"{'+'.join(','.join(map(str, Q)) for _, Q in row.models)}: {row.val} / {row.test or '-'}"
        for row in paper.TABLE_9
    ]
    assert lines == [
        "256 at 256: 29.5 / -",
        "384 at 384: 28.2 / 26.7",
        "384 at 352,384: 27.5 / -",
        "256+384 at 256+352,384: 26.9 / 25.3",
    ]
    # The fusion is of the best single nets.
    assert paper.TABLE_9[3].models == paper.TABLE_9[0].models + paper.TABLE_9[2].models


def test_table_10():
    methods, val, test = zip(*paper.TABLE_10, strict=True)
    assert methods == ("VGG", "GoogLeNet", "OverFeat", "Krizhevsky et al.")
    assert (val, test) == ((26.9, None, 30.0, None), (25.3, 26.7, 29.9, 34.2))
    assert paper.TABLE_10[0][1:] == (paper.TABLE_9[3].val, paper.TABLE_9[3].test)


def test_table_11():
    columns = {
        "voc2007": [89.3, 89.3, 89.7],
        "voc2012": [89.0, 89.0, 89.3],
        "caltech101": [(91.8, 1.0), (92.3, 0.5), (92.7, 0.5)],
        "caltech256": [(85.0, 0.2), (85.1, 0.3), (86.2, 0.3)],
    }
    assert [" & ".join(row.nets) for row in paper.TABLE_11] == ["D", "E", "D & E"]
    for name, column in columns.items():
        assert [getattr(row, name) for row in paper.TABLE_11] == column


def test_table_12():
    figures = dict(paper.TABLE_12)
    image, both = (figures[name] for name in figures if name.startswith("VGG"))
    assert (image, both) == (79.2, 84.0)
    others = [(name, mAP) for name, mAP in paper.TABLE_12 if not name.startswith("VGG")]
    assert others == [("Hoai", 76.3), ("Gkioxari et al.", 73.6), ("Oquab et al.", 70.2)]
    assert len(paper.TABLE_12) == 5
