"""Features for other data sets: a layer's activations over the whole image (appendix B)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from vgg_mm.arrays import Rows
from vgg_mm.errors import UserError, suggest
from vgg_mm.models import VGG, VGGFC
from vgg_mm.registry import MODELS
from vgg_mm.testing.evaluation import Evaluation
from vgg_mm.testing.scores import Stored
from vgg_mm.weights.layouts import FCS


def tappable(net: Any, before_relu: bool = False) -> dict[str, nn.Module]:
    """The layers of a net whose outputs can be had: the module to hook by the layer's name.

    These are a :class:`vgg_mm.VGG`'s convs and pools (``conv5_3``, ``pool5``) and its head's
    ``fc6``, ``fc7`` and ``fc8``, after their ReLU unless ``before_relu``.

    Raises:
        UserError: If the net's backbone is another.
    """
    backbone, head = net.backbone, getattr(net, "head", None)
    if not isinstance(backbone, VGG):
        raise UserError(f"features are a vgg_mm.VGG's, not a {type(backbone).__name__}'s.")
    parts = dict(backbone.named_children())
    found = {}
    for i, stage in enumerate(backbone.stages, 1):
        for layer in stage:
            last = layer.bn if backbone.with_norm and layer.kernel else layer.name
            found[layer.name] = parts[last if before_relu or not layer.kernel else layer.relu]
        if f"pool{i}" in parts:
            found[f"pool{i}"] = parts[f"pool{i}"]
    if isinstance(head, VGGFC):
        relus = {} if before_relu else dict(fc6="relu6", fc7="relu7")
        fcs = [name for name in FCS if hasattr(head, name)]
        found |= {name: getattr(head, relus.get(name, name)) for name in fcs}
    return found


def layer_maps(
    net: Any, x: Tensor, layers: Sequence[str], before_relu: bool = False
) -> dict[str, Tensor]:
    """Runs a net and returns what layers of it put out.

    Args:
        net: The net, an ImageClassifier or the like.
        x: Images (b, 3, H, W) as it takes them.
        layers: Names of :func:`tappable`.
        before_relu: Whether to take convs and FC layers before their ReLU.

    Returns:
        The layers' maps (b, C, h, w) by name; of FC layers one vector for each window of fc6.
    """
    modules, maps = tappable(net, before_relu), {}
    with ExitStack() as hooks:
        for layer in layers:
            check_layer(layer, modules)

            def keep(_: nn.Module, __: tuple, output: Tensor, layer: str = layer) -> None:
                maps[layer] = output

            hooks.enter_context(modules[layer].register_forward_hook(keep))
        feats = net.backbone(x)
        if not {*FCS}.isdisjoint(layers):
            fc7 = net.head.fc67(feats[-1])
            if "fc8" in layers:
                net.head.fc8(fc7)
    return maps


def check_layer(layer: str, known: Mapping[str, nn.Module]) -> None:
    """Raises UserError unless the ``layer`` is one of those that are known."""
    if layer not in known:
        raise UserError(
            f"the net has no layer {layer} to take features from; use one of "
            f"{', '.join(known)}.{suggest(layer, [*known])}"
        )


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
        layer: A name of :func:`tappable`, such as ``'conv5_3'`` or ``'fc7'``; of several, the
            descriptors stand one after the other.
        stack: Whether to stack the scales.
        flip: As :class:`Evaluation` takes it.
        before_relu: Whether to take the activations before the ReLU.

    Attributes:
        channels: Those of each layer, once it has run.
    """

    def __init__(
        self,
        module: dict | nn.Module,
        layer: str | Sequence[str],
        stack: bool = False,
        flip: bool = True,
        before_relu: bool = False,
    ) -> None:
        self.layer = layer
        self.layers = [layer] if isinstance(layer, str) else [*layer]
        self.stack = stack
        self.before_relu = before_relu
        self.channels: list[int] = []
        super().__init__(module, flip=flip, max_batch=1)

    def _check_net(self) -> None:
        for layer in self.layers:
            check_layer(layer, tappable(self.module))

    def protocol(self, scales: Sequence[int], **tested: Any) -> dict[str, Any]:
        """As :meth:`Evaluation.protocol`, with ``layer`` and ``stack`` besides."""
        return super().protocol(scales, **tested) | dict(layer=self.layer, stack=self.stack)

    @torch.no_grad()
    def test_step(self, data: dict) -> list[DataSample]:
        """Describes a batch, which is as :meth:`Evaluation.test_step` takes it.

        Returns:
            The N samples with ``features`` (D,), of L2 norm 1. D is the layer's channels, or with
            ``stack`` as many for each scale, in the scales' order.
        """
        features = self._evaluate(data)  # (N, scales, channels of all layers)
        layers = features.split(self.channels, -1)
        each = [f.flatten(1) if self.stack else f.mean(1) for f in layers]
        normal = torch.cat([F.normalize(f) for f in each], 1)
        for sample, f in zip(data["data_samples"], normal, strict=True):
            sample.set_field(f, "features")
        return data["data_samples"]

    def _outputs(self, x: Tensor) -> Tensor:
        """Images (b, 3, H, W) as the net takes them -> (b, channels)."""
        maps = layer_maps(self.module, x, self.layers, self.before_relu)
        pooled = [maps[layer].mean((2, 3)) for layer in self.layers]
        self.channels = [p.shape[1] for p in pooled]
        return torch.cat(pooled, 1)


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
