"""Reading picture files: BGR uint8 arrays, or a named error."""

from __future__ import annotations

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmengine import fileio

from vgg_mm.data.jpeg import FRAMES, Cut, can_hold, frame_size, segments
from vgg_mm.errors import UserError
from vgg_mm.registry import TRANSFORMS


class CorruptImageError(UserError):
    """A picture file that is empty, truncated or not decodable."""


def read_image(path: str, backend_args: dict | None = None) -> np.ndarray:
    """Reads a picture through mmengine's storage backends: see :func:`decode`."""
    return decode(fileio.get(path, backend_args), path)


def decode(data: bytes, name: str) -> np.ndarray:
    """Decodes a picture file's bytes to BGR uint8 of shape (H, W, 3).

    EXIF rotation is applied, grey and CMYK become colour, transparency is laid on white.

    Raises:
        CorruptImageError: If the file is empty, the decoder fails, a JPEG or PNG has no end marker
            (OpenCV would return the pixels before the cut and grey after it), or a JPEG says that
            it is larger than its bytes can hold. ``name`` is named.
    """
    if damage := _damage(data):
        raise CorruptImageError(f"{name}: {damage}.")
    # JPEGs have no transparency, and IMREAD_UNCHANGED would skip their rotation.
    if not data.startswith(b"\xff\xd8"):
        image = _decode(data, cv2.IMREAD_UNCHANGED)
        if image is not None and image.ndim == 3 and image.shape[2] == 4:
            return _on_white(image)
    image = _decode(data, cv2.IMREAD_COLOR)
    if image is None:
        raise CorruptImageError(f"{name}: not a picture that OpenCV can decode.")
    return image


def decode_cut(cut: Cut, name: str) -> np.ndarray:
    """Decodes a window of a JPEG to BGR uint8 (bottom - top, right - left, 3).

    The pixels are those of :func:`decode`, whatever the damage between the file's markers: where
    the decoder fails on the cut, it gets the whole.

    Raises:
        CorruptImageError: As :func:`decode`. That the end marker is there, in its place after every
            restart marker, :meth:`Jpeg.parse` has seen in the whole file, not in the part that is
            decoded here.
    """
    image = _decode(cut.data, cv2.IMREAD_COLOR)
    if image is None:
        return cut.window.of(decode(cut.whole, name))
    return cut.place.of(image)


def _decode(data: bytes, flag: int) -> np.ndarray | None:
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flag)
    except cv2.error:
        return None


def _on_white(image: np.ndarray) -> np.ndarray:
    full = np.iinfo(image.dtype).max if image.dtype.kind == "u" else 1.0
    image = image.astype(np.float32) / full
    color, alpha = image[..., :3], image[..., 3:]
    return np.rint(255 * (color * alpha + 1 - alpha)).astype(np.uint8)


def _damage(data: bytes) -> str | None:
    """What is wrong with a file by its markers alone."""
    if not data:
        return "the file is empty"
    truncated = "the picture is truncated (no end marker)"
    if data.startswith(b"\x89PNG"):
        return None if b"IEND" in data else truncated
    if not data.startswith(b"\xff\xd8"):
        return None
    end = 2
    for marker, start, stop in segments(data):
        if marker in FRAMES and not can_hold(len(data), *frame_size(data, start)):
            height, width = frame_size(data, start)
            return f"its header says {width}x{height} pixels, too many for {len(data)} bytes"
        end = stop
    # From there on, for an EXIF thumbnail has an end marker of its own.
    return None if data.find(b"\xff\xd9", end) != -1 else truncated


@TRANSFORMS.register_module()
class LoadImage(BaseTransform):
    """Reads ``img_path`` into ``img``, BGR uint8 (H, W, 3); see :func:`decode` for what is read.

    A picture that is already there stays, as mmpretrain's inferencer loads by itself.

    Args:
        backend_args: The storage backend's arguments, see ``mmengine.fileio``.
        in_memory: Whether to keep every picture once it is read, for small data sets.

    Raises:
        CorruptImageError: See :func:`decode`.
    """

    def __init__(self, backend_args: dict | None = None, in_memory: bool = False) -> None:
        self.backend_args = backend_args
        self.kept: dict[str, np.ndarray] | None = {} if in_memory else None

    def transform(self, results: dict) -> dict:
        """Adds ``img``, ``img_shape`` and ``ori_shape``."""
        if "img" not in results:
            results["img"] = self._read(results["img_path"])
        results["img_shape"] = results["ori_shape"] = results["img"].shape[:2]
        return results

    def _read(self, path: str) -> np.ndarray:
        if self.kept is None:
            return read_image(path, self.backend_args)
        if path not in self.kept:
            self.kept[path] = read_image(path, self.backend_args)
        return self.kept[path]
