"""Sec. 2: the nets, against other people's and against the formulas."""

import math
import os
import subprocess
import sys
from pathlib import Path

import mmpretrain.models.backbones as mmpretrain_backbones
import numpy as np
import onnxruntime
import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from mmengine.optim import OptimWrapper
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import nn
from torch.export import Dim, export
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models.feature_extraction import create_feature_extractor

from vgg_mm.errors import UserError
from vgg_mm.models import FC, VGG, VGGFC, Glorot, VGGHead, VGGNeck
from vgg_mm.paper import TABLE_1, stages

ROOT = Path(__file__).parents[2]
BN = dict(type="BN")
NORMAL = dict(type="Normal", layer="Conv2d", std=0.01)
PARAMETERS = {
    "A": 132_863_336,
    "A-LRN": 132_863_336,
    "B": 133_047_848,
    "C": 133_638_952,
    "D": 138_357_544,
    "E": 143_667_240,
}


def on_meta(build):
    """What ``build`` returns, its weights unallocated."""
    with torch.device("meta"):
        return build()


def filled(net):
    """A net on the meta device with weights that keep the activations' scale, made in no time."""
    net.to_empty(device="cpu")
    noise = torch.randn(1 << 20, generator=torch.Generator().manual_seed(0))
    for name, value in net.state_dict().items():
        if value.dim() > 1:
            values = noise * (2 / value[0].numel()) ** 0.5
        else:
            values = noise.abs() + 0.5 if name.endswith("running_var") else 0.2 * noise
        for part in value.view(-1).split(len(noise)):
            part.copy_(values[: len(part)])
    net.eval()
    return net


def randomise(net):
    """Random weights everywhere, so that no bias or batch norm does nothing."""
    torch.manual_seed(0)
    Glorot()(net)
    for name, value in net.state_dict().items():
        if name.endswith(("bias", "running_mean")):
            nn.init.normal_(value, std=0.1)
        elif name.endswith("running_var") or "bn" in name and value.dim():
            nn.init.uniform_(value, 0.5, 2)
    return net


def small(arch="D", **kwargs):
    return randomise(VGG(arch, width=kwargs.pop("width", 4), **kwargs))


def images(*shape, scale=1):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def close(a, b, relative=1e-5):
    return a.shape == b.shape and (a - b).abs().max() <= relative * b.abs().max()


class Ops(TorchDispatchMode):
    """Notes the operations within it and what they return."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.calls.append((str(func), out))
        return out


# Against other people's nets, and the paper's count.


@pytest.mark.parametrize("arch", PARAMETERS)
def test_parameter_counts(arch):
    net = on_meta(lambda: nn.ModuleList([VGG(arch), VGGHead()]))
    assert sum(p.numel() for p in net.parameters()) == PARAMETERS[arch]


@pytest.mark.parametrize(
    ("build", "arch"),
    [
        (torchvision.models.vgg11, "A"),
        (torchvision.models.vgg13, "B"),
        (torchvision.models.vgg16, "D"),
        (torchvision.models.vgg19, "E"),
        (torchvision.models.vgg11_bn, "A"),
        (torchvision.models.vgg13_bn, "B"),
        (torchvision.models.vgg16_bn, "D"),
        (torchvision.models.vgg19_bn, "E"),
        (timm.models.vgg16, "D"),
        (timm.models.vgg13_bn, "B"),
        (lambda: mmpretrain_backbones.VGG(depth=16, num_classes=1000), "D"),
    ],
    ids=lambda value: getattr(value, "__module__", value),
)
@torch.inference_mode()
def test_same_logits_as(build, arch):
    theirs = filled(on_meta(build))
    weights = theirs.state_dict()
    norm_cfg = BN if any("running_mean" in name for name in weights) else None
    ours = on_meta(lambda: nn.Sequential(VGG(arch, norm_cfg=norm_cfg), VGGHead())).eval()
    pairs = zip(ours.state_dict().items(), weights.values(), strict=True)
    state = {name: their.view(our.shape) for (name, our), their in pairs}
    ours.load_state_dict(state, assign=True)
    x = images(1, 3, 224, 224)
    logits = theirs(x)
    logits = logits[0] if isinstance(logits, tuple) else logits
    assert 0.1 < logits.std() < 100
    assert close(ours(x), logits)


# The backbone.


def plain_forward(net, x, indices):
    """What ``indices`` name, by Sec. 2.1's words and the net's weights."""
    weights, outputs = dict(net.named_parameters()), {}
    for i, stage in enumerate(stages(net.arch, 4)):
        for layer in stage:
            if layer.kernel:
                weight, bias = weights[f"{layer.name}.weight"], weights[f"{layer.name}.bias"]
                x = F.pad(x, [weight.shape[-1] // 2] * 4)
                x = F.conv2d(x, weight, bias)
                bn = getattr(net, layer.bn, None)
                x = bn(x) if bn else x
                x = x.clamp(min=0)
            else:
                x = getattr(net, layer.name)(x)
            outputs[layer.name] = x
        h, w = x.shape[2] // 2, x.shape[3] // 2
        x = x[:, :, : 2 * h, : 2 * w].unflatten(3, (w, 2)).unflatten(2, (h, 2)).amax((3, 5))
        outputs[i] = x
    return tuple(outputs[index] for index in indices)


@pytest.mark.parametrize("norm_cfg", [None, BN], ids=["plain", "bn"])
@pytest.mark.parametrize("arch", TABLE_1)
@torch.no_grad()
def test_outputs_are_after_the_relu_or_the_pool_in_the_given_order(arch, norm_cfg):
    names = [layer.name for stage in stages(arch) for layer in stage]
    indices = (4, *reversed(names), 0, 2, 3, 1, 4)
    net = small(arch, norm_cfg=norm_cfg, out_indices=indices).eval()
    assert [n for n, _ in net.named_children() if n.startswith(("conv", "norm"))] == names
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in net.modules()) == (
        sum("conv" in name for name in names) if norm_cfg else 0
    )
    x = images(2, 3, 67, 98)
    outputs = net(x)
    assert [tuple(out.shape) for out in outputs[-5:]] == [
        (2, 4, 33, 49),
        (2, 16, 8, 12),
        (2, 32, 4, 6),
        (2, 8, 16, 24),
        (2, 32, 2, 3),
    ]
    for out, expected in zip(outputs, plain_forward(net, x, indices), strict=True):
        assert expected.std() > 0
        assert close(out, expected)
    (last,) = small(arch, norm_cfg=norm_cfg).eval()(x)
    assert torch.equal(last, outputs[0])


@pytest.mark.parametrize(
    ("indices", "last", "smallest"),
    [
        ((0,), "conv1_2", 2),
        (("conv3_1", "conv1_1"), "conv3_1", 4),
        (("conv3_3", 1), "conv3_3", 4),
        ((0, 2), "conv3_3", 8),
        (("conv5_3",), "conv5_3", 16),
    ],
)
def test_nothing_past_the_deepest_output(indices, last, smallest):
    names = [layer.name for stage in stages("D") for layer in stage]
    net = small(out_indices=indices, norm_cfg=BN).eval()
    built = names[: names.index(last) + 1]
    kinds = ("conv", "bn", "relu")
    layers = {name.replace("conv", kind) for name in built for kind in kinds}
    children = {name for name, _ in net.named_children()}
    assert {name for name in children if "pool" not in name} == layers
    # No pool either: it would fail on a map of one pixel.
    assert len(net(images(1, 3, smallest, smallest))) == len(indices)


def test_c_has_1x1_third_convs():
    for name, conv in small("C").named_children():
        if "conv" not in name:
            continue
        assert conv.kernel_size == ((1, 1) if name in ("conv3_3", "conv4_3", "conv5_3") else (3, 3))


@torch.no_grad()
def test_lrn_is_alexnets():
    net = small("A-LRN", width=16, out_indices=("conv1_1", "norm1_1"))
    a, b = (out.double().numpy() for out in net(images(2, 3, 8, 8, scale=300)))
    n, k, alpha, beta = 5, 2, 1e-4, 0.75
    scale = np.empty_like(a)
    for i in range(16):
        window = a[:, max(0, i - n // 2) : min(15, i + n // 2) + 1]
        scale[:, i] = k + alpha * (window**2).sum(1)
    assert np.median(scale) > 4, "too small to matter"
    assert np.allclose(b, a / scale**beta, rtol=1e-5)


@pytest.mark.parametrize("ceil_mode", [False, True])
@torch.no_grad()
def test_dilations_and_pools(ceil_mode):
    dilations, strides = (1, 2, 1, 3, 2), (2, 1, 2, 2, 1)
    net = small(
        "C",
        dilations=dilations,
        pool_strides=strides,
        ceil_mode=ceil_mode,
        out_indices=("conv4_3", 0, 1, 2, 3, 4),
    )
    x = images(2, 3, 45, 62)
    conv4_3, *pools = net(x)
    for i, stage in enumerate(stages("C", 4)):
        for layer in stage:
            conv, d, k = net.get_submodule(layer.name), dilations[i], layer.kernel
            kernel = torch.zeros(*conv.weight.shape[:2], d * (k - 1) + 1, d * (k - 1) + 1)
            kernel[..., ::d, ::d] = conv.weight
            x = F.conv2d(x, kernel, conv.bias, padding=kernel.shape[-1] // 2).clamp(min=0)
            assert layer.name != "conv4_3" or close(conv4_3, x)
        h, w = x.shape[2:]
        if strides[i] == 1:
            padded = F.pad(x, [1] * 4, value=-math.inf)
            shifts = [padded[..., a : a + h, b : b + w] for a in range(3) for b in range(3)]
        else:
            round_ = math.ceil if ceil_mode else math.floor
            h, w = round_(h / 2), round_(w / 2)
            padded = F.pad(x, [0, 1, 0, 1], value=-math.inf)
            shifts = [
                padded[..., a : 2 * h + a : 2, b : 2 * w + b : 2][..., :h, :w]
                for a in range(2)
                for b in range(2)
            ]
        x = torch.stack(shifts).amax(0)
        assert close(pools[i], x)
    assert pools[-1].shape[2:] == ((6, 8) if ceil_mode else (5, 7))


@torch.no_grad()
def test_the_maps_of_ssd300_and_deeplab():
    ssd = dict(out_indices=("conv4_3", 4), pool_strides=(2, 2, 2, 2, 1), ceil_mode=True)
    largefov = dict(pool_strides=(2, 2, 2, 1, 1), dilations=(1, 1, 1, 1, 2), ceil_mode=True)
    sides = [out.shape[2:] for out in small(**ssd)(images(1, 3, 300, 300))]
    assert sides == [(38, 38), (19, 19)]
    (out,) = small(**largefov)(images(1, 3, 321, 321))
    assert out.shape[2:] == (41, 41)


TWO_POOLS = dict(pool_strides=(2, 2, None, None, None))


@torch.no_grad()
def test_a_stage_without_a_pool_ends_with_its_last_relu():
    net = small("A", **TWO_POOLS, out_indices=(0, 1, 2, 3, 4, "conv2_1", "conv3_2", "conv5_2"))
    assert net.stride == 4
    assert [name for name, _ in net.named_children() if "pool" in name] == ["pool1", "pool2"]
    *stages, conv2_1, conv3_2, conv5_2 = net(images(2, 3, 28, 41))
    assert [out.shape[2:] for out in stages] == [(14, 20), *4 * [(7, 10)]]
    assert torch.equal(stages[2], conv3_2) and torch.equal(stages[4], conv5_2)
    assert not torch.equal(stages[1], conv2_1)
    assert stages[4].min() == 0 < stages[4].max()


@torch.no_grad()
def test_with_two_pools_a_crop_of_28_pixels_is_a_window_of_fc6_and_4_pixels_a_step():
    backbone = dict(type="vgg_mm.VGG", arch="A", width=8, **TWO_POOLS)
    head = dict(type="vgg_mm.VGGHead", num_classes=10, in_channels=64, channels=16)
    net = MODELS.build(dict(type="ImageClassifier", backbone=backbone, head=head)).eval()
    net.init_weights()
    for conv in net.backbone.modules():
        if isinstance(conv, nn.Conv2d):  # sees no neighbour, so that no crop lacks any
            conv.weight *= 4
            conv.weight[..., [0, 0, 0, 1, 1, 2, 2, 2], [0, 1, 2, 0, 2, 0, 1, 2]] = 0
    x = images(2, 3, 36, 43, scale=100)
    assert net.extract_feat(x[..., :28, :28])[-1].shape == (2, 64, 7, 7)
    dense = net.head.score_map(net.extract_feat(x))
    assert dense.shape == (2, 10, 3, 4)
    for i in range(3):
        for j in range(4):
            crop = x[..., 4 * i : 4 * i + 28, 4 * j : 4 * j + 28]
            assert torch.allclose(net(crop), dense[..., i, j], rtol=1e-4, atol=1e-5)
    assert dense.flatten(2).std(-1).min() > 1e-3, "all positions say the same"
    assert torch.allclose(net(x), dense.mean((2, 3)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "smallest"),
    [
        ({}, 32),
        (dict(out_indices=("conv3_1", 1)), 4),
        (dict(pool_strides=(2, 1, 2, 2, 1)), 8),
        (dict(pool_strides=(2, 2, None, None, None)), 4),
        (dict(ceil_mode=True), 1),
    ],
)
@torch.no_grad()
def test_the_smallest_image(options, smallest):
    net = small(**options)
    assert all(out.numel() for out in net(images(1, 3, smallest, 40)))
    if smallest > 1:
        message = rf"image of 40x{smallest - 1} .* at least {smallest} pixels"
        with pytest.raises(UserError, match=message):
            net(images(1, 3, 40, smallest - 1))


@pytest.mark.parametrize("frozen_stages", range(-1, 6))
def test_frozen_stages(frozen_stages):
    net = small(norm_cfg=BN, frozen_stages=frozen_stages)
    frozen = {
        name: int(name.strip("abcdefghijklmnopqrstuvwxyz")[0]) <= frozen_stages
        for name, _ in net.named_children()
    }
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net.train()
    for name, layer in net.named_children():
        assert all(p.requires_grad != frozen[name] for p in layer.parameters())
        if "bn" in name:
            assert layer.training != frozen[name]
    net(images(2, 3, 32, 32))
    for name, value in net.state_dict().items():
        if name.endswith("running_mean"):
            assert torch.equal(value, before[name]) == frozen[name.partition(".")[0]]
    # Freezing is the constructor's: DDP must not see it change.
    for p in net.parameters():
        p.requires_grad_(not p.requires_grad)
    flags = [p.requires_grad for p in net.parameters()]
    net.train()
    assert [p.requires_grad for p in net.parameters()] == flags


@pytest.mark.parametrize("norm_eval", [False, True])
def test_norm_eval(norm_eval):
    net = small(norm_cfg=BN, norm_eval=norm_eval).train()
    bns = [layer for layer in net.modules() if isinstance(layer, _BatchNorm)]
    assert len(bns) == 13
    assert all(bn.training != norm_eval for bn in bns)
    assert all(p.requires_grad for p in net.parameters())
    assert net.conv1_1.training
    assert not any(module.training for module in net.eval().modules())


@pytest.mark.parametrize("norm_cfg", [None, BN], ids=["plain", "bn"])
def test_with_cp_recomputes_and_changes_nothing(norm_cfg):
    results = []
    for with_cp in (False, True):
        net = small(norm_cfg=norm_cfg, with_cp=with_cp, out_indices=("conv2_1", 2, 4)).train()
        calls = []
        net.conv3_1.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        x = images(2, 3, 64, 64).requires_grad_()
        outputs = net(x)
        sum((out**2).mean() for out in outputs).backward()
        assert len(calls) == 1 + with_cp
        results.append([*outputs, x.grad, *(p.grad for p in net.parameters())])
        with torch.no_grad():
            net(x)
        assert len(calls) == 2 + with_cp
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("norm_cfg", [None, BN], ids=["plain", "bn"])
def test_channels_last_is_the_same_net(norm_cfg):
    x = images(2, 3, 64, 96)
    state, results = None, []
    for channels_last in (False, True):
        net = nn.Sequential(
            small(norm_cfg=norm_cfg, channels_last=channels_last),
            VGGHead(5, in_channels=32, channels=16, kernel_size=2, channels_last=channels_last),
        ).eval()
        state = state or net.state_dict()
        net.load_state_dict(state)
        feats = net[0](x)
        scores = net[1](feats)
        scores.square().sum().backward()
        results.append([*feats, scores, *(p.grad for p in net.parameters())])
        for out in (*feats, net[0].conv2_1.weight, net[1].fc6.weight):
            assert out.is_contiguous(memory_format=torch.channels_last) == channels_last
    for a, b in zip(*results, strict=True):
        assert close(a, b, 1e-4)


def test_an_empty_norm_cfg_is_none():
    net = small(norm_cfg={})
    assert not any("bn" in name for name, _ in net.named_children())
    net(images(1, 3, 32, 32))


# Hooks.


def values_of_layers(net, x):
    """What each of the backbone's layers gives, by its weights and torch's functions."""
    values = {}
    for i, stage in enumerate(net.stages, 1):
        for layer in stage:
            if layer.kernel:
                conv = net.get_submodule(layer.name)
                x = values[layer.name] = F.conv2d(x, conv.weight, conv.bias, padding=conv.padding)
                if net.with_norm:
                    x = values[layer.bn] = net.get_submodule(layer.bn)(x)
                x = values[layer.relu] = x.clamp(min=0)
            else:
                x = values[layer.name] = net.get_submodule(layer.name)(x)
        x = values[f"pool{i}"] = F.max_pool2d(x, 2)
    return values


@pytest.mark.parametrize(("arch", "norm_cfg"), [("D", None), ("A-LRN", None), ("E", BN)])
@pytest.mark.parametrize("out_indices", [(4,), ("conv1_2", "conv5_1", 1, 4)])
@pytest.mark.parametrize("with_cp", [False, True])
def test_hooks_hold_what_each_layer_gives_and_its_gradient(arch, norm_cfg, out_indices, with_cp):
    out_indices = out_indices[-1:] if arch == "A-LRN" else out_indices
    net = small(arch, norm_cfg=norm_cfg, out_indices=out_indices, with_cp=with_cp).double().eval()
    x = images(2, 3, 40, 36).double().requires_grad_()

    def run():
        outputs = net(x)
        net.zero_grad()
        (x_grad,) = torch.autograd.grad(sum(out.square().sum() for out in outputs), x)
        return [*outputs, x_grad]

    unwatched = run()
    expected = values_of_layers(net, x)
    for value in expected.values():
        value.retain_grad()
    named = {**{layer.name: layer.relu for layer in sum(net.stages, []) if layer.kernel}}
    taps = [
        expected[named.get(index, f"pool{index + 1}" if index in range(5) else index)]
        for index in out_indices
    ]
    sum(tap.square().sum() for tap in taps).backward()

    held, grads = {}, {}
    children = dict(net.named_children())
    assert children.keys() == expected.keys()
    for name, layer in children.items():
        layer.register_forward_hook(lambda _, inputs, out, n=name: held.update({n: (*inputs, out)}))
        layer.register_full_backward_hook(lambda _, __, grad, n=name: grads.update({n: grad[0]}))
    watched = run()
    for one, other in zip(watched, unwatched, strict=True):
        assert torch.equal(one, other)
    before = x
    for name, (given, out) in held.items():
        assert close(out, expected[name], 1e-12) and close(given, before, 1e-12), name
        assert close(grads[name], expected[name].grad, 1e-12), name
        before = out


@pytest.mark.parametrize("layer", ["conv1_1", "conv1_2", "conv5_3", "relu2_2", "pool3"])
@pytest.mark.parametrize("kind", ["hook", "pre_hook", "backward_hook", "global", "forward", "type"])
@torch.no_grad()
def test_whoever_looks_at_one_layer_keeps_what_he_sees(layer, kind):
    net = small().eval()
    x = images(1, 3, 32, 32)
    expected = values_of_layers(net, x)
    names = [*expected]
    seen = {}
    child, original = getattr(net, layer), getattr(net, layer).forward

    def see(module, inputs, out=None):
        name = next(name for name, other in net.named_children() if other is module)
        seen[name] = out if out is not None else inputs[0]

    def forward(x):
        seen[layer] = original(x)
        return seen[layer]

    handle = None
    if kind == "hook":
        child.register_forward_hook(see)
    elif kind == "pre_hook":
        layer_before = names[names.index(layer) - 1] if layer != "conv1_1" else None
        child.register_forward_pre_hook(see)
    elif kind == "backward_hook":
        child.register_full_backward_hook(lambda *_: None)
        with torch.enable_grad():
            net(x.clone().requires_grad_())[0].sum().backward()
        return
    elif kind == "global":
        handle = nn.modules.module.register_module_forward_hook(
            lambda module, inputs, out: see(module, inputs, out) if module is not net else None
        )
    elif kind == "forward":
        child.forward = forward
    else:
        other = type("Other", (type(child),), dict(forward=lambda self, x: forward(x)))
        child.__class__ = other
    try:
        (out,) = net(x)
    finally:
        if handle:
            handle.remove()
    assert close(out, expected["pool5"])
    if kind == "pre_hook":
        assert close(seen[layer], expected[layer_before] if layer_before else x)
    else:
        assert all(close(value, expected[name]) for name, value in seen.items())
        assert layer in seen


def test_guided_backpropagation():
    class Guided(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.clamp(min=0)

        @staticmethod
        def backward(ctx, grad):
            return grad.clamp(min=0) * (ctx.saved_tensors[0] > 0)

    net = nn.Sequential(small(), randomise(VGGHead(5, in_channels=32, channels=16, kernel_size=1)))
    net.eval()
    x = images(1, 3, 40, 40).requires_grad_()
    y = x
    for stage in net[0].stages:
        for layer in stage:
            conv = getattr(net[0], layer.name)
            y = Guided.apply(F.conv2d(y, conv.weight, conv.bias, padding=1))
        y = F.max_pool2d(y, 2)
    head = net[1]
    y = head.fc8(Guided.apply(head.fc7(Guided.apply(head.fc6(y))))).flatten(1)
    (expected,) = torch.autograd.grad(y[0, 2], x)
    (plain,) = torch.autograd.grad(net(x)[0, 2], x)

    relus = [m for m in net.modules() if isinstance(m, nn.ReLU)]
    assert len(relus) == 13 + 2
    for relu in relus:
        relu.register_full_backward_hook(lambda _, grad, __: (grad[0].clamp(min=0),))
    (guided,) = torch.autograd.grad(net(x)[0, 2], x)
    assert expected.abs().max() > 0
    assert close(guided, expected)
    assert not close(guided, plain, 0.1)


@torch.no_grad()
def test_a_layer_put_in_anothers_place_is_used():
    net = small().eval()
    net.relu1_2, net.pool2, net.conv3_1 = nn.GELU(), nn.AvgPool2d(2), nn.Identity()
    net.conv3_2 = nn.Conv2d(8, 16, 3, padding=1)
    x = images(1, 3, 32, 32)
    y = F.relu(net.conv1_1(x))
    y = F.max_pool2d(F.gelu(net.conv1_2(y)), 2)
    y = F.relu(net.conv2_2(F.relu(net.conv2_1(y))))
    y = F.relu(net.conv3_2(F.relu(F.avg_pool2d(y, 2))))
    y = F.max_pool2d(F.relu(net.conv3_3(y)), 2)
    for i in (4, 5):
        for j in (1, 2, 3):
            y = F.relu(getattr(net, f"conv{i}_{j}")(y))
        y = F.max_pool2d(y, 2)
    assert close(net(x)[0], y)


def test_heads_are_traced_by_fx():
    head = VGGHead(5, in_channels=8, channels=6, kernel_size=2).eval()
    for size in ((2, 2), (3, 4)):
        feats = (torch.randn(2, 8, *size),)
        assert torch.allclose(torch.fx.symbolic_trace(head)(feats), head(feats), atol=1e-6)


def test_torchvisions_feature_extractor():
    net = small("A").eval()
    x = images(1, 3, 32, 32)
    expected = values_of_layers(net, x)
    # It takes the ends of conv3_2 and relu3_2 for its own counting.
    names = {"conv3_1": "conv3_2", "relu3_1": "relu3_2", "pool3": "pool3"}
    found = create_feature_extractor(net, names)(x)
    for name in names.values():
        assert close(found[name], expected[name]), name


@pytest.mark.parametrize("watched", [False, True])
def test_compiles_without_a_break(watched):
    net = small(norm_cfg=BN, out_indices=("conv2_2", 4)).eval()
    if watched:
        net.conv2_2.register_forward_hook(lambda _, __, out: out * 2)
    x = images(1, 3, 32, 32)
    torch._dynamo.reset()
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    for one, other in zip(compiled(x), net(x), strict=True):
        assert close(one, other)


# The head.


def linears(head, window):
    """fc6-fc8 as the paper's FC layers, on maps (..., C, k, k): (fc7, scores)."""
    x = window.flatten(-3)
    for layer in (head.fc6, head.fc7, head.fc8):
        fc7 = x
        x = F.linear(x, layer.weight.flatten(1), layer.bias)
        x = x if layer is head.fc8 else x.relu()
    return fc7, x


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("nhwc_input", [False, True])
@pytest.mark.parametrize(("k", "size"), [(7, (7, 7)), (7, (9, 11)), (7, (7, 8)), (2, (2, 3))])
@torch.no_grad()
def test_head_is_fc_layers_averaged_over_all_windows(k, size, channels_last, nhwc_input):
    head = VGGHead(10, in_channels=8, channels=24, kernel_size=k, channels_last=channels_last)
    head = randomise(head).double().eval()
    x = images(2, 8, *size).double()
    if nhwc_input:
        x = x.to(memory_format=torch.channels_last)
    windows = x.unfold(2, k, 1).unfold(3, k, 1).permute(0, 2, 3, 1, 4, 5)
    fc7, scores = linears(head, windows)  # (N, H-k+1, W-k+1, C)
    feats = (torch.full_like(x, math.nan), x)  # the head takes the last map
    assert close(head.score_map(feats), scores.permute(0, 3, 1, 2), 1e-12)
    assert close(head.pre_logits(feats), fc7.mean((1, 2)), 1e-12)
    assert close(head(feats), scores.mean((1, 2)), 1e-12)
    fc = VGGFC(in_channels=8, channels=24, kernel_size=k).double().eval()
    fc.load_state_dict(head.state_dict(), strict=False)
    assert close(fc(x), fc7.permute(0, 3, 1, 2), 1e-12)


@pytest.mark.parametrize("channels_last", [False, True])
@torch.no_grad()
def test_the_kernel_is_multiplied_where_it_lies(channels_last):
    order = torch.channels_last if channels_last else torch.contiguous_format
    fc6 = FC(512, 16, 7).to(memory_format=order)
    with Ops() as ops:
        fc6(images(1, 512, 7, 7).to(memory_format=order))
    names = {name for name, _ in ops.calls}
    assert any("mm" in name for name in names)
    assert not any("conv" in name for name in names)
    large = [out for _, out in ops.calls if out.numel() >= fc6.weight.numel()]
    assert all(out.data_ptr() == fc6.weight.data_ptr() for out in large)


@pytest.mark.parametrize(("k", "side"), [(7, 224), (2, 64)])
@pytest.mark.parametrize("size", [(6, 7), (7, 6), (1, 1)])
def test_map_smaller_than_the_kernel(k, side, size):
    head = VGGHead(10, in_channels=4, channels=8, kernel_size=k)
    h, w = (max(1, n - 7 + k) for n in size)
    message = (
        rf"fc6 looks at {k}x{k} .* only {h}x{w}: .* at least {k} times .*{side} pixels with five"
    )
    with pytest.raises(UserError, match=message):
        head((images(1, 4, h, w),))


def test_dropout_falls_on_fc6_and_fc7():
    head = VGGHead(10, in_channels=1, channels=1000, kernel_size=1)
    nn.init.constant_(head.fc6.weight, 1)
    nn.init.eye_(head.fc7.weight.data[:, :, 0, 0])
    for layer in (head.fc6, head.fc7):
        nn.init.zeros_(layer.bias)
    x = (torch.ones(20, 1, 1, 1),)
    torch.manual_seed(0)
    fc7 = head.train().pre_logits(x)
    assert fc7.unique().tolist() == [0, 4]
    assert abs((fc7 > 0).float().mean() - 0.25) < 0.02
    assert torch.equal(head.eval().pre_logits(x), torch.ones(20, 1000))
    assert torch.equal(VGGFC(1, 3, 1, dropout=0).drop6(x[0]), x[0])


def small_classifier(**kwargs):
    backbone = VGG("A", width=2, **kwargs)
    return nn.Sequential(backbone, VGGHead(10, in_channels=16, channels=16, **kwargs)).eval()


@pytest.mark.parametrize(("k", "dilation"), [(7, 1), (3, 6), (3, 12)])
@torch.no_grad()
def test_a_dilated_fc6_keeps_the_maps_size(k, dilation):
    options = dict(in_channels=8, channels=16, kernel_size=k)
    neck = randomise(VGGNeck(**options, dilation=dilation)).eval()
    plain = VGGHead(5, **options).eval()
    plain.load_state_dict(neck.state_dict(), strict=False)
    first, last = images(2, 8, 5, 4), images(2, 8, 13, 9)
    feats = neck((first, last))
    assert feats[0] is first
    assert feats[1].shape == (2, 16, 13, 9)
    padded = F.pad(last, [dilation * (k // 2)] * 4)
    for i, j in ((0, 0), (6, 4), (12, 8), (3, 8)):
        window = padded[:, :, i : i + k * dilation : dilation, j : j + k * dilation : dilation]
        assert close(feats[1][:, :, i, j], linears(plain, window)[0])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("k", "dilation"), [(3, 12), (7, 1), (7, 3), (2, 1), (2, 3), (4, 2)])
@torch.no_grad()
def test_onnxruntime_takes_a_padded_fc6_from_torchscript(tmp_path, k, dilation):
    neck = VGGNeck(in_channels=4, channels=8, kernel_size=k, dilation=dilation)
    randomise(neck).eval()
    x = images(1, 4, 9, 12)
    fc6 = neck.fc6
    same = F.conv2d(x, fc6.weight, fc6.bias, padding="same", dilation=dilation)
    assert torch.equal(fc6(x), same) or close(fc6(x), same)
    net, file = nn.Sequential(neck).eval(), str(tmp_path / "neck.onnx")
    torch.onnx.export(net, ((x,),), file, dynamo=False, input_names=["x"])
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": x.numpy()})
    assert close(torch.from_numpy(found), neck((x,))[0])


@torch.no_grad()
def test_export_takes_images_of_any_size():
    net = small_classifier()
    # Torch's exporter takes a dimension of one, as fc6's below 256 pixels, for a constant.
    # Torch 2.6's wants sides that the pools halve without a rest; 2.14's takes any.
    step = 1 if tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 14) else 32
    cells = [Dim(name, min=256 // step, max=1024 // step) for name in ("height", "width")]
    sides = {i: step * cell if step > 1 else cell for i, cell in enumerate(cells, 2)}
    graph = export(net, (images(2, 3, 288, 352),), dynamic_shapes=(sides,), strict=False).module()
    assert sum("conv2d" in str(node.target) for node in graph.graph.nodes) == 8 + 3
    for size in ((288, 352), (256, 256), (300, 420) if step == 1 else (320, 416)):
        x = images(2, 3, *size)
        assert close(graph(x), net(x))


@pytest.mark.filterwarnings("ignore")
@torch.no_grad()
def test_a_trace_at_224_takes_images_of_any_size():
    net = small_classifier()
    traced = torch.jit.trace(net, images(1, 3, 224, 224))
    x = images(2, 3, 256, 330)
    assert close(traced(x), net(x))


# Initialisation.


def test_glorot():
    torch.manual_seed(0)
    net = VGG("C", width=32, norm_cfg=BN)
    net.init_weights()
    for name, conv in net.named_children():
        if "conv" in name:
            area = conv.kernel_size[0] ** 2
            std = (2 / (area * (conv.in_channels + conv.out_channels))) ** 0.5
            # The estimate of a std from n samples has a relative error of 1 / sqrt(2n).
            assert abs(conv.weight.std() / std - 1) < 5 / (2 * conv.weight.numel()) ** 0.5
            assert abs(conv.weight.mean()) < 5 * std / conv.weight.numel() ** 0.5
            assert not conv.bias.any()
        elif "bn" in name:
            assert torch.equal(conv.weight, torch.ones_like(conv.weight))


@torch.no_grad()
def test_glorot_of_the_full_size_fc_layers():
    head = on_meta(VGGHead).to_empty(device="cpu")
    head.init_weights()
    expected = {"fc6": 2 / (25088 + 4096), "fc7": 2 / (4096 + 4096), "fc8": 2 / (4096 + 1000)}
    assert round(expected["fc6"] ** 0.5, 5) == 0.00828
    for name, variance in expected.items():
        layer = getattr(head, name)
        assert abs(layer.weight[:256].std() / variance**0.5 - 1) < 0.01
        assert not layer.bias.any()


def fc_layers(*sizes):
    """A classifier's weights of fc6 and fc7; ``sizes`` are inputs, outputs and fc6's kernel."""
    return {f"head.{name}": value for name, value in VGGFC(*sizes).state_dict().items()}


@pytest.mark.parametrize("kind", ["weights", "checkpoint", "torchvision"])
def test_subsampled_fc(tmp_path, kind):
    source = fc_layers(6, 16, 7)
    theirs = {"head.fc6": "classifier.0", "head.fc7": "classifier.3"}
    flat = {theirs[name[:8]] + name[8:]: value.squeeze() for name, value in source.items()}
    flat["classifier.0.weight"] = flat["classifier.0.weight"].flatten(1)
    file = tmp_path / "vgg.pth"
    kinds = dict(weights=source, checkpoint=dict(state_dict=source), torchvision=flat)
    torch.save(kinds[kind], file)
    init = dict(type="vgg_mm.SubsampledFC", checkpoint=str(file))
    small_one = VGGFC(6, 4, 3, init_cfg=init)
    small_one.init_weights()
    fc6 = source["head.fc6.weight"][[0, 4, 8, 12]][..., [0, 3, 6], :][..., [0, 3, 6]]
    assert torch.equal(small_one.fc6.weight, fc6)
    assert torch.equal(small_one.fc6.bias, source["head.fc6.bias"][[0, 4, 8, 12]])
    fc7 = source["head.fc7.weight"][[0, 4, 8, 12]][:, [0, 4, 8, 12]]
    assert torch.equal(small_one.fc7.weight, fc7)
    assert torch.equal(small_one.fc7.bias, source["head.fc7.bias"][[0, 4, 8, 12]])
    same = VGGFC(6, 16, 7, init_cfg=init)
    same.init_weights()
    assert torch.equal(same.fc6.weight, source["head.fc6.weight"])


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((6, 32, 7), r"head.fc6.weight \(fc6.weight\) is \(16, 6, 7, 7\), .* to \(32, 6, 7, 7\)"),
        ((5, 16, 7), r"to \(16, 5, 7, 7\): dimensions may be divided"),
    ],
)
def test_what_cannot_be_subsampled(tmp_path, sizes, message):
    torch.save(fc_layers(6, 16, 7), tmp_path / "vgg.pth")
    init = dict(type="vgg_mm.SubsampledFC", checkpoint=str(tmp_path / "vgg.pth"))
    with pytest.raises(UserError, match=message):
        VGGFC(*sizes, init_cfg=init).init_weights()
    torch.save(VGG("A", width=1).state_dict(), tmp_path / "vgg.pth")
    with pytest.raises(UserError, match="vgg.pth is incomplete: it lacks fc6.weight"):
        VGGFC(*sizes, init_cfg=init).init_weights()


def classifier(arch, options=None, **kwargs):
    """An ImageClassifier with the paper's data preprocessor; ``kwargs`` are the head's."""
    return dict(
        type="mmpretrain.ImageClassifier",
        backbone=dict(type="vgg_mm.VGG", arch=arch, **(options or {})),
        head=dict(type="vgg_mm.VGGHead", **kwargs),
        data_preprocessor=dict(mean=[123.68, 116.779, 103.939], std=[1, 1, 1], to_rgb=True),
    )


def batch(n, side, classes):
    noise = torch.randint(256, (n, 3, side, side), generator=torch.Generator().manual_seed(0))
    samples = [DataSample().set_gt_label(i % classes) for i in range(n)]
    return dict(inputs=noise.to(torch.uint8), data_samples=samples)


def test_normal_initialisation_starts_at_chance():
    head = dict(num_classes=50, in_channels=64, channels=256, init_cfg=NORMAL)
    net = MODELS.build(classifier("A", dict(width=8, init_cfg=NORMAL), **head))
    torch.manual_seed(0)
    net.init_weights()
    layers = {name: m for name, m in net.named_modules() if isinstance(m, nn.Conv2d)}
    assert len(layers) == 8 + 3
    for layer in layers.values():
        assert abs(layer.weight.std() / 0.01 - 1) < 5 / (2 * layer.weight.numel()) ** 0.5
        assert not layer.bias.any()
    data = net.data_preprocessor(batch(4, 224, 50), training=True)
    loss = net(**data, mode="loss")["loss"]
    assert abs(loss - math.log(50)) < 1e-3


# Bad input.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(arch="VGG16"), "'VGG16' is not a net of Table 1; use one of A, A-LRN, B, C, D, E"),
        (dict(arch="d"), "'d' is not a net of Table 1"),
        (dict(out_indices=(5,)), "out_indices has 5, which net D lacks; use stages 0 to 4"),
        (dict(out_indices=(0, -1)), "out_indices has -1"),
        (dict(out_indices=(True,)), "out_indices has True"),
        (dict(out_indices=("conv3_4",)), "'conv3_4', which net D lacks.*Did you mean 'conv3_3'"),
        (dict(out_indices=("conv33",)), "layers conv1_1, conv1_2.*Did you mean 'conv3_3'"),
        (dict(out_indices=("norm1_1",)), "'norm1_1', which net D lacks"),
        (dict(out_indices=()), r"out_indices=\(\) must be a list"),
        (dict(frozen_stages=6), "frozen_stages=6; a net has 5 stages"),
        (dict(frozen_stages=-2), "frozen_stages=-2"),
        (dict(width=0), "width=0 is not a number of channels"),
        (dict(width=32.0), "width=32.0"),
        (dict(dilations=(1, 2)), r"dilations=\(1, 2\) must be 5 numbers"),
        (dict(dilations=(1, 1, 1, 1, 0)), "dilations=.* must be 5 numbers"),
        (dict(pool_strides=(2, 2, 2, 2)), "pool_strides=.* must be 5 times 1 or 2"),
        (dict(pool_strides=(2, 2, 2, 2, 3)), "pool_strides=.* must be 5 times 1 or 2"),
        (dict(pool_strides=(2, 2, 0, 0, 0)), "pool_strides=.* or None for no pool"),
    ],
)
def test_impossible_options(options, message):
    with pytest.raises(UserError, match=message):
        VGG(**{"arch": "D", "width": 4, **options})


@pytest.mark.parametrize("build", [lambda **key: VGG("D", **key), VGGFC, VGGHead])
def test_misspelt_key(build):
    with pytest.raises(TypeError, match="chanels_last"):
        on_meta(lambda: build(chanels_last=True))


# In the stack.


def test_no_import_is_needed():
    code = """
import sys
from mmengine.registry import MODELS, init_default_scope
assert not any(name.startswith("vgg_mm") for name in sys.modules)
print(type(MODELS.build(dict(type="vgg_mm.VGG", arch="D", width=4))))
init_default_scope("mmpretrain")
backbone = dict(type="vgg_mm.VGG", arch="D", width=4)
head = dict(type="vgg_mm.VGGHead", in_channels=32, channels=8, num_classes=3)
net = MODELS.build(dict(type="ImageClassifier", backbone=backbone, head=head))
net.init_weights()
print(type(net.backbone), type(net.head))
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, env=env
    )
    assert done.returncode == 0, done.stderr
    vgg, head = "<class 'vgg_mm.models.vgg.VGG'>", "<class 'vgg_mm.models.head.VGGHead'>"
    lines = done.stdout.splitlines()  # some of them are the log
    assert (lines[0], lines[-1]) == (vgg, f"{vgg} {head}")


def test_the_full_size_net_learns_and_tests():
    torch.manual_seed(0)
    net = on_meta(lambda: MODELS.build(classifier("D"))).to_empty(device="cpu")
    net.data_preprocessor = MODELS.build(
        dict(type="mmpretrain.ClsDataPreprocessor", **classifier("D")["data_preprocessor"])
    )
    net.init_weights()
    data = batch(1, 224, 1000)

    def loss():
        net.eval()
        with torch.no_grad():
            return net(**net.data_preprocessor(data, training=True), mode="loss")["loss"].item()

    before = loss()
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4)
    log = net.train().train_step(data, OptimWrapper(optimizer))
    assert log["loss"].isfinite()
    assert loss() < before
    (sample,) = net.test_step(data)
    assert sample.pred_score.shape == (1000,)
    assert abs(sample.pred_score.sum() - 1) < 1e-5
