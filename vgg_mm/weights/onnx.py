"""A VGG in an ONNX file: its convs, norms and FC layers in order, and onnxruntime as the judge.

Whatever an exporter has put between the layers, the net of ours that has their weights must give
the same values at each of them.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from math import isqrt, prod
from pathlib import Path

import torch
from torch import Tensor, nn

from vgg_mm.errors import UserError, library
from vgg_mm.inputs import Input

INPUT_KEY = "vgg_mm.input"  # in metadata_props, where our own export says what the input is
TOLERANCE = 1e-4  # of the largest value
# What exporters make of a VGG. Nothing else is run: no loops, no shapes from nowhere.
OPS = """Conv Relu MaxPool BatchNormalization LRN Pad AveragePool GlobalAveragePool ReduceMean Add
    Sub Mul Div Pow Identity Dropout Cast Constant Transpose Flatten Reshape Squeeze Unsqueeze Shape
    Gather Concat Slice Gemm MatMul Softmax LogSoftmax""".split()
FLATTENS = ("Reshape", "Flatten", "Squeeze", "Identity", "Dropout")


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # protobuf's own, onnxruntime's, of forged shapes
        line = str(error).strip().split("\n")[0].strip(".")
        raise UserError(f"{path} is damaged: {line}.") from None


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
        with _named(path):
            model = self.onnx.load(path, load_external_data=False)
            said = {entry.key: entry.value for entry in model.metadata_props}.get(INPUT_KEY)
            self.input = Input.of(json.loads(said), path) if said else None
            pools = [n.output[0] for n in model.graph.node if n.op_type == "MaxPool"][:5]
            self.pool = pools[-1:] if features_only else []
            if self.pool:
                self._cut(model.graph)
            self._check(model.graph)
            self.onnx.load_external_data_for_model(model, str(path.parent))
            # Constants are computed, biases put into their layers; transpositions, as exporters of
            # NHWC frameworks put them around every layer, cancel out.
            with tempfile.TemporaryDirectory() as folder:
                self._session(model, "ENABLE_BASIC", f"{folder}/net.onnx")
                self.model = self.onnx.load(f"{folder}/net.onnx")
            self._take_layers(self.model.graph)

    def _cut(self, graph: object) -> None:
        """Leaves of the graph what the last pool depends on."""
        wanted = {*self.pool}
        for node in reversed([*graph.node]):
            if wanted & {*node.output}:
                wanted.update(node.input)
            else:
                graph.node.remove(node)
        for tensor in [tensor for tensor in graph.initializer if tensor.name not in wanted]:
            graph.initializer.remove(tensor)
        del graph.output[:]
        graph.output.append(self.onnx.helper.make_empty_tensor_value_info(*self.pool))

    def _check(self, graph: object) -> None:
        """Holds the file's claims against its size, and turns its nodes to inference."""
        tensors = list(graph.initializer)
        for node in graph.node:
            name = f"{self.path}: node {node.name or node.output[0]} ({node.op_type})"
            if node.op_type not in OPS or node.domain not in ("", "ai.onnx"):
                raise UserError(f"{name} is no part of a VGG.")
            tensors += [attribute.t for attribute in node.attribute if attribute.name == "value"]
            for attribute in node.attribute:
                if attribute.name == "pads" and max(map(abs, attribute.ints), default=0) > 100:
                    raise UserError(f"{name} has pads {[*attribute.ints]}.")
                if attribute.name == "training_mode":
                    attribute.i = 0
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

    def _session(self, model: object, level: str, path: str = "") -> object:
        options = self.runtime.SessionOptions()
        options.log_severity_level, options.optimized_model_filepath = 4, path
        levels = self.runtime.GraphOptimizationLevel
        options.graph_optimization_level = getattr(levels, f"ORT_{level}")
        where = dict(providers=["CPUExecutionProvider"], disabled_optimizers=["ConvBNFusion"])
        return self.runtime.InferenceSession(model.SerializeToString(), options, **where)

    def _take_layers(self, graph: object) -> None:
        to_array = self.onnx.numpy_helper.to_array
        known = {tensor.name: tensor for tensor in graph.initializer}
        makers = {name: node for node in graph.node for name in node.output}
        channels = 0
        for i, node in enumerate(graph.node, 1):
            if len(node.input) < 2 or node.input[1] not in known:
                continue
            values = [torch.tensor(to_array(known[n])) for n in node.input if n in known]
            given = {a.name: self.onnx.helper.get_attribute_value(a) for a in node.attribute}
            stem = f"{i}:{node.input[1].removesuffix('.weight')}"
            if node.op_type == "BatchNormalization":
                values[3] += given.get("epsilon", 1e-5) - 1e-5  # torch's
                leaves = ("weight", "bias", "running_mean", "running_var")
                self.tensors |= {f"{stem}.{n}": v for n, v in zip(leaves, values, strict=True)}
            if node.op_type not in ("Conv", "Gemm", "MatMul"):
                continue
            weight = values[0]
            if node.op_type == "Conv":
                channels = len(weight)
            else:
                weight = weight if given.get("transB", 0) else weight.T
                before = makers.get(node.input[0])
                while before is not None and before.op_type in FLATTENS:
                    before = makers.get(before.input[0])
                if before is not None and before.op_type == "Transpose" and channels:
                    side = isqrt(weight.shape[1] // channels)  # flattened as (side, side, channels)
                    weight = weight.unflatten(1, (side, side, channels)).permute(0, 3, 1, 2)
            self.tensors[f"{stem}.weight"] = weight.contiguous()
            self.tensors[f"{stem}.bias"] = [*values, torch.zeros(len(weight))][1].flatten()
            self.outputs.append(node.output[0])

    @torch.no_grad()
    def judge(self, net: nn.Module) -> None:
        """Runs the same images through the graph and a net, and compares them layer by layer.

        Args:
            net: With a ``backbone``, and perhaps a ``head``, that have the graph's weights.

        Raises:
            UserError: If they differ; the first layer that does is named.
        """
        convs = [(n, m) for n, m in net.eval().named_modules() if isinstance(m, nn.Conv2d)]
        outputs = self.outputs[: len(convs)] + self.pool
        graph, ours = self.model.graph, []
        known = {value.name for value in [*graph.output, *graph.initializer]}
        inputs = [value for value in graph.input if value.name not in known]
        graph.output.extend(map(self.onnx.helper.make_empty_tensor_value_info, {*outputs} - known))
        for _, conv in convs:
            conv.register_forward_hook(lambda *args: ours.append(args[2].clone()))
        with _named(self.path):
            shape = [dim.dim_value for dim in inputs[0].type.tensor_type.shape.dim]
            side = 32 * (net.head.fc6.kernel_size[0] if hasattr(net, "head") else 2)
            last = shape[1:2] != [3] and shape[-1:] == [3]  # NHWC
            n, *sides = [shape[0] or 1, *(s or side for s in shape[1 if last else 2 :][:2])]
            if len(inputs) != 1 or n * prod(sides) > 1 << 22:
                raise ValueError(f"its inputs are {[value.name for value in inputs]}, {shape}")
            session = self._session(self.model, "DISABLE_ALL")
            for scale in (1, 60):  # of nets of pixels from 0 to 1 and to 255
                x = (
                    torch.randn(n, 3, *sides, generator=torch.Generator().manual_seed(scale))
                    * scale
                )
                fed = (x.permute(0, 2, 3, 1) if last else x).numpy()
                theirs = session.run(outputs, {inputs[0].name: fed})
                ours.clear()
                maps = net.backbone(x)
                getattr(net, "head", nn.Identity())(maps)
                ours += maps
                names = [*(name for name, _ in convs), "the last pool"]
                for name, have, want in zip(names, ours, map(torch.tensor, theirs), strict=False):
                    bound = TOLERANCE * want.abs().max()
                    have, want = have.flatten(), want.flatten()
                    if have.shape != want.shape or not (have - want).abs().max() <= bound:
                        raise UserError(
                            f"{self.path} computes something else than this net, from "
                            f"{name.rpartition('.')[2]} on: onnxruntime's values and torch's differ"
                            f" by more than {TOLERANCE} of the largest."
                        )
