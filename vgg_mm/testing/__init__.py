"""Sec. 3.2: test-time protocols."""

from .scores import SaveScores
from .test_time import TestTime

__all__ = ["SaveScores", "TestTime"]
