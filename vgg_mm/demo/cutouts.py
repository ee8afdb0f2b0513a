"""The cut-outs, decoded once."""

from __future__ import annotations

import zipfile
from functools import cache
from pathlib import Path, PurePosixPath

import cv2
import numpy as np

ARCHIVE = Path(__file__).with_name("cutouts.zip")
SPLITS = ("train", "val", "test")


def things() -> tuple[str, ...]:
    """The names of the 1,000 classes; each next one is the least like those before it."""
    return _names("things")


def distractors(split: str) -> tuple[str, ...]:
    """The names of a split's distractors, which are no classes and in no other split."""
    return _names(split)


@cache
def pyramid(part: str, name: str) -> list[np.ndarray]:
    """A cut-out at its full size and at halves of it, (H, W, 4) uint8: BGR times alpha, alpha.

    Args:
        part: ``things``, or the split whose distractor it is.
        name: One of :func:`things` or :func:`distractors`.
    """
    data = np.frombuffer(_members()[f"{part}/{name}.webp"], np.uint8)
    decoded = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    assert decoded is not None
    image = decoded.astype(np.float32)
    image[..., :3] *= image[..., 3:] / 255
    levels: list[np.ndarray] = [image]
    while min(levels[-1].shape[:2]) >= 16:
        half = [(side + 1) // 2 for side in levels[-1].shape[1::-1]]
        levels.append(cv2.resize(levels[-1], half, interpolation=cv2.INTER_AREA))
    return [np.rint(level).astype(np.uint8) for level in levels]


@cache
def _members() -> dict[str, bytes]:
    with zipfile.ZipFile(ARCHIVE) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@cache
def _names(part: str) -> tuple[str, ...]:
    paths = map(PurePosixPath, _members())
    return tuple(path.stem for path in paths if path.parts[0] == part)
