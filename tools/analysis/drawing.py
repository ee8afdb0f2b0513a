"""What drawings share: names in any script, images that may be gone; and that of a prediction."""

from __future__ import annotations

import os
import unicodedata
import warnings
from collections.abc import Sequence
from functools import cache

import numpy as np
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager
from matplotlib.ft2font import FT2Font
from matplotlib.patches import Rectangle

from vgg_mm.data import CorruptImageError, read_image, rescale
from vgg_mm.writing import replacing


def legible(names: Sequence[str], numbers: Sequence[int] | None = None) -> tuple[list, list[str]]:
    """Finds fonts for the names of classes.

    Args:
        names: The names, in any script.
        numbers: Their classes' numbers; by default the names are all classes', in order.

    Returns:
        The fonts' families, for a text's ``family``: matplotlib's own and, if that lacks
        characters, those of the machine's that have most of them. And the names: where no font has
        a character, a box stands for it, and the class's number before the name.
    """
    characters = {c for name in names for c in str(name)}
    # What marks, joins or parts others has no glyph of its own.
    missing = {c for c in characters if unicodedata.category(c)[0] not in "CMZ"}
    missing -= _characters(findfont(FontProperties()))
    families = list(rcParams["font.family"])
    while missing:
        best = max(fontManager.ttflist, key=lambda font: len(missing & _characters(font.fname)))
        if not missing & _characters(best.fname):
            break
        families.append(best.name)
        missing -= _characters(best.fname)
    boxes = str.maketrans(dict.fromkeys(missing, "\N{WHITE SQUARE}"))
    shown = [
        f"{number}: {str(name).translate(boxes)}" if missing & set(str(name)) else str(name)
        for number, name in zip(numbers or range(len(names)), names, strict=True)
    ]
    return families, shown


@cache
def _characters(path: str) -> frozenset[str]:
    """The characters that a font file has."""
    try:
        font = FT2Font(path)
    except (OSError, RuntimeError):
        return frozenset()
    # Bitmaps, as of emoji, cannot be drawn in every size, and the last resort has boxes for all.
    if not font.scalable or "LastResort" in font.family_name.replace(" ", ""):
        return frozenset()
    return frozenset(map(chr, font.get_charmap()))


def show(axes: Axes, image: str) -> None:
    """Shows an image's file; of one that cannot be read, it warns and says so in its place."""
    try:
        axes.imshow(read_image(image)[..., ::-1])
    except CorruptImageError as error:
        warnings.warn(f"not drawn: {error}", stacklevel=2)
        axes.text(0.5, 0.5, "not readable", ha="center", va="center", transform=axes.transAxes)


def draw_box(axes: Axes, box: Sequence[float], color: str) -> None:
    """Frames a box x1, y1, x2, y2, in the shown image's pixels, pixel i reaching to i + 1.

    Of a box without numbers nothing is drawn, and what leaves the image is cut off.
    """
    x1, y1, x2, y2 = (float(end) - 0.5 for end in box)  # imshow has pixel i's centre at i
    for width, shade in ((4, "white"), (2, color)):
        frame = Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=shade, linewidth=width)
        axes.add_patch(frame)


def resized(box: Sequence[float], shape: Sequence[int], to: Sequence[int]) -> np.ndarray:
    """A box x1, y1, x2, y2 of an image of a shape (H, W, ...) once that is resized to another."""
    return np.array(box) * ([to[1] / shape[1], to[0] / shape[0]] * 2)


def draw(
    image: str | os.PathLike,
    top: Sequence[tuple[str, float]],
    out: str | os.PathLike,
    classes: Sequence[str],
    box: Sequence[float] | None = None,
) -> None:
    """Draws an image, its most probable classes under it, to be read on a phone too.

    Args:
        image: The image's file.
        top: Names and probabilities, the most probable first; 20 are drawn at most.
        out: The PNG to write, 1000 pixels wide; its folder is made.
        classes: All classes' names.
        box: Where the most probable class was found, x1, y1, x2, y2 in the file's pixels.
    """
    top = top[:20]
    names, values = zip(*top, strict=True)
    families, names = legible(names, [list(classes).index(name) for name in names])
    whole = read_image(str(image))
    pixels = rescale(whole, min(800, *whole.shape[:2]))[..., ::-1]
    height, width = pixels.shape[:2]
    heights = 5 * min(max(height / width, 0.3), 1.2), 0.4 * len(top)  # inches
    figure = Figure(figsize=(5, sum(heights)), dpi=200)
    margins = dict(left=0.02, right=0.98, bottom=0.02, top=0.98, hspace=0.05)
    above, below = figure.subplots(2, height_ratios=heights, gridspec_kw=margins)
    above.imshow(pixels)
    if box is not None:
        draw_box(above, resized(box, whole.shape, pixels.shape), "#1a7f37")
    below.barh(range(len(top)), values, color=["#8ecae6"] + ["#d9e2e8"] * (len(top) - 1))
    below.set(xlim=(0, 1), ylim=(len(top) - 0.5, -0.5))
    style = dict(va="center", fontsize=14, parse_math=False, clip_on=True, family=families)
    for row, (name, value) in enumerate(zip(names, values, strict=True)):
        below.text(0.18, row, f"{value:.1%}", ha="right", **style)
        below.text(0.21, row, name if len(name) < 34 else f"{name[:32].rstrip(', ')} ...", **style)
    for axes in (above, below):
        axes.axis("off")
    with replacing(out) as file:
        figure.savefig(file, format="png")
