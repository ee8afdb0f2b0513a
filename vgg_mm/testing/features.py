"""Features for other data sets: a layer's activations over the whole image (appendix B)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from vgg_mm.arrays import Rows
from vgg_mm.errors import UserError, suggest
from vgg_mm.models import VGG
from vgg_mm.registry import METRICS, MODELS
from vgg_mm.testing.evaluation import Evaluation
from vgg_mm.testing.scores import SaveScores, Stored

FCS = ("fc6", "fc7", "fc8")


@MODELS.register_module()
class FeatureExtractor(Evaluation):
    """Describes images by a layer's activations, for a linear classifier of another data set.

    The net runs over the whole image; the activations (after the ReLU, but fc8's) are averaged over
    space, then with the mirror image's. The scales' averages are averaged or stacked, and the
    descriptor divided by its L2 norm. Every image runs on its own, so a descriptor depends on no
    other image.

    Args:
        module: As :class:`Evaluation` takes it; its backbone must be a :class:`vgg_mm.VGG`, and
            nothing past the layer need be there.
        layer: A conv's name, such as ``'conv5_3'``, or ``fc6``, ``fc7`` or ``fc8``.
        stack: Whether to stack the scales.
        flip: As :class:`Evaluation` takes it.

    Raises:
        UserError: If the net has no such layer.
    """

    def __init__(
        self, module: dict | nn.Module, layer: str, stack: bool = False, flip: bool = True
    ) -> None:
        self.layer = layer
        self.stack = stack
        super().__init__(module, flip=flip, max_batch=1)
        if layer in FCS:
            layer = {"fc6": "relu6", "fc7": "relu7"}.get(layer, layer)
            getattr(self.module.head, layer).register_forward_hook(self._keep)
        else:
            self.module.backbone.out_indices = (layer,)

    def _check_net(self) -> None:
        net = self.module
        if not isinstance(net.backbone, VGG):
            raise UserError(f"features are a vgg_mm.VGG's, not a {type(net.backbone).__name__}'s.")
        layers = [layer.name for stage in net.backbone.stages for layer in stage]
        layers += [name for name in FCS if hasattr(getattr(net, "head", None), name)]
        if self.layer not in layers:
            raise UserError(
                f"the net has no layer {self.layer} to take features from; use one of "
                f"{', '.join(layers)}.{suggest(self.layer, layers)}"
            )

    def protocol(self, scales: Sequence[int], **tested: Any) -> dict[str, Any]:
        """As :meth:`Evaluation.protocol`, with ``layer`` and ``stack`` besides."""
        return super().protocol(scales, **tested) | dict(layer=self.layer, stack=self.stack)

    def _keep(self, module: nn.Module, inputs: tuple[Tensor, ...], maps: Tensor) -> None:
        self.maps = maps

    @torch.no_grad()
    def test_step(self, data: dict) -> list[DataSample]:
        """Describes a batch.

        Args:
            data: ``inputs``, for each scale a list of N uint8 images (3, H, W), and the N
                ``data_samples``.

        Returns:
            The N samples with ``features`` (D,), of L2 norm 1. D is the layer's channels, or with
            ``stack`` as many for each scale, in the scales' order.
        """
        features = self._evaluate(data)  # (N, scales, channels)
        features = features.flatten(1) if self.stack else features.mean(1)
        for sample, f in zip(data["data_samples"], F.normalize(features), strict=True):
            sample.set_field(f, "features")
        return data["data_samples"]

    def _outputs(self, x: Tensor) -> Tensor:
        """Images (b, 3, H, W) as the net takes them -> (b, channels)."""
        feats = self.module.backbone(x)
        if self.layer in FCS:
            self.module.head(feats)
            return self.maps.mean((2, 3))
        return feats[-1].mean((2, 3))


@dataclass
class Features(Stored):
    """The descriptors of a data set.

    ``labels`` may be those of a multi-label set (N, classes): 1 where the class is in the image, -1
    where it is not, 0 where it does not count (VOC's "difficult"). The protocol has ``layer`` and
    ``stack`` besides.

    Args:
        features: (N, D), of L2 norm 1 each.
    """

    made_by = "tools/analysis/extract_features.py"
    holds = "features"

    features: np.ndarray | Rows

    def metrics(self) -> dict[str, float]:
        """``images`` and ``dimensions``, their numbers."""
        images, dimensions = self.features.shape
        return {"images": images, "dimensions": dimensions}


@METRICS.register_module()
class SaveFeatures(SaveScores):
    """Keeps the descriptor of every image and writes :class:`Features`, sorted by name.

    Takes :class:`vgg_mm.SaveScores`' arguments.
    """

    default_prefix = "features"
    stored = Features
