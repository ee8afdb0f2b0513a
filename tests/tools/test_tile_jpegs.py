"""The lossless transcode of a data set."""

import os
import shutil

import cv2
import numpy as np
import pytest
from PIL import Image

from tools.data.tiling import TILED, divisor, tile
from vgg_mm.data import decode
from vgg_mm.data.jpeg import Jpeg

needs_jpegtran = pytest.mark.skipif(not shutil.which("jpegtran"), reason="jpegtran is missing")


def picture(height, width, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def write(path, height=60, width=150, seed=0, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(picture(height, width, seed))
    image.convert(options.pop("mode", "RGB")).save(path, options.pop("format", "JPEG"), **options)
    return path


@pytest.fixture
def src(tmp_path):
    src = tmp_path / "src"
    write(src / "n01/plain.JPEG")
    write(src / "n01/deep/odd.jpg", 61, 333, seed=1, subsampling=0)
    write(src / "progressive.jpg", seed=2, progressive=True)
    write(src / "tiled.jpg", 64, 128, seed=3, restart_marker_blocks=2)
    write(src / "grey.jpg", mode="L")
    write(src / "cmyk.jpg", mode="CMYK")
    write(src / "png.JPEG", format="PNG")
    exif = Image.Exif()
    exif[0x0112] = 6
    write(src / "turned.jpg", exif=exif)
    (src / "notes.txt").write_text("no picture")
    (src / "cut.jpg").write_bytes((src / "n01/plain.JPEG").read_bytes()[:-20])
    return src


TILEABLE = {"n01/plain.JPEG", "n01/deep/odd.jpg", "progressive.jpg", "tiled.jpg"}


def contents(root):
    return {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


@needs_jpegtran
def test_tiles_what_it_can_and_copies_the_rest(src, tmp_path, tool, capsys):
    before, dst = contents(src), tmp_path / "dst"
    (src / "gone.jpg").symlink_to(src / "nowhere")
    with pytest.raises(SystemExit) as ended:
        tool("tile_jpegs", src, dst)
    printed = capsys.readouterr()
    failed, *names = str(ended.value).split("\n  ")
    assert failed.startswith("error: 2 of 11 files failed") and len(names) == 2
    assert names == [
        f"{src}/cut.jpg: the image is truncated (no end marker).",
        f"{src}/gone.jpg: No such file or directory.",
    ]
    assert contents(src) == before
    after = contents(dst)
    assert after.keys() == before.keys()
    for name, data in after.items():
        if name in TILEABLE:
            assert Jpeg.parse(data).tiled
            assert np.array_equal(decode(data, name), decode(before[name], name))
        else:
            assert data == before[name]
    assert after["tiled.jpg"] == before["tiled.jpg"]
    lines = [line.split() for line in printed.out.splitlines()]
    assert lines[1][:2] == ["4", "36.4%"] and lines[-1][:2] == ["11", "100.0%"]
    assert float(lines[-1][2]) == pytest.approx(sum(map(len, before.values())) / 1e6, abs=0.06)
    for count, why in (("2", "no JPEG"), ("1", "corrupt"), ("3", "grey, CMYK"), ("1", "left out")):
        assert any(line[0] == count and why in " ".join(line) for line in lines)
    assert "Tiling" in printed.err


@needs_jpegtran
def test_goes_on_where_it_was(src, tmp_path, tool):
    dst = tmp_path / "dst"
    (src / "cut.jpg").unlink()
    table = tool("tile_jpegs", src, dst)
    done = contents(dst)
    (dst / "progressive.jpg").unlink()
    (dst / ".tile_jpegs.1.part").write_bytes(b"left over")
    (dst / "n01/plain.JPEG").write_bytes(done["n01/plain.JPEG"][:-9])  # by another tool
    kept = (dst / "tiled.jpg").stat().st_mtime_ns
    assert tool("tile_jpegs", src, dst) == table
    assert contents(dst) == done
    assert (dst / "tiled.jpg").stat().st_mtime_ns == kept


@needs_jpegtran
def test_another_interval_and_another_source_are_tiled_anew(tmp_path, tool):
    src, dst = tmp_path / "src", tmp_path / "dst"
    source, target = write(src / "a.jpg", 40, 160), dst / "a.jpg"
    tool("tile_jpegs", src, dst)
    assert Jpeg.parse(target.read_bytes()).header.interval == 2
    tool("tile_jpegs", src, dst, "--interval", 5)
    assert Jpeg.parse(target.read_bytes()).header.interval == 5
    write(source, 40, 160, seed=1)
    later = target.stat().st_mtime_ns + 10**9
    os.utime(source, ns=(later, later))
    tool("tile_jpegs", src, dst, "--interval", 5)
    shutil.copy(target, source)  # a source that is tiled in another way
    tool("tile_jpegs", src, dst, "--interval", 1)
    assert Jpeg.parse(target.read_bytes()).header.interval == 1
    pixels = (decode(path.read_bytes(), "a") for path in (source, target))
    assert np.array_equal(*pixels)


@needs_jpegtran
@pytest.mark.parametrize(("width", "interval"), [(160, 5), (176, 11), (333, 3), (16, 1), (1000, 3)])
def test_takes_the_nearest_interval_that_divides_a_row(width, interval, tmp_path):
    data, what = tile(write(tmp_path / "a.jpg", 40, width).read_bytes(), 4)
    assert what == TILED and Jpeg.parse(data).header.interval == interval


def test_divisors():
    assert [divisor(n, 4) for n in (1, 2, 8, 31, 22, 32, 63, 10)] == [1, 2, 4, 1, 2, 4, 3, 5]


@needs_jpegtran
def test_keeps_metadata(tmp_path):
    exif = Image.Exif()
    exif[0x010F] = "the camera's maker"
    path = write(tmp_path / "a.jpg", exif=exif, icc_profile=b"a profile", comment=b"a comment")
    data, what = tile(path.read_bytes())
    assert what == TILED
    for text in (b"the camera's maker", b"a profile", b"a comment"):
        assert text in data


def test_a_change_of_pixels_is_noticed(tmp_path, monkeypatch):
    other = write(tmp_path / "b.jpg", 64, 128, seed=1, restart_marker_blocks=2)
    fake = tmp_path / "jpegtran"
    fake.write_text(f"#!/bin/sh\ncat {other}")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    data = write(tmp_path / "a.jpg", 64, 128).read_bytes()
    assert tile(data) == (data, "changed by jpegtran")
    fake.write_text("#!/bin/sh\nexit 2")
    assert tile(data) == (data, "refused by jpegtran, perhaps damaged")


def test_mistakes_are_named(src, tmp_path, tool, monkeypatch):
    if shutil.which("jpegtran"):
        for dst in (src, src / "n01", tmp_path):
            with pytest.raises(SystemExit, match="one is in the other"):
                tool("tile_jpegs", src, dst)
        with pytest.raises(SystemExit, match="nowhere is no folder"):
            tool("tile_jpegs", tmp_path / "nowhere", tmp_path / "dst")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SystemExit, match="apt-get install libjpeg-turbo-progs"):
        tool("tile_jpegs", src, tmp_path / "dst")
