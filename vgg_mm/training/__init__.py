"""Sec. 3.1: the training run."""

from .checkpoints import CheckpointHook, PlainCheckpointHook
from .distributed import DDP
from .hooks import ClassesHook, CorruptImagesHook, ReseedHook, SpeedHook
from .loop import TrainLoop
from .schedule import PlateauLR

__all__ = [
    "DDP",
    "CheckpointHook",
    "ClassesHook",
    "CorruptImagesHook",
    "PlainCheckpointHook",
    "PlateauLR",
    "ReseedHook",
    "SpeedHook",
    "TrainLoop",
]
