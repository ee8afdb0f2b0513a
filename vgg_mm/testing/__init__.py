"""Sec. 3.2: test-time protocols."""

from .test_time import TestTime

__all__ = ["TestTime"]
