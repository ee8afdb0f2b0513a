"""Lists in text files: of images with a label a line, and of classes."""

from __future__ import annotations

import re
from collections.abc import Iterator

from mmengine import fileio

from vgg_mm.errors import UserError


def read_lines(file: str, what: str = "images") -> list[tuple[int, str]]:
    """The lines of a file that are not empty, each with its number.

    Args:
        file: On any of mmengine's storage backends.
        what: What the lines name, for errors.

    Raises:
        UserError: If the file is missing, no text or empty.
    """
    try:
        lines = fileio.list_from_file(file, encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"no list of {what} {file}: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is no list of {what}: {error}.") from error
    found = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise UserError(f"{file} lists no {what}.")
    return found


def read_labels(file: str) -> Iterator[tuple[int, str, int]]:
    """Yields the line number, path and label of each image that a file lists.

    Raises:
        UserError: As :func:`read_lines`, or if a line is no path and one label behind white space.
    """
    for number, line in read_lines(file):
        found = re.fullmatch(r"(.*\S)\s+([+-]?[0-9]+)", line)
        if not found or re.search(r"\s[+-]?[0-9]+$", found[1]):
            raise UserError(
                f"{file}, line {number}: {line!r} is no image's path and the number of its class."
            )
        yield number, found[1], int(found[2])
