"""Small nets of other libraries and their files, for the tests of weights."""

import pickle
import struct
from pathlib import Path

import h5py
import mmpretrain.models.backbones as mmpretrain_backbones
import numpy as np
import onnx
import timm.models.vgg as timm_vgg
import torch
from torch import nn
from torchvision.models.vgg import VGG as TorchvisionVGG
from torchvision.models.vgg import make_layers

from vgg_mm.inputs import Input
from vgg_mm.models import VGG, VGGHead
from vgg_mm.paper import stages
from vgg_mm.weights.layouts import layer_names

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
    names = layer_names("torchvision", arch)
    leaves = ("weight", "bias")
    return net, {o: [state[f"{t}.{leaf}"] for leaf in leaves] for o, t in names.items()}


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


def onnx_graph(net, path, **kwargs):
    """``net`` as torch's older exporter writes it, which wants no further library."""
    torch.onnx.export(net, (prepared(image(), TORCHVISION),), path, dynamo=False, **kwargs)
    return onnx.load(path)


def pretrained(path, **kwargs):
    return dict(type="Pretrained", checkpoint=str(path), **kwargs)


def evil(folder):
    class Run:
        def __reduce__(self):
            return Path.touch, (folder / "ran",)

    return pickle.dumps({"state_dict": {"features.0.weight": Run()}})
