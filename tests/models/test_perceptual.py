"""Perceptual and style losses: a plain writing with torchvision's net gives the same."""

import copy

import pytest
import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from small_nets import WIDTH, lively, torchvision_net
from torch import nn

import vgg_mm
from vgg_mm.errors import UserError
from vgg_mm.inputs import INPUTS
from vgg_mm.models import VGG

LAYERS = {"conv1_2": 0.1, "conv2_2": 0.2, "conv3_3": 1.0, "conv4_4": 1.5, "conv5_4": 2.0}
NUMBERS = {"conv1_2": 2, "conv2_2": 7, "conv3_3": 14, "conv4_4": 25, "conv5_4": 34}
STYLE = {"conv2_2": 3.0, "conv4_4": 0.5}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A small VGG-19 of torchvision's, and the file of its weights."""
    net = torchvision_net("E").features
    for module in net:
        if isinstance(module, nn.ReLU):
            module.inplace = False
    path = tmp_path_factory.mktemp("weights") / "vgg19.pth"
    torch.save({f"features.{name}": value for name, value in net.state_dict().items()}, path)
    return net, str(path)


def images(*shape):
    generator = torch.Generator().manual_seed(3)
    return [torch.rand(*shape, generator=generator) for _ in range(2)]


def build(path, layers=LAYERS, value_range=(0, 1), **kwargs):
    return vgg_mm.PerceptualLoss(layers, value_range, pretrained=path, width=WIDTH, **kwargs)


def plain(net, x, y, criterion, before_relu):
    """Both losses as anyone would write them down, of RGB images from 0 to 1."""
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]

    def features(image):
        found, image = {}, (image - mean) / std
        for i, layer in enumerate(net):
            image = layer(image)
            found |= {n: image for n, k in NUMBERS.items() if i == k + (not before_relu)}
        return found

    def gram(maps):
        n, c, h, w = maps.shape
        return torch.bmm(maps.view(n, c, h * w), maps.view(n, c, h * w).mT) / (c * h * w)

    a, b = features(x), features(y)
    content = sum(weight * criterion(a[name], b[name]) for name, weight in LAYERS.items())
    style = sum(weight * criterion(gram(a[name]), gram(b[name])) for name, weight in STYLE.items())
    return 0.5 * content, 20 * style


@pytest.mark.parametrize("before_relu", [False, True])
@pytest.mark.parametrize("criterion", ["l1", "mse"])
def test_torchvisions_net_gives_the_same_losses_and_gradients(weights, criterion, before_relu):
    net, path = weights
    x, y = images(2, 3, 41, 35)
    loss = build(
        path,
        layer_weights_style=STYLE,
        perceptual_weight=0.5,
        style_weight=20,
        criterion=criterion,
        before_relu=before_relu,
    )
    x.requires_grad_()
    ours = loss(x, y)
    theirs = plain(net, x, y, dict(l1=F.l1_loss, mse=F.mse_loss)[criterion], before_relu)
    for have, want in zip(ours, theirs, strict=True):
        assert want > 1e-3 and abs(have - want) <= 1e-5 * want
        gradients = [torch.autograd.grad(v, x, retain_graph=True)[0] for v in (have, want)]
        # Of an L1 loss, rounding may turn the sign of a difference that is next to none.
        bound = 1e-5 if criterion == "mse" else 1e-3
        assert (gradients[0] - gradients[1]).norm() <= bound * gradients[1].norm()
    assert all(parameter.grad is None for parameter in loss.net.parameters())


@pytest.mark.parametrize("value_range, order", [((-1, 1), "RGB"), ((0, 255), "BGR")])
def test_range_and_order_are_the_images_own(weights, value_range, order):
    _, path = weights
    x, y = images(1, 3, 32, 32)
    low, high = value_range

    def told(image):
        return low + (high - low) * (image if order == "RGB" else image.flip(1))

    want = build(path)(x, y)
    have = build(path, value_range=value_range, order=order)(told(x), told(y))
    assert torch.allclose(torch.stack(have), torch.stack(want), rtol=1e-4)


def test_the_input_is_what_the_weights_want(weights, tmp_path):
    x, y = images(1, 3, 32, 32)
    net = lively(VGG("D", WIDTH, out_indices=("conv5_3",)))
    layers, path = {"conv5_3": 1.0}, tmp_path / "ours.pth"
    torch.save(net.state_dict(), path)
    with pytest.raises(UserError, match="does not tell what its net wants: say input='torchvis"):
        build(str(path), layers, arch="D")
    for name in INPUTS:
        given = INPUTS[name]

        def seen(image, given=given):
            image = 255 * (image if given.order == "RGB" else image.flip(1))
            mean, std = (torch.tensor(v)[:, None, None] for v in (given.mean, given.std))
            return net((image - mean) / std)[0]

        loss = build(str(path), layers, arch="D", input=name, style_weight=0)
        have, style = loss(x, y)
        assert style is None and torch.allclose(have, F.l1_loss(seen(x), seen(y)), rtol=1e-4)


def test_a_small_image_and_nothing_past_the_last_layer(weights):
    _, path = weights
    x, y = images(1, 3, 16, 16)
    assert all(map(torch.isfinite, build(path)(x, y)))
    loss = build(path, {"conv2_1": 1.0})
    assert [name for name, _ in loss.net.named_children()][-1] == "relu2_1"
    with pytest.raises(UserError, match="15x16 leaves the pools nothing"):
        build(path)(x[:, :, 1:], y[:, :, 1:])


def test_with_norms(tmp_path):
    net, path = torchvision_net("A", norm=True).features, tmp_path / "vgg11_bn.pth"
    torch.save({f"features.{name}": value for name, value in net.state_dict().items()}, path)
    x, y = images(1, 3, 32, 32)
    x.requires_grad_()
    loss = build(str(path), {"conv2_1": 1.0}, arch="A", norm_cfg=dict(type="BN"), before_relu=True)
    loss.train()
    scale, shift = loss.affine
    want = F.l1_loss(*(net[:6](image * scale + shift) for image in (x, y)))
    assert torch.allclose(loss(x, y).perceptual, want, rtol=1e-4)


def test_it_leaves_no_trace_in_the_model_that_holds_it(weights):
    _, path = weights

    class Model(BaseModel):
        def __init__(self, loss):
            super().__init__(init_cfg=dict(type="Constant", layer="Conv2d", val=0.0))
            self.conv = nn.Conv2d(3, 3, 3, padding=1)
            self.loss = MODELS.build(loss)

        def forward(self, x):
            return self.loss(self.conv(x), x)

    config = dict(type="vgg_mm.PerceptualLoss", layer_weights=LAYERS, value_range=(0, 1))
    model = Model(dict(config, pretrained=path, width=WIDTH))
    model.init_weights()
    assert set(model.state_dict()) == {"conv.weight", "conv.bias"}
    assert len([*model.parameters()]) == 2
    x, _ = images(1, 3, 32, 32)
    losses = copy.deepcopy(model)(x)
    sum(losses).backward()
    assert losses.perceptual > 0
    assert model.double().loss.net.conv1_1.weight.dtype == torch.float64


def test_twice_differentiable(weights):
    _, path = weights
    loss = build(path, {"conv1_1": 1.0, "conv2_1": 1.0}, criterion="mse").double()
    x, y = (image.double() for image in images(1, 3, 16, 16))
    x.requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: sum(loss(x, y)), x, fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_amp(weights, dtype):
    _, path = weights
    x, y = images(1, 3, 32, 32)
    loss = build(path, criterion="mse", style_weight=1e3)
    want = loss(x, y)
    x.requires_grad_()
    with torch.autocast("cpu", dtype):
        have = loss(x, y)
    assert [value.dtype for value in have] == [torch.float32] * 2
    assert torch.allclose(torch.stack(have), torch.stack(want), rtol=0.1)
    sum(have).backward()
    assert x.grad.isfinite().all() and x.grad.abs().max() > 0


def test_the_style_has_no_size(weights):
    _, path = weights
    x, y = images(1, 3, 32, 32)
    loss = build(path, {}, layer_weights_style=STYLE, criterion="mse")
    tiled = torch.cat([x, x], 3)
    none, style = loss(tiled, x)
    assert none is None and style < loss(y, x).style


def test_the_backward_pass_keeps_signs_and_no_maps():
    layers = {"conv2_2": 1.0}
    loss = vgg_mm.PerceptualLoss(layers, (0, 1), pretrained=None, style_weight=0, width=16)
    x, y = images(1, 3, 512, 512)
    x.requires_grad_()
    kept = []

    def keep(tensor):
        kept.append(tensor.nbytes)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss(x, y)
    pixels = 512 * 512
    signs = 2 * 16 * pixels + 2 * 32 * pixels // 4
    places, difference = 4 * 16 * pixels // 4, 4 * 32 * pixels // 4
    image, kernels = 4 * 3 * pixels, 200_000
    assert sum(kept) <= signs + places + difference + image + kernels


def test_images_of_a_wrong_shape_or_size_are_named():
    criterion = vgg_mm.PerceptualLoss(
        layer_weights={"conv5_1": 1.0}, value_range=(0, 1), pretrained=None, width=1
    )
    image = torch.rand(1, 3, 64, 64)
    with pytest.raises(UserError, match=r"images are \(3, 64, 64\), not \(N, 3, H, W\)"):
        criterion(image[0], image[0])
    with pytest.raises(UserError, match="images of two sizes: conv5_1 is 4x4 and 1x1"):
        criterion(image, image[..., :20, :20])


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(layer_weights={"34": 1.0}), "a layer '34'; use conv1_1, conv1_2"),
        (dict(layer_weights={"conv5_5": 1.0}), "Did you mean 'conv5_4'"),
        (dict(layer_weights={}), "a layer ''"),
        (dict(value_range=(1, 1)), r"value_range=\(1, 1\); use \(0, 1\)"),
        (dict(order="GRB"), "order 'GRB'; use RGB, BGR"),
        (dict(criterion="l2"), "criterion 'l2'; use l1, mse"),
        (dict(arch="VGG19"), "arch 'VGG19'; use A, B, C, D, E"),
        (dict(input="timm"), "input 'timm'; use torchvision, caffe, vgg_mm"),
    ],
)
def test_what_is_impossible_is_named(change, message):
    given = dict(layer_weights=LAYERS, value_range=(0, 1), pretrained=None, width=1)
    with pytest.raises(UserError, match=message):
        vgg_mm.PerceptualLoss(**given | change)
