"""Weights from other libraries: the same logits, on this project's input."""

import sys

import onnx
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from onnx import helper, numpy_helper
from small_nets import (
    TORCHVISION,
    caffe_layers,
    caffemodel,
    close,
    image,
    keras_layers,
    mmpretrain_net,
    onnx_graph,
    our_logits,
    our_net,
    prepared,
    timm_net,
    torchvision_net,
    write_keras,
)

from tools.weights.convert import convert, refold, report
from vgg_mm.errors import UserError
from vgg_mm.inputs import INPUTS, Input

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
        onnx.save(model, path, save_as_external_data=True, location="weights.bin")
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


def test_a_library_that_is_not_installed(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "h5py", None)
    (tmp_path / "net.h5").touch()
    with pytest.raises(UserError, match=r"\.h5 needs h5py: pip install 'vgg_mm\[weights\]'"):
        convert(tmp_path / "net.h5", "A")


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


@pytest.mark.parametrize("length", range(1152, 1160))
def test_a_safetensors_file_is_one_whatever_its_headers_length(length, tmp_path):
    """Its first byte is the length's lowest: of 1152, a pickle's first."""
    path = tmp_path / "net.safetensors"
    safetensors.torch.save_file(torchvision_net("A").state_dict(), path)
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    longer = 256 * (size // 256 + 1) + length % 256
    path.write_bytes(
        longer.to_bytes(8, "little") + data[8 : 8 + size].ljust(longer) + data[8 + size :]
    )
    assert len(convert(path, "A")["state_dict"]) == 22
