"""A test of boxes (appendix A) as commands do it: the guesses, in words, beside two baselines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from mmengine.config import Config
from mmengine.dist import is_main_process
from mmpretrain.registry import DATASETS

from tools.analysis.paper_tables import boxes_beside_paper
from tools.evaluation import localise
from vgg_mm.data.images import CorruptImageError, described, read_bytes
from vgg_mm.data.wrappers import levels
from vgg_mm.errors import UserError
from vgg_mm.testing.boxes import overlaps

MOST = 10_000  # training images whose boxes are averaged


def localise_and_tell(
    cfg: Config, checkpoint: str, out: str | Path, true_class: bool = False
) -> None:
    """Tests where a checkpoint finds things, and prints the errors.

    Args:
        cfg: The config, see :func:`tools.evaluation.localise`.
        checkpoint: The net that predicts boxes.
        out: Where to write the guesses.
        true_class: Whether to do test 1, beside which the :func:`baselines` are printed.
    """
    errors = localise(cfg, checkpoint, out, true_class=true_class)
    if not is_main_process():
        return
    top1 = errors["localisation/top1"]
    if true_class:
        print(f"test 1 (true class, centre crop): localisation error {top1:.1f}%")
        try:
            for name, error in baselines(cfg).items():
                print(f"  {name} instead: {error:.1f}%")
        except UserError as error:  # such as a training set that is not on this machine
            print(f"  no other boxes to compare: {error}")
    else:
        # A data set of one class has one guess an image.
        top5 = errors.get("localisation/top5", top1)
        print(
            f"test 2 (dense, five classes): top-1 localisation error {top1:.1f}%, top-5 {top5:.1f}%"
        )
    if paper := boxes_beside_paper(out):
        print(paper)


def baselines(cfg: Config) -> dict[str, float]:
    """Test 1's error in % of two boxes that look at no image: the whole image, and the mean box.

    The mean box is that of the training set's things, in units of their images' sides. All boxes
    are those of the images' files, and of a thing's true class.

    Args:
        cfg: The config, whose data sets have ``gt_bboxes``.
    """
    train = [*_boxes(cfg.train_dataloader.dataset, MOST)]
    things = np.concatenate([boxes / size for size, boxes in train])
    fixed = {
        "the whole image": np.array([0.0, 0, 1, 1]),
        "the training set's mean box": things.mean(0),
    }
    right = [
        [overlaps(boxes, box * size).max(initial=0) >= 0.5 for box in fixed.values()]
        for size, boxes in _boxes(cfg.test_dataloader.dataset)
    ]
    return dict(zip(fixed, 100 - 100 * np.mean(right, 0), strict=True))


def _boxes(data: dict, most: int | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Of each image of a data set's config its width, height, width, height and its boxes (n, 4).

    Of more than ``most`` images some are left out, evenly.
    """
    for each in levels(data):
        if not {"dataset", "datasets"}.isdisjoint(each):
            continue
        dataset = DATASETS.build({**each, "pipeline": []})
        for i in range(0, len(dataset), -(-len(dataset) // most) if most else 1):
            info = dataset.get_data_info(i)
            if not len(info["gt_bboxes"]):
                continue
            if (shape := info.get("boxes_shape")) is None:
                try:
                    shape = described(read_bytes(info["img_path"]))[:2]
                except CorruptImageError:  # whoever loads it says so
                    continue
            if all(shape):
                yield np.array([*shape[::-1]] * 2, np.float64), info["gt_bboxes"]
