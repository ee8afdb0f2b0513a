"""The fast input: windows cut out of JPEGs, crops loaded by them, the batch on the device."""

import io
import os

import cv2
import numpy as np
import pytest
import torch
from mmengine.dataset import default_collate
from mmengine.registry import MODELS, TRANSFORMS
from PIL import Image
from torch.utils.data import DataLoader

from tools.benchmarks.input import generate
from vgg_mm import paper
from vgg_mm.data import (
    CorruptImageError,
    DrawLighting,
    LoadImage,
    LoadScaledCrop,
    PCALighting,
    RandomCrop,
    RandomFlip,
    ScaleJitter,
    collate_crops,
    decode,
    decode_cut,
    scaled_crop,
)
from vgg_mm.data.images import REDUCED, _decode
from vgg_mm.data.jpeg import Jpeg, Window, decode_window
from vgg_mm.data.jpeg.partial import library
from vgg_mm.data.scaled_crop import resize, support
from vgg_mm.errors import UserError
from vgg_mm.inputs import INPUTS, Input

SAMPLINGS = {
    name: getattr(cv2, f"IMWRITE_JPEG_SAMPLING_FACTOR_{name}")
    for name in ("411", "420", "422", "440", "444")
}


def picture(height, width, seed=0):
    """A smooth BGR picture with some noise, (height, width, 3)."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (5, 4, 3), dtype=np.uint8)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return cv2.add(smooth, rng.integers(0, 30, smooth.shape, dtype=np.uint8))


def jpeg(height, width, sampling="420", interval=0, quality=90, progressive=0, seed=0):
    options = {
        cv2.IMWRITE_JPEG_QUALITY: quality,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR: SAMPLINGS[sampling],
        cv2.IMWRITE_JPEG_RST_INTERVAL: interval,
        cv2.IMWRITE_JPEG_PROGRESSIVE: progressive,
    }
    ok, data = cv2.imencode(".jpg", picture(height, width, seed), list(sum(options.items(), ())))
    assert ok
    return data.tobytes()


def with_orientation(data, orientation, order="II"):
    little = order == "II"
    numbers = [(42, 2), (8, 4), (1, 2), (0x0112, 2), (3, 2), (1, 4), (orientation, 2), (0, 2)]
    tiff = order.encode() + b"".join(
        value.to_bytes(size, "little" if little else "big") for value, size in numbers
    )
    exif = b"Exif\0\0" + tiff + bytes(4)
    return data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:]


def some_windows(rng, height, width, n=6):
    """Windows of any size and place, among them the corners'."""
    for i in range(n):
        h, w = (int(rng.integers(1, side, endpoint=True)) for side in (height, width))
        y, x = (int(rng.integers(0, room, endpoint=True)) for room in (height - h, width - w))
        if i == 0:
            y, x = 0, 0
        elif i == 1:
            y, x = height - h, width - w
        yield Window(y, x, y + h, x + w)


def check_windows(data, rng, n=6):
    """Compares windows, reduced by 1 to 8, with the whole's; returns the parsed file."""
    parsed = Jpeg.parse(data)
    assert parsed and parsed.shape == decode(data, "x").shape[:2]
    for i, window in enumerate(some_windows(rng, *parsed.shape, n)):
        reduced = 2 ** (i % 4)
        expected = window.over(reduced).of(decode(data, "x", reduced))
        cut = parsed.cut(window, reduced)
        image = _decode(cut.data, REDUCED[reduced])
        if parsed.header.interval or image is not None:
            assert np.array_equal(cut.place.of(image), expected), (window, reduced)
        assert np.array_equal(decode_cut(cut, "x"), expected)
        check_decoded(parsed, window, reduced, expected)
    return parsed


def check_decoded(parsed, window, reduced, expected):
    """Compares what libturbojpeg decodes, where it is there or should be."""
    assert library() or not os.environ.get("VGG_MM_TURBOJPEG")
    pixels = decode_window(parsed, window, reduced)
    assert (pixels is None) == (library() is None or parsed.tiled)
    assert pixels is None or np.array_equal(pixels, expected)


# Windows.


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_windows_are_those_of_the_full_decode(sampling):
    rng = np.random.default_rng(int(sampling))
    tiled = 0
    for i in range(60):
        height, width = (int(side) for side in rng.integers(32, 900, 2, endpoint=True))
        interval = int(rng.choice([0, 1, 2, 3, 4, 7, 8, -1]))
        parsed = check_windows(jpeg(height, width, sampling, max(interval, 0), seed=i), rng)
        columns = -(-width // parsed.header.mcu[1])
        assert parsed.tiled == (interval > 0 and columns % interval == 0)
        tiled += parsed.tiled
    assert 10 < tiled < 50


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_every_interval(sampling):
    rng = np.random.default_rng(int(sampling))
    for interval in range(0, 50):
        check_windows(jpeg(70, 230, sampling, interval), rng, n=4)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_narrow_windows_at_the_edges(sampling):
    for width in range(33, 49):
        parsed = Jpeg.parse(data := jpeg(40, width, sampling, interval=1))
        untiled = Jpeg.parse(jpeg(40, width, sampling))
        whole = {reduced: decode(data, "x", reduced) for reduced in REDUCED}
        for left in range(width):
            for window in (Window(17, left, 19, left + 1), Window(33, left, 40, width)):
                for reduced, image in whole.items():
                    pixels = decode_cut(parsed.cut(window, reduced), "x")
                    assert np.array_equal(pixels, window.over(reduced).of(image))
                    check_decoded(untiled, window, reduced, window.over(reduced).of(image))


def test_no_libturbojpeg_or_none_that_decodes_windows(monkeypatch, recwarn):
    monkeypatch.setenv("VGG_MM_TURBOJPEG", "")
    assert library.__wrapped__() is None and not recwarn
    for named in ("nowhere/libturbojpeg.so.0", cv2.__file__):
        monkeypatch.setenv("VGG_MM_TURBOJPEG", named)
        with pytest.warns(UserWarning, match="VGG_MM_TURBOJPEG=.* no libturbojpeg of 3.0 or later"):
            assert library.__wrapped__() is None


def turned(data, orientation):
    return with_orientation(data, orientation, "II" if orientation % 2 else "MM")


GREY = cv2.imencode(".jpg", picture(50, 70)[..., 0], [cv2.IMWRITE_JPEG_RST_INTERVAL, 1])[1]


def saved(image, format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


WHOLE = {
    "progressive": jpeg(50, 70, interval=1, progressive=1),
    "grey": GREY.tobytes(),
    "CMYK": saved(Image.fromarray(picture(50, 70)).convert("CMYK"), "JPEG"),
    "PNG": saved(Image.fromarray(picture(50, 70)), "PNG"),
    **{f"EXIF {i}": turned(jpeg(50, 70, interval=1), i) for i in range(2, 9)},
}


@pytest.mark.parametrize("data", WHOLE.values(), ids=WHOLE)
def test_all_else_is_decoded_as_a_whole(data, tmp_path):
    assert Jpeg.parse(data) is None
    (tmp_path / "a.JPEG").write_bytes(data)
    results = crop_of(tmp_path / "a.JPEG", LoadScaledCrop((64, 90), 64), 3)
    assert results["ori_shape"] == decode(data, "x").shape[:2]
    assert np.array_equal(results["img"], crop_of_whole(decode(data, "x"), (64, 90), 64, 3))


@pytest.mark.parametrize("order", ["II", "MM"])
def test_an_upright_orientation_and_other_segments_do_no_harm(order):
    data = with_orientation(jpeg(50, 70, interval=1), 1, order)
    check_windows(data, np.random.default_rng(0))
    check_windows(data[:2] + b"\xff\xe1\0\x0chttp://xap" + data[2:], np.random.default_rng(0))
    check_windows(data + b"\xff\xd9trailing\xff\xd0bytes", np.random.default_rng(0))


# Crops.


def crop_of(path, transform, seed):
    return transform(dict(img_path=str(path), rng=np.random.default_rng(seed)))


def draws(shape, S, size, seed):
    """What LoadScaledCrop should draw: the scale, the corner in the source, and the mirroring."""
    rng = np.random.default_rng(seed)
    S = int(rng.integers(*S, endpoint=True))
    scale = S / min(shape)
    room = [max(S, round(side * scale)) - size for side in shape]
    corner = rng.integers(0, room, endpoint=True).tolist()
    corner = [
        at / max(most, 1) * (side - size / scale)
        for side, at, most in zip(shape, corner, room, strict=True)
    ]
    return scale, corner, rng.random() < 0.5


def crop_of_whole(image, S, size, seed):
    scale, corner, flip = draws(image.shape[:2], S, size, seed)
    (top, bottom, y), (left, right, x) = (
        support(side, scale, size, at / max(side - size / scale, 1e-9))
        for side, at in zip(image.shape[:2], corner, strict=True)
    )
    crop = resize(image[top:bottom, left:right], size, scale, (y, x))
    return crop[:, ::-1] if flip else crop


def psnr(a, b):
    return 10 * np.log10(255**2 / max(np.mean((a.astype(float) - b) ** 2), 1e-9))


@pytest.mark.parametrize("interval", [0, 1, 3])
def test_crops_are_those_of_the_whole(interval, tmp_path):
    data = jpeg(250, 330, interval=interval)
    (tmp_path / "a.jpg").write_bytes(data)
    for seed in range(12):
        results = crop_of(tmp_path / "a.jpg", LoadScaledCrop((130, 512), 128), seed)
        assert results["img"].shape == (128, 128, 3) and results["img"].dtype == np.uint8
        assert results["img_shape"] == (128, 128) and results["ori_shape"] == (250, 330)
        assert np.array_equal(
            results["img"], crop_of_whole(decode(data, "x"), (130, 512), 128, seed)
        )


@pytest.mark.parametrize("S", [96, 128, 249, 250, 251, 400, 777])
@pytest.mark.parametrize("shape", [(250, 330), (330, 250), (250, 251), (16, 900)])
def test_crops_to_their_last_pixel_are_the_whole_pictures_resized(S, shape, tmp_path):
    """Pillow's ``box`` cuts the same place out of the whole picture, resized with its filter."""
    cv2.imwrite(str(tmp_path / "a.png"), picture(*shape))
    whole = Image.fromarray(picture(*shape))
    for seed in range(4):
        image = crop_of(tmp_path / "a.png", LoadScaledCrop(S, 96), seed)["img"]
        scale, corner, flip = draws(shape, (S, S), 96, seed)
        box = []
        for side, at in zip(shape, corner, strict=True):
            start, stop, first = support(side, scale, 96, at / max(side - 96 / scale, 1e-9))
            assert 0 <= start < stop <= min(side, start + 96 / scale + 2 * max(1, 1 / scale) + 2)
            assert abs(start + first / scale - at) <= 0.5 / scale + 1e-9
            box.append(start + first / scale)
        y, x = box
        box = (x, y, min(x + 96 / scale, shape[1]), min(y + 96 / scale, shape[0]))
        pillow = np.array(whole.resize((96, 96), Image.BILINEAR, box=box))
        pillow = pillow[:, ::-1] if flip else pillow
        assert psnr(image, pillow) >= 50
        assert np.abs(image.astype(int) - pillow).max() <= 2


@pytest.mark.parametrize("interval", [0, 2])
@pytest.mark.parametrize("S, reduced", [(66, 8), (67, 4), (132, 4), (133, 2), (264, 2), (265, 1)])
def test_large_photographs_are_decoded_at_a_reduced_size(
    interval, S, reduced, tmp_path, monkeypatch
):
    """The smallest that is twice as large as S, and the exact crop but for it."""
    told = []
    monkeypatch.setattr(
        scaled_crop, "decode_window", lambda *args: told.append(args[-1]) or decode_window(*args)
    )
    generate(tmp_path, 1, 1411, interval)
    path = tmp_path / "0.jpg"
    whole = decode(path.read_bytes(), "x")
    assert whole.shape == (1058, 1411, 3)
    pillow = Image.fromarray(whole)
    errors = []
    for seed in range(5):
        results = crop_of(path, LoadScaledCrop(S, 64), seed)
        crop, image = results["crop"], results["img"]
        scale, corner, flip = draws(whole.shape[:2], (S, S), 64, seed)
        assert (crop.scale, crop.flip) == (scale, flip)
        for at, side, drawn in zip(crop[1:3], whole.shape, corner, strict=False):
            assert -1e-9 <= at <= side * scale - 63.5 and abs(at - drawn * scale) <= 0.5 + 1e-9
        y, x = crop.top / scale, crop.left / scale
        box = (x, y, min(x + 64 / scale, 1411), min(y + 64 / scale, 1058))
        exact = np.array(pillow.resize((64, 64), Image.BILINEAR, box=box), int)
        errors.append(np.abs(exact[:, ::-1] - image if flip else exact - image))
    assert {*told} == {reduced}
    assert np.median(errors) <= 1 and np.percentile(errors, 99) <= (5 if reduced > 1 else 1)
    in_memory = crop_of(path, LoadScaledCrop(S, 64, in_memory=True), 0)["img"]
    assert np.array_equal(in_memory, crop_of_whole(whole, (S, S), 64, 0))


def test_draws_what_the_reference_draws(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), cv2.GaussianBlur(picture(250, 330), None, 4))
    reference = [LoadImage(), ScaleJitter((130, 400)), RandomCrop(128), RandomFlip()]
    for seed in range(10):
        fast = crop_of(tmp_path / "a.png", LoadScaledCrop((130, 400), 128), seed)
        slow = dict(img_path=str(tmp_path / "a.png"), rng=np.random.default_rng(seed))
        for transform in reference:
            slow = transform(slow)
        assert psnr(fast["img"], slow["img"]) > 38
        assert fast["rng"].random() == slow["rng"].random()


@pytest.mark.parametrize("S", [(96, 128), (250, 400)])
def test_a_crop_tells_where_it_is(S, tmp_path):
    y, x = np.mgrid[:160, :240].astype(np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), np.stack([y, x, x], -1))
    for seed in range(8):
        results = crop_of(tmp_path / "a.png", LoadScaledCrop(S, 96), seed)
        crop = results["crop"]
        assert (crop.scale, crop.flip) == draws((160, 240), S, 96, seed)[::2]
        image = results["img"][:, ::-1] if crop.flip else results["img"]
        for start, shown in ((crop.top, image[:, 48, 0]), (crop.left, image[48, :, 1])):
            source = (np.arange(96) + start + 0.5) / crop.scale - 0.5
            assert np.abs(shown - source)[3:-3].max() <= 1


def test_corners_are_uniform(tmp_path):
    y, x = np.mgrid[:8, :10].astype(np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), np.stack([y, x, x], -1))
    rng, transform = np.random.default_rng(0), LoadScaledCrop(8, 6)
    firsts, flips = [], 0
    for _ in range(1500):
        image = transform(dict(img_path=str(tmp_path / "a.png"), rng=rng))["img"]
        flipped = bool(image[0, 0, 1] > image[0, -1, 1])
        flips += flipped
        firsts.append(tuple(image[0, -1 if flipped else 0, :2].tolist()))
    corners, counts = np.unique(firsts, axis=0, return_counts=True)
    assert corners.tolist() == [[y, x] for y in range(3) for x in range(5)]
    assert ((counts - 100) ** 2 / 100).sum() < 36.1  # chi-squared, 14 degrees, p = 0.001
    assert abs(flips / 1500 - 0.5) < 0.05


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (32, 900), (900, 32), (224, 224)])
def test_pictures_of_any_shape(shape, tmp_path):
    for name, data in (("a.jpg", jpeg(*shape)), ("b.jpg", jpeg(*shape, interval=1))):
        (tmp_path / name).write_bytes(data)
        for S in (224, 512):
            image = crop_of(tmp_path / name, LoadScaledCrop(S), 0)["img"]
            assert np.array_equal(image, crop_of_whole(decode(data, "x"), (S, S), 224, 0))


def test_impossible_crops(tmp_path):
    with pytest.raises(UserError, match="S = 200 is smaller than the crop of 224"):
        LoadScaledCrop(200)
    with pytest.raises(UserError, match="LoadScaledCrop: size .* got 0"):
        LoadScaledCrop(256, 0)
    (tmp_path / "good.jpg").write_bytes(jpeg(50, 70, interval=1))
    (tmp_path / "bad.jpg").write_bytes(jpeg(50, 70, interval=1)[:-2])
    with pytest.raises(CorruptImageError, match=r"bad\.jpg: .*truncated"):
        crop_of(tmp_path / "bad.jpg", LoadScaledCrop(256), 0)
    with pytest.raises(UserError, match="LoadScaledCrop draws from .*SeededDataset"):
        LoadScaledCrop(256)(dict(img_path=str(tmp_path / "good.jpg")))


# The batch.


def samples(rng, n=3, transform=None):
    """Pictures (8, 9, 3) as a pipeline leaves them, with labels."""
    for label in range(n):
        results = dict(img=rng.integers(0, 256, (8, 9, 3), dtype=np.uint8), gt_label=label)
        results["rng"] = np.random.default_rng(label)
        yield transform(results) if transform else results


def collated(**options):
    return collate_crops(list(samples(np.random.default_rng(0), **options)))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_crops_become_planes(dtype):
    images = [picture(8, 9, seed).astype(dtype) for seed in range(3)]
    images[1] = images[1][:, ::-1]
    samples = [dict(img=img, gt_label=i, corrupt=["a"] * i) for i, img in enumerate(images)]
    batch = collate_crops(samples)
    assert np.array_equal(batch["inputs"], np.stack(images).transpose(0, 3, 1, 2))
    assert batch["gt_label"] == [0, 1, 2] and batch["corrupt"] == ["a", "a", "a"]
    worker = DataLoader(samples, 3, num_workers=1, collate_fn=collate_crops)
    (other,) = worker
    assert other["inputs"].dtype == batch["inputs"].dtype and other["inputs"].is_shared()
    assert torch.equal(other["inputs"], batch["inputs"])


def test_what_makes_no_batch():
    alike = dict(img=picture(8, 8), gt_label=0)
    wider = dict(img=picture(8, 9), gt_label=0, img_path="x.jpg")
    with pytest.raises(UserError, match=r"x\.jpg is uint8 \(8, 9, 3\) at .*uint8 \(8, 8, 3\) fits"):
        collate_crops([alike, wider])
    with pytest.raises(UserError, match=r"An image is uint8 \(8, 8\) at .*\(8, 8, 3\) fits"):
        collate_crops([dict(img=picture(8, 8)[..., 0], gt_label=0)])
    with pytest.raises(UserError, match="no 'img'. Leave PackInputs out of it"):
        collate_crops([dict(inputs=torch.zeros(3, 8, 8))])


def preprocessor(**options):
    return MODELS.build(
        dict(type="vgg_mm.VGGPreprocessor", **{"mean": paper.MEAN_RGB, "to_rgb": True, **options})
    )


def reference(**options):
    std = options.pop("std", (1, 1, 1))
    return MODELS.build(
        dict(
            type="mmpretrain.ClsDataPreprocessor",
            **{"mean": paper.MEAN_RGB, "std": std, "to_rgb": True, **options},
        )
    )


PCA = (paper.IMAGENET_EIGVAL, paper.IMAGENET_EIGVEC)


@pytest.mark.parametrize("to_rgb", [True, False])
def test_a_batch_is_the_references(to_rgb):
    fast = collated(transform=DrawLighting(*PCA))
    assert fast["inputs"].dtype == torch.uint8 and fast["corrupt"] == []
    fast = preprocessor(to_rgb=to_rgb)(fast, training=True)
    pack = TRANSFORMS.build(dict(type="mmpretrain.PackInputs"))
    slow = samples(np.random.default_rng(0), transform=PCALighting(*PCA))
    slow = default_collate([pack(sample) for sample in slow])
    slow = reference(to_rgb=to_rgb)(slow, training=True)
    assert fast["inputs"].dtype == torch.float32
    torch.testing.assert_close(fast["inputs"], slow["inputs"], rtol=0, atol=1e-4)
    assert [sample.gt_label.item() for sample in fast["data_samples"]] == [0, 1, 2]


def test_the_papers_figures_are_the_defaults():
    drawn, given = (
        draw(dict(rng=np.random.default_rng(0)))["lighting"]
        for draw in (DrawLighting(), DrawLighting(*PCA))
    )
    assert np.array_equal(drawn, given)
    batch, ours = collated(), MODELS.build(dict(type="vgg_mm.VGGPreprocessor", to_rgb=True))
    assert torch.equal(ours(batch)["inputs"], preprocessor()(batch)["inputs"])
    plain = dict(type="vgg_mm.VGGPreprocessor")
    bgr = MODELS.build(plain)
    assert torch.equal(bgr(batch)["inputs"], ours(batch)["inputs"].flip(1))
    assert INPUTS["caffe"].same_as(Input.of_preprocessor(bgr))
    assert INPUTS["caffe"].same_as(Input.of_config(dict(data_preprocessor=plain)))


@pytest.mark.parametrize("to_rgb", [True, False])
@pytest.mark.parametrize("std", [(1, 1, 1), (60, 50, 40)])
def test_without_lighting(to_rgb, std):
    batch = collated()
    options = dict(to_rgb=to_rgb, std=std)
    expected = reference(**options)({"inputs": batch["inputs"]})["inputs"]
    ours = preprocessor(**options)
    assert torch.equal(ours(batch)["inputs"], expected)
    assert torch.equal(ours({"inputs": batch["inputs"]})["inputs"], expected)
    assert torch.equal(ours({"inputs": list(batch["inputs"])})["inputs"], expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_cast_net_gets_its_type_and_mean_and_deviation_keep_their_digits(dtype):
    batch = collated(transform=DrawLighting(*PCA))
    exact = preprocessor()(batch, training=True)["inputs"]
    cast = preprocessor().to(dtype)(batch, training=True)["inputs"]
    assert torch.equal(cast, exact.to(dtype))
    divided = preprocessor(std=(58.395, 57.12, 57.375))
    exact = divided(batch, training=True)["inputs"]
    assert torch.equal(divided.to(dtype)(batch, training=True)["inputs"], exact.to(dtype))
    assert torch.equal(divided.float()(batch, training=True)["inputs"], exact)


def test_a_float_batch_is_not_changed_in_place():
    batch = torch.rand(2, 3, 4, 4)
    before = batch.clone()
    preprocessor(to_rgb=False)({"inputs": batch})
    assert torch.equal(batch, before)


# Damaged files.


def flip_bits(rng, data):
    for at in rng.integers(2, len(data), rng.integers(1, 9)):
        data[at] ^= 1 << int(rng.integers(8))


def flip_header_bits(rng, data):
    end = data.index(b"\xff\xda") + 14
    for at in rng.integers(2, end, rng.integers(1, 5)):
        data[at] ^= 1 << int(rng.integers(8))


def truncate(rng, data):
    del data[int(rng.integers(len(data))) :]
    if rng.random() < 0.3:
        data += b"\xff\xd9"


def forge_size(rng, data):
    at = data.index(b"\xff\xc0") + 5
    largest = int(rng.choice([0xFF, 0xFFFF]))
    data[at : at + 4] = b"".join(int(x).to_bytes(2, "big") for x in rng.integers(0, largest, 2))


def forge_interval(rng, data):
    interval = int(rng.choice([0, 1, 2, 3, 5, 0xFFFF])).to_bytes(2, "big")
    at = data.find(b"\xff\xdd")
    data[2:2] = b"\xff\xdd\0\4" + interval if at < 0 else b""
    if at >= 0:
        data[at + 4 : at + 6] = interval


def forge_length(rng, data):
    at = 2
    for _ in range(rng.integers(6)):
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    data[at + 2 : at + 4] = int(rng.choice([0, 1, 2, 3, 9, 0xFF, 0xFFFF])).to_bytes(2, "big")


def shift_markers(rng, data):
    at = data.index(b"\xff\xda") + int(rng.integers(14, 200))
    code = int(rng.choice([0xD0, 0xD3, 0xD9, 0xFF, 0xDA, 0xC4]))
    data[at : at + int(rng.integers(4))] = bytes([0xFF, code])


def cut_out(rng, data):
    a, b = sorted(int(x) for x in rng.integers(2, len(data), 2))
    if rng.random() < 0.5:
        del data[a:b]
    else:
        data[a:a] = data[a:b]


DAMAGES = [
    flip_bits,
    flip_header_bits,
    truncate,
    forge_size,
    forge_interval,
    forge_length,
    shift_markers,
    cut_out,
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damaged_files_are_an_error_or_the_full_decodes_pixels(damage):
    whole = [
        jpeg(34, 40, "420", 0),
        jpeg(34, 70, "420", 1),
        jpeg(40, 90, "422", 3, seed=1),
        jpeg(30, 50, "444", 5),
        jpeg(33, 36, "420", 2, progressive=1).replace(b"\xff\xc2", b"\xff\xc0"),
        with_orientation(jpeg(20, 65, "420", 1), 1),
    ]
    rng = np.random.default_rng(0)
    for i in range(2600):
        data = bytearray(whole[i % len(whole)])
        damage(rng, data)
        data, parsed, reduced = bytes(data), Jpeg.parse(bytes(data)), 2 ** (i % 4)
        try:
            full = decode(data, "x", reduced)
        except CorruptImageError:
            full = None
        if parsed is None:
            continue
        window = list(some_windows(rng, parsed.header.height, parsed.header.width, 3))[i % 3]
        try:
            pixels = decode_cut(parsed.cut(window, reduced), "x")
        except CorruptImageError:
            assert full is None
            continue
        assert full is not None, (i, data)
        assert np.array_equal(pixels, window.over(reduced).of(full)), (i, data)
