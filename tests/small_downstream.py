"""What the downstream configs need for a few steps on a CPU: small data, a small net, its weights.

Run with torchrun, it trains configs in several processes.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from mmengine import Config
from mmengine.config import config as mmengine_config
from mmengine.dist import all_gather, get_rank
from mmengine.hooks import Hook
from mmengine.runner import Runner
from PIL import Image

from tools.benchmarks.downstream import narrow
from tools.processes import start_processes
from vgg_mm.models import VGG, VGGHead

CONFIGS = Path(__file__).parents[1] / "configs/downstream"
CHECKPOINT = "checkpoints/vgg16.pth"
MASKS = ("SegmentationClass", "SegmentationClassAug")
SPLITS = ("Main/trainval", "Main/test", *(f"Segmentation/{s}" for s in ("train", "val", "aug")))
# Colours, the classes' numbers in PASCAL's masks, and those of COCO's categories.
CLASSES = {"dog": ((230, 90, 20), 12, 18), "person": ((20, 90, 230), 15, 1)}
WIDTH, HEIGHT = 128, 96
SMALLER = 8


def write_data(root, number=4):
    """Pictures of two objects, with boxes and masks, where the configs look for VOC and COCO."""
    voc, coco = root / "data/VOCdevkit/VOC2012", root / "data/coco"
    for name in (
        "JPEGImages",
        "Annotations",
        *MASKS,
        "ImageSets/Main",
        "ImageSets/Segmentation",
    ):
        (voc / name).mkdir(parents=True)
    (coco / "annotations").mkdir(parents=True)
    rng = np.random.default_rng(0)
    images, boxes = [], []
    for i in range(number):
        picture = rng.integers(90, 130, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        tree = [f"<size><width>{WIDTH}</width><height>{HEIGHT}</height></size>"]
        for j, (label, (colour, in_mask, category)) in enumerate(CLASSES.items()):
            w, h = (int(side) for side in rng.integers(40, 56, 2))
            x, y = 64 * j + int(rng.integers(64 - w)), int(rng.integers(HEIGHT - h))
            picture[y : y + h, x : x + w] = colour
            mask[y : y + h, x : x + w] = in_mask
            corners = dict(xmin=x, ymin=y, xmax=x + w, ymax=y + h)
            corners = "".join(f"<{key}>{value}</{key}>" for key, value in corners.items())
            tree.append(f"<object><name>{label}</name><difficult>0</difficult>")
            tree.append(f"<bndbox>{corners}</bndbox></object>")
            box = dict(image_id=i, category_id=category, bbox=[x, y, w, h], area=w * h, iscrowd=0)
            boxes.append(dict(box, id=len(boxes) + 1))
        Image.fromarray(picture).save(voc / f"JPEGImages/{i}.jpg", quality=95)
        for folder in MASKS:
            Image.fromarray(mask).save(voc / f"{folder}/{i}.png")
        (voc / f"Annotations/{i}.xml").write_text(f"<annotation>{''.join(tree)}</annotation>")
        images.append(dict(id=i, file_name=f"{i}.jpg", width=WIDTH, height=HEIGHT))
    for split in SPLITS:
        (voc / f"ImageSets/{split}.txt").write_text("".join(f"{i}\n" for i in range(number)))
    voc.with_name("VOC2007").symlink_to(voc)
    categories = [dict(id=category, name=label) for label, (_, _, category) in CLASSES.items()]
    labels = json.dumps(dict(images=images, annotations=boxes, categories=categories))
    for split in ("train2017", "val2017"):
        (coco / f"annotations/instances_{split}.json").write_text(labels)
        (coco / split).symlink_to(voc / "JPEGImages")


def write_checkpoint(root):
    """A classifier's, net D at 1/8 of its width, where the configs look for it."""
    torch.manual_seed(0)
    head = VGGHead(10, in_channels=512 // SMALLER, channels=4096 // SMALLER)
    net = torch.nn.ModuleDict(dict(backbone=VGG("D", width=64 // SMALLER), head=head))
    for part in net.values():
        part.init_weights()
    for name, value in net.state_dict().items():
        if name.endswith("bias"):
            value.uniform_(-1, 1)
    (root / CHECKPOINT).parent.mkdir()
    torch.save(dict(state_dict=net.state_dict()), root / CHECKPOINT)


def load(name):
    """The config as it stands."""
    return Config.fromfile(CONFIGS / f"{name}.py")


def small(name, steps, work_dir):
    """The config for a few steps on small pictures with a net of 1/8 of the channels."""
    cfg = load(name)
    narrow(cfg.model, SMALLER, 4096 // SMALLER)
    if "ssd" not in name:  # its layers need 300 pixels
        _shrink(cfg._cfg_dict)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
    cfg.train_dataloader.update(batch_size=2, sampler=dict(type="InfiniteSampler", shuffle=True))
    cfg.train_cfg = dict(type="IterBasedTrainLoop", max_iters=steps, val_interval=steps)
    cfg.param_scheduler = []
    if "roi_head" in cfg.model:
        cfg.optim_wrapper.optimizer.lr = 2e-3  # for 2 images a step
        # After so few steps nothing is sure.
        cfg.model.test_cfg.rcnn.score_thr = 1e-3
        cfg.model.test_cfg.rpn.max_per_img = 100
    if cfg.default_scope == "mmseg":
        cfg.optim_wrapper.optimizer.lr = 5e-3  # so few steps, and so narrow a net
    cfg.log_processor = dict(by_epoch=False)
    cfg.default_hooks.checkpoint = dict(type="CheckpointHook", by_epoch=False, interval=steps)
    cfg.randomness = dict(seed=0)
    cfg.work_dir = str(work_dir)
    return cfg


def _shrink(node):
    if isinstance(node, dict):
        for key in ("scale", "scales", "crop_size", "size"):
            if key in node:
                scale = (WIDTH, HEIGHT) if "scale" in key else (HEIGHT, HEIGHT)
                node[key] = [scale] if key == "scales" else scale
        for value in node.values():
            _shrink(value)
    elif isinstance(node, list | tuple):
        for item in node:
            _shrink(item)


class Losses(Hook):
    """Writes down every step's loss."""

    def __init__(self):
        self.values = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.values.append(float(outputs["loss"]))


def run(cfg):
    """Trains; returns the Runner and the losses."""
    losses = Losses()
    runner = Runner.from_cfg(cfg)
    runner.register_hook(losses)
    runner.train()
    return runner, losses.values


def main():
    """Trains each named config in the processes that torchrun started; prints losses as JSON."""
    folder, steps, *names = sys.argv[1:]
    mmengine_config.FormatCode = lambda text, **_: (text, True)
    found = {}
    for name in names:
        cfg = small(name, int(steps), Path(folder) / name)
        cfg.launcher = "pytorch"
        cfg.model_wrapper_cfg = dict(type="vgg_mm.DDP")
        if not torch.distributed.is_initialized():
            start_processes(cfg)
        runner, found[name] = run(cfg)
        weights = torch.cat([p.detach().flatten() for p in runner.model.parameters()])
        others = all_gather(weights)
        assert len(others) == 2 and all(torch.equal(weights, other) for other in others), name
    if get_rank() == 0:
        print(json.dumps(found))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
