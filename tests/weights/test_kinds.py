"""Files as people have them: wrapped, renamed, with other heads, in other formats, elsewhere."""

import argparse
import io
import json
import logging
import pathlib
import zipfile
from collections import defaultdict

import h5py
import numpy as np
import onnx
import pytest
import safetensors.torch
import torch
from mmengine.config import ConfigDict
from mmengine.model import BaseModule, PretrainedInit
from mmpretrain.registry import MODELS
from onnx import helper, numpy_helper
from small_nets import (
    CLASSES,
    HIDDEN,
    SIDE,
    TORCHVISION,
    WIDTH,
    caffe_layers,
    caffemodel,
    close,
    evil,
    image,
    keras_layers,
    onnx_graph,
    our_logits,
    our_net,
    prepared,
    pretrained,
    torchvision_net,
    write_keras,
)
from torch import nn

import vgg_mm
from tools.weights.convert import convert
from vgg_mm import paper
from vgg_mm.errors import UserError
from vgg_mm.inputs import INPUTS, Input
from vgg_mm.models import VGG, VGGNeck
from vgg_mm.weights.checkpoint import read_checkpoint
from vgg_mm.weights.files import format_of, local
from vgg_mm.weights.layouts import layer_names
from vgg_mm.weights.pretrained import FROM_A, StartFrom, init_from_a, start_from
from vgg_mm.weights.source import open_source, settings


def saved(content, path):
    torch.save(content, path)
    return path


def logits(path, arch="A", **kwargs):
    return our_logits(convert(path, arch, trained_on=TORCHVISION, **kwargs), image())


@torch.no_grad()
def wanted(net):
    return net(prepared(image(), TORCHVISION))


def classifier(arch="A", classes=CLASSES, head=None, **kwargs):
    fcs = dict(in_channels=8 * WIDTH, channels=HIDDEN, kernel_size=SIDE, num_classes=classes)
    return MODELS.build(
        dict(
            type="ImageClassifier",
            backbone=dict(type="vgg_mm.VGG", arch=arch, width=WIDTH, **kwargs),
            head=head or dict(type="vgg_mm.VGGHead", **fcs),
            data_preprocessor=dict(
                type="vgg_mm.VGGPreprocessor", mean=[123.68, 116.779, 103.939], to_rgb=True
            ),
        )
    )


# Wrapped state dicts.


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: dict(epoch=3, model_state_dict=s, optimizer=dict(state={0: torch.ones(3)})),
        lambda s: dict(weights=s, best=0.3, criterion=dict(weight=torch.ones(3))),
        lambda s: dict(run=dict(net=s)),
        lambda s: {f"module._orig_mod.{k}": v for k, v in s.items()},
        lambda s: dict(state_dict={f"model.net.{k}": v for k, v in s.items()}),
        lambda s: {k: v.numpy() for k, v in s.items()},
    ],
)
def test_wrapped_state_dicts(wrap, tmp_path):
    net = torchvision_net("A")
    assert close(logits(saved(wrap(net.state_dict()), tmp_path / "net.pth")), wanted(net))


def test_one_of_several_state_dicts_is_asked_for(tmp_path):
    net = torchvision_net("A")
    ema = {name: value * 0.9 for name, value in net.state_dict().items()}
    path = saved(dict(model=net.state_dict(), ema_model=ema), tmp_path / "net.pth")
    with pytest.raises(UserError, match="a VGG is in model and ema_model; --prefix"):
        convert(path, "A")
    assert close(logits(path, prefix="model"), wanted(net))
    net.load_state_dict(ema)
    assert close(logits(path, prefix="ema_model."), wanted(net))
    found = vgg_mm.load("A", path, prefix="ema_model").model.backbone.conv1_1.weight
    assert found.equal(ema["features.0.weight"])


def test_plain_containers_beside_weights(tmp_path):
    net = torchvision_net("A")
    beside = dict(
        args=argparse.Namespace(lr=0.1, where=pathlib.Path("a/b")),
        windows=pathlib.PureWindowsPath("c:/x"),
        cfg=ConfigDict(a=dict(b=[1])),
        score=np.float64(0.5),
        half=np.float16(0.5),
        table=np.arange(3, dtype=np.uint8),
        counts=defaultdict(list, a=[1]),
        names={"a", "b"},
    )
    path = saved(dict(state_dict=net.state_dict(), **beside), tmp_path / "net.pth")
    assert close(logits(path), wanted(net))
    for old in (True, False):
        torch.save(dict(model=net), path, _use_new_zipfile_serialization=not old)
        with pytest.raises(UserError, match="it holds torchvision.models.vgg.VGG, which is more"):
            convert(path, "A")
    path.write_bytes(evil(tmp_path))
    with pytest.raises(UserError, match="is not a checkpoint that loads safely"):
        convert(path, "A")
    assert not (tmp_path / "ran").exists()


# Other layers beside the net's, and other names.


def test_features_only_minds_no_other_layer(tmp_path):
    net, layers = caffe_layers("D")
    fcs = [layers.pop(name) for name in ("fc6", "fc7", "fc8")]
    zeros = np.zeros((8, 32, 1, 1), np.float32)
    layers |= {"conv4_3_norm": [zeros[0, :, 0, 0]], "conv6_1": [zeros, zeros[:, 0, 0, 0]]}
    layers |= {"conv4_3_norm_mbox_loc": [zeros, zeros[:, 0, 0, 0]]}
    path = tmp_path / "ssd.caffemodel"
    path.write_bytes(caffemodel(layers, old=False))
    state = convert(path, "D", features_only=True)
    assert len(state["state_dict"]) == 26
    assert state["meta"]["source"]["left"] == ["conv4_3_norm", "conv6_1", "conv4_3_norm_mbox_loc"]
    for stray in ("conv3_4", "bn1_1", "conv1_1/bn", "bn_conv2_1"):
        path.write_bytes(caffemodel(layers | {stray: fcs[1]}, old=False))
        with pytest.raises(UserError, match=f"is not net D: it also holds {stray}.weight"):
            convert(path, "D", features_only=True)


@pytest.mark.parametrize(
    "names",
    [("fc6", "fc7", "fc8a"), ("fc6", "fc7", "fc8-1"), ("fc6-conv", "fc7-conv", "fc8_flickr")],
)
def test_the_classifier_under_other_names(names, tmp_path):
    _, layers = caffe_layers("A")
    for old, new in zip(("fc6", "fc7", "fc8"), names, strict=True):
        layers[new] = layers.pop(old)
    path = tmp_path / "net.caffemodel"
    path.write_bytes(caffemodel(layers, old=True))
    state = convert(path, "A")
    assert state["meta"]["source"]["layers"]["fc8.weight"] == f"{names[2]}.weight"
    weight = torch.from_numpy(layers[names[2]][0])
    assert state["state_dict"]["head.fc8.weight"].flatten(1).equal(weight)
    layers["fc8b"] = layers[names[2]]
    layers["fc8c"] = layers.pop(names[2])
    path.write_bytes(caffemodel(layers, old=True))
    with pytest.raises(UserError, match=r"lacks fc8.weight \(fc8b or fc8c.weight\)"):
        convert(path, "A")


@pytest.mark.parametrize("root", ["", "vgg.", "features."])
def test_reduced_fcs_in_a_sequence(root, tmp_path):
    """As SSD's vgg16_reducedfc and OpenMMLab's vgg16_caffe are published."""
    net = torchvision_net("D")
    state = {f"{root}{k}": v for k, v in net.features.state_dict().items()}
    fc6 = nn.Conv2d(8 * WIDTH, 16, 3).state_dict()
    fc7 = nn.Conv2d(16, 16, 1).state_dict()
    state |= {f"{root}31.{k}": v for k, v in fc6.items()}
    state |= {f"{root}33.{k}": v for k, v in fc7.items()}
    state |= {f"extras.0.{k}": v for k, v in fc7.items()}
    path = saved(state, tmp_path / "net.pth")
    assert convert(path, "D", True)["meta"]["source"]["input"]["order"] == "BGR"
    init = pretrained(path, prefix="head.")
    neck = VGGNeck(8 * WIDTH, 16, 3, dilation=6, init_cfg=init)
    neck.init_weights()
    assert neck.fc6.weight.equal(fc6["weight"])
    assert neck.fc7.bias.equal(fc7["bias"])


# Formats.


def test_keras_zip_and_caffes_hdf5(tmp_path):
    layers = keras_layers("D")
    write_keras(tmp_path / "model.weights.h5", layers, "counted")
    with h5py.File(tmp_path / "model.weights.h5", "a") as file:
        file["layers/my_head/vars/0"] = np.ones((3, 3), np.float32)
        for i in range(4):
            file[f"layers/batch_normalization/vars/{i}"] = np.ones(16, np.float32)
    with zipfile.ZipFile(tmp_path / "net.keras", "w") as packed:
        packed.write(tmp_path / "model.weights.h5", "model.weights.h5")
        packed.writestr("config.json", "{}")
    state = convert(tmp_path / "net.keras", "D")["state_dict"]
    write_keras(tmp_path / "net.h5", layers, "keras2")
    want = convert(tmp_path / "net.h5", "D")["state_dict"]
    assert all(value.equal(want[name]) for name, value in state.items())
    with h5py.File(tmp_path / "net.h5", "a") as file:
        for n in range(13):
            for i in range(4):
                file[f"bn_{n}/{i}"] = np.ones(16, np.float32)
    with pytest.raises(UserError, match="has 13 batch norms"):
        convert(tmp_path / "net.h5", "D", features_only=True)
    _, layers = caffe_layers("A")
    with h5py.File(tmp_path / "net.caffemodel.h5", "w") as file:
        for name, arrays in layers.items():
            for i, array in enumerate(arrays):
                file[f"data/{name}/{i}"] = array
    (tmp_path / "net.caffemodel").write_bytes(caffemodel(layers, old=True))
    a, b = (convert(tmp_path / f"net.caffemodel{e}", "A")["state_dict"] for e in ("", ".h5"))
    assert all(value.equal(b[name]) for name, value in a.items())


def test_formats_are_refused_by_their_names(tmp_path):
    def zipped(*names):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as packed:
            for name in names:
                packed.writestr(name, b"")
        return buffer.getvalue()

    cases = {
        "MessagePack": b"\x82\xa6params\x80",
        "NumPy's .npz": zipped("conv1_1_W.npy"),
        "NumPy's .npy": b"\x93NUMPY\x01\0",
        "TorchScript, a program": zipped("net/data.pkl", "net/code/a.py", "net/constants.pkl"),
        "torch.export's .pt2": zipped("net/archive_format", "net/models/model.json"),
        "a checkpoint of TensorFlow": b"\0" * 40 + b"\x57\xfb\x80\x8b\x24\x75\x47\xdb",
        "a MATLAB file": b"MATLAB 5.0 MAT-file",
        "compressed .gzip": b"\x1f\x8b\x08",
        "a web page": b"\n<!DOCTYPE html>",
        "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1",
        "damaged, no file of torch.save": b"abc",
    }
    for message, data in cases.items():
        for name in ("net.pth", "net.h5", "net.bin"):
            if name != "net.h5" or message.startswith(("Mess", "Torch", "a ")):
                (tmp_path / name).write_bytes(data)
                with pytest.raises(UserError, match=f"{name} is .*{message}"):
                    convert(tmp_path / name, "A")
    (tmp_path / "net.pb").write_bytes(b"\x0a\x01a")
    with pytest.raises(UserError, match="net.pb is a graph of TensorFlow"):
        convert(tmp_path / "net.pb", "A")
    path = saved(torchvision_net("A").state_dict(), tmp_path / "net.h5")
    assert open_source(path).kind == "torchvision"
    for length in (0x3C20, 0xA588):  # whose first bytes are those of a web page, of MessagePack
        path = tmp_path / "net.safetensors"
        head = b"{}".ljust(length)
        path.write_bytes(len(head).to_bytes(8, "little") + head)
        assert format_of(path) == "safetensors"


def test_ssds_file_of_torchvision_has_no_classifier(tmp_path):
    net = torchvision_net("D")
    for value in net.classifier.parameters():
        value.data.fill_(torch.nan)
    path = saved(net.state_dict(), tmp_path / "vgg16_features-amdegroot-88682ab5.pth")
    loaded = vgg_mm.load("D", path)
    assert loaded.model.head is None and loaded.input.top == 255
    assert all(map(torch.equal, loaded.model.backbone.parameters(), net.features.parameters()))


# ONNX as it is found.


def nhwc(model):
    """The graph as exporters of NHWC frameworks write it: transposed around every layer."""
    nodes = []
    for node in model.graph.node:
        if node.op_type not in ("Conv", "MaxPool"):
            nodes.append(node)
            continue
        x, y = node.input[0], node.output[0]
        node.input[0], node.output[0] = f"{x}_in", f"{y}_out"
        back, there = [0, 3, 1, 2], [0, 2, 3, 1]
        nodes += [
            helper.make_node("Transpose", [x], [node.input[0]], name=f"{y}_a", perm=back),
            node,
            helper.make_node("Transpose", [node.output[0]], [y], name=f"{y}_b", perm=there),
        ]
    del model.graph.node[:], model.graph.value_info[:]
    model.graph.node.extend(nodes)
    dims = model.graph.input[0].type.tensor_type.shape.dim
    for dim, size in zip(dims, (1, 64, 64, 3), strict=True):
        dim.dim_value = size
    for tensor in model.graph.initializer:
        if tensor.name == "classifier.0.weight":  # flattened as (height, width, channels)
            array = numpy_helper.to_array(tensor).reshape(HIDDEN, 8 * WIDTH, SIDE, SIDE)
            array = array.transpose(0, 2, 3, 1).reshape(HIDDEN, -1)
            tensor.CopyFrom(numpy_helper.from_array(array.copy(), tensor.name))
    return model


@pytest.mark.filterwarnings("ignore")
def test_onnx_of_nhwc_frameworks(tmp_path):
    net = torchvision_net("A")
    net.avgpool = nn.Identity()
    model = nhwc(onnx_graph(net, tmp_path / "net.onnx"))
    onnx.save(model, tmp_path / "net.onnx")
    assert close(logits(tmp_path / "net.onnx"), wanted(net))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", ["kept", "folded", "training"])
def test_onnx_with_batch_norm_and_another_head(form, tmp_path):
    net = torchvision_net("B", norm=True)
    net.classifier = nn.Sequential(nn.Linear(8 * WIDTH * SIDE**2, 7), nn.Sigmoid())
    modes = dict(kept="EVAL", folded="EVAL", training="PRESERVE")
    onnx_graph(
        net.train() if form == "training" else net,
        tmp_path / "net.onnx",
        do_constant_folding=form == "folded",
        training=getattr(torch.onnx.TrainingMode, modes[form]),
    )
    net.eval()
    state = convert(tmp_path / "net.onnx", "B", True, TORCHVISION)["state_dict"]
    norm = dict(type="BN") if "backbone.bn1_1.weight" in state else None
    backbone = our_net("B", norm_cfg=norm)["backbone"]
    backbone.load_state_dict({name.partition(".")[2]: value for name, value in state.items()})
    pixels = prepared(image(), Input("RGB", 255, INPUTS["torchvision"].mean, (1, 1, 1)))
    with torch.no_grad():
        assert close(backbone(pixels)[0], net.features(prepared(image(), TORCHVISION)))
    with pytest.raises(UserError, match="Sigmoid|lacks fc6.weight"):
        convert(tmp_path / "net.onnx", "B", trained_on=TORCHVISION)


# A training's start.


def test_start_from_takes_what_pretrained_takes(tmp_path, caplog):
    net, names = torchvision_net("A"), {"head.fc8": "classifier.6.weight"}
    path = saved(dict(model_state_dict=net.state_dict()), tmp_path / "net.pth")
    model = classifier()
    found = start_from(model, open_source(path))
    assert str(found) == "11 layers taken"
    assert model.head.fc8.weight.flatten(1).equal(net.state_dict()[names["head.fc8"]])
    model = classifier(classes=3)
    found = start_from(model, open_source(path))
    assert "10 layers taken; of the file are left classifier.6; head.fc8 starts new" in str(found)
    assert model.head.fc7.weight.flatten(1).equal(net.state_dict()["classifier.3.weight"])
    _, layers = caffe_layers("A")
    (tmp_path / "net.caffemodel").write_bytes(caffemodel(layers, old=True))
    assert str(start_from(model := classifier(), open_source(tmp_path / "net.caffemodel"))) == (
        "11 layers taken"
    )
    features = {k: v for k, v in net.state_dict().items() if k.startswith("features")}
    found = start_from(model, open_source(saved(features, path)))
    assert str(found) == "8 layers taken; head starts new, for the file has no FC layers"
    with pytest.raises(UserError, match="its names are not a VGG's"):
        open_source(saved(nn.Linear(3, 3).state_dict(), path))
    linear = dict(type="LinearClsHead", num_classes=3, in_channels=8 * WIDTH)
    found = start_from(classifier(head=linear), open_source(saved(net.state_dict(), path)))
    assert "8 layers taken" in str(found) and "head starts new" in str(found)


def raises(error):
    def call(*args, **kwargs):
        raise error

    return call


def test_a_net_that_is_no_vgg_starts_from_a_checkpoint_that_is_named(tmp_path, monkeypatch):
    path = tmp_path / "odd.pth"
    path.write_bytes(b"abc")
    with pytest.raises(UserError, match="odd.pth is not a checkpoint that loads safely"):
        StartFrom(str(path)).start(nn.Linear(2, 2), runner=None)
    denied = PermissionError(13, "Permission denied")
    for part, call in ((torch, "load"), (pathlib.Path, "open")):
        with monkeypatch.context() as patch:
            patch.setattr(part, call, raises(denied))
            with pytest.raises(UserError, match="odd.pth cannot be read: Permission denied"):
                read_checkpoint(path) if part is torch else open_source(path)


@pytest.mark.parametrize(
    "meta",
    [dict(model="vgg16"), dict(cfg="my vgg16, run 3"), dict(cfg="model = 3"), dict(model={})],
)
def test_a_meta_that_is_no_config_of_ours(meta, tmp_path):
    path = saved(dict(state_dict=our_net("A").state_dict(), meta=meta), tmp_path / "net.pth")
    assert open_source(path).geometry == {}


def test_a_config_in_the_file_tells_what_no_weight_does(tmp_path):
    net = our_net("A", norm_cfg=dict(type="BN", eps=0.1))
    text = 'model = dict(backbone=dict(type="vgg_mm.VGG", ceil_mode=True, norm_cfg=dict(eps=0.1)))'
    path = saved(dict(state_dict=net.state_dict(), meta=dict(cfg=text)), tmp_path / "net.pth")
    backbone, _ = settings(open_source(path), "A")
    assert backbone["ceil_mode"] and backbone["norm_cfg"] == dict(type="BN", eps=0.1)


def test_kerass_names_are_of_caffes_input_with_and_without_fc_layers(tmp_path):
    state, names = torchvision_net("D").features.state_dict(), layer_names("keras", "D")
    theirs = dict.fromkeys(key.rpartition(".")[0] for key in state)
    ours = dict(zip(theirs, (conv.name for conv in paper.convs("D")), strict=True))
    renamed = {}
    for key, value in state.items():
        layer, _, leaf = key.rpartition(".")
        renamed[f"{names[ours[layer]]}.{leaf}"] = value
    assert open_source(saved(renamed, tmp_path / "keras.pth")).input == INPUTS["caffe"]


def test_fc8s_rows_go_by_their_classes_names(tmp_path):
    net, names = torchvision_net("A"), ("ant", "bee", "cat", "dog", "eel")
    meta = dict(dataset_meta=dict(classes=names))
    source = open_source(saved(dict(state_dict=net.state_dict(), meta=meta), tmp_path / "net.pth"))
    theirs = net.state_dict()["classifier.6.weight"]
    for order, rows in ((names, [0, 1, 2, 3, 4]), (names[::-1], [4, 3, 2, 1, 0])):
        found = start_from(model := classifier(), source, dict(classes=order))
        assert not found.new and model.head.fc8.weight.flatten(1).equal(theirs[rows])
    found = start_from(
        model := classifier(), source, dict(classes=("ant", "bee", "cat", "dog", "elk"))
    )
    assert str(found).endswith(
        "head.fc8 starts new, for the file's classes are others: ant, bee, cat, dog, eel"
    )
    assert not (model.head.fc8.weight.flatten(1) == theirs).any()
    assert not start_from(classifier(), source, {}).new


def test_fc_layers_go_by_their_number_whatever_the_files_order(tmp_path):
    state = torchvision_net("A").state_dict()
    moved = {k.replace("classifier.6", "classifier.10"): v for k, v in state.items()}
    path = tmp_path / "net.safetensors"  # sorts its names: 0, 10, 3
    safetensors.torch.save_file(moved, path)
    start_from(model := classifier(), open_source(path))
    assert model.head.fc7.weight.flatten(1).equal(state["classifier.3.weight"])
    assert model.head.fc8.weight.flatten(1).equal(state["classifier.6.weight"])


def test_a_file_of_fc_layers_alone_is_told_in_one_line(tmp_path):
    state = {k: v for k, v in torchvision_net("A").state_dict().items() if "classifier" in k}
    path = saved(state, tmp_path / "net.pth")
    for load in (lambda: start_from(classifier(), open_source(path)), lambda: convert(path, "A")):
        with pytest.raises(UserError, match="is incomplete: it lacks conv1_1.weight"):
            load()


@pytest.mark.parametrize("arrays", [2, 3, 4])
def test_norms_between_keras_layers_are_refused_and_others_named(arrays, tmp_path, monkeypatch):
    layers, path, told = keras_layers("A"), tmp_path / "net.h5", []
    monkeypatch.setattr("vgg_mm.weights.hdf5.print_log", lambda line, *_: told.append(line))
    for norms, said in ((1, "are left bn_0"), (8, "has 8 batch norms")):
        write_keras(path, layers, "keras2")
        with h5py.File(path, "a") as file:
            for i in range(norms):
                for j in range(arrays):
                    file[f"bn_{i}/bn_{i}/{j}"] = np.ones(8, np.float32)
        if norms == 8:
            with pytest.raises(UserError, match=said):
                convert(path, "A")
        else:
            convert(path, "A")
            assert said in told[0]


def test_what_changes_the_function_is_refused(tmp_path):
    batch_norms = saved(torchvision_net("A", norm=True).state_dict(), tmp_path / "bn.pth")
    vgg19 = saved(torchvision_net("E").state_dict(), tmp_path / "e.pth")
    for source, arch, message in (
        (batch_norms, "A", "also holds features.1.weight.* Batch norms want norm_cfg"),
        (vgg19, "D", "lacks|also holds.*It fits net E"),
    ):
        with pytest.raises(UserError, match=message):
            VGG(arch, width=WIDTH, init_cfg=pretrained(source)).init_weights()
        with pytest.raises(UserError, match=message):
            start_from(classifier(arch), open_source(source))
    with pytest.raises(UserError, match="also holds features.1.weight"):
        init_from_a(classifier("B"), open_source(batch_norms), seed=0)
    with pytest.raises(UserError, match="lacks bn1_1.weight"):
        plain = saved(torchvision_net("A").state_dict(), tmp_path / "a.pth")
        start_from(classifier("A", norm_cfg=dict(type="BN")), open_source(plain))


def test_net_as_layers_from_a_foreign_file(tmp_path):
    net = torchvision_net("A")
    path = saved(net.state_dict(), tmp_path / "a.pth")
    model = classifier("D")
    found = init_from_a(model, open_source(path), seed=0)
    assert {name.split(".")[1] for name in found.weights} == {*FROM_A}
    assert model.backbone.conv3_2.weight.equal(net.features[8].weight)
    assert model.backbone.conv3_3.bias.eq(0).all()


# In other toolboxes.


def test_a_prefix_is_tried_then_none(tmp_path):
    net = torchvision_net("A")
    path = saved(net.state_dict(), tmp_path / "net.pth")
    backbone = VGG("A", width=WIDTH, init_cfg=pretrained(path, prefix="backbone."))
    backbone.init_weights()
    assert backbone.conv1_1.weight.equal(net.features[0].weight)


@pytest.mark.parametrize("by", ["Pretrained", PretrainedInit])
def test_pretrained_by_its_class_comes_to_our_reader(by, tmp_path):
    class Detector(BaseModule):
        def __init__(self, init_cfg):
            super().__init__(init_cfg)
            self.backbone = VGG("A", width=WIDTH)
            self.rpn_head = nn.Conv2d(3, 3, 1)

    net = torchvision_net("A")
    path = saved(net.state_dict(), tmp_path / "net.pth")
    backbone = VGG("A", width=WIDTH, init_cfg=dict(type=by, checkpoint=str(path)))
    backbone.init_weights()
    assert backbone.conv4_2.weight.equal(net.features[13].weight)
    ours = {f"module.{k}": v + 1 for k, v in Detector(None).state_dict().items()}
    detector = Detector(dict(type=by, checkpoint=str(saved(ours, path))))
    detector.init_weights()
    assert all(v.equal(ours[f"module.{k}"]) for k, v in detector.state_dict().items())


def test_another_input_is_warned_of_in_the_toolboxs_terms(tmp_path, monkeypatch):
    from mmengine.model import BaseModel, ImgDataPreprocessor

    class Model(BaseModel):
        def __init__(self, path, **kwargs):
            super().__init__(ImgDataPreprocessor(**kwargs))
            self.backbone = VGG("D", width=WIDTH, init_cfg=pretrained(path))

        def forward(self, *args):
            return None

    said = []

    def log(text, logger=None, level=logging.INFO):
        if level == logging.WARNING:
            said.append(text)

    monkeypatch.setattr("vgg_mm.weights.pretrained.print_log", log)
    state = torchvision_net("D").state_dict()
    path = saved(state, tmp_path / "net.pth")
    mean, std = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
    Model(path, mean=mean, std=std, bgr_to_rgb=True).init_weights()
    assert not said
    Model(path, mean=mean, std=[1, 1, 1], bgr_to_rgb=True).init_weights()
    assert f"trained with mean={mean}, std={std}, bgr_to_rgb=True" in said[0]
    assert "has mean=[123.675, 116.28, 103.53], std=[1.0, 1.0, 1.0], bgr_to_rgb=True" in said[0]
    caffes = saved(state, tmp_path / "vgg16_caffe-292e1171.pth")
    Model(caffes, mean=[103.939, 116.779, 123.68], std=[1, 1, 1]).init_weights()
    assert len(said) == 1


# Addresses.


def test_mmengines_addresses(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("MMENGINE_HOME", str(tmp_path / "mm"))
    folder = tmp_path / "hub/checkpoints"
    folder.mkdir(parents=True)
    net = torchvision_net("D")
    saved(net.state_dict(), folder / "vgg16_caffe-292e1171.pth")
    assert open_source("open-mmlab://vgg16_caffe").input == INPUTS["caffe"]
    assert open_source("openmmlab://vgg16_caffe").path == folder / "vgg16_caffe-292e1171.pth"

    def fails(url, *args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fails)
    with pytest.raises(UserError, match="mmcls://vgg16 is https://download.*no network"):
        local("mmcls://vgg16")
    with pytest.raises(UserError, match="modelzoo://vgg16 is https://.*vgg16-397923af.*no network"):
        local("modelzoo://vgg16")
    asked = []
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *args, **_: asked.append(args))
    for url, digest in {
        "https://a/vgg16-397923af.pth": "397923af",
        "https://a/vgg13-19584684.pth": "19584684",
        "https://a/vgg16-20240115.pth": None,  # a day
    }.items():
        with pytest.raises(UserError, match="did not arrive"):
            local(url)
        _, place, wanted = asked.pop()
        assert wanted == digest and (place == str(folder / url[10:])) == bool(digest)
    with pytest.raises(UserError, match="mmcls://vgg17 is not in mmengine's list"):
        local("mmcls://vgg17")
    for scheme in ("s3", "petrel", "pavi", "gs"):
        with pytest.raises(UserError, match=f"{scheme}://a/b.pth could not be downloaded"):
            local(f"{scheme}://a/b.pth")
    (tmp_path / "mm").mkdir(exist_ok=True)
    own = {"mine": "mine.pth"}
    (tmp_path / "mm/open_mmlab.json").write_text(json.dumps(own))
    with pytest.raises(UserError, match="no file .*mm/mine.pth, which open-mmlab://mine stands"):
        local("open-mmlab://mine")
