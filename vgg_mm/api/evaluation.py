"""Any classifier under the paper's protocols, without a config (Sec. 3.2)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmpretrain.structures import DataSample
from torch import nn
from torch.utils.data import DataLoader

from vgg_mm.api.loading import named_input
from vgg_mm.api.net import IMAGENET, Net, answering
from vgg_mm.data.classes import positions
from vgg_mm.errors import UserError
from vgg_mm.inputs import Input
from vgg_mm.testing.localisation import Localizer
from vgg_mm.testing.plain import Labelled, Plain, PlainEvaluation
from vgg_mm.testing.scores import Scores


def evaluate(
    model: Net | nn.Module,
    data: Any,
    views: str | None = None,
    scales: Sequence[int] | int | None = None,
    *,
    input: Input | str | None = None,
    flip: bool = True,
    grid: int = 5,
    crop_size: int = 224,
    batch_size: int = 16,
    workers: int = 0,
) -> Scores:
    """Tests any classifier by the paper's protocols (Sec. 3.2), without a config.

    Args:
        model: A :class:`Net`, whose own protocol holds unless ``views`` or ``scales`` are given; or
            a module from images (N, 3, H, W) to logits (N, classes), torchvision's, timm's or
            yours, where it is.
        data: A folder with a folder a class; a list of (image, label), images as
            :func:`vgg_mm.data.given.samples` takes one; or a data set of mmpretrain's, or of
            torchvision's kind, that yields whole images. Of a module with 1000 outputs the classes
            are ImageNet's, where the data's are among them.
        views: ``"dense"``, ``"crops"`` or ``"both"``; by default dense.
        scales: The shortest sides Q; by default 256.
        input: A module's, as :func:`load` takes it; timm's nets tell theirs.
        flip: Whether to average with the mirror image; like what follows, of a module.
        grid: Crops along each side.
        crop_size: Their side in pixels.
        batch_size: How many images are tested together.
        workers: Processes that read images.

    Returns:
        The posteriors (N, V, classes) in the data's order, and the errors: ``scores.metrics()``,
        ``scores.error(5)``. ``scores.save("x.npz")`` is for tools/analysis/fuse.py and tables.py.

    Raises:
        UserError: If a module is to run densely and is not convolutional, does not tell its input,
            or the data's classes are not the net's.
        CorruptImageError: If an image cannot be read, or is too small or too large.
    """
    module = model.model if isinstance(model, Net) else model
    done: list[DataSample] = []
    with answering(module):
        if isinstance(model, Net):
            net = model
        else:
            plain = Plain(model, named_input(input))
            how = dict(type=PlainEvaluation, flip=flip, grid=grid, crop_size=crop_size)
            net = Net(plain, plain.config, protocol=how)
        found, evaluation = Labelled(data, net.transform(scales)), net.evaluation(views)
        if isinstance(evaluation, Localizer):
            raise UserError("evaluate tests classifiers; tools/test.py tests a config's boxes.")
        rows = net.numbers_of(found.meta)
        for batch in DataLoader(found, batch_size, num_workers=workers, collate_fn=pseudo_collate):
            done += evaluation.test_step(batch)
    posteriors = torch.stack([each.posteriors.float().cpu() for each in done]).numpy()
    labels = np.array([int(each.gt_label) for each in done])
    outputs, names = posteriors.shape[-1], net.classes or found.meta.get("classes")
    if names and outputs == 1000 and not net.named and labels.max() < len(names):
        if (rows := positions(IMAGENET, found.meta)) is not None:
            names = IMAGENET["classes"]
    labels = labels if rows is None else np.array(rows)[labels]
    if not 0 <= labels.min() <= labels.max() < outputs:
        raise UserError(
            f"labels are {labels.min()} to {labels.max()}, and the net has {outputs} classes, from "
            "0 on."
        )
    paths = [each.img_path for each in done]
    root = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
    tested = dict(config="", arch=net.arch, S=None, checkpoint="", sha256="")
    return Scores(
        posteriors=posteriors,
        labels=labels,
        names=np.array([os.path.relpath(path, root) for path in paths]),
        classes=np.array(names or [*map(str, range(outputs))]),
        root=root,
        protocols=[evaluation.protocol(net.sides(scales), **tested)],
    )
