"""Weights from other libraries and back, and files that are none."""

import json
import pickle
import runpy
import struct
import sys
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

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
from mmengine.model import BaseModule
from mmpretrain.registry import MODELS
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torchvision.models.vgg import VGG as TorchvisionVGG
from torchvision.models.vgg import make_layers

from vgg_mm.errors import UserError
from vgg_mm.models import VGG, VGGFC, VGGHead
from vgg_mm.paper import stages
from vgg_mm.weights.convert import convert, report
from vgg_mm.weights.files import local, save
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
        if not value.is_floating_point():
            value.zero_()
        else:
            fan = value[0].numel() if value.dim() > 1 else 25
            value.normal_(0, (2 / fan) ** 0.5, generator=generator)
        if name.endswith("running_var") or (name.endswith("weight") and value.dim() == 1):
            value.abs_().add_(1)
    return net.eval()


def table(arch):
    return [[layer.channels for layer in s if layer.kernel] + ["M"] for s in stages(arch, WIDTH)]


def torchvision_net(arch="A", norm=False):
    with torch.device("meta"):  # its FC layers are of full size
        net = TorchvisionVGG(nn.Identity(), init_weights=False)
    net.features = make_layers(sum(table(arch), []), norm)
    net.avgpool = nn.Identity()
    net.classifier[0] = nn.Linear(8 * WIDTH * SIDE**2, HIDDEN)
    net.classifier[3] = nn.Linear(HIDDEN, HIDDEN)
    net.classifier[6] = nn.Linear(HIDDEN, CLASSES)
    return lively(net)


def timm_net(arch="D", norm=False):
    norm_layer = nn.BatchNorm2d if norm else None
    with torch.device("meta"):  # its FC layers are of full size
        net = timm_vgg.VGG(sum(table(arch), []), norm_layer=norm_layer)
    net.features.to_empty(device="cpu")
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
    pixels = prepared(image(), Input("RGB", 255, INPUTS["torchvision"].mean, (1, 1, 1)))
    assert close(backbone(pixels)[0], net.features(prepared(image(), TORCHVISION)))


def attribute(name, value):
    def change(node):
        kept = [a for a in node.attribute if a.name != name]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute(name, value)])

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
        r"\(BatchNormalization\) is no part of a VGG": ("Relu", renamed("BatchNormalization")),
    }
    for message, (op, change) in cases.items():
        model = onnx.ModelProto.FromString(whole)
        change(next(node for node in model.graph.node if node.op_type == op))
        onnx.save(model, path)
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


# Weights out.

CONFIG = """
_base_ = {base!r}
model = dict(
    backbone=dict(arch={arch!r}, width={width}, norm_cfg={norm}),
    head=dict(num_classes={classes}, in_channels={channels}, channels={hidden}, kernel_size={side}),
    data_preprocessor={preprocessor},
)
"""


@pytest.fixture
def tool(monkeypatch, capsys):
    def call(name, *args):
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, args)])
        runpy.run_path(str(ROOT / f"tools/{name}.py"), run_name="__main__")
        return capsys.readouterr().out

    return call


def trained(folder, arch, norm=None, preprocessor="dict()"):
    """A config, a checkpoint for it, and its model with these weights."""
    config, path = folder / "config.py", folder / "trained.pth"
    values = dict(classes=CLASSES, channels=8 * WIDTH, hidden=HIDDEN, side=SIDE, width=WIDTH)
    base = str(ROOT / "configs/_base_/S_256.py")
    values |= dict(base=base, arch=arch, norm=norm, preprocessor=preprocessor)
    config.write_text(CONFIG.format(**values))
    model = lively(MODELS.build(Config.fromfile(config).model))
    torch.save({"state_dict": model.state_dict(), "meta": {}}, path)
    return config, path, model


@pytest.mark.parametrize(
    "to, arch, ending, norm",
    [
        ("torchvision", "A", "pth", dict(type="BN")),
        ("timm", "E", "safetensors", None),
        ("mmpretrain", "D", "pth", dict(type="BN")),
    ],
)
def test_round_trips(to, arch, ending, norm, tool, tmp_path):
    config, path, model = trained(tmp_path, arch, norm)
    out, back = tmp_path / f"out.{ending}", tmp_path / "back.pth"
    says = tool("export", config, path, out, "--to", to)
    mean = "(123.68, 116.779, 103.939)"
    assert f"RGB from 0 to 255, minus a mean and divided by: {mean}, (58.395, 57.12" in says
    build = dict(torchvision=torchvision_net, timm=timm_net, mmpretrain=mmpretrain_net)[to]
    theirs = build(arch, norm=bool(norm))
    theirs.load_state_dict(
        torch.load(out, weights_only=True) if ending == "pth" else safetensors.torch.load_file(out)
    )
    usual = Input("RGB", 255, (123.68, 116.779, 103.939), (58.395, 57.12, 57.375))
    with torch.no_grad():
        ours = model(prepared(image(), INPUTS["vgg_mm"]), mode="tensor")
        assert close(theirs(prepared(image(), usual)), ours)
    says = tool("convert_weights", out, back, "--to-arch", arch)
    assert f"data_preprocessor=dict(mean={list(INPUTS['torchvision'].mean)}" in says
    state = torch.load(back, weights_only=True)["state_dict"]
    assert state.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        if name == "backbone.conv1_1.weight":
            assert (state[name] - value).abs().max() <= 1e-6 * value.abs().max()
        else:
            assert state[name].equal(value), name
    for args in (["export", config, back, out, "--to", to], ["test", config, back]):
        with pytest.raises(
            SystemExit, match="back.pth is for another input .*mean=.123.675, 116.2"
        ):
            tool(*args)


def test_a_library_that_is_not_installed(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "h5py", None)
    (tmp_path / "net.h5").touch()
    with pytest.raises(UserError, match=r"\.h5 needs h5py: pip install 'vgg_mm\[weights\]'"):
        convert(tmp_path / "net.h5", "A")


@torch.no_grad()
def test_onnx_round_trip(tool, tmp_path):
    config, path, model = trained(tmp_path, "A-LRN", preprocessor="dict(std=[60, 60, 60])")
    out, back = tmp_path / "out.onnx", tmp_path / "back.pth"
    says = tool("export", config, path, out, "--to", "onnx")
    assert "onnxruntime's scores are torch's within" in says
    assert [file.name for file in tmp_path.iterdir() if "onnx" in file.name] == ["out.onnx"]
    dims = onnx.load(out).graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param != "" for dim in dims] == [True, False, True, True]
    tool("convert_weights", out, back, "--to-arch", "A-LRN")
    saved = torch.load(back, weights_only=True)
    for name, value in model.state_dict().items():
        if name == "backbone.conv1_1.weight":
            assert (state_60 := saved["state_dict"][name] * 60).allclose(value, rtol=1e-6, atol=0)
            assert not state_60.allclose(value * 60)
        else:
            assert saved["state_dict"][name].equal(value), name
    given = prepared(image(), Input("RGB", 255, (123.68, 116.779, 103.939), (60, 60, 60)))
    assert close(our_logits(saved, image()), model(given, mode="tensor"))


@pytest.mark.filterwarnings("ignore")
def test_an_export_that_differs_is_not_kept(monkeypatch, tool, tmp_path):
    class Program:
        model = SimpleNamespace(metadata_props={})

        def save(self, path, external_data):
            features = torchvision_net("A").features
            with torch.no_grad():
                features[0].bias += error
            dynamic = dict(input_names=["image"], dynamic_axes={"image": [0, 2, 3]})
            onnx_graph(features, path, **dynamic)

    error = 0.1
    config, path, _ = trained(tmp_path, "A")  # of the same weights
    out = tmp_path / "out.onnx"
    out.write_text("an older export")
    original = torch.onnx.export

    def export(*args, **kwargs):
        return Program() if kwargs["dynamo"] else original(*args, **kwargs)

    monkeypatch.setattr(torch.onnx, "export", export)
    with pytest.raises(SystemExit, match="out.onnx was not written: onnxruntime's scores differ"):
        tool("export", config, path, out, "--to", "onnx", "--features-only")
    assert out.read_text() == "an older export"
    assert {file.name for file in tmp_path.iterdir()} == {"config.py", "trained.pth", "out.onnx"}
    error = 0.0
    tool("export", config, path, out, "--to", "onnx", "--features-only")
    assert len(onnx.load(out).graph.initializer) == 16


def test_exports_without_a_classifier_and_of_nets_that_others_lack(tool, tmp_path):
    config, path, model = trained(tmp_path, "A")
    out = tmp_path / "out.safetensors"
    tool("export", config, path, out, "--to", "timm", "--features-only")
    state = safetensors.torch.load_file(out)
    assert state.keys() == {f"features.{name}" for name in timm_net("A").features.state_dict()}
    config, path, _ = trained(tmp_path, "C")
    with pytest.raises(SystemExit, match="timm has no net C: use --to onnx"):
        tool("export", config, path, out, "--to", "timm")


def test_the_mean_is_never_folded():
    """Scale and order are exact up to the border; a mean would not be, for zeros are its colour."""
    bgr = Input("BGR", 1, (0.4, 0.5, 0.6), (0.1, 0.2, 0.3))
    ours = Input("RGB", 255, tuple(bgr.mean_rgb), (1, 1, 1))
    assert bgr.mean_rgb == [153.0, 127.5, 102.0]
    weight = torch.randn(4, 3, 3, 3)
    want = F.conv2d(prepared(image(), bgr), weight, padding=1)
    have = F.conv2d(prepared(image(), ours), refold(weight, bgr, ours), padding=1)
    assert torch.allclose(have, want, rtol=1e-4, atol=1e-4)
    assert torch.allclose(refold(refold(weight, bgr, ours), ours, bgr), weight, rtol=1e-6, atol=0)


def test_report(tmp_path):
    torch.save(torchvision_net("A").state_dict(), tmp_path / "net.pth")
    lines = report(convert(tmp_path / "net.pth", "A")).splitlines()
    assert lines[0] == "net.pth (torchvision):"
    assert lines[1].split() == ["conv1_1", "features.0.weight", "[4,", "3,", "3,", "3]"]
    assert lines[11].split() == ["fc8", "classifier.6.weight", "[5,", "24,", "1,", "1]"]
    assert lines[12] == "conv1_1.weight times 0.0171248, 0.017507, 0.0174292 for R, G, B."
    assert lines[13].endswith(
        'model = dict(backbone=dict(arch="A", width=4), head=dict(num_classes=5, in_channels=32, '
        "channels=24, kernel_size=2), "
        "data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[1, 1, 1]))"
    )


# Pretrained.


class Detector(BaseModule):
    """A VGG among weights that are not its."""

    def __init__(self, init_cfg=None, **kwargs):
        super().__init__(init_cfg)
        self.backbone = VGG("A", width=WIDTH, **kwargs)
        self.neck = nn.Conv2d(3, 3, 1)


def pretrained(path, **kwargs):
    return dict(type="Pretrained", checkpoint=str(path), **kwargs)


def assert_same(ours, theirs, names):
    for key, value in ours.state_dict().items():
        assert value.equal(theirs[names[key]].view_as(value)), key


@pytest.fixture
def net_a(tmp_path):
    net = torchvision_net("A")
    torch.save(net.state_dict(), tmp_path / "net.pth")
    names = conv_names("torchvision", "A") | fc_names("torchvision")
    return tmp_path / "net.pth", net.state_dict(), names


def classifier(init_cfg, classes=CLASSES, **kwargs):
    head = dict(in_channels=8 * WIDTH, channels=HIDDEN, kernel_size=SIDE, num_classes=classes)
    backbone = dict(type="vgg_mm.VGG", arch="A", width=WIDTH)
    head = dict(type="vgg_mm.VGGHead", **head)
    return MODELS.build(
        dict(type="ImageClassifier", backbone=backbone, head=head, init_cfg=init_cfg, **kwargs)
    )


def test_pretrained_takes_foreign_files_as_they_are(net_a, monkeypatch):
    path, theirs, names = net_a
    backbone = VGG("A", width=WIDTH, out_indices=("conv4_1",), init_cfg=pretrained(path))
    fcs = VGGFC(8 * WIDTH, HIDDEN, SIDE, init_cfg=pretrained(path))
    whole = classifier(pretrained(path))
    for module in (backbone, fcs, whole):
        module.init_weights()
    assert_same(backbone, theirs, names)
    assert_same(fcs, theirs, names)
    assert_same(whole.backbone, theirs, names)
    assert_same(whole.head, theirs, names)
    other = classifier(pretrained(path), classes=3)
    lines = []
    monkeypatch.setattr(
        "vgg_mm.models.pretrained.print_log", lambda text, *_, **__: lines.append(text)
    )
    other.init_weights()
    assert f"fc8 starts new, for {path} has 5 classes." in lines
    assert "order='RGB', top=255, mean=(123.675, 116.28, 103.53)" in lines[-1]
    assert_same(other.backbone, theirs, names)
    assert other.head.fc7.weight.flatten(1).equal(theirs["classifier.3.weight"])
    with pytest.raises(UserError, match=r"features.0.weight \(conv1_1.weight\) is \[4, 3, 3, 3\]"):
        VGG("A", width=8, init_cfg=pretrained(path)).init_weights()
    with pytest.raises(UserError, match=r"lacks conv1_2.weight \(features.2.weight\).* 24 more"):
        VGG("E", width=WIDTH, init_cfg=pretrained(path)).init_weights()


def test_pretrained_takes_converted_and_other_formats(net_a, tmp_path):
    path, theirs, names = net_a
    save(convert(path, "A"), tmp_path / "ours.pth")
    ours = torch.load(tmp_path / "ours.pth")["state_dict"]
    module = classifier(pretrained(tmp_path / "ours.pth"))
    module.init_weights()
    assert all(value.equal(ours[name]) for name, value in module.state_dict().items())
    backbone = VGG("A", width=WIDTH, init_cfg=pretrained(tmp_path / "ours.pth", prefix="backbone"))
    backbone.init_weights()
    assert_same(backbone, ours, {name: f"backbone.{name}" for name in names})
    _, layers = caffe_layers("A")
    (tmp_path / "net.caffemodel").write_bytes(caffemodel(layers, old=True))
    whole = classifier(pretrained(tmp_path / "net.caffemodel"))
    whole.init_weights()
    assert_same(whole.backbone, theirs, names)
    assert_same(whole.head, theirs, names)


WHO = ("student", "teacher")


def test_pretrained_in_a_detector(net_a, tmp_path):
    path, theirs, names = net_a
    detector = Detector(init_cfg=pretrained(path))
    neck = detector.neck.weight.clone()
    detector.init_weights()
    assert_same(detector.backbone, theirs, names)
    assert detector.neck.weight.equal(neck)
    saved = {name: torch.ones_like(value) for name, value in detector.state_dict().items()}
    torch.save(dict(state_dict=saved), path)
    detector = Detector(init_cfg=pretrained(path))
    detector.init_weights()
    assert all(value.eq(1).all() for value in detector.state_dict().values())
    two = [{f"{who}.{name}": value for name, value in theirs.items()} for who in WHO]
    torch.save(two[0] | two[1], path)
    with pytest.raises(UserError, match="it holds student.features.0.weight and teacher"):
        VGG("A", width=WIDTH, init_cfg=pretrained(path)).init_weights()
    backbone = VGG("A", width=WIDTH, init_cfg=pretrained(path, prefix="teacher."))
    backbone.init_weights()
    assert_same(backbone, theirs, names)


def test_pretrained_elsewhere_is_mmengines(tmp_path):
    class Plain(BaseModule):
        def __init__(self, init_cfg):
            super().__init__(init_cfg)
            self.conv = nn.Conv2d(1, 1, 1)

    torch.save({"conv.weight": torch.ones(1, 1, 1, 1)}, tmp_path / "net.pth")
    net = Plain(pretrained(tmp_path / "net.pth"))
    net.init_weights()
    assert net.conv.weight.item() == 1


def test_urls_are_cached_and_never_run(net_a, tmp_path, monkeypatch):
    path, theirs, names = net_a
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    (tmp_path / "evil.pth").write_bytes(evil(tmp_path))
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path)
    handler.log_message = lambda *args: None
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        backbone = VGG("A", width=WIDTH, init_cfg=pretrained(f"{url}/net.pth"))
        backbone.init_weights()
        assert_same(backbone, theirs, names)
        with pytest.raises(UserError, match="evil.pth is not a checkpoint that loads safely"):
            classifier(pretrained(f"{url}/evil.pth")).init_weights()
        with pytest.raises(UserError, match="none.pth could not be downloaded: HTTP Error 404"):
            local(f"{url}/none.pth")
        server.shutdown()
    assert not (tmp_path / "ran").exists()
    assert local(f"{url}/net.pth").read_bytes() == path.read_bytes()


def test_torchvisions_names(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub/checkpoints"
    folder.mkdir(parents=True)
    for name in ("vgg16-397923af.pth", "vgg16_features-amdegroot-88682ab5.pth"):
        (folder / name).touch()
    assert local("torchvision://vgg16").name == "vgg16-397923af.pth"
    assert "amdegroot" in local("torchvision://vgg16.IMAGENET1K_FEATURES").name
    with pytest.raises(UserError, match="vgg17.*Did you mean 'vgg1"):
        local("torchvision://vgg17")
    with pytest.raises(UserError, match="vgg16 has the weights imagenet1k_v1"):
        local("torchvision://vgg16.v2")


# Files that are refused.


def evil(folder):
    class Run:
        def __reduce__(self):
            return Path.touch, (folder / "ran",)

    return pickle.dumps({"state_dict": {"features.0.weight": Run()}})


def test_incomplete_and_ambiguous_sources(tmp_path):
    path = tmp_path / "net.pth"
    state = torchvision_net("D").state_dict()

    def refused(change, message, arch="D", **kwargs):
        changed = dict(state)
        change(changed)
        torch.save(changed, path)
        with pytest.raises(UserError, match=message):
            convert(path, arch, **kwargs)

    def nothing(state):
        return None

    refused(nothing, "is not net E.*It fits --to-arch D", arch="E")
    refused(
        lambda s: s.pop("classifier.6.bias"), r"lacks fc8.bias \(classifier.6.bias\).*--features"
    )
    refused(lambda s: s.pop("features.14.bias"), r"lacks conv3_3.bias \(features.14.bias\)")
    refused(lambda s: s.update({"features.30.weight": torch.ones(1)}), "also holds features.30.we")
    refused(lambda s: s.update({"classifier.9.weight": torch.ones(1)}), "also holds classifier.9")
    refused(
        lambda s: s.update({"classifier.0.weight": torch.full((24, 128), torch.nan)}),
        "fc6.weight. holds NaN",
    )
    convert(path, "D", features_only=True)
    refused(lambda s: s.update({"classifier.0.weight": torch.ones(24, 100)}), "no square map of 32")
    refused(lambda s: s.update({"classifier.0.weight": torch.ones(24)}), "fc6.weight. is")
    refused(lambda s: s.update({"classifier.0.bias": torch.tensor(1.0)}), "is .*, not .1, 32")
    refused(
        lambda s: s.update({"classifier.3.bias": torch.tensor(1.0)}), "fc7.bias. is .., not .24"
    )
    refused(lambda s: s.update({"features.0.weight": torch.tensor(1.0)}), "conv1_1.weight. is")
    refused(lambda s: s.update({"features.0.bias": torch.ones(4).int()}), "int32, no floats")
    refused(lambda s: s.update({"conv1_1.weight": torch.ones(4)}), "ambiguous: it holds conv1_1")
    refused(lambda s: s.clear(), "its names are not a VGG's")
    refused(lambda s: s.update(state_dict=3), "its state_dict is int")
    bad = dict(order="RGB", top=1, mean=(1, 2), std=(1, 1, 1))
    refused(lambda s: s.update(state_dict=state, meta=dict(input=bad)), "is no input of a net")
    refused(lambda s: s.update(state_dict=state, meta=dict(input=[3])), "note of its input is none")
    with pytest.raises(UserError, match="no file .*none.pth"):
        convert(tmp_path / "none.pth", "D")
    assert Input.parse("BGR 1 1 2 3 4 5 6".split()) == Input("BGR", 1, (1, 2, 3), (4, 5, 6))
    for words in (["GRB"], "BGR 1 1 2 3 4 5".split(), "BGR 1 1 2 3 0 5 6".split(), ["BGR", "x"]):
        with pytest.raises(UserError, match="is no input: give torchvision, caffe, vgg_mm, or"):
            Input.parse(words)


def test_forged_checkpoints(tmp_path):
    path = tmp_path / "net.pth"
    path.write_bytes(evil(tmp_path))
    with pytest.raises(UserError, match="not a checkpoint that loads safely"):
        convert(path, "A")
    assert not (tmp_path / "ran").exists()
    state = torchvision_net("A").state_dict()
    huge = torch.zeros(1).expand(10**6, 10**6)
    torch.save({**state, "classifier.0.weight": huge}, path)
    with pytest.raises(UserError, match="claim more bytes than it has"):
        convert(path, "A")
    torch.save({**state, "features.0.weight": torch.empty(4, 3, 3, 3, device="meta")}, path)
    with pytest.raises(UserError, match="its names are not a VGG's|lacks conv1_1.weight"):
        convert(path, "A")
    torch.save(state, path)
    with zipfile.ZipFile(path) as plain, zipfile.ZipFile(tmp_path / "b.pth", "w", 8) as packed:
        for entry in plain.infolist():
            packed.writestr(entry.filename, plain.read(entry))
    with pytest.raises(
        UserError, match="b.pth is not a checkpoint that loads safely: .*compressed"
    ):
        convert(tmp_path / "b.pth", "A")


def test_forged_safetensors(tmp_path):
    header = {"features.0.weight": dict(dtype="F32", shape=[1 << 40], data_offsets=[0, 1 << 42])}
    text = json.dumps(header).encode()
    for size in (len(text), 1 << 60):
        (tmp_path / "net.safetensors").write_bytes(struct.pack("<Q", size) + text)
        with pytest.raises(UserError, match="is damaged, or no safetensors file"):
            convert(tmp_path / "net.safetensors", "A")


def test_forged_caffemodels(tmp_path):
    path = tmp_path / "net.caffemodel"
    _, layers = caffe_layers("A")
    whole = caffemodel(layers, old=False)
    blob = field(7, field(1, varint(1 << 40) * 2)) + field(5, b"\0" * 8)
    cases = {
        "holds 2 numbers": field(100, field(1, b"conv1_1") + field(7, blob)),
        "two layers are called 'conv1_1'": whole + whole,
        "where 3 are left": field(1, b"VGG") + varint(100 << 3 | 2) + varint(1 << 50) + b"abc",
        "a number of more than 10 bytes": b"\xff" * 11,
        "ends inside a number": b"\xff",
        "unknown wire type 3": b"\x0b",
        "not packed": field(100, field(1, b"conv1_1") + field(7, varint(5 << 3 | 5) + b"\0" * 4)),
        "buffer size": field(100, field(1, b"conv1_1") + field(7, field(5, b"abc"))),
        "decode": field(100, field(1, b"\xff\xfe") + field(7, blob)),
    }
    for message, data in cases.items():
        path.write_bytes(data)
        with pytest.raises(UserError, match=f"net.caffemodel is damaged.*{message}"):
            convert(path, "A")
    layers.pop("conv2_1")
    path.write_bytes(caffemodel(layers, old=True))
    with pytest.raises(UserError, match="lacks conv2_1.weight"):
        convert(path, "A")


def test_forged_h5(tmp_path):
    path, secret = tmp_path / "net.h5", tmp_path / "secret"
    secret.write_bytes(b"\0" * 4096)
    make = h5py.Group.create_dataset
    cases = {
        "claims more than it is": dict(shape=(3, 3, 1 << 15, 1 << 15), dtype="f4"),
        "compressed, in chunks": dict(data=np.zeros((3, 3, 3, 64)), compression="gzip"),
        "in another file": dict(shape=(16,), dtype="f4", external=[(str(secret), 0, 64)]),
        "int64": dict(data=np.zeros(3, int)),
        r"float32\[2, 2, 2\]": dict(data=np.zeros((2, 2, 2), "f4")),
    }
    for message, kwargs in cases.items():
        with h5py.File(path, "w") as file:
            make(file, "block1_conv1/kernel", **kwargs)
        with pytest.raises(UserError, match=message):
            convert(path, "A")
    with h5py.File(path, "w") as file:
        layout = h5py.VirtualLayout((4, 4), "f4")
        layout[:] = h5py.VirtualSource(str(secret), "x", (4, 4))
        file.create_virtual_dataset("block1_conv1/kernel", layout)
    with pytest.raises(UserError, match="in another file"):
        convert(path, "A")
    for name, message in {
        "lstm/kernel": "no layer of a VGG",
        "fc1/kernel": "not a kernel and",
    }.items():
        with h5py.File(path, "w") as file:
            file[name] = np.zeros((2, 2), "f4")
        with pytest.raises(UserError, match=message):
            convert(path, "A")


@pytest.mark.filterwarnings("ignore")
def test_forged_onnx(tmp_path):
    path = tmp_path / "net.onnx"
    whole = onnx_graph(torchvision_net(), path).SerializeToString()

    def refused(message, change):
        model = onnx.ModelProto.FromString(whole)
        change({tensor.name: tensor for tensor in model.graph.initializer}["features.0.weight"])
        path.write_bytes(model.SerializeToString())
        with pytest.raises(UserError, match=message):
            convert(path, "A", trained_on=TORCHVISION)

    def external(**places):
        def change(tensor):
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in places.items():
                tensor.external_data.add(key=key, value=value)

        return change

    (tmp_path.parent / "secret").write_bytes(b"\0" * 4096)
    refused("claims .* more than the file holds", lambda t: t.dims.__setitem__(0, 1 << 40))
    refused("is damaged: ", lambda t: t.dims.__setitem__(0, 3))
    refused("is damaged|more than", lambda t: t.dims.__setitem__(0, -4))
    refused("no floats of", lambda t: setattr(t, "data_type", TensorProto.INT64))
    refused("which is another folder", external(location="../secret"))
    refused("which is another folder", external(location="/etc/passwd"))
    refused("is damaged: ", external(location="net.onnx", offset="0", length=str(1 << 40)))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("ending", ["pth", "safetensors", "caffemodel", "h5", "onnx"])
def test_damaged_files_are_named(ending, tmp_path):
    """Cut anywhere or with bytes changed: converted all the same, or a UserError with its name."""
    path = tmp_path / f"net.{ending}"
    net = torchvision_net("A")
    if ending == "pth":
        torch.save(net.state_dict(), path)
    elif ending == "safetensors":
        safetensors.torch.save_file(net.state_dict(), path)
    elif ending == "caffemodel":
        path.write_bytes(caffemodel(caffe_layers("A")[1], old=True))
    elif ending == "h5":
        write_keras(path, keras_layers("A"), "keras2")
    else:
        onnx_graph(net, path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for i in range(40):
        data = bytearray(whole)
        if i % 2:
            del data[int(len(whole) * rng.random() ** 4) :]
        else:  # what is not numbers stands at the ends
            for at in rng.integers(0, 3000, 8):
                data[at if i % 4 else -at - 1] = rng.integers(256)
        path.write_bytes(data)
        try:
            convert(path, "A", trained_on=TORCHVISION)
        except UserError as error:
            assert path.name in str(error), error
            refused += 1
    assert refused >= 20
