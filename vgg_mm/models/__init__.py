"""Sec. 2: Table 1's nets as a backbone and a head."""

from .head import FC, VGGFC, VGGHead, VGGNeck
from .init import Glorot
from .preprocessor import VGGPreprocessor
from .vgg import VGG

__all__ = [
    "FC",
    "Glorot",
    "VGG",
    "VGGFC",
    "VGGHead",
    "VGGNeck",
    "VGGPreprocessor",
]
