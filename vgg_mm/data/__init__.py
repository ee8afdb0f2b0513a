"""Sec. 3.1: what happens to an image before the net sees it."""

from .folders import DemoPictures, Folders, ImageNet
from .images import CorruptImageError, LoadImage, decode, decode_cut, read_image
from .lists import VOCList
from .scaled_crop import LoadScaledCrop
from .seeding import EpochSampler, SeededDataset
from .transforms import (
    CenterCrop,
    DrawLighting,
    MultiScale,
    PackCrop,
    PCALighting,
    RandomCrop,
    RandomFlip,
    Rescale,
    ScaleJitter,
    rescale,
)

__all__ = [
    "CenterCrop",
    "CorruptImageError",
    "DemoPictures",
    "DrawLighting",
    "EpochSampler",
    "Folders",
    "ImageNet",
    "LoadImage",
    "LoadScaledCrop",
    "MultiScale",
    "PCALighting",
    "PackCrop",
    "RandomCrop",
    "RandomFlip",
    "Rescale",
    "ScaleJitter",
    "SeededDataset",
    "VOCList",
    "decode",
    "decode_cut",
    "read_image",
    "rescale",
]
