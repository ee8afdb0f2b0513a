"""A VGG in an ONNX file: its weights, found by the graph's order, whatever their names."""

from __future__ import annotations

import json
from math import isclose, prod
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from vgg_mm.errors import UserError, library
from vgg_mm.paper import convs, stages
from vgg_mm.weights.inputs import Input

INPUT_KEY = "vgg_mm.input"  # in metadata_props, where our own export says what the input is
LAYERS = ("Conv", "Gemm", "MatMul")
# What hands on the image's values, at inference and after the last pool. LRN comes as one node or,
# from torch, as what ends in a division by a power.
NEUTRAL = ("Dropout", "Identity")
TAIL = ("Flatten", "Reshape", "Squeeze", "Unsqueeze", "Softmax")
MEANS = ("AveragePool", "GlobalAveragePool", "ReduceMean")
# What may stand beside them: the arithmetic of shapes and torch's LRN.
BESIDE = ("Shape", "Constant", "Gather", "Concat", "Slice", "Cast", "Mul", "Pad", "Add", "Pow")
BESIDE += ("Reshape", "Squeeze", "Unsqueeze", "AveragePool")


# ONNX's default and the paper's value; ONNX, like torch, divides alpha by the size.
LRN = dict(size=(0, 5), bias=(1, 2), alpha=(1e-4, 5e-4), beta=(0.75, 0.75))


class Graph:
    """The layers of an ONNX file's net, which must be a VGG's row of layers.

    Attributes:
        tensors: The layers' weights and biases by the file's names; weights are (out, in, k, k) for
            convs and (out, in) for dense layers.
        layers: The names of each layer's weight and bias, in the graph's order.
        ops: The row of ``layer``, ``Relu``, ``LRN`` and ``MaxPool``.
        input: What the file says of its input; None for files that are not ours.

    Raises:
        UserError: If the file is damaged or forged, or is no VGG; the node is named.
    """

    def __init__(self, path: Path) -> None:
        onnx = library("onnx", ".onnx")
        self.path = path
        try:
            model = onnx.load(path, load_external_data=False)
        except Exception as error:  # protobuf's own
            raise UserError(f"{path} is damaged, or no ONNX file: {error}.") from None
        self.left: dict[Path, int] = {}  # bytes of this file, or one beside it, not yet claimed
        self.tensors: dict[str, Tensor] = {}
        self.layers: list[list[str]] = []
        self.ops: list[str] = []
        try:
            self._walk(onnx, model.graph)
            said = {entry.key: entry.value for entry in model.metadata_props}.get(INPUT_KEY)
            self.input = Input.of(json.loads(said), path) if said else None
        except UserError:
            raise
        except Exception as error:  # of arrays that do not fit their shapes, of missing attributes
            raise UserError(f"{path} is damaged: {error}.") from None

    def _walk(self, onnx: ModuleType, graph: object) -> None:
        self.known = {tensor.name: tensor for tensor in graph.initializer}
        inputs = [value.name for value in graph.input if value.name not in self.known]
        if len(inputs) != 1:
            raise UserError(f"{self.path} has the inputs {inputs}, where a VGG has one.")
        x = inputs[0]
        for node in graph.node:
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            if node.op_type == "Constant" and "value" in attributes:
                self.known[node.output[0]] = attributes["value"]
            if x in node.input and self._on_path(node, attributes, onnx):
                x = node.output[0]
            elif node.op_type not in BESIDE:
                self._refuse(node, "is no part of a VGG, or not in one row with the others")
        if x not in [value.name for value in graph.output]:
            raise UserError(f"{self.path}: the row of layers ends at {x}, which is no output.")
        self.known.clear()

    def _on_path(self, node: object, attributes: dict, onnx: ModuleType) -> bool:
        """Whether the node hands on the image's values; takes its weights if it has any."""
        op, pools = node.op_type, self.ops.count("MaxPool")
        if op in LAYERS:
            self._layer(node, attributes, onnx)
        elif op == "Add" and node.input[1] in self.known and self.ops[-1:] == ["layer"]:
            self._take_bias(node.input[1], node, onnx)
        elif op == "Relu":  # which commutes with a pool
            at = len(self.ops) - (self.ops[-1:] == ["MaxPool"])
            self.ops.insert(at, op)
        elif op in ("LRN", "Div"):
            if op == "LRN" and not all(
                isclose(attributes.get(key, usual), value, rel_tol=1e-5)
                for key, (usual, value) in LRN.items()
            ):
                self._refuse(node, "is not the paper's LRN")
            self.ops.append("LRN")
        elif op == "MaxPool":
            sides = [attributes.get(key) for key in ("kernel_shape", "strides")]
            padded = any(attributes.get("pads", ())) or attributes.get("ceil_mode")
            if sides != [[2, 2], [2, 2]] or padded:
                self._refuse(node, "is not a 2x2 pool of stride 2")
            self.ops.append(op)
        elif op in MEANS and pools == 5:
            single = op == "AveragePool" and prod(attributes.get("kernel_shape", [0])) == 1
            if self.ops[-1] == "MaxPool" and not single:
                self._refuse(node, "averages the map before fc6, which the paper's nets do not")
        else:
            return op in NEUTRAL or (op in TAIL and pools == 5)
        return True

    def _layer(self, node: object, attributes: dict, onnx: ModuleType) -> None:
        name = node.input[1]
        if name not in self.known:
            self._refuse(node, "has no weights in the file")
        weight = self._take(name, node, onnx)
        fc = self.ops.count("MaxPool") == 5
        if node.op_type == "Conv":
            side = 0 if fc else weight.shape[-1] // 2
            wanted = dict(group=1, strides=1, dilations=1, pads=side, auto_pad=b"NOTSET")
            for key, value in wanted.items():
                have = attributes.get(key, 0 if key == "pads" else value)
                if any(item != value for item in (have if isinstance(have, list) else [have])):
                    self._refuse(node, f"has {key} {have}, where a VGG has {value}")
        elif node.op_type == "MatMul":
            weight = weight.T
        else:
            odd = {key: attributes.get(key, 1) for key in ("alpha", "beta")}
            if attributes.get("transA", 0) or set(odd.values()) != {1}:
                self._refuse(node, f"has transA or {odd}, where a VGG has none")
            weight = weight if attributes.get("transB", 0) else weight.T
        self.tensors[name] = weight
        self.layers.append([name])
        self.ops.append("layer")
        if len(node.input) > 2:
            self._take_bias(node.input[2], node, onnx)

    def _take_bias(self, name: str, node: object, onnx: ModuleType) -> None:
        self._take(name, node, onnx)
        self.layers[-1].append(name)

    def _take(self, name: str, node: object, onnx: ModuleType) -> Tensor:
        """Takes a tensor of the file, after its claims were held against the file's size."""
        if name in self.tensors:
            self._refuse(node, f"has weights that another layer has too ({name})")
        proto = self.known[name]
        types = onnx.TensorProto
        bytes_each = {types.FLOAT: 4, types.FLOAT16: 2, types.DOUBLE: 8}.get(proto.data_type)
        if bytes_each is None:
            self._refuse(node, f"has the weights {name}, which are no floats of 2, 4 or 8 bytes")
        if len(proto.dims) > 4 or min(proto.dims, default=0) < 0:
            self._refuse(node, f"has the weights {name}, whose sides are none of a VGG's")
        file = self.path
        for entry in proto.external_data:
            if entry.key == "location":
                if Path(entry.value).name != entry.value:
                    self._refuse(node, f"has its weights in {entry.value}, another folder")
                file = self.path.with_name(entry.value)
        left = self.left.get(file, file.stat().st_size) - bytes_each * prod(proto.dims)
        if left < 0:
            self._refuse(node, f"claims {list(proto.dims)} numbers, more than {file} holds")
        self.left[file] = left
        values = np.array(onnx.numpy_helper.to_array(proto, str(self.path.parent)))
        self.tensors[name] = torch.from_numpy(values)
        return self.tensors[name]

    def _refuse(self, node: object, why: str) -> None:
        raise UserError(f"{self.path}: node {node.name or node.output[0]} ({node.op_type}) {why}.")

    def names(self, arch: str) -> dict[str, str]:
        """Maps our names to those of ``tensors``, by order.

        Raises:
            UserError: If the graph is not this net, with or without its classifier.
        """
        net: list[str] = []
        for stage in stages(arch):
            for layer in stage:
                net += ["layer", "Relu"] if layer.kernel else ["LRN"]
            net.append("MaxPool")
        fcs = ["layer", "Relu", "layer", "Relu", "layer"]
        if self.ops not in (net, net[:-1], net + fcs):
            pairs = zip([*self.ops, "the end"], [*net, *fcs, "the end"], strict=False)
            at, (have, want) = next((i, pair) for i, pair in enumerate(pairs) if len({*pair}) > 1)
            raise UserError(
                f"{self.path} is not net {arch}: after {self.ops[:at].count('layer')} layers with "
                f"weights comes {have}, not {want}."
            )
        ours = [conv.name for conv in convs(arch)]
        ours = [*ours, "fc6", "fc7", "fc8"][: len(self.layers)]
        names: dict[str, str] = {}
        for layer, (weight, *bias) in zip(ours, self.layers, strict=True):
            names[f"{layer}.weight"] = weight
            names[f"{layer}.bias"] = bias[0] if bias else f"none beside {weight}"
        return names
