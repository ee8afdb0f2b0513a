"""Checkpoints: read so that nothing in them runs, and compared with the net that takes them."""

from __future__ import annotations

import os
import re
import zipfile

import torch
from torch import Tensor, nn

from vgg_mm.errors import UserError


def read_checkpoint(path: str | os.PathLike) -> dict:
    """Loads a checkpoint's tensors and plain values to the CPU; nothing in it can run.

    Raises:
        UserError: If it is missing, damaged, would unfold to more than its size, or holds more than
            that, the log of mmengine 0.10 and plain containers; what else it holds is named.
    """
    if not os.path.isfile(path):
        raise UserError(f"no checkpoint {path}.")
    why = "it is compressed, or unfolds to more than its size"
    try:
        if not (zipfile.is_zipfile(path) and _unfolds(path)):
            saved = torch.load(path, map_location="cpu", weights_only=True)
            if isinstance(saved, dict):
                return saved
            why = f"it is a {type(saved).__name__}, no dict of tensors by name"
    except PermissionError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    except Exception as error:  # a damaged pickle raises nearly any
        unsafe = re.search(r"GLOBAL (\w+(?:\.\w+)+)", str(error))
        why = (
            f"it holds {unsafe[1]}, which is more than tensors and plain values; save the net's "
            "state_dict() alone"
            if unsafe
            else "it is damaged, no file of torch.save, or of a pickle_protocol above 2"
        )
    raise UserError(f"{path} is not a checkpoint that loads safely: {why}.")


def _unfolds(path: str | os.PathLike) -> bool:
    """Whether a zip's entries are compressed, or more than the file: several of the same bytes."""
    with zipfile.ZipFile(path) as packed:
        entries = packed.infolist()
    size = sum(entry.file_size for entry in entries)
    return any(entry.compress_type for entry in entries) or size > os.path.getsize(path)


def check_fit(model: nn.Module, weights: dict[str, Tensor], name: str) -> None:
    """Compares a checkpoint's ``state_dict`` with the net's, which is without wrappers.

    Raises:
        UserError: If one has layers that the other lacks, or in another shape; it calls the
            checkpoint ``name``.
    """
    ours = model.state_dict()
    odd: dict[str, str] = {}
    for key in [*ours, *(key for key in weights if key not in ours)]:
        layer = key.rpartition(".")[0]
        if key not in weights:
            odd.setdefault(layer, "not in the checkpoint")
        elif key not in ours:
            odd.setdefault(layer, "in the checkpoint only")
        elif weights[key].shape != ours[key].shape:
            theirs, mine = tuple(weights[key].shape), tuple(ours[key].shape)
            odd.setdefault(layer, f"{theirs} in the checkpoint, {mine} in the net")
    if odd:
        layers = "; ".join(f"{layer} is {what}" for layer, what in odd.items())
        raise UserError(
            f"{name} does not fit the config's net: {layers}. Use the config that it was trained "
            "with, or --start-from to train from it."
        )
