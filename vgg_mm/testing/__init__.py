"""Sec. 3.2, App. A and B: test-time protocols."""

from .evaluation import TestTime, grid_crops
from .features import FeatureExtractor, Features, SaveFeatures
from .localisation import BoxAccuracy, Guesses, Localizer, SaveGuesses
from .progress import ProgressBarHook
from .scores import Protocol, RemainingSampler, SaveScores, Scores

__all__ = [
    "BoxAccuracy",
    "FeatureExtractor",
    "Features",
    "Guesses",
    "Localizer",
    "ProgressBarHook",
    "Protocol",
    "RemainingSampler",
    "SaveFeatures",
    "SaveGuesses",
    "SaveScores",
    "Scores",
    "TestTime",
    "grid_crops",
]
