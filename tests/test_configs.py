"""The configs: what they say, and that each trains a step and tests an image."""

import ast
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine import Config
from mmengine.runner import Runner

from tools.evaluation import evaluate
from vgg_mm import paper
from vgg_mm.inputs import INPUTS, Input
from vgg_mm.registry import MODELS, TRANSFORMS
from vgg_mm.testing import Scores

ROOT = Path(__file__).parents[1]
PAPER = [f"{row.config}.py" for row in paper.TABLE_3]
SHALLOW = "vgg8_b_5x5_256.py"  # Sec. 4.1's
BOXES = {S: f"vgg16_d_{S}_boxes.py" for (S, _), *further in (r.models for r in paper.TABLE_9)}


def load(name, **options):
    cfg = Config.fromfile(ROOT / "configs" / name)
    cfg.merge_from_dict(options)
    return cfg


def narrow(cfg, tree, work_dir, classes=2, kind="vgg_mm.Folders"):
    """The config with a narrow net, on a few generated pictures."""
    cfg.merge_from_dict(
        {
            "model.backbone.width": 4,
            "model.head": dict(in_channels=32, channels=16, num_classes=classes),
            "train_cfg.max_epochs": 1,
            "work_dir": str(work_dir),
            "launcher": "none",
        }
    )
    for loader, split, images in [("train", "train", 2), ("val", "val", 1), ("test", "val", 1)]:
        loader = cfg[f"{loader}_dataloader"]
        loader.update(batch_size=images, num_workers=0, persistent_workers=False)
        dataset = loader.dataset.get("dataset", loader.dataset)
        dataset.pop("split", None)
        dataset.update(type=kind, data_root=str(tree), split=split)
        dataset.indices = images
    return cfg


@pytest.mark.parametrize("name", PAPER)
def test_trains_a_step_and_tests(name, jpeg_tree, tmp_path):
    cfg = narrow(load(name), jpeg_tree, tmp_path)
    Runner.from_cfg(cfg).train()
    errors = evaluate(cfg, str(tmp_path / "epoch_1.pth"), tmp_path / "scores.npz")
    assert errors["error/top1"] == Scores.load(tmp_path / "scores.npz").error(1)


@pytest.mark.parametrize("name", BOXES.values())
def test_trains_a_step_on_boxes(name, few_scenes, tmp_path):
    cfg = narrow(load(name), few_scenes, tmp_path, 64, "vgg_mm.FolderBoxes")
    runner = Runner.from_cfg(cfg)
    before = runner.model.head.fc8.weight.detach().clone()
    runner.train()
    assert not runner.model.head.fc8.weight.equal(before)
    assert (tmp_path / "best.pth").exists()


def test_there_is_a_config_for_each_trained_model_and_no_other():
    names = {path.name for path in (ROOT / "configs").glob("*.py")}
    assert names == {*PAPER, *BOXES.values(), SHALLOW, "demo.py", "demo_boxes.py"}


def test_the_shallow_net_differs_from_net_b_in_its_convs_alone():
    shallow, b = load(SHALLOW), load("vgg13_b_256.py")
    assert (shallow.model.backbone.pop("arch"), b.model.backbone.pop("arch")) == ("B-5x5", "B")
    assert shallow._cfg_dict == b._cfg_dict


@pytest.mark.parametrize("S", BOXES)
def test_says_what_the_paper_says_of_boxes(S):
    name = BOXES[S]
    text, cfg, base = (ROOT / "configs" / name).read_text(), load(name), load(f"vgg16_d_{S}.py")
    for row in paper.TABLE_9:
        (own, Q), *others = row.models
        scales = f"in {{{', '.join(map(str, Q))}}}" if len(Q) > 1 else f"= {Q[0]}"
        if own == S:
            assert f"{row.val} (Table 9)" in text if others else f"{row.val} at Q {scales}" in text
    assert f"{name} 4 --start-from work_dirs/vgg16_d_{S}/best.pth" in text
    assert cfg.model.head == dict(type="vgg_mm.BoxHead", num_classes=1000)  # PCR
    assert cfg.start_from_lr == 1e-3
    # All else is the classifier's.
    for key in ("optim_wrapper", "param_scheduler", "train_cfg", "tta_pipeline", "custom_hooks"):
        assert cfg[key] == base[key]
    for key in ("backbone", "data_preprocessor"):
        assert cfg.model[key] == base.model[key]
    for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
        ours, theirs = (c[loader].dataset.get("dataset", c[loader].dataset) for c in (cfg, base))
        assert ours == dict(theirs, type="vgg_mm.ImageNetBoxes")


@pytest.mark.parametrize("row", paper.TABLE_3, ids=lambda row: row.config)
def test_says_what_the_paper_says(row):
    text = (ROOT / "configs" / f"{row.config}.py").read_text()
    assert f"{row.top1} top-1 and {row.top5} top-5 error (%) at Q = {row.Q[0]} (Table 3)" in text
    for multi in paper.TABLE_4:
        if (multi.arch, multi.S) == (row.arch, row.S):
            scales = ", ".join(map(str, multi.Q))
            assert f"{multi.top1} and {multi.top5} at Q in {{{scales}}} (Table 4)" in text
    cfg = load(f"{row.config}.py")
    assert cfg.model.backbone.arch == row.arch
    first = cfg.train_dataloader.dataset.dataset.pipeline[0]
    assert (first.type, first.S, first.size) == ("vgg_mm.LoadScaledCrop", row.S, 224)
    assert cfg.tta_pipeline[1].scales == list(row.Q)
    assert cfg.val_dataloader.dataset.pipeline[1].Q == row.Q[0]
    assert cfg.test_dataloader == cfg.val_dataloader


def test_states_the_recipe():
    cfg = load("vgg16_d_jitter.py")
    assert 4 * cfg.train_dataloader.batch_size == cfg.auto_scale_lr.base_batch_size == 256
    assert cfg.optim_wrapper.optimizer == dict(
        type="SGD", lr=1e-2, momentum=0.9, weight_decay=5e-4, fused=True
    )
    assert cfg.train_cfg.max_epochs == 74
    assert Input.of_config(cfg.model) == INPUTS["vgg_mm"]
    built = MODELS.build(cfg.model.data_preprocessor)
    assert Input.of_preprocessor(built) == INPUTS["vgg_mm"]
    lighting = TRANSFORMS.build(cfg.train_dataloader.dataset.dataset.pipeline[1])
    assert np.array_equal(lighting.eigval, paper.IMAGENET_EIGVAL)
    assert np.array_equal(lighting.eigvec, paper.IMAGENET_EIGVEC)


@pytest.mark.parametrize("name", [*PAPER, *BOXES.values(), "demo.py", "demo_boxes.py"])
def test_dumps_and_reloads_and_takes_overrides(name, tmp_path):
    cfg = load(name)
    assert cfg.pretty_text
    cfg.dump(tmp_path / "dumped.py")
    assert Config.fromfile(tmp_path / "dumped.py").to_dict() == cfg.to_dict()
    assert load(name, **{"model.backbone.width": 8}).model.backbone.width == 8
    S = {"train_dataloader.dataset.dataset.pipeline.0.S": (320, 640)}
    assert load(name, **S).train_dataloader.dataset.dataset.pipeline[0].S == (320, 640)


@pytest.mark.parametrize("name", [*PAPER, *BOXES.values()])
def test_a_leaf_is_short_and_shallow(name):
    text = (ROOT / "configs" / name).read_text()
    base = re.search(r'_base_ = "(.+)"', text)[1]
    assert base == "_base_/paper.py" or name in BOXES.values()
    assert "_base_ =" not in (ROOT / "configs/_base_/paper.py").read_text()
    code = ast.parse(text).body[1:]  # without the docstring
    assert len(code) <= 7


def test_the_demo_has_the_papers_geometry(tmp_path):
    cfg, paper_cfg = load("demo.py"), load("vgg16_d_256.py")
    net, papers = (MODELS.build(c.model) for c in (cfg, paper_cfg))
    crop, Q = cfg.tta_model.crop_size, cfg.tta_pipeline[1].scales[0]
    assert cfg.train_dataloader.dataset.dataset.pipeline[0].size == crop == 7 * net.backbone.stride
    assert papers.backbone.stride / 224 == net.backbone.stride / crop
    assert Q / crop == pytest.approx(256 / 224) and cfg.S == Q

    # Even a square image has several positions; a scene, 4:3, has more.
    for shape, least in (((Q, Q), (2, 2)), ((Q, round(Q * 4 / 3)), (2, 4))):
        with torch.no_grad():
            features = net.backbone(torch.zeros(1, 3, *shape))
            scores = net.head.score_map(features)
        assert scores.shape[1] == 64 and scores.shape[2:] >= least
    assert net.backbone(torch.zeros(1, 3, crop, crop))[0].shape[2:] == (7, 7)
    assert [step.type for step in cfg.train_dataloader.dataset.dataset.pipeline] == [
        step.type for step in paper_cfg.train_dataloader.dataset.dataset.pipeline
    ]
    for part in ("param_scheduler", "tta_model", "train_cfg"):
        assert cfg[part].type == paper_cfg[part].type


def test_the_demo_of_boxes_sees_what_the_demo_sees():
    cfg, demo = load("demo_boxes.py"), load("demo.py")
    assert cfg.model.backbone == demo.model.backbone and cfg.tta_pipeline == demo.tta_pipeline
    net = MODELS.build(cfg.model)
    assert net.head.crop_size == net.backbone.stride * net.head.fc6.kernel_size[0] == demo.crop
    with torch.no_grad():
        features = net.backbone(torch.zeros(1, 3, demo.Q, demo.Q))
        assert net.head.box_map(features).shape == (1, demo.model.head.num_classes, 4, 2, 2)


def test_the_schedule_drops_three_times_on_a_plateau(jpeg_tree, tmp_path):
    runner = Runner.from_cfg(narrow(load("vgg11_a_256.py"), jpeg_tree, tmp_path))
    optimizer = runner.build_optim_wrapper(runner.cfg.optim_wrapper)
    runner.optim_wrapper = optimizer
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    (scheduler,) = runner.build_param_scheduler(runner.cfg.param_scheduler)
    rates = []
    for accuracy in [10, 20, 30, *[30.05] * 40]:
        scheduler.step({"accuracy/top1": accuracy})
        rates.append(optimizer.get_lr()["lr"][0])
    assert [round(rate, 7) for rate in dict.fromkeys(rates)] == [1e-2, 1e-3, 1e-4, 1e-5]
    assert rates.index(rates[-1]) == 2 + 3 * 6
