"""That all of a step and a test is on the net's device, where there is no GPU to see it on."""

import pytest
import torch
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from on_cuda import on_cuda
from torch._subclasses.fake_tensor import FakeTensorMode

import vgg_mm
from vgg_mm.models.dropout import seed_dropout

SIZES = dict(in_channels=16, channels=8, num_classes=5)
CLASSIFIER = dict(type="vgg_mm.VGGHead", **SIZES)
BOXES = dict(type="vgg_mm.BoxHead", crop_size=224, **SIZES)


@pytest.fixture
def fake():
    return FakeTensorMode(allow_non_fake_inputs=True)


def build(head=CLASSIFIER, arch="D", **backbone):
    init_default_scope("mmpretrain")
    return MODELS.build(
        dict(
            type="ImageClassifier",
            backbone=dict(type="vgg_mm.VGG", arch=arch, width=2, **backbone),
            head=head,
            data_preprocessor=dict(type="vgg_mm.VGGPreprocessor", std=(58, 57, 57), to_rgb=True),
        )
    )


@pytest.mark.parametrize(
    "changed",
    [
        dict(),
        dict(arch="A-LRN"),
        dict(channels_last=True),
        dict(frozen_stages=3),
        dict(norm_cfg=dict(type="BN")),
        dict(with_cp=True),
        dict(head=BOXES),
    ],
    ids=str,
)
def test_a_step(changed, fake):
    net = build(**changed).train()
    with fake:
        seed_dropout(on_cuda(net), 1, 2, [0], 1)
        batch = dict(inputs=torch.zeros(2, 3, 224, 224, dtype=torch.uint8), gt_label=[0, 1])
        batch |= dict(lighting=torch.zeros(2, 3), gt_bboxes=[torch.tensor([[1.0, 2, 30, 40]])] * 2)
        prepared = net.data_preprocessor(batch, training=True)
        losses = net(**prepared, mode="loss")
    assert prepared["inputs"].device.type == losses["loss"].device.type == "cuda"


@pytest.mark.parametrize(
    "tested",
    [dict(type="vgg_mm.Evaluation")]
    + [dict(type="vgg_mm.FeatureExtractor", layer=layer) for layer in ("fc7", "conv4_2", "pool5")],
    ids=str,
)
def test_a_test(tested, fake):
    model = MODELS.build(dict(tested, module=build())).eval()
    sample = DataSample(metainfo=dict(img_path="a", ori_shape=(300, 400))).set_gt_label(1)
    with fake:
        on_cuda(model)
        data = dict(inputs=[[torch.zeros(3, 256, 300, dtype=torch.uint8)]], data_samples=[sample])
        (found,) = model.test_step(data)
    value = found.get("posteriors", found.get("features"))
    assert value.device.type == "cuda"


def test_a_loss(fake):
    layers = dict(layer_weights={"conv3_2": 1.0}, layer_weights_style={"conv2_1": 1.0})
    loss = vgg_mm.PerceptualLoss(**layers, value_range=(0, 1), pretrained=None, width=2)
    with fake:
        on_cuda(loss.net)
        loss.affine = loss.affine.to("cuda")
        image = torch.zeros(1, 3, 64, 64, device="cuda")
        assert all(each.device.type == "cuda" for each in loss(image, image))
