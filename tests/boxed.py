"""A small classifier and small nets that predict boxes, over scenes, for the tests of commands."""

from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

from vgg_mm.registry import MODELS

DEMO = Path(__file__).parents[1] / "configs/demo.py"
CLASSES = 64

CLASSIFIER = f"""
_base_ = {str(DEMO)!r}
model = dict(backbone=dict(width=4), head=dict(in_channels=32, channels=16))
data = dict(_delete_=True, type="vgg_mm.Folders", data_root={{root!r}})
test_dataloader = dict(
    batch_size=7, dataset=dict(data, split="val", pipeline=_base_.test_dataloader.dataset.pipeline)
)
"""
BOXES = """
_base_ = "classifier.py"
model = dict(head=dict(type="vgg_mm.BoxHead", crop_size=28))
data = dict(_delete_=True, type="vgg_mm.FolderBoxes", data_root={root!r})
keys = dict(algorithm_keys=["gt_bboxes"], meta_keys=["img_path", "ori_shape"])
boxed = [dict(type="PackInputs", **keys)]
train_dataloader = dict(dataset=dict(dataset=dict(data, split="train")))
test_dataloader = dict(dataset=dict(data, split="val"))
tta_model = dict(_delete_=True, type="vgg_mm.Localizer")
tta_pipeline = [*_base_.load, dict(type="vgg_mm.MultiScale", scales=[32]), *boxed]
"""


def write_boxed(folder, scenes):
    """Writes ``classifier.py`` and ``boxes.py``, and checkpoints of random weights of each.

    These are ``classifier.pth`` and ``boxes_0.pth``, ``boxes_1.pth``, all lively enough that every
    image has boxes of its own.
    """
    for name, text in (("classifier", CLASSIFIER), ("boxes", BOXES)):
        (folder / f"{name}.py").write_text(text.format(root=str(scenes)))
    classes = sorted(path.name for path in (Path(scenes) / "train").iterdir())
    for name, config, seed in (
        ("classifier", "classifier", 9),
        ("boxes_0", "boxes", 0),
        ("boxes_1", "boxes", 1),
    ):
        init_default_scope("mmpretrain")
        torch.manual_seed(seed)
        net = MODELS.build(Config.fromfile(folder / f"{config}.py").model)
        net.init_weights()
        with torch.no_grad():
            net.head.fc8.weight.normal_(0, 0.1)
            if config == "boxes":
                net.head.fc8.bias.view(-1, 4)[:, 2:] = 0.8
        meta = dict(dataset_meta=dict(classes=classes))
        torch.save(dict(state_dict=net.state_dict(), meta=meta), folder / f"{name}.pth")
