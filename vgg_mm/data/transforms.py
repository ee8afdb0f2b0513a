"""What happens to an image before the net sees it, but for its loading and the training's crop.

Images are ``results['img']``, BGR uint8 (H, W, 3) as OpenMMLab's readers give them, and
``gt_bboxes``, where there are any, lie in them (:func:`put`). Transforms that draw random numbers
take them from ``results['rng']``, the sample's own generator, which :class:`vgg_mm.SeededDataset`
provides.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from mmcv.transforms import BaseTransform

from vgg_mm.data.images import CorruptImageError, check_pixels
from vgg_mm.errors import UserError
from vgg_mm.paper import IMAGENET_EIGVAL, IMAGENET_EIGVEC
from vgg_mm.registry import TRANSFORMS

THINNEST = 100  # a strip of 2 x 60000 would become 160 million pixels at Q = 73


def rescale(image: np.ndarray, short: int, name: str = "the image") -> np.ndarray:
    """Resizes (H, W, 3) uint8 so that its shortest side is ``short``, the aspect kept.

    Bilinear, antialiased where it shrinks.

    Raises:
        CorruptImageError: If a side is more than ``THINNEST`` times the other, or it would have
            more than :func:`vgg_mm.data.max_pixels`. ``name`` is named.
    """
    h, w = image.shape[:2]
    if max(h, w) > THINNEST * min(h, w):
        raise CorruptImageError(
            f"{name}: {w}x{h} pixels are too thin: a side is more than {THINNEST} times the other."
        )
    size = [max(short, round(side * short / min(h, w))) for side in (h, w)]
    if size == [h, w]:
        return image
    check_pixels(size, name, f" if its {w}x{h} are scaled to a shortest side of {short}")
    # A channels_last tensor, (1, 3, H, W): torch takes its fast path by the strides.
    tensor = torch.from_numpy(np.ascontiguousarray(image))[None].permute(0, 3, 1, 2)
    tensor = F.interpolate(tensor, size, mode="bilinear", antialias=True)
    return tensor[0].permute(1, 2, 0).contiguous().numpy()


def rescaled(results: dict, short: int) -> np.ndarray:
    """A sample's image after :func:`rescale`."""
    return rescale(results["img"], short, results.get("img_path", "the image"))


def put_rescaled(results: dict, short: int) -> dict:
    """The sample with its image after :func:`rescale`."""
    (h, w), image = results["img"].shape[:2], rescaled(results, short)
    return put(results, image, (image.shape[0] / h, image.shape[1] / w))


def put(
    results: dict,
    image: np.ndarray,
    scale: float | tuple[float, float] = 1,
    top: float = 0,
    left: float = 0,
    flip: bool = False,
) -> dict:
    """The sample with another image, ``img`` and its ``img_shape``, and its boxes in that.

    Its ``gt_bboxes``, where there are any, are corners x1, y1, x2, y2, float32 (n, 4), pixel i
    reaching from i to i + 1, as mmcv's transforms have them. What leaves the image stays whole.

    Args:
        results: The sample.
        image: (H, W, 3).
        scale: What the sample's image was resized by, or how much along y and x.
        top: Where the new image begins in it then, in pixels.
        left: Likewise.
        flip: Whether it was then mirrored left to right.
    """
    results["img"], results["img_shape"] = image, image.shape[:2]
    if "gt_bboxes" in results:
        corners = results["gt_bboxes"].reshape(-1, 2, 2)  # (n, both ends, x and y)
        corners = corners * np.broadcast_to(scale, 2)[::-1] - (left, top)
        if flip:
            corners[..., 0] = image.shape[1] - corners[:, ::-1, 0]
        results["gt_bboxes"] = corners.reshape(-1, 4).astype(np.float32)
    return results


def generator(transform: BaseTransform, results: dict) -> np.random.Generator:
    """The sample's own generator of random numbers."""
    if "rng" not in results:
        raise UserError(
            f"{type(transform).__name__} draws from results['rng'], which is missing: wrap the data"
            " set in dict(type='vgg_mm.SeededDataset', dataset=...) and give its dataloader"
            " sampler=dict(type='vgg_mm.EpochSampler')."
        )
    return results["rng"]


def pixels(value: object, what: str) -> int:
    """``value`` if it is a number of pixels, 1 or more; else raises UserError, which says what."""
    if not isinstance(value, int) or value < 1:
        raise UserError(f"{what} must be a number of pixels, 1 or more; got {value!r}.")
    return value


def scale_range(S: int | Sequence[int], what: str) -> tuple[int, int]:
    """The ends of what S is drawn from: a side or a range. UserError as from :func:`pixels`."""
    ends = [pixels(end, what) for end in (S if isinstance(S, list | tuple) else (S, S))]
    if len(ends) != 2 or ends[0] > ends[1]:
        raise UserError(f"{what} must be a side or a range (Smin, Smax); got {S!r}.")
    return ends[0], ends[1]


@TRANSFORMS.register_module()
class Rescale(BaseTransform):
    """Rescales the image isotropically so that its shortest side is Q (Sec. 3.2).

    Args:
        Q: The shortest side in pixels.
    """

    def __init__(self, Q: int) -> None:
        self.Q = pixels(Q, "Rescale: Q")

    def transform(self, results: dict) -> dict:
        """Rescales ``img``."""
        return put_rescaled(results, self.Q)


@TRANSFORMS.register_module()
class MultiScale(BaseTransform):
    """Rescales to every test scale: ``img`` becomes a list, an image for each Q (Sec. 3.2).

    Boxes stay where they are in the file's image.

    Args:
        scales: The shortest sides Q in pixels.
    """

    def __init__(self, scales: Sequence[int]) -> None:
        if not isinstance(scales, list | tuple) or not scales:
            raise UserError(f"MultiScale: scales must be a list of sides Q; got {scales!r}.")
        self.scales = [pixels(Q, "MultiScale: each scale") for Q in scales]

    def transform(self, results: dict) -> dict:
        """Makes ``img`` a list of (H_Q, W_Q, 3) uint8."""
        results["img"] = [rescaled(results, Q) for Q in self.scales]
        return results


@TRANSFORMS.register_module()
class CenterCrop(BaseTransform):
    """Cuts the square in the middle; never returns less.

    Args:
        size: The crop's side in pixels.
    """

    def __init__(self, size: int) -> None:
        self.size = pixels(size, f"{type(self).__name__}: size")

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
        y, x = self.corner(room, results)
        image = results["img"][y : y + self.size, x : x + self.size]
        return put(results, image, top=y, left=x)

    def corner(self, room: tuple[int, int], results: dict) -> tuple[int, int]:
        """Where the crop starts, of the ``room`` (rows, columns) that it has."""
        return room[0] // 2, room[1] // 2


@TRANSFORMS.register_module()
class CutBox(BaseTransform):
    """Cuts out the one box of a sample, in whole pixels: a person, to be described (Appendix B)."""

    def transform(self, results: dict) -> dict:
        """Cuts ``img`` to ``gt_bboxes`` (1, 4).

        Raises:
            UserError: If the sample has no box, or several.
            CorruptImageError: If the box is outside of the image.
        """
        boxes, name = results.get("gt_bboxes", ()), results.get("img_path", "the image")
        if len(boxes) != 1:
            raise UserError(
                f"{name} has {len(boxes)} boxes to cut out, and 1 is wanted: use a list that names "
                "an image's thing in every line, as VOC's of actions."
            )
        h, w = results["img"].shape[:2]
        x1, y1, x2, y2 = np.rint(boxes[0]).astype(int).clip(0, [w, h, w, h])
        if x1 >= x2 or y1 >= y2:
            raise CorruptImageError(f"{name}: the box {boxes[0].tolist()} is not in {w}x{h}.")
        return put(results, results["img"][y1:y2, x1:x2], top=y1, left=x1)


@TRANSFORMS.register_module()
class DrawLighting(BaseTransform):
    """Draws a shift of the colour along the data's principal components (Sec. 3.1; AlexNet).

    It is 255 * sum_i alpha_i * lambda_i * p_i, alpha_i from N(0, std^2) once an image and use;
    :func:`vgg_mm.collate_crops` passes it on, and :class:`vgg_mm.VGGPreprocessor` adds it to all
    pixels. Nothing is clipped.

    Args:
        eigval: The eigenvalues lambda of the covariance of RGB pixels scaled to [0, 1].
        eigvec: Its eigenvectors p as columns, in RGB order.
        std: The standard deviation of alpha.
    """

    def __init__(
        self,
        eigval: Sequence[float] = IMAGENET_EIGVAL,
        eigvec: Sequence[Sequence[float]] = IMAGENET_EIGVEC,
        std: float = 0.1,
    ) -> None:
        name = type(self).__name__
        self.eigval = np.asarray(eigval, np.float64)
        self.eigvec = np.asarray(eigvec, np.float64)
        if self.eigval.shape != (3,) or self.eigvec.shape != (3, 3):
            raise UserError(
                f"{name}: eigval must hold 3 numbers and eigvec 3 rows of 3, as "
                "tools/data/dataset_stats.py prints them."
            )
        if self.eigval.max() > 1:
            raise UserError(
                f"{name}: eigval {eigval} is not of pixels scaled to [0, 1]: divide the "
                "eigenvalues of 0-255 pixels by 255^2."
            )
        self.std = std

    def transform(self, results: dict) -> dict:
        """Adds ``lighting``, the shift of (R, G, B) in grey levels."""
        alpha = generator(self, results).normal(0, self.std, 3)
        results["lighting"] = 255 * self.eigvec @ (alpha * self.eigval)
        return results
