"""Boxes stay on their things through every transform, on the fast path and the reference's."""

import cv2
import mmcv.transforms
import numpy as np
import pytest
from mmengine.registry import MODELS
from mmpretrain.datasets import PackInputs

from vgg_mm.data import (
    CenterCrop,
    CorruptImageError,
    DrawLighting,
    LoadImage,
    LoadScaledCrop,
    MultiScale,
    PCALighting,
    RandomCrop,
    RandomFlip,
    Rescale,
    ScaleJitter,
    collate_crops,
)

FAST = [LoadScaledCrop((100, 200), 96), DrawLighting()]
REFERENCE = [LoadImage(), ScaleJitter((100, 200)), RandomCrop(96), RandomFlip(), PCALighting()]


@pytest.fixture(params=[(160, 240), (240, 160)], ids=["landscape", "portrait"])
def sample(request, tmp_path):
    """A black image with a red and a green rectangle, and their boxes."""
    boxes = np.array([[62, 51, 131, 97], [70, 90, 95, 150]], np.float32)
    image = np.zeros((*request.param, 3), np.uint8)
    for channel, (x1, y1, x2, y2) in zip((2, 1), boxes.astype(int), strict=True):
        image[y1:y2, x1:x2, channel] = 255
    cv2.imwrite(str(tmp_path / "a.png"), image)
    shape = dict(boxes_shape=image.shape[:2])
    return dict(img_path=str(tmp_path / "a.png"), gt_label=0, gt_bboxes=boxes, **shape)


def through(transforms, sample, seed=0):
    results = dict(sample, rng=np.random.default_rng(seed))
    for transform in transforms:
        results = transform(results)
    return results


def on_its_thing(results, tolerance=1.0):
    """Looks whether both boxes are where the rectangles are; returns whether these are seen."""
    (h, w), boxes = results["img"].shape[:2], results["gt_bboxes"]
    assert results["img_shape"] == (h, w)
    assert boxes.shape == (2, 4)
    for channel, box in zip((2, 1), boxes.clip(0, [w, h, w, h]), strict=True):
        if (box[2:] - box[:2]).min() < 3:
            return False
        ys, xs = np.nonzero(results["img"][..., channel] > 127)
        seen = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
        assert np.abs(box - seen).max() <= tolerance
    return True


@pytest.mark.parametrize("path", [FAST, REFERENCE], ids=["fast", "reference"])
def test_a_rectangle_is_where_its_box_says(path, sample):
    seen = [on_its_thing(through(path, sample, seed)) for seed in range(60)]
    assert sum(seen) > 15
    assert through(path, sample)["gt_bboxes"].dtype == np.float32


def test_of_jpegs_too(sample, tmp_path):
    image = cv2.imread(sample["img_path"])
    sample["img_path"] = str(tmp_path / "a.jpg")
    for interval in (0, 1):
        sampling = (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)
        options = (cv2.IMWRITE_JPEG_RST_INTERVAL, interval, *sampling)
        cv2.imwrite(sample["img_path"], image, options)
        seen = [on_its_thing(through(FAST, sample, seed)) for seed in range(30)]
        assert sum(seen) > 7


@pytest.mark.parametrize("S", [(100, 200), (170, 400)])
def test_both_paths_move_them_alike(S, sample):
    flips = 0
    for seed in range(30):
        fast = through([LoadScaledCrop(S, 96)], sample, seed)
        slow = through([LoadImage(), ScaleJitter(S), RandomCrop(96), RandomFlip()], sample, seed)
        # The fast path's window starts at whole pixels of the source.
        assert np.abs(fast["gt_bboxes"] - slow["gt_bboxes"]).max() <= 1.1
        scale, top, left, flip = fast["crop"]
        by_hand = sample["gt_bboxes"] * scale - [left, top, left, top]
        if flip:
            by_hand[:, [0, 2]] = 96 - by_hand[:, [2, 0]]
        assert np.allclose(fast["gt_bboxes"], by_hand, atol=1e-4)
        flips += flip
    assert 5 < flips < 25


def test_what_leaves_the_crop_stays_whole(sample):
    widths = sample["gt_bboxes"][:, 2:] - sample["gt_bboxes"][:, :2]
    for path in (FAST, REFERENCE):
        outside = 0
        for seed in range(20):
            results = through(path, sample, seed)
            boxes = results["gt_bboxes"]
            scales = (boxes[:, 2:] - boxes[:, :2]) / widths
            assert np.abs(scales - scales.mean()).max() < 0.02
            outside += bool((boxes < 0).any() or (boxes > 96).any())
        assert outside > 5


def test_validation_and_test(sample):
    results = through([LoadImage(), Rescale(128), CenterCrop(112)], sample)
    assert on_its_thing(results)
    pack = PackInputs(algorithm_keys=["gt_bboxes"], meta_keys=["img_path", "ori_shape"])
    assert np.array_equal(pack(results)["data_samples"].gt_bboxes, results["gt_bboxes"])
    # Of several scales none is the boxes': they stay the file's.
    packed = pack(through([LoadImage(), MultiScale([96, 128])], sample))["data_samples"]
    assert np.array_equal(packed.gt_bboxes, sample["gt_bboxes"])
    assert packed.ori_shape == sample["boxes_shape"]


def test_mmcvs_transforms_understand_them(sample):
    flip = dict(prob=1.0, direction=["horizontal", "vertical"])
    for seed in range(4):
        results = through([LoadScaledCrop((100, 200), 96)], sample, seed)
        before = results["img"].copy()
        flipped = mmcv.transforms.RandomFlip(**flip)(results)
        assert not np.array_equal(flipped["img"], before)
        on_its_thing(flipped)
    theirs = mmcv.transforms.Resize(scale=(300, 210))(through([LoadImage()], sample))
    on_its_thing(theirs)
    on_its_thing(through([RandomCrop(140), RandomFlip(), Rescale(100)], theirs | dict(gt_label=0)))
    assert on_its_thing(
        through([LoadImage(), mmcv.transforms.CenterCrop(140), RandomFlip()], sample)
    )


@pytest.mark.parametrize(
    "read", [LoadImage(), LoadScaledCrop(128, 96), LoadScaledCrop(128, 96, in_memory=True)]
)
def test_boxes_of_another_size_are_no_samples(read, sample):
    h, w = sample["boxes_shape"]
    with pytest.raises(CorruptImageError, match=rf"a\.png has {w}x{h} pixels, .* for {h}x{w}"):
        through([read], dict(sample, boxes_shape=(w, h)))
    beyond = np.array([[-5, 10, 1000, 20]], np.float32)
    results = through([read], dict(sample, gt_bboxes=beyond, gt_label=0))
    (x1, _, x2, _), scale = results["gt_bboxes"][0], (128 / 160 if "crop" in results else 1)
    assert x2 - x1 == pytest.approx(w * scale)


def test_samples_without_boxes(sample):
    results = through(FAST, dict(sample, gt_bboxes=np.zeros((0, 4), np.float32)))
    assert results["gt_bboxes"].shape == (0, 4)
    del sample["gt_bboxes"]
    for path in (FAST, REFERENCE):
        assert "gt_bboxes" not in through(path, sample)


def test_a_batch_carries_them_to_the_head(sample):
    samples = [through(FAST, sample, seed) for seed in range(3)]
    samples[1]["gt_bboxes"] = samples[1]["gt_bboxes"][:0]
    preprocessor = MODELS.build(dict(type="vgg_mm.VGGPreprocessor"))
    batch = preprocessor(collate_crops(samples))["data_samples"]
    for packed, results in zip(batch, samples, strict=True):
        assert np.array_equal(packed.gt_bboxes, results["gt_bboxes"])
        assert packed.gt_label.item() == 0
    del samples[2]["gt_bboxes"]
    assert preprocessor(collate_crops(samples))["data_samples"][2].get("gt_bboxes") is None
    for each in samples:
        each.pop("gt_bboxes", None)
    assert "gt_bboxes" not in collate_crops(samples)
