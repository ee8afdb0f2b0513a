"""What a net's layers see, hold and cost."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from mmengine.utils import to_2tuple
from mmpretrain.registry import MODELS
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vgg_mm.errors import UserError
from vgg_mm.models.head import FC


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


def total(layers: Iterable[LayerInfo], what: str, prefix: str = "") -> int:
    """The ``parameters`` or ``multiply_adds`` of all layers whose name starts with ``prefix``."""
    return sum(getattr(layer, what) for layer in layers if layer.name.startswith(prefix))


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

    Layers are max-pools, LRN and all modules with weights of their own. Of a classifier the
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
            if isinstance(module, nn.LocalResponseNorm) or [*module.parameters(recurse=False)]
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
        if min(x.shape[2:]) < kernel - 2 * kwargs.get("padding", 0):
            raise UserError(
                f"{name} looks at {kernel}x{kernel} positions of a map that has only"
                f" {x.shape[2]}x{x.shape[3]}: the image's shortest side must be at least"
                f" {kernel * self.layers[-1].stride} pixels."
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
    return columns([*rows, ["total", "", "", "", "", *totals]], left=2)


def columns(rows: list[list[str]], left: int = 1) -> str:
    """Lines of aligned cells: the first ``left`` columns to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        cells[:left] = [cell.ljust(width) for cell, width in zip(row[:left], widths, strict=False)]
        lines.append("   ".join(cells).rstrip())
    return "\n".join(lines)
