"""The fast way to a training crop: decode and resize only what the net will see (Sec. 3.1)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import cv2
import numpy as np
import torch

from vgg_mm.data.images import LoadImage, check_pixels, decode, decode_cut, read_bytes
from vgg_mm.data.jpeg import Cut, Jpeg, Window
from vgg_mm.data.transforms import ScaleJitter, _positive_int, _rng
from vgg_mm.errors import UserError
from vgg_mm.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoadScaledCrop(ScaleJitter):
    """Loads a random crop of the rescaled picture, mirrored or not (Sec. 3.1).

    Does the work of ``LoadImage``, ``ScaleJitter``, ``RandomCrop`` and ``RandomFlip``, and draws
    the same numbers, but resizes only the crop's window of the source, and of a JPEG decodes little
    more than it (:mod:`vgg_mm.data.jpeg`). The window is wider than the crop by what the resizing
    filter sees, so that the crop's border is what it is in the whole picture, resized. Two things
    differ. The window starts at a whole pixel of the source, which moves the crop by half a pixel
    of the rescaled picture at most. And both sides scale by S / short exactly, while
    ``ScaleJitter`` rounds the long side to whole pixels, which moves it by another half at most.

    Args:
        S: The rescaled picture's shortest side in pixels, or a range (Smin, Smax) from which each
            picture draws its own, uniformly, both ends included.
        size: The crop's side in pixels; the paper's is 224.
        backend_args: The storage backend's arguments, see ``mmengine.fileio``.
        in_memory: Whether to keep every picture, decoded, once it is read: for small data sets.
    """

    def __init__(
        self,
        S: int | Sequence[int],
        size: int = 224,
        backend_args: dict | None = None,
        in_memory: bool = False,
    ) -> None:
        super().__init__(S)
        self.size = _positive_int(size, "LoadScaledCrop: size")
        if self.S_min < size:
            raise UserError(f"LoadScaledCrop: S = {S} is smaller than the crop of {size}.")
        self.backend_args = backend_args
        self.load = LoadImage(backend_args, in_memory) if in_memory else None

    def transform(self, results: dict) -> dict:
        """Reads ``img_path`` into ``img``, BGR uint8 (size, size, 3).

        Adds ``img_shape`` and ``ori_shape``, the whole picture's.

        Raises:
            CorruptImageError: See :func:`vgg_mm.data.images.read_bytes` and
                :func:`vgg_mm.data.decode_cut`.
        """
        for stage in self.stages:
            results = stage(results)
        return results

    @property
    def stages(self) -> list[Callable[[dict], dict]]:
        """The steps of :meth:`transform`, for a data set that takes many samples through each."""
        return [self._read, self._parse, self._draw, self._cut, self._decode, self._resize]

    def _read(self, results: dict) -> dict:
        """``img`` becomes the file's bytes or, with ``in_memory``, the picture."""
        if self.load:
            return self.load(results)
        results["img"] = read_bytes(results["img_path"], self.backend_args)
        return results

    def _parse(self, results: dict) -> dict:
        """``img`` becomes a :class:`Jpeg`, which can be cut, or the picture."""
        data, name = results["img"], results["img_path"]
        if isinstance(data, bytes):
            results["img"] = image = Jpeg.parse(data) or decode(data, name)
            check_pixels(*image.shape[:2], name)
        return results

    def _draw(self, results: dict) -> dict:
        """Adds the scale, the crop's window in the source, and where the crop starts in it."""
        rng, shape = _rng(self, results), results["img"].shape[:2]
        S = int(rng.integers(self.S_min, self.S_max, endpoint=True))
        scale = S / min(shape)
        room = [max(S, round(side * scale)) - self.size for side in shape]  # as ScaleJitter's
        corner = rng.integers(0, room, endpoint=True).tolist()
        (top, bottom, y), (left, right, x) = (
            support(side, scale, self.size, at / most if most else 0)
            for side, at, most in zip(shape, corner, room, strict=True)
        )
        results["window"], results["scale"] = Window(top, left, bottom, right), scale
        results["start"] = y, x
        results["img_shape"], results["ori_shape"] = (self.size, self.size), shape
        return results

    def _cut(self, results: dict) -> dict:
        """``img`` becomes the :class:`Cut` for the window or, of a picture, the window's pixels."""
        image, window = results["img"], results.pop("window")
        results["img"] = image.cut(window) if isinstance(image, Jpeg) else window.of(image)
        return results

    def _decode(self, results: dict) -> dict:
        """``img`` becomes the window's pixels."""
        if isinstance(results["img"], Cut):
            results["img"] = decode_cut(results["img"], results["img_path"])
        return results

    def _resize(self, results: dict) -> dict:
        """``img`` becomes the crop."""
        crop = resize(results["img"], self.size, results.pop("scale"), results.pop("start"))
        results["img"] = cv2.flip(crop, 1) if results["rng"].random() < 0.5 else crop
        return results


def support(side: int, scale: float, size: int, place: float) -> tuple[int, int, int]:
    """What a crop needs along one side of a picture.

    Args:
        side: The picture's, in pixels.
        scale: What it is resized by.
        size: The crop's side in pixels of the resized picture.
        place: Where the crop is, from 0, the picture's start, to 1, its end.

    Returns:
        The first pixel of the source and the one after the last, all that a bilinear filter sees,
        and the crop's first pixel in what they become: one that needs none before them.
    """
    corner = place * (side - size / scale)
    radius = max(1, 1 / scale)  # the filter's
    start = max(int(corner) - round(radius), 0)
    first = round((corner - start) * scale)
    last = start + (first + size - 0.5) / scale  # the middle of the crop's last pixel
    return start, min(math.ceil(last + radius - 0.5), side), first


def resize(
    pixels: np.ndarray, size: int, scale: float, start: tuple[int, int] = (0, 0)
) -> np.ndarray:
    """Resizes (h, w, 3) uint8 by ``scale`` and keeps ``size`` rows and columns from ``start`` on.

    Bilinear, antialiased where it shrinks.

    Returns:
        uint8 (size, size, 3).
    """
    shape = pixels.shape[:2]
    if round(min(shape) * scale) > min(shape):
        # OpenCV's has no antialiasing, and takes half of the time.
        image = cv2.resize(pixels, None, fx=scale, fy=scale)
        y, x = min(start[0], len(image) - size), min(start[1], image.shape[1] - size)
        return image[y : y + size, x : x + size]
    # A channels_last tensor, (1, 3, h, w): torch takes its fast path by the strides.
    image = torch.from_numpy(np.ascontiguousarray(pixels))[None].permute(0, 3, 1, 2)
    # Whatever the scale, an equal size would be a copy.
    out = [at + size + (at + size == side) for at, side in zip(start, shape, strict=True)]
    # As F.interpolate, which knows no exact scale together with a size.
    image = torch.ops.aten._upsample_bilinear2d_aa(image, out, False, scale, scale)
    y, x = start
    return image[0, :, y : y + size, x : x + size].permute(1, 2, 0).numpy()
