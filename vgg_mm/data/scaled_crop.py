"""The fast way to a training crop: decode and resize only what the net will see (Sec. 3.1)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from mmengine import fileio

from vgg_mm.data.images import LoadImage, decode, decode_window
from vgg_mm.data.jpeg import Jpeg, Window
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
            CorruptImageError: See :func:`vgg_mm.data.decode_window`.
        """
        rng, path = _rng(self, results), results["img_path"]
        if self.load:
            jpeg, image = None, self.load(dict(img_path=path))["img"]
        else:
            data = fileio.get(path, self.backend_args)
            jpeg = Jpeg.parse(data)
            image = None if jpeg else decode(data, path)
        height, width = shape = (jpeg.header.height, jpeg.header.width) if jpeg else image.shape[:2]

        S = int(rng.integers(self.S_min, self.S_max, endpoint=True))
        scale = S / min(shape)
        side = math.ceil(self.size * min(shape) / S)  # the window's, in pixels of the source
        y, x = rng.integers(0, (height - side, width - side), endpoint=True).tolist()
        window = Window(y, x, y + side, x + side)
        pixels = decode_window(jpeg, window, path) if jpeg else window.of(image)
        crop = resize(pixels, self.size, scale)
        flip = rng.random() < 0.5
        results["img"] = crop[:, ::-1] if flip else crop
        results["img_shape"], results["ori_shape"] = (self.size, self.size), shape
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
