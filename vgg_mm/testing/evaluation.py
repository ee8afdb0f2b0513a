"""The paper's evaluation as a test-time model (Sec. 3.2)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.model import BaseTTAModel
from mmpretrain.models import GlobalAveragePooling, LinearClsHead, MultiLabelClsHead
from mmpretrain.structures import DataSample
from torch import Tensor

from vgg_mm.data.images import blamed
from vgg_mm.errors import UserError
from vgg_mm.models import VGG, VGGHead
from vgg_mm.models.cpu import laid_out, memory_reused, speed_up
from vgg_mm.registry import MODELS
from vgg_mm.testing.scores import Protocol

VIEWS = {"dense": ("dense",), "crops": ("crops",), "both": ("dense", "crops")}


@MODELS.register_module(name=["Evaluation", "TestTime"])  # configs in the wild have the latter
class Evaluation(BaseTTAModel):
    """Dense evaluation, multi-crop evaluation, or both, of any classifier of mmpretrain.

    - ``dense``: the net runs over the whole image, and its class scores are averaged over space.
      Of a VGG it is the middle of the image, its sides multiples of 32 (:meth:`seen`).
    - ``crops``: the net runs over a regular grid of crops that reaches all four edges.

    The posteriors (soft-max) of a view, of its mirror image, of all crops and of all scales are
    averaged; ``both`` averages dense and crops. Images come unpadded as uint8, a list for each
    scale, as :class:`vgg_mm.MultiScale` makes them; crops and mirror images are cut on the device.
    Views of equal size run together, and the batch size changes no score.

    Args:
        module: The classifier, or its config. For ``dense``, its head must work on maps of any
            size: :class:`vgg_mm.VGGHead`, or global average pooling and a linear head.
        views: ``'dense'``, ``'crops'`` or ``'both'``.
        flip: Whether to average with the mirror image.
        grid: Crops along each side: 5 gives 25, with their flips the paper's 50 a scale.
        crop_size: The crops' side in pixels.
        max_batch: How many views run together at most, each with its mirror image.

    Raises:
        UserError: If ``views`` or ``grid`` is impossible, the net takes images of one size alone
            and is to be run densely, or it gives images several labels.
    """

    def __init__(
        self,
        module: dict | torch.nn.Module,
        views: str = "dense",
        flip: bool = True,
        grid: int = 5,
        crop_size: int = 224,
        max_batch: int = 25,
    ) -> None:
        super().__init__(module)
        if views not in VIEWS:
            raise UserError(f"Evaluation: views={views!r}; use one of {', '.join(VIEWS)}.")
        self.views = VIEWS[views]
        self.flip = flip
        self.grid = grid
        self.crop_size = crop_size
        self.max_batch = max_batch
        if grid < 2:
            raise UserError(f"Evaluation: grid={grid} reaches one edge alone; use 2 or more.")
        self._check_net()
        speed_up(self.module)

    def _check_net(self) -> None:
        head, neck = (getattr(self.module, part, None) for part in ("head", "neck"))
        if isinstance(head, MultiLabelClsHead):
            raise UserError(
                f"Evaluation: {type(head).__name__} has no posteriors, which sum to 1 over the "
                "classes. Set tta_model=None in the config: a training then ends without a test; "
                "mmpretrain's tools/test.py measures several labels."
            )
        pooled = isinstance(neck, GlobalAveragePooling) and isinstance(head, LinearClsHead)
        if "dense" in self.views and not (isinstance(head, VGGHead) or pooled):
            raise UserError(
                f"Evaluation: {type(self.module.backbone).__name__} with {type(head).__name__} "
                "cannot run densely: its head takes a map of one size alone (VGGHead, or "
                "GlobalAveragePooling and a linear head, take any). Use views='crops'."
            )

    def protocol(self, scales: Sequence[int], **tested: Any) -> dict[str, Any]:
        """What it does to images at the ``scales``, as a :class:`vgg_mm.testing.Protocol`'s dict.

        Args:
            scales: The test scales Q.
            tested: The protocol's fields that tell what is tested, such as ``checkpoint``.
        """
        pairs = [(view, Q) for view in self.views for Q in scales]
        views, each_scale = [view for view, _ in pairs], [Q for _, Q in pairs]
        tested |= dict(flip=self.flip, grid=self.grid, crop_size=self.crop_size)
        return asdict(Protocol(views=views, scales=each_scale, **tested))

    @torch.no_grad()
    def test_step(self, data: dict) -> list[DataSample]:
        """Scores a batch.

        Args:
            data: ``inputs``, for each scale a list of N uint8 images (3, H, W), and the N
                ``data_samples``.

        Returns:
            The N samples with ``posteriors`` (V, classes), one for each pair of a view and a scale
            (all scales of the first view, then of the second), their average ``pred_score``
            (classes,), and ``pred_label``.
        """
        posteriors = self._evaluate(data)
        for sample, p in zip(data["data_samples"], posteriors, strict=True):
            sample.set_field(p, "posteriors")
            sample.set_pred_score(p.mean(0)).set_pred_label(p.mean(0).argmax(0, keepdim=True))
        return data["data_samples"]

    @memory_reused()
    def _evaluate(self, data: dict) -> Tensor:
        """A batch, for each scale a list of N images -> (N, V, classes), V views times scales."""
        inputs, evaluate = data["inputs"], {"dense": self._dense, "crops": self._multi_crop}
        sizes = [image.numel() for image in inputs[0]]
        largest = data["data_samples"][sizes.index(max(sizes))].get("img_path", "an image")
        with blamed(largest):
            return torch.stack(
                [self._by_size(images, evaluate[view]) for view in self.views for images in inputs],
                dim=1,
            )

    def _by_size(self, images: Sequence[Tensor], evaluate: Callable[[Tensor], Tensor]) -> Tensor:
        """Posteriors (N, classes) of N images (3, H, W), those of equal size in one batch."""
        groups = defaultdict(list)
        for i, image in enumerate(images):
            groups[image.shape].append(i)
        posteriors: dict[int, Tensor] = {}
        for members in groups.values():
            batch = {"inputs": torch.stack([images[i] for i in members])}
            x = self.module.data_preprocessor(batch)["inputs"]  # (n, 3, H, W)
            posteriors.update(zip(members, evaluate(x), strict=True))
        return torch.stack([posteriors[i] for i in range(len(images))])

    def _dense(self, x: Tensor) -> Tensor:
        """(n, 3, H, W) -> (n, classes): the whole image."""
        return self._with_mirrored(self.seen(x).unbind())

    def seen(self, x: Tensor) -> Tensor:
        """The part of images (n, 3, H, W) that a dense run sees, as a view.

        Of a side that is no multiple of the stride a VGG's pools drop the rest at its end: of 55
        pixels the last 23. Here it is taken off both ends evenly, for what is there matters least.
        """
        backbone = self.module.backbone
        if isinstance(backbone, VGG) and not backbone.ceil_mode:
            for dim in (-2, -1):
                rest = x.shape[dim] % backbone.stride
                x = x.narrow(dim, rest // 2, x.shape[dim] - rest)
        return x

    def _multi_crop(self, x: Tensor) -> Tensor:
        """(n, 3, H, W) -> (n, classes): the average over the grid's crops."""
        crops = [crop for image in x for crop in grid_crops(image, self.grid, self.crop_size)]
        return self._with_mirrored(crops).unflatten(0, (len(x), -1)).mean(1)

    def _with_mirrored(self, views: list[Tensor] | tuple[Tensor, ...]) -> Tensor:
        """Views n x (3, H, W) -> (n, classes), each averaged with its mirror image's."""
        posteriors = []
        for start in range(0, len(views), self.max_batch):
            x = torch.stack(views[start : start + self.max_batch])  # (b, 3, H, W)
            if self.flip:
                x = torch.cat([x, x.flip(-1)])
            p = self._outputs(laid_out(self.module, x))  # (b or 2b, classes)
            posteriors.append(p.unflatten(0, (1 + self.flip, -1)).mean(0))
        return torch.cat(posteriors)

    def _outputs(self, x: Tensor) -> Tensor:
        """Images (b, 3, H, W) as the net takes them -> (b, classes)."""
        return self.module(x).softmax(1)

    def merge_preds(self, data_samples_list: list[list[DataSample]]) -> list[DataSample]:
        """Returns the samples as they are, for :meth:`test_step` has merged the views."""
        return data_samples_list[0]


def grid_crops(image: Tensor, grid: int, size: int) -> list[Tensor]:
    """Cuts a regular grid of crops whose corners are the image's.

    An image (3, H, W) -> the grid * grid crops (3, size, size), row by row, as views of it.

    Raises:
        UserError: If a side is shorter than the crop.
    """
    h, w = image.shape[-2:]
    if min(h, w) < size:
        raise UserError(
            f"an image of {w}x{h} is smaller than the crop of {size}: use scales Q >= {size}."
        )
    rows, columns = (torch.linspace(0, side - size, grid).round().int().tolist() for side in (h, w))
    return [image[:, i : i + size, j : j + size] for i in rows for j in columns]


def multi_scale(cfg: Config) -> ConfigDict:
    """The transform of the test-time pipeline whose ``scales`` are the config's Q.

    Raises:
        UserError: If the config does not say how to test.
    """
    found = [t for t in cfg.get("tta_pipeline") or [] if t.type == "vgg_mm.MultiScale"]
    if len(found) != 1 or not cfg.get("tta_model"):
        raise UserError(
            f"{cfg.filename} does not say how to test: it needs a tta_model of vgg_mm.Evaluation "
            "and a tta_pipeline with vgg_mm.MultiScale, as configs/_base_ has them."
        )
    return found[0]


def finds_boxes(cfg: Config) -> bool:
    """Whether the config's net predicts boxes, so that its tests are those of appendix A."""
    return (cfg.get("tta_model") or {}).get("type") == "vgg_mm.Localizer"
