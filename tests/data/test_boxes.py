"""Data sets with boxes: ILSVRC's XML, Kaggle's CSV, COCO's JSON, and what is wrong with them."""

import json
import logging
import os
import shutil
import time

import numpy as np
import pytest
from mmengine.logging import MMLogger
from PIL import Image

from vgg_mm.data import FolderBoxes, ImageNetBoxes, LoadImage, boxes
from vgg_mm.data.boxes import mend, read_xml
from vgg_mm.data.images import CorruptImageError, placed
from vgg_mm.errors import UserError

CAT, DOG = "n01440764", "n01443537"
SIZE = (80, 60)


@pytest.fixture
def root(tmp_path):
    """Two classes of two images each, as ILSVRC's training set, without boxes."""
    for name in (CAT, DOG):
        (tmp_path / "train" / name).mkdir(parents=True)
        for i in range(2):
            image = Image.new("RGB", SIZE, (90 * i, 50, 120))
            image.save(tmp_path / "train" / name / f"{name}_{i}.JPEG", "JPEG")
    return tmp_path


@pytest.fixture
def warnings():
    """The lines that are logged as warnings."""
    lines = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)


def xml(*things, size=SIZE):
    objects = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax>"
        f"<ymax>{d}</ymax></bndbox></object>"
        for name, a, b, c, d in things
    )
    told = "<size><width>{}</width><height>{}</height><depth>3</depth></size>".format(*size)
    return f"<annotation><filename>x</filename>{told}{objects}</annotation>"


def write(root, files, folder="Annotations/train", flat=False):
    for name, text in files.items():
        path = root / folder / ("" if flat else name.partition("_")[0]) / f"{name}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def four(**changes):
    """A thing in each image."""
    names = [f"{name}_{i}" for name in (CAT, DOG) for i in range(2)]
    files = {name: xml((name[:9], 5 + i, 6, 20, 30)) for i, name in enumerate(names)}
    return {**files, **changes}


def listed(dataset):
    """The file's name -> its boxes."""
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    assert all(info["gt_bboxes"].dtype == np.float32 for info in infos)
    return {os.path.basename(i["img_path"])[:-5]: i["gt_bboxes"].tolist() for i in infos}


FOUND = {f"{CAT}_0": 5, f"{CAT}_1": 6, f"{DOG}_0": 7, f"{DOG}_1": 8}
FOUR = {name: [[x, 6, 21, 31]] for name, x in FOUND.items()}


def imagenet(root, **kwargs):
    return ImageNetBoxes(data_root=str(root), split="train", **kwargs)


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize(
    ("folder", "data_root"),
    [
        ("Annotations/train", "."),
        ("Annotations/CLS-LOC/train", "."),
        ("ILSVRC/Annotations/CLS-LOC/train", "ILSVRC/Data/CLS-LOC"),
    ],
)
def test_ilsvrcs_and_kaggles_folders(root, warnings, flat, folder, data_root):
    write(root, four(), folder, flat)
    if data_root != ".":
        (root / data_root).mkdir(parents=True)
        (root / "train").rename(root / data_root / "train")
    dataset = imagenet(root / data_root)
    assert listed(dataset) == FOUR and not warnings
    sample = dataset.get_data_info(3)
    assert (sample["gt_label"], sample["boxes_shape"]) == (1, SIZE[::-1])
    elsewhere = imagenet(root / data_root, boxes=str(root / folder))
    assert listed(elsewhere) == FOUR


def test_kaggles_csv(root):
    lines = ["ImageId,PredictionString"]
    for name, x in FOUND.items():
        lines.append(f"{name},{name[:9]} {x} 6 20 30 {'n09999999 1 1 2 2' if x > 6 else ''}")
    lines.append("n02222222_7,n02222222 1 2 3 4")
    (root / "LOC_train_solution.csv").write_text("\n".join(lines) + "\n")
    dataset = imagenet(root)
    assert listed(dataset) == FOUR and "boxes_shape" not in dataset.get_data_info(0)


def coco(root, names=("cat", "dog")):
    width, height = SIZE
    content = dict(categories=[dict(id=7, name=names[0]), dict(id=3, name=names[1])])
    content["images"], content["annotations"] = [], []
    for i, (name, x) in enumerate(FOUND.items()):
        path = f"{name[:9]}/{name}.JPEG"
        image = dict(id=10 + i, file_name=path, width=width, height=height)
        box = dict(image_id=10 + i, category_id=7 if i < 2 else 3, bbox=[x, 6, 21 - x, 25])
        content["images"].append(image)
        content["annotations"] += [box, dict(box, iscrowd=1, bbox=[0, 0, 80, 60])]
    return content


def test_own_data_with_cocos_json(root):
    (root / "boxes.json").write_text(json.dumps(coco(root)))
    metainfo = dict(classes=["cat", "dog"], folders=[CAT, DOG])
    args = dict(data_root=str(root), split="train", boxes="boxes.json", metainfo=metainfo)
    assert listed(FolderBoxes(**args)) == FOUR
    (root / "boxes.json").write_text(json.dumps(coco(root, (CAT, DOG))))
    assert listed(FolderBoxes(data_root=str(root), split="train", boxes="boxes.json")) == FOUR
    content = coco(root, (CAT, DOG))
    for image in content["images"]:  # as many exporters name them, from the data set's folder
        image["file_name"] = f"train/{image['file_name']}"
    (root / "annotations").mkdir()
    (root / "annotations/train.json").write_text(json.dumps(content))
    assert listed(FolderBoxes(str(root), "train")) == FOUR


def test_a_list_that_names_no_classes(root):
    (root / "boxes.json").write_text(json.dumps(coco(root)))
    for image in (root / "train").rglob("*.JPEG"):
        shutil.move(image, root / "train" / image.name)
    names = sorted(path.name for path in (root / "train").glob("*.JPEG"))
    (root / "l.txt").write_text("".join(f"{name} {i // 2}\n" for i, name in enumerate(names)))
    how = dict(ann_file="l.txt", boxes="boxes.json")
    with pytest.raises(UserError, match="l.txt names no classes: give classes="):
        FolderBoxes(str(root), "train", **how)


def test_other_classes_things_do_not_count(root):
    files = four(**{f"{CAT}_0": xml((DOG, 1, 1, 9, 9), (CAT, 2, 2, 5, 5), (CAT, 0, 0, 79, 59))})
    write(root, files)
    assert listed(imagenet(root))[f"{CAT}_0"] == [[2, 2, 6, 6], [0, 0, 80, 60]]


def test_faults_are_mended_and_counted_in_one_warning(root, warnings):
    files = four(
        **{
            f"{CAT}_0": xml((CAT, 20, 30, 5, 6), (CAT, 5, 30, 20, 6)),  # min > max
            f"{CAT}_1": xml((CAT, -4, 10, 90, 59), (CAT, 90, 10, 95, 20), (CAT, 1, 1, 80, 60)),
            f"{DOG}_0": xml((CAT, 5, 6, 20, 30)),  # another class's alone
        }
    )
    write(root, files)
    assert listed(imagenet(root)) == {
        f"{CAT}_0": [[5, 6, 21, 31]] * 2,
        f"{CAT}_1": [[0, 10, 80, 60], [1, 1, 80, 60]],
        f"{DOG}_1": FOUR[f"{DOG}_1"],
    }
    (line,) = warnings
    assert f"1 images without a box of their class left out ({root}/train/{DOG}/{DOG}_0" in line
    assert "2 boxes with min > max turned round" in line and f"{CAT}_0.JPEG" in line
    assert "1 boxes beyond the edge of their image cut off" in line
    assert "1 boxes outside of their image dropped" in line and "\n" not in line


def test_images_without_a_box_can_be_kept(root, warnings):
    files = four()
    del files[f"{CAT}_1"]
    write(root, files)
    dataset = imagenet(root, keep=True)
    assert listed(dataset) == FOUR | {f"{CAT}_1": []}
    assert dataset.get_data_info(1)["gt_bboxes"].shape == (0, 4)
    assert "1 images without a box of their class kept" in warnings[0]


BAD_XML = "<annotation><object>"
ENTITY = '<!DOCTYPE a [<!ENTITY b "c">]><annotation/>'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BAD_XML, "is no XML: no element found"),
        ("", "is no XML"),
        (ENTITY, "very large, or defines entities"),
        (" " * (2 << 20), "very large, or defines entities"),
        (xml((CAT, "a", 1, 2, 3)), "'a'"),
        (xml((CAT, "", 1, 2, 3)), "hold whole numbers"),
        (xml(size=("", 5)), "hold whole numbers"),
    ],
)
def test_what_is_no_file_of_boxes_is_named(root, text, message):
    write(root, four(**{f"{DOG}_0": text}))
    with pytest.raises(UserError, match=rf"{DOG}_0\.xml.*{message}") as error:
        imagenet(root)
    assert "\n" not in str(error.value)


def test_an_image_that_exif_turns_may_have_boxes_of_its_upright_size(root):
    turned = Image.Exif()
    turned[0x0112] = 6
    path = root / "train" / CAT / f"{CAT}_0.JPEG"
    Image.open(path).save(path, exif=turned)
    write(root, four(**{f"{CAT}_0": xml((CAT, 5, 6, 20, 30), size=SIZE[::-1])}))
    assert LoadImage()(imagenet(root).get_data_info(0))["gt_bboxes"].tolist() == FOUR[f"{CAT}_0"]


def test_boxes_of_another_size(root):
    write(root, four(**{f"{DOG}_1": xml((DOG, 5, 6, 20, 30), size=(500, 375))}))
    with pytest.raises(UserError, match=rf"{DOG}_1\.JPEG has 80x60 pixels, and .* for 500x375"):
        imagenet(root)
    write(root, four(**{f"{DOG}_1": xml((DOG, 5, 6, 20, 30), size=(0, 0))}))
    dataset = imagenet(root)  # a size that is not told
    results = dict(dataset.get_data_info(0), ori_shape=(60, 80))
    assert placed(results).tolist() == FOUR[f"{CAT}_0"]
    with pytest.raises(CorruptImageError, match="has 60x80 pixels, and its boxes are for 80x60"):
        placed(results | dict(ori_shape=(80, 60)))
    told = dict(dataset.get_data_info(3), ori_shape=(20, 10))
    assert "boxes_shape" not in told and placed(told).tolist() == [[5, 6, 10, 20]]


def test_a_class_without_boxes(root):
    files = {name: text for name, text in four().items() if name.startswith(CAT)}
    write(root, files)
    with pytest.raises(UserError, match=f"has no box for images of {DOG}: a thing's name"):
        imagenet(root)


def test_no_boxes_and_boxes_of_other_images(root):
    with pytest.raises(
        UserError, match=r"no boxes in .*Annotations/train.*LOC_train_solution\.csv"
    ):
        imagenet(root)
    with pytest.raises(UserError, match=r"no boxes in .*: mine\. Unpack"):
        imagenet(root, boxes="mine")
    csv = root / "LOC_train_solution.csv"
    csv.write_text(f"ImageId,PredictionString\nval_1,{CAT} 1 2 3 4\n")
    with pytest.raises(
        UserError, match=r"csv has boxes of other images: val_1, and in .* there are"
    ):
        imagenet(root)
    csv.write_text(f"ImageId,PredictionString\n{CAT}_0,{CAT} 1 2 3\n")
    with pytest.raises(UserError, match=r"solution\.csv, line 2: .* is no image's name, a comma"):
        imagenet(root)
    write(root, {"n03333333_1": xml()})
    with pytest.raises(UserError, match="has boxes of other images: none, and in"):
        imagenet(root)


def test_images_without_labels(root):
    write(root, four())
    with pytest.raises(UserError, match="ImageNetBoxes: boxes are those of an image's class, and"):
        imagenet(root, with_label=False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "is no JSON file"),
        ("{}", "lacks 'categories'"),
        ("[]", "list indices"),
        (dict(annotations=[dict(bbox=[1, 2, 3], image_id=10)]), "not enough values"),
        (dict(annotations=[dict(bbox=[1, 2, 3, 4], image_id=99, category_id=7)]), "lacks 99"),
    ],
)
def test_what_is_no_cocos_json(root, content, message):
    text = content if isinstance(content, str) else json.dumps(coco(root) | content)
    (root / "boxes.json").write_text(text)
    with pytest.raises(
        UserError,
        match=rf"boxes\.json is no JSON file of COCO's boxes: .*{message}|"
        rf"boxes\.json {message}",
    ):
        imagenet(root, boxes="boxes.json")


def test_mend_by_hand():
    rng = np.random.default_rng(0)
    found = rng.integers(-30, 130, (2000, 4)).astype(float)
    limits = np.array([[100.0, 80]]).repeat(2000, 0)
    mended, faults = mend(found, limits)
    for box, (x1, y1, x2, y2), turned in zip(
        found, mended, faults["with min > max turned round"], strict=True
    ):
        assert turned == (box[0] > box[2] or box[1] > box[3])
        columns = set(range(int(min(box[0::2])), int(max(box[0::2])))) & set(range(100))
        rows = set(range(int(min(box[1::2])), int(max(box[1::2])))) & set(range(80))
        assert len(columns) == x2 - x1 and len(rows) == y2 - y1
        assert not columns or (min(columns), max(columns) + 1) == (x1, x2)


def test_many_files_are_read_in_processes(root, monkeypatch):
    write(root, four())
    monkeypatch.setattr(boxes, "FEW", 2)
    assert listed(imagenet(root)) == FOUR
    write(root, four(**{f"{DOG}_0": BAD_XML}))
    with pytest.raises(UserError, match=f"{DOG}_0.xml is no XML"):
        imagenet(root)


def test_a_file_is_read_in_no_time(tmp_path):
    (tmp_path / "a.xml").write_text(xml(*[(CAT, 1, 2, 3, 4)] * 3))
    began = time.perf_counter()
    for _ in range(100):
        read_xml(str(tmp_path / "a.xml"))
    assert time.perf_counter() - began < 1
