"""Scenes of cut-outs that ship with the package: images with exact boxes and masks.

``README.md`` beside this file tells where the cut-outs come from.
"""

from .cutouts import ARCHIVE, SPLITS, distractors, things
from .scenes import MIN_SHORT, MIN_VISIBLE, Scene, Thing, draw

__all__ = [
    "ARCHIVE",
    "MIN_SHORT",
    "MIN_VISIBLE",
    "SPLITS",
    "Scene",
    "Thing",
    "distractors",
    "draw",
    "things",
]
