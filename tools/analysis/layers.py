"""What a net's layers see, hold and cost."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial

import torch
from mmengine.utils import to_2tuple
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from tools.printing import as_text
from vgg_mm.errors import UserError
from vgg_mm.models import FC, VGG, VGGFC


@dataclass(frozen=True)
class LayerInfo:
    """A layer, as an image meets it.

    Attributes:
        name: The module's name, such as ``conv1_1``.
        notation: What Table 1 calls it, such as ``conv3-64``.
        shape: (channels, height, width) of its output.
        field: Receptive field: the side, in input pixels, of the square that one output sees.
        stride: The distance, in input pixels, between the squares of neighbouring outputs. Both
            are 0 where that is not known, of nets that are no VGG.
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
    try:
        with torch.device("meta"):
            return MODELS.build(model).eval()
    except RuntimeError:  # some nets compute with numbers while they are made
        return MODELS.build(model).eval().to("meta")


def paper_net(arch: str) -> nn.Module:
    """The paper's net ``arch`` on the meta device."""
    backbone, head = dict(type="vgg_mm.VGG", arch=arch), dict(type="vgg_mm.VGGHead")
    return build(dict(type="ImageClassifier", backbone=backbone, head=head))


def crop_side(model: nn.Module) -> int:
    """The side, in pixels, of the crops that ``model`` trains on: one window of fc6."""
    backbone, head = (getattr(model, part, None) for part in ("backbone", "head"))
    if isinstance(backbone, VGG) and isinstance(head, VGGFC):
        return backbone.stride * head.fc6.kernel_size[0]
    return 224


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
    layers: list[LayerInfo] = []
    hooks = [
        module.register_forward_hook(partial(_note, layers, name))
        for name, module in model.named_modules()
        if isinstance(module, nn.MaxPool2d | nn.LocalResponseNorm)
        or [*module.parameters(recurse=False)]
    ]
    image = torch.empty(1, channels, height, width, device="meta")
    head = getattr(model, "head", None)
    try:
        with torch.no_grad():
            dense = getattr(head, "score_map", getattr(head, "box_map", None))
            dense(model.extract_feat(image)) if dense else model(image)
    finally:
        for hook in hooks:
            hook.remove()
    if isinstance(getattr(model, "backbone", None), VGG | None):
        return layers
    return [replace(layer, field=0, stride=0) for layer in layers]  # they may not follow each other


def _note(
    layers: list[LayerInfo], name: str, module: nn.Module, _inputs: tuple, out: Tensor
) -> None:
    field, step = (layers[-1].field, layers[-1].stride) if layers else (1, 1)
    multiply_adds = 0
    notation = {nn.LocalResponseNorm: "LRN", nn.MaxPool2d: "maxpool"}.get(type(module))
    if isinstance(module, nn.Conv2d | nn.MaxPool2d):
        size, stride, dilation = (
            to_2tuple(n)[0] for n in (module.kernel_size, module.stride, module.dilation)
        )
        field += dilation * (size - 1) * step
        step *= stride
    if isinstance(module, nn.Conv2d):
        multiply_adds = module.weight.numel() * out.shape[2:].numel()
        layer = "FC" if isinstance(module, FC) else f"conv{size}"
        notation = f"{layer}-{module.out_channels}"
    layers.append(
        LayerInfo(
            name.removeprefix("backbone.").removeprefix("head."),
            notation or type(module).__name__,
            tuple(out.shape[1:]),
            field,
            step,
            sum(p.numel() for p in module.parameters()),
            multiply_adds,
        )
    )


def layer_table(layers: list[LayerInfo]) -> str:
    """One line a layer, then the totals."""
    rows = [["layer", "", "output", "receptive field", "stride", "parameters", "multiply-adds"]]
    for layer in layers:
        channels, *sides = map(str, layer.shape)
        rows.append(
            [
                layer.name,
                layer.notation,
                " x ".join([channels, *filter(None, ["x".join(sides)])]),
                f"{layer.field}x{layer.field}" if layer.field else "-",
                f"{layer.stride or '-'}",
                f"{layer.parameters:,}",
                f"{layer.multiply_adds:,}",
            ]
        )
    totals = [f"{total(layers, what):,}" for what in ("parameters", "multiply_adds")]
    return as_text([*rows, ["total", "", "", "", "", *totals]], words=(0, 1))
