"""Scenes of cut-outs that ship with the package: images with exact boxes and masks.

``README.md`` beside this file tells where the cut-outs come from. A small net that has learnt them
is in ``NET``, a folder for :func:`vgg_mm.load`, and scenes that it has not seen in ``EXAMPLES``.
"""

import os
from pathlib import Path

from .cutouts import ARCHIVE, SPLITS, distractors, things
from .scenes import MIN_SHORT, MIN_VISIBLE, Scene, Thing, draw

NET, EXAMPLES = (Path(__file__).with_name(name) for name in ("demo", "examples"))


def named(name: str) -> str:
    """What a name stands for: ``demo`` for ``NET``, unless something of that name is there."""
    return str(NET) if name == "demo" and not os.path.exists(name) else name


__all__ = [
    "ARCHIVE",
    "EXAMPLES",
    "MIN_SHORT",
    "MIN_VISIBLE",
    "NET",
    "SPLITS",
    "Scene",
    "Thing",
    "distractors",
    "draw",
    "named",
    "things",
]
