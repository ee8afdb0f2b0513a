"""Sec. 3.1: the training run."""

from .checkpoints import CheckpointHook
from .distributed import DDP
from .hooks import ClassCountHook, CorruptImagesHook, ReseedHook, SpeedHook
from .loop import TrainLoop
from .schedule import PlateauLR

__all__ = [
    "DDP",
    "CheckpointHook",
    "ClassCountHook",
    "CorruptImagesHook",
    "PlateauLR",
    "ReseedHook",
    "SpeedHook",
    "TrainLoop",
]
