"""Appendix A: trainings of nets that predict boxes, as typed."""

import json
import re
import shutil
import uuid
from pathlib import Path

import pytest
import torch

from vgg_mm.data import boxes
from vgg_mm.data.scenes import Settings, draw_scenes
from vgg_mm.weights.checkpoint import read_checkpoint

ROOT = Path(__file__).parents[2]
DEMO, BOXES = (ROOT / "configs" / name for name in ("demo.py", "demo_boxes.py"))
CLASSES, NARROW = 4, 4
SHORT = [
    "--cfg-options",
    "tta_model=None",
    "train_cfg.max_epochs=1",
    f"model.backbone.width={NARROW}",
    f"model.head.in_channels={8 * NARROW}",
    "model.head.channels=16",
    f"model.head.num_classes={CLASSES}",
]


@pytest.fixture(scope="session")
def drawn(tmp_path_factory):
    """256 and 16 scenes of 4 classes."""
    return draw_scenes(
        tmp_path_factory.mktemp("boxed") / "scenes", Settings((256, 16, 0), CLASSES), jobs=1
    )


@pytest.fixture
def cwd(drawn, tmp_path, monkeypatch):
    """A folder with the scenes as the demo's data, to work in."""
    shutil.copytree(drawn, tmp_path / "data/demo")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def train(tool):
    def call(*args, config=BOXES, work_dir="work_dirs/demo_boxes", options=()):
        name = f"experiment_name={uuid.uuid4()}"  # mmengine's are of a second
        return tool("train", config, "--work-dir", work_dir, *args, *SHORT, name, *options)

    return call


@pytest.fixture
def fails(train):
    """The one line that a training ends with."""

    def call(*args, **kwargs):
        with pytest.raises(SystemExit) as ended:
            train(*args, **kwargs)
        error, _, message = str(ended.value).partition(": ")
        assert error == "error" and message and "\n" not in message
        return message

    return call


def test_a_classifiers_layers_learn_boxes(cwd, train):
    train(config=DEMO, work_dir="work_dirs/demo")
    done = train("--start-from", "work_dirs/demo/best.pth", options=["train_cfg.max_epochs=2"])
    assert "Best checkpoint: " in done
    (log,) = (cwd / "work_dirs/demo_boxes").glob("*/*.log")
    text = log.read_text()
    assert "head.fc8 starts new, for it predicts boxes, no classes" in text
    assert "lr: 1.0000e-01" in text
    (scalars,) = (cwd / "work_dirs/demo_boxes").glob("*/vis_data/scalars.json")
    lines = [json.loads(line) for line in scalars.read_text().splitlines()]
    errors = [100 - line["accuracy/top1"] for line in lines if "accuracy/top1" in line]
    assert len(errors) == 2 and all(0 <= error <= 100 for error in errors)
    best = read_checkpoint(cwd / "work_dirs/demo_boxes/best.pth")
    assert best["state_dict"]["head.fc8.weight"].shape[0] == 4 * CLASSES
    assert len(best["meta"]["dataset_meta"]["classes"]) == CLASSES


@pytest.mark.parametrize("per_class", [True, False])
def test_a_dry_run_and_fc_layers_only(per_class, cwd, train):
    options = [f"model.head.per_class={per_class}", "model.backbone.frozen_stages=5"]
    said = train("--dry-run", options=options)
    assert "256 training images of 4 classes, 16 for validation" in said
    assert "tried: training, validation, a checkpoint, --resume" in said
    assert not (cwd / "work_dirs").exists()
    train(options=options)
    state = read_checkpoint(cwd / "work_dirs/demo_boxes/epoch_1.pth")["state_dict"]
    assert len(state["head.fc8.bias"]) == (4 * CLASSES if per_class else 4)
    assert not state["backbone.conv1_1.bias"].any() and state["head.fc6.bias"].any()


def test_a_run_goes_on_as_if_nothing_had_happened(cwd, train):
    two = ["train_cfg.max_epochs=2"]
    train(options=two)
    train(work_dir="work_dirs/again")
    train("--resume", work_dir="work_dirs/again", options=two)
    whole, again = (
        read_checkpoint(cwd / f"work_dirs/{name}/epoch_2.pth")["state_dict"]
        for name in ("demo_boxes", "again")
    )
    assert all(torch.equal(value, again[key]) for key, value in whole.items())


def an_xml(cwd, split="train"):
    return sorted((cwd / f"data/demo/Annotations/{split}").rglob("*.xml"))[0]


def warned(cwd):
    log = max((cwd / "work_dirs/demo_boxes").glob("*/*.log"))  # the last run's
    return [line for line in log.read_text().splitlines() if "WARNING" in line]


def test_images_without_a_box_are_left_out_and_told(cwd, train):
    an_xml(cwd).unlink()
    nothing = an_xml(cwd)
    nothing.write_text(re.sub("<object>.*</object>", "", nothing.read_text(), flags=re.S))
    train()
    (line,) = (line for line in warned(cwd) if "without a box" in line)
    assert "2 images without a box of their class left out" in line


def test_a_class_without_boxes(cwd, fails):
    name = an_xml(cwd).parent.name
    shutil.rmtree(an_xml(cwd).parent)
    assert f"has no box for images of {name}: a thing's name is" in fails()


def test_xml_that_is_no_xml(cwd, fails):
    for split in ("val", "train"):
        file = an_xml(cwd, split)
        file.write_text(file.read_text()[:-30])
        name = file.relative_to(cwd)
        assert fails().startswith(f"{name} is no XML: ")


def of_another_size(file):
    file.write_text(re.sub("<width>.*?</width>", "<width>500</width>", file.read_text()))


def test_boxes_of_another_size(cwd, fails, train, monkeypatch):
    first = an_xml(cwd)
    before = first.read_text()
    of_another_size(first)
    said = rf"{first.stem}\.JPEG has 1?\d+x\d+ pixels, and .*are for 500x\d+: boxes fit the images"
    assert re.search(said, fails())

    # What no look at the start finds is told when it is read, and another takes its place.
    first.write_text(before)
    monkeypatch.setattr(boxes, "LOOKED_AT", 1)
    others = sorted(first.parent.glob("*.xml"))[1:6]
    of_another_size(others[0])
    train()
    (line,) = (line for line in warned(cwd) if "another takes its place" in line)
    assert f"{others[0].stem}.JPEG has" in line and "its boxes are for 500x" in line
    for other in others:
        of_another_size(other)
    assert "of 256 training pictures are corrupt, more than 1%" in fails(work_dir="work_dirs/two")
    for other in others:
        shutil.copy(first, other)
        other.write_text(re.sub("(?s)<size>.*?</size>", "", before))  # nothing to compare with
    of_another_size(sorted((cwd / "data/demo/Annotations/val").rglob("*.xml"))[1])
    assert "its boxes are for 500x" in fails(work_dir="work_dirs/three")


def test_without_boxes(cwd, fails):
    folders = "vgg_mm.Folders"
    said = fails(options=[f"train_dataloader.dataset.dataset.type={folders}"])
    assert said.startswith("BoxHead: the samples have no gt_bboxes to learn from: use a data set")
    said = fails(options=[f"val_dataloader.dataset.type={folders}"], work_dir="work_dirs/other")
    assert said.startswith("BoxAccuracy: the validation's samples have no gt_bboxes: use a data")
    shutil.rmtree(cwd / "data/demo/Annotations")
    assert "no boxes in " in fails()
