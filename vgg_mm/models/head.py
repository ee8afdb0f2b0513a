"""The fully connected layers, held as conv kernels (Sec. 2.1 and 3.2).

On the 7x7 map of a 224-pixel crop they are the paper's FC layers; on a larger map, its dense
evaluation. Nothing is converted between the two.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from mmpretrain.models.heads import ClsHead
from torch import Tensor, fx, nn

from vgg_mm.errors import UserError
from vgg_mm.models.dropout import Dropout
from vgg_mm.registry import MODELS

_is_exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)


class FC(nn.Conv2d):
    """A fully connected layer as a conv; weight (out, in, k, k).

    Takes maps of (N, in, H, W) to (N, out, H-k+1, W-k+1), or with ``padding="same"`` to
    (N, out, H, W).
    """

    def forward(self, x: Tensor) -> Tensor:
        """Multiplies every window of the map with the kernel as a matrix.

        The library's conv re-lays the kernel, 411 MB in fc6, at every call; the windows of a map
        are few and small. Padded and exported layers stay convs: their maps are large, or of any
        size.
        """
        if self.padding == "same":
            # As numbers, for ONNX runtimes refuse "same" with a dilation; one more right and below
            # where it is odd, as torch has it.
            total = self.dilation[0] * (self.kernel_size[0] - 1)
            x = F.pad(x, (0, total % 2, 0, total % 2)) if total % 2 else x
            return F.conv2d(x, self.weight, self.bias, padding=total // 2, dilation=self.dilation)
        if _is_exporting() or torch.jit.is_tracing() or isinstance(x, fx.Proxy):
            return super().forward(x)
        k = self.kernel_size[0]
        windows = x.unfold(2, k, 1).unfold(3, k, 1)  # (N, in, H-k+1, W-k+1, k, k)
        # Flattened in the order that the kernel lies in memory, for another one would copy it.
        if self.weight.is_contiguous():
            windows, weight = windows.permute(0, 2, 3, 1, 4, 5), self.weight
        else:  # channels_last
            windows, weight = windows.permute(0, 2, 3, 4, 5, 1), self.weight.permute(0, 2, 3, 1)
        return self.multiply(windows.flatten(3), weight.flatten(1)).permute(0, 3, 1, 2)

    def multiply(self, x: Tensor, weight: Tensor) -> Tensor:
        """Rows (..., in) and a matrix (out, in) to (..., out), with the bias."""
        return F.linear(x, weight, self.bias)


@MODELS.register_module()
class VGGFC(BaseModule):
    """fc6 and fc7, each with a ReLU (``relu6``, ``relu7``) and dropout (``drop6``, ``drop7``).

    Args:
        in_channels: Channels of the backbone's last stage.
        channels: Outputs of each layer.
        kernel_size: Side of the map that fc6 sees: the training crop's side over the backbone's
            stride (224 / 32).
        dropout: Probability of dropping an output in training.
        dilation: The dilation of fc6's kernel on a map that is padded to keep its size, as SSD, FCN
            and DeepLab have it; None: the paper's fc6, without padding.
        channels_last: Whether to compute in NHWC memory order, as the backbone does.
        init_cfg: Initialisation, see :class:`vgg_mm.VGG`.
    """

    def __init__(
        self,
        in_channels: int = 512,
        channels: int = 4096,
        kernel_size: int = 7,
        dropout: float = 0.5,
        dilation: int | None = None,
        channels_last: bool = False,
        init_cfg: dict | list[dict] | None = dict(type="vgg_mm.Glorot"),  # noqa: B006
        **kwargs,
    ) -> None:
        super().__init__(init_cfg=init_cfg, **kwargs)
        if dilation is None:
            self.fc6 = FC(in_channels, channels, kernel_size)
        else:
            self.fc6 = FC(in_channels, channels, kernel_size, padding="same", dilation=dilation)
        self.relu6 = nn.ReLU()
        self.drop6 = Dropout(dropout)
        self.fc7 = FC(channels, channels, 1)
        self.relu7 = nn.ReLU()
        self.drop7 = Dropout(dropout)
        if channels_last:
            self.to(memory_format=torch.channels_last)

    def fc67(self, x: Tensor) -> Tensor:
        """Maps features (N, in_channels, H, W) to fc7's (N, channels, H-k+1, W-k+1).

        With ``dilation`` it is (N, channels, H, W).

        Raises:
            UserError: If the map is smaller than fc6's kernel.
        """
        k = self.fc6.kernel_size[0]
        whole = self.fc6.padding == "same" or isinstance(x, fx.Proxy)
        if not whole and min(x.shape[-2:]) < k:
            h, w = x.shape[-2:]
            raise UserError(
                f"fc6 looks at {k}x{k} positions of the last feature map, which has only {h}x{w}: "
                f"the image's shortest side must be at least {k} times the backbone's stride "
                f"({32 * k} pixels with five pools)."
            )
        x = self.drop6(self.relu6(self.fc6(x)))
        return self.drop7(self.relu7(self.fc7(x)))

    def forward(self, x: Any) -> Any:
        """Maps features as :meth:`fc67` does."""
        return self.fc67(x)


@MODELS.register_module()
class VGGNeck(VGGFC):
    """fc6 and fc7 between a backbone and the heads of a detector or segmenter (SSD, FCN, DeepLab).

    Args:
        kwargs: Arguments of :class:`VGGFC`.
    """

    def forward(self, feats: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The maps of ``feats``, the last one replaced by its fc7."""
        return (*feats[:-1], self.fc67(feats[-1]))


@MODELS.register_module()
class VGGHead(VGGFC, ClsHead):
    """The classifier: fc6, fc7 and fc8, one code for a crop's map and for a whole image's.

    Dense evaluation (Sec. 3.2) averages fc8's score map over space. fc8 is linear, so the average
    of its scores is its score of the average fc7: that is what :meth:`forward` computes.

    Args:
        num_classes: Outputs of fc8.
        kwargs: Arguments of :class:`VGGFC` and of mmpretrain's ``ClsHead`` (``loss``, ``topk``,
            ``cal_acc``).
    """

    def __init__(self, num_classes: int = 1000, **kwargs) -> None:
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.fc8 = FC(self.fc7.out_channels, num_classes, 1)

    def pre_logits(self, feats: tuple[Tensor, ...]) -> Tensor:
        """fc7's features, averaged over space: (N, channels)."""
        return self.fc67(feats[-1]).mean((2, 3))

    def score_map(self, feats: tuple[Tensor, ...]) -> Tensor:
        """The class score map (N, num_classes, H-k+1, W-k+1) of feature maps (N, C, H, W)."""
        return self.fc8(self.fc67(feats[-1]))

    def forward(self, feats: tuple[Tensor, ...]) -> Tensor:
        """The class scores (N, num_classes): the score map, averaged over space."""
        return self.fc8(self.pre_logits(feats)[:, :, None, None]).flatten(1)
