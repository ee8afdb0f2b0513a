"""Decoding only a window of a JPEG, by libturbojpeg 3 where there is one."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import warnings
from ctypes import c_char_p, c_int, c_size_t, c_void_p
from functools import cache

import numpy as np

from vgg_mm.data.jpeg.cut import MARGIN, NARROWEST, Jpeg, Window

NAMES = ("libturbojpeg.so.0", "libturbojpeg.0.dylib", "turbojpeg.dll")
TJINIT_DECOMPRESS, TJPF_BGR = 1, 1  # turbojpeg.h's

_local = threading.local()


class _Region(ctypes.Structure):
    _fields_ = (("x", c_int), ("y", c_int), ("w", c_int), ("h", c_int))


class _Scale(ctypes.Structure):
    _fields_ = (("num", c_int), ("denom", c_int))


@cache
def library() -> ctypes.CDLL | None:
    """Libturbojpeg, 3.0 or later, or None.

    It is the file that ``VGG_MM_TURBOJPEG`` of the environment names, none if that is empty; by
    default the Python environment's, as conda installs it, else the system's. A name that will not
    do is warned of.
    """
    named = os.environ.get("VGG_MM_TURBOJPEG")
    paths = [os.path.join(sys.prefix, "lib", name) for name in NAMES] + [*NAMES]
    for path in paths if named is None else [named] * bool(named):
        try:
            found = ctypes.CDLL(path)
            found.tj3Init.argtypes, found.tj3Init.restype = [c_int], c_void_p
            found.tj3DecompressHeader.argtypes = [c_void_p, c_char_p, c_size_t]
            found.tj3SetScalingFactor.argtypes = [c_void_p, _Scale]
            found.tj3SetCroppingRegion.argtypes = [c_void_p, _Region]
            found.tj3Decompress8.argtypes = [c_void_p, c_char_p, c_size_t, c_void_p, c_int, c_int]
        except (OSError, AttributeError):  # no library, or an older one
            continue
        return found
    if named:
        warnings.warn(f"VGG_MM_TURBOJPEG={named}: no libturbojpeg of 3.0 or later.", stacklevel=2)
    return None


def decode_window(jpeg: Jpeg, window: Window, reduced: int = 1) -> np.ndarray | None:
    """A window's pixels, BGR uint8 (bottom - top, right - left, 3), the very same as in the whole.

    Codes above and beside it are read, but not transformed. ``reduced`` is as for :meth:`Jpeg.cut`,
    which leaves less to read where the file is tiled: there this does nothing.

    Returns:
        None too where there is no library, or where it finds anything wrong with the file.
    """
    tj = library()
    if tj is None or jpeg.tiled:
        return None
    if getattr(_local, "decoder", None) is None:
        _local.decoder = tj.tj3Init(TJINIT_DECOMPRESS)
    to, data = _local.decoder, jpeg.data
    window, mcu = window.over(reduced), jpeg.header.mcu[1] // reduced
    height, width = (-(-side // reduced) for side in jpeg.shape)
    start, end = window.columns(width, MARGIN, NARROWEST)
    left, right = start // mcu * mcu, min(-(-end // mcu) * mcu, width)
    top, bottom = max(window.top - MARGIN, 0), min(window.bottom + MARGIN, height)
    region = _Region(left, top, right - left, bottom - top)
    image = np.empty((region.h, region.w, 3), np.uint8)
    failed = (
        tj.tj3DecompressHeader(to, data, len(data))
        or tj.tj3SetScalingFactor(to, _Scale(1, reduced))
        or tj.tj3SetCroppingRegion(to, region)
        or tj.tj3Decompress8(to, data, len(data), image.ctypes.data, 0, TJPF_BGR)
    )
    place = Window(window.top - top, window.left - left, window.bottom - top, window.right - left)
    return None if failed else place.of(image)
