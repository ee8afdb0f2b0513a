import multiprocessing
import os

import cv2
import numpy as np
import pytest
import torch
from mmpretrain.registry import MODELS, TRANSFORMS

from tools.data import stats
from tools.data.stats import dataset_statistics
from vgg_mm import processes as pool
from vgg_mm.data import read_image
from vgg_mm.data.files import find_images
from vgg_mm.errors import UserError


def write(path, rgb):
    path.parent.mkdir(exist_ok=True, parents=True)
    assert cv2.imwrite(str(path), np.ascontiguousarray(np.uint8(rgb)[..., ::-1]))


@pytest.fixture
def folder(tmp_path):
    """Pictures of many sizes and formats, their colours correlated, at several depths."""
    rng = np.random.default_rng(0)
    names = ["b/1.jpg", "b/deep/2.PNG", "a/3.jpeg", "4.bmp", "a/5.tif", "a/6.webp", "7.ppm"]
    for name in names * 3:
        h, w = rng.integers(1, 200, 2)
        noise = rng.normal(0, [60, 20, 8], (h, w, 3)) @ np.linalg.qr(rng.normal(size=(3, 3)))[0]
        write(tmp_path / name, (noise + rng.integers(30, 220, 3)).clip(0, 255))
    write(tmp_path / "a/grey.png", np.tile(rng.integers(0, 256, (50, 40, 1)), 3))
    (tmp_path / "a/notes.txt").write_text("no picture")
    (tmp_path / "a/.hidden.jpg").write_text("no picture")
    return tmp_path


def test_is_what_numpy_finds_at_once(folder):
    pictures = find_images(folder)
    assert len(pictures) == 8 and pictures == sorted(pictures)
    rgb = np.concatenate([read_image(name)[..., ::-1].reshape(-1, 3) for name in pictures])
    found = dataset_statistics(pictures, jobs=2)
    assert (found.images, found.pixels, found.corrupt) == (8, len(rgb), [])
    np.testing.assert_allclose(found.mean, rgb.mean(0), rtol=1e-13)
    covariance = np.cov(rgb.T / 255, bias=True)
    np.testing.assert_allclose(
        found.eigvec @ np.diag(found.eigval) @ found.eigvec.T, covariance, rtol=1e-11
    )
    np.testing.assert_allclose(found.eigvec.T @ found.eigvec, np.eye(3), atol=1e-14)
    np.testing.assert_allclose(found.eigval, np.linalg.eigvalsh(covariance)[::-1], rtol=1e-11)
    largest = np.abs(found.eigvec).argmax(0)
    assert (found.eigvec[largest, range(3)] > 0).all()


def test_neither_order_nor_jobs_change_a_digit(folder):
    pictures = find_images(folder)
    first, second = dataset_statistics(pictures, 1), dataset_statistics(pictures[::-1], 3)
    assert first.config() == second.config()


def test_printed_lines_build_what_was_measured(folder, tool):
    comment, lines = tool("dataset_stats", folder, "--jobs", 1).split("\n", 1)
    assert comment.startswith("# 8 images with ") and "corrupt" not in comment
    assert max(map(len, lines.splitlines())) <= 100
    found = dataset_statistics(find_images(folder))
    preprocessor, lighting = lines.split("\n\n")
    model = MODELS.build(
        dict(type="ImageClassifier", backbone=dict(type="vgg_mm.VGG", arch="A", width=1))
        | eval(f"dict({preprocessor})")
    )
    pixel = np.uint8([[[9]], [[8]], [[7]]])  # BGR
    out = model.data_preprocessor({"inputs": [torch.from_numpy(pixel)]})["inputs"].flatten().numpy()
    np.testing.assert_array_equal(out, np.float32([7, 8, 9]) - np.float32(found.mean))
    transform = TRANSFORMS.build(eval(lighting))
    np.testing.assert_array_equal(transform.eigval, found.eigval)
    np.testing.assert_array_equal(transform.eigvec, found.eigvec)


def test_known_colours(tmp_path):
    # Half of the pixels are red, half are green: one component, along (1, -1, 0).
    write(tmp_path / "red.png", np.tile([255, 0, 0], (4, 5, 1)))
    write(tmp_path / "green.png", np.tile([0, 255, 0], (10, 2, 1)))
    found = dataset_statistics(find_images(tmp_path))
    assert found.mean.tolist() == [127.5, 127.5, 0]
    np.testing.assert_allclose(found.eigval, [0.5, 0, 0], atol=1e-15)
    assert (found.eigval >= 0).all()
    np.testing.assert_allclose(found.eigvec[:, 0], [0.5**0.5, -(0.5**0.5), 0], atol=1e-15)


def test_a_variance_next_to_nothing_is_not_lost(tmp_path):
    picture = np.full((1000, 1000, 3), 250)
    picture[0, 0, 0] = 251
    write(tmp_path / "flat.png", picture)
    found = dataset_statistics(find_images(tmp_path))
    np.testing.assert_allclose(found.eigval[0], 1e-6 * (1 - 1e-6) / 255**2, rtol=1e-12)
    np.testing.assert_allclose(found.mean, [250 + 1e-6, 250, 250], rtol=1e-15)


def test_corrupt_images_are_named_and_left_out(folder, tool, capsys):
    expected = dataset_statistics(find_images(folder)).config()
    (folder / "a/cut.jpg").write_bytes((folder / "b/1.jpg").read_bytes()[:-20])
    (folder / "none.png").touch()
    (folder / "gone.jpg").symlink_to(folder / "nowhere")
    with pytest.raises(SystemExit) as ended:
        tool("dataset_stats", folder)
    printed, bar = capsys.readouterr()
    assert "Reading images" in bar
    assert "# 8 images with " in printed and "; 3 corrupt ones left out\n" in printed
    assert printed.split("\n", 1)[1].strip() == expected
    assert str(ended.value).startswith("error: 3 of 11 images could not be read and are left out")
    for name in ("a/cut.jpg", "none.png", "gone.jpg"):
        assert f"\n  {folder / name}: " in str(ended.value)


def test_limit_takes_images_from_everywhere(tmp_path, tool):
    for i in range(10):
        write(tmp_path / f"{i}.png", np.full((1, i + 1, 3), i))
    assert tool("dataset_stats", tmp_path, "--limit", 3).startswith(
        "# 3 images with 12 pixels\n"
    )  # 0, 3, 6
    assert tool("dataset_stats", tmp_path, "--limit", 99).startswith("# 10 images with 55 pixels\n")


def test_linked_folders_count(tmp_path):
    write(tmp_path / "there/1.png", np.zeros((1, 1, 3)))
    (tmp_path / "here").mkdir()
    (tmp_path / "here/link").symlink_to(tmp_path / "there")
    assert find_images(tmp_path / "here") == [str(tmp_path / "here/link/1.png")]


def test_errors(tmp_path, tool):
    with pytest.raises(SystemExit, match="error: no image in .* or below it"):
        tool("dataset_stats", tmp_path)
    with pytest.raises(SystemExit, match="missing: No such file or directory"):
        tool("dataset_stats", tmp_path / "missing")
    (tmp_path / "1.jpg").write_text("no picture")
    with pytest.raises(SystemExit, match="1.jpg: Not a directory"):
        tool("dataset_stats", tmp_path / "1.jpg")
    with pytest.raises(SystemExit, match="none of 1 images could be read, the first: .*1.jpg: "):
        tool("dataset_stats", tmp_path)
    with pytest.raises(SystemExit) as usage:
        tool("dataset_stats", tmp_path, "--jobs", 0)
    assert usage.value.code == 2


def test_ctrl_c_is_a_short_message(folder, tool, monkeypatch):
    def interrupted(measured, *args, **kwargs):
        yield next(measured)
        raise KeyboardInterrupt

    monkeypatch.setattr(pool, "track", interrupted)
    before = {*multiprocessing.active_children()}  # another test's loaders may be ending
    with pytest.raises(SystemExit, match="^error: stopped"):
        tool("dataset_stats", folder)
    assert not {*multiprocessing.active_children()} - before


def die(picture):
    os._exit(1)


def test_a_killed_process_is_an_error(folder, monkeypatch):
    monkeypatch.setattr(stats, "_measure", die)
    with pytest.raises(UserError, match="a process was killed.*fewer --jobs"):
        dataset_statistics(find_images(folder))
