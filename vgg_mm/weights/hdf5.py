"""HDF5: Keras's ``.h5`` and ``.keras``, of Keras 1 to 3, and Caffe's ``.caffemodel.h5``."""

from __future__ import annotations

import io
import logging
import re
import zipfile
from math import isqrt
from pathlib import Path

import torch
from mmengine.logging import print_log
from torch import Tensor

from vgg_mm.errors import UserError, library

FCS = ("fc1", "fc2", "predictions")
STAGES = 5


def read(path: Path) -> tuple[str, dict[str, Tensor]]:
    """The weights of every conv and FC layer of a VGG, in torch's order of axes.

    Keras's conv kernels are (k, k, in, out) and its dense ones (in, out), the first of them on a
    map flattened as (height, width, channels). Other layers are left out.

    Returns:
        keras or caffe, and ``LAYER.weight``, (out, in, k, k) for convs and the first dense layer
        and (out, in) for the others, and ``LAYER.bias``, in the order of the layers' numbers.

    Raises:
        UserError: If the file is damaged, forged, or no such file.
    """
    h5py = library("h5py", ".h5")
    size = path.stat().st_size
    layers: dict[str, list[Tensor]] = {}
    others: dict[str, list] = {}

    def visit(name: str, item: object) -> None:
        nonlocal size
        if not isinstance(item, h5py.Dataset) or "optimizer" in name.split("/")[0]:
            return
        layer = _layer(name)
        if not layer:
            others.setdefault(name.rpartition("/")[0], []).append(item.shape)
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
        layers.setdefault(layer, []).append(torch.from_numpy(item[()]))

    try:
        with h5py.File(_unzipped(path), "r") as file:
            file.visititems(visit)
    except UserError:
        raise
    except Exception as error:  # HDF5 raises nearly any
        raise UserError(f"{path} is damaged, or no HDF5 file: {error}.") from None
    if not layers:
        raise UserError(
            f"{path}: {', '.join([*others][:4])} belong to no layer of a VGG (block1_conv1, fc1, "
            "conv2d, dense ...)."
        )
    # Gamma and beta are there as the model has them, mean and variance always.
    norms = [s for s in others.values() if len(s) in (2, 3, 4) and len({*s}) == 1 == len(s[0])]
    if len(norms) >= STAGES:
        raise UserError(f"{path} has {len(norms)} batch norms, which the paper's nets have not.")
    if others:
        left = [*dict.fromkeys(name or "the file's own arrays" for name in others)]
        more = f" and {len(left) - 4} more" if len(left) > 4 else ""
        print_log(
            f"{path}: of the file are left {', '.join(left[:4])}{more}. If they stand between the "
            "net's layers, it computes something else.",
            "current",
            logging.WARNING,
        )
    pairs = {name: _pair(path, name, layers[name]) for name in sorted(layers, key=_rank)}
    caffe = any(re.match("conv[1-5]_", name) for name in pairs)
    tensors: dict[str, Tensor] = {}
    channels = 0  # of the map that the next dense layer sees flattened
    for name, (kernel, bias) in pairs.items():
        if not caffe and kernel.ndim == 4:
            channels = kernel.shape[3]
            kernel = kernel.permute(3, 2, 0, 1)
        elif not caffe:
            side = isqrt(len(kernel) // channels) if channels else 0
            if side and side * side * channels == len(kernel):
                kernel = kernel.unflatten(0, (side, side, channels)).permute(3, 2, 0, 1)
            else:
                kernel = kernel.T
            channels = 0
        tensors |= {f"{name}.weight": kernel.contiguous(), f"{name}.bias": bias}
    return "caffe" if caffe else "keras", tensors


def _unzipped(path: Path) -> Path | io.BytesIO:
    """The HDF5 file, which a ``.keras`` holds in a zip."""
    if not zipfile.is_zipfile(path):
        return path
    with zipfile.ZipFile(path) as packed:
        entry = packed.getinfo("model.weights.h5")
        if entry.compress_type or entry.file_size > path.stat().st_size:
            raise UserError(f"{path} is compressed; Keras's own files are not.")
        return io.BytesIO(packed.read(entry))


def _pair(path: Path, name: str, values: list[Tensor]) -> tuple[Tensor, Tensor]:
    by_axes = {value.ndim: value for value in values}
    if len(values) != 2 or len(by_axes) != 2 or 1 not in by_axes:
        shapes = ", ".join(str(list(value.shape)) for value in values)
        raise UserError(f"{path}: {name} has {shapes}, not a kernel and a bias.")
    return by_axes.get(4, by_axes.get(2)), by_axes[1]


def _layer(path: str) -> str | None:
    """The layer in a dataset's path, such as ``model_weights/block1_conv1/block1_conv1/kernel``."""
    if caffes := re.fullmatch(
        r"data/(conv\d_\d\w{0,20}|[\w-]{0,20}fc[678](?!\d)[\w-]{0,20})/\d", path
    ):
        return caffes[1]
    for part in path.split("/"):
        if re.fullmatch(r"block\d_conv\d|fc1|fc2|predictions|(conv2d|dense)(_\d{1,9})?", part):
            return part
    return None


def _rank(name: str) -> tuple[bool, int]:
    """Convs before dense layers, each by their number."""
    if name in FCS:
        return True, FCS.index(name)
    return name.startswith("dense"), int("".join(re.findall(r"\d+", name.replace("2d", ""))) or 0)
