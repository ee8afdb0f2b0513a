"""Weights of other people's nets, and ours for them."""

from .pretrained import InitFromA, StartFrom, SubsampledFC

__all__ = ["InitFromA", "StartFrom", "SubsampledFC"]
