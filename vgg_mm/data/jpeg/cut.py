"""Windows of a JPEG as JPEGs of their own."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from vgg_mm.data.jpeg.header import EOI, SOI, Header

RST = bytes(range(0xD0, 0xD8))  # the restart markers, in turn
MARGIN = 1  # pixels around the window: chroma is interpolated with the next sample
NARROWEST = 5  # columns of a cut: in narrower images libjpeg does not interpolate


class Window(NamedTuple):
    """A rectangle of an image: rows ``top`` to ``bottom``, columns ``left`` to ``right``.

    In pixels, the ends not included.
    """

    top: int
    left: int
    bottom: int
    right: int

    def of(self, image: np.ndarray) -> np.ndarray:
        """The window's pixels, a view of ``image`` (H, W, 3)."""
        return image[self.top : self.bottom, self.left : self.right]

    def columns(self, width: int, margin: int, narrowest: int) -> tuple[int, int]:
        """The columns of an image that a decoder needs for it; the end may lie beyond ``width``."""
        start = max(min(self.left - margin, width - narrowest), 0)
        return start, max(self.right + margin, start + narrowest)

    def over(self, n: int) -> Window:
        """The pixels that cover the window where the image has 1 / n of its size."""
        return Window(self.top // n, self.left // n, -(-self.bottom // n), -(-self.right // n))


class Cut(NamedTuple):
    """A JPEG file that a decoder gets for a window of a larger one.

    Attributes:
        data: Its bytes.
        place: The window in its image.
        whole: The larger file's bytes.
        window: The window in the larger one's image.
        reduced: What the decoder is to divide the size by, which both windows are told for.
    """

    data: bytes
    place: Window
    whole: bytes
    window: Window
    reduced: int = 1


class Jpeg(NamedTuple):
    """A JPEG file whose entropy-coded segment can be cut.

    Attributes:
        data: The file's bytes.
        header: What they say of themselves.
        bounds: Where the restart intervals start, each behind the marker of the one before it, and
            where the last one's end marker ends, (intervals + 1,).
    """

    data: bytes
    header: Header
    bounds: np.ndarray

    @classmethod
    def parse(cls, data: bytes) -> Jpeg | None:
        """Finds the restart intervals of a JPEG file; None for whatever is not cut."""
        if not data.startswith(SOI):
            return None
        header = Header.read(data)
        if not (header.one_scan and header.fits(len(data)) and header.end < len(data)):
            return None
        codes = np.frombuffer(data, np.uint8, offset=header.end)
        at = np.flatnonzero(codes[:-1] == 0xFF) + 1
        at = at[codes[at] != 0]  # 0 stands after an 0xFF that is no marker
        count = -(-math.prod(header.grid) // header.interval) if header.interval else 1
        at = at[:count]
        if len(at) < count or codes[at].tobytes() != _markers(count):
            return None
        return cls(data, header, header.end + np.concatenate(([0], at + 1)))

    @property
    def shape(self) -> tuple[int, int]:
        """The image's height and width in pixels."""
        return self.header.height, self.header.width

    @property
    def tiled(self) -> bool:
        """Whether every row starts with an interval of its own, so that windows can be cut out."""
        interval = self.header.interval
        return interval > 0 and self.header.grid[1] % interval == 0

    def cut(self, window: Window, reduced: int = 1) -> Cut:
        """Cuts out what a decoder needs for a window's pixels, the very same as in the whole.

        Where that decodes to 1 / ``reduced`` of its size (1, 2, 4 or 8), as libjpeg does from fewer
        frequencies of each block, they are the pixels that cover the window.

        If the file is :attr:`tiled`, these are the intervals that cover the window and ``MARGIN``
        pixels around it; if it has other intervals, whole rows, as many as begin and end with one.
        Either is a standard JPEG.

        A file without intervals is only declared to be no higher than the rows needed, and loses
        its end marker, for decoders complain of what is left before one. Where too little is left,
        they fail for want of an end.
        """
        header, k = self.header, self.header.interval
        margin, narrowest = MARGIN * reduced, NARROWEST * reduced
        (high, wide), (rows, columns) = header.mcu, header.grid
        codes: bytes | bytearray
        down = math.lcm(k, columns) // columns if k else 1  # rows after which an interval ends
        top, left, right = 0, 0, columns
        bottom = min(-(-(window.bottom + margin) // (high * down)) * down, rows)
        if k:
            top = max(window.top - margin, 0) // (high * down) * down
        if self.tiled:
            start, end = window.columns(header.width, margin, narrowest)
            left = start // (wide * k) * k
            right = min(-(-end // (wide * k)) * k, columns)
            mcus = np.arange(top, bottom)[:, None] * columns + np.arange(left, right, k)
            codes = self._join(mcus // k)
        elif k:
            codes = self._join(np.arange(top * columns // k, -(-bottom * columns // k))[None])
        elif bottom < rows:
            codes = self.data[header.end : self.bounds[1] - len(EOI)]
        else:
            place = window.over(reduced)
            return Cut(self.data, place, self.data, place, reduced)

        y, x = top * high, left * wide
        height, width = min(bottom * high, header.height) - y, min(right * wide, header.width) - x
        head = bytearray(self.data[: header.end])
        head[header.frame + 1 : header.frame + 5] = ((height << 16) + width).to_bytes(4, "big")
        place = Window(window.top - y, window.left - x, window.bottom - y, window.right - x)
        data, places = bytes(head) + codes, (place.over(reduced), window.over(reduced))
        return Cut(data, places[0], self.data, places[1], reduced)

    def _join(self, intervals: np.ndarray) -> bytearray:
        """Joins intervals (rows, n), their restart markers renumbered and the last one an end."""
        first, last = self.bounds[intervals[:, 0]], self.bounds[intervals[:, -1] + 1]
        runs = zip(first.tolist(), last.tolist(), strict=True)
        joined = bytearray().join([self.data[a:b] for a, b in runs])
        ends = np.cumsum(np.diff(self.bounds)[intervals.ravel()])
        np.frombuffer(joined, np.uint8)[ends - 1] = np.frombuffer(_markers(len(ends)), np.uint8)
        return joined


def _markers(n: int) -> bytes:
    """The markers that end n intervals: restart markers in turn, and the end marker."""
    return (RST * (n // 8 + 1))[: n - 1] + EOI[1:]
