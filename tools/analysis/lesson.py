"""The paper's design argument (Sec. 2) and its dense evaluation, worked out from the layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise, zip_longest
from textwrap import fill

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tools.analysis.layers import LayerInfo, describe, paper_net, total
from tools.printing import as_text
from vgg_mm.models.head import FC
from vgg_mm.paper import TABLE_1, TABLE_2, TABLE_3


def lesson() -> str:
    """The paper's Sec. 2 and its dense evaluation, every number computed from layers.

    Returns:
        Plain text of at most 100 columns.
    """
    nets = {arch: describe(paper_net(arch), 224, 224) for arch in TABLE_1}
    sections = {
        "Table 1: the six nets (Sec. 2.1)": _table_1(nets),
        "Table 2: how large they are (Sec. 2.3)": _table_2(nets),
        "Why 3x3: a stack of small filters against one large filter (Sec. 2.3)": _why_3x3(),
        "Why 1x1: net C (Sec. 2.3 and 4.1)": _why_1x1(nets),
        "An FC layer is a conv whose filter is as large as its image (Sec. 3.2)": _fc_as_conv(),
        "Dense evaluation: all windows of an image at once (Sec. 3.2)": _dense(),
    }
    return "\n\n\n".join(
        "\n\n".join([f"{title}\n{'=' * len(title)}", *blocks]) for title, blocks in sections.items()
    )


def _table_1(nets: dict[str, list[LayerInfo]]) -> list[str]:
    width = 16

    def row(cells: Iterable[str]) -> str:
        return "".join(cell.center(width) for cell in cells).rstrip()

    def across(text: str) -> str:
        return f" {text} ".center(width * len(nets), "-")

    depths = [sum(layer.multiply_adds > 0 for layer in layers) for layers in nets.values()]
    lines = [row(nets), row(f"{n} layers" for n in depths), across("input (224x224 RGB image)")]
    columns = [" ".join(layer.notation for layer in layers) for layers in nets.values()]
    *stages, classifiers = zip(*(column.split("maxpool") for column in columns), strict=True)
    for stage in stages:
        for cells in zip_longest(*(column.split() for column in stage), fillvalue=""):
            pairs = pairwise((cells[0], *cells))
            lines.append(row(f"{c} *" if c and c != left else c for left, c in pairs))
        lines.append(across("maxpool"))
    lines += [across(layer) for layer in (*classifiers[0].split(), "soft-max")]
    maps = (layer.shape[1] for layer in nets["A"] if layer.notation == "maxpool")
    halves = ", ".join(f"{side}x{side}" for side in maps)
    note = f"""* added to the net on its left. conv3-64 is a layer of 64 filters of 3x3 and a ReLU;
        its stride is 1, and a border of zeros keeps its map as large as its input. A maxpool halves
        the map, from 224x224 to {halves}."""
    return ["\n".join(lines), _prose(note)]


def _table_2(nets: dict[str, list[LayerInfo]]) -> list[str]:
    def row(what: str, prefix: str = "") -> list[str]:
        return [f"{total(layers, what, prefix) / 1e6:,.1f}" for layers in nets.values()]

    table = [
        ["millions of", *nets],
        ["parameters", *row("parameters")],
        ["  in the paper's Table 2", *map(str, TABLE_2.values())],
        ["  of the convs", *row("parameters", "conv")],
        ["  of the FC layers", *row("parameters", "fc")],
        ["multiply-adds for 224x224", *row("multiply_adds")],
        ["  in the convs", *row("multiply_adds", "conv")],
        ["  in the FC layers", *row("multiply_adds", "fc")],
    ]
    fc6 = _find(nets["A"], "fc6").parameters
    weights, work = (
        total(nets["E"], what) / total(nets["A"], what) for what in ("parameters", "multiply_adds")
    )
    note = f"""Most parameters lie in the FC layers (fc6 alone has {fc6:,}), most work in the convs.
        So depth costs few parameters: with 8 more layers, E has {weights - 1:.0%} more of them than
        A, and {work:.1f} times its multiply-adds."""
    return [as_text(table), _prose(note)]


def _why_3x3() -> list[str]:
    c = 256
    rows = [["", "sees", f"weights, C = {c}", "", "ReLUs"]]
    weights = {}
    for kernels in ((5,), (3, 3), (7,), (3, 3, 3)):
        with torch.device("meta"):
            convs = [nn.Conv2d(c, c, k, padding=k // 2, bias=False) for k in kernels]
        layers = describe(nn.Sequential(*convs), 32, 32, channels=c)
        n, field = len(kernels), layers[-1].field
        weights[kernels] = total(layers, "parameters")
        squares = f"= {weights[kernels] // c**2} C^2"
        rows.append(
            [f"{n} conv{kernels[0]}", f"{field}x{field}", f"{weights[kernels]:,}", squares, f"{n}"]
        )

    spread = [F.pad(torch.ones(1, 1, 1, 1), (3, 3, 3, 3))]
    for _ in range(3):
        spread.append(F.conv2d(spread[-1], torch.ones(1, 1, 3, 3), padding=1))

    random = torch.Generator().manual_seed(0)
    filters = torch.randn(3, 8, 8, 3, 3, generator=random) / 6
    x = torch.randn(1, 8, 9, 9, generator=random)

    def bend(activation: Callable[[Tensor], Tensor]) -> float:
        y, z = x, -x
        for weight in filters:
            y, z = (activation(F.conv2d(t, weight, padding=1)) for t in (y, z))
        return (y + z).abs().max().item()

    more_than_2 = weights[5,] / weights[3, 3] - 1
    more_than_3 = weights[7,] / weights[3, 3, 3] - 1
    return [
        _prose(
            """Each 3x3 layer lets an output see one more pixel on every side: two see 5x5, three
            see 7x7. A dot, and what one, two and three layers of 3x3 filters of ones make of it
            (the number of ways that lead from the dot to an output):"""
        ),
        _beside(*(_grid(image[0, 0]) for image in spread), gap=6),
        _prose(f"Layers with C channels in and out, their weights counted for C = {c}:"),
        as_text(rows),
        _prose(
            f"""1. Fewer weights: the 7x7 layer has {more_than_3:.0%} more than the three 3x3 layers
            that see as much, the 5x5 layer {more_than_2:.0%} more than two. The stack is a 7x7
            filter made to decompose into 3x3 filters, which regularises it."""
        ),
        _prose(
            f"""2. More ReLUs: three make the decision function more discriminative than one.
            Without any, the stack would be a linear map, as the 7x7 filter is, and depth would gain
            nothing. A linear map has f(x) + f(-x) = 0. For three random 3x3 layers the largest
            |f(x) + f(-x)| is {bend(lambda y: y):.2f} without ReLUs and {bend(F.relu):.2f} with
            them."""
        ),
    ]


def _why_1x1(nets: dict[str, list[LayerInfo]]) -> list[str]:
    errors = {row.arch: row.top1 for row in TABLE_3 if row.S == 256}
    rows = [["net", "its stage 3", "sees", "parameters", "ReLUs", "top-1 error (Table 3, S = 256)"]]
    for arch in "BCD":
        stage = [layer for layer in nets[arch] if layer.name.startswith("conv3_")]
        notations = " ".join(layer.notation for layer in stage)
        field, parameters = stage[-1].field, total(stage, "parameters")
        cells = [f"{field}x{field}", f"{parameters:,}", f"{len(stage)}", f"{errors[arch]} %"]
        rows.append([arch, notations, *cells])
    return [
        _prose(
            """A 1x1 conv is a linear projection of the channels at one position onto as many
            channels. With the ReLU behind it, it makes the net less linear and leaves its receptive
            field as it is. Stage 3 of three nets:"""
        ),
        as_text(rows, words=(0, 1)),
        _prose(
            """C is better than B: the additional non-linearity helps. D, as deep as C, is better
            still: it also matters to see more of the image."""
        ),
    ]


def _fc_as_conv() -> list[str]:
    rows = [[1, 0, 0, 1, 0], [0, 1, 1, 0, 0], [1, 1, 0, 1, 0], [0, 0, 1, 1, 0]]
    large = torch.tensor(rows, dtype=torch.float32)
    small = large[:3, :3]
    weight = torch.tensor([[1.0, 0, 1], [0, 1, 0], [1, 0, 1]])
    products = small * weight
    layer = FC(1, 1, 3, bias=False)
    layer.weight.data[0, 0] = weight
    with torch.no_grad():
        score = layer(small[None, None])
        window = F.conv2d(small[None, None], layer.weight)[0, 0]
        scores = layer(large[None, None])[0, 0]
    return [
        "A filter as large as its image has one place on it, and gives one sum of nine products:",
        _beside(
            f"image\n{_grid(small)}",
            "\n\nx",
            f"filter\n{_grid(weight)}",
            "\n\n=",
            f"products\n{_grid(products)}",
            f"\n\nsum {products.sum():.0f}",
        ),
        f"as an FC layer:  {_vector(small)} . {_vector(weight)} = {score.item():.0f}\n"
        f"as a conv:       a map of {len(window)}x{len(window)} score: {window.item():.0f}",
        _prose(
            """On a larger image (the one above is its upper left corner) the FC layer no longer
            fits. The conv does: it gives one score a window, the upper left one as before."""
        ),
        _beside(
            f"image\n{_grid(large)}",
            f"scores of {scores.shape[0]}x{scores.shape[1]} windows\n{_grid(scores)}",
            f"their mean\n{scores.mean():g}",
        ),
        "The mean of this map of scores is one score, whatever the image's size.",
    ]


def _dense() -> list[str]:
    model = paper_net("D")
    crop = total(describe(model, 224, 224), "multiply_adds")
    rows = [["image", "pool5", "score map", "10^9 multiply-adds", "as single crops"]]
    for size in (224, 256, 384, 512):
        layers = describe(model, size, size)
        maps = ("{}x{}".format(*_find(layers, name).shape[1:]) for name in ("pool5", "fc8"))
        work, windows = total(layers, "multiply_adds"), layers[-1].shape[1] * layers[-1].shape[2]
        rows.append([f"{size}x{size}", *maps, f"{work / 1e9:.1f}", f"{windows * crop / 1e9:.1f}"])
    fc6 = _find(layers, "fc6")
    return [
        _prose(
            """The nets' fc6 is such a filter: 7x7, on the 7x7 map that the convs make of a 224x224
            crop; fc7 and fc8 are 1x1. So net D takes a whole image of any size from 224x224 on, and
            averages its map of scores:"""
        ),
        as_text(rows),
        _prose(
            f"""The windows lie {fc6.stride} pixels apart and share the convs' work; a crop for each
            would repeat it (last column). And a window is surrounded by the image, a crop by zeros:
            fc6 sees {fc6.field}x{fc6.field} pixels. So the scores of windows and of crops differ a
            little, and complement each other (Table 5)."""
        ),
    ]


def _find(layers: list[LayerInfo], name: str) -> LayerInfo:
    return next(layer for layer in layers if layer.name == name)


def _prose(text: str) -> str:
    return fill(" ".join(text.split()), 96)


def _vector(values: Tensor) -> str:
    return "[" + " ".join(f"{value:.0f}" for value in values.flatten().tolist()) + "]"


def _grid(values: Tensor) -> str:
    """A (height, width) array of whole numbers as lines of text."""
    cells = [[f"{value:.0f}" for value in line] for line in values.tolist()]
    width = max(len(cell) for line in cells for cell in line)
    return "\n".join(" ".join(cell.rjust(width) for cell in line) for line in cells)


def _beside(*blocks: str, gap: int = 3) -> str:
    """Blocks of lines, set side by side."""
    columns = [block.split("\n") for block in blocks]
    widths = [max(map(len, lines)) for lines in columns]
    rows = [
        [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
        for cells in zip_longest(*columns, fillvalue="")
    ]
    return "\n".join((" " * gap).join(row).rstrip() for row in rows)
