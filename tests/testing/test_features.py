"""Features for other data sets, and a linear SVM on them (appendix B)."""

import copy
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from whole_strides import whole_strides

from tools.evaluation import extract
from tools.keeping import SaveFeatures
from vgg_mm.data import read_image, rescale
from vgg_mm.errors import UserError
from vgg_mm.testing import FeatureExtractor, Features

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def cfg():
    cfg = Config.fromfile(ROOT / "tests/crops_of_64.py")
    cfg.model.backbone.width = 4
    cfg.model.head.update(in_channels=32, channels=16)
    cfg.tta_pipeline[1].scales = [64, 97]
    cfg.work_dir = "work"
    return cfg


@pytest.fixture(scope="module")
def net(cfg):
    init_default_scope("mmpretrain")
    torch.manual_seed(0)
    net = MODELS.build(cfg.model).eval()
    net.init_weights()
    return net


@pytest.fixture
def checkpoint(net, tmp_path):
    torch.save({"state_dict": net.state_dict()}, tmp_path / "net.pth")
    return str(tmp_path / "net.pth")


@pytest.fixture
def folder(jpeg_tree):
    return dict(type="vgg_mm.Folders", data_root=str(jpeg_tree / "train"))


@torch.no_grad()
def by_hand(net, picture, layer, scales=(64, 97)):
    """Each scale's activations (channels,), averaged over space and the mirror image."""
    described = []
    for Q in scales:
        image = whole_strides(rescale(read_image(str(picture)), Q))
        image = torch.from_numpy(image).permute(2, 0, 1)
        x = net.data_preprocessor(dict(inputs=image[None]))["inputs"]
        halves = []
        for view in (x, x.flip(3)):
            net.backbone.out_indices = (layer,) if layer.startswith("conv") else (4,)
            (maps,) = net.backbone(view)
            net.backbone.out_indices = (4,)
            if not layer.startswith("conv"):
                fc6 = F.relu(net.head.fc6(maps))
                fc7 = F.relu(net.head.fc7(fc6))
                maps = dict(fc6=fc6, fc7=fc7, fc8=net.head.fc8(fc7))[layer]
            halves.append(maps.mean((2, 3))[0])
        described.append((halves[0] + halves[1]) / 2)
    return described


@pytest.mark.parametrize("layer", ["fc7", "fc6", "fc8", "conv4_2"])
def test_features_are_pooled_activations(layer, cfg, net, checkpoint, folder):
    made = extract(cfg, checkpoint, folder, "f.npz", layer)
    saved = Features.load("f.npz")
    assert made == {"features/images": 8, "features/dimensions": saved.features.shape[1]}
    assert saved.labels.tolist() == [0] * 4 + [1] * 4
    assert saved.classes.tolist() == ["green", "red"]
    assert saved.protocols[0]["layer"] == layer and saved.protocols[0]["scales"] == [64, 97]
    for name, found in zip(saved.names, saved.features, strict=True):
        small, large = by_hand(net, Path(saved.root, name), layer)
        expected = F.normalize((small + large) / 2, dim=0).numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
    assert np.abs(saved.features[0] - saved.features[1]).max() > 1e-3
    assert not Path("data").exists()  # the demo's own pictures are not asked for


def test_scales_can_be_stacked(cfg, net, checkpoint, folder):
    extract(cfg, checkpoint, folder, "f.npz", "fc7", stack=True)
    saved = Features.load("f.npz")
    pair = by_hand(net, Path(saved.root, saved.names[0]), "fc7")
    expected = F.normalize(torch.cat(pair), dim=0).numpy()
    np.testing.assert_allclose(saved.features[0], expected, rtol=1e-3, atol=1e-5)


def test_a_net_without_classifier_gives_its_last_conv(cfg, net, tmp_path, checkpoint, folder):
    convs = {name: w for name, w in net.state_dict().items() if not name.startswith("head.")}
    torch.save(dict(state_dict=convs), "convs.pth")
    extract(cfg, "convs.pth", folder, "convs.npz")
    extract(cfg, checkpoint, folder, "whole.npz", "conv5_2")
    convs, whole = Features.load("convs.npz"), Features.load("whole.npz")
    assert (convs.features == whole.features).all() and convs.features.shape == (8, 32)
    with pytest.raises(UserError, match="no layer fc7 to take features from; use one of conv1_1"):
        extract(cfg, "convs.pth", folder, "convs.npz", "fc7")
    wanted = dict(order="BGR", top=255, mean=(1.0, 2.0, 3.0), std=(1.0, 1.0, 1.0))
    torch.save(dict(state_dict=net.state_dict(), meta=dict(input=wanted)), "of_bgr.pth")
    with pytest.raises(UserError, match="of_bgr.pth is for another input than the config's"):
        extract(cfg, "of_bgr.pth", folder, "whole.npz")
    cfg = copy.deepcopy(cfg)
    cfg.model.backbone = dict(type="ResNet", depth=18)
    with pytest.raises(UserError, match="not a ResNet's"):
        extract(cfg, "convs.pth", folder, "convs.npz")


class Killed(BaseException):
    pass


def test_an_interrupted_extraction_resumes_to_the_same_file(
    cfg, checkpoint, folder, monkeypatch, tmp_path
):
    cfg = Config(cfg.to_dict(), filename=cfg.filename)
    cfg.test_dataloader.batch_size = 1
    extract(cfg, checkpoint, folder, "whole.npz")
    process, described = SaveFeatures.process, []

    def dying(saver, batch, samples):
        saver.every = 0
        process(saver, batch, samples)
        described.extend(sample["img_path"] for sample in samples)
        if len(described) == 3:
            raise Killed

    monkeypatch.setattr(SaveFeatures, "process", dying)
    with pytest.raises(Killed):
        extract(cfg, checkpoint, folder, "killed.npz")
    assert not Path("killed.npz").exists()
    cfg.test_dataloader.batch_size = 4  # a descriptor depends on no other image
    extract(cfg, checkpoint, folder, "killed.npz")
    assert len(described) == len(set(described)) == 8
    assert Path("killed.npz").read_bytes() == Path("whole.npz").read_bytes()
    assert not list(tmp_path.glob("*.parts"))


def slowly(cfg, checkpoint, folder):
    """An extraction that keeps every image at once, and takes its time over the next."""
    process = SaveFeatures.process

    def keeping(saver, batch, samples):
        saver.every = 0
        process(saver, batch, samples)
        time.sleep(0.05)

    SaveFeatures.process = keeping
    extract(cfg, checkpoint, folder, "killed.npz")


def test_an_extraction_killed_by_the_system_resumes_to_the_same_file(
    cfg, checkpoint, folder, tmp_path
):
    cfg = Config(cfg.to_dict(), filename=cfg.filename)
    cfg.test_dataloader.update(batch_size=1, num_workers=0, persistent_workers=False)
    extract(cfg, checkpoint, folder, "whole.npz")
    work = multiprocessing.get_context("fork").Process(
        target=slowly, args=(cfg, checkpoint, folder)
    )
    work.start()
    while work.is_alive() and len(list(tmp_path.glob("*.parts/*.npz"))) < 3:
        time.sleep(0.005)
    work.kill()
    work.join()
    assert work.exitcode == -signal.SIGKILL and not Path("killed.npz").exists()
    assert 3 <= len(list(tmp_path.glob("*.parts/*.npz"))) < 8
    extract(cfg, checkpoint, folder, "killed.npz")
    assert Path("killed.npz").read_bytes() == Path("whole.npz").read_bytes()
    assert not list(tmp_path.glob("*.parts"))


def test_two_processes_extract_the_same_file_as_one(cfg, checkpoint, folder, tmp_path):
    cfg = Config(cfg.to_dict())
    cfg.test_dataloader.update(num_workers=0, persistent_workers=False)
    cfg.dump("cfg.py")
    extract(Config.fromfile("cfg.py"), checkpoint, folder, "one.npz")
    # Without the seconds that mmengine takes to format the config.
    Path("plain.py").write_text(
        "import sys, runpy; from vgg_mm.upstream import FORMATTER\n"
        "FORMATTER.FormatCode = lambda text, **_: (text, True)\n"
        "sys.argv.pop(0); runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
            *("plain.py", ROOT / "tools/analysis/extract_features.py", "cfg.py", checkpoint),
            *(folder["data_root"], "--out", "two.npz", "--launcher", "pytorch"),
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        check=True, timeout=300,
    )  # fmt: skip
    assert Path("one.npz").read_bytes() == Path("two.npz").read_bytes()
    assert not list(tmp_path.glob("*.parts"))


def test_a_layer_that_is_not_there(net):
    with pytest.raises(
        UserError, match=r"no layer conv5_3.*conv5_2, pool5, fc6, fc7, fc8. Did you mean"
    ):
        FeatureExtractor(net, "conv5_3")
    resnet = dict(
        type="ImageClassifier", backbone=dict(type="ResNet", depth=18), data_preprocessor=dict()
    )
    with pytest.raises(UserError, match="a vgg_mm.VGG's, not a ResNet's"):
        FeatureExtractor(resnet, "fc7")


def test_a_batch_norms_output_is_taken_not_its_input():
    torch.manual_seed(0)
    backbone = dict(type="vgg_mm.VGG", arch="A", width=4, norm_cfg=dict(type="BN"))
    net = MODELS.build(
        dict(type="ImageClassifier", backbone=backbone, data_preprocessor=dict(to_rgb=True))
    ).eval()
    net.backbone.bn1_1.bias.data.fill_(3)
    sample = DataSample()
    data = dict(inputs=[[torch.zeros(3, 64, 64, dtype=torch.uint8)]], data_samples=[sample])
    FeatureExtractor(net, "conv1_1").test_step(data)
    assert torch.allclose(sample.features, torch.full((4,), 0.5), atol=0.05)


LABELS = {"cat": [1, -1, 0, 1, -1, 1], "dog": [-1, 1, 1, -1, 1, 0]}


@pytest.fixture
def voc(tmp_path):
    """Six pictures in VOC's layout; the list is in no order of the classes' files."""
    lists, images = tmp_path / "VOC/ImageSets/Main", tmp_path / "VOC/JPEGImages"
    lists.mkdir(parents=True)
    images.mkdir()
    rng = np.random.default_rng(0)
    for i in range(6):
        cv2.imwrite(str(images / f"00{i}.jpg"), rng.integers(0, 255, (70, 80, 3), np.uint8))
    (lists / "val.txt").write_text("".join(f"00{i}\n" for i in (3, 1, 0, 2, 5, 4)))
    (lists / "cow_trainval.txt").write_text("another list's\n")
    for name, labels in LABELS.items():
        lines = [f"00{i} {label:2}\n" for i, label in enumerate(labels)]
        (lists / f"{name}_val.txt").write_text("".join(lines))
    return lists / "val.txt"


def test_the_tool_reads_vocs_lists(tool, mistake, cfg, checkpoint, voc):
    cfg.dump("narrow.py")
    told = tool(
        "extract_features", "narrow.py", checkpoint, voc, "--scales", 64, "--half", "--out", "f.npz"
    )
    assert told.splitlines()[-1] == "6 images, 16 dimensions: f.npz"
    saved = Features.load("f.npz")
    assert saved.classes.tolist() == ["cat", "dog"] and saved.features.dtype == np.float16
    assert saved.names.tolist() == [f"00{i}.jpg" for i in range(6)]
    assert saved.labels.T.tolist() == list(LABELS.values())
    says = mistake("extract_features", "narrow.py", checkpoint, "VOC2007", "--out", "f.npz")
    assert "no data VOC2007: give a folder of classes, or a list of images." in says


def test_an_incomplete_list_is_told_so(voc):
    from tools.analysis.voc import VOCList  # which the tool finds by itself

    cat = voc.with_name("cat_val.txt")
    whole = cat.read_text()
    for text, says in [
        (whole.replace("003  1\n", ""), "cat_val.txt has no label for 003, which .*val.txt lists"),
        (whole.replace("003  1", "003  2"), "cat_val.txt, line 4: '003  2' is no name and 1, 0"),
    ]:
        cat.write_text(text)
        with pytest.raises(UserError, match=says):
            VOCList(str(voc))
    cat.write_text(whole)
    alone = voc.with_name("test.txt")
    alone.write_text("000\n")
    with pytest.raises(UserError, match="expected a file CLASS_test.txt for each class"):
        VOCList(str(alone))
    with pytest.raises(UserError, match="no list of images .*none.txt"):
        VOCList(str(voc.with_name("none.txt")))


PERSONS = [("000", 2, -1), ("001", 1, 1), ("000", 1, 1)]  # image, number, whether it jumps


@pytest.fixture
def actions(voc):
    """The list of three persons in two images, by size apart."""
    lists, annotations = voc.parents[1] / "Action", voc.parents[2] / "Annotations"
    lists.mkdir()
    annotations.mkdir()
    for name in ("000", "001"):
        things = "".join(
            f"<object><name>person</name><bndbox><xmin>{10 * i}</xmin><ymin>5</ymin><xmax>"
            f"{10 * i + 39}</xmax><ymax>54</ymax></bndbox></object>"
            for i in (1, 2)
        )
        (annotations / f"{name}.xml").write_text(f"<annotation>{things}</annotation>")
    (lists / "val.txt").write_text("".join(f"{name} {n}\n" for name, n, _ in PERSONS))
    lines = [f"{name}  {n} {label:2}\n" for name, n, label in PERSONS]
    (lists / "jumping_val.txt").write_text("".join(lines))
    return lists / "val.txt"


def test_persons_are_described_by_their_boxes(tool, mistake, cfg, net, checkpoint, voc, actions):
    from tools.analysis.voc import VOCList  # which the tool finds by itself

    cfg.dump("narrow.py")
    typed = ["extract_features", "narrow.py", checkpoint, actions, "--scales", 64, 97]
    tool(*typed, "--boxes", "--out", "persons.npz")
    tool(*typed, "--out", "images.npz")
    persons, images = Features.load("persons.npz"), Features.load("images.npz")
    assert (
        persons.names.tolist() == images.names.tolist() == ["000.jpg#1", "000.jpg#2", "001.jpg#1"]
    )
    assert persons.labels.tolist() == [[1], [-1], [1]] and persons.classes.tolist() == ["jumping"]
    # The same pixels as images of their own.
    picture = read_image(str(voc.parents[2] / "JPEGImages/000.jpg"))
    for name, pixels in (("image", picture), ("person", picture[4:54, 19:59])):  # VOC counts from 1
        Path("cut", name).mkdir(parents=True)
        cv2.imwrite(f"cut/{name}/0.png", pixels)
    tool(*typed[:3], "cut", *typed[4:], "--out", "cut.npz")
    image, person = Features.load("cut.npz").features
    np.testing.assert_allclose(persons.features[1], person, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(images.features[1], image, rtol=1e-4, atol=1e-6)
    assert np.abs(image - person).max() > 1e-3
    assert (images.features[0] == images.features[1]).all()
    says = mistake("extract_features", "narrow.py", checkpoint, voc, "--boxes", "--out", "f.npz")
    assert "has 0 boxes to cut out, and 1 is wanted" in says
    actions.write_text("000 3\n")
    actions.with_name("jumping_val.txt").write_text("000 3 1\n")
    with pytest.raises(UserError, match=r"000.xml has 2 objects, and number 3 is listed"):
        VOCList(str(actions))


@pytest.fixture(scope="module")
def svm():
    pytest.importorskip("sklearn", reason="a linear SVM needs scikit-learn")
    from tools.analysis import svm

    return svm


def features(x, labels, classes="abc", root="", names=None):
    names = names or [f"{i}.jpg" for i in range(len(x))]
    return Features(
        np.float32(x),
        labels=np.array(labels),
        names=np.array(names),
        classes=np.array([*classes]),
        root=root,
    )


def clusters(counts, spread, seed=0):
    """Points around a corner of the simplex for each class."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(range(len(counts)), counts)
    return np.eye(len(counts))[labels] + rng.normal(0, spread, (len(labels), len(counts))), labels


def test_average_precision_by_hand(svm):
    # Hits at places 1, 3 and 6: precisions 1, 2/3, 1/2.
    relevant = np.array([0, 1, 1, 0, 0, 1])
    scores = np.array([0.8, 0.9, 0.7, 0.5, 0.6, 0.1])
    area, eleven = svm.average_precisions(relevant, scores)
    assert area == pytest.approx((1 + 2 / 3 + 1 / 2) / 3)
    assert eleven == pytest.approx((4 * 1 + 3 * 2 / 3 + 4 / 2) / 11)
    # What comes later can be the better precision of a recall: here 2/3 for both hits.
    area, eleven = svm.average_precisions(np.array([0, 1, 1]), np.array([3, 2, 1]))
    assert [area, eleven] == pytest.approx([2 / 3, 2 / 3])


def test_mean_class_accuracy_counts_small_classes_as_large_ones(svm):
    train, test = (clusters([60, 20, 20], 0.1, seed) for seed in range(2))
    test[1][-10:] = 0  # half of the last class's pictures are called the first
    both, split = svm.joined(features(*train), features(*test))
    result = svm.evaluate(both, split)
    assert result.confusion.tolist() == [[60, 0, 10], [0, 20, 0], [0, 0, 10]]
    (measure,) = result.measures["mean class accuracy"]
    assert measure == pytest.approx(100 * (60 / 70 + 1 + 1) / 3)
    assert svm.summary(result) == "mean class accuracy 95.2%"


def test_c_is_chosen_on_the_training_part_alone(svm, monkeypatch):
    seen = []

    class Spy(svm.GridSearchCV):
        def fit(self, x, y):
            seen.append(x)
            return super().fit(x, y)

    monkeypatch.setattr(svm, "GridSearchCV", Spy)
    x, labels = clusters([12, 12, 12], 0.5)
    result = svm.evaluate(features(x, labels), svm.folds(3))
    assert result.confusion.sum() == 36  # every picture is tested once
    assert (result.confusion.sum(1) == 12).all()
    assert len(result.measures["mean class accuracy"]) == len(seen) == 3
    left_out = [{*map(tuple, np.float32(x))} - {*map(tuple, trained)} for trained in seen]
    assert [len(part) for part in left_out] == [12, 12, 12]
    assert len(set.union(*left_out)) == 36


def test_caltechs_random_splits(svm):
    x, labels = clusters([12, 9, 7], 0.1)
    splits = list(svm.per_class(5, 3, 2)(labels, np.arange(28)))
    assert len(splits) == 2 and (splits[0][0] != splits[1][0]).any()
    for train, test in splits:
        assert np.bincount(labels[train]).tolist() == [5, 5, 5]
        assert np.bincount(labels[test]).tolist() == [3, 3, 2]
        assert not {*train} & {*test}


def test_multi_label_leaves_out_what_is_difficult(svm):
    rng = np.random.default_rng(0)
    labels = rng.choice([-1, 1], (60, 2))
    x = labels + rng.normal(0, 0.3, (60, 2))
    labels[:10, 0], x[:10, 0] = 0, -100  # would spoil both training and test
    for split in (
        svm.folds(3),
        lambda _, at: [(np.flatnonzero(at % 2), np.flatnonzero(at % 2 == 0))],
    ):
        result = svm.evaluate(features(x, labels, "ab"), split)
        assert (result.precisions > 97).all() and result.confusion is None
        assert result.measures["mAP"].mean() == pytest.approx(result.precisions.mean())
    svm.draw(result, "deep/map.png")
    assert read_image("deep/map.png").shape[0] > 300


def test_features_that_are_no_numbers_are_named(svm, tmp_path):
    x = np.ones((4, 2), np.float32)
    x[2:] = np.nan
    features(x, [0, 0, 1, 1]).save(tmp_path / "x.npz")
    with pytest.raises(UserError, match=r"x\.npz: the features of 2 images are no num.* 2.* first"):
        svm.load([tmp_path / "x.npz"])


def test_what_is_stacked_and_joined_is_read_as_it_is_used(svm, tmp_path, monkeypatch):
    x, labels = clusters([9, 8, 7], 0.3)
    for name, part in (("a", x), ("b", x[:, :2])):
        features(part, labels).save(f"{name}.npz")
    train, test = svm.load(["a.npz", "b.npz"]), features(np.hstack([x, x[:, :2]]), labels)
    both, split = svm.joined(train, test)
    at = np.array([30, 2, 47, 0])
    np.testing.assert_array_equal(both.features[at], test.features[at % 24])
    assert both.features.shape == (48, 5)
    at_once = svm.evaluate(both, split).confusion
    monkeypatch.setattr(svm, "BLOCK", 11)  # two images
    assert (svm.evaluate(both, split).confusion == at_once).all()


def test_an_svm_that_does_not_fit_into_memory_says_so(svm, tool, mistake, monkeypatch):
    x, labels = clusters([10, 10, 10], 0.1)
    features(x, labels).save("x.npz")
    assert 1e7 < svm.free_memory() < 1e15
    monkeypatch.setattr(svm, "free_memory", lambda: 20 * 3 * svm.BYTES)
    assert "mean class accuracy" in tool("linear_svm", "x.npz", "--per-class", 6, 4, "--folds", 1)
    monkeypatch.setattr(svm, "free_memory", lambda: 24 * 3 * svm.BYTES - 1)
    assert mistake("linear_svm", "x.npz").startswith(
        "error: an SVM of 24 images with 3 numbers each takes 0.0 GB with --jobs 1, and 0.0 GB are "
        "free: use fewer images (--per-class), fewer --jobs, or shorter features"
    )


def test_what_cannot_be_split(svm, monkeypatch):
    x, labels = clusters([5, 5, 1], 0.1)
    with pytest.raises(UserError, match=r"a class has 1 image\(s\): too few for 5 folds"):
        svm.evaluate(features(x, labels), svm.folds(5))
    with pytest.raises(UserError, match=r"'c' has 1 image\(s\) to train on"):
        svm.evaluate(features(x, labels), svm.per_class(3, 2, 1))
    both, split = svm.joined(features(x[:10], labels[:10], "ab"), features(x[:5], labels[:5], "ab"))
    with pytest.raises(UserError, match="'b' has no image to test on"):
        svm.evaluate(both, split)
    with pytest.raises(UserError, match="nothing to tell 'a' from: an SVM wants two classes"):
        svm.evaluate(features(x[:5], labels[:5], "a"), svm.folds(2))
    monkeypatch.setattr(svm, "_fit", lambda *args: pytest.fail("trained before all was looked at"))
    with pytest.raises(UserError, match=r"'c' has no image to test on"):
        svm.evaluate(features(*clusters([5, 5, 2], 0.1)), svm.per_class(2, 2, 1))
    several = np.array([[1, 1], [1, 1], [1, -1], [1, -1], [-1, 0], [-1, 0]])
    with pytest.raises(UserError, match="a class has|image.s. to train on|to test on"):
        svm.evaluate(features(x[:6], several * [1, 0], "ab"), svm.folds(2))
    with pytest.raises(UserError, match="different classes: a, b, c in .*; a, b in"):
        svm.joined(features(x, labels), features(x, labels, "ab"))
    with pytest.raises(UserError, match="have 3 and 2 dimensions"):
        svm.joined(features(x, labels), features(x[:, :2], labels))


def test_the_tool_compares_with_raw_pixels(svm, tool, mistake, cfg, checkpoint, jpeg_tree):
    for split in ("train", "val"):
        extract(
            cfg,
            checkpoint,
            dict(type="vgg_mm.Folders", data_root=str(jpeg_tree / split)),
            f"{split}.npz",
        )
    told = tool(
        "linear_svm", "train.npz", "train.npz", "--test", "val.npz", "val.npz", "--pixels", 2
    )
    first, drawn, second = told.splitlines()[-3:]
    assert first.startswith("mean class accuracy ") and drawn == "Drawn in svm.png"
    # Red and green pictures are told apart by their colours.
    assert second == "raw pixels, 2x2: mean class accuracy 100.0%"
    assert read_image("svm.png").shape[0] > 300
    stacked = svm.load(["train.npz", "train.npz"])
    assert stacked.features.shape == (8, 32)
    says = mistake("linear_svm", "train.npz", "val.npz")
    assert "train.npz and val.npz were not tested on the same data" in says
    says = mistake("linear_svm", "net.pth")
    assert "net.pth is not a file that tools/analysis/extract_features.py wrote" in says
    assert "leave one out" in mistake(
        "linear_svm", "train.npz", "--test", "val.npz", "--per-class", 1, 1
    )
