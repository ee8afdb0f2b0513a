"""Tests of boxes as a user types them (appendix A)."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from boxed import write_boxed
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from PIL import Image, ImageColor

import vgg_mm
from tools.analysis.drawing import resized
from tools.keeping import SaveGuesses
from vgg_mm.data import read_image, rescale
from vgg_mm.errors import UserError
from vgg_mm.registry import DATASETS, MODELS
from vgg_mm.testing import BoxAccuracy, Guesses, Localizer, Scores
from vgg_mm.testing.boxes import overlaps

ROOT = Path(__file__).parents[2]
IMAGES = 24  # of the tests that run nets


@pytest.fixture(scope="module")
def made(tmp_path_factory, few_scenes):
    """A folder with configs and checkpoints, and the classifier's posteriors of all scenes."""
    folder = tmp_path_factory.mktemp("boxed")
    write_boxed(folder, few_scenes)
    return folder


@pytest.fixture(autouse=True)
def here(tmp_path, made, monkeypatch):
    for path in made.iterdir():
        shutil.copy(path, tmp_path)
    monkeypatch.chdir(tmp_path)


FEW = ["--cfg-options", f"test_dataloader.dataset.indices={IMAGES}"]


@pytest.fixture
def mistake(mistake):
    def call(*args):
        message = mistake(*args)
        assert "\n" not in message
        return message

    return call


def trained(config, checkpoint):
    init_default_scope("mmpretrain")
    net = MODELS.build(Config.fromfile(f"{config}.py").model)
    net.load_state_dict(torch.load(f"{checkpoint}.pth")["state_dict"])
    return net.eval()


def samples(scales):
    """The first scenes' images at each scale and their samples."""
    cfg = Config.fromfile("boxes.py")
    cfg.tta_pipeline[1].scales = scales
    dataset = DATASETS.build(dict(cfg.test_dataloader.dataset, pipeline=cfg.tta_pipeline))
    return [dataset[i] for i in range(IMAGES)]


def close(guesses, expected):
    """Whether guesses, in the images' order, are those; equal posteriors may swap."""
    expected = torch.stack(expected).numpy()
    assert guesses.shape == expected.shape
    assert (guesses[..., 0] == expected[..., 0]).mean() > 0.97
    same = guesses[..., 0] == expected[..., 0]
    return np.allclose(guesses[same], expected[same], rtol=1e-3, atol=0.02)


def test_test_2_by_several_nets_at_scales_of_their_own(tool):
    said = tool(
        *("test", "boxes.py", "boxes_0.pth", "--scales", 40, "--classifier", "classifier.py"),
        *("classifier.pth", "--with", "boxes.py", "boxes_1.pth", 32, 48, "--out", "b.npz", *FEW),
    )
    saved = Guesses.load("b.npz")
    top1, top5 = saved.error(1), saved.error(5)
    assert f"top-1 localisation error {top1:.1f}%, top-5 {top5:.1f}%" in said and top5 < 100
    first, second = trained("boxes", "boxes_0"), trained("boxes", "boxes_1")
    model = Localizer(first, [second], trained("classifier", "classifier"), scales=[40])
    seen = []
    model._boxes, plain = (
        lambda net, image, *args: (
            seen.append((net is second, min(image.shape[1:]))),
            plain(net, image, *args),
        )[1],
        model._boxes,
    )
    model.joined[0].scales = [32, 48]
    expected = [
        model.test_step(dict(inputs=[[x] for x in s["inputs"]], data_samples=[s["data_samples"]]))
        for s in samples([32, 40, 48])
    ]
    assert set(seen) == {(True, 32), (False, 40), (True, 48)}
    assert close(saved.guesses, [sample.guesses for (sample,) in expected])
    (protocol,) = saved.protocols
    (other,), (rater,) = protocol["others"], protocol["classifiers"]
    assert (protocol["test"], protocol["scales"], other["scales"]) == (2, [40], [32, 48])
    assert (other["checkpoint"], rater["config"]) == ("boxes_1.pth", "classifier")
    assert len({each["sha256"] for each in (protocol, other, rater)}) == 3
    assert (protocol["regression"], protocol["trained"], protocol["scores"]) == ("PCR", "all", None)


def test_classes_are_those_of_stored_posteriors(tool):
    tool("test", "classifier.py", "classifier.pth", "--out", "scores.npz")
    scores = Scores.load("scores.npz")
    scores.posteriors = scores.posteriors[:, :, ::-1]  # of another classifier
    scores.save("others.npz")
    tool("test", "boxes.py", "boxes_0.pth", "--scores", "others.npz", "--out", "b.npz")
    saved = Guesses.load("b.npz")
    assert saved.names.tolist() == scores.names.tolist()
    best = np.argsort(-scores.mean(), axis=1, kind="stable")[:, :5]
    assert (saved.numbers == best).all() and (saved.ratings % 1 == 0).all()
    told = saved.protocols[0]["scores"]
    assert told["file"] == "others.npz" and told["protocols"] == scores.protocols
    # An error of localisation is one of classification or of the box.
    assert saved.error(5) >= scores.error(5) and saved.wrong(1)[scores.wrong(1)].all()


class Killed(BaseException):
    pass


def test_an_interrupted_test_resumes_to_the_same_file(tool, monkeypatch):
    typed = ["test", "boxes.py", "boxes_0.pth", "--classifier", "classifier.py", "classifier.pth"]
    tool(*typed, "--out", "whole.npz", *FEW)
    process, tested = SaveGuesses.process, []

    def dying(saver, batch, batch_samples):
        saver.every = 0
        process(saver, batch, batch_samples)
        tested.extend(sample["img_path"] for sample in batch_samples)
        if len(tested) == 14:
            raise Killed

    monkeypatch.setattr(SaveGuesses, "process", dying)
    with pytest.raises(Killed):
        tool(*typed, "--out", "killed.npz", *FEW)
    assert not Path("killed.npz").exists()
    tool(*typed, "--out", "killed.npz", *FEW)
    assert len(tested) == len(set(tested)) == IMAGES
    assert Path("killed.npz").read_bytes() == Path("whole.npz").read_bytes()
    # What another net has found is none of it.
    assert not list(Path().glob("*.parts"))


def test_two_processes_find_what_one_does(tool):
    typed = ["boxes.py", "boxes_0.pth", "--classifier", "classifier.py", "classifier.pth"]
    tool("test", *typed, "--out", "one.npz", *FEW)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PORT": "29523"}
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
    command = [ROOT / "tools/dist_test.sh", *typed[:2], "2", *typed[2:], "--out", "two.npz", *FEW]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "test 2 (dense, five classes): top-1 localisation error" in done.stdout
    one, two = Guesses.load("one.npz"), Guesses.load("two.npz")
    assert one.names.tolist() == two.names.tolist()
    assert close(two.guesses, [*torch.from_numpy(one.guesses)])


def test_test_1_is_what_validation_measures_beside_two_baselines(tool):
    said = tool("test", "boxes.py", "boxes_0.pth", "--true-class", "--out", "t.npz")
    saved = Guesses.load("t.npz")
    assert saved.guesses.shape == (128, 1, 7) and (saved.numbers[:, 0] == saved.labels).all()
    cfg, net, metric = Config.fromfile("boxes.py"), trained("boxes", "boxes_0"), BoxAccuracy()
    whole, by_mean, mean = [], [], mean_box(cfg)
    for box, info in zip(saved.boxes[:, 0], infos(cfg.test_dataloader.dataset), strict=True):
        image = read_image(info["img_path"])
        (h, w), truth = image.shape[:2], info["gt_bboxes"]
        image = rescale(image, 32)
        ratio = np.array([image.shape[1] / w, image.shape[0] / h] * 2)
        corner = np.array([(image.shape[1] - 28) // 2, (image.shape[0] - 28) // 2] * 2)
        crop = image[corner[1] : corner[1] + 28, corner[0] : corner[0] + 28]
        inputs = torch.from_numpy(crop.copy()).permute(2, 0, 1)[None]
        with torch.no_grad():
            x = net.data_preprocessor(dict(inputs=inputs))["inputs"]
            (predicted,) = net.head.predict(net.extract_feat(x))
        inside = truth * ratio - corner
        sample = dict(gt_label=info["gt_label"], gt_bboxes=inside)
        metric.process({}, [dict(sample, pred_bboxes=predicted.pred_bboxes)])
        expected = (predicted.pred_bboxes[info["gt_label"]].numpy() + corner) / ratio
        assert np.allclose(box, expected, atol=0.02)
        fixed = np.array([[0, 0, w, h], mean * [w, h, w, h]])
        for box_is_right, one in zip((whole, by_mean), fixed, strict=True):
            box_is_right.append(any(overlaps(one, each) >= 0.5 for each in truth))
    error = 100 - metric.evaluate(len(saved.names))["accuracy/top1"]
    assert saved.error(1) == pytest.approx(error, abs=0.8) and 0 < error < 100  # of 128, one
    assert f"test 1 (true class, centre crop): localisation error {saved.error(1):.1f}%" in said
    assert f"  the whole image instead: {100 - 100 * np.mean(whole):.1f}%" in said
    assert f"  the training set's mean box instead: {100 - 100 * np.mean(by_mean):.1f}%" in said
    assert whole != by_mean
    assert saved.protocols[0]["test"] == 1


def infos(data):
    dataset = DATASETS.build(dict(data, pipeline=[]))
    return [dataset.get_data_info(i) for i in range(len(dataset))]


def mean_box(cfg):
    shares = []
    for info in infos(cfg.train_dataloader.dataset.dataset):
        h, w = read_image(info["img_path"]).shape[:2]
        shares += [box / [w, h, w, h] for box in info["gt_bboxes"]]
    return np.mean(shares, 0)


def test_mistakes_are_told_in_one_line(mistake, tool, monkeypatch):
    boxes, classifier = ["boxes.py", "boxes_0.pth"], ["classifier.py", "classifier.pth"]
    scores = Scores(
        np.full((2, 1, 64), 1 / 64),
        labels=np.zeros(2, int),
        names=np.array(["a/0.jpg", "a/1.jpg"]),
        classes=np.array(torch.load("classifier.pth")["meta"]["dataset_meta"]["classes"]),
        root="/elsewhere",
        protocols=[],
    )
    scores.save("others.npz")
    scores.classes = np.array([f"c{i}" for i in range(64)])
    scores.save("classes.npz")
    for arguments, says in (
        ([*boxes], "give --scores FILE, the posteriors of any classifier, or --classifier"),
        ([*boxes, "--scores", "no.npz"], "no scores no.npz"),
        ([*boxes, "--scores", "others.npz"], "others.npz has no posteriors of "),
        ([*boxes, "--scores", "classes.npz"], "classes.npz has classes that the test lacks: c0"),
        ([*boxes, "--classifier", "classifier.py", "no.pth"], "no checkpoint no.pth"),
        ([*boxes, "--classifier", "classifier.py", "boxes_1.pth"], "boxes_1.pth does not fit"),
        ([*boxes, "--classifier", *boxes], "VGGHead is expected"),
        ([*boxes, "--with", "boxes.py"], "--with boxes.py: give a config, its checkpoint and"),
        ([*boxes, "--with", *boxes, "x"], "its scales, each a number"),
        ([*boxes, "--true-class", "--scores", "s.npz"], "--true-class needs no --scores"),
        ([*boxes, "--true-class", "--scales", 32, 40], "one scale, and there are 2"),
        ([*boxes, "--true-class", "--scales", 20], "smaller than the crop of 28"),
        ([*boxes, "--half"], "--views and --half are of posteriors"),
        ([*classifier, "--true-class"], "classifier.py names classes: --true-class"),
    ):
        assert says in mistake("test", *arguments), arguments
    config = Path("boxes.py").read_text()
    Path("boxes.py").write_text(config.replace('algorithm_keys=["gt_bboxes"], ', ""))
    says = mistake("test", *boxes, "--true-class", "--out", "t.npz")
    assert "comes without gt_bboxes: test on a data set with boxes" in says
    assert not Path("t.npz").exists()


def test_a_training_ends_with_both_tests_and_a_report(tool, mistake, monkeypatch):
    """Of the training itself only its end."""
    work = Path("work_dirs/boxes")
    log = work / "1/vis_data/scalars.json"
    log.parent.mkdir(parents=True)
    log.write_text('{"loss": 1.5, "step": 1}\n{"accuracy/top1": 20.0, "step": 1}\n')
    shutil.copy("boxes_0.pth", work / "best.pth")
    monkeypatch.setattr(Runner, "from_cfg", classmethod(of_training(Runner.from_cfg)))
    options = [f"test_dataloader.dataset.indices={IMAGES}", "launcher=none"]
    rater = "tta_model.classifier.checkpoint="
    said = tool("train", "boxes.py", "--cfg-options", *options)
    assert "test 1 (true class, centre crop): loc" in said and "test 2" not in said
    options.append("tta_model.classifier.config=classifier.py")
    said = tool("train", "boxes.py", "--cfg-options", *options, rater + "classifier.pth")
    assert "test 1 (true class, centre crop): loc" in said and "top-5 " in said
    assert {path.name for path in work.glob("*.npz")} == {"true_class.npz", "boxes.npz"}
    assert (work / "report.png").stat().st_size > 50_000
    says = mistake("train", "boxes.py", "--cfg-options", *options, rater + "no.pth")
    assert "no checkpoint no.pth, which test 2 wants: make it, or name another" in says


def of_training(from_cfg):
    def build(cls, cfg):
        if cfg.get("test_evaluator", {}).get("type") == "vgg_mm.SaveGuesses":
            return from_cfg(cfg)
        return SimpleNamespace(
            logger=MMLogger.get_current_instance(), train=lambda: None, work_dir=cfg.work_dir
        )

    return build


def shade(file, color):
    """How many pixels of a PNG have a color."""
    return (np.asarray(Image.open(file).convert("RGB")) == ImageColor.getrgb(color)).all(-1).sum()


def test_predictions_and_maps_have_the_boxes(tool, mistake):
    with open("boxes.py", "a") as config:
        rater = dict(config="classifier.py", checkpoint="classifier.pth")
        config.write(f"tta_model.update(scores='of_others.npz', classifier={rater})\n")
    info = infos(Config.fromfile("boxes.py").test_dataloader.dataset)[3]
    image, (sample, *_) = info["img_path"], [samples([32])[3]]
    model = Localizer(trained("boxes", "boxes_0"), (), trained("classifier", "classifier"))
    one = dict(inputs=[[x] for x in sample["inputs"]], data_samples=[sample["data_samples"]])
    (expected,) = model.test_step(one)
    label, x1, y1, x2, y2, rating, _ = expected.guesses[0].tolist()
    said = tool("predict", "boxes.py", "boxes_0.pth", image).splitlines()
    name = torch.load("boxes_0.pth")["meta"]["dataset_meta"]["classes"][int(label)]
    assert said[1].startswith(f"{expected.pred_score.max():8.2%}  {name}  at ")
    corners, told = said[1].rpartition("  at ")[2].split(", rating ")
    assert np.allclose([*map(float, corners.split())], [x1, y1, x2, y2], atol=0.6)
    assert float(told) == pytest.approx(rating, abs=0.02)
    drawn = f"predictions/{Path(image).name}.png"
    assert shade(drawn, "#1a7f37") > 500
    tool("predict", "classifier.py", "classifier.pth", image)
    assert shade(drawn, "#1a7f37") == 0
    tool("score_map", "boxes.py", "boxes_0.pth", image, "--scales", 32, 48)
    framed = shade("score_map.png", "#c62828")
    tool("score_map", "classifier.py", "classifier.pth", image, "--scales", 32, 48)
    assert shade("score_map.png", "#c62828") == 0 < framed
    net = vgg_mm.load("boxes.py", "boxes_0.pth")
    posterior, guesses = net.look(image)
    assert posterior.equal(expected.pred_score) and guesses == net.localise(image)
    assert guesses == [
        (net.classes[int(k)], tuple(b), r, k) for k, *b, r, _ in expected.guesses.tolist()
    ]
    assert net.predict([image], 1) == [[(name, posterior.max().item())]]
    assert net.to(torch.float64).look(image)[1][0].name == name
    for call in (lambda: net.predict(image, views="crops"), lambda: vgg_mm.evaluate(net, SCENE)):
        with pytest.raises(UserError, match="predicts boxes|tests classifiers"):
            call()
    says = mistake("predict", "boxes.py", "boxes_0.pth", image, "--cfg-options", NO_RATER)
    assert "a classifier names what is in them: set tta_model.classifier=dict(config=" in says


def test_from_python_too_further_nets_run_at_scales_of_their_own():
    second = dict(config="boxes.py", checkpoint="boxes_1.pth", scales=[48])
    rater = dict(config="classifier.py", checkpoint="classifier.pth")
    with open("boxes.py", "a") as config:
        config.write(f"tta_model.update(classifier={rater}, others=[{second}])\n")
    image = infos(Config.fromfile("boxes.py").test_dataloader.dataset)[3]["img_path"]
    nets = trained("boxes", "boxes_0"), [trained("boxes", "boxes_1")]
    model = Localizer(*nets, trained("classifier", "classifier"), scales=[32])
    model.joined[0].scales = [48]
    sample = samples([32, 48])[3]
    one = dict(inputs=[[x] for x in sample["inputs"]], data_samples=[sample["data_samples"]])
    (expected,) = model.test_step(one)
    guesses = vgg_mm.load("boxes.py", "boxes_0.pth").localise(image)
    assert [guess.box for guess in guesses] == [tuple(g[1:5]) for g in expected.guesses.tolist()]


SCENE = [(np.zeros((40, 40, 3), np.uint8), 0)]
NO_RATER = "tta_model.classifier=None"


def test_a_box_at_another_size():
    assert resized([10.0, 20, 30, 40], (80, 100, 3), (40, 200)).tolist() == [20, 10, 60, 20]
