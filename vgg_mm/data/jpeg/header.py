"""The marker segments in front of a JPEG's pixels, read in one pass."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

SOI, EOI = b"\xff\xd8", b"\xff\xd9"
APP1, DHT, DRI, SOS = 0xE1, 0xC4, 0xDD, 0xDA
BASELINE, EXTENDED, PROGRESSIVE = HUFFMAN = (0xC0, 0xC1, 0xC2)
FRAMES = {*range(0xC0, 0xD0)} - {DHT, 0xC8, 0xCC}  # the frame headers (SOF) of all processes
ORIENTATION = 0x0112  # EXIF's tag


@dataclass
class Header:
    """What a JPEG says of itself before its first entropy-coded segment.

    Attributes:
        height: In pixels; 0 where no frame header says it.
        width: In pixels.
        process: The frame header's marker, which tells the coding process; 0 if there is none.
        sampling: The sampling factors (vertical, horizontal) of each component.
        interval: The restart interval in MCUs; 0 if there are no restart markers.
        scanned: How many components the first scan has; 0 if there is no scan.
        upright: Whether no EXIF orientation turns the image.
        simple: Whether all segments are whole, and there is one frame, without arithmetic codes.
        frame: Where in the file the frame header's parameters start.
        end: Where the header ends: at the entropy-coded segment or the first damage.
    """

    height: int = 0
    width: int = 0
    process: int = 0
    sampling: tuple[tuple[int, int], ...] = ()
    interval: int = 0
    scanned: int = 0
    upright: bool = True
    simple: bool = True
    frame: int = 0
    end: int = 2

    @classmethod
    def read(cls, data: bytes) -> Header:
        """Reads the header of a file that starts with ``SOI``, as far as it is whole."""
        header = cls()
        for marker, start, end in _marker_segments(data):
            header.end, size = end, end - start
            header.simple &= end <= len(data)
            if marker in FRAMES and not header.process:
                header.process, header.frame = marker, start
                header.height, header.width = _number(data, start + 1), _number(data, start + 3)
                factors = data[start + 7 : end : 3]
                header.sampling = tuple((factor & 15, factor >> 4) for factor in factors)
                header.simple &= size == 6 + 3 * len(factors)
            elif 0xC0 <= marker <= 0xCF and marker != DHT:  # another frame, arithmetic codes
                header.simple = False
            elif marker == DRI and size == 2:
                header.interval = _number(data, start)
            elif marker == APP1:
                header.upright &= _upright(data[start:end])
            elif marker == SOS:
                header.scanned = (size - 4) // 2 if size % 2 == 0 else 0
        return header

    @cached_property
    def mcu(self) -> tuple[int, int]:
        """An MCU's height and width in pixels, of a scan of all components."""
        vertical, horizontal = zip(*self.sampling, strict=True)
        return 8 * max(vertical), 8 * max(horizontal)

    @cached_property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of MCUs."""
        return -(-self.height // self.mcu[0]), -(-self.width // self.mcu[1])

    @property
    def plain(self) -> bool:
        """Whether the image is upright, of three components and Huffman-coded."""
        return (
            (self.simple and self.upright and self.scanned > 0)
            and (self.process in HUFFMAN and len(self.sampling) == 3)
            and (self.height > 0 and self.width > 0 and all(self.mcu))
        )

    @property
    def one_scan(self) -> bool:
        """Whether the first scan is the image, all components to their last bit."""
        return self.plain and self.process != PROGRESSIVE and self.scanned == 3

    def fits(self, size: int) -> bool:
        """Whether a file of ``size`` bytes may have so many pixels.

        A block of 8 x 8 pixels takes a bit of Huffman code at least, and an MCU is 32 x 32 pixels
        at most.
        """
        return self.process not in HUFFMAN or self.height * self.width <= 1024 * size


def _marker_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yields each marker, and where its segment's parameters start and end.

    The last one is the scan's, or what stands before the first damage. An end may lie beyond the
    bytes.
    """
    at = len(SOI)
    while at + 2 <= len(data) and data[at] == 0xFF:
        marker, end = data[at + 1], at + 2 + _number(data, at + 2)
        if marker == 0xFF:  # the standard lets them fill
            at += 1
            continue
        yield marker, at + 4, end
        if marker == SOS:
            return
        at = end


def _upright(app1: bytes) -> bool:
    """Whether an APP1 segment's parameters turn no image: they hold no EXIF orientation but 1."""
    tiff = app1[6:]
    if tiff[:2] not in (b"II", b"MM"):
        return True

    def number(at: int, size: int) -> int:
        return int.from_bytes(tiff[at : at + size], "little" if tiff[:1] == b"I" else "big")

    directory = number(4, 4)
    entries = range(directory + 2, directory + 2 + 12 * number(directory, 2), 12)
    return all(number(at, 2) != ORIENTATION or number(at + 8, 2) == 1 for at in entries)


def _number(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 2], "big")
