"""Sec. 2: Table 1's nets as a backbone and a head; Appendix A's head."""

from .box_head import BoxHead
from .head import FC, VGGFC, VGGHead, VGGNeck
from .init import Glorot
from .perceptual import PerceptualLoss
from .preprocessor import VGGPreprocessor
from .vgg import VGG

__all__ = [
    "BoxHead",
    "FC",
    "Glorot",
    "PerceptualLoss",
    "VGG",
    "VGGFC",
    "VGGHead",
    "VGGNeck",
    "VGGPreprocessor",
]
