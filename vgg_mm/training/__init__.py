"""Sec. 3.1: the training run."""

from .checkpoints import CheckpointFormatHook
from .hooks import ClassCountHook, CorruptImagesHook, ReseedHook

__all__ = ["CheckpointFormatHook", "ClassCountHook", "CorruptImagesHook", "ReseedHook"]
