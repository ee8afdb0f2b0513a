"""Sec. 2: Table 1's nets as a backbone and a head."""

from .head import FC, VGGFC, VGGHead, VGGNeck
from .init import Glorot, SubsampledFC
from .preprocessor import VGGPreprocessor
from .pretrained import Pretrained
from .vgg import VGG

__all__ = [
    "FC",
    "Glorot",
    "Pretrained",
    "SubsampledFC",
    "VGG",
    "VGGFC",
    "VGGHead",
    "VGGNeck",
    "VGGPreprocessor",
]
