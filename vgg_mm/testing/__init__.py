"""Sec. 3.2: test-time protocols."""

from .evaluation import TestTime, grid_crops
from .progress import ProgressBarHook
from .scores import Protocol, RemainingSampler, SaveScores, Scores

__all__ = [
    "ProgressBarHook",
    "Protocol",
    "RemainingSampler",
    "SaveScores",
    "Scores",
    "TestTime",
    "grid_crops",
]
