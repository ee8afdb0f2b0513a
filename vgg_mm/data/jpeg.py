"""Cutting a window out of a JPEG file by its bytes, before anything is decoded.

A JPEG is a grid of MCUs, squares of 8 or 16 pixels a side, row by row in one stream of codes, each
readable only after the one before it. Restart markers every k MCUs break the stream: after one, a
decoder starts afresh. Where k divides the MCUs of a row, the intervals that cover a window, behind
a header with a smaller height and width, are themselves a JPEG (:meth:`Jpeg.cut`). In a stream
without markers, the smaller height alone keeps a decoder from what is below the window.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

APP1, DHT, DRI, EOI, SOS = 0xE1, 0xC4, 0xDD, 0xD9, 0xDA
RST = bytes(range(0xD0, 0xD8))  # the restart markers, in turn
PROGRESSIVE = 0xC2
FRAMES = (0xC0, 0xC1, PROGRESSIVE)  # the frame headers (SOF) of Huffman codes
ORIENTATION = 0x0112  # EXIF's tag

MARGIN = 1  # pixels around the window: chroma is interpolated with the next sample
NARROWEST = 5  # columns of a cut: in narrower images libjpeg does not interpolate


@dataclass(frozen=True)
class Window:
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


def segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yields the segments of a JPEG's header: the marker, and where its content starts and ends.

    The last one is the scan's (SOS), or what stands before the first damage. An end may lie beyond
    the bytes.
    """
    at = 2
    while at + 2 <= len(data) and data[at] == 0xFF:
        marker, end = data[at + 1], at + 2 + _number(data, at + 2)
        if marker == 0xFF:  # the standard lets them fill
            at += 1
            continue
        yield marker, at + 4, end
        if marker == SOS:
            return
        at = end


def frame_size(data: bytes, start: int) -> tuple[int, int]:
    """The height and width in pixels of the frame header (SOF) whose content starts there."""
    return _number(data, start + 1), _number(data, start + 3)


def can_hold(size: int, height: int, width: int) -> bool:
    """Whether a JPEG of ``size`` bytes may have so many pixels: no code is so short as to deny it.

    A block of 8 x 8 pixels takes a bit at least, and an MCU is 32 x 32 pixels at most.
    """
    return height * width <= 1024 * size


@dataclass(frozen=True)
class Header:
    """What a JPEG says of itself before its first scan's codes.

    Attributes:
        height: In pixels.
        width: In pixels.
        mcu: An MCU's height and width in pixels.
        interval: MCUs from one restart marker to the next; 0 if there are none.
        one_scan: Whether the codes that follow are of all components and to their last bit.
        frame: Where in the file the frame header's content starts.
        end: Where in the file the codes start.
    """

    height: int
    width: int
    mcu: tuple[int, int]
    interval: int
    one_scan: bool
    frame: int
    end: int

    @classmethod
    def read(cls, data: bytes) -> Header | None:
        """Reads the header of an upright JPEG of three components; None for whatever else."""
        if not data.startswith(b"\xff\xd8"):
            return None
        marker, frame, interval, sequential, start, end = None, None, 0, True, 0, 0
        for marker, start, end in segments(data):
            if end > len(data):
                return None
            if marker in FRAMES and end - start == 15 and not frame:  # 15 bytes: 3 components
                frame, sequential = start, marker != PROGRESSIVE
            elif 0xC0 <= marker <= 0xCF and marker != DHT:  # other frame headers
                return None
            elif marker == DRI and end - start == 2:
                interval = _number(data, start)
            elif marker == APP1 and not _upright(data[start:end]):
                return None
        if marker != SOS or not frame:
            return None
        height, width = frame_size(data, frame)
        sampling = data[frame + 7 : frame + 15 : 3]
        mcu = 8 * max(s & 15 for s in sampling), 8 * max(s >> 4 for s in sampling)
        if not (height and width and all(mcu) and can_hold(len(data), height, width)):
            return None
        one_scan = sequential and end - start == 10  # 10 bytes: 3 components
        return cls(height, width, mcu, interval, one_scan, frame, end)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of MCUs."""
        return -(-self.height // self.mcu[0]), -(-self.width // self.mcu[1])


@dataclass(frozen=True)
class Cut:
    """A JPEG file that a decoder gets for a window of a larger one.

    Attributes:
        data: Its bytes.
        place: The window in it.
        whole: The larger file's bytes.
        window: The window in the larger one.
    """

    data: bytes
    place: Window
    whole: bytes
    window: Window


@dataclass(frozen=True)
class Jpeg:
    """A JPEG file whose scan can be cut.

    Attributes:
        data: The file's bytes.
        header: What they say of themselves.
        bounds: Where the intervals start, each behind the marker of the one before it, and where
            the last one's end marker ends, (intervals + 1,).
    """

    data: bytes
    header: Header
    bounds: np.ndarray

    @classmethod
    def parse(cls, data: bytes) -> Jpeg | None:
        """Finds the intervals of a JPEG file; None for whatever is not cut.

        Cut is an upright picture of three components in one scan of Huffman codes (baseline or
        extended), if every restart marker that its size asks for is there, in order, and the end
        marker comes next. All else is for a decoder to read as a whole, or to refuse.
        """
        header = Header.read(data)
        if header is None or not header.one_scan or header.end == len(data):
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
        """The picture's height and width in pixels."""
        return self.header.height, self.header.width

    @property
    def tiled(self) -> bool:
        """Whether every row starts with an interval of its own, so that windows can be cut out."""
        interval = self.header.interval
        return interval > 0 and self.header.grid[1] % interval == 0

    def cut(self, window: Window) -> Cut:
        """Cuts out what a decoder needs for a window's pixels, the very same as in the whole.

        If the file is :attr:`tiled`, these are the intervals that cover the window and ``MARGIN``
        pixels around it; if it has other intervals, whole rows, as many as begin and end with one.
        Either is a standard JPEG.

        A file without intervals is only declared to be no higher than the rows needed, and loses
        its end marker, for decoders complain of what is left before one. Where too little is left,
        they fail for want of an end.
        """
        header, k = self.header, self.header.interval
        (high, wide), (rows, columns) = header.mcu, header.grid
        top, left, bottom, right = 0, 0, rows, columns
        down = math.lcm(k, columns) // columns if k else 1  # rows after which an interval ends
        bottom = min(-(-(window.bottom + MARGIN) // (high * down)) * down, rows)
        if k:
            top = max(window.top - MARGIN, 0) // (high * down) * down
        if self.tiled:
            start = min(window.left - MARGIN, header.width - NARROWEST)
            left = max(start, 0) // (wide * k) * k
            right = min(-(-(window.right + MARGIN) // (wide * k)) * k, columns)
            mcus = np.arange(top, bottom)[:, None] * columns + np.arange(left, right, k)
            codes = self._join(mcus // k)
        elif k:
            codes = self._join(np.arange(top * columns // k, -(-bottom * columns // k))[None])
        elif bottom < rows:
            codes = self.data[header.end : self.bounds[1] - 2]
        else:
            return Cut(self.data, window, self.data, window)

        size = (
            min(bottom * high, header.height) - top * high,
            min(right * wide, header.width) - left * wide,
        )
        head = bytearray(self.data[: header.end])
        head[header.frame + 1 : header.frame + 5] = b"".join(
            side.to_bytes(2, "big") for side in size
        )
        y, x = top * high, left * wide
        place = Window(window.top - y, window.left - x, window.bottom - y, window.right - x)
        return Cut(bytes(head) + codes, place, self.data, window)

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
    return (RST * (n // 8 + 1))[: n - 1] + bytes([EOI])


def _number(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 2], "big")


def _upright(app1: bytes) -> bool:
    """Whether an APP1 segment's content turns no image: it has no EXIF orientation but 1."""
    tiff = app1[6:]
    order = {b"II": "little", b"MM": "big"}.get(tiff[:2])
    if order is None:
        return True

    def number(at: int, size: int) -> int:
        return int.from_bytes(tiff[at : at + size], order)

    directory = number(4, 4)
    entries = range(directory + 2, directory + 2 + 12 * number(directory, 2), 12)
    return all(number(at, 2) != ORIENTATION or number(at + 8, 2) == 1 for at in entries)
