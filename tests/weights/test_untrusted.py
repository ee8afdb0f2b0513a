"""Files of weights that are damaged, forged or no VGG's: refused by name, and never run."""

import json
import struct
import zipfile
from copy import copy

import h5py
import numpy as np
import onnx
import pytest
import safetensors.torch
import torch
from onnx import TensorProto, helper, numpy_helper
from small_nets import (
    TORCHVISION,
    caffe_layers,
    caffemodel,
    evil,
    field,
    keras_layers,
    onnx_graph,
    torchvision_net,
    varint,
    write_keras,
)

from tools.weights.convert import convert
from tools.weights.convert_weights import parse_input
from vgg_mm.errors import UserError
from vgg_mm.inputs import Input


def attribute(name, value):
    def change(node):
        kept = [a for a in node.attribute if a.name != name]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute(name, value)])

    return change


def renamed(op, **attributes):
    def change(node):
        node.op_type = op
        for each in [each for each in node.attribute if each.name == "dilations"]:
            node.attribute.remove(each)  # which a MaxPool has and an AveragePool may not
        node.attribute.extend(helper.make_attribute(*item) for item in attributes.items())

    return change


@pytest.mark.filterwarnings("ignore")
def test_onnx_files_that_are_no_vgg(tmp_path):
    path = tmp_path / "net.onnx"
    whole = onnx_graph(torchvision_net(), path).SerializeToString()
    other = "computes something else than this net, from"
    cases = {
        r"is damaged|does not run": ("MaxPool", attribute("strides", [1, 1])),
        rf"{other} conv1_1 on": ("Conv", attribute("pads", [0, 0, 2, 2])),
        rf"{other} conv2_1 on": ("MaxPool", renamed("AveragePool")),
        rf"{other} conv2_1 on:": ("Relu", renamed("Identity")),
        rf"{other} fc6 on": ("Gemm", attribute("alpha", 2.0)),
        r"\(Sigmoid\) is no part of a VGG": ("Relu", renamed("Sigmoid")),
        rf"{other} conv2_1 on.?": ("Relu", renamed("LRN", size=5, bias=2.0)),
        r"\(Conv\) has pads": ("Conv", attribute("pads", [1 << 30] * 4)),
        r"\(Loop\) is no part of a VGG": ("Relu", renamed("Loop")),
    }
    for message, (op, change) in cases.items():
        model = onnx.ModelProto.FromString(whole)
        change(next(node for node in model.graph.node if node.op_type == op))
        onnx.save(model, path)
        with pytest.raises(UserError, match=message):
            convert(path, "A", trained_on=TORCHVISION)
    for pads in ([0, 0, 1 << 30, 1, 0, 0, 1, 1], [0] * 12):
        model = onnx.ModelProto.FromString(whole)
        first = next(node for node in model.graph.node if node.op_type == "Conv")
        pad = onnx.helper.make_node("Pad", [first.input[0], "pads"], ["padded"])
        first.input[0] = "padded"
        model.graph.node.insert(0, pad)
        model.graph.initializer.append(numpy_helper.from_array(np.array(pads), "pads"))
        onnx.save(model, path)
        with pytest.raises(UserError, match="padded .Pad. has pads that no VGG has"):
            convert(path, "A", trained_on=TORCHVISION)
    model = onnx.ModelProto.FromString(whole)
    first, second = [node for node in model.graph.node if node.op_type == "Conv"][2:4]
    second.input[1] = first.input[1]
    onnx.save(model, path)
    with pytest.raises(UserError, match="does not fit|is damaged|something else"):
        convert(path, "A", trained_on=TORCHVISION)
    path.write_bytes(whole)
    with pytest.raises(UserError, match="lacks conv5_1.weight .* It fits net A"):
        convert(path, "B", trained_on=TORCHVISION)


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

    def nested(changed, **kwargs):
        changed.clear()
        changed.update(state_dict=state, **kwargs)

    refused(nothing, "is not net E.*It fits net D", arch="E")
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
    bad = dict(order="RGB", top=1, mean=(1, 2), std=(1, 1, 1))
    refused(lambda s: nested(s, meta=dict(input=bad)), "net.pth: .* is no input")
    refused(lambda s: nested(s, meta=dict(input=[3])), "net.pth: its note of its")
    bad |= dict(top=10**400, mean=(1, 2, 3))
    refused(lambda s: nested(s, meta=dict(input=bad)), "net.pth: its note of its")
    with pytest.raises(UserError, match="no file .*none.pth"):
        convert(tmp_path / "none.pth", "D")
    assert parse_input("BGR 1 1 2 3 4 5 6".split()) == Input("BGR", 1, (1, 2, 3), (4, 5, 6))
    for words in (["GRB"], "BGR 1 1 2 3 4 5".split(), "BGR 1 1 2 3 0 5 6".split(), ["BGR", "x"]):
        with pytest.raises(UserError, match="is no input: give torchvision, caffe, vgg_mm, or"):
            parse_input(words)


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
    with zipfile.ZipFile(path, "a") as packed:  # one tensor's bytes under two names
        twin = copy(max(packed.infolist(), key=lambda entry: entry.file_size))
        twin.filename = "net/data/99"
        packed.writestr("net/data/98", b"")
        packed.filelist.append(twin)
    torch.load(path, weights_only=True)
    with pytest.raises(UserError, match="net.pth is not a checkpoint that loads safely"):
        convert(path, "A")


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
        "packed in one field": field(100, field(7, field(5, b"1234") * 2)),
        "has 5 axes": field(100, field(7, field(7, field(1, b"\1" * 5)))),
        "holds no numbers": field(100, field(7, b"")),
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
        f"dense_{'1' * 5000}/kernel": "no layer of a VGG",
        "fc1/kernel": "not a kernel and",
    }.items():
        with h5py.File(path, "w") as file:
            file[name] = np.zeros((2, 2), "f4")
        with pytest.raises(UserError, match=message):
            convert(path, "A")
    with h5py.File(path, "w") as file:
        file["fc1/bias"] = file["fc1/bias_too"] = np.zeros(2, "f4")
    with pytest.raises(UserError, match=r"fc1 has \[2\], \[2\], not a kernel and a bias"):
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
    refused("claims .* more than .*net.onnx holds", lambda t: t.dims.__setitem__(0, 1 << 40))
    refused("is damaged: ", lambda t: t.dims.__setitem__(0, 3))
    refused("sides are none of a VGG's", lambda t: t.dims.__setitem__(0, -4))
    refused("sides are none of a VGG's", lambda t: t.dims.extend([1] * 9))
    refused("is damaged: .*int64", lambda t: setattr(t, "data_type", TensorProto.INT64))
    refused("another folder", external(location="../secret"))
    refused("another folder", external(location="/etc/passwd"))
    refused("is damaged: .*No such file", external(location="none.data"))
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
