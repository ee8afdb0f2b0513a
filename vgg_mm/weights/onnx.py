"""A VGG in an ONNX file: its convs, norms and FC layers in order, and onnxruntime as the judge.

Whatever an exporter has put between the layers, the net of ours that has their weights must give
the same values at each of them.
"""

from __future__ import annotations

import json
import tempfile
from math import isqrt, prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vgg_mm.errors import UserError, library
from vgg_mm.inputs import Input
from vgg_mm.models import VGG, VGGHead
from vgg_mm.weights.files import damage_named

INPUT_KEY = "vgg_mm.input"  # in metadata_props, where our own export says what the input is
TOLERANCE = 1e-4  # of the largest value
# What exporters make of a VGG. Nothing else is run: no loops, no shapes from nowhere.
OPS = """Conv Relu MaxPool BatchNormalization LRN Pad AveragePool GlobalAveragePool ReduceMean Add
    Sub Mul Div Pow Identity Dropout Cast Constant Transpose Flatten Reshape Squeeze Unsqueeze Shape
    Gather Concat Slice Gemm MatMul Softmax LogSoftmax""".split()
FLATTENS = ("Reshape", "Flatten", "Squeeze", "Identity", "Dropout")


class Graph:
    """The layers of a graph, up to its fifth pool or its end.

    Args:
        path: The file.
        features_only: Whether to leave out what comes after the pools.

    Attributes:
        tensors: The layers' weights in the graph's order, a conv's (out, in, k, k), a dense
            layer's (out, in), a batch norm's with its running mean and variance.
        input: What the file says of its input; None for files that are not ours.

    Raises:
        UserError: If the file is damaged or forged, or holds what no VGG has; the node is named.
    """

    def __init__(self, path: Path, features_only: bool = False) -> None:
        self.onnx, self.runtime = library("onnx", ".onnx"), library("onnxruntime", ".onnx")
        self.path = path
        self.tensors: dict[str, Tensor] = {}
        self.outputs: list[str] = []  # of convs and FC layers
        with damage_named(path):
            model = self.onnx.load(path, load_external_data=False)
            said = {entry.key: entry.value for entry in model.metadata_props}.get(INPUT_KEY)
            self.input = Input.of(json.loads(said), path) if said else None
            pools = [n.output[0] for n in model.graph.node if n.op_type == "MaxPool"][:5]
            self.pool = pools[-1:] if features_only else []
            if self.pool:
                value = self.onnx.helper.make_empty_tensor_value_info(*self.pool)
                model.graph.value_info.append(value)
                known = {tensor.name for tensor in model.graph.initializer}
                inputs = [value.name for value in model.graph.input if value.name not in known]
                model = self.onnx.utils.Extractor(model).extract_model(inputs, self.pool)
            self._check(model.graph)
            self.onnx.load_external_data_for_model(model, str(path.parent))
            # Constants are computed, biases put into their layers; transpositions, as exporters of
            # NHWC frameworks put them around every layer, cancel out.
            with tempfile.TemporaryDirectory() as folder:
                self._session(model, "ENABLE_BASIC", f"{folder}/net.onnx")
                self.model = self.onnx.load(f"{folder}/net.onnx")
            self._take_layers(self.model.graph)

    def _check(self, graph: Any) -> None:
        """Holds the file's claims against its size, and turns its nodes to inference."""
        tensors = [*graph.initializer]
        known = {tensor.name: tensor for tensor in graph.initializer}
        known |= {n.output[0]: a.t for n in graph.node for a in n.attribute if a.name == "value"}
        for node in graph.node:
            name = f"{self.path}: node {node.name or node.output[0]} ({node.op_type})"
            if node.op_type not in OPS or node.domain not in ("", "ai.onnx"):
                raise UserError(f"{name} is no part of a VGG.")
            for attribute in node.attribute:
                if attribute.name == "value":
                    tensors.append(attribute.t)
                if attribute.name == "pads" and max(map(abs, attribute.ints), default=0) > 100:
                    raise UserError(f"{name} has pads {[*attribute.ints]}.")
                if attribute.name == "training_mode":
                    attribute.i = 0
            if node.op_type == "Pad" and (pads := known.get([*node.input, ""][1])):  # opset 11
                few = prod(pads.dims) <= 10 and not pads.external_data
                if not few or abs(self.onnx.numpy_helper.to_array(pads)).max(initial=0) > 100:
                    raise UserError(f"{name} has pads that no VGG has.")
            if node.op_type in ("BatchNormalization", "Dropout"):
                del node.output[1:], node.input[1 if node.op_type == "Dropout" else 5 :]
        left: dict[Path, int] = {}
        for tensor in tensors:
            name, file = f"{self.path}: the tensor {tensor.name}", self.path
            if len(tensor.dims) > 5 or min(tensor.dims, default=0) < 0:
                raise UserError(f"{name}: its sides are none of a VGG's: {[*tensor.dims][:9]}.")
            for place in (each.value for each in tensor.external_data if each.key == "location"):
                if Path(place).name != place:
                    raise UserError(f"{name} is in {place}, another folder.")
                file = self.path.with_name(place)
            each = self.onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
            left[file] = left.get(file, file.stat().st_size) - each * prod(tensor.dims)
            if left[file] < 0:
                raise UserError(f"{name} claims {[*tensor.dims]} numbers, more than {file} holds.")

    def _session(self, model: Any, level: str, path: str = "") -> Any:
        options = self.runtime.SessionOptions()
        options.log_severity_level, options.optimized_model_filepath = 4, path
        levels = self.runtime.GraphOptimizationLevel
        options.graph_optimization_level = getattr(levels, f"ORT_{level}")
        where = dict(providers=["CPUExecutionProvider"], disabled_optimizers=["ConvBNFusion"])
        return self.runtime.InferenceSession(model.SerializeToString(), options, **where)

    def _take_layers(self, graph: Any) -> None:
        to_array = self.onnx.numpy_helper.to_array
        known = {tensor.name: tensor for tensor in graph.initializer}
        makers = {name: node for node in graph.node for name in node.output}
        channels = 0
        for i, node in enumerate(graph.node, 1):
            if len(node.input) < 2 or node.input[1] not in known:
                continue
            values = [torch.tensor(to_array(known[name])) for name in node.input if name in known]
            weight = values[0]
            given = {a.name: self.onnx.helper.get_attribute_value(a) for a in node.attribute}
            stem = f"{i}:{node.input[1].removesuffix('.weight')}"
            if node.op_type == "BatchNormalization":
                values[3] += given.get("epsilon", 1e-5) - 1e-5  # torch's
                leaves = ("weight", "bias", "running_mean", "running_var")
                self.tensors |= {f"{stem}.{n}": v for n, v in zip(leaves, values, strict=True)}
                continue
            if node.op_type == "Conv":
                channels = len(weight)
            elif node.op_type in ("Gemm", "MatMul"):
                weight = weight if given.get("transB", 0) else weight.T
                before = makers.get(node.input[0])
                while before is not None and before.op_type in FLATTENS:
                    before = makers.get(before.input[0])
                if before is not None and before.op_type == "Transpose" and channels:
                    side = isqrt(weight.shape[1] // channels)  # flattened as (side, side, channels)
                    weight = weight.unflatten(1, (side, side, channels)).permute(0, 3, 1, 2)
            else:
                continue
            self.tensors[f"{stem}.weight"] = weight.contiguous()
            self.tensors[f"{stem}.bias"] = [*values, torch.zeros(len(weight))][1].flatten()
            self.outputs.append(node.output[0])

    @torch.no_grad()
    def judge(self, backbone: VGG, head: VGGHead | None) -> None:
        """Runs the same images through the graph and a net of its weights, and compares all layers.

        Raises:
            UserError: If they differ; the first layer that does is named.
        """
        net = nn.Sequential(backbone, head or nn.Identity()).eval()
        convs = {n: m for n, m in net.named_modules() if isinstance(m, nn.Conv2d)}
        names = [*(name.rpartition(".")[2] for name in convs), "the last pool"]
        ours: list[Tensor] = []
        for conv in convs.values():
            conv.register_forward_hook(lambda *args: ours.append(args[2].clone()))
        outputs = self.outputs[: len(convs)] + self.pool
        missing = {*outputs} - {value.name for value in self.model.graph.output}
        value = self.onnx.helper.make_empty_tensor_value_info
        self.model.graph.output.extend(map(value, missing))
        with damage_named(self.path):
            session = self._session(self.model, "DISABLE_ALL")
            inputs = session.get_inputs()
            shape = [n if isinstance(n, int) else 0 for n in inputs[0].shape]  # 0: any
            last = shape[1:2] != [3] and shape[-1:] == [3]  # NHWC
            side = backbone.stride * (head.fc6.kernel_size[0] if head else 2)
            n, *sides = [shape[0] or 1, *(s or side for s in shape[1 if last else 2 :][:2])]
            if len(inputs) != 1 or n * prod(sides) > 1 << 22:
                raise ValueError(f"its inputs are {[each.name for each in inputs]}, {shape}")
            for scale in (1, 60):  # of nets of pixels from 0 to 1 and to 255
                random = torch.Generator().manual_seed(scale)
                x = torch.randn((n, 3, *sides), generator=random) * scale
                fed = (x.permute(0, 2, 3, 1) if last else x).numpy()
                theirs = session.run(outputs, {inputs[0].name: fed})
                ours.clear()
                ours += net(x)
                for name, have, want in zip(names, ours, map(torch.tensor, theirs), strict=False):
                    bound = TOLERANCE * want.abs().max()
                    have, want = have.flatten(), want.flatten()
                    if have.shape != want.shape or not (have - want).abs().max() <= bound:
                        raise UserError(
                            f"{self.path} computes something else than this net, from {name} on: "
                            f"onnxruntime's values and torch's differ by more than {TOLERANCE} of "
                            "the largest."
                        )
