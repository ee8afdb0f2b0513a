import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from collections import Counter, defaultdict
from pathlib import PurePosixPath

import cv2
import numpy as np
import pytest

from vgg_mm import demo
from vgg_mm.errors import UserError

CLASSES = {"animals", "flags", "food", "maps", "people", "plants", "tools", "vehicles"}


@pytest.fixture(scope="module")
def images():
    """{(split, class, stem): (H, W, 3) uint8 BGR}"""
    with zipfile.ZipFile(demo.ARCHIVE) as archive:
        return {
            (*path.parent.parts, path.stem): cv2.imdecode(
                np.frombuffer(archive.read(str(path)), np.uint8), cv2.IMREAD_COLOR
            )
            for path in map(PurePosixPath, archive.namelist())
        }


def test_size_and_counts(images):
    assert demo.ARCHIVE.stat().st_size <= 10e6
    totals = Counter(label for _, label, _ in images)
    assert set(totals) == CLASSES
    assert max(totals.values()) <= 300
    assert max(totals.values()) / totals.total() < 0.215
    train = Counter(label for split, label, _ in images if split == "train")
    for label, total in totals.items():
        assert 0.75 <= train[label] / total <= 0.85, label
    assert {split for split, _, _ in images} == {"train", "val"}


def test_every_picture_decodes_to_128_by_128(images):
    for name, image in images.items():
        assert image is not None, name
        assert image.shape == (128, 128, 3), name
        assert image.std(axis=(0, 1)).max() > 15, f"{name} is as good as blank"


def test_no_series_of_stems_straddles_the_split(images):
    splits = defaultdict(set)
    for split, _, stem in images:
        series = re.sub(r"[^a-z]*([\d_][a-z])?$", "", stem.lower()).replace("_bw", "")
        splits[series].add(split)
    assert not [series for series, where in splits.items() if len(where) > 1]


def perceptual_hash(image):
    """(63,) bool: signs of a 32x32 thumbnail's lowest DCT coefficients, about their median."""
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    small = cv2.resize(grey, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = cv2.dct(small)[:8, :8].ravel()[1:]
    return low > np.median(low)


def colours(image):
    """(192,) float: an 8x8 thumbnail."""
    return cv2.resize(image, (8, 8), interpolation=cv2.INTER_AREA).astype(np.float32).ravel()


def drawing(image):
    """The picture without its white margins."""
    x, y, w, h = cv2.boundingRect((image.min(2) < 230).astype(np.uint8))
    return np.ascontiguousarray(image[y : y + h, x : x + w])


def near_duplicates(first, second, bits=10, levels=24):
    """Pairs that differ in at most so many bits of the hash and grey levels of the thumbnail."""
    first, second = ([drawing(image) for image in images] for images in (first, second))
    mirrored = [np.ascontiguousarray(image[:, ::-1]) for image in first]
    pairs = set()
    for queries in (first, mirrored):
        a, b = (np.stack([perceptual_hash(i) for i in x]) for x in (queries, second))
        for q, s in np.argwhere((a[:, None] != b).sum(-1) <= bits):
            if np.abs(colours(queries[q]) - colours(second[s])).mean() <= levels:
                pairs.add((int(q), int(s)))
    return pairs


def test_no_near_duplicate_straddles_the_split(images):
    names = {s: [name for name in images if name[0] == s] for s in ("train", "val")}
    train, val = ([images[name] for name in names[s]] for s in ("train", "val"))
    pairs = near_duplicates(val, train)
    assert not [(names["val"][v], names["train"][t]) for v, t in pairs]

    # The check itself sees most copies that are mirrored, smaller, brighter, recompressed.
    copies = []
    for image in val:
        copy = cv2.resize(image[:, ::-1], None, fx=0.7, fy=0.7, interpolation=cv2.INTER_AREA)
        _, data = cv2.imencode(".jpg", cv2.add(copy, (9, 9, 9, 0)), [cv2.IMWRITE_JPEG_QUALITY, 50])
        copies.append(cv2.imdecode(data, cv2.IMREAD_COLOR))
    seen = near_duplicates(copies, val) & {(i, i) for i in range(len(val))}
    assert len(seen) > 0.6 * len(val)


def assert_complete(root):
    with zipfile.ZipFile(demo.ARCHIVE) as archive:
        expected = {info.filename: info.file_size for info in archive.infolist()}
    files = {p.relative_to(root).as_posix(): p.stat().st_size for p in root.rglob("*.jpg")}
    assert files == expected


def test_unpack_twice_leaves_the_folder_alone(tmp_path, monkeypatch):
    root = tmp_path / "data" / "demo"
    assert demo.unpack(str(root)) == root
    assert_complete(root)
    assert os.listdir(root.parent) == ["demo"]
    before = root.stat().st_mtime_ns
    monkeypatch.setattr(zipfile.ZipFile, "extractall", None)
    assert demo.unpack(root) == root
    assert root.stat().st_mtime_ns == before


def test_unpack_when_another_process_is_faster(tmp_path, monkeypatch):
    rename = os.rename

    def slow_rename(source, target):
        shutil.copytree(source, target)
        rename(source, target)

    monkeypatch.setattr(os, "rename", slow_rename)
    assert_complete(demo.unpack(tmp_path / "demo"))
    assert os.listdir(tmp_path) == ["demo"]


def unpack_together(barrier, root):
    barrier.wait()
    demo.unpack(root)


def test_unpack_from_two_processes_at_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    processes = [
        context.Process(target=unpack_together, args=(barrier, tmp_path / "demo")) for _ in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert_complete(tmp_path / "demo")
    assert os.listdir(tmp_path) == ["demo"]


KILLED_HALFWAY = """
import os, signal, sys, zipfile
from vgg_mm import demo

def extractall(archive, folder):
    for name in archive.namelist()[:500]:
        archive.extract(name, folder)
    os.kill(os.getpid(), signal.SIGKILL)

zipfile.ZipFile.extractall = extractall
demo.unpack(sys.argv[1])
"""


def test_unpack_after_a_killed_one(tmp_path):
    root = tmp_path / "demo"
    killed = subprocess.run([sys.executable, "-c", KILLED_HALFWAY, str(root)])
    assert killed.returncode == -signal.SIGKILL
    assert not root.exists() and len(os.listdir(tmp_path)) == 1
    assert_complete(demo.unpack(root))


def test_unpack_errors(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="Choose a folder"):
        demo.unpack(tmp_path / "file" / "demo")
    with pytest.raises(UserError, match="Remove it, or choose another folder"):
        demo.unpack(tmp_path / "file")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep me")
    with pytest.raises(UserError, match="Remove it, or choose another folder"):
        demo.unpack(tmp_path / "mine")
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep me"
