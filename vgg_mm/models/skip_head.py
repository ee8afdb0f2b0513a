"""FCN's skip connections, for mmsegmentation: the one module that imports it.

A config names it: ``custom_imports = dict(imports="vgg_mm.models.skip_head")``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor, nn

from vgg_mm.registry import MODELS


@MODELS.register_module()
class FCNSkipHead(BaseDecodeHead):
    """The head of FCN-16s and FCN-8s (Long, Shelhamer & Darrell, 2015, Sec. 4.2).

    A 1x1 conv scores the classes on each map, mmseg's ``conv_seg`` on the last one. From there on,
    scores are doubled in size by a learned upsampling and added to those of the map before. New
    score layers begin at zero and upsamplings as bilinear, so that a net that goes on from FCN-32s'
    weights begins with FCN-32s' predictions.

    Args:
        in_channels: Of the maps, in the backbone's order; each has half the size of the one before.
        kwargs: Arguments of mmseg's ``BaseDecodeHead``.
    """

    def __init__(self, in_channels: Sequence[int], **kwargs) -> None:
        super().__init__(
            in_channels,
            channels=in_channels[-1],
            in_index=list(range(len(in_channels))),
            input_transform="multiple_select",
            **kwargs,
        )
        n = self.out_channels
        self.scores = nn.ModuleList(nn.Conv2d(c, n, 1) for c in in_channels[:-1])
        self.upsamplings = nn.ModuleList(
            nn.ConvTranspose2d(n, n, 4, stride=2, padding=1, bias=False) for _ in self.scores
        )

    @torch.no_grad()
    def init_weights(self) -> None:
        """Sets what the class describes, and ``conv_seg`` as ``init_cfg`` says."""
        super().init_weights()
        line = self.conv_seg.weight.new_tensor([0.25, 0.75, 0.75, 0.25])  # on its device
        for value in [*self.scores.parameters(), *self.upsamplings.parameters()]:
            nn.init.zeros_(value)
        for weight in self.upsamplings.parameters():
            weight[range(self.out_channels), range(self.out_channels)] = line.outer(line)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Scores (N, num_classes, H, W), of the first map's size."""
        *skips, last = self._transform_inputs(inputs)
        x = self.cls_seg(last)
        for i in reversed(range(len(skips))):
            skip = self.scores[i](skips[i])
            h, w = skip.shape[2:]
            # A pool halved it, and rounded down or up.
            size = [max(n, 2 * half) for n, half in zip((h, w), x.shape[2:], strict=True)]
            x = skip + self.upsamplings[i](x, output_size=size)[..., :h, :w]
        return x
