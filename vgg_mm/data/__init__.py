"""Sec. 3.1: what happens to an image before the net sees it."""

from .boxes import FolderBoxes, ImageNetBoxes
from .collate import collate_crops
from .folders import Folders, ImageNet
from .images import CorruptImageError, LoadImage, decode, decode_cut, max_pixels, read_image
from .reference import PCALighting, RandomCrop, RandomFlip, ScaleJitter
from .scaled_crop import Crop, LoadScaledCrop
from .scenes import Scenes
from .seeding import EpochSampler, SeededDataset
from .shards import Shards
from .transforms import CenterCrop, CutBox, DrawLighting, MultiScale, Rescale, rescale

__all__ = [
    "CenterCrop",
    "CorruptImageError",
    "Crop",
    "CutBox",
    "DrawLighting",
    "EpochSampler",
    "FolderBoxes",
    "Folders",
    "ImageNet",
    "ImageNetBoxes",
    "LoadImage",
    "LoadScaledCrop",
    "MultiScale",
    "PCALighting",
    "RandomCrop",
    "RandomFlip",
    "Rescale",
    "ScaleJitter",
    "Scenes",
    "SeededDataset",
    "Shards",
    "collate_crops",
    "decode",
    "decode_cut",
    "max_pixels",
    "read_image",
    "rescale",
]
