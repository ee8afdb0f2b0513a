"""Reading image files: BGR uint8 arrays, or a named error."""

from __future__ import annotations

import io
import mmap
import os
import re
import struct
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from threading import Lock

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmengine import fileio
from PIL import Image, ImageOps, TiffImagePlugin

from vgg_mm.data.jpeg import EOI, SOI, Cut, Header
from vgg_mm.data.parts import Part
from vgg_mm.errors import UserError
from vgg_mm.registry import TRANSFORMS

MAX_PIXELS = 2 * 89_478_485  # above it Pillow refuses an image

# Pillow's names of what OpenCV reads too.
FORMATS = "PNG BMP DIB GIF PPM TIFF WEBP JPEG2000 SUN JPEG AVIF".split()
# The width and the height, or the other way round, of what OpenCV reads and Pillow does not.
SIZES = re.compile(
    rb"#\?(?:RADIANCE|RGBE)\n.*?\n[-+][XY] (\d+) [-+][XY] (\d+)\n"
    rb"|P7\n.*?WIDTH\s+(\d+)\s+HEIGHT\s+(\d+)"
    rb"|PF\s+(\d+)\s+(\d+)\s",
    re.DOTALL,
)
SPACE = rb"(?:\s|#[^\n]*\n)+"  # between the numbers of a PPM's header
WHITE = re.compile(  # the number for white
    rb"P[2356]" + SPACE + rb"\d+" + SPACE + rb"\d+" + SPACE + rb"(\d+)\s"
    rb"|P7\n.*?MAXVAL\s+(\d+)\s",
    re.DOTALL,
)

# OpenCV's flags for a JPEG to be decoded to 1 / n of its size.
REDUCED = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}

_PILLOW = Lock()  # whose limit is the same for all threads
_DARK_SAID = mmap.mmap(-1, 1)  # shared with the workers that a process forks


class CorruptImageError(UserError):
    """An image that is of no use: its file cannot be read or decoded, or it is too large."""


@contextmanager
def blamed(name: str) -> Iterator[None]:
    """Blames an image for what it makes of the code within: CorruptImageError that names it.

    That is a mistake of the user's, such as an image too small for the net, and a lack of memory.
    """
    try:
        yield
    except CorruptImageError:
        raise
    except UserError as error:
        raise CorruptImageError(f"{name}: {error}") from error
    except (MemoryError, RuntimeError, cv2.error) as error:
        text = f"{type(error).__name__}: {error}".splitlines()[0]
        if not re.search("memory|alloc|overflow", text, re.IGNORECASE):
            raise
        raise CorruptImageError(f"{name}: too large for the memory ({text}).") from error


def read_image(path: str | Part, backend_args: dict | None = None) -> np.ndarray:
    """Reads an image, see :func:`read_bytes` and :func:`decode`."""
    return decode(read_bytes(path, backend_args), str(path))


def read_bytes(path: str | os.PathLike | Part, backend_args: dict | None = None) -> bytes:
    """Reads an image's file through mmengine's storage backends, or its part of a shard.

    Raises:
        CorruptImageError: If the backend cannot, whatever its reason: the file is missing, a folder
            or not permitted, a mount is gone, a store does not answer. ``path`` is named.
        UserError: If a shard's server does not answer, see :func:`vgg_mm.data.parts.fetch`, or
            there is no such backend.
    """
    return begin_reading(path, backend_args)()


def begin_reading(
    path: str | os.PathLike | Part, backend_args: dict | None = None
) -> Callable[[], bytes]:
    """As :func:`read_bytes`, in two steps: several images of a server's shards come side by side.

    Returns:
        What waits for the bytes, or only now reads them.
    """
    if not isinstance(path, Part):
        return partial(_read, path, backend_args)
    wait = path.begin()

    def end() -> bytes:
        try:
            return wait()
        except OSError as error:
            raise CorruptImageError(f"{path}: {error}.") from error

    return end


def _read(path: str | os.PathLike, backend_args: dict | None) -> bytes:
    if not os.path.isfile(path) and os.path.exists(path) and not os.path.isdir(path):
        raise CorruptImageError(f"{path}: not a file.")  # the end of a pipe may never come
    try:
        backend = fileio.get_file_backend(path, backend_args=backend_args, enable_singleton=True)
    except (KeyError, ImportError) as error:  # no file's fault
        raise UserError(f"{path}: mmengine has no storage backend {error}.") from error
    try:
        data = backend.get(path)
    except Exception as error:  # each store has its own
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        raise CorruptImageError(f"{path}: {' '.join(reason.split())}.") from error
    if data is None:  # LMDB's and Memcached's way to say it
        raise CorruptImageError(f"{path}: not in the store.")
    return data if isinstance(data, bytes) else bytes(data)


def max_pixels() -> int:
    """How many pixels an image may have: VGG_MM_MAX_PIXELS of the environment, or MAX_PIXELS."""
    text = os.environ.get("VGG_MM_MAX_PIXELS", MAX_PIXELS)
    try:
        return int(float(text))
    except (ValueError, OverflowError):
        raise UserError(f"VGG_MM_MAX_PIXELS={text}: expected a number of pixels.") from None


def check_pixels(shape: Sequence[int], name: str, when: str = "") -> None:
    """Raises CorruptImageError, which names the image, if (H, W) are too many: see max_pixels."""
    height, width = shape
    if height * width > max_pixels():
        raise CorruptImageError(
            f"{name}: {width}x{height} pixels{when}, more than {max_pixels():,}. If that is no "
            "mistake, set VGG_MM_MAX_PIXELS to as many."
        )


def decode(data: bytes, name: str, reduced: int = 1) -> np.ndarray:
    """Decodes an image file's bytes to BGR uint8 of shape (H, W, 3).

    EXIF rotation is applied (but not to transparent images of 16 bits), grey and CMYK become
    colour, transparency is laid on white. Of deeper images, white is the largest number of their
    type; or what a PNG's significant bits (sBIT), a PNM's or an AVIF's header tell, if no number is
    larger; or 1 for floats. Where 16 bits come out dark, for they may hold 12, that is said once. A
    JPEG is decoded to 1 / ``reduced`` of its size.

    Raises:
        CorruptImageError: If the file is empty, the decoder fails, a JPEG or PNG has no end marker
            (OpenCV would return the pixels before the cut and grey after it), a JPEG says that it
            is larger than its bytes can hold, the header says that it has more than
            :func:`max_pixels`, or its numbers have no known white. ``name`` is named.
    """
    if not data:
        raise CorruptImageError(f"{name}: the file is empty.")
    header = Header.read(data) if data.startswith(SOI) else None
    if header and not header.fits(len(data)):
        raise CorruptImageError(
            f"{name}: its header says {header.width}x{header.height} pixels, too many for "
            f"{len(data)} bytes."
        )
    # From the header's end on, for an EXIF thumbnail has an end marker of its own.
    ended = data.find(EOI, header.end) > 0 if header else not _is_png(data) or b"IEND" in data
    if not ended:
        raise CorruptImageError(f"{name}: the image is truncated (no end marker).")
    if header and header.process:
        height, width, mode = header.height, header.width, ""
    else:
        height, width, mode = described(data)
    check_pixels((height, width), name)
    # JPEGs have no transparency, and IMREAD_UNCHANGED would skip their rotation.
    image = _decode(data, REDUCED[reduced]) if header else _decode_any(data, name, mode)
    if image is None:
        raise CorruptImageError(f"{name}: not an image that OpenCV can decode.")
    return image


def decode_cut(cut: Cut, name: str) -> np.ndarray:
    """Decodes a window of a JPEG to BGR uint8 (bottom - top, right - left, 3).

    The pixels are those of :func:`decode`, reduced as the cut says, whatever the damage between the
    file's markers: where the decoder fails on the cut, it gets the whole.

    Raises:
        CorruptImageError: As :func:`decode`. That the end marker is there, in its place after every
            restart marker, :meth:`Jpeg.parse` has seen in the whole file, not in the part that is
            decoded here.
    """
    image = _decode(cut.data, REDUCED[cut.reduced])
    if image is None:
        return cut.window.of(decode(cut.whole, name, cut.reduced))
    return cut.place.of(image)


def _decode(data: bytes, flag: int) -> np.ndarray | None:
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flag)
    except cv2.error:
        return None


def _decode_any(data: bytes, name: str, mode: str) -> np.ndarray | None:
    """Decodes what is no JPEG, of ``mode`` by Pillow: see :func:`decode`."""
    raw = _decode(data, cv2.IMREAD_UNCHANGED)
    if raw is None:
        return _decode(data, cv2.IMREAD_COLOR)
    kind = raw.dtype
    if kind.kind == "f":
        brightest = np.nanmax(raw, initial=0)
        if brightest > 2 and not data.startswith(b"#?"):  # radiance has no largest number
            raise CorruptImageError(
                f"{name}: its numbers are floats up to {brightest:.4g}, where 1 is white. Save it "
                "with 8 or 16 bits, or divide it."
            )
    elif kind not in (np.uint8, np.uint16):
        raise CorruptImageError(
            f"{name}: its numbers are {kind}, of which none is known to be white. Save it with 8 "
            "or 16 bits."
        )
    elif kind == np.uint8 and (image := _transparent(data)) is not None:
        return image
    full = 1 if kind.kind == "f" else np.iinfo(kind).max
    white = _white(data, raw) or full
    if raw.ndim == 3 and raw.shape[2] == 4 and mode != "CMYK":
        return _on_white(raw, white)
    image = _decode(data, cv2.IMREAD_COLOR) if white == full != 1 else None
    if image is None:  # that flag leaves depth to OpenCV, which knows no white
        image = _decode(data, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
        image = _scale(raw if image is None else image, white)
    if image.ndim == 2:
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    if kind == np.uint16 and image.max() <= 64 and not _DARK_SAID[0]:
        _DARK_SAID[0] = 1
        warnings.warn(
            f"{name}: of 16 bits, the largest number is {raw.max()}, so that it is dark. If white "
            "is another number than 65535, as 4095 for 12 bits, have the files say so (PNG's sBIT "
            "chunk) or multiply them. Other images like it are not named.",
            stacklevel=2,
        )
    return image


def _white(data: bytes, raw: np.ndarray) -> int | None:
    """The number for white if the file tells it and has none larger."""
    white = None
    if match := WHITE.match(data[:4096]):
        white = int(match[1] or match[2])
    elif _is_png(data) and raw.dtype == np.uint16:
        at = data.find(b"sBIT", 0, data.find(b"IDAT"))
        if at > 0:
            (length,) = struct.unpack(">I", data[at - 4 : at])
            white = (1 << max(data[at + 4 : at + 4 + length], default=0)) - 1
    elif data[4:12] == b"ftypavif" and (at := data.find(b"pixi")) > 0:
        white = (1 << data[at + 9]) - 1
    return white if white and raw.max() <= white else None


def _scale(image: np.ndarray, white: float) -> np.ndarray:
    """Numbers from 0 to ``white`` become uint8; what is beyond is cut off, and no number is 0."""
    scaled = np.nan_to_num(image.astype(np.float32) * (255 / white), posinf=255)
    return np.rint(scaled).clip(0, 255).astype(np.uint8)


def _transparent(data: bytes) -> np.ndarray | None:
    """An image of 8 bits with transparency, on white; None if it has none, or Pillow fails.

    OpenCV turns none of them by its EXIF, knows no transparent grey, and multiplies a TIFF's
    colours by how opaque they are.
    """
    with suppress(Exception), _open(data, ["PNG", "WEBP", "TIFF"]) as image:
        if image.has_transparency_data:
            rgba = np.asarray(ImageOps.exif_transpose(image).convert("RGBA"))
            return _on_white(rgba[..., [2, 1, 0, 3]], 255)
    return None


def _on_white(image: np.ndarray, white: float) -> np.ndarray:
    image = image.astype(np.float32) / white
    color, alpha = image[..., :3], image[..., 3:]
    return _scale(color * alpha + 1 - alpha, 1)


def _is_png(data: bytes) -> bool:
    return data.startswith(b"\x89PNG")


def described(data: bytes) -> tuple[int, int, str]:
    """An image's height, width and mode by Pillow, before it is decoded; zeros if unknown."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with _open(data, FORMATS) as image:
                return image.height, image.width, image.mode
    except Exception:  # no image, or of a kind that Pillow does not know
        pass
    try:
        if _is_png(data):  # its texts may be too long for Pillow
            width, height = struct.unpack(">II", data[16:24])
        elif data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            tags = TiffImagePlugin.ImageFileDirectory_v2(data[: 16 if 43 in data[2:4] else 8])
            stream = io.BytesIO(data)
            stream.seek(tags.next)
            tags.load(stream)
            width, height = tags[256], tags[257]
        else:
            match = SIZES.match(data[:65536])
            width, height = (int(side) for side in match.groups() if side) if match else (0, 0)
    except Exception:
        return 0, 0, ""
    return height, width, ""


def _open(data: bytes, formats: list[str]) -> Image.Image:
    """Pillow's image, of any size: whether that is too large is the caller's to look at."""
    with _PILLOW:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(io.BytesIO(data), formats=formats)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def placed(results: dict) -> np.ndarray:
    """A sample's ``gt_bboxes``, once its image is read: cut off where the image ends.

    Args:
        results: With ``gt_bboxes``, ``ori_shape`` (H, W), ``img_path`` and, where the boxes' file
            tells it, ``boxes_shape``, the size (H, W) that the boxes were made for.
    """
    h, w = results["ori_shape"]
    shape = results.get("boxes_shape", (h, w))
    if tuple(shape) != (h, w):
        raise CorruptImageError(other_size(results["img_path"], (w, h), tuple(shape)[::-1]))
    return results["gt_bboxes"].clip(0, np.array([w, h, w, h], np.float32))


def other_size(path: str, size: tuple, boxes: tuple | None, place: str = "its boxes") -> str:
    """What to tell of an image of one size with boxes for another, each (width, height)."""
    told = "x".join(map(str, boxes or ()))
    return (
        f"{path} has {'x'.join(map(str, size))} pixels, and {place} are for {told}: boxes fit the "
        "images that they were drawn in, so take those in their own size."
    )


@TRANSFORMS.register_module()
class LoadImage(BaseTransform):
    """Reads ``img_path`` into ``img``, BGR uint8 (H, W, 3); see :func:`decode` for what is read.

    Where ``img_path`` is a name alone, of a part of an image or of one in a shard, ``file`` is what
    to read. An image that is already there stays, as mmpretrain's inferencer loads by itself.

    Args:
        backend_args: The storage backend's arguments, see ``mmengine.fileio``.
        in_memory: Whether to keep every image once it is read, for small data sets.
    """

    def __init__(self, backend_args: dict | None = None, in_memory: bool = False) -> None:
        self.backend_args = backend_args
        self.kept: dict[str | Part, np.ndarray] | None = {} if in_memory else None

    def transform(self, results: dict) -> dict:
        """Adds ``img``, ``img_shape`` and ``ori_shape``; compares ``gt_bboxes`` with it."""
        if "img" not in results:
            results["img"] = self._read(results.get("file", results["img_path"]))
        results["img_shape"] = results["ori_shape"] = results["img"].shape[:2]
        if "gt_bboxes" in results:
            results["gt_bboxes"] = placed(results)
        return results

    def _read(self, path: str | Part) -> np.ndarray:
        if self.kept is None:
            return read_image(path, self.backend_args)
        if path not in self.kept:
            self.kept[path] = read_image(path, self.backend_args)
        return self.kept[path]
