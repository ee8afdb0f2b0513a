"""What tools write is there whole or not at all, even if the disk is full in the middle."""

import errno
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from tools import benchmarks
from tools.analysis import drawing as drawing_of_images
from tools.data import make_cutouts
from tools.data.tiling import tile_folder
from tools.reproduce import report
from vgg_mm.errors import UserError


def archive(folder):
    cutouts = [make_cutouts.CutOut(name, Image.new("RGBA", (9, 9)), clear=True) for name in "ab"]
    make_cutouts.write({"things": cutouts}, folder / "demo.zip")
    return folder / "demo.zip"


def figures_of_a_benchmark(folder):
    benchmarks.write({"ratio": 2.0}, folder / "figures.json")
    return folder / "figures.json"


def drawing(folder):
    assert [*report.drawn(folder, "depth", Figure(), caption="Depth", note="")]
    return folder / "figures/depth.png"


def prediction(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawing_of_images, "read_image", lambda _: np.zeros((9, 9, 3), np.uint8))
        drawing_of_images.draw("a.jpg", [("a", 1.0)], folder / "a.jpg.png", ["a"])
    return folder / "a.jpg.png"


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("write", [archive, figures_of_a_benchmark, drawing, prediction])
def test_a_full_disk_leaves_what_was_there(write, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)  # when all is written, but not yet safe
        with pytest.raises(UserError, match="could not be written .No space left on device"):
            write(tmp_path)
        assert contents(tmp_path) == {}
    file = write(tmp_path)
    file.write_text("what was there")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="what was there is as it was"):
        write(tmp_path)
    assert contents(tmp_path) == {file: b"what was there"}


@pytest.mark.skipif(not shutil.which("jpegtran"), reason="jpegtran is missing")
def test_a_full_disk_leaves_no_half_of_a_tiled_image(jpeg_tree, tmp_path, monkeypatch):
    whole = Path.write_bytes

    def half(path, data):
        whole(path, data[: len(data) // 2])
        full()

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", half)
        with pytest.raises(OSError, match="No space left on device"):
            tile_folder(jpeg_tree, tmp_path / "tiled")
    assert not [*(tmp_path / "tiled").rglob("*.jpg")]
    tile_folder(jpeg_tree, tmp_path / "tiled")
    assert len(contents(tmp_path / "tiled")) == len([*jpeg_tree.rglob("*.jpg")])
