"""HDF5: Keras's ``.h5`` and ``.keras``, of Keras 1 to 3, and Caffe's ``.caffemodel.h5``."""

from __future__ import annotations

import io
import logging
import re
import zipfile
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor

from vgg_mm.errors import UserError, library
from vgg_mm.weights.files import damage_named
from vgg_mm.weights.layouts import some

# The layer in an array's path, such as model_weights/block1_conv1/block1_conv1/kernel.
LAYER = re.compile(
    r"data/(?P<caffe>conv\d_\d\w{0,20}|[\w-]{0,20}fc[678](?!\d)[\w-]{0,20})/\d"
    r"|(.*?/)??(?P<keras>block\d_conv\d|fc[12]|predictions|(conv2d|dense)(_\d{1,9})?)(/.*)?"
)


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
    others: dict[str, list[tuple[int, ...]]] = {}
    caffe = False

    def visit(name: str, item: Any) -> None:
        nonlocal size, caffe
        if not isinstance(item, h5py.Dataset) or "optimizer" in name.split("/")[0]:
            return
        layer = LAYER.fullmatch(name)
        if not layer:
            folder = name.rpartition("/")[0] or "the file's own arrays"
            others.setdefault(folder, []).append(item.shape)
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
        caffe |= layer["keras"] is None
        layers.setdefault(layer["keras"] or layer["caffe"], []).append(torch.from_numpy(item[()]))

    with damage_named(path, "or no HDF5 file"), h5py.File(_unzipped(path), "r") as file:
        file.visititems(visit)
    if not layers:
        raise UserError(
            f"{path}: {some(others)} belong to no layer of a VGG (block1_conv1, fc1, conv2d, dense "
            "...)."
        )
    # Gamma and beta are there as the model has them, mean and variance always.
    norms = [s for s in others.values() if len(s) in (2, 3, 4) and len({*s}) == 1 == len(s[0])]
    if len(norms) >= 5:
        raise UserError(f"{path} has {len(norms)} batch norms, which the paper's nets have not.")
    if others:
        print_log(
            f"{path}: of the file are left {some(others)}. If they stand between the net's layers, "
            "it computes something else.",
            "current",
            logging.WARNING,
        )
    tensors: dict[str, Tensor] = {}
    channels = 0  # of the map that the next dense layer sees flattened
    for name in sorted(layers, key=_rank):
        bias, *kernels = sorted(layers[name], key=Tensor.dim)
        if bias.ndim != 1 or [kernel.ndim for kernel in kernels] not in ([2], [4]):
            shapes = ", ".join(str(list(value.shape)) for value in layers[name])
            raise UserError(f"{path}: {name} has {shapes}, not a kernel and a bias.")
        kernel = kernels[0]
        if kernel.ndim == 4 and not caffe:
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


def _rank(name: str) -> tuple[bool, bool, list[int]]:
    """Convs before dense layers, each by their numbers."""
    numbers = [int(number) for number in re.findall(r"\d+", name)]
    return not name.startswith(("block", "conv")), name == "predictions", numbers
