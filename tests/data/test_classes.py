"""A class is its name, for data sets, checkpoints and predictions."""

import json
import logging
import re
import shutil
import uuid
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.runner import Runner
from mmpretrain.registry import MODELS
from torch import nn

from tools.evaluation import check_protocol, evaluate
from vgg_mm.api import load
from vgg_mm.data import Folders, ImageNet, SeededDataset, read_image
from vgg_mm.data.classes import metainfo, positions
from vgg_mm.data.files import EXTENSIONS, SYSTEM, find_images, hidden
from vgg_mm.data.folders import WORDNET
from vgg_mm.data.wrappers import innermost
from vgg_mm.errors import UserError
from vgg_mm.testing.scores import Scores
from vgg_mm.weights.checkpoint import read_checkpoint

ROOT = Path(__file__).parents[2]
CLASSES = ("cat", "dog", "horse")


def picture(k=0, ext=".jpg", size=(80, 90)):
    image = np.random.default_rng(k).integers(0, 90, (*size, 3), np.uint8)
    image[..., k % 3] += 150
    written, data = cv2.imencode(ext, image)
    return data.tobytes() if written else b""


def put(path, data=b""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def tree(root, **splits):
    """Pictures of a class have a colour of their own, whatever number it gets."""
    for split, classes in splits.items():
        for name in classes:
            for i in range(4 if split == "train" else 2):
                put(
                    root / split / name / f"{i}.jpg",
                    picture(CLASSES.index(name) if name in CLASSES else 0),
                )
    return root


def labels(dataset):
    """The label of each class folder, as samples carry it after the pipeline's first transforms."""
    found = {}
    for i in range(len(dataset)):
        sample = Compose(dataset.pipeline.transforms)(dataset.get_data_info(i))
        name = Path(sample["img_path"]).parent.name
        assert found.setdefault(name, sample["gt_label"]) == sample["gt_label"]
    return found


@pytest.fixture
def told(monkeypatch):
    """The warnings of mmengine's loggers."""
    lines = []

    def keep(self, record):
        if record.levelno >= logging.WARNING:
            lines.append(record.getMessage())

    monkeypatch.setattr(MMLogger, "callHandlers", keep)
    return lines


# Names to labels.


def test_labels_come_from_names_in_whatever_order(tmp_path):
    root = tree(tmp_path, train=CLASSES)
    dataset = Folders(str(root), "train", classes=["horse", "dog", "cat"])
    assert labels(dataset) == {"cat": 2, "dog": 1, "horse": 0}
    named = dict(classes=["Felis catus", "Equus", "Canis"], folders=["cat", "horse", "dog"])
    dataset = Folders(str(root), "train", metainfo=named)
    assert labels(dataset) == {"cat": 0, "horse": 1, "dog": 2}
    assert dataset.metainfo == named


def test_a_folder_that_is_no_class_is_an_error(tmp_path):
    root = tree(tmp_path, train=(*CLASSES, "mule"))
    with pytest.raises(UserError) as error:
        Folders(str(root), "train", classes=CLASSES)
    message = str(error.value)
    assert message.startswith(f"{root}/train: mule is no class of Folders.") and "\n" not in message
    assert "Its folders: cat, dog, horse, mule; the classes' folders: cat, dog, horse." in message
    with pytest.raises(UserError, match="2 folders.* of its own"):
        Folders(str(root), "train", classes=["cat", "cat", "dog"])


def test_imagenets_folders_are_wordnet_ids(tmp_path):
    assert len(WORDNET) == len({*WORDNET}) == 1000 and WORDNET[0] == "n01440764"
    some = {"n01440764": 0, "n02012849": 134, "n03126707": 517}  # a tench and the two cranes
    root = tree(tmp_path, val=some)
    dataset = ImageNet(data_root=str(root), split="val")
    assert labels(dataset) == some
    names = [dataset.metainfo["classes"][label] for label in some.values()]
    assert names == ["tench, Tinca tinca", "crane", "crane"]
    assert len(dataset.empty) == 997
    ids = dict(classes=WORDNET)
    assert positions(dataset.metainfo, ids) == positions(ids, dataset.metainfo) == [*range(1000)]
    (root / "val/n02012849").rename(root / "val/n02012850")
    with pytest.raises(UserError, match="n02012850 is no class of ImageNet.*vgg_mm.Folders"):
        ImageNet(data_root=str(root), split="val")


def test_positions_of_classes_among_others():
    three = dict(classes=CLASSES)
    assert positions(three, three) == [0, 1, 2]
    assert positions(three, dict(classes=["horse", "cat"])) == [2, 0]
    assert positions(three, dict(classes=["horse", "mule"])) is None
    cranes = dict(classes=["crane", "crane", "dog"], folders=["n1", "n2", "n3"])
    assert positions(cranes, dict(classes=["dog", "crane"], folders=["n3", "n2"])) == [2, 1]
    assert positions(cranes, dict(classes=["n2"])) == [1]
    assert positions(cranes, dict(classes=["crane"])) is None  # which?
    assert positions(cranes, dict(classes=["crane", "crane", "dog"])) == [0, 1, 2]


# Training, testing and prediction.


@MODELS.register_module()
class Colours(nn.Module):
    """A backbone that hands the picture's colours on."""

    def forward(self, x):
        return (x,)


class Knows(Hook):
    """Makes the net right: class after class gets its colour's row."""

    def __init__(self, classes):
        self.classes = classes

    def before_train(self, runner):
        rows = [torch.eye(3)[2 - CLASSES.index(name)] for name in self.classes]
        runner.model.head.fc.weight.data = torch.stack(rows) / 20


def run(root, work_dir, classes=CLASSES, **options):
    """Trains a net that is right from the start, at rate 0; returns the Runner."""
    cfg = narrow(root, work_dir, **options)
    runner = Runner.from_cfg(cfg)
    runner.register_hook(Knows(classes))
    runner.train()
    return runner


def accuracy(runner):
    return runner.message_hub.get_scalar("val/accuracy/top1").current()


def narrow(root, work_dir, **options):
    """The demo's config with a linear classifier of mean colours, for classes in folders."""
    cfg = Config.fromfile(ROOT / "configs/demo.py")
    for name in ("train", "val", "test"):
        dataset = cfg[f"{name}_dataloader"].dataset
        dataset = dataset.dataset if name == "train" else dataset
        dataset.update(type="vgg_mm.Folders", data_root=str(root), split=name)
    cfg.test_dataloader.dataset.split = "val"
    head = dict(type="LinearClsHead", num_classes=3, in_channels=3, topk=(1,))
    cfg.model = dict(
        type="ImageClassifier",
        backbone=dict(type="Colours"),
        neck=dict(type="GlobalAveragePooling"),
        head=head,
        data_preprocessor=dict(
            type="vgg_mm.VGGPreprocessor", mean=[99] * 3, std=[1] * 3, to_rgb=True
        ),
    )
    cfg.param_scheduler = [dict(type="MultiStepLR", milestones=[9])]
    cfg.merge_from_dict(
        {
            "optim_wrapper.optimizer.lr": 0,
            "train_dataloader.batch_size": 4,
            "train_cfg.max_epochs": 1,
            "train_cfg.val_interval": 1,
            "default_hooks.checkpoint.interval": 1,
            "work_dir": str(work_dir),
            "experiment_name": str(uuid.uuid4()),
            **options,
        }
    )
    return cfg


TRAIN, VAL = "train_dataloader.dataset.dataset", "val_dataloader.dataset"


def test_a_class_that_the_validation_lacks_moves_no_label(tmp_path, told):
    root = tree(tmp_path / "data", train=CLASSES, val=CLASSES[1:])
    runner = run(root, tmp_path)
    assert accuracy(runner) == 100
    line = "the validation set has no picture of 1 of 3 classes: cat."
    assert told.count(line) == 1
    metrics = evaluate(narrow(root, tmp_path), str(tmp_path / "best.pth"), tmp_path / "s.npz")
    assert metrics["error/top1"] == 0
    scores = Scores.load(tmp_path / "s.npz")
    assert scores.classes.tolist() == [*CLASSES]
    assert scores.labels.tolist() == [1, 1, 2, 2]
    assert told.count(line.replace("validation", "test")) == 1


def test_classes_in_another_order_move_no_label(tmp_path):
    root = tree(tmp_path / "data", train=CLASSES, val=CLASSES)
    order = ["horse", "cat", "dog"]
    runner = run(root, tmp_path, order, **{f"{TRAIN}.classes": order})
    assert accuracy(runner) == 100
    assert list(read_checkpoint(tmp_path / "best.pth")["meta"]["dataset_meta"]["classes"]) == order
    cfg = narrow(root, tmp_path)
    assert evaluate(cfg, str(tmp_path / "best.pth"), tmp_path / "s.npz")["error/top1"] == 0
    assert Scores.load(tmp_path / "s.npz").classes.tolist() == order


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_renamed_class_is_an_error_before_the_first_step(split, tmp_path):
    root = tree(tmp_path / "data", train=CLASSES, val=CLASSES, test=("cat", "dog", "mule"))
    (root / "val/horse").rename(root / "val" / ("pony" if split == "val" else "horse"))
    name, odd = ("validation", "pony") if split == "val" else ("test", "mule")
    with pytest.raises(UserError) as error:
        run(root, tmp_path, **{"test_dataloader.dataset.split": "test"})
    assert str(error.value).startswith(
        f"the {name} set has classes that the training set lacks: {odd}. The classes of the {name} "
        f"set: cat, dog, {odd}; of the training set: cat, dog, horse."
    )
    assert not list(tmp_path.glob("*.pth"))


def test_other_classes_than_the_checkpoints_are_an_error(tmp_path):
    root = tree(tmp_path / "data", train=CLASSES, val=CLASSES, other=("cat", "dog", "mule"))
    run(root, tmp_path)
    checkpoint = str(tmp_path / "best.pth")
    cfg = narrow(root, tmp_path, **{"test_dataloader.dataset.split": "other"})
    with pytest.raises(
        UserError, match=f"the test set has .* {checkpoint} lacks: mule.*dog, horse"
    ):
        evaluate(cfg, checkpoint, tmp_path / "s.npz")
    (root / "train/horse").rename(root / "train/mule")
    (root / "val/horse").rename(root / "val/mule")
    again = dict(resume=True, load_from=checkpoint)
    with pytest.raises(UserError, match="the training set has .* lacks: mule.*Resume with the"):
        run(root, tmp_path, **again)
    (root / "train/mule").rename(root / "train/horse")
    (root / "val/mule").rename(root / "val/horse")
    with pytest.raises(UserError, match="have the same classes in another order.*horse, dog, cat"):
        run(root, tmp_path, **{f"{TRAIN}.classes": ["horse", "dog", "cat"]}, **again)


def test_a_checkpoint_without_names_is_compared_by_number(tmp_path):
    root = tree(tmp_path / "data", train=CLASSES, val=CLASSES[1:])
    torch.save({"head.fc.weight": torch.eye(3), "head.fc.bias": torch.zeros(3)}, tmp_path / "w.pth")
    with pytest.raises(
        UserError, match=r"test set has 2 classes \(dog, horse\), the head 3 outputs"
    ):
        evaluate(narrow(root, tmp_path), str(tmp_path / "w.pth"), tmp_path / "s.npz")


def test_a_class_without_pictures_to_train_on_is_an_error(tmp_path, told):
    root = tree(tmp_path / "data", train=CLASSES[:2], val=CLASSES)
    options = {f"{TRAIN}.classes": CLASSES}
    with pytest.raises(UserError, match=r"no picture to train on of 1 class\(es\): horse\."):
        run(root, tmp_path, **options)
    put(root / "train/horse/notes.txt")
    with pytest.raises(UserError, match=r"no picture to train on of 1 class\(es\): horse\."):
        run(root, tmp_path, **options)
    (root / "list.txt").write_text("train/cat/0.jpg 0\n" * 4)
    listed = dict(ann_file="list.txt", split="", classes=CLASSES)
    run(root, tmp_path, **{f"{TRAIN}.{key}": value for key, value in listed.items()})
    assert "no picture to train on of 2 class(es): dog, horse." in told


def test_predictions_have_the_names_of_training(tmp_path, monkeypatch):
    root = tree(tmp_path / "data", train=CLASSES, val=CLASSES[1:])
    order = ["horse", "cat", "dog"]
    cfg = narrow(root, tmp_path, **{f"{TRAIN}.classes": order})
    colours = torch.stack([torch.eye(3)[2 - CLASSES.index(name)] for name in order]) / 20
    torch.save({"head.fc.weight": colours, "head.fc.bias": torch.zeros(3)}, tmp_path / "bare.pth")
    net = load(cfg, tmp_path / "bare.pth")
    for name in CLASSES:
        assert net.predict(root / "train" / name / "1.jpg", 1)[0][0] == name
    shutil.rmtree(root / "train")
    shutil.rmtree(root / "val")
    said = []
    monkeypatch.setattr("vgg_mm.data.classes.print_log", lambda line, *_: said.append(line))
    assert load(narrow(root, tmp_path), tmp_path / "bare.pth").classes == ("0", "1", "2")
    assert re.match("classes are numbers, for .* no images in .*data/train", said[0])
    assert list(load(cfg, tmp_path / "bare.pth").classes) == order  # which wants no pictures


# Hidden entries and endings.

HIDDEN = (".ipynb_checkpoints", "@eaDir", "__MACOSX", "#recycle", "lost+found", "$RECYCLE.BIN")


@pytest.mark.parametrize("name", HIDDEN)
def test_hidden_entries_are_no_data(name, tmp_path):
    root = tree(tmp_path, train=CLASSES)
    for place in (root / "train", root / "train/dog", root / "train/horse/deep"):
        put(place / name / "0-checkpoint.jpg", picture())
    for file in (".DS_Store", "Thumbs.db", "._0.jpg", "cat/._1.jpg", "cat/desktop.ini"):
        put(root / "train" / file)
    dataset = Folders(str(root), "train")
    assert dataset.metainfo["classes"] == CLASSES and len(dataset) == 12
    assert len(find_images(root)) == 12
    assert len(Folders(str(root), "train", with_label=False)) == 12


def test_hidden_names_are_few():
    assert all(hidden(name.upper()) for name in SYSTEM)
    assert not any(map(hidden, ("cat", "@someone", "#1", "_x", "thumbs", "$5", "lost", "~")))


def test_every_picture_that_opencv_writes_is_found_and_decoded(tmp_path, told, capsys):
    kinds = {".jfif": ".jpg", ".jif": ".jpg"}
    written = []
    for ext in EXTENSIONS:
        try:
            data = picture(1, kinds.get(ext, ext)) if ext not in (".hdr", ".pic") else None
        except cv2.error:  # this build cannot
            continue
        if data:
            put(tmp_path / f"a/x{ext.upper()}", data)
            written.append(f"{tmp_path}/a/x{ext.upper()}")
            assert read_image(written[-1])[..., 1].mean() > 140
    assert {".jpg", ".png", ".webp", ".tiff", ".jp2", ".bmp"} <= {
        p[-5:].lower().strip("x") for p in written
    }
    put(tmp_path / "a/notes.txt")
    put(tmp_path / "a/b/x.heic")
    put(tmp_path / "a/c/x.heic")
    dataset = Folders(str(tmp_path))
    assert sorted(dataset.get_data_info(i)["img_path"] for i in range(len(dataset))) == sorted(
        written
    )
    line = f"{tmp_path}: 3 file(s) left out, no images by their endings (.heic 2, .txt 1)"
    assert len(told) == 1 and told[0].startswith(line)
    assert find_images(tmp_path) == sorted(written)
    assert capsys.readouterr().err.count(line) == 1


def test_folders_on_another_storage(tmp_path):
    class Bucket(LocalBackend):
        def __getattribute__(self, name):
            method = super().__getattribute__(name)
            if name not in ("isdir", "list_dir_or_file", "get"):
                return method
            return lambda path, *args, **kwargs: method(
                str(path).replace("bucket:/", str(tmp_path)), *args, **kwargs
            )

    register_backend("bucket", Bucket, prefixes="bucket", force=True)
    tree(tmp_path, train=CLASSES)
    put(tmp_path / "train/cat/.trash/1.jpg")
    put(tmp_path / "train/.trash/1.jpg")
    dataset = Folders("bucket://", "train", classes=["horse", "dog", "cat"])
    images = [dataset.get_data_info(i) for i in range(len(dataset))]
    assert Counter(image["gt_label"] for image in images) == {0: 4, 1: 4, 2: 4}
    assert images[0]["img_path"] == "bucket://train/cat/0.jpg" and images[0]["gt_label"] == 2
    assert read_image(images[0]["img_path"]).shape == (80, 90, 3)


# Other heads and other data.


@pytest.mark.parametrize("classes", [None, CLASSES])
def test_data_without_class_names_and_other_heads(classes, tmp_path):
    root = tree(tmp_path / "data", train=CLASSES, val=CLASSES)
    lines = {
        s: [f"{s}/{c}/{i}.jpg {k}" for k, c in enumerate(CLASSES) for i in (0, 1)]
        for s in ("train", "val")
    }
    options = {}
    for split, key in (("train", TRAIN), ("val", VAL)):
        (root / f"{split}.txt").write_text("\n".join(lines[split]))
        named = dict(type="CustomDataset", ann_file=f"{split}.txt", data_prefix="")
        options[key] = dict(
            named, data_root=str(root), metainfo=dict(classes=classes) if classes else None
        )
    cfg = narrow(root, tmp_path)
    for split, key in (("train", TRAIN), ("val", VAL), ("test", VAL)):
        loader = cfg[f"{split}_dataloader"]
        data = loader.dataset.dataset if split == "train" else loader.dataset
        new = Config(dict(options[key], pipeline=data.pipeline))._cfg_dict
        if split == "train":
            loader.dataset.dataset = new
        else:
            loader.dataset = new
    runner = Runner.from_cfg(cfg)
    runner.register_hook(Knows(CLASSES))
    runner.train()
    assert accuracy(runner) == 100
    metrics = evaluate(cfg, str(tmp_path / "best.pth"), tmp_path / "s.npz")
    assert metrics["error/top1"] == 0
    names = classes or ("0", "1", "2")
    assert Scores.load(tmp_path / "s.npz").classes.tolist() == [*names]


def test_parts_of_a_data_set_are_labelled_by_name(tmp_path):
    whole, part = tree(tmp_path / "a", train=CLASSES), tree(tmp_path / "b", train=CLASSES[1:])
    other = tree(tmp_path / "c", train=(*CLASSES, "zebra"))
    sets = [dict(type="vgg_mm.Folders", data_root=str(root), split="train", pipeline=[])
            for root in (whole, part, whole)]  # fmt: skip
    sets[2]["classes"] = CLASSES[::-1]
    joined = dict(type="ConcatDataset", datasets=sets, ignore_keys=["classes", "folders"])
    data = SeededDataset(joined)
    samples = data.__getitems__([(0, 0, i) for i in range(len(data))])
    assert {CLASSES[s["gt_label"]] == Path(s["img_path"]).parent.name for s in samples} == {True}
    assert len(samples) > 2 * len(CLASSES)
    with pytest.raises(UserError, match="ignore_keys=.'classes', 'folders'., labels go by"):
        SeededDataset(dict(joined, ignore_keys=None))
    sets.append(dict(sets[0], data_root=str(other)))
    with pytest.raises(UserError, match="a part of the data set has classes that .* lacks: zebra"):
        SeededDataset(joined)


def test_a_test_set_may_be_of_several_parts(tmp_path):
    root = tree(tmp_path / "data", train=CLASSES, val=CLASSES)
    cfg = narrow(root, tmp_path)
    cfg.model.head.num_classes = 3
    Runner.from_cfg(cfg).train()
    part = dict(type="vgg_mm.Folders", data_root=str(root))
    sets = [dict(part, split="val"), dict(part, split="train")]
    cfg.test_dataloader.dataset = dict(type="ConcatDataset", datasets=sets)
    evaluate(cfg, str(tmp_path / "best.pth"), tmp_path / "s.npz")
    assert len(Scores.load(tmp_path / "s.npz").names) == len(list(root.rglob("*.jpg")))


def test_links_that_lead_back_are_not_followed(tmp_path):
    root = tree(tmp_path / "data", train=CLASSES)
    number = len(find_images(root / "train"))
    (root / "train/back").symlink_to("..")
    (root / "train/cat/back").symlink_to("../..")
    (root / "train/cat/loop.jpg").symlink_to("loop.jpg")
    assert len(find_images(root / "train")) == number + 1
    data = Folders(str(root), split="train")
    assert data.metainfo["classes"] == CLASSES and len(data) == number + 1


@pytest.mark.parametrize("seeded", [True, False])
def test_multi_label_sets_and_heads(seeded, tmp_path):
    root = tree(tmp_path / "data", train=CLASSES)
    images = [
        dict(img_path=f"train/{name}/{i}.jpg", gt_label=[k, (k + i) % 3])
        for k, name in enumerate(CLASSES)
        for i in (1, 2)
    ]
    images.append(dict(img_path="train/cat/3.jpg", gt_label=[]))
    data = dict(type="MultiLabelDataset", data_root=str(root), ann_file="list.json")
    resize = [dict(type="LoadImageFromFile"), dict(type="Resize", scale=64)]
    whole = dict(data, pipeline=[*resize, dict(type="PackInputs")])
    cfg = narrow(root, tmp_path)
    cfg.model.head = dict(type="MultiLabelLinearClsHead", num_classes=3, in_channels=3)
    cfg.val_evaluator = dict(type="MultiLabelMetric", topk=1)
    cfg.default_hooks.checkpoint.save_best = "multi-label/f1-score_top1"
    cfg.val_dataloader.dataset = cfg.test_dataloader.dataset = whole
    if seeded:
        cfg.train_dataloader.dataset.dataset = dict(data, pipeline=resize)
    else:
        cfg.train_dataloader.dataset = whole
        cfg.train_dataloader.sampler = dict(type="DefaultSampler")
        cfg.train_dataloader.collate_fn = dict(type="default_collate")
    with pytest.raises(UserError, match="LinearClsHead has no posteriors.*tta_model=None"):
        check_protocol(cfg)
    for names in (CLASSES, None):
        metainfo = dict(classes=names) if names else {}
        (root / "list.json").write_text(json.dumps(dict(metainfo=metainfo, data_list=images)))
        cfg.work_dir, cfg.experiment_name = str(tmp_path / f"run{names}"), str(uuid.uuid4())
        Runner.from_cfg(cfg).train()
        assert Path(cfg.work_dir, "best.pth").is_file()
    images[1]["gt_label"] = [0, 3]
    (root / "list.json").write_text(json.dumps(dict(metainfo={}, data_list=images)))
    cfg.work_dir, cfg.experiment_name = str(tmp_path / "bad"), str(uuid.uuid4())
    with pytest.raises(UserError, match="cat/2.jpg: the label 3 is none of the 3 classes"):
        Runner.from_cfg(cfg).train()


def test_a_label_beyond_the_classes_is_told_before_the_first_step(tmp_path):
    root = tree(tmp_path / "data", train=CLASSES, val=CLASSES)
    (root / "list.txt").write_text("train/cat/0.jpg 0\ntrain/dog/1.jpg 3\n")
    for kind, place in (("CustomDataset", "dog/1.jpg"), ("vgg_mm.Folders", "list.txt, line 2")):
        cfg = narrow(root, tmp_path)
        cfg.train_dataloader.dataset.dataset = dict(
            type=kind, data_root=str(root), ann_file="list.txt", pipeline=[]
        )
        with pytest.raises(UserError, match=f"{place}: the label 3 is none of the 3 classes"):
            Runner.from_cfg(cfg).train()


# Lists.


def test_lists_are_checked_at_the_start(tmp_path):
    def listed(text, name="list.txt", **kwargs):
        (tmp_path / name).write_text(text)
        return Folders(str(tmp_path), ann_file=name, **kwargs)

    names = dict(classes=CLASSES)
    good = "\ufeffcat/0.jpg 0\r\n\na b/1 2.jpg\t2\ncat/0.jpg 0\n"
    dataset = listed(good, **names)
    images = [dataset.get_data_info(i) for i in range(len(dataset))]
    paths = [f"{tmp_path}/{path}" for path in ("cat/0.jpg", "a b/1 2.jpg", "cat/0.jpg")]
    assert [(image["img_path"], image["gt_label"]) for image in images] == list(
        zip(paths, (0, 2, 0), strict=True)
    )
    bad = {
        "a.jpg 0\nb.jpg 3\n": r"line 2: the label 3 of b.jpg is no class.* 2 \(cat, dog, horse\)",
        "a.jpg 0\n\nb.jpg -1": "line 3: the label -1 of b.jpg is no class",
        "a.jpg\n": "line 1: 'a.jpg' is no image's path and the number",
        "a.jpg 0\nb.jpg,1\n": "line 2: 'b.jpg,1' is no image's path",
        "a.jpg 1.0\n": "line 1: 'a.jpg 1.0' is no",
        "a.jpg 0 1\n": "line 1: 'a.jpg 0 1' is no image's path and the number of its class",
        "\n \n": "lists no images",
    }
    for text, message in bad.items():
        with pytest.raises(UserError, match=f"list.txt[, ]+{message}"):
            listed(text, **names)
    with pytest.raises(UserError, match="line 2: the label -2"):
        listed("a.jpg 0\nb.jpg -2")
    with pytest.raises(UserError, match="no list of images .*none.txt: No such file"):
        Folders(str(tmp_path), ann_file="none.txt", **names)
    for build in (Folders, ImageNet):
        (tmp_path / "list.txt").write_text("a.jpg 1000")
        with pytest.raises(UserError, match="line 1: the label 1000"):
            build(data_root=str(tmp_path), ann_file="list.txt", classes=WORDNET)


def test_a_list_names_its_classes_by_its_folders(tmp_path):
    def classes(*lines):
        (tmp_path / "list.txt").write_text("\n".join(lines))
        return metainfo(Folders(str(tmp_path), ann_file="list.txt")).get("classes")

    assert classes("x/horse/1.jpg 0", "x/cat/1.jpg 1", "horse/2.jpg 0") == ("horse", "cat")
    assert classes("1.jpg 0", "2.jpg 1") is None
    assert classes("cat/1.jpg 1", "dog/2.jpg 2") is None  # whatever 0 is
    assert classes("a/1.jpg 0", "a/2.jpg 1") is None
    assert classes("a/1.jpg 0", "b/2.jpg 0") is None


def test_a_list_whose_folders_name_no_classes_is_told(tmp_path, told):
    (tmp_path / "list.txt").write_text("1.jpg 0\n2.jpg 1\n")
    Folders(str(tmp_path), ann_file="list.txt", classes=["a", "b"])
    assert not told
    Folders(str(tmp_path), ann_file="list.txt")
    assert len(told) == 1 and "list.txt: the images' folders do not name the classes" in told[0]


@pytest.mark.parametrize("given", ["classes", "metainfo"])
def test_a_file_of_classes(given, tmp_path):
    tree(tmp_path, train=CLASSES)
    file = tmp_path / "classes.txt"

    def build():
        named = str(file) if given == "classes" else dict(classes=str(file))
        return Folders(str(tmp_path), "train", **{given: named})

    with pytest.raises(UserError, match=f"^no list of classes {file}: No such file"):
        build()
    file.write_text("horse\ndog\ncat\n\n")
    assert [*build().metainfo["classes"]] == ["horse", "dog", "cat"]
    assert labels(build()) == {"cat": 2, "dog": 1, "horse": 0}
    file.write_text("\n")
    with pytest.raises(UserError, match=f"^{file} lists no classes"):
        build()


def test_lists_in_mmengines_format(tmp_path):
    def listed(**image):
        data = dict(
            metainfo=dict(classes=CLASSES), data_list=[dict(img_path="0.jpg", gt_label=2), image]
        )
        (tmp_path / "list.json").write_text(json.dumps(data))
        return Folders(str(tmp_path), ann_file="list.json")

    dataset = listed(img_path="cat/1.jpg", gt_label=0)
    assert dataset.get_data_info(1)["img_path"] == str(tmp_path / "cat/1.jpg")
    assert (dataset.get_data_info(1)["gt_label"], dataset.empty) == (0, {1})
    for label in (3, -1, "cat"):
        with pytest.raises(
            UserError, match=rf"data_list\[1\]: the label {label!r} of .*is no class"
        ):
            listed(img_path="cat/1.jpg", gt_label=label)
    with pytest.raises(UserError, match=r"data_list\[1\]: .*1.jpg has no gt_label"):
        listed(img_path="cat/1.jpg")
    (tmp_path / "list.json").write_text("{}")
    with pytest.raises(UserError, match="list.json is no list of mmengine's: "):
        Folders(str(tmp_path), ann_file="list.json")


def test_a_listed_file_that_is_missing_is_replaced_and_named(tmp_path, told):
    root = tree(tmp_path / "data", train=CLASSES, val=CLASSES)
    lines = [f"{c}/{i}.jpg {k}" for k, c in enumerate(CLASSES) for i in range(4)]
    (root / "list.txt").write_text("\n".join([*lines, "cat/nowhere.jpg 0"]))
    options = {f"{TRAIN}.ann_file": "list.txt", f"{TRAIN}.data_prefix": "train"}
    options |= {"train_dataloader.drop_last": False, "custom_hooks.2.limit": 0.5}
    run(root, tmp_path, **options)
    (line,) = [line for line in told if "another takes its place" in line]
    assert "train/cat/nowhere.jpg" in line


def test_rare_classes_are_balanced_by_name_over_parts(tmp_path):
    parts = [
        dict(
            type="vgg_mm.Folders",
            data_root=str(tree(tmp_path / name, train=classes)),
            split="train",
        )
        for name, classes in (("a", CLASSES), ("b", CLASSES[1:]))
    ]
    both = dict(type="ConcatDataset", datasets=parts, ignore_keys=["classes", "folders"])
    data = SeededDataset(dict(type="ClassBalancedDataset", oversample_thr=0.4, dataset=both))
    samples = (innermost(data.dataset, i) for i in range(len(data)))
    paths = [Path(part.get_data_info(at)["img_path"]) for part, at in samples]
    assert Counter(path.parent.name for path in paths) == {"cat": 8, "dog": 8, "horse": 8}


@pytest.mark.parametrize("root", ["https://host/data", "gs://bucket/data", "s3://bucket/data"])
def test_an_address_is_no_folder(root):
    for kind in (Folders, ImageNet):
        with pytest.raises(UserError, match=f"data_root={root}: .*type='vgg_mm.Shards'"):
            kind(data_root=root, split="train")


def test_a_misspelt_split_and_a_store_that_is_not_there():
    with pytest.raises(UserError, match="split='validation' is none of train, val, test"):
        ImageNet(data_root="data", split="validation")
    with pytest.raises(UserError, match="s3://b/x.jpg: mmengine has no storage backend"):
        read_image("s3://b/x.jpg")
