"""What a net's layers see, hold and cost, and the paper's design argument worked out from them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import zip_longest

import torch
import torch.nn.functional as F
from mmengine.utils import to_2tuple
from mmpretrain.registry import MODELS
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vgg_mm.errors import UserError
from vgg_mm.models.head import FC
from vgg_mm.paper import TABLE_1, TABLE_2, TABLE_3


@dataclass(frozen=True)
class LayerInfo:
    """A layer, as an image meets it.

    Attributes:
        name: The module's name, such as ``conv1_1``.
        notation: What Table 1 calls it, such as ``conv3-64``.
        shape: (channels, height, width) of its output.
        field: Receptive field: the side, in input pixels, of the square that one output sees.
        stride: The distance, in input pixels, between the squares of neighbouring outputs.
        parameters: Its weights, biases included.
        multiply_adds: Its multiplications of an input by a weight, for one image.
    """

    name: str
    notation: str
    shape: tuple[int, int, int]
    field: int
    stride: int
    parameters: int = 0
    multiply_adds: int = 0


def total(layers: Iterable[LayerInfo], what: str) -> int:
    """The sum of the layers' ``parameters`` or ``multiply_adds``."""
    return sum(getattr(layer, what) for layer in layers)


def build(model: dict) -> nn.Module:
    """Builds a config's ``model`` on the meta device, where weights take no memory."""
    with torch.device("meta"):
        return MODELS.build(model).eval()


def paper_net(arch: str) -> nn.Module:
    """The paper's net ``arch`` on the meta device."""
    backbone, head = dict(type="vgg_mm.VGG", arch=arch), dict(type="vgg_mm.VGGHead")
    return build(dict(type="ImageClassifier", backbone=backbone, head=head))


def crop_side(model: nn.Module) -> int:
    """The side, in pixels, of the crops that ``model`` trains on: one window of fc6."""
    fc6 = getattr(getattr(model, "head", None), "fc6", None)
    return 32 * fc6.kernel_size[0] if fc6 else 224


def describe(model: nn.Module, height: int, width: int, channels: int = 3) -> list[LayerInfo]:
    """Describes the layers of ``model`` in the order in which an image of that size meets them.

    Layers are max-pools and all modules with weights of their own, and LRN. Of a classifier the
    last one is the class score map, before dense evaluation averages it. ``model`` lies on the
    meta device.

    Raises:
        UserError: If the image is too small for the net.
    """
    if min(height, width) < 1:
        raise UserError(f"an image of {height}x{width} has no pixels.")
    trace = _Trace(model)
    with trace, torch.no_grad():
        image = torch.empty(1, channels, height, width, device="meta")
        head = getattr(model, "head", None)
        if hasattr(head, "score_map"):
            head.score_map(model.extract_feat(image))
        else:
            model(image)
    return trace.layers


class _Trace(TorchFunctionMode):
    """Within it, each layer that a forward pass of ``model`` meets is noted in ``layers``.

    Pools are functions, not modules: hence a mode that sees function calls, beside hooks.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.layers: list[LayerInfo] = []
        self.names = {
            module: name.removeprefix("backbone.").removeprefix("head.")
            for name, module in model.named_modules()
            if isinstance(module, nn.LocalResponseNorm) or any(module.parameters(recurse=False))
        }

    def __enter__(self) -> _Trace:
        self.hooks = [module.register_forward_hook(self._module) for module in self.names]
        return super().__enter__()

    def __exit__(self, *error) -> None:
        for hook in self.hooks:
            hook.remove()
        super().__exit__(*error)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is not F.max_pool2d:
            return func(*args, **kwargs)
        x, kernel = args[0], to_2tuple(args[1])[0]
        stride = to_2tuple(kwargs["stride"] or kernel)[0]
        name = f"pool{1 + sum(layer.notation == 'maxpool' for layer in self.layers)}"
        if min(x.shape[2:]) < kernel:
            raise UserError(
                f"the image is too small: {name} looks at {kernel}x{kernel} positions of a map that"
                f" has only {x.shape[2]}x{x.shape[3]}."
            )
        out = func(*args, **kwargs)
        self._note(name, "maxpool", out, kernel, stride)
        return out

    def _module(self, module: nn.Module, _inputs: tuple, out: Tensor) -> None:
        kernel = stride = 1
        multiply_adds = 0
        notation = type(module).__name__
        if isinstance(module, nn.Conv2d):
            size = module.kernel_size[0]
            kernel, stride = module.dilation[0] * (size - 1) + 1, module.stride[0]
            multiply_adds = module.weight.numel() * out.shape[2:].numel()
            layer = "FC" if isinstance(module, FC) else f"conv{size}"
            notation = f"{layer}-{module.out_channels}"
        elif isinstance(module, nn.LocalResponseNorm):
            notation = "LRN"
        parameters = sum(p.numel() for p in module.parameters())
        self._note(self.names[module], notation, out, kernel, stride, parameters, multiply_adds)

    def _note(
        self, name: str, notation: str, out: Tensor, kernel: int, stride: int, *counts: int
    ) -> None:
        field, step = (self.layers[-1].field, self.layers[-1].stride) if self.layers else (1, 1)
        field += (kernel - 1) * step
        self.layers.append(
            LayerInfo(name, notation, tuple(out.shape[1:]), field, step * stride, *counts)
        )


def layer_table(layers: list[LayerInfo]) -> str:
    """One line a layer, then the totals."""
    rows = [["layer", "", "output", "receptive field", "stride", "parameters", "multiply-adds"]]
    for layer in layers:
        channels, height, width = layer.shape
        rows.append(
            [
                layer.name,
                layer.notation,
                f"{channels} x {height}x{width}",
                f"{layer.field}x{layer.field}",
                f"{layer.stride}",
                f"{layer.parameters:,}",
                f"{layer.multiply_adds:,}",
            ]
        )
    totals = [f"{total(layers, what):,}" for what in ("parameters", "multiply_adds")]
    return _columns([*rows, ["total", "", "", "", "", *totals]])


def lesson() -> str:
    """The paper's Sec. 2, and its dense evaluation, every number computed from layers.

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
        "Dense evaluation: every window of an image at once (Sec. 3.2)": _dense(),
    }
    return "\n\n\n".join(
        f"{title}\n{'=' * len(title)}\n\n{text}" for title, text in sections.items()
    )


def _table_1(nets: dict[str, list[LayerInfo]]) -> str:
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
            lefts = (cells[0], *cells)
            lines.append(
                row(f"{c} *" if c and c != left else c for left, c in zip(lefts, cells, strict=False))
            )
        lines.append(across("maxpool"))
    lines += [across(layer) for layer in classifiers[0].split()]
    lines.append(across("soft-max"))
    table = "\n".join(lines)
    return f"""{table}

* what a net adds to its left neighbour. conv3-64 is a layer of 64 filters of 3x3, stride 1, padding
such that the map keeps its size, followed by a ReLU; maxpool halves the map: 224 > 112 > 56 > 28 >
14 > 7. `describe.py configs/vgg16_d_256.py` follows an image through net D."""


def _table_2(nets: dict[str, list[LayerInfo]]) -> str:
    def row(label: str, cell) -> list[str]:
        return [label, *(cell(arch, layers) for arch, layers in nets.items())]

    def of(what: str, prefix: str):
        return lambda _, layers: (
            f"{total((layer for layer in layers if layer.name.startswith(prefix)), what) / 1e6:,.1f}"
        )

    table = _columns(
        [
            ["", *nets],
            row("parameters", lambda _, layers: f"{total(layers, 'parameters'):,}"),
            row("  in millions", of("parameters", "")),
            row("  in millions, the paper's Table 2", lambda arch, _: str(TABLE_2[arch])),
            row("  of these in convs", of("parameters", "conv")),
            row("  of these in FC layers", of("parameters", "fc")),
            row("multiply-adds, millions", of("multiply_adds", "")),
            row("  of these in convs", of("multiply_adds", "conv")),
            row("  of these in FC layers", of("multiply_adds", "fc")),
        ]
    )
    return table
