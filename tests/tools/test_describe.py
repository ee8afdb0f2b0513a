import re
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from tools.analysis.layers import build, describe, layer_table, paper_net, total
from tools.analysis.lesson import lesson
from vgg_mm.paper import PARAMETERS, TABLE_1, stages

ROOT = Path(__file__).parents[2]


def small_net(width, kernel_size=7, **backbone):
    head = dict(in_channels=8 * width, channels=16, num_classes=10, kernel_size=kernel_size)
    return build(
        dict(
            type="ImageClassifier",
            backbone=dict(type="vgg_mm.VGG", width=width, **backbone),
            head=dict(type="vgg_mm.VGGHead", **head),
        )
    )


@pytest.fixture(scope="module")
def text():
    return lesson()


@pytest.fixture
def tool(tool):
    return partial(tool, "describe")


@pytest.mark.parametrize("arch", TABLE_1)
def test_parameters(arch):
    assert total(describe(paper_net(arch), 224, 224), "parameters") == PARAMETERS[arch]


def test_multiply_adds_of_net_d():
    side, channels, expected = 224, 3, 0
    for stage in ([64] * 2, [128] * 2, [256] * 3, [512] * 3, [512] * 3):
        for out in stage:
            expected += 9 * channels * out * side**2
            channels = out
        side //= 2
    expected += 512 * 7 * 7 * 4096 + 4096 * 4096 + 4096 * 1000
    assert f"{expected / 1e9:.2f}" == "15.47"
    assert total(describe(paper_net("D"), 224, 224), "multiply_adds") == expected


def test_receptive_fields_are_what_the_gradient_reaches():
    indices = ("conv1_2", 0, "conv3_3", "conv4_3", "conv5_3", 4)
    names = ("conv1_2", "pool1", "conv3_3", "conv4_3", "conv5_3", "pool5", "fc6")
    model = small_net(1, arch="D", out_indices=indices)
    layers = {layer.name: layer for layer in describe(model, 512, 512)}
    assert [layers[name].field for name in names] == [5, 6, 40, 92, 196, 212, 404]
    assert [layers[name].stride for name in names] == [1, 2, 4, 8, 16, 32, 32]

    # A max-pool's gradient reaches one pixel of a window, an average's all of them.
    for i in range(1, 6):
        setattr(model.backbone, f"pool{i}", nn.AvgPool2d(2))
    model.to_empty(device="cpu").double()
    for parameter in model.parameters():
        nn.init.ones_(parameter)
    image = torch.ones(1, 3, 512, 512, dtype=torch.double, requires_grad=True)
    feats = model.extract_feat(image)
    for name, out in zip(names, (*feats, model.head.fc6(feats[-1])), strict=True):
        middle = out.shape[-1] // 2
        reached = []
        for column in (middle, middle + 1):
            (grad,) = torch.autograd.grad(out[0, 0, middle, column], image, retain_graph=True)
            reached.append(grad[0].sum((0, 1)).nonzero().flatten())
        assert len(reached[0]) == layers[name].field
        assert reached[1][0] - reached[0][0] == layers[name].stride


@pytest.mark.parametrize("norm_cfg", [None, dict(type="BN"), dict(type="SyncBN")])
@pytest.mark.parametrize("arch", ["A-LRN", "C"])
def test_any_width_and_norm(arch, norm_cfg):
    model = small_net(4, kernel_size=2, arch=arch, norm_cfg=norm_cfg)
    layers = describe(model, 64, 96)
    assert total(layers, "parameters") == sum(p.numel() for p in model.parameters())
    shapes = [layer.shape for layer in layers]
    assert shapes[-4:] == [(32, 2, 3), (16, 1, 2), (16, 1, 2), (10, 1, 2)]
    names = [layer.name for layer in layers]
    assert ("bn1_1" in names) == (norm_cfg is not None)
    assert ("norm1_1" in names) == (arch == "A-LRN")


def test_a_backbone_alone():
    layers = describe(paper_net("D").backbone, 33, 50)
    assert (layers[-1].name, layers[-1].shape, layers[-1].field) == ("pool5", (512, 1, 1), 212)


def test_layer_table():
    table = layer_table(describe(paper_net("D"), 224, 224)).splitlines()
    cells = [line.split() for line in table]
    conv = ["conv3_3", "conv3-256", "256", "x", "56x56", "40x40", "4", "590,080", "1,849,688,064"]
    assert conv in cells
    assert ["pool5", "maxpool", "512", "x", "7x7", "212x212", "32", "0", "0"] in cells
    assert cells[-1] == ["total", "138,357,544", "15,470,264,320"]
    assert max(map(len, table)) <= 100


def test_a_net_that_computes_while_it_is_made():
    head = dict(type="LinearClsHead", num_classes=5, in_channels=512)
    neck, backbone = dict(type="GlobalAveragePooling"), dict(type="ResNet", depth=18)
    net = dict(type="ImageClassifier", backbone=backbone, neck=neck, head=head)
    tested = build(dict(type="vgg_mm.Evaluation", module=net))
    layers = describe(tested.module, 224, 224)
    assert total(layers, "parameters") == 11_179_077
    assert not any(layer.field or layer.stride for layer in layers)  # shortcuts lie beside others
    table = layer_table(layers).splitlines()
    assert re.search(r"conv1 .* 64 x 112x112 +- +- ", table[1])
    assert re.search(r"fc .* 5 +- +- ", table[-2])


def test_lesson_has_table_1(text):
    lines = text[: text.index("soft-max")].splitlines()
    cells = [[line[i : i + 16].strip(" *") for i in range(0, 96, 16)] for line in lines]
    header = cells.index(list(TABLE_1))
    assert cells[header + 1] == [f"{n} layers" for n in (11, 11, 13, 16, 16, 19)]
    for column, arch in zip(zip(*cells[header:], strict=True), TABLE_1, strict=True):
        shown = [cell for cell in column if cell.startswith(("conv", "LRN"))]
        assert shown == [
            f"conv{layer.kernel}-{layer.channels}" if layer.kernel else "LRN"
            for layer in sum(stages(arch), [])
        ]
    across = [line.strip("- ") for line in lines if line.startswith("-")]
    fc = ["FC-4096", "FC-4096", "FC-1000"]
    assert across[:-1] == ["input (224x224 RGB image)", *["maxpool"] * 5, *fc]
    assert sum(line.count("*") for line in lines) == 1 + 2 + 3 + 3 + 3


def test_lesson_counts(text):
    words = " ".join(text.split())
    for fact in (
        "parameters 132.9 132.9 133.0 133.6 138.4 143.7",
        "in the paper's Table 2 133 133 133 134 138 144",
        "1 conv5 5x5 1,638,400 = 25 C^2 1",
        "2 conv3 5x5 1,179,648 = 18 C^2 2",
        "1 conv7 7x7 3,211,264 = 49 C^2 1",
        "3 conv3 7x7 1,769,472 = 27 C^2 3",
        "81% more",
        "0.00 without ReLUs",
        "C conv3-256 conv3-256 conv1-256 32x32 951,040 3 28.1 %",
        "= 3 as a conv: a map of 1x1 score: 3",
        "384x384 12x12 6x6 49.6 556.9",
    ):
        assert fact in words
    assert max(map(len, text.splitlines())) <= 100


def test_lesson_slides_the_filter(text):
    example = text[text.index("On a larger image") :].splitlines()
    top = example.index("") + 2
    image = [[int(cell) for cell in line[:9].split()] for line in example[top : top + 4]]
    scores = [
        [
            image[y][x]
            + image[y][x + 2]
            + image[y + 1][x + 1]
            + image[y + 2][x]
            + image[y + 2][x + 2]
            for x in range(3)
        ]
        for y in range(2)
    ]
    shown = [[float(cell) for cell in line[9:].split()] for line in example[top : top + 2]]
    assert shown == [[*scores[0], sum(map(sum, scores)) / 6], scores[1]]


def test_tool(tool):
    config = ROOT / "configs/vgg16_d_jitter.py"
    assert "138,357,544" in tool(config)
    assert "1000 x 6x10" in tool(config, "--size", 384, 512)
    narrow = ["model.backbone.width=16", "model.head.in_channels=128"]
    assert "16 x 224x224" in tool(config, "--cfg-options", *narrow)
    assert tool().startswith("Table 1")
    assert "256 x 1x1" in tool(ROOT / "configs/demo_boxes.py")  # 4 numbers for each of 64 classes
    assert "4000 x 6x6" in tool(ROOT / "configs/vgg16_d_256_boxes.py", "--size", 384)


@pytest.mark.parametrize(
    ("config", "size", "message"),
    [
        ("vgg16_d_256x.py", [], "no config"),
        ("vgg16_d_jitter.py", ["--size", 223], "224 pixels with five pools"),
        ("vgg16_d_jitter.py", ["--size", 15, 300], "15x300 .* at least 32 pixels"),
        ("vgg16_d_jitter.py", ["--size", 0], "0x0"),
        ("vgg16_d_jitter.py", ["--size", 1, 2, 3], "not 3 numbers"),
    ],
)
def test_errors(tool, config, size, message):
    with pytest.raises(SystemExit, match=message):
        tool(ROOT / "configs" / config, *size)
