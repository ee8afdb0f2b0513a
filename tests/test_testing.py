"""Dense evaluation (Sec. 3.2)."""

import numpy as np
import pytest
import torch
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

import vgg_mm.models  # noqa: F401
from vgg_mm.data import MultiScale
from vgg_mm.testing import TestTime

CLASSIFIER = dict(
    type="ImageClassifier",
    backbone=dict(type="vgg_mm.VGG", arch="A", width=4),
    head=dict(type="vgg_mm.VGGHead", in_channels=32, channels=16, kernel_size=2, num_classes=5),
    data_preprocessor=dict(mean=[120, 110, 100], std=[1, 1, 1], to_rgb=True),
)


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    model = MODELS.build(CLASSIFIER)
    model.init_weights()
    # Posteriors neither alike nor saturated, so that a wrong average shows.
    model.head.fc8.weight.data *= 0.2
    return model.eval()


def images(*sizes):
    rng = np.random.default_rng(0)
    return [torch.from_numpy(rng.integers(0, 255, (3, *size), np.uint8)) for size in sizes]


def scores(model, *scales):
    samples = [DataSample() for _ in scales[0]]
    done = model.test_step(dict(inputs=list(scales), data_samples=samples))
    return torch.stack([sample.pred_score for sample in done])


def by_hand(classifier, image):
    """The posterior of one image (3, H, W), from the net's own parts."""
    x = image.flip(0)[None].float() - torch.tensor([120.0, 110, 100])[:, None, None]
    score_map = classifier.head.score_map(classifier.backbone(x))
    return score_map.mean((2, 3)).softmax(1)[0]


@torch.no_grad()
def test_averages_the_score_map_then_the_flips_posteriors_then_the_scales(classifier):
    small, large = images((64, 96), (128, 192))
    expected = [
        (by_hand(classifier, image) + by_hand(classifier, image.flip(-1))) / 2
        for image in (small, large)
    ]
    assert (expected[0] - expected[1]).abs().max() > 1e-3
    got = scores(TestTime(classifier), [small], [large])[0]
    assert torch.allclose(got, (expected[0] + expected[1]) / 2, atol=1e-6)
    unflipped = scores(TestTime(classifier, flip=False), [small])[0]
    assert torch.allclose(unflipped, by_hand(classifier, small), atol=1e-6)
    assert not torch.allclose(unflipped, expected[0], atol=1e-6)


def test_batch_size_and_order_change_no_score(classifier):
    model = TestTime(classifier)
    batch = images((64, 96), (96, 64), (64, 96), (80, 80), (64, 96))
    one_by_one = torch.cat([scores(model, [image]) for image in batch])
    assert torch.allclose(scores(model, batch), one_by_one, atol=1e-6)
    assert torch.allclose(scores(model, batch[::-1]), one_by_one.flip(0), atol=1e-6)


def test_on_a_training_crop_it_is_the_plain_net(classifier):
    (image,) = images((64, 64))
    plain = classifier.predict(
        classifier.data_preprocessor(dict(inputs=image[None]))["inputs"], [DataSample()]
    )[0]
    assert torch.allclose(
        scores(TestTime(classifier, flip=False), [image])[0], plain.pred_score, atol=1e-6
    )


def test_multi_scale_makes_an_unpadded_image_for_each_q():
    image = np.zeros((100, 200, 3), np.uint8)
    out = MultiScale([50, 100, 150]).transform(dict(img=image))["img"]
    assert [i.shape for i in out] == [(50, 100, 3), (100, 200, 3), (150, 300, 3)]
