"""Keras's ``.h5``, of Keras 1 to 3: weights alone or a whole model."""

from __future__ import annotations

import re
from math import isqrt
from pathlib import Path

import torch
from torch import Tensor

from vgg_mm.errors import UserError, library
from vgg_mm.paper import convs

FCS = ("fc1", "fc2", "predictions")


def read(path: Path) -> dict[str, Tensor]:
    """The weights of every conv and dense layer, turned to torch's order of axes.

    Keras's conv kernels are (k, k, in, out) and its dense ones (in, out), the first of them on a
    map flattened as (height, width, channels).

    Returns:
        ``LAYER.weight``, (out, in, k, k) for convs and the first dense layer and (out, in) for the
        others, and ``LAYER.bias``, in the order of the layers' numbers.

    Raises:
        UserError: If the file is damaged, forged, or no such file.
    """
    h5py = library("h5py", ".h5")
    size = path.stat().st_size
    layers: dict[str, list] = {}

    def visit(name: str, item: object) -> None:
        nonlocal size
        if not isinstance(item, h5py.Dataset) or "optimizer" in name.split("/")[0]:
            return
        plain = item.chunks is None and not item.external and not item.is_virtual
        if not plain or item.dtype.kind != "f" or item.ndim not in (1, 2, 4):
            raise UserError(
                f"{path}: {name} is {item.dtype}{list(item.shape)}, "
                f"{'stored plainly' if plain else 'compressed, in chunks or in another file'}; a "
                "VGG's weights are plain arrays of floats with 1, 2 or 4 axes."
            )
        size -= item.nbytes
        if size < 0:
            raise UserError(f"{path}: up to {name}, {list(item.shape)}, it claims more than it is.")
        layers.setdefault(_layer(name), []).append(torch.from_numpy(item[()]))

    try:
        with h5py.File(path, "r") as file:
            file.visititems(visit)
    except UserError:
        raise
    except Exception as error:  # HDF5 raises nearly any
        raise UserError(f"{path} is damaged, or no HDF5 file: {error}.") from None
    tensors: dict[str, Tensor] = {}
    channels = 0  # of the map that the next dense layer sees flattened
    for name in sorted(layers, key=_rank):
        values = {value.ndim: value for value in layers[name]}
        if len(layers[name]) != 2 or len(values) != 2 or 1 not in values:
            shapes = ", ".join(str(list(value.shape)) for value in layers[name])
            raise UserError(f"{path}: {name} has {shapes}, not a kernel and a bias.")
        kernel = values.get(4, values.get(2))
        if kernel.ndim == 4:
            channels = kernel.shape[3]
            kernel = kernel.permute(3, 2, 0, 1)
        elif channels:
            side = isqrt(len(kernel) // channels)
            if side * side * channels != len(kernel):
                raise UserError(
                    f"{path}: {name} is {list(kernel.shape)}: no square map of {channels} channels "
                    "has as many inputs."
                )
            kernel = kernel.unflatten(0, (side, side, channels)).permute(3, 2, 0, 1)
            channels = 0
        else:
            kernel = kernel.T
        tensors |= {f"{name}.weight": kernel.contiguous(), f"{name}.bias": values[1]}
    return tensors


def _layer(path: str) -> str:
    """The layer in a dataset's path, such as ``model_weights/block1_conv1/block1_conv1/kernel``."""
    for part in path.split("/"):
        if re.fullmatch(r"block\d_conv\d|fc1|fc2|predictions|(conv2d|dense)(_\d{1,9})?", part):
            return part
    raise UserError(f"{path} belongs to no layer of a VGG (block1_conv1, fc1, conv2d, dense ...).")


def _rank(name: str) -> tuple[bool, int]:
    """Convs before dense layers, each by their number."""
    if name in FCS:
        return True, FCS.index(name)
    return name.startswith("dense"), int("".join(re.findall(r"\d+", name.replace("2d", ""))) or 0)


def names(keys: list[str], arch: str) -> dict[str, str]:
    """Maps our names to those of :func:`read`: by name, or by order where names are numbers."""
    ours = [conv.name for conv in convs(arch)]
    if any(key.startswith("block") for key in keys):
        theirs = [name.replace("conv", "block").replace("_", "_conv") for name in ours] + [*FCS]
    else:
        found = list(dict.fromkeys(key.rpartition(".")[0] for key in keys))
        conv2ds = [name for name in found if name.startswith("conv")]
        missing = ["a further conv2d"] * (len(ours) - len(conv2ds))
        dense = [name for name in found if name.startswith("dense")] + ["a further dense"] * 3
        theirs = [*conv2ds[: len(ours)], *missing, *dense[:3]]
    pairs = zip([*ours, "fc6", "fc7", "fc8"], theirs, strict=True)
    return {f"{a}.{leaf}": f"{b}.{leaf}" for a, b in pairs for leaf in ("weight", "bias")}
