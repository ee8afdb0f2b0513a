"""Sec. 3.2, App. A and B: test-time protocols."""

from .evaluation import Evaluation, grid_crops
from .features import FeatureExtractor, Features, SaveFeatures
from .localisation import BoxAccuracy, Guesses, Localizer, SaveGuesses
from .progress import ProgressBarHook
from .scores import Protocol, RemainingSampler, SaveScores, Scores

__all__ = [
    "BoxAccuracy",
    "Evaluation",
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
    "grid_crops",
]
