"""Localisation: the FC layers of a net that predicts boxes (Appendix A)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmpretrain.structures import DataSample
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vgg_mm.errors import UserError
from vgg_mm.models.head import FC, VGGFC
from vgg_mm.registry import MODELS

INIT: list[dict] = [
    dict(type="vgg_mm.Glorot"),
    dict(type="Normal", layer=[], std=0.01, override=dict(name="fc8")),
]


@MODELS.register_module()
class BoxHead(VGGFC):
    """fc6, fc7, and an fc8 that predicts where a thing is: one code for a crop and a whole image.

    fc8's four numbers are the box's centre x and y, counted from the middle of the crop, its width
    and its height, all in units of the crop's side. So they are of order 1 whatever the crop, 0 in
    the middle, and mean the same at every position of a dense map, whose window takes the crop's
    place.

    What the paper leaves open:

    - A box that leaves the crop stays whole: a window that sees a part is to tell where the whole
      is, as the error asks for.
    - A thing counts if at least ``visible`` of its box is in the crop or, as a thing larger than
      the crop can be, at least as much of the crop is in its box (OverFeat's 50%). An image without
      one has no loss. The batch's size divides all the same, so that an image weighs the same in
      every batch and process.
    - Of several things of the class the nearest to the prediction, in the loss's own measure, is
      the target, for the error is forgiven by any of them; their mean would be none.

    Args:
        num_classes: The classes.
        per_class: Whether each class has a box of its own (PCR), or all share one (SCR).
        crop_size: The training crop's side in pixels, and the side of a position's window.
        visible: The least part of a box, or of the crop, that is in the other.
        clipped: Whether to clip targets to the crop, in place of whole boxes.
        init_cfg: Initialisation. By default Glorot's for fc6 and fc7, which a classifier's replace
            (``--start-from``), and N(0, 0.01^2) for fc8.
        kwargs: Further arguments of :class:`VGGFC`.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        per_class: bool = True,
        crop_size: int = 224,
        visible: float = 0.5,
        clipped: bool = False,
        init_cfg: dict | list[dict] | None = INIT,
        **kwargs,
    ) -> None:
        super().__init__(init_cfg=init_cfg, **kwargs)
        if not 0 <= visible <= 1:
            raise UserError(f"BoxHead: visible={visible} is no part of a box; use 0 to 1.")
        self.num_classes = num_classes
        self.per_class = per_class
        self.crop_size = crop_size
        self.visible = visible
        self.clipped = clipped
        self.fc8 = FC(self.fc7.out_channels, 4 * num_classes if per_class else 4, 1)

    def box_map(self, feats: tuple[Tensor, ...]) -> Tensor:
        """The boxes of every position, in units of its window: (N, C, 4, H-k+1, W-k+1).

        C is ``num_classes``, or 1 without ``per_class``; feature maps are (N, channels, H, W).
        """
        return self.fc8(self.fc67(feats[-1])).unflatten(1, (-1, 4))

    def forward(self, feats: tuple[Tensor, ...]) -> Tensor:  # type: ignore[override]
        """The boxes of crops, in units of a crop: (N, C, 4), see :meth:`box_map`.

        Raises:
            UserError: If the images are larger than a crop.
        """
        boxes = self.box_map(feats)
        if boxes.shape[-2:].numel() != 1:
            h, w = boxes.shape[-2:]
            raise UserError(
                f"BoxHead: {h}x{w} positions give a box each, and a crop has one: cut the images "
                f"to {self.crop_size}x{self.crop_size} pixels, or use box_map."
            )
        return boxes.flatten(2)

    def pixels(self, boxes: Tensor) -> Tensor:
        """Boxes (..., 4) as fc8 has them -> corners x1, y1, x2, y2 in the crop's pixels.

        A width or height of less than a pixel becomes a pixel.
        """
        centres, sizes = (self.crop_size * boxes).split(2, -1)
        centres, half = centres + self.crop_size / 2, sizes.clamp(min=1) / 2
        return torch.cat([centres - half, centres + half], -1)

    def units(self, corners: Tensor) -> Tensor:
        """The inverse of :meth:`pixels`."""
        low, high = corners.split(2, -1)
        centres = (low + high - self.crop_size) / 2
        return torch.cat([centres, high - low], -1) / self.crop_size

    def loss(self, feats: tuple[Tensor, ...], data_samples: Sequence[DataSample]) -> dict:
        """The Euclidean loss: half the squared distance to the target, averaged over the images.

        Args:
            feats: The backbone's maps of N crops.
            data_samples: N with ``gt_label``, and ``gt_bboxes`` (n, 4), the corners x1, y1, x2, y2
                of the class's things in the crop's pixels; mirrored if the crop is.

        Returns:
            ``loss``.

        Raises:
            UserError: If a sample has no ``gt_bboxes``.
        """
        predicted = self(feats).float()  # (N, C, 4)
        if self.per_class:
            labels = torch.cat([sample.gt_label for sample in data_samples])
            predicted = predicted[torch.arange(len(labels)), labels.to(predicted.device)]
        corners = _padded(data_samples).to(predicted)  # (N, most, 4)
        seen = corners.clamp(0, self.crop_size)
        area = (corners[..., 2:] - corners[..., :2]).prod(-1)
        inside = (seen[..., 2:] - seen[..., :2]).prod(-1)
        counts = (inside > 0) & (inside >= self.visible * area.clamp(max=self.crop_size**2))
        # No NaN, whose gradient would be NaN where it is masked, too.
        targets = self.units(seen if self.clipped else corners).nan_to_num()
        distances = (predicted.reshape(-1, 1, 4) - targets).square().sum(-1)
        nearest = distances.masked_fill(~counts, torch.inf).amin(1)
        return dict(loss=nearest.where(counts.any(1), 0).sum() / (2 * len(nearest)))

    def predict(
        self, feats: tuple[Tensor, ...], data_samples: Sequence[DataSample] | None = None
    ) -> list[DataSample]:
        """Adds ``pred_bboxes`` (C, 4) to N samples: corners in the crop's pixels, see :meth:`loss`.

        Without samples, new ones.
        """
        boxes = self.pixels(self(feats))
        samples = data_samples or [DataSample() for _ in boxes]
        for sample, own in zip(samples, boxes, strict=True):
            sample.set_field(own, "pred_bboxes")
        return list(samples)


def _padded(data_samples: Sequence[DataSample]) -> Tensor:
    """The samples' ``gt_bboxes`` as (N, most + 1, 4), filled up with NaN."""
    rows = []
    for sample in data_samples:
        if (boxes := sample.get("gt_bboxes")) is None:
            raise UserError(
                "BoxHead: the samples have no gt_bboxes to learn from: use a data set with boxes, "
                "such as vgg_mm.ImageNetBoxes, and a pipeline that keeps them."
            )
        boxes = torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)
        rows.append(torch.cat([boxes, boxes.new_full((1, 4), torch.nan)]))
    return pad_sequence(rows, batch_first=True, padding_value=torch.nan)
