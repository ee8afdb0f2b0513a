"""The paper's evaluation as a test-time model (Sec. 3.2)."""

from __future__ import annotations

from collections import defaultdict

import torch
from mmengine.model import BaseTTAModel
from mmpretrain.structures import DataSample
from torch import Tensor

from vgg_mm.registry import MODELS


@MODELS.register_module()
class TestTime(BaseTTAModel):
    """Dense evaluation: the net runs over the whole image, and its scores are averaged over space.

    The posteriors (soft-max) of the image, of its mirror image and of all its scales are averaged.
    Images come unpadded, a list for each scale, as :class:`vgg_mm.MultiScale` makes them; those of
    equal size run together, and the batch size changes no score.

    Args:
        module: The classifier, or its config. Its head must work on maps of any size, as
            :class:`vgg_mm.VGGHead` does.
        flip: Whether to average with the mirror image.
    """

    __test__ = False  # not a test class, whatever its name tells pytest

    def __init__(self, module: dict | torch.nn.Module, flip: bool = True) -> None:
        super().__init__(module)
        self.flip = flip

    @torch.no_grad()
    def test_step(self, data: dict) -> list[DataSample]:
        """Scores a batch.

        Args:
            data: ``inputs``, for each scale a list of N uint8 images (3, H, W), and the N
                ``data_samples``.

        Returns:
            The N samples with ``pred_score`` (classes,), the averaged posteriors, and
            ``pred_label``.
        """
        scales = torch.stack([self._posteriors(images) for images in data["inputs"]])
        samples = data["data_samples"]
        for sample, posterior in zip(samples, scales.mean(0), strict=True):
            sample.set_pred_score(posterior).set_pred_label(posterior.argmax(0, keepdim=True))
        return samples

    def _posteriors(self, images: list[Tensor]) -> Tensor:
        """The posteriors (N, classes) of N images (3, H, W) of one scale."""
        groups = defaultdict(list)
        for i, image in enumerate(images):
            groups[image.shape].append(i)
        posteriors: dict[int, Tensor] = {}
        for members in groups.values():
            batch = {"inputs": torch.stack([images[i] for i in members])}
            x = self.module.data_preprocessor(batch)["inputs"]  # (n, 3, H, W)
            p = self.module(x).softmax(1)
            if self.flip:
                p = (p + self.module(x.flip(-1)).softmax(1)) / 2
            posteriors.update(zip(members, p, strict=True))
        return torch.stack([posteriors[i] for i in range(len(images))])

    def merge_preds(self, data_samples_list: list[list[DataSample]]) -> list[DataSample]:
        """Is mmengine's hook for one forward a view; :meth:`test_step` has merged already."""
        return data_samples_list[0]
