"""Pictures of every kind: what is read, with which values, and what is refused by its name."""

import io
import os
import struct
import subprocess
import sys
import warnings
import weakref
import zlib

import cv2
import numpy as np
import pytest
from mmengine.fileio import register_backend
from mmengine.fileio.backends import LocalBackend
from PIL import Image

from vgg_mm.data import (
    CorruptImageError,
    LoadImage,
    LoadScaledCrop,
    MultiScale,
    ScaleJitter,
    SeededDataset,
    decode,
    read_image,
)
from vgg_mm.data import images as images_module
from vgg_mm.errors import UserError

LEVELS = np.linspace(0, 255, 40 * 30).round().astype(np.uint8).reshape(30, 40)  # every grey
COLOR = np.dstack([LEVELS, LEVELS[::-1], LEVELS[:, ::-1]])


def encode(ext, image, *options):
    return cv2.imencode(ext, image, options)[1].tobytes()


def saved(image, format, **options):
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def with_chunk(png, kind, body):
    return png[:33] + chunk(kind, body) + png[33:]  # behind the header


def tiff(bits, data, height, width, kind=1, big=False, **more):
    """A grey TIFF of one strip; ``kind`` 1 is of whole numbers, 3 of floats."""
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: 1, 273: 16, 277: 1, 278: height}
    tags |= {279: len(data), 339: kind, **{int(key[1:]): value for key, value in more.items()}}
    data += bytes(len(data) % 2)
    if big:
        entries = b"".join(struct.pack("<HHQQ", *(tag, 4, 1, tags[tag])) for tag in sorted(tags))
        head = b"II+\0\x08\0\0\0" + struct.pack("<Q", 16 + len(data))
        return head + data + struct.pack("<Q", len(tags)) + entries + bytes(8)
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, tags[tag]) for tag in sorted(tags))
    head = b"II*\0" + struct.pack("<I", 16 + len(data)) + bytes(8)
    return head + data + struct.pack("<H", len(tags)) + entries + bytes(4)


# Depths.


@pytest.fixture
def dark():
    images_module._DARK_SAID[0] = 0


def test_twelve_bits_of_sixteen_are_scaled_where_the_file_says_so():
    twelve = np.round(COLOR.astype(np.float64) * 4095 / 255).astype(np.uint16)
    png = with_chunk(encode(".png", twelve), b"sBIT", bytes([12, 12, 12]))
    assert np.array_equal(decode(png, "x"), COLOR)
    grey = with_chunk(encode(".png", twelve[..., 0]), b"sBIT", bytes([12]))
    assert np.array_equal(decode(grey, "x"), np.dstack([LEVELS] * 3))
    # As the standard asks, scaled up when it was written: nothing more to do.
    full = with_chunk(encode(".png", COLOR.astype(np.uint16) * 257), b"sBIT", bytes([12] * 3))
    assert np.array_equal(decode(full, "x"), COLOR)
    alpha = np.dstack([twelve, np.full((30, 40), 4095, np.uint16)])
    alpha = with_chunk(encode(".png", alpha), b"sBIT", bytes([12] * 4))
    assert np.array_equal(decode(alpha, "x"), COLOR)
    eight = with_chunk(encode(".png", COLOR // 17), b"sBIT", bytes([4, 4, 4]))
    assert np.array_equal(decode(eight, "x"), COLOR // 17)  # dark, and eight bits as they are


@pytest.mark.parametrize("ext", [".png", ".tiff"])
@pytest.mark.parametrize("bits", [10, 12, 14])
def test_sixteen_bits_that_come_out_dark_are_said_once(ext, bits, dark):
    data = encode(ext, COLOR.astype(np.uint16) * ((1 << bits) // 256))
    largest = 255 * ((1 << bits) // 256)
    with pytest.warns(UserWarning, match=rf"a\.x: of 16 bits, the largest number is {largest}"):
        first = decode(data, "a.x")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(decode(data, "b.x"), first)
        decode(encode(ext, COLOR.astype(np.uint16) * 257), "c.x")


@pytest.mark.parametrize("maxval", [15, 100, 255, 1023, 4095, 65535])
def test_a_pnm_says_its_white(maxval):
    for magic, image in ((b"P5", LEVELS), (b"P6", COLOR)):
        numbers = np.round(image.astype(np.float64) * maxval / 255)
        body = numbers.astype(">u2" if maxval > 255 else np.uint8).tobytes()
        found = decode(magic + b"\n# a comment\n40 30\n%d\n" % maxval + body, "x")
        expected = np.dstack([numbers] * 3) if magic == b"P5" else numbers[..., ::-1]
        assert np.abs(found - expected * 255 / maxval).max() <= 1
    pam = b"P7\nWIDTH 40\nHEIGHT 30\nDEPTH 1\nMAXVAL 15\nTUPLTYPE GRAYSCALE\nENDHDR\n"
    assert decode(pam + (LEVELS // 17).tobytes(), "x").max() == 255


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("image", [LEVELS, COLOR], ids=["grey", "colour"])
def test_floats_are_white_at_1(image, dtype):
    expected = np.dstack([image] * 3) if image.ndim == 2 else image
    numbers = (image / 255).astype(dtype)
    assert np.array_equal(decode(encode(".tiff", numbers), "x"), expected)
    if dtype == np.float32:
        assert np.array_equal(decode(encode(".pfm", numbers), "x"), expected)
    numbers[0, 0], numbers[0, 1], numbers[0, 2] = np.nan, 1.5, -1
    assert decode(encode(".tiff", numbers), "x")[0, :3, 0].tolist() == [0, 255, 0]
    for ext in (".tiff", ".pfm")[: 2 if dtype == np.float32 else 1]:
        with pytest.raises(CorruptImageError, match="a.x: its numbers are floats up to 255, where"):
            decode(encode(ext, image.astype(dtype)), "a.x")


def test_radiance_above_1_is_white():
    numbers = np.ones((8, 9, 3), np.float32) * np.linspace(0, 300, 9, dtype=np.float32)[:, None]
    numbers[:, 0] = 0.5
    image = decode(encode(".hdr", numbers), "x").astype(int)
    assert np.abs(image[:, 0] - 128).max() <= 1 and (image[:, 1:] == 255).all()


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32])
def test_numbers_without_a_white_are_refused(dtype):
    with pytest.raises(CorruptImageError, match=f"a.tif: its numbers are {np.dtype(dtype)}, of wh"):
        decode(encode(".tiff", COLOR.astype(dtype)), "a.tif")


@pytest.mark.parametrize("bits", [10, 12])
def test_an_avif_of_more_bits_says_its_white(bits):
    deep = np.round(COLOR.astype(np.float64) * ((1 << bits) - 1) / 255).astype(np.uint16)
    options = [cv2.IMWRITE_AVIF_DEPTH, bits, cv2.IMWRITE_AVIF_QUALITY, 100]
    opaque = np.full((30, 40), (1 << bits) - 1, np.uint16)
    for image in (deep, np.dstack([deep, opaque])):
        found = decode(encode(".avif", image, *options), "x")
        assert np.abs(found.astype(int) - COLOR).mean() < 3


def test_ten_and_fourteen_bits_a_number_are_a_tiffs_own():
    for bits in (10, 12, 14):
        row = "".join(f"{v << (bits - 8) | v >> (16 - bits):0{bits}b}" for v in range(0, 256, 8))
        data = int(row, 2).to_bytes(len(row) // 8, "big")
        found = decode(tiff(bits, data, 1, 32), "x")[0, :, 0]
        assert np.abs(found - np.arange(0, 256, 8).astype(int)).max() <= 1


@pytest.mark.parametrize("format", ["PNG", "TIFF", "BMP", "PPM", "GIF", "WEBP", "AVIF"])
def test_one_bit_and_palettes(format):
    rgb = Image.fromarray(np.ascontiguousarray(COLOR[..., ::-1]))
    lossless = {"WEBP": dict(lossless=True), "AVIF": dict(quality=100, subsampling="4:4:4")}
    for mode in ("1", "P", "L"):
        if (format, mode) == ("PPM", "P"):
            continue
        image = rgb.convert(mode)
        expected = np.array(image.convert("RGB"))[..., ::-1].astype(int)
        found = decode(saved(image, format, **lossless.get(format, {})), "x")
        assert np.abs(found - expected).max() <= (4 if format == "AVIF" else 0), mode


def test_a_tiffs_ink_is_no_transparency():
    cmyk = Image.fromarray(np.ascontiguousarray(COLOR[..., ::-1])).convert("CMYK")
    found = decode(saved(cmyk, "TIFF"), "x").astype(int)
    assert np.abs(found - np.array(cmyk.convert("RGB"))[..., ::-1]).max() <= 1


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "grey"])
def test_transparency_is_white_and_turned_as_exif_says(kind, orientation):
    rgba = np.dstack([COLOR[..., ::-1], LEVELS.T.reshape(30, 40)])
    image, options = Image.fromarray(rgba), dict(lossless=True) if kind == "WEBP" else {}
    if kind == "grey":
        image, options = Image.fromarray(LEVELS), dict(transparency=int(LEVELS[3, 3]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(image, "PNG" if kind == "grey" else kind, exif=exif, **options)
    colors, alpha = rgba[..., :3].astype(float), rgba[..., 3:] / 255
    if kind == "grey":
        colors, alpha = LEVELS[..., None].astype(float), (LEVELS != LEVELS[3, 3])[..., None]
        assert not alpha.all()
    white = np.broadcast_to(colors * alpha + 255 * (1 - alpha), (30, 40, 3))[..., ::-1]
    expected = np.rot90(white, {1: 0, 3: 2, 6: 3, 8: 1}[orientation])
    found = decode(data, "x").astype(float)
    assert found.shape == expected.shape and np.abs(found - expected).max() <= 1


# Sizes.


def png(height, width, bits=1):
    row = b"\0" + b"\xff" * ((width * bits + 7) // 8)
    body = zlib.compressobj()
    packed = b"".join(body.compress(row) for _ in range(height)) + body.flush()
    head = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def headers(side):
    """Files of side x side pixels by their headers; what follows is cut short or a trick."""
    gif = saved(Image.new("P", (8, 8)), "GIF")
    bmp = saved(Image.new("RGB", (8, 8)), "BMP")
    webp = saved(Image.new("RGB", (8, 8)), "WEBP", lossless=True)
    jp2 = saved(Image.new("RGB", (64, 64)), "JPEG2000")
    avif = saved(Image.new("RGB", (64, 64)), "AVIF")
    jpeg = saved(Image.new("RGB", (64, 64)), "JPEG")
    frame = jpeg.index(b"\xff\xc0")
    sides = struct.pack(">HH", side, side)
    big = jpeg[: frame + 5] + sides + jpeg[frame + 9 :]
    text = chunk(b"tEXt", b"Comment\0" + bytes(2000))
    return {
        "png": png(side, side),
        "png with a damaged text": with_chunk(png(side, side), b"zTXt", b"k\0\0junk") + text,
        "gif": gif[:6] + struct.pack("<HH", side, side) + gif[10:],
        "bmp": bmp[:18] + struct.pack("<ii", side, side) + bmp[26:],
        "webp": webp[:21] + struct.pack("<I", (side - 1) * (1 + (1 << 14))) + webp[25:],
        "jp2": jp2.replace(struct.pack(">II", 64, 64), struct.pack(">II", side, side)),
        "avif": avif.replace(struct.pack(">II", 64, 64), struct.pack(">II", side, side)),
        "jpeg": big + bytes(side * side // 1024),
        "jpeg, arithmetic": big.replace(b"\xff\xc0", b"\xff\xc9"),
        "jpeg with bytes between": big[:20] + b"\0\0" + big[20:] + bytes(side * side // 1024),
        "tiff": tiff(1, b"\0", side, side),
        "tiff of floats": tiff(64, b"\0", side, side, kind=3),
        "tiff of 10 bits": tiff(10, b"\0", side, side),
        "BigTIFF": tiff(10, b"\0", side, side, big=True),
        "pgm": b"P5 # so\n%d %d 255\n" % (side, side),
        "pbm": b"P4\n%d %d\n" % (side, side),
        "pam": b"P7\nWIDTH %d\nHEIGHT %d\nDEPTH 1\nMAXVAL 255\nENDHDR\n" % (side, side),
        "pfm": b"PF\n%d %d\n-1\n" % (side, side),
        "hdr": b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y %d +X %d\n" % (side, side),
        "sun": struct.pack(">8I", 0x59A66A95, side, side, 8, side * side, 2, 0, 0),
    }


@pytest.mark.parametrize("kind", headers(20))
def test_the_headers_pixels_are_counted_before_decoding(kind, monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("it was decoded"))
    data = headers(14000)[kind]  # 196 million
    with pytest.raises(CorruptImageError, match=r"a\.x: 14000x14000 pixels, more than 178,956,970"):
        decode(data, "a.x")
    monkeypatch.setenv("VGG_MM_MAX_PIXELS", "399")
    with pytest.raises(CorruptImageError, match=r"a\.x: 20x20 pixels, more than 399\."):
        decode(headers(20)[kind], "a.x")


def test_the_limit_is_a_setting(monkeypatch, tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), COLOR)
    cv2.imwrite(str(tmp_path / "a.jpg"), COLOR)
    results = dict(rng=np.random.default_rng(0))
    for name in ("a.png", "a.jpg"):
        for load in (LoadImage(), LoadScaledCrop(30, 20), LoadScaledCrop(30, 20, in_memory=True)):
            monkeypatch.setenv("VGG_MM_MAX_PIXELS", "1199")
            with pytest.raises(CorruptImageError, match=f"{name}: 40x30 pixels, more than 1,199"):
                load({**results, "img_path": str(tmp_path / name)})
            monkeypatch.setenv("VGG_MM_MAX_PIXELS", "1.2e3")
            load({**results, "img_path": str(tmp_path / name)})
    monkeypatch.setenv("VGG_MM_MAX_PIXELS", "many")
    with pytest.raises(UserError, match="VGG_MM_MAX_PIXELS=many: expected a number"):
        read_image(str(tmp_path / "a.png"))


def test_a_pipe_is_no_picture(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(CorruptImageError, match="pipe.jpg: not a file"):
        read_image(str(tmp_path / "pipe.jpg"))


def test_pillows_own_limit_is_left_alone(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    assert np.array_equal(decode(encode(".png", COLOR), "x"), COLOR)
    assert Image.MAX_IMAGE_PIXELS == 50


def test_a_bomb_takes_no_memory(tmp_path):
    (tmp_path / "bomb.png").write_bytes(png(20000, 20000))
    code = (
        "import resource, sys; from vgg_mm.data import LoadScaledCrop, CorruptImageError\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: LoadScaledCrop(256)(dict(img_path=sys.argv[1]))\n"
        "except CorruptImageError as error: print(error)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    command = [sys.executable, "-c", code, tmp_path / "bomb.png"]
    says, grown = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()[-2:]
    assert "bomb.png: 20000x20000 pixels, more than" in says
    assert int(grown) < 100_000  # KB; decoded, it is a million


@pytest.mark.parametrize("shape", [(2, 60000), (60000, 2), (1, 101), (90, 9001)])
def test_thin_pictures_are_not_blown_up(shape, tmp_path):
    cv2.imwrite(str(tmp_path / "strip.png"), np.zeros((*shape, 3), np.uint8))
    results = LoadImage()(dict(img_path=str(tmp_path / "strip.png"), rng=np.random.default_rng(0)))
    says = rf"strip\.png: {shape[1]}x{shape[0]} pixels are too thin: a side is more than 100 times"
    for transform in (MultiScale([64]), ScaleJitter(64)):
        with pytest.raises(CorruptImageError, match=says):
            transform({**results})
    crop = LoadScaledCrop(512)(dict(img_path=results["img_path"], rng=np.random.default_rng(0)))
    assert crop["img"].shape == (224, 224, 3)


def test_the_rescaled_pictures_pixels_are_counted_before_it_is_made(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((2, 200, 3), np.uint8))
    results = LoadImage()(dict(img_path=str(tmp_path / "a.png")))
    says = r"a\.png: 200000x2000 pixels if its 200x2 are scaled to a shortest side of 2000, more"
    with pytest.raises(CorruptImageError, match=says):
        MultiScale([64, 2000])(results)


# Reading.


class Store(LocalBackend):
    """An object store: what it says depends on the name."""

    def get(self, filepath):
        if "gone" in str(filepath):
            raise KeyError("NoSuchKey:\nafter 5 retries")
        return None if "none" in str(filepath) else memoryview(super().get(filepath))


register_backend("flaky_store", Store, force=True)


@pytest.mark.parametrize("load", [LoadImage, lambda a=None: LoadScaledCrop(30, 20, a)])
def test_what_cannot_be_read_is_a_corrupt_picture(load, tmp_path):
    (tmp_path / "folder.jpg").mkdir()
    cv2.imwrite(str(tmp_path / "a.jpg"), COLOR)
    (tmp_path / "link.jpg").symlink_to(tmp_path / "unmounted/a.jpg")
    rng = np.random.default_rng(0)
    for name, says in {
        "nowhere.jpg": "No such file",
        "link.jpg": "No such file",
        "folder.jpg": "Is a directory",
        "a.jpg/b.jpg": "Not a directory",
        "x" * 300: "File name too long",
    }.items():
        with pytest.raises(CorruptImageError, match=f"{name}: {says}"):
            load()(dict(img_path=str(tmp_path / name), rng=rng))
    store = load(dict(backend="flaky_store"))
    assert store(dict(img_path=str(tmp_path / "a.jpg"), rng=rng))["ori_shape"] == (30, 40)
    for name, says in {
        "gone.jpg": r"gone.jpg: KeyError: 'NoSuchKey:\\nafter 5 retries'\.",
        "none.jpg": r"none.jpg: not in the store\.",
    }.items():
        with pytest.raises(CorruptImageError, match=says):
            store(dict(img_path=str(tmp_path / name), rng=rng))
    with pytest.raises(Exception, match="nowhere_store") as error:  # the config's fault, no file's
        load(dict(backend="nowhere_store"))(dict(img_path=str(tmp_path / "a.jpg"), rng=rng))
    assert not isinstance(error.value, CorruptImageError)


def a_set(folder, pipeline):
    return SeededDataset(
        dict(type="vgg_mm.Folders", data_root=str(folder), pipeline=pipeline, _scope_="mmpretrain")
    )


def test_a_picture_that_vanished_is_replaced_and_named(tmp_path):
    for i in range(3):
        (tmp_path / "a").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / f"a/{i}.jpg"), COLOR + np.uint8(i))
    data = a_set(tmp_path, [dict(type="vgg_mm.LoadScaledCrop", S=30, size=20)])
    os.remove(tmp_path / "a/1.jpg")
    samples = data.__getitems__([(0, 0, i) for i in range(3)])
    assert [len(sample["corrupt"]) > 0 for sample in samples] == [False, True, False]
    assert samples[1]["corrupt"][0] == f"{tmp_path}/a/1.jpg: No such file or directory."


# A worker's memory.


@pytest.mark.parametrize("ext", [".png", ".bmp", "progressive", ".jpg"])
@pytest.mark.parametrize("load", ["LoadScaledCrop", "LoadImage"])
def test_a_group_of_large_pictures_holds_one_at_a_time(ext, load, tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    large = cv2.resize(COLOR, (1600, 1200))
    options = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1] if ext == "progressive" else []
    name = "x.jpg" if ext == "progressive" else f"x{ext}"
    cv2.imwrite(str(tmp_path / "a" / name), large, options)
    for i in range(8):
        os.link(tmp_path / "a" / name, tmp_path / f"a/{i}{name}")
    crop = dict(type="vgg_mm.LoadScaledCrop", S=256)
    steps = [dict(type="vgg_mm.LoadImage"), dict(type="vgg_mm.ScaleJitter", S=256)]
    data = a_set(tmp_path, [crop] if load == "LoadScaledCrop" else steps)
    alive, most = [], [0]
    decoded = images_module._decode

    def watched(bytes, flag):
        image = decoded(bytes, flag)
        alive.append(weakref.ref(image))
        held = [one for ref in alive if (one := ref()) is not None]
        most[0] = max(most[0], sum(one.nbytes for one in held))
        return image

    monkeypatch.setattr(images_module, "_decode", watched)
    samples = data.__getitems__([(0, 0, i) for i in range(8)])
    assert most[0] <= 2 * large.nbytes  # two, for PNGs are decoded with and without transparency
    for i, sample in enumerate(samples):
        assert np.array_equal(sample["img"], data[0, 0, i]["img"])
