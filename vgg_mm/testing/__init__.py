"""Sec. 3.2: test-time protocols."""

from .evaluation import Evaluation, grid_crops
from .features import FeatureExtractor, Features, SaveFeatures
from .progress import ProgressBarHook
from .scores import Protocol, RemainingSampler, SaveScores, Scores

__all__ = [
    "Evaluation",
    "FeatureExtractor",
    "Features",
    "ProgressBarHook",
    "Protocol",
    "RemainingSampler",
    "SaveFeatures",
    "SaveScores",
    "Scores",
    "grid_crops",
]
