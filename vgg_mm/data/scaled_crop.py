"""The fast way to a training crop: decode and resize only what the net will see (Sec. 3.1)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from mmcv.transforms import BaseTransform

from vgg_mm.data.images import (
    LoadImage,
    begin_reading,
    check_pixels,
    decode,
    decode_cut,
    placed,
)
from vgg_mm.data.jpeg import Jpeg, Window, decode_window
from vgg_mm.data.transforms import generator, pixels, put, scale_range
from vgg_mm.errors import UserError
from vgg_mm.registry import TRANSFORMS


class Crop(NamedTuple):
    """What was drawn for a crop: the image's point (y, x) is its (scale y - top, scale x - left).

    Attributes:
        scale: What the image is resized by.
        top: The crop's upper edge in pixels of the resized image.
        left: Its left edge.
        flip: Whether the crop is then mirrored left to right.
    """

    scale: float
    top: float
    left: float
    flip: bool


@TRANSFORMS.register_module()
class LoadScaledCrop(BaseTransform):
    """Loads a random crop of the rescaled image, mirrored or not (Sec. 3.1).

    Does the work of the step-by-step transforms (:mod:`vgg_mm.data.reference`) and draws the same
    numbers, but resizes only the crop's window of the source, and of a JPEG decodes little more
    than it (:mod:`vgg_mm.data.jpeg`). The window is wider than the crop by what the resizing filter
    sees, so that the crop's border is what it is in the whole image, resized. Two things differ.
    The window starts at a whole pixel of the source, which moves the crop by half a pixel of the
    rescaled image at most. And both sides scale by S / short exactly, while ``ScaleJitter`` rounds
    the long side to whole pixels, which moves it by another half at most.

    A JPEG that can be cut, and is large for S, is decoded at a reduced size: see :func:`reduction`.

    Args:
        S: The rescaled image's shortest side in pixels, or a range (Smin, Smax) from which each
            image draws its own, uniformly, both ends included.
        size: The crop's side in pixels; the paper's is 224.
        backend_args: The storage backend's arguments, see ``mmengine.fileio``.
        in_memory: Whether to keep every image, decoded, once it is read: for small data sets.
    """

    def __init__(
        self,
        S: int | Sequence[int],
        size: int = 224,
        backend_args: dict | None = None,
        in_memory: bool = False,
    ) -> None:
        self.S_min, self.S_max = scale_range(S, "LoadScaledCrop: S")
        self.size = pixels(size, "LoadScaledCrop: size")
        if self.S_min < size:
            raise UserError(f"LoadScaledCrop: S = {S} is smaller than the crop of {size}.")
        self.backend_args = backend_args
        self.load = LoadImage(backend_args, in_memory) if in_memory else None

    def transform(self, results: dict) -> dict:
        """Reads ``img_path``, or its ``file``, into ``img``, BGR uint8 (size, size, 3).

        Adds ``crop``, the :class:`Crop`, ``img_shape`` and the whole image's ``ori_shape``;
        ``gt_bboxes`` move from the image into the crop, see :func:`vgg_mm.data.transforms.put`.
        """
        for _ in self.steps(results):
            pass
        return results

    def steps(self, results: dict) -> Iterator[int]:
        """Does :meth:`transform`, pausing between its steps so that other samples' fit in.

        Yields how many bytes the sample holds.
        """
        path, held = results["img_path"], 0
        source: Jpeg | np.ndarray
        if self.load:
            source = self.load(results)["img"]
        else:
            file = results.get("file", path)
            ready = begin_reading(file, self.backend_args)
            yield getattr(file, "size", 0)
            data = ready()
            held = len(data)
            yield held
            source = Jpeg.parse(data) or decode(data, path)
            held += getattr(source, "nbytes", 0)
        shape = results["ori_shape"] = source.shape[:2]
        check_pixels(shape, path)
        if "gt_bboxes" in results:
            results["gt_bboxes"] = placed(results)
        yield held
        crop, window, reduced = self.draw(generator(self, results), shape, isinstance(source, Jpeg))
        yield held
        if isinstance(source, Jpeg):
            image = decode_window(source, window, reduced)
            if image is None:
                cut = source.cut(window, reduced)
                yield held
                image = decode_cut(cut, path)
        else:
            image = window.of(source)
        yield held + image.nbytes
        start = (
            round(crop.top - window.top * crop.scale),
            round(crop.left - window.left * crop.scale),
        )
        image = resize(image, self.size, crop.scale * reduced, start)
        results["crop"] = crop
        put(results, cv2.flip(image, 1) if crop.flip else image, *crop)

    def draw(
        self, rng: np.random.Generator, shape: Sequence[int], jpeg: bool
    ) -> tuple[Crop, Window, int]:
        """Draws a crop of an image (H, W).

        Returns:
            The crop, the window of the image that it needs, and how far that may be reduced.
        """
        S = int(rng.integers(self.S_min, self.S_max, endpoint=True))
        scale = S / min(shape)
        reduced = reduction(scale) if jpeg else 1
        room = [max(S, round(side * scale)) - self.size for side in shape]  # as ScaleJitter's
        corner = rng.integers(0, room, endpoint=True).tolist()
        (top, bottom, y), (left, right, x) = (
            support(side, scale, self.size, at / most if most else 0, reduced)
            for side, at, most in zip(shape, corner, room, strict=True)
        )
        crop = Crop(scale, scale * top + y, scale * left + x, bool(rng.random() < 0.5))
        return crop, Window(top, left, bottom, right), reduced


def reduction(scale: float) -> int:
    """How far a JPEG's decoder may reduce an image that is then resized by ``scale``.

    libjpeg decodes to 1/2, 1/4 or 1/8 of the size from fewer frequencies of each block, in less
    time. The smallest that is still at least twice as large as the rescaled image leaves the
    antialiasing to the resizing filter: half of the crop's values are then within one grey level
    of what they are from the full size, 99 of 100 within about five.
    """
    return next((n for n in (8, 4, 2) if 2 * n * scale <= 1), 1)


def support(
    side: int, scale: float, size: int, place: float, step: int = 1
) -> tuple[int, int, int]:
    """What a crop needs along one side of an image.

    Args:
        side: The image's, in pixels.
        scale: What it is resized by.
        size: The crop's side in pixels of the resized image.
        place: Where the crop is, from 0, the image's start, to 1, its end.
        step: What the first pixel is to be a multiple of.

    Returns:
        The first pixel of the source and the one after the last, all that a bilinear filter sees,
        and the crop's first pixel in what they become: one that needs none before them.
    """
    corner = place * (side - size / scale)
    radius = max(1, 1 / scale)  # the filter's
    start = max(int(corner) - round(radius), 0) // step * step
    first = round((corner - start) * scale)
    last = start + (first + size - 0.5) / scale  # the middle of the crop's last pixel
    return start, min(math.ceil(last + radius - 0.5), side), first


def resize(
    image: np.ndarray, size: int, scale: float, start: tuple[int, int] = (0, 0)
) -> np.ndarray:
    """Resizes (h, w, 3) uint8 by ``scale`` and keeps ``size`` rows and columns from ``start`` on.

    Bilinear, antialiased where it shrinks.

    Returns:
        uint8 (size, size, 3).
    """
    shape = image.shape[:2]
    if round(min(shape) * scale) > min(shape):
        # OpenCV's has no antialiasing, and takes half of the time.
        image = cv2.resize(image, None, fx=scale, fy=scale)
        y, x = min(start[0], len(image) - size), min(start[1], image.shape[1] - size)
        return image[y : y + size, x : x + size]
    # A channels_last tensor, (1, 3, h, w): torch takes its fast path by the strides.
    tensor = torch.from_numpy(np.ascontiguousarray(image))[None].permute(0, 3, 1, 2)
    # Whatever the scale, an equal size would be a copy.
    out = [at + size + (at + size == side) for at, side in zip(start, shape, strict=True)]
    # As F.interpolate, which knows no exact scale together with a size.
    tensor = torch.ops.aten._upsample_bilinear2d_aa(tensor, out, False, scale, scale)
    y, x = start
    return tensor[0, :, y : y + size, x : x + size].permute(1, 2, 0).numpy()
