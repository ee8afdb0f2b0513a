"""Sec. 3.1's input: the mean subtracted from every pixel, and the colour shift, on the device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmpretrain.models import ClsDataPreprocessor
from mmpretrain.structures import DataSample
from torch import Tensor

from vgg_mm.paper import MEAN_RGB
from vgg_mm.registry import MODELS


@MODELS.register_module()
class VGGPreprocessor(ClsDataPreprocessor):
    """Moves a batch of uint8 images to the device, and adds minus the mean and the lighting there.

    The lighting is what :class:`vgg_mm.DrawLighting` draws, a shift of (R, G, B) in grey levels for
    each image. The sum is taken in float32; a net that was cast, as by ``half()``, gets its own
    type.

    Args:
        mean: To be subtracted, of (R, G, B), or in the images' order if ``to_rgb`` is False. The
            default is ImageNet's, in the order that ``to_rgb`` makes of BGR images.
        std: To divide by; the paper does not.
        to_rgb: Whether to turn BGR images to RGB.
        kwargs: Further arguments of mmpretrain's ``ClsDataPreprocessor``.
    """

    def __init__(
        self,
        mean: Sequence[float] | None = None,
        std: Sequence[float] = (1, 1, 1),
        to_rgb: bool = False,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self._non_blocking = True  # a batch in pinned memory travels beside the GPU's work
        self.rgb = to_rgb
        if mean is None:
            mean = MEAN_RGB if to_rgb else MEAN_RGB[::-1]
        # No buffers, which half() would round.
        self.shift = -torch.tensor(mean, dtype=torch.float64)
        self.std = torch.tensor(std, dtype=torch.float32)[:, None, None]
        self.divides = set(std) != {1}
        self.register_buffer("typed", torch.empty(0), False)  # is of the net's type

    def forward(self, data: dict, training: bool = False) -> dict:
        """Prepares a batch for the net.

        Args:
            data: ``inputs``, (N, 3, H, W) or a list of N (3, H, W), and perhaps ``data_samples``
                or, from :func:`vgg_mm.collate_crops`, ``gt_label``, ``lighting`` (N, 3) and a list
                of N ``gt_bboxes``.
            training: Whether to apply mmpretrain's batch augmentations.

        Returns:
            ``inputs`` (N, 3, H, W) and ``data_samples``, on the device.
        """
        inputs, samples = self.cast_data(data["inputs"]), data.get("data_samples")
        if "gt_label" in data:
            samples = [DataSample().set_gt_label(label) for label in data["gt_label"]]
            for sample, boxes in zip(samples, data.get("gt_bboxes", ()), strict=False):
                sample.set_field(boxes, "gt_bboxes")
        shift = self.shift.expand(len(inputs), 3)
        if "lighting" in data:
            lighting = torch.as_tensor(data["lighting"])
            shift = shift + (lighting if self.rgb else lighting.flip(1))
        shift = shift.float()[:, :, None, None].to(self.device, non_blocking=True)  # (N, 3, 1, 1)
        if isinstance(inputs, Tensor):
            inputs = self._add(inputs, shift)
        else:
            inputs = [self._add(x[None], s[None])[0] for x, s in zip(inputs, shift, strict=True)]
        data = super().forward({"inputs": inputs, "data_samples": samples}, training)
        return {**data, "inputs": data["inputs"].to(self.typed.dtype)}

    def _add(self, images: Tensor, shift: Tensor) -> Tensor:
        x = torch.empty_like(images, dtype=torch.float32)
        # A GPU takes the batch at once, a CPU image by image: their floats stay in its cache.
        step = 1 if images.is_cpu else max(1, len(images))
        parts = (each.split(step) for each in (x, images, shift))
        for floats, some, shifts in zip(*parts, strict=True):
            floats.copy_(some.flip(1) if self.rgb else some).add_(shifts)
        return x.div_(self.std.to(x.device)) if self.divides else x
