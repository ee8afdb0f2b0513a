"""Which files are images: one answer for all data sets and tools."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NoReturn

from mmengine import fileio

from vgg_mm.errors import UserError

# What OpenCV decodes to 8 bits, by the endings in use.
EXTENSIONS = tuple(
    ".jpg .jpeg .jpe .jfif .jif .jp2 .j2k .png .apng .bmp .dib .gif .pbm .pgm .ppm .pnm .pam .sr"
    " .ras .tif .tiff .webp .avif .hdr .pic".split()
)
# What systems leave in folders, besides names that start with a dot.
SYSTEM = (
    *("@eadir", "@recycle", "@tmp", "#recycle", "#snapshot", "$recycle.bin", "~snapshot"),
    *("__macosx", "__pycache__", "desktop.ini", "ehthumbs.db", "icon\r", "lost+found"),
    *("system volume information", "thumbs.db"),
)


def hidden(name: str) -> bool:
    """Whether a file or folder of this name is a system's or a program's own, and no data."""
    return name.startswith(".") or name.lower() in SYSTEM


def folders_in(root: str) -> list[str]:
    """The names of the folders in ``root``, sorted, without hidden ones; none if it is no folder.

    ``root`` may be on any of mmengine's storage backends (``s3://...``), here and below.
    """
    if not fileio.isdir(root):
        return []
    try:
        found = [*fileio.list_dir_or_file(root, list_dir=True, list_file=False)]
    except OSError as error:
        _stop(error)
    names = [name.rstrip("/") for name in found]
    return sorted(name for name in names if not hidden(name) and not _leads_back(root, name))


def files_below(root: str | os.PathLike) -> Iterator[str]:
    """Yields the files in ``root`` and below it, as paths from there; links are followed.

    What is hidden, or in a hidden folder, is left out.

    Raises:
        UserError: If a folder is missing or unreadable.
    """
    root = os.fspath(root)
    if "://" in root:
        for path in fileio.list_dir_or_file(root, list_dir=False, recursive=True):
            if not any(map(hidden, path.split("/"))):
                yield path
        return
    for parent, folders, names in os.walk(root, onerror=_stop, followlinks=True):
        folders[:] = [x for x in folders if not hidden(x) and not _leads_back(parent, x)]
        below = os.path.relpath(parent, root)
        for name in names:
            if not hidden(name):
                yield name if below == "." else os.path.join(below, name)


def _leads_back(parent: str, name: str) -> bool:
    """Whether a folder is a link to one that it is in, which would go round in circles."""
    if not os.path.islink(path := os.path.join(parent, name)):
        return False
    target, here = os.path.realpath(path), os.path.realpath(parent)
    return os.path.commonpath([target, here]) == target


def _stop(error: OSError) -> NoReturn:
    raise UserError(f"{error.filename}: {error.strerror}.") from error


def images_below(
    root: str | os.PathLike, extensions: Sequence[str] = EXTENSIONS, in_folders: bool = False
) -> tuple[list[str], str]:
    """The images in ``root`` and below it, as paths from there, sorted folder by folder.

    Args:
        root: As :func:`files_below`'s.
        extensions: The endings of images, in small letters.
        in_folders: Whether to pass over the files that are in no folder of ``root``.

    Returns:
        The paths, and a line that counts other files by their endings, empty if there are none.
    """
    paths = sorted(files_below(root))
    if in_folders:
        paths = sorted((x for x in paths if "/" in x), key=lambda path: path.partition("/"))
    images = [path for path in paths if path.lower().endswith(tuple(extensions))]
    others = sorted({*paths} - {*images})
    if not others:
        return paths, ""
    endings = Counter(os.path.splitext(path)[1].lower() or "none" for path in others)
    counts = ", ".join(f"{ending} {n}" for ending, n in endings.most_common(5))
    return images, (
        f"{root}: {len(others)} file(s) left out, no images by their endings ({counts}), such as "
        f"{others[0]}"
    )


def find_images(folder: str | os.PathLike) -> list[str]:
    """Lists the images in ``folder`` and below it, sorted; other files are named on stderr.

    Raises:
        UserError: If a folder is missing or unreadable, or there is no image.
    """
    paths, left_out = images_below(folder)
    if not paths:
        raise UserError(f"no image in {folder} or below it ({', '.join(EXTENSIONS)}).")
    if left_out:
        print(left_out, file=sys.stderr)
    return [os.path.join(folder, path) for path in paths]
