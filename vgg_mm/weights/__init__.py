"""Weights of other people's nets, and ours for them."""

from .pretrained import SubsampledFC
from .start import InitFromA, StartFrom

__all__ = ["InitFromA", "StartFrom", "SubsampledFC"]
