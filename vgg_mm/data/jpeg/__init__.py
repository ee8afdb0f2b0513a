"""Cutting a window out of a JPEG file by its bytes, before anything is decoded.

A JPEG file (ITU-T T.81) is a row of marker segments: its *header*, told by :class:`Header`, up to
the first scan's (SOS), behind which stands an *entropy-coded segment*, the pixels. These are a grid
of MCUs (minimum coded units), rectangles of 8 to 32 pixels a side, row by row in one stream of
codes, each readable only after the one before it.

Restart markers (RST0 to RST7, in turn) break the stream into *restart intervals* of k MCUs: after
one, a decoder starts afresh. Where k divides the MCUs of a row (:attr:`Jpeg.tiled`), the intervals
that cover a window, behind a header with a smaller height and width, are themselves a JPEG::

    +----+----+----+----+      Jpeg.parse(data)    finds the restart intervals
    |    |  **|**  |    |      jpeg.cut(window)    joins those that cover the window (*), their
    +----+----+----+----+                          markers renumbered: a Cut, which has a file for
    |    |  **|**  |    |                          any decoder and the window's place in its image
    +----+----+----+----+

The pixels are those of the whole file's decoding, bit for bit, also where it reduces the size. Of a
stream without markers, the smaller height alone keeps a decoder from what is below the window; and
where libturbojpeg 3 is there, :func:`decode_window` does not transform what is beside it, either.

Cut is an upright image of three components in one scan of Huffman codes, baseline or extended, if
every restart marker that its size asks for is there, in order, and the end marker comes next. All
else (progressive, grey, CMYK, turned by EXIF, damaged) is for a decoder to read as a whole, or to
refuse: :meth:`Jpeg.parse` returns None. The package imports nothing else of vgg_mm.
"""

from .cut import Cut, Jpeg, Window
from .header import EOI, SOI, Header
from .partial import decode_window

__all__ = ["EOI", "SOI", "Cut", "Header", "Jpeg", "Window", "decode_window"]
