import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from functools import partial
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

from tools.data import scenes as more
from tools.data.scenes import AllSettings, rle
from vgg_mm import demo
from vgg_mm.data import Scenes
from vgg_mm.data import scenes as data
from vgg_mm.data.scenes import Settings, draw_scenes
from vgg_mm.demo import cutouts, scenes
from vgg_mm.errors import UserError

ALL = AllSettings(images=(24, 12, 8), classes=6, seed=3, short=48, layouts=("coco", "masks"))
FEW = Settings(images=(6, 3, 0), classes=3, short=32)


def drawn(index, split="train", seed=0, short=80):
    names = demo.things()
    return demo.draw(np.random.default_rng([seed, index]), names[index % 64], split, short)


# The cut-outs.


def everything():
    yield from (("things", name) for name in demo.things())
    yield from ((split, name) for split in demo.SPLITS for name in demo.distractors(split))


def test_counts_and_size():
    assert demo.ARCHIVE.stat().st_size <= 10e6
    assert len(demo.things()) == 1000
    assert [len(demo.distractors(split)) for split in demo.SPLITS] == [200, 100, 100]
    assert len({name for _, name in everything()}) == 1400  # none is in two parts


def test_a_cut_out_is_one_with_transparency_that_can_be_seen():
    for part, name in everything():
        image = cutouts.pyramid(part, name)[0]
        assert image.dtype == np.uint8 and image.shape[2] == 4, name
        assert 40 <= max(image.shape) <= 144 and max(image.shape[:2]) <= 2.4 * min(image.shape[:2])
        opaque = image[..., 3] > 127
        assert 0.2 < opaque.mean() < 0.97, name
        assert (image[..., :3].max(2) <= image[..., 3]).all(), name  # times alpha
        assert image[opaque][:, :3].std(0).max() > 10, f"{name} is as good as blank"


def thumbnail(name):
    """8x8 of colours on grey, and the signs of the lowest DCT coefficients of a larger one."""
    image = cutouts.pyramid("things", name)[0].astype(np.float32)
    image = image[..., :3] + 127 * (1 - image[..., 3:] / 255)
    low = cv2.dct(cv2.resize(image, (32, 32), interpolation=cv2.INTER_AREA).mean(2))[:8, :8]
    return cv2.resize(image, (8, 8), interpolation=cv2.INTER_AREA).ravel(), low.ravel()[1:] > 0


def test_no_two_classes_look_alike():
    colours, signs = map(np.stack, zip(*map(thumbnail, demo.things()), strict=True))
    bits = (signs[:, None] != signs).sum(-1)
    near = [
        (a, b)
        for a, b in np.argwhere(np.triu(bits <= 6, k=1))
        if np.abs(colours[a] - colours[b]).mean() < 12
    ]
    assert not [(demo.things()[a], demo.things()[b]) for a, b in near]


def test_the_first_classes_differ_most():
    colours = np.stack([thumbnail(name)[0] for name in demo.things()[:300]])
    distance = np.abs(colours[:, None] - colours).mean(-1) + 1e9 * np.eye(300)
    nearest = [distance[:k, :k].min(1).mean() for k in (64, 150, 300)]
    assert nearest == sorted(nearest, reverse=True)


# A scene.


def test_a_scene_is_a_function_of_its_generator():
    one, two, other = drawn(7), drawn(7), drawn(7, seed=1)
    assert np.array_equal(one.image, two.image)
    assert [thing.box for thing in one.things] == [thing.box for thing in two.things]
    assert one.image.shape != other.image.shape or not np.array_equal(one.image, other.image)


def test_scenes_are_as_the_settings_say():
    shapes, numbers, sizes, visible = Counter(), Counter(), [], []
    for i in range(300):
        scene = drawn(i)
        shapes[scene.image.shape] += 1
        numbers[len(scene.things)] += 1
        height, width = scene.image.shape[:2]
        assert not np.sum([thing.mask for thing in scene.things], 0).max() > 1
        for thing in scene.things:
            xmin, ymin, xmax, ymax = thing.box
            assert 0 <= xmin <= xmax < width and 0 <= ymin <= ymax < height
            assert thing.mask[ymin : ymax + 1, xmin : xmax + 1].sum() == thing.mask.sum()
            visible.append(thing.visible)
            if thing.visible > 0.98:
                sizes.append(max(xmax - xmin, ymax - ymin) + 1)
    assert set(shapes) == {(80, 107, 3), (107, 80, 3)} and min(shapes.values()) > 100
    assert set(numbers) == {1, 2, 3} and numbers[1] > 150
    assert min(visible) >= demo.MIN_VISIBLE * 0.999 and np.mean(np.less(visible, 0.9)) > 0.1
    assert min(sizes) >= 80 / 3 - 3 and max(sizes) < 1.3 * 80  # a turned square is wider
    assert np.quantile(sizes, 0.1) < 45 and np.quantile(sizes, 0.9) > 65


def test_the_truth_is_what_is_seen(monkeypatch):
    """With magenta for things, and nothing else that is magenta, their pixels can be told."""
    pyramid, magenta = cutouts.pyramid, np.full((60, 90, 4), 255, np.uint8)
    magenta[..., 1] = 0
    monkeypatch.setattr(
        scenes, "pyramid", lambda part, name: [magenta] if part == "things" else pyramid(part, name)
    )
    monkeypatch.setattr(scenes, "GAIN", (1, 1))
    monkeypatch.setattr(scenes, "TINT", (1, 1))
    covered = 0
    for i in range(60):
        scene = drawn(i)
        seen = np.any([thing.mask for thing in scene.things], 0)
        found = (scene.image == (255, 0, 255)).all(-1)
        assert found.sum() > 200 and not (found & ~seen).any()
        # Edges are mixed with what is behind or in front.
        inner = cv2.erode(np.uint8(seen), np.ones((3, 3), np.uint8)).astype(bool)
        assert (inner & ~found).sum() < 0.1 * inner.sum()
        if len(scene.things) == 1:
            ys, xs = np.nonzero(found)
            box = np.array([xs.min(), ys.min(), xs.max(), ys.max()])
            assert np.abs(box - scene.things[0].box).max() <= 2
            covered += scene.things[0].visible < 0.9
    assert covered > 5


def test_a_photograph_is_the_background():
    photo = np.zeros((50, 300, 3), np.uint8)
    photo[..., 2] = 200
    image = demo.draw(np.random.default_rng(0), demo.things()[0], "val", 40, photo).image
    assert ((image == (0, 0, 200)).all(-1)).mean() > 0.2


# A data set.


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return draw_scenes(tmp_path_factory.mktemp("scenes") / "all", ALL, jobs=2)


def tree(root):
    """{path: bytes} of all files."""
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def redrawn(path):
    """The scene of a file of ``root``."""
    split, index = path.stem.split("_")
    rng = np.random.default_rng([ALL.seed, demo.SPLITS.index(split), int(index)])
    return demo.draw(rng, path.parent.name, split, ALL.short)


def test_ilsvrcs_layout(root):
    assert os.listdir(root.parent) == ["all"]
    assert sorted(os.listdir(root)) == sorted(
        ["Annotations", "classes.txt", "coco", "masks", "scenes.json", *demo.SPLITS]
    )
    classes = (root / "classes.txt").read_text().split()
    assert classes == sorted(demo.things()[:6])
    for split, number in zip(demo.SPLITS, ALL.images, strict=True):
        assert sorted(os.listdir(root / split)) == classes
        images = sorted((root / split).rglob("*.JPEG"))
        assert len(images) == number
        counts = Counter(path.parent.name for path in images)
        assert max(counts.values()) - min(counts.values()) <= 1
        for path in images:
            scene = redrawn(path)
            image = cv2.imread(str(path))
            assert image.shape == scene.image.shape
            assert np.abs(image.astype(int) - scene.image).mean() < 12
            xml = ElementTree.parse(
                root / "Annotations" / path.relative_to(root).with_suffix(".xml")
            )
            assert xml.findtext("filename") == path.stem
            size = [int(xml.findtext(f"size/{key}")) for key in ("height", "width", "depth")]
            assert size == [*image.shape]
            boxes = [
                tuple(int(one.findtext(f"bndbox/{k}")) for k in ("xmin", "ymin", "xmax", "ymax"))
                for one in xml.iter("object")
            ]
            assert boxes == [thing.box for thing in scene.things]
            assert {one.findtext("name") for one in xml.iter("object")} == {path.parent.name}


def test_masks(root):
    classes = (root / "classes.txt").read_text().split()
    for path in (root / "masks").rglob("*.png"):
        mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        seen = np.any([thing.mask for thing in redrawn(path).things], 0)
        assert np.array_equal(mask, seen * (classes.index(path.parent.name) + 1))


def test_coco(root):
    mask_of = pytest.importorskip("pycocotools.mask")
    classes = (root / "classes.txt").read_text().split()
    for split, number in zip(demo.SPLITS, ALL.images, strict=True):
        coco = json.loads((root / f"coco/instances_{split}.json").read_text())
        assert [one["name"] for one in coco["categories"]] == classes
        assert len(coco["images"]) == number
        for image in coco["images"]:
            path = root / image["file_name"]
            things = redrawn(path).things
            own = [one for one in coco["annotations"] if one["image_id"] == image["id"]]
            assert path.is_file() and len(own) == len(things)
            for one, thing in zip(own, things, strict=True):
                xmin, ymin, xmax, ymax = thing.box
                assert one["bbox"] == [xmin, ymin, xmax - xmin + 1, ymax - ymin + 1]
                assert one["area"] == thing.mask.sum() == mask_of.area(one["segmentation"])
                assert [*mask_of.toBbox(one["segmentation"])] == one["bbox"]
                assert np.array_equal(mask_of.decode(one["segmentation"]), thing.mask)
                assert classes[one["category_id"] - 1] == path.parent.name


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99, 1])
def test_run_lengths_are_cocos(share):
    mask_of = pytest.importorskip("pycocotools.mask")
    for shape in [(1, 1), (7, 5), (300, 411)]:
        mask = np.random.default_rng(0).random(shape) < share
        theirs = mask_of.encode(np.asfortranarray(mask, np.uint8))["counts"].decode()
        assert rle(mask) == theirs


def test_neither_processes_nor_numbers_change_a_scene(root, tmp_path):
    more = replace(ALL, images=(30, 12, 8), layouts=("masks",))
    one, two = tree(root), tree(draw_scenes(tmp_path / "more", more, jobs=1))
    shared = {name for name in one if name.partition("/")[0] not in ("coco", "scenes.json")}
    assert all(one[name] == two[name] for name in shared)
    other = replace(ALL, seed=4)
    three = tree(draw_scenes(tmp_path / "other", other, jobs=1))
    images = [name for name in one if name.endswith(".JPEG")]
    assert not any(one[name] == three[name] for name in images)


def test_a_range_of_sizes(tmp_path):
    settings = Settings((40, 0, 0), classes=2, short=(33, 43))
    root = draw_scenes(tmp_path / "out", settings, jobs=1)
    shapes = {cv2.imread(str(path)).shape[:2] for path in root.rglob("*.JPEG")}
    assert {min(shape) for shape in shapes} == {33, 36, 39, 42}
    assert all(3 * max(shape) == 4 * min(shape) for shape in shapes)
    assert draw_scenes(root, settings) == root  # they are what was asked for


def test_scenes_are_drawn_once(root):
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert draw_scenes(str(root), ALL) == draw_scenes(root) == root
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_photographs(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(4):
        cv2.imwrite(str(photos / f"{i}.png"), np.full((90, 120, 3), 60 * i, np.uint8))
    (photos / "3.png").rename(tmp_path / "3.png")
    with pytest.raises(UserError, match="fewer than 4 images"):
        AllSettings(backgrounds=str(photos))
    (tmp_path / "3.png").rename(photos / "3.png")
    more._photos.cache_clear()
    settings = AllSettings((6, 3, 3), classes=3, short=32, backgrounds=str(photos))
    root = draw_scenes(tmp_path / "out", settings, jobs=1)
    for split, greys in (("train", {0, 60}), ("val", {120}), ("test", {180})):
        for path in (root / split).rglob("*.JPEG"):
            image = cv2.imread(str(path)).astype(int)
            assert any((np.abs(image - grey).max(2) < 9).mean() > 0.05 for grey in greys)


def draw_together(barrier, root):
    barrier.wait()
    draw_scenes(root, FEW, jobs=1)


def test_several_processes_at_once(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(3)
    root = tmp_path / "scenes"
    processes = [context.Process(target=draw_together, args=(barrier, root)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert os.listdir(tmp_path) == ["scenes"]
    assert len(list(root.rglob("*.JPEG"))) == 9


KILLED = """
import os, signal, sys
from vgg_mm.data import scenes

scenes.in_processes = lambda work, items, jobs, doing: (
    work(i) if i < 4 else os.kill(os.getpid(), signal.SIGKILL) for i in items
)
scenes.draw_scenes(sys.argv[1], scenes.Settings((6, 3, 0), classes=3, short=32))
"""


def test_a_killed_one_is_drawn_again(tmp_path):
    root = tmp_path / "scenes"
    killed = subprocess.run([sys.executable, "-c", KILLED, str(root)])
    assert killed.returncode == -signal.SIGKILL
    assert os.listdir(tmp_path) == [".scenes.drawing"]
    draw_scenes(root, FEW, jobs=1)
    assert os.listdir(tmp_path) == ["scenes"]
    assert len(list(root.rglob("*.JPEG"))) == 9


def test_a_failure_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "_write_xml", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        draw_scenes(tmp_path / "scenes", FEW, jobs=1)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (dict(images=(0, 0, 0)), "images"),
        (dict(images=(5, -1, 0)), "images"),
        (dict(classes=0), "1 to 1000"),
        (dict(classes=1001), "1 to 1000"),
        (dict(short=31), "32 pixels or more"),
        (dict(short=(48, 40)), "short must be a side or a range"),
        (dict(seed=-1), "seed"),
        (dict(layouts=("voc",)), "voc"),
        (dict(classes=255, layouts=("masks",)), "254 at most"),
        (dict(backgrounds="nowhere"), "nowhere"),
    ],
)
def test_bad_settings(settings, says):
    with pytest.raises(UserError, match=says) as error:
        AllSettings(**settings)
    assert "\n" not in str(error.value)


def test_folders_that_hold_something_else(root, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="Choose a folder"):
        draw_scenes(tmp_path / "file" / "scenes", FEW)
    for name in ("file", "mine"):
        if name == "mine":
            (tmp_path / name).mkdir()
            (tmp_path / name / "notes.txt").write_text("keep me")
        with pytest.raises(UserError, match="no data set of scenes. Remove it"):
            draw_scenes(tmp_path / name, FEW)
    assert (tmp_path / "mine/notes.txt").read_text() == "keep me"
    plain = draw_scenes(tmp_path / "plain", Settings((4, 3, 0), classes=3, short=32))
    same = AllSettings((4, 3, 0), classes=3, short=32)  # as the tool has them, without extras
    assert draw_scenes(plain, same) == plain
    with pytest.raises(UserError, match="layouts is None"):
        draw_scenes(plain, AllSettings((4, 3, 0), classes=3, short=32, layouts=("coco",)))
    with pytest.raises(
        UserError, match="holds other scenes: images is .*classes is 6.*short is 48"
    ):
        draw_scenes(root, FEW)


def test_the_data_set_reads_what_is_there(root, monkeypatch):
    train, val = (Scenes(data_root=str(root), split=split) for split in ("train", "val"))
    assert (len(train), len(val)) == ALL.images[:2]
    assert list(train.metainfo["classes"]) == (root / "classes.txt").read_text().split()


def test_the_data_set_draws_what_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "draw_scenes", partial(draw_scenes, settings=FEW))
    lazy = Scenes(data_root=str(tmp_path / "data/demo"), split="val", lazy_init=True)
    assert list(lazy.metainfo["classes"]) == Settings().names
    assert not (tmp_path / "data").exists()
    assert len(Scenes(data_root=str(tmp_path / "data/demo"), split="val")) == 3


def test_data_are_read_where_a_system_has_no_file_locks():
    code = "import sys; sys.modules['fcntl'] = None; import vgg_mm.data"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
