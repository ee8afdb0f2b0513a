"""From samples to a batch, in the one step that a worker needs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from vgg_mm.errors import UserError
from vgg_mm.registry import FUNCTIONS


@FUNCTIONS.register_module()
def collate_crops(samples: Sequence[dict]) -> dict:
    """Makes a training batch of what a pipeline of crops returns: a dataloader's ``collate_fn``.

    It takes the place of PackInputs and of a collation of what that packs: the crops are copied
    once, and no DataSample travels, which is slow. :class:`vgg_mm.VGGPreprocessor` makes the
    batch's DataSamples where they are needed.

    Args:
        samples: N results of a pipeline: ``img``, uint8 or float32 (H, W, 3), all of one size,
            ``gt_label`` and, where there are any, ``lighting``, ``gt_bboxes`` and ``corrupt``.

    Returns:
        ``inputs`` (N, 3, H, W) of the images' type, the list ``gt_label``, ``lighting`` (N, 3) if
        it was drawn, the list ``gt_bboxes`` if there are boxes, and ``corrupt``, what is wrong with
        the images that others stand in for.

    Raises:
        UserError: If the images are not alike, or the pipeline has packed them.
    """
    if "img" not in samples[0]:
        raise UserError(
            "collate_crops: the pipeline's samples have no 'img'. Leave PackInputs out of it, or"
            " set the dataloader's collate_fn=dict(type='default_collate')."
        )
    dtype, (h, w) = samples[0]["img"].dtype, samples[0]["img"].shape[:2]
    inputs = _empty((len(samples), 3, h, w), dtype)
    for sample, planes in zip(samples, inputs.numpy(), strict=True):
        image = sample["img"]
        if (image.dtype, image.shape) != (dtype, (h, w, 3)):
            raise UserError(
                f"{sample.get('img_path', 'An image')} is {image.dtype} {image.shape} at the end of"
                f" the pipeline, where {dtype} {(h, w, 3)} fits its batch: let LoadScaledCrop or"
                " RandomCrop make all alike."
            )
        cv2.split(image, list(planes))
    batch = {"inputs": inputs, "gt_label": [sample["gt_label"] for sample in samples]}
    batch["corrupt"] = [line for sample in samples for line in sample.get("corrupt", ())]
    if "lighting" in samples[0]:
        batch["lighting"] = np.stack([sample["lighting"] for sample in samples])
    if "gt_bboxes" in samples[0]:
        batch["gt_bboxes"] = [sample.get("gt_bboxes") for sample in samples]
    return batch


def _empty(shape: tuple[int, ...], dtype: np.dtype) -> Tensor:
    """A tensor that, made in a worker, its parent can use without a copy, as torch's collation."""
    empty = torch.from_numpy(np.empty(0, dtype))
    if get_worker_info() is None:
        return empty.new_empty(shape)
    shared = torch.UntypedStorage._new_shared(math.prod(shape) * dtype.itemsize)
    return empty.set_(shared).view(shape)
