"""Sec. 3.2: test-time protocols."""

from .scores import Protocol, RemainingSampler, SaveScores, Scores
from .test_time import TestTime, grid_crops

__all__ = ["Protocol", "RemainingSampler", "SaveScores", "Scores", "TestTime", "grid_crops"]
