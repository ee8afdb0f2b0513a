"""Sec. 3.2: test-time protocols."""

from .evaluation import TestTime, grid_crops
from .features import FeatureExtractor, Features, SaveFeatures
from .progress import ProgressBarHook
from .scores import Protocol, RemainingSampler, SaveScores, Scores

__all__ = [
    "FeatureExtractor",
    "Features",
    "ProgressBarHook",
    "Protocol",
    "RemainingSampler",
    "SaveFeatures",
    "SaveScores",
    "Scores",
    "TestTime",
    "grid_crops",
]
