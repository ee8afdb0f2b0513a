"""The demo's images: a small public-domain data set of eight classes that ships with the package.

``README.md`` beside this file tells where they come from.
"""

from __future__ import annotations

import os
import tempfile
import zipfile
from hashlib import sha256
from pathlib import Path

from vgg_mm.errors import UserError

ARCHIVE = Path(__file__).with_name("images.zip")
MARKER = ".complete"  # holds the SHA-256 of the archive that was unpacked


def unpack(root: str | Path = "data/demo") -> Path:
    """Unpacks the images at ``root`` on first use and returns ``root``.

    The folder then holds ``train/<class>/*.jpg`` and ``val/<class>/*.jpg``, as mmpretrain's
    ``CustomDataset`` reads them. Several processes may call this at once, and one that is killed
    leaves nothing at ``root``.

    Raises:
        UserError: ``root`` cannot be written, or holds something else.
    """
    root = Path(root)
    digest = sha256(ARCHIVE.read_bytes()).hexdigest()
    if _is_complete(root, digest):
        return root
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{root.name}-", dir=root.parent) as scratch:
            images = Path(scratch, "images")
            with zipfile.ZipFile(ARCHIVE) as archive:
                archive.extractall(images)
            (images / MARKER).write_text(digest)
            os.rename(images, root)
    except OSError as error:
        if _is_complete(root, digest):  # another process was faster
            return root
        why = (
            "it exists and is not what this version of vgg_mm unpacks. Remove it, or choose "
            "another folder."
            if root.exists()
            else f"{error.strerror or error}. Choose a folder on a disk that you may write to and "
            "that has 20 MB free."
        )
        raise UserError(f"The demo's images cannot be unpacked at '{root}': {why}") from error
    return root


def _is_complete(root: Path, digest: str) -> bool:
    try:
        return (root / MARKER).read_text() == digest
    except (OSError, ValueError):
        return False
