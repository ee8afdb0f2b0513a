"""The dense class score map, laid over the image that it was computed from (Sec. 3.2)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from textwrap import wrap

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from tools.analysis.drawing import draw_box, legible, resized
from vgg_mm.api import Net
from vgg_mm.data import read_image, rescale
from vgg_mm.writing import replacing


def place(cells: np.ndarray, height: int, width: int, kernel: int, stride: int) -> np.ndarray:
    """Lays a score map over its image, every value where the net looked for it.

    Position (i, j) comes from a window of fc6, ``kernel`` x ``kernel`` cells of the last feature
    map, which lie a stride of s pixels apart: of the pixels that the net sees, the image's middle
    (:meth:`vgg_mm.Evaluation.seen`), those from (s i, s j) on, s ``kernel`` each way. Its value is
    put in the window's centre, s (i + kernel / 2, j + kernel / 2), and stands for the s x s pixels
    around it; between centres the map is interpolated. The border of the image, where no
    window has its centre, stays empty: stretched from edge to edge the map would show things where
    they are not.

    Args:
        cells: The map (h, w) of one class.
        height: The image's height in pixels.
        width: The image's width in pixels.
        kernel: The side of fc6's kernel.
        stride: The last feature map's, in pixels: :attr:`vgg_mm.VGG.stride`.

    Returns:
        (height, width), NaN where the map says nothing.
    """
    h, w = cells.shape
    values = torch.from_numpy(np.ascontiguousarray(cells))[None, None]
    near: Tensor = F.interpolate(values, scale_factor=stride, mode="bilinear", align_corners=False)
    placed = np.full((height, width), np.nan, cells.dtype)
    border = stride * (kernel - 1) // 2  # half a window less half a cell
    top, left = (side % stride // 2 + border for side in (height, width))
    placed[top : top + stride * h, left : left + stride * w] = near[0, 0].numpy()
    return placed


def draw_score_maps(
    net: Net,
    image: str | os.PathLike,
    top: int,
    out: str | os.PathLike,
    scales: Sequence[int] | None = None,
) -> list[tuple[str, float]]:
    """Draws the score maps of an image's most probable classes: a row a class, a column a scale.

    Of a config that predicts boxes the class's box is drawn over its row, once it is among the five
    that it looks for.

    Args:
        net: The net; its protocol chooses the classes.
        image: The image's file.
        top: How many classes.
        out: The PNG to write; its folder is made.
        scales: The shortest sides Q; by default the net's own.

    Returns:
        The classes' names and their probabilities by the protocol, the most probable first.

    Raises:
        UserError: As :meth:`vgg_mm.Net.score_map` does, or if the PNG cannot be written.
    """
    posterior, guesses = net.look(image, scales)
    boxes = {guess.label: guess.box for guess in guesses}
    named = net.ranked(posterior, top)
    labels = posterior.argsort(descending=True, stable=True)[:top].tolist()
    original = read_image(str(image))
    maps = [
        (rescale(original, Q)[..., ::-1], posteriors.numpy())
        for Q, posteriors in zip(scales or net.scales, net.score_map(image, scales), strict=True)
    ]
    kernel, stride = net.namer.head.fc6.kernel_size[0], net.namer.backbone.stride

    finest = max((rgb for rgb, _ in maps), key=len)
    height, width = (3 * side / max(finest.shape) for side in finest.shape[:2])  # inches
    size = (max(width, 2.4) * (1 + len(maps)), (height + 0.8) * len(named) + 0.8)
    figure = Figure(size, dpi=150, layout="constrained")
    grid = figure.subplots(len(named), 1 + len(maps), squeeze=False)
    families, shown_names = legible(net.classes)
    style = dict(fontsize=10, parse_math=False, family=families)
    for row, (_, value), label in zip(grid, named, labels, strict=True):
        row[0].imshow(finest)
        lines = wrap(shown_names[label], 28, max_lines=2, placeholder=" ...")
        row[0].set_title("\n".join([*lines, f"{value:.1%}"]), **style)
        for axes, (rgb, posteriors) in zip(row[1:], maps, strict=True):
            cells = posteriors[label]
            h, w = cells.shape
            grey = rgb.mean(-1, keepdims=True) / 255
            axes.imshow(np.repeat(grey, 3, axis=-1))
            placed = place(cells, *rgb.shape[:2], kernel, stride)
            shown = axes.imshow(placed, vmin=0, vmax=1, alpha=0.6, cmap="viridis")
            title = f"Q = {min(rgb.shape[:2])}\n{h}x{w} windows, up to {cells.max():.0%}"
            axes.set_title(title, **style)
        for axes, shape in zip(row, [finest.shape, *(rgb.shape for rgb, _ in maps)], strict=True):
            if label in boxes:
                draw_box(axes, resized(boxes[label], original.shape, shape), "#c62828")
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
    figure.colorbar(shown, ax=grid, label="posterior", location="bottom", aspect=40)
    with replacing(out) as file:
        figure.savefig(file, format="png")
    return named
