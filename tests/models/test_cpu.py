"""What evaluation does for a CPU's sake, against torch."""

import pytest
import torch
import torch.nn.functional as F
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import nn

from vgg_mm.models import cpu
from vgg_mm.models.cpu import Conv2d, OneDNNFC
from vgg_mm.testing import Evaluation

NHWC = torch.channels_last


def draw(*shape, memory_format=NHWC):
    torch.manual_seed(0)
    return torch.randn(shape).to(memory_format=memory_format)


def conv2d(x, conv):
    return F.conv2d(x.double(), conv.weight.double(), conv.bias.double(), padding=1)


@pytest.mark.parametrize("block", [1, 200, 8192])
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 4, 6), (3, 7, 4), (2, 1, 9), (5, 12, 11)])
@pytest.mark.parametrize("memory_format", [NHWC, torch.contiguous_format])
@torch.no_grad()
def test_it_is_conv2d(shape, block, memory_format, monkeypatch):
    monkeypatch.setattr(cpu, "BLOCK", block)
    x = draw(shape[0], 6, *shape[1:], memory_format=memory_format)
    conv = nn.Conv2d(6, 10, 3, padding=1)
    y = cpu.winograd(x, conv.weight, conv.bias)
    assert y.is_contiguous(memory_format=NHWC)
    assert (y - conv2d(x, conv)).abs().max() < 1e-5


@torch.no_grad()
def test_rounding_is_a_few_times_torchs_own():
    x, conv = draw(1, 512, 32, 32).relu_(), Conv2d(512, 512, 3, padding=1)
    exact, torchs = conv2d(x, conv), nn.Conv2d.forward(conv, x)
    y = conv(x)
    assert not torch.equal(y, torchs)
    assert (y - exact).abs().max() < 8 * (torchs - exact).abs().max()


@pytest.mark.parametrize("kernel_size", [1, 7])
@pytest.mark.parametrize("layout", [NHWC, torch.contiguous_format])
def test_fc_is_torchs_linear(kernel_size, layout):
    fc = OneDNNFC(32, 24, kernel_size).to(memory_format=layout)
    x = draw(2, 32, 9, 8)
    torchs = fc(x)  # for a gradient is wanted
    with torch.inference_mode():
        y = fc(x)
    assert y.stride() == torchs.stride()
    assert torch.allclose(y, torchs, atol=1e-5)


def test_training_and_other_types_take_torchs_linear(monkeypatch):
    fc, x, taken = OneDNNFC(8, 4, 3), draw(1, 8, 4, 4), []
    own = torch.Tensor.to_mkldnn
    monkeypatch.setattr(torch.Tensor, "to_mkldnn", lambda x: taken.append(x) or own(x))
    fc(x).sum().backward()
    assert fc.weight.grad.any()
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            fc(x)
        torch.export.export(fc, (x,))
        fc.double()(x.double())
        assert not taken
        fc.float()(x)
    assert len(taken) == 1


@pytest.fixture
def taken(monkeypatch):
    """The shapes of the maps that came to :func:`winograd`, which takes narrow convs too."""
    shapes = []
    own = cpu.winograd

    def spy(x, *args):
        shapes.append(tuple(x.shape))
        return own(x, *args)

    monkeypatch.setattr(cpu, "winograd", spy)
    monkeypatch.setattr(cpu, "CHANNELS", 16)
    monkeypatch.setattr(cpu, "POSITIONS", 32)
    return shapes


@torch.no_grad()
def test_it_takes_wide_convs_on_large_maps(taken):
    for conv, shape, takes in (
        (Conv2d(8, 8, 3, padding=1), (1, 8, 4, 8), True),
        (Conv2d(8, 8, 3, padding=1), (2, 8, 4, 4), True),
        (Conv2d(8, 8, 3, padding=1), (1, 8, 4, 7), False),
        (Conv2d(8, 8, 3, padding=1), (8, 4, 8), False),
        (Conv2d(7, 8, 3, padding=1), (1, 7, 4, 8), False),
        (Conv2d(8, 7, 3, padding=1), (1, 8, 4, 8), False),
        (Conv2d(8, 8, 3), (1, 8, 4, 8), False),
        (Conv2d(8, 8, 1), (1, 8, 4, 8), False),
        (Conv2d(8, 8, 3, padding=2, dilation=2), (1, 8, 4, 8), False),
        (Conv2d(8, 8, 3, padding=1, stride=2), (1, 8, 4, 8), False),
        (Conv2d(8, 8, 3, padding=1, groups=2), (1, 8, 4, 8), False),
        (Conv2d(8, 8, 3, padding=1, bias=False), (1, 8, 4, 8), False),
        (Conv2d(8, 8, 3, padding=1, padding_mode="reflect"), (1, 8, 4, 8), False),
    ):
        taken.clear()
        x = torch.randn(shape)
        x = x.to(memory_format=NHWC) if x.dim() == 4 else x
        assert torch.allclose(conv(x), nn.Conv2d.forward(conv, x), atol=1e-5)
        assert bool(taken) == takes, (conv, shape)


def test_training_other_types_and_graphs_take_torchs(taken):
    conv, x = Conv2d(8, 8, 3, padding=1), draw(1, 8, 8, 8)
    conv(x).sum().backward()
    assert conv.weight.grad.any()
    with torch.no_grad():
        conv(x.contiguous())
        with torch.autocast("cpu", torch.bfloat16):
            conv(x)
        torch.jit.trace(conv, x, check_trace=False)
        torch.export.export(conv, (x,))
        conv.double()(x.double())
        assert not taken
        conv.float()(x)
    with torch.inference_mode():
        conv(x)
    assert len(taken) == 2


def test_the_evaluation_takes_it(taken):
    torch.manual_seed(0)
    model = MODELS.build(
        dict(
            type="ImageClassifier",
            backbone=dict(type="vgg_mm.VGG", arch="C", width=4),
            head=dict(type="vgg_mm.VGGHead", in_channels=32, channels=16, num_classes=5),
            data_preprocessor=dict(mean=[128] * 3, std=[1] * 3, to_rgb=True),
        )
    )
    model.init_weights()
    images = [torch.randint(256, (3, 224, 256), dtype=torch.uint8)]
    for views, batch in (("dense", 2), ("crops", 50)):
        taken.clear()
        evaluate = Evaluation(model.eval(), views=views, crop_size=224)

        def score(evaluate=evaluate):
            data = dict(inputs=[images], data_samples=[DataSample()])
            return evaluate.test_step(data)[0].pred_score

        fast = score()
        # Not conv1_1 to conv2_1, which are narrow, nor conv3_3, conv4_3 and conv5_3, of 1x1.
        assert [shape[1] for shape in taken[:7]] == [8, 8, 16, 16, 32, 32, 32]
        assert taken[0][0] == batch
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cpu, "CHANNELS", 1000)
            assert torch.allclose(fast, score(), atol=1e-6)


def test_the_switch_turns_all_of_it_off(monkeypatch):
    backbone = dict(type="vgg_mm.VGG", arch="A", width=4)
    head = dict(type="vgg_mm.VGGHead", in_channels=32, channels=16)
    config = dict(type="ImageClassifier", backbone=backbone, head=head)
    fast, x = MODELS.build(config), torch.zeros(2, 3, 8, 8)
    cpu.speed_up(fast)
    assert type(fast.backbone.conv3_1) is Conv2d and type(fast.head.fc6) is OneDNNFC
    assert cpu.laid_out(fast, x).is_contiguous(memory_format=NHWC)
    assert {*fast.state_dict()} == {*MODELS.build(config).state_dict()}

    monkeypatch.setenv("VGG_MM_CPU", "plain")
    plain = MODELS.build(config)
    cpu.speed_up(plain)
    assert not any(isinstance(layer, Conv2d | OneDNNFC) for layer in plain.modules())
    assert cpu.laid_out(plain, x) is x
    monkeypatch.setattr(cpu.ctypes, "pythonapi", None)
    with cpu.memory_reused():
        pass
