"""Trains the nets of configs/downstream on scenes, and stock backbones for as long beside them.

Each config is trained with a quarter of its channels, at most 256, on small scenes of 8 classes;
then again with the toolbox's own backbone in the place of VGG-16, fc6 and fc7: mmdetection's
SSDVGG, as narrow, for SSD, and a ResNet-18 of half its channels for the others. Both sides start at
random, with batch norms after the backbone's convs, and have the same data, steps, optimiser and
heads. The table has the mAP@50 or mIoU of both on scenes that neither was trained on.

What a training ends at is kept in a file: typed again, the command goes on after the last one that
ended.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner
from torch import nn

from tools.arguments import count
from tools.data.scenes import AllSettings
from tools.printing import as_markdown, as_text
from tools.processes import prepare_process
from vgg_mm.cli.configs import get_config
from vgg_mm.data.scenes import draw_scenes
from vgg_mm.errors import library
from vgg_mm.writing import write_text

SCENES = AllSettings(images=(4_000, 400, 0), classes=8, short=96, layouts=("coco", "masks"))
SHORT, LONG = 96, 128
BATCH, STEPS = 8, 300
BY, MOST = 4, 256  # a quarter of all channels, at most 256
NORM = dict(type="BN")
NEW = dict(_delete_=True, type="vgg_mm.Glorot")

# Fewer boxes, for small images hold few.
TWO_STAGES: dict[str, Any] = {
    "model.train_cfg.rpn_proposal.max_per_img": 200,
    "model.train_cfg.rcnn.sampler.num": 64,
    "model.test_cfg.rpn.max_per_img": 100,
}
SSD_NECK = dict(
    type="SSDNeck",
    in_channels=[128, 256],
    out_channels=[128, 256, 128, 64],  # of strides 8 to 64
    level_strides=[2, 2],
    level_paddings=[1, 1],
    l2_norm_scale=20,
)
# What else the nets are given for small images, on both sides.
SMALL: dict[str, dict[str, Any]] = {
    "ssd300_vgg16": {
        "model.neck.0.init_cfg": NEW,
        "model.neck.1": SSD_NECK,
        "model.bbox_head.in_channels": SSD_NECK["out_channels"],
        "model.bbox_head.anchor_generator": dict(
            _delete_=True,
            type="SSDAnchorGenerator",
            scale_major=False,
            input_size=LONG,
            min_sizes=[20, 40, 64, 88],
            max_sizes=[40, 64, 88, 112],
            strides=[8, 16, 32, 64],
            ratios=[[2], [2, 3], [2, 3], [2, 3]],
        ),
    },
    "faster_rcnn_vgg16_c4": {
        **TWO_STAGES,
        "model.roi_head.shared_head.init_cfg": NEW,
        "model.roi_head.shared_head.dropout": 0,  # as mmdetection's own FC layers
    },
    "faster_rcnn_vgg16_fpn": TWO_STAGES,
    "fcn32s_vgg16": {"model.neck.init_cfg": NEW},
    "fcn16s_vgg16": {"model.neck.init_cfg": NEW},
    "fcn8s_vgg16": {"model.neck.init_cfg": NEW},
    "deeplab_largefov_vgg16": {"model.neck.init_cfg": NEW, "model.neck.dilation": 4},
}


def resnet18(*out_indices: int, **dilated: Sequence[int]) -> dict:
    """ResNet-18 with half of its channels: 32, 64, 128 and 256 of its stages."""
    return dict(
        _delete_=True,
        type="ResNet",
        depth=18,
        base_channels=32,
        out_indices=out_indices,
        norm_eval=False,
        norm_cfg=NORM,
        style="pytorch",
        **dilated,
    )


def _fcn(in_channels: int | list[int], *out_indices: int, **dilated: Sequence[int]) -> dict:
    return {
        "model.backbone": resnet18(*out_indices, **dilated),
        "model.neck": None,
        "model.decode_head.in_channels": in_channels,
    }


# What takes the place of VGG-16 and of its fc6 and fc7.
STOCK: dict[str, dict[str, Any]] = {
    "ssd300_vgg16": {
        "model.backbone": dict(
            _delete_=True,
            type="SSDVGG",
            depth=16,
            with_last_pool=False,
            ceil_mode=True,
            out_indices=(3, 4),
            out_feature_indices=(22, 34),
        ),
        "model.neck": dict(_delete_=True, **SSD_NECK),
    },
    # As mmdetection's own faster-rcnn_r50-caffe-dc5 has it: stride 16, and two FC layers.
    "faster_rcnn_vgg16_c4": {
        "model.backbone": resnet18(3, strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2)),
        "model.rpn_head.in_channels": 256,
        "model.roi_head.shared_head": None,
        "model.roi_head.bbox_roi_extractor.out_channels": 256,
        "model.roi_head.bbox_head.type": "Shared2FCBBoxHead",
        "model.roi_head.bbox_head.with_avg_pool": False,
        "model.roi_head.bbox_head.roi_feat_size": 7,
        "model.roi_head.bbox_head.fc_out_channels": 256,
    },
    "faster_rcnn_vgg16_fpn": {
        "model.backbone": resnet18(0, 1, 2, 3),
        "model.neck.in_channels": [32, 64, 128, 256],
    },
    "fcn32s_vgg16": _fcn(256, 3),
    "fcn16s_vgg16": _fcn([128, 256], 2, 3),
    "fcn8s_vgg16": _fcn([64, 128, 256], 1, 2, 3),
    "deeplab_largefov_vgg16": _fcn(256, 3, strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4)),
}

SIDES = (False, True)  # whether it is the stock backbone
COLUMNS: tuple[Callable[[dict], str], ...] = (
    lambda kept: f"{kept['parameters'] / 1e6:.1f} M",
    lambda kept: f"{kept['seconds'] / 60:.1f}",
    lambda kept: "{:.2f} to {:.2f}".format(*kept["losses"]),
)


def main(argv: Sequence[str]) -> None:
    """Runs the benchmark.

    Raises:
        UserError: If mmdetection or mmsegmentation is missing.
    """
    args = argparse.ArgumentParser(
        prog="benchmark.py downstream",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    args.add_argument("--out", type=Path, default="work_dirs/downstream", help="%(default)s")
    args.add_argument("--steps", type=count, default=STEPS, help="of each training; %(default)s")
    args.add_argument("--nets", nargs="+", choices=SMALL, default=[*SMALL], help="default: all")
    args.add_argument("--markdown", action="store_true", help="print the table in Markdown")
    args = args.parse_args(argv)
    for package in ("mmdet", "mmseg"):
        library(package, "benchmark.py downstream", "downstream")
    prepare_process()
    rows = [["config", "measure", "VGG-16", "stock", "parameters", "CPU minutes", "loss"]]
    for name in args.nets:
        with redirect_stdout(sys.stderr):  # which the toolboxes' logs are for
            pair = [measure(name, stock, args.out, args.steps) for stock in SIDES]
        ours, stock = (f"{kept['value']:.3f}" for kept in pair)
        backbone = STOCK[name]["model.backbone"]["type"].replace("ResNet", "ResNet-18")
        both = [" / ".join(map(form, pair)) for form in COLUMNS]
        rows.append([name, pair[0]["measure"], ours, f"{stock} ({backbone})", *both])
    print(as_markdown(rows) if args.markdown else as_text(rows, words=(0, 1)))


def measure(name: str, stock: bool, folder: Path, steps: int) -> dict[str, Any]:
    """Trains and tests a net, unless that is done, and returns what is kept of it.

    Args:
        name: The config's.
        stock: Whether the toolbox's own backbone takes VGG-16's place.
        folder: Where the scenes (they are drawn if they are not there), work dirs and files are.
        steps: Of the training.
    """
    kept = folder / f"{name}{'_stock' if stock else ''}_{steps}_steps.json"
    if kept.exists():
        return json.loads(kept.read_text())
    data = draw_scenes(folder / "scenes", SCENES)
    start = time.process_time()
    runner = train(config(name, stock, data, steps, kept.with_suffix("")))
    seconds = time.process_time() - start
    found = runner.test()
    detects = "mIoU" not in found
    losses = runner.message_hub.get_scalar("train/loss").data[0]
    result = dict(
        measure="mAP@50" if detects else "mIoU",
        value=float(found["coco/bbox_mAP_50"] if detects else found["mIoU"] / 100),
        parameters=sum(weight.numel() for weight in runner.model.parameters()),
        seconds=seconds,
        losses=[float(losses[:10].mean()), float(losses[-10:].mean())],
    )
    write_text(kept, json.dumps(result, indent=1) + "\n")
    return result


def config(name: str, stock: bool, data: Path, steps: int, work_dir: Path) -> Config:
    """The config ``name`` for a short training of a narrow net on scenes, as :func:`measure`'s."""
    cfg = get_config(f"downstream/{name}")
    narrow(cfg.model, BY, MOST)
    cfg.merge_from_dict({**SMALL[name], "model.backbone.init_cfg": NEW})
    cfg.merge_from_dict({"model.backbone.norm_cfg": NORM, "model.backbone.frozen_stages": 0})
    if stock:
        cfg.merge_from_dict(STOCK[name])
    names = (data / "classes.txt").read_text().split()
    if cfg.default_scope == "mmdet":
        _detects(cfg, data, names)
    else:
        _segments(cfg, data, names)
    cfg.optim_wrapper = dict(
        type="OptimWrapper",
        optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.05),
        clip_grad=dict(max_norm=35, norm_type=2),
    )
    warm = max(1, steps // 10)
    cfg.param_scheduler = [
        dict(type="LinearLR", start_factor=0.01, by_epoch=False, end=warm),
        dict(type="CosineAnnealingLR", by_epoch=False, begin=warm, end=steps, eta_min=1e-5),
    ]
    cfg.train_cfg = dict(type="IterBasedTrainLoop", max_iters=steps)
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.default_hooks.checkpoint = dict(type="CheckpointHook", by_epoch=False, interval=steps)
    cfg.default_hooks.logger = dict(type="LoggerHook", interval=50)
    cfg.log_processor = dict(by_epoch=False)
    cfg.randomness = dict(seed=0)
    cfg.visualizer.name = work_dir.name  # one of each name in a process, which writes to one place
    cfg.work_dir = str(work_dir)
    return cfg


def narrow(node: Any, by: int, most: int) -> None:
    """Divides all channels of a model's config, of which none may be more than ``most`` then."""
    if isinstance(node, dict):
        if node.get("type") in ("vgg_mm.VGGFC", "vgg_mm.VGGNeck"):
            node.setdefault("in_channels", 512)
            node.setdefault("channels", 4096)
        if node.get("type") == "vgg_mm.VGG":
            node["width"] = 64 // by
        for key, value in node.items():
            if not key.endswith("channels"):
                narrow(value, by, most)
            elif isinstance(value, list | tuple):
                node[key] = [min(n // by, most) for n in value]
            else:
                node[key] = min(value // by, most)
    elif isinstance(node, list | tuple):
        for item in node:
            narrow(item, by, most)


def _detects(cfg: Config, data: Path, names: list[str]) -> None:
    ssd = "bbox_head" in cfg.model
    resize = dict(type="Resize", scale=(LONG, LONG if ssd else SHORT), keep_ratio=not ssd)
    load = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations", with_bbox=True), resize]
    keys = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")
    pipelines = dict(
        train=[*load, dict(type="RandomFlip", prob=0.5), dict(type="PackDetInputs")],
        # Boxes stay as they are, for predictions are scaled back to them.
        val=[load[0], load[2], load[1], dict(type="PackDetInputs", meta_keys=keys)],
    )

    def dataset(split: str) -> dict:
        return dict(
            type="CocoDataset",
            data_root=str(data),
            data_prefix=dict(img=""),
            ann_file=f"coco/instances_{split}.json",
            metainfo=dict(classes=names),
            pipeline=pipelines[split],
        )

    _load(cfg, dataset)
    cfg.test_evaluator = dict(
        type="CocoMetric", ann_file=str(data / "coco/instances_val.json"), metric="bbox"
    )
    (cfg.model if ssd else cfg.model.roi_head).bbox_head.num_classes = len(names)


def _segments(cfg: Config, data: Path, names: list[str]) -> None:
    load = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations")]
    crop = dict(type="RandomCrop", crop_size=(SHORT, SHORT))
    pipelines = dict(
        train=[*load, crop, dict(type="RandomFlip", prob=0.5), dict(type="PackSegInputs")],
        val=[*load, dict(type="PackSegInputs")],
    )
    classes = ["background", *names]
    grey = [[20 * i] * 3 for i in range(len(classes))]

    def dataset(split: str) -> dict:
        return dict(
            type="BaseSegDataset",
            data_root=str(data),
            data_prefix=dict(img_path=split, seg_map_path=f"masks/{split}"),
            img_suffix=".JPEG",
            seg_map_suffix=".png",
            metainfo=dict(classes=classes, palette=grey),
            pipeline=pipelines[split],
        )

    _load(cfg, dataset)
    cfg.test_evaluator = dict(type="IoUMetric", iou_metrics=["mIoU"])
    cfg.model.data_preprocessor.size = (SHORT, SHORT)
    cfg.model.decode_head.num_classes = len(classes)


def _load(cfg: Config, dataset: Any) -> None:
    for loader, split in ((cfg.train_dataloader, "train"), (cfg.test_dataloader, "val")):
        loader.update(num_workers=0, persistent_workers=False)
        loader.dataset = dataset(split)
    cfg.train_dataloader.batch_size = BATCH
    cfg.train_dataloader.sampler = dict(type="InfiniteSampler", shuffle=True)


def train(cfg: Config) -> Runner:
    """Trains what a config describes."""
    runner = Runner.from_cfg(cfg)
    if cfg.model.backbone.type == "SSDVGG":
        narrow_ssdvgg(runner.model.backbone)
    runner.train()
    return runner


def narrow_ssdvgg(backbone: nn.Module) -> None:
    """Makes mmdetection's SSDVGG, whose channels are fixed, the net that ours is."""
    channels = 3
    for i, conv in enumerate(backbone.features):
        if isinstance(conv, nn.Conv2d):
            new = nn.Conv2d(
                channels,
                conv.out_channels // BY,
                conv.kernel_size,
                padding=conv.padding,
                dilation=conv.dilation,
            )
            channels = new.out_channels
            convs_end = i < 30  # what follows is fc6 and fc7
            backbone.features[i] = (
                nn.Sequential(new, nn.BatchNorm2d(channels)) if convs_end else new
            )
