"""The colours of a training set: the mean and the principal components of its pixels (Sec. 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from vgg_mm.data.images import CorruptImageError, blamed, read_image
from vgg_mm.errors import UserError
from vgg_mm.processes import in_processes


@dataclass(frozen=True)
class Statistics:
    """What :func:`dataset_statistics` finds out.

    Attributes:
        images: How many images there are, without the corrupt ones.
        pixels: How many pixels they have together.
        mean: The mean of the pixels' (R, G, B), 0 to 255.
        eigval: The eigenvalues of the covariance of the pixels' (R, G, B) scaled to [0, 1], in
            descending order.
        eigvec: The eigenvectors as columns, (3, 3), rows in RGB order. An eigenvector's sign is
            free: here the largest of its components is positive.
        corrupt: One line for each image that could not be read.
    """

    images: int
    pixels: int
    mean: np.ndarray
    eigval: np.ndarray
    eigvec: np.ndarray
    corrupt: list[str]

    def config(self) -> str:
        """The settings of ``model`` and of the training pipeline, every digit kept."""
        rows = "".join(f"        {row},\n" for row in self.eigvec.tolist())
        return (
            "data_preprocessor=dict(\n"
            '    type="vgg_mm.VGGPreprocessor",\n'
            f"    mean={self.mean.tolist()},\n"
            "    std=[1, 1, 1],\n"
            "    to_rgb=True,\n"
            ")\n"
            "\n"
            "dict(\n"
            '    type="vgg_mm.DrawLighting",\n'
            f"    eigval={self.eigval.tolist()},\n"
            f"    eigvec=[\n{rows}    ],\n"
            ")"
        )


def dataset_statistics(images: Sequence[str], jobs: int = 1) -> Statistics:
    """Measures the colours of image files; every pixel counts once, whatever its image's size.

    Each process holds one image at a time. Sums are of whole numbers, so neither the order nor
    ``jobs`` changes a digit of the result. A progress bar goes to stderr.

    Args:
        images: The files' names.
        jobs: How many processes read them.

    Raises:
        UserError: If no image could be read, or a process was killed.
    """
    count, pixels, corrupt = 0, 0, []
    sums, products = np.zeros(3, np.int64), np.zeros((3, 3), np.int64)
    for result in in_processes(_measure, images, jobs, "Reading images"):
        if isinstance(result, str):
            corrupt.append(result)
            continue
        count += 1
        pixels += result[0]
        sums += result[1]
        products += result[2]
    if not count:
        raise UserError(f"none of {len(images)} images could be read, the first: {corrupt[0]}")

    # As objects, they are Python's integers of any size, and divided without a rounding before.
    sums, products = sums.astype(object), products.astype(object)
    covariance = (pixels * products - np.outer(sums, sums)) / (255 * pixels) ** 2
    eigval, eigvec = np.linalg.eigh(covariance.astype(np.float64))
    eigval, eigvec = eigval[::-1].clip(min=0), eigvec[:, ::-1]
    # Rounded, so that components of equal size do not take turns in being the largest.
    largest = np.abs(eigvec).round(6).argmax(0)
    eigvec = eigvec * np.sign(eigvec[largest, range(3)])
    mean = (sums / pixels).astype(np.float64)
    return Statistics(count, pixels, mean, eigval, eigvec, corrupt)


def _measure(image: str) -> tuple[int, np.ndarray, np.ndarray] | str:
    """The number, the sum (3,) and the sum of outer products (3, 3) of RGB pixels, or an error."""
    try:
        with blamed(image):
            rgb = cv2.cvtColor(read_image(image), cv2.COLOR_BGR2RGB).reshape(-1, 3)
            products = cv2.mulTransposed(rgb, aTa=True, dtype=cv2.CV_64F)  # exact below 2^53
            return len(rgb), rgb.sum(0, dtype=np.int64), products.astype(np.int64)
    except CorruptImageError as error:
        return str(error)
