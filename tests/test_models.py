"""Sec. 2: the nets, against other people's and against the formulas."""

import math
import os
import subprocess
import sys
from pathlib import Path

import mmpretrain.models.backbones as mmpretrain_backbones
import numpy as np
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

from vgg_mm.errors import UserError
from vgg_mm.models import FC, VGG, VGGFC, Glorot, VGGHead
from vgg_mm.paper import TABLE_1, stages

ROOT = Path(__file__).parents[1]
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
        values = noise.repeat(math.ceil(value.numel() / len(noise)))[: value.numel()]
        value.copy_(values.view(value.shape))
        if value.dim() > 1:
            value.mul_((2 / value[0].numel()) ** 0.5)
        elif name.endswith("running_var"):
            value.abs_().add_(0.5)
        else:
            value.mul_(0.2)
    return net.eval()


def randomise(net):
    """Random weights everywhere, so that no bias or batch norm does nothing."""
    torch.manual_seed(0)
    net.init_weights()
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
