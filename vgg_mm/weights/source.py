"""A file of a VGG's weights, of any kind, and what of it is whose layer."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import isqrt
from pathlib import Path

import torch
from torch import Tensor

from vgg_mm.errors import UserError
from vgg_mm.paper import TABLE_1, convs
from vgg_mm.weights import caffe, keras
from vgg_mm.weights.files import local, read_tensors
from vgg_mm.weights.inputs import INPUTS, Input
from vgg_mm.weights.layouts import NORM, conv_names, fc_names, find_names
from vgg_mm.weights.onnx import Graph


@dataclass
class Source:
    """An opened file of weights.

    Attributes:
        path: The file.
        kind: torchvision, timm, mmpretrain, vgg_mm, caffe, keras or onnx.
        tensors: The weights by the file's names.
        names: Gives a net's names: ours, mapped to the file's.
        input: What the net was trained on, as far as the file or its kind tells.
    """

    path: Path
    kind: str
    tensors: dict[str, Tensor]
    names: Callable[[str], dict[str, str]]
    input: Input | None


def open_source(source: str | os.PathLike, arch: str, prefix: str = "") -> Source:
    """Reads a file of weights, by its ending.

    Args:
        source: A path, a URL or ``torchvision://vgg16``; ``.caffemodel``, ``.h5``, ``.onnx``,
            ``.safetensors``, or a PyTorch file under any other ending.
        arch: The net that is looked for.
        prefix: What stands before the VGG's names in a state dict that holds more than one.

    Raises:
        UserError: If it is missing, damaged, unsafe, ambiguous or no VGG.
    """
    path = local(source)
    if path.suffix in FOREIGN:
        return FOREIGN[path.suffix](path)
    tensors, meta = read_tensors(path)
    tensors = {key: value for key, value in tensors.items() if key.startswith(prefix)}
    try:
        kind, _, part = find_names(tensors, arch)
    except UserError as error:
        raise UserError(f"{path} will not do: {error}") from None
    tensors = {key: value for key, value in tensors.items() if key in part}
    if sum(value.nbytes for value in tensors.values()) > path.stat().st_size:
        raise UserError(f"{path} is damaged: its tensors claim more bytes than it has.")
    if "input" in meta:
        known = Input.of(meta["input"], path)
    else:
        known = INPUTS["torchvision"] if kind != "vgg_mm" else None
    return Source(path, kind, tensors, lambda arch: find_names(tensors, arch)[1], known)


def _open_caffe(path: Path) -> Source:
    return Source(path, "caffe", caffe.read(path), _own_names, INPUTS["caffe"])


def _open_keras(path: Path) -> Source:
    tensors = keras.read(path)
    return Source(path, "keras", tensors, partial(keras.names, list(tensors)), INPUTS["caffe"])


def _open_onnx(path: Path) -> Source:
    graph = Graph(path)
    return Source(path, "onnx", graph.tensors, graph.names, graph.input)


FOREIGN = {
    ".caffemodel": _open_caffe,
    ".h5": _open_keras,
    ".hdf5": _open_keras,
    ".onnx": _open_onnx,
}


def _own_names(arch: str) -> dict[str, str]:
    return conv_names("vgg_mm", arch) | fc_names("vgg_mm")


def take(source: Source, names: dict[str, str], channels: int) -> dict[str, Tensor]:
    """Weights of a source, under our names and as convs' kernels.

    Args:
        source: The opened file.
        names: Ours, mapped to the file's.
        channels: Of the map that fc6 sees.

    Returns:
        Float32 on the CPU, as stored; ``fc6.weight`` is (out, channels, k, k).

    Raises:
        UserError: If one is missing or not of finite floats, or fc6's inputs make no square map.
    """
    if lacks := [name for name in names if names[name] not in source.tensors]:
        each = [f"{name} ({names[name]})" for name in lacks]
        raise UserError(f"{source.path} is incomplete: it lacks {_some(each)}.")
    weights: dict[str, Tensor] = {}
    for ours, theirs in names.items():
        value = source.tensors[theirs]
        if ours == "fc6.weight" and value.ndim == 2:
            side = isqrt(value.shape[1] // channels)
            if side * side * channels != value.shape[1]:
                raise UserError(
                    f"{source.path}: {theirs} has {value.shape[1]} inputs, which are no square map "
                    f"of {channels} channels."
                )
            value = value.unflatten(1, (channels, side, side))
        elif ours in ("fc7.weight", "fc8.weight") and value.ndim == 2:
            value = value[:, :, None, None]
        if not ours.endswith("num_batches_tracked"):
            if not value.is_floating_point():
                raise UserError(f"{source.path}: {theirs} ({ours}) is {value.dtype}, no floats.")
            value = value.float()
            if not value.isfinite().all():
                raise UserError(f"{source.path}: {theirs} ({ours}) holds NaN or infinity.")
        weights[ours] = value
    return weights


def _some(names: list[str]) -> str:
    more = [f"and {len(names) - 4} more"] if len(names) > 4 else []
    return ", ".join([*names[:4], *more])


def fit(source: Source, arch: str, features_only: bool = False) -> dict[str, Tensor]:
    """The weights of the whole of net ``arch``, checked against Table 1; its width is the file's.

    Args:
        source: The opened file.
        arch: The net of Table 1.
        features_only: Whether to do without the FC layers, there or not.

    Returns:
        As :func:`take` does.

    Raises:
        UserError: If layers are missing, left over, of another shape, or not finite; other nets
            that the file fits are named.
    """
    try:
        return _fit(source, arch, features_only)
    except UserError as error:
        others = [other for other in TABLE_1 if _fits(source, other)]
        misfit = others and arch not in others
        hint = f" It fits --to-arch {' or '.join(others)}." if misfit else ""
        raise UserError(f"{error}{hint}") from None


def _fits(source: Source, arch: str) -> bool:
    try:
        return bool(_fit(source, arch, True))
    except UserError:
        return False


def _fit(source: Source, arch: str, features_only: bool) -> dict[str, Tensor]:
    names = source.names(arch)
    features = {ours: theirs for ours, theirs in names.items() if not ours.startswith("fc")}
    left = sorted(source.tensors.keys() - names.values())
    if features_only:
        left = [key for key in left if re.search("conv|features|block", key)]
    if left:
        raise UserError(f"{source.path} is not net {arch}: it also holds {_some(left)}.")
    first = source.tensors.get(features["conv1_1.weight"], torch.empty(64))
    width = max(first.shape[0], 1) if first.ndim else 1
    channels = convs(arch, width)[-1].channels
    weights = take(source, features, channels)
    _check_shapes(source, names, weights, _conv_shapes(arch, width))
    if features_only:
        return weights
    try:
        fcs = take(source, {n: names.get(n, n) for n in fc_names("vgg_mm")}, channels)
    except UserError as error:
        raise UserError(f"{error} Without the classifier: --features-only.") from None
    hidden, classes = (fcs[f"{layer}.bias"].numel() for layer in ("fc6", "fc8"))
    side = (fcs["fc6.weight"].shape or (1,))[-1]
    shapes: dict[str, tuple[int, ...]] = {
        "fc6.weight": (hidden, channels, side, side),
        "fc6.bias": (hidden,),
        "fc7.weight": (hidden, hidden, 1, 1),
        "fc7.bias": (hidden,),
        "fc8.weight": (classes, hidden, 1, 1),
        "fc8.bias": (classes,),
    }
    _check_shapes(source, names, fcs, shapes)
    return weights | fcs


def _check_shapes(
    source: Source,
    names: dict[str, str],
    weights: dict[str, Tensor],
    shapes: dict[str, tuple[int, ...]],
) -> None:
    for name, value in weights.items():
        if tuple(value.shape) != shapes[name]:
            raise UserError(
                f"{source.path} does not fit: {names[name]} ({name}) is {list(value.shape)}, not "
                f"{list(shapes[name])}."
            )


def _conv_shapes(arch: str, width: int) -> dict[str, tuple[int, ...]]:
    """The shapes of the convs' weights, and of batch norms', by our names."""
    shapes: dict[str, tuple[int, ...]] = {}
    channels = 3
    for conv in convs(arch, width):
        shapes[f"{conv.name}.weight"] = (conv.channels, channels, conv.kernel, conv.kernel)
        shapes[f"{conv.name}.bias"] = (conv.channels,)
        shapes |= {f"{conv.bn}.{leaf}": (conv.channels,) for leaf in NORM}
        shapes[f"{conv.bn}.num_batches_tracked"] = ()
        channels = conv.channels
    return shapes
