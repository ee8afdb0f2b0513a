"""The fast way to a training crop: decode and resize only what the net will see (Sec. 3.1)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import cv2
import numpy as np
import torch
from mmengine import fileio

from vgg_mm.data.images import LoadImage, decode, decode_cut
from vgg_mm.data.jpeg import Cut, Jpeg, Window
from vgg_mm.data.transforms import ScaleJitter, _positive_int, _rng
from vgg_mm.errors import UserError
from vgg_mm.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoadScaledCrop(ScaleJitter):
    """Loads a random crop of the rescaled picture, mirrored or not (Sec. 3.1).

    Does the work of ``LoadImage``, ``ScaleJitter``, ``RandomCrop`` and ``RandomFlip``, and draws
    the same numbers, but resizes only the crop's window of the source, and of a JPEG decodes little
    more than it (:mod:`vgg_mm.data.jpeg`). Two things differ. The crop's corner lies on a whole
    pixel of the source, uniformly drawn of all that leave room for the crop, where ``RandomCrop``
    draws one of the rescaled picture; the same state of the generator gives places that are less
    than two pixels apart. And both sides scale by S / short exactly, while ``ScaleJitter`` rounds
    the long side to whole pixels.

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
            CorruptImageError: See :func:`vgg_mm.data.decode_cut`.
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
        results["img"] = fileio.get(results["img_path"], self.backend_args)
        return results

    def _parse(self, results: dict) -> dict:
        """``img`` becomes a :class:`Jpeg`, which can be cut, or the picture."""
        data = results["img"]
        if isinstance(data, bytes):
            results["img"] = Jpeg.parse(data) or decode(data, results["img_path"])
        return results

    def _draw(self, results: dict) -> dict:
        """Adds the scale, and the crop's window in the source."""
        rng, image = _rng(self, results), results["img"]
        h, w = shape = image.shape[:2]
        S = int(rng.integers(self.S_min, self.S_max, endpoint=True))
        side = math.ceil(self.size * min(shape) / S)  # the window's, in pixels of the source
        y, x = rng.integers(0, (h - side, w - side), endpoint=True).tolist()
        results["window"], results["scale"] = Window(y, x, y + side, x + side), S / min(shape)
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
        crop = resize(results["img"], self.size, results.pop("scale"))
        results["img"] = cv2.flip(crop, 1) if results["rng"].random() < 0.5 else crop
        return results


def resize(pixels: np.ndarray, size: int, scale: float) -> np.ndarray:
    """Resizes a square (h, h, 3) uint8 by ``scale`` and keeps the first ``size`` rows and columns.

    Bilinear, antialiased where it shrinks.

    Returns:
        uint8 (size, size, 3).
    """
    side = len(pixels)
    if round(side * scale) > side:  # OpenCV's has no antialiasing, and takes half of the time
        return cv2.resize(pixels, None, fx=scale, fy=scale)[:size, :size]
    # A channels_last tensor, (1, 3, h, h): torch takes its fast path by the strides.
    x = torch.from_numpy(np.ascontiguousarray(pixels))[None].permute(0, 3, 1, 2)
    out = size + (side == size)  # whatever the scale, an equal size would be a copy
    # As F.interpolate, which knows no exact scale together with a size.
    x = torch.ops.aten._upsample_bilinear2d_aa(x, [out, out], False, scale, scale)
    return x[0, :, :size, :size].permute(1, 2, 0).numpy()
