"""Sec. 3.1's augmentation step by step: what tests compare the fast way with.

``LoadImage``, ``ScaleJitter``, ``RandomCrop``, ``RandomFlip`` and ``PCALighting`` draw the same
numbers as :class:`vgg_mm.LoadScaledCrop` and :class:`vgg_mm.DrawLighting`, and a config may list
them instead.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from mmcv.transforms import BaseTransform

from vgg_mm.data.transforms import (
    CenterCrop,
    DrawLighting,
    generator,
    put,
    put_rescaled,
    scale_range,
)
from vgg_mm.registry import TRANSFORMS


@TRANSFORMS.register_module()
class ScaleJitter(BaseTransform):
    """Rescales the image isotropically so that its shortest side is S (Sec. 3.1).

    Args:
        S: The shortest side in pixels, or a range (Smin, Smax) from which each image draws its own,
            uniformly, both ends included.
    """

    def __init__(self, S: int | Sequence[int]) -> None:
        self.S_min, self.S_max = scale_range(S, "ScaleJitter: S")

    def transform(self, results: dict) -> dict:
        """Draws S and rescales ``img``."""
        S = int(generator(self, results).integers(self.S_min, self.S_max, endpoint=True))
        return put_rescaled(results, S)


@TRANSFORMS.register_module()
class RandomCrop(CenterCrop):
    """Cuts a square at a uniformly drawn place: one crop an image and iteration (Sec. 3.1).

    Args:
        size: The crop's side in pixels; the paper's is 224.
    """

    def corner(self, room: tuple[int, int], results: dict) -> tuple[int, int]:
        """Where the crop starts, drawn from the ``room`` (rows, columns) that it has."""
        y, x = generator(self, results).integers(0, room, endpoint=True)
        return y, x


@TRANSFORMS.register_module()
class RandomFlip(BaseTransform):
    """Mirrors every second image left to right, at random (Sec. 3.1)."""

    def transform(self, results: dict) -> dict:
        """Mirrors ``img`` or not."""
        flip = generator(self, results).random() < 0.5
        return put(results, results["img"][:, ::-1], flip=True) if flip else results


@TRANSFORMS.register_module()
class PCALighting(DrawLighting):
    """Adds the shift that :class:`vgg_mm.DrawLighting` draws, with the same arguments."""

    def transform(self, results: dict) -> dict:
        """Adds the shift to ``img``, which becomes float32 on the 0-255 scale, not clipped."""
        shift = super().transform(results).pop("lighting")
        return put(results, results["img"] + shift[::-1].astype(np.float32))
