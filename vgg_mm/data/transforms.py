"""What happens to a training image before the net sees it (Sec. 3.1).

Images are ``results['img']``, BGR uint8 (H, W, 3) as OpenMMLab's readers give them. Transforms that
draw random numbers take them from ``results['rng']``, the sample's own generator, which
:class:`vgg_mm.SeededDataset` provides.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from mmcv.transforms import BaseTransform

from vgg_mm.data.images import check_pixels
from vgg_mm.errors import UserError
from vgg_mm.registry import TRANSFORMS


def rescale(image: np.ndarray, short: int, name: str = "the picture") -> np.ndarray:
    """Resizes (H, W, 3) uint8 so that its shortest side is ``short``, the aspect kept.

    Bilinear, antialiased where it shrinks.

    Raises:
        CorruptImageError: If it is so thin that it would have more than
            :func:`vgg_mm.data.max_pixels`. ``name`` is named.
    """
    h, w = image.shape[:2]
    size = [max(short, round(side * short / min(h, w))) for side in (h, w)]
    if size == [h, w]:
        return image
    check_pixels(*size, name, f" if its {w}x{h} are scaled to a shortest side of {short}")
    # A channels_last tensor, (1, 3, H, W): torch takes its fast path by the strides.
    pixels = torch.from_numpy(np.ascontiguousarray(image))[None].permute(0, 3, 1, 2)
    pixels = F.interpolate(pixels, size, mode="bilinear", antialias=True)
    return pixels[0].permute(1, 2, 0).contiguous().numpy()


def _rescale(results: dict, short: int) -> np.ndarray:
    return rescale(results["img"], short, results.get("img_path", "the picture"))


def _rng(transform: BaseTransform, results: dict) -> np.random.Generator:
    if "rng" not in results:
        raise UserError(
            f"{type(transform).__name__} draws from results['rng'], which is missing: wrap the data"
            " set in dict(type='vgg_mm.SeededDataset', dataset=...) and give its dataloader"
            " sampler=dict(type='vgg_mm.EpochSampler')."
        )
    return results["rng"]


def _put(results: dict, image: np.ndarray) -> dict:
    results["img"], results["img_shape"] = image, image.shape[:2]
    return results


def _positive_int(value: object, what: str) -> int:
    if not isinstance(value, int) or value < 1:
        raise UserError(f"{what} must be a number of pixels, 1 or more; got {value!r}.")
    return value


def _is_list(value: object) -> bool:
    return isinstance(value, list | tuple)


@TRANSFORMS.register_module()
class Rescale(BaseTransform):
    """Rescales the image isotropically so that its shortest side is Q (Sec. 3.2).

    Args:
        Q: The shortest side in pixels.
    """

    def __init__(self, Q: int) -> None:
        self.Q = _positive_int(Q, "Rescale: Q")

    def transform(self, results: dict) -> dict:
        """Rescales ``img``."""
        return _put(results, _rescale(results, self.Q))


@TRANSFORMS.register_module()
class MultiScale(BaseTransform):
    """Rescales to every test scale: ``img`` becomes a list, an image for each Q (Sec. 3.2).

    Args:
        scales: The shortest sides Q in pixels.
    """

    def __init__(self, scales: Sequence[int]) -> None:
        if not _is_list(scales) or not scales:
            raise UserError(f"MultiScale: scales must be a list of sides Q; got {scales!r}.")
        self.scales = [_positive_int(Q, "MultiScale: each scale") for Q in scales]

    def transform(self, results: dict) -> dict:
        """Makes ``img`` a list of (H_Q, W_Q, 3) uint8."""
        results["img"] = [_rescale(results, Q) for Q in self.scales]
        return results


@TRANSFORMS.register_module()
class ScaleJitter(BaseTransform):
    """Rescales the image isotropically so that its shortest side is S (Sec. 3.1).

    Args:
        S: The shortest side in pixels, or a range (Smin, Smax) from which each image draws its own,
            uniformly, both ends included.
    """

    def __init__(self, S: int | Sequence[int]) -> None:
        ends = [_positive_int(end, "ScaleJitter: S") for end in (S if _is_list(S) else (S, S))]
        if len(ends) != 2 or ends[0] > ends[1]:
            raise UserError(f"ScaleJitter: S must be a side or a range (Smin, Smax); got {S!r}.")
        self.S_min, self.S_max = ends

    def transform(self, results: dict) -> dict:
        """Draws S and rescales ``img``."""
        S = int(_rng(self, results).integers(self.S_min, self.S_max, endpoint=True))
        return _put(results, _rescale(results, S))


@TRANSFORMS.register_module()
class CenterCrop(BaseTransform):
    """Cuts the square in the middle; never returns less.

    Args:
        size: The crop's side in pixels.
    """

    def __init__(self, size: int) -> None:
        self.size = _positive_int(size, f"{type(self).__name__}: size")

    def transform(self, results: dict) -> dict:
        """Cuts ``img`` to (size, size, 3).

        Raises:
            UserError: If the image is smaller than the crop.
        """
        h, w = results["img"].shape[:2]
        room = (h - self.size, w - self.size)
        if min(room) < 0:
            raise UserError(
                f"{type(self).__name__}: {results.get('img_path', 'the image')} is {w}x{h} when it "
                f"gets here, smaller than the crop of {self.size}; rescale it to S >= {self.size}."
            )
        y, x = self._corner(room, results)
        return _put(results, results["img"][y : y + self.size, x : x + self.size])

    def _corner(self, room: tuple[int, int], results: dict) -> tuple[int, int]:
        return room[0] // 2, room[1] // 2


@TRANSFORMS.register_module()
class RandomCrop(CenterCrop):
    """Cuts a square at a uniformly drawn place: one crop an image and iteration (Sec. 3.1).

    Args:
        size: The crop's side in pixels; the paper's is 224.
    """

    def _corner(self, room: tuple[int, int], results: dict) -> tuple[int, int]:
        y, x = _rng(self, results).integers(0, room, endpoint=True)
        return y, x


@TRANSFORMS.register_module()
class RandomFlip(BaseTransform):
    """Mirrors every second image left to right, at random (Sec. 3.1)."""

    def transform(self, results: dict) -> dict:
        """Mirrors ``img`` or not."""
        flip = _rng(self, results).random() < 0.5
        return _put(results, results["img"][:, ::-1]) if flip else results


@TRANSFORMS.register_module()
class PCALighting(BaseTransform):
    """Shifts the image's colour along the data set's principal components (Sec. 3.1; AlexNet).

    Adds 255 * sum_i alpha_i * lambda_i * p_i to every pixel, alpha_i from N(0, std^2) once an image
    and use. The result is float32 and not clipped, so that nothing wraps or is lost.

    Args:
        eigval: The eigenvalues lambda of the covariance of RGB pixels scaled to [0, 1].
        eigvec: Its eigenvectors p as columns, in RGB order.
        std: The standard deviation of alpha.
    """

    def __init__(
        self, eigval: Sequence[float], eigvec: Sequence[Sequence[float]], std: float = 0.1
    ) -> None:
        self.eigval = np.asarray(eigval, np.float64)
        self.eigvec = np.asarray(eigvec, np.float64)
        if self.eigval.shape != (3,) or self.eigvec.shape != (3, 3):
            raise UserError(
                "PCALighting: eigval must hold 3 numbers and eigvec 3 rows of 3, as "
                "tools/data/dataset_stats.py prints them."
            )
        if self.eigval.max() > 1:
            raise UserError(
                f"PCALighting: eigval {eigval} is not of pixels scaled to [0, 1]: divide the "
                "eigenvalues of 0-255 pixels by 255^2."
            )
        self.std = std

    def transform(self, results: dict) -> dict:
        """Adds the shift to ``img``, which becomes float32 on the 0-255 scale."""
        return _put(results, results["img"] + self._draw(results)[::-1].astype(np.float32))

    def _draw(self, results: dict) -> np.ndarray:
        """The shift of (R, G, B) in grey levels."""
        alpha = _rng(self, results).normal(0, self.std, 3)
        return 255 * self.eigvec @ (alpha * self.eigval)


@TRANSFORMS.register_module()
class DrawLighting(PCALighting):
    """Draws :class:`PCALighting`'s shift and leaves it to :class:`vgg_mm.VGGPreprocessor` to add.

    Takes the same arguments, draws the same numbers; :func:`vgg_mm.collate_crops` passes them on.
    """

    def transform(self, results: dict) -> dict:
        """Adds ``lighting``, the shift of (R, G, B) in grey levels, to be added to all pixels."""
        results["lighting"] = self._draw(results)
        return results
