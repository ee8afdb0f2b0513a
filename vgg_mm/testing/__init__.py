"""Sec. 3.2, App. A and B: test-time protocols."""

from .evaluation import Evaluation, grid_crops
from .features import FeatureExtractor, Features
from .localisation import BoxAccuracy, Guesses, Localizer
from .scores import Protocol, Scores

__all__ = [
    "BoxAccuracy",
    "Evaluation",
    "FeatureExtractor",
    "Features",
    "Guesses",
    "Localizer",
    "Protocol",
    "Scores",
    "grid_crops",
]
