"""Weights from other libraries and back, and files that are none."""

import json
import pickle
import runpy
import struct
import sys
import zipfile
from pathlib import Path

import h5py
import mmpretrain.models.backbones as mmpretrain_backbones
import numpy as np
import onnx
import pytest
import safetensors.torch
import timm.models.vgg as timm_vgg
import torch
import torch.nn.functional as F
from mmengine import Config
from mmpretrain.registry import MODELS
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torchvision.models.vgg import VGG as TorchvisionVGG
from torchvision.models.vgg import make_layers

from vgg_mm.errors import UserError
from vgg_mm.models import VGG, VGGFC, VGGHead
from vgg_mm.paper import stages
from vgg_mm.weights.convert import convert, report, save
from vgg_mm.weights.files import local
from vgg_mm.weights.inputs import INPUTS, Input, refold
from vgg_mm.weights.layouts import conv_names, fc_names

ROOT = Path(__file__).parents[1]
WIDTH, HIDDEN, CLASSES, SIDE = 4, 24, 5, 2
TORCHVISION = Input("RGB", 1, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def image(height=64, width=64):
    """A picture (1, 3, H, W), RGB from 0 to 255, as no net was prepared for it."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (1, 3, height, width), generator=generator).float()


def prepared(pixels, given):
    """``pixels`` as a net of that input wants them, in the words of its definition."""
    x = pixels / 255 * given.top
    x = x if given.order == "RGB" else x.flip(1)
    mean, std = (torch.tensor(values)[:, None, None] for values in (given.mean, given.std))
    return (x - mean) / std


def lively(net):
    """Random weights that keep the activations' scale, so that logits depend on every layer."""
    generator = torch.Generator().manual_seed(0)
    for name, value in net.state_dict().items():
        if value.is_floating_point():
            fan = value[0].numel() if value.dim() > 1 else 25
            value.normal_(0, (2 / fan) ** 0.5, generator=generator)
        if name.endswith("running_var") or (name.endswith("weight") and value.dim() == 1):
            value.abs_().add_(1)
    return net.eval()


def table(arch):
    return [[layer.channels for layer in s if layer.kernel] + ["M"] for s in stages(arch, WIDTH)]


def torchvision_net(arch="A", norm=False):
    net = TorchvisionVGG(make_layers(sum(table(arch), []), norm), init_weights=False)
    net.avgpool = nn.Identity()
    net.classifier[0] = nn.Linear(8 * WIDTH * SIDE**2, HIDDEN)
    net.classifier[3] = nn.Linear(HIDDEN, HIDDEN)
    net.classifier[6] = nn.Linear(HIDDEN, CLASSES)
    return lively(net)


def timm_net(arch="D", norm=False):
    net = timm_vgg.VGG(sum(table(arch), []), CLASSES, norm_layer=nn.BatchNorm2d if norm else None)
    net.pre_logits = timm_vgg.ConvMlp(8 * WIDTH, HIDDEN, SIDE)
    net.head = timm_vgg.ClassifierHead(HIDDEN, CLASSES)
    return lively(net)


class mmpretrain_net(nn.Module):
    """mmpretrain's own layers in its own names; its class knows no widths."""

    def __init__(self, arch="B", norm=False):
        super().__init__()
        layers, channels = [], 3
        for stage in table(arch):
            norm_cfg = dict(type="BN") if norm else None
            make = mmpretrain_backbones.vgg.make_vgg_layer
            layers += make(channels, stage[0], len(stage) - 1, norm_cfg=norm_cfg)
            channels = stage[0]
        self.backbone = nn.Module()
        self.backbone.features = nn.Sequential(*layers)
        self.backbone.classifier = torchvision_net().classifier
        lively(self)

    def forward(self, x):
        return self.backbone.classifier(self.backbone.features(x).flatten(1))


def our_net(arch, **kwargs):
    backbone = VGG(arch, width=WIDTH, **kwargs)
    head = VGGHead(CLASSES, in_channels=8 * WIDTH, channels=HIDDEN, kernel_size=SIDE)
    return nn.ModuleDict(dict(backbone=backbone, head=head)).eval()


@torch.no_grad()
def our_logits(checkpoint, pixels):
    """The converted net's, on the pixels minus the mean that the checkpoint notes."""
    state = checkpoint["state_dict"]
    norm = dict(type="BN") if "backbone.bn1_1.weight" in state else None
    net = our_net(checkpoint["meta"]["arch"], norm_cfg=norm)
    net.load_state_dict(state)
    given = Input(**checkpoint["meta"]["input"])
    assert (given.order, given.top, given.std) == ("RGB", 255, (1, 1, 1))
    return net["head"](net["backbone"](prepared(pixels, given)))


def close(a, b):
    return (a - b).abs().max() <= 1e-4 * b.abs().max()


STATE_DICTS = {
    "torchvision": (torchvision_net, "A"),
    "torchvision_bn": (lambda: torchvision_net("B", norm=True), "B"),
    "timm": (timm_net, "D"),
    "timm_bn": (lambda: timm_net("A", norm=True), "A"),
    "mmpretrain": (mmpretrain_net, "B"),
    "mmpretrain_bn": (lambda: mmpretrain_net("E", norm=True), "E"),
}


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
@pytest.mark.parametrize("name", STATE_DICTS)
@torch.no_grad()
def test_state_dicts(name, ending, tmp_path):
    build, arch = STATE_DICTS[name]
    net, path = build(), tmp_path / f"net.{ending}"
    if ending == "pth":
        torch.save({"state_dict": net.state_dict(), "meta": {}}, path)
    else:
        safetensors.torch.save_file(net.state_dict(), path)
    checkpoint = convert(path, arch)
    assert checkpoint["meta"]["source"]["kind"] == name.partition("_")[0]
    want = net(prepared(image(), TORCHVISION))
    assert close(our_logits(checkpoint, image()), want)
    assert not close(our_logits(checkpoint, image().flip(1)), want)


# Caffe's protobuf, by hand.


def varint(value):
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def field(number, value):
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def old_blob(array):
    sides = [1] * (4 - array.ndim) + [*array.shape]
    return b"".join(field(i, n) for i, n in enumerate(sides, 1)) + field(5, array.tobytes())


def new_blob(array):
    return field(7, field(1, b"".join(map(varint, array.shape)))) + field(5, array.tobytes())


def caffemodel(layers, old):
    number, name, kind, blobs = (2, 4, 5, 6) if old else (100, 1, 2, 7)
    blob = old_blob if old else new_blob
    out = field(1, b"VGG") + field(number, field(name, b"data"))
    for key, arrays in layers.items():
        message = field(name, key.encode()) + field(kind, 4 if old else b"Convolution")
        message += varint(9 << 3 | 5) + struct.pack("<f", 1.0)
        out += field(number, message + b"".join(field(blobs, blob(a)) for a in arrays))
    return out


def caffe_layers(arch):
    """Weights as Caffe holds them: OIHW for BGR, InnerProduct (out, in)."""
    net = torchvision_net(arch)
    state = {name: value.numpy() for name, value in net.state_dict().items()}
    names = conv_names("torchvision", arch) | fc_names("torchvision")
    layers = {key.partition(".")[0]: [] for key in names}
    for ours, theirs in names.items():
        layers[ours.partition(".")[0]].append(state[theirs])
    return net, layers


@pytest.mark.parametrize("old", [True, False])
@torch.no_grad()
def test_caffe(old, tmp_path):
    net, layers = caffe_layers("D")
    path = tmp_path / "net.caffemodel"
    path.write_bytes(caffemodel(layers, old))
    bgr = image().flip(1) - torch.tensor([103.939, 116.779, 123.68])[:, None, None]
    checkpoint = convert(path, "D")
    assert checkpoint["meta"]["input"]["mean"] == (123.68, 116.779, 103.939)
    assert close(our_logits(checkpoint, image()), net(bgr))
    # The order alone was folded: to the last bit.
    weight = torch.from_numpy(layers["conv1_1"][0]).flip(1)
    assert checkpoint["state_dict"]["backbone.conv1_1.weight"].equal(weight)


# Keras.


def keras_layers(arch):
    """Kernels as Keras holds them: HWIO, dense (in, out)."""
    rng = np.random.default_rng(0)
    layers, channels = {}, 3
    for s, stage in enumerate(stages(arch, WIDTH), 1):
        for i, layer in enumerate(stage, 1):
            shape = (layer.kernel, layer.kernel, channels, layer.channels)
            layers[f"block{s}_conv{i}"] = shape
            channels = layer.channels
    layers["fc1"] = (channels * SIDE**2, HIDDEN)
    layers["fc2"], layers["predictions"] = (HIDDEN, HIDDEN), (HIDDEN, CLASSES)
    return {
        name: (
            np.float32(rng.normal(0, (2 / np.prod(shape[:-1])) ** 0.5, shape)),
            np.float32(rng.normal(0, 0.3, shape[-1])),
        )
        for name, shape in layers.items()
    }


def keras_forward(layers, x):
    """x (1, H, W, 3) through layers of HWIO kernels and a row-wise flattened map."""
    stage = "1"
    for name, (kernel, bias) in layers.items():
        kernel, bias = torch.from_numpy(kernel).double(), torch.from_numpy(bias).double()
        if name.startswith("block"):
            if name[5] != stage:
                x, stage = x.unflatten(1, (-1, 2)).unflatten(3, (-1, 2)).amax((2, 4)), name[5]
            height, width = x.shape[1:3]
            padded = F.pad(x, (0, 0, 1, 1, 1, 1))
            x = sum(
                padded[:, i : i + height, j : j + width] @ kernel[i, j]
                for i in range(3)
                for j in range(3)
            )
            x = (x + bias).relu()
            continue
        if name == "fc1":
            x = x.unflatten(1, (-1, 2)).unflatten(3, (-1, 2)).amax((2, 4)).flatten(1)
        x = x @ kernel + bias
        x = x if name == "predictions" else x.relu()
    return x.float()


def write_keras(path, layers, form):
    counts = {}
    with h5py.File(path, "w") as file:
        for name, arrays in layers.items():
            kind = "conv2d" if name.startswith("block") else "dense"
            n = counts[kind] = counts.get(kind, 7) + 1
            paths = {
                "keras1": [f"{name}/{name}_W_1:0", f"{name}/{name}_b_1:0"],
                "keras2": [f"{name}/{name}/kernel:0", f"{name}/{name}/bias:0"],
                "model": [f"model_weights/{name}/vgg16/{name}/{x}" for x in ("kernel", "bias")],
                "counted": [f"layers/{kind}_{n}/vars/{i}" for i in (0, 1)],
            }[form]
            for key, array in zip(paths, arrays, strict=True):
                file[key] = array
        file["optimizer_weights/iteration"] = np.int64(3)


@pytest.mark.parametrize("form", ["keras1", "keras2", "model", "counted"])
@torch.no_grad()
def test_keras(form, tmp_path):
    layers = keras_layers("E")
    write_keras(tmp_path / "net.h5", layers, form)
    checkpoint = convert(tmp_path / "net.h5", "E")
    bgr = image().flip(1).permute(0, 2, 3, 1).double() - torch.tensor([103.939, 116.779, 123.68])
    assert close(our_logits(checkpoint, image()), keras_forward(layers, bgr))
    features = convert(tmp_path / "net.h5", "E", features_only=True)["state_dict"]
    assert features.keys() == {k for k in checkpoint["state_dict"] if k.startswith("backbone.")}


# ONNX.


def onnx_graph(net, path, **kwargs):
    """``net`` as torch's older exporter writes it, which wants no further library."""
    torch.onnx.export(net, (prepared(image(), TORCHVISION),), path, dynamo=False, **kwargs)
    return onnx.load(path)


def to_matmul(model):
    """Gemms as MatMul and Add with (in, out) weights, as TensorFlow's exporters have them."""
    nodes = []
    known = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type != "Gemm":
            nodes.append(node)
            continue
        x, weight, bias = node.input
        array = numpy_helper.to_array(known[weight]).T.copy()
        known[weight].CopyFrom(numpy_helper.from_array(array, weight))
        nodes.append(helper.make_node("MatMul", [x, weight], [f"{x}_product"]))
        nodes.append(helper.make_node("Add", [f"{x}_product", bias], node.output))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", ["gemm", "matmul", "beside", "conv"])
@torch.no_grad()
def test_onnx(form, tmp_path):
    path, arch = tmp_path / "net.onnx", "D" if form == "conv" else "A"
    net = timm_net() if form == "conv" else torchvision_net()
    model = onnx_graph(net, path)
    if form == "matmul":
        onnx.save(to_matmul(model), path)
    if form == "beside":
        onnx.save(model, path, save_as_external_data=True, location="net.onnx.data")
        assert path.stat().st_size < 20_000
    with pytest.raises(UserError, match="does not say what its input is: --input torchvision"):
        convert(path, arch)
    checkpoint = convert(path, arch, trained_on=TORCHVISION)
    assert close(our_logits(checkpoint, image()), net(prepared(image(), TORCHVISION)))


@pytest.mark.filterwarnings("ignore")
@torch.no_grad()
def test_onnx_without_a_classifier(tmp_path):
    net = torchvision_net()
    onnx_graph(net.features, tmp_path / "net.onnx")
    with pytest.raises(UserError, match="lacks fc6.weight .*--features-only"):
        convert(tmp_path / "net.onnx", "A", trained_on=TORCHVISION)
    state = convert(tmp_path / "net.onnx", "A", True, trained_on=TORCHVISION)["state_dict"]
    backbone = our_net("A")["backbone"]
    backbone.load_state_dict({name.partition(".")[2]: value for name, value in state.items()})
    pixels = prepared(image(), Input("RGB", 255, TORCHVISION_MEAN, (1, 1, 1)))
    assert close(backbone(pixels)[0], net.features(prepared(image(), TORCHVISION)))


TORCHVISION_MEAN = INPUTS["torchvision"].mean


def another(model, op, change):
    """The graph with its first node of ``op`` changed."""
    node = next(node for node in model.graph.node if node.op_type == op)
    change(node)
    return model


def attribute(name, value):
    def change(node):
        del [a for a in [*node.attribute] if a.name == name and node.attribute.remove(a)][:]
        node.attribute.append(helper.make_attribute(name, value))

    return change


def renamed(op):
    return lambda node: setattr(node, "op_type", op)


@pytest.mark.filterwarnings("ignore")
def test_onnx_files_that_are_no_vgg(tmp_path):
    path = tmp_path / "net.onnx"
    whole = onnx_graph(torchvision_net(), path).SerializeToString()
    cases = {
        r"\(MaxPool\) is not a 2x2 pool": ("MaxPool", attribute("strides", [1, 1])),
        r"\(Conv\) has dilations \[2, 2\]": ("Conv", attribute("dilations", [2, 2])),
        r"\(Conv\) has group 3": ("Conv", attribute("group", 3)),
        r"\(Conv\) has pads": ("Conv", attribute("pads", [0, 0, 1, 1])),
        r"\(Gemm\) has transA or .*'alpha': 2.0": ("Gemm", attribute("alpha", 2.0)),
        r"\(Sigmoid\) is no part of a VGG": ("Relu", renamed("Sigmoid")),
        r"\(Transpose\) is no part of a VGG": ("Flatten", renamed("Transpose")),
        r"after 0 layers with weights comes MaxPool, not layer": ("Conv", renamed("MaxPool")),
        r"\(Conv\) has weights that another": ("Conv", lambda n: n.input.__setitem__(2, "x")),
    }
    cases.popitem()
    cases.pop(r"after 0 layers with weights comes MaxPool, not layer")
    for message, (op, change) in cases.items():
        model = onnx.ModelProto.FromString(whole)
        onnx.save(another(model, op, change), path)
        with pytest.raises(UserError, match=message):
            convert(path, "A", trained_on=TORCHVISION)
    model = onnx.ModelProto.FromString(whole)
    first, second = [node for node in model.graph.node if node.op_type == "Conv"][2:4]
    second.input[1] = first.input[1]
    onnx.save(model, path)
    with pytest.raises(UserError, match=r"\(Conv\) has weights that another layer has too"):
        convert(path, "A", trained_on=TORCHVISION)
    path.write_bytes(whole)
    with pytest.raises(UserError, match="is not net B: after 1 layers with weights comes MaxPool"):
        convert(path, "B", trained_on=TORCHVISION)
