"""Images as people have them at hand: paths, arrays, PIL's, tensors, and many of these."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, TypeAlias, Union

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from vgg_mm.data.files import find_images
from vgg_mm.data.images import CorruptImageError
from vgg_mm.errors import UserError

One: TypeAlias = Union[str, "os.PathLike[str]", np.ndarray, Image.Image, Tensor]
Images: TypeAlias = One | Sequence[One]


def samples(images: Images) -> list[dict[str, Any]]:
    """What a test-time pipeline starts from.

    Args:
        images: A file's path, or a folder's, whose images count at any depth; a NumPy array (H, W,
            3) or (H, W), RGB or grey, uint8; a PIL image; a tensor (3, H, W), RGB, uint8 or of
            floats from 0 to 1; a list of these, or a batch (N, H, W, 3) or (N, 3, H, W).

    Returns:
        ``img_path`` of each image, and of those that are no file ``img``, BGR uint8 (H, W, 3).

    Raises:
        UserError: If there is none, or one is something else.
    """
    if is_one(images):
        return [sample(images, "the image")]
    if isinstance(images, str | os.PathLike):
        return [dict(img_path=path) for path in find_images(os.path.expanduser(images))]
    many: Any = images
    if not len(many):
        raise UserError("there is no image: the list is empty.")
    return [sample(image, f"image {i}") for i, image in enumerate(many)]


def is_one(images: Images) -> bool:
    """Whether it is one image, no folder, list or batch."""
    if isinstance(images, str | os.PathLike):
        return not os.path.isdir(os.path.expanduser(images))
    if isinstance(images, np.ndarray | Tensor):
        return images.ndim != 4
    return not isinstance(images, Sequence)


def sample(image: Any, name: str) -> dict[str, Any]:
    """An image for a pipeline, see :func:`samples`; ``name`` is what messages call it."""
    if isinstance(image, str | os.PathLike):
        return dict(img_path=os.path.expanduser(os.fspath(image)))
    return dict(img_path=name, img=np.ascontiguousarray(_rgb(image, name)[..., ::-1]))


def _rgb(image: Any, name: str) -> np.ndarray:
    """RGB uint8 (H, W, 3)."""
    if isinstance(image, Image.Image):
        try:
            image = ImageOps.exif_transpose(image)
        except OSError as error:  # Pillow reads the pixels only now
            raise CorruptImageError(f"{name}: {error}.") from error
        if image.has_transparency_data:
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image.convert("RGBA"))
        if image.mode[0] not in "IF":  # deeper than 8 bits
            return np.asarray(image.convert("RGB"))
        image = np.asarray(image)
    array, wanted = image, "an array (H, W, 3), RGB uint8"
    if isinstance(image, Tensor):
        wanted = "a tensor (3, H, W), RGB, uint8 or of floats from 0 to 1"
        tensor = image.detach().cpu()
        if tensor.is_floating_point() and tensor.numel() and 0 <= tensor.min() <= tensor.max() <= 1:
            tensor = (tensor.float() * 255).round().to(torch.uint8)
        array = tensor.movedim(0, -1).numpy() if tensor.dtype == torch.uint8 else None
    elif isinstance(image, np.ndarray) and image.ndim == 2:
        array = np.repeat(image[..., None], 3, -1)
    fits = isinstance(array, np.ndarray) and array.dtype == np.uint8 and array.ndim == 3
    if fits and array.shape[-1] == 3 and array.size:
        return array
    of = f" of {image.dtype} {tuple(image.shape)}" if hasattr(image, "shape") else ""
    raise UserError(f"{name} is {type(image).__name__}{of}; expected a path, PIL's, or {wanted}.")
