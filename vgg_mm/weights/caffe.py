"""A ``.caffemodel``: Caffe's NetParameter, as much of it as holds weights.

Protocol buffers on the wire: a message is a row of fields, each a number, a type, and a varint, 4
or 8 bytes, or a length and as many bytes. The authors' files have the older ``layers`` (2), later
ones ``layer`` (100); a layer's name and its blobs are what we read.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vgg_mm.weights.files import damage_named

# NetParameter's layer lists: field -> (the field of the layer's name, the field of its blobs).
LAYERS = {2: (4, 6), 100: (1, 7)}
# BlobProto: the old four sides, and what holds data.
SIDES, DATA, SHAPE, DOUBLE_DATA = (1, 2, 3, 4), 5, 7, 8


def read(path: Path) -> dict[str, Tensor]:
    """The float32 weights of every layer that has any, as ``conv1_1.weight`` and ``.bias``.

    A conv's weight is (out, in, k, k), an InnerProduct's (out, in) or, in old files,
    (1, 1, out, in).

    Raises:
        UserError: If the file is no NetParameter, or is cut off or forged.
    """
    with damage_named(path, "or no .caffemodel"):
        return _net(memoryview(path.read_bytes()))


def _net(view: memoryview) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for number, message in _fields(view):
        if number not in LAYERS or isinstance(message, int):
            continue
        inside = [(n, each) for n, each in _fields(message) if isinstance(each, memoryview)]
        name_field, blobs_field = LAYERS[number]
        name = next((str(value, "utf-8") for field, value in inside if field == name_field), "")
        blobs = [value for field, value in inside if field == blobs_field]
        for leaf, blob in zip(("weight", "bias"), blobs, strict=False):
            if f"{name}.{leaf}" in tensors:
                raise ValueError(f"two layers are called {name!r}")
            tensors[f"{name}.{leaf}"] = _blob(blob, f"{name}.{leaf}")
    return tensors


def _blob(view: memoryview, name: str) -> Tensor:
    sides = dict.fromkeys(SIDES, 0)
    shape: list[int] | None = None
    values: np.ndarray | None = None
    for number, value in _fields(view):
        if number in (DATA, DOUBLE_DATA):
            if isinstance(value, int) or values is not None:
                raise ValueError(f"the numbers of {name} are not packed in one field")
            values = np.frombuffer(value, "<f4" if number == DATA else "<f8").astype(np.float32)
        elif number in SIDES and isinstance(value, int):
            sides[number] = value
        elif number == SHAPE and isinstance(value, memoryview):
            shape = []
            for field, dims in _fields(value):
                if field == 1:
                    shape += [dims] if isinstance(dims, int) else _varints(dims)
            if len(shape) > 4:
                raise ValueError(f"{name} has {len(shape)} axes")
    if values is None:
        raise ValueError(f"{name} holds no numbers")
    shape = list(sides.values()) if shape is None else shape
    if prod(shape) != values.size:
        raise ValueError(f"{name} is {shape} and holds {values.size:,} numbers")
    if len(shape) == 4 and name.endswith("bias"):
        shape = [values.size]
    elif len(shape) == 4 and shape[:2] == [1, 1]:
        shape = shape[2:]
    return torch.from_numpy(values.reshape(shape))


def _fields(view: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of a message: their numbers, and an int or the bytes."""
    at = 0
    while at < len(view):
        key, at = _varint(view, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(view, at)
            yield key >> 3, value
            continue
        if kind == 2:
            size, at = _varint(view, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"a field of the unknown wire type {kind}")
        if size > len(view) - at:
            raise ValueError(f"a field of {size:,} bytes where {len(view) - at:,} are left")
        # Single numbers of 4 or 8 bytes are nothing that we read.
        yield key >> 3, view[at : at + size] if kind == 2 else 0
        at += size


def _varints(view: memoryview) -> list[int]:
    values, at = [], 0
    while at < len(view):
        value, at = _varint(view, at)
        values.append(value)
    return values


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for i in range(10):
        if at + i >= len(view):
            raise ValueError("it ends inside a number")
        byte = view[at + i]
        value |= (byte & 127) << 7 * i
        if byte < 128:
            return value, at + i + 1
    raise ValueError("a number of more than 10 bytes")
