"""Sec. 3.1: the training run."""

from .checkpoints import CheckpointHook, PlainCheckpointHook
from .distributed import DDP
from .hooks import ClassesHook, CorruptImagesHook, ReseedHook, SpeedHook
from .loop import TrainLoop
from .net_a import InitFromA
from .schedule import PlateauLR

__all__ = [
    "DDP",
    "CheckpointHook",
    "ClassesHook",
    "CorruptImagesHook",
    "InitFromA",
    "PlainCheckpointHook",
    "PlateauLR",
    "ReseedHook",
    "SpeedHook",
    "TrainLoop",
]
