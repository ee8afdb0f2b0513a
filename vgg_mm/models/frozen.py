"""A frozen net's backward pass without its maps.

Towards its images the gradient needs the weights, the signs of the maps and which pixel of a pool's
window was the largest. torch's own layers also keep the maps themselves, for gradients of weights.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function


def freeze(net: nn.Module) -> None:
    """Freezes a net, and has its convs, ReLUs and 2x2 pools keep no map; values stay as they are.

    The convs are those of Table 1: of stride 1, and padded to keep a map's size.
    """
    kinds = {nn.Conv2d: _Conv, nn.ReLU: _ReLU, nn.MaxPool2d: _Pool}
    for module in net.requires_grad_(False).eval().modules():
        module.__class__ = kinds.get(type(module), type(module))


class _Conv(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return _ConvFunction.apply(x, self.weight, self.bias)


class _ReLU(nn.ReLU):
    def forward(self, x: Tensor) -> Tensor:
        return _ReLUFunction.apply(x)


class _Pool(nn.MaxPool2d):
    def forward(self, x: Tensor) -> Tensor:
        return _PoolFunction.apply(x)


class _ConvFunction(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return F.conv2d(x, weight, bias, padding=weight.shape[3] // 2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        weight = weight.to(grad.dtype)  # under AMP they differ
        return F.conv_transpose2d(grad, weight, padding=weight.shape[3] // 2), None, None


class _ReLUFunction(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x > 0)
        ctx.mark_dirty(x)
        return x.relu_()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * ctx.saved_tensors[0]


class _PoolFunction(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        out, places = F.max_pool2d(x, 2, return_indices=True)
        ctx.save_for_backward(places.int())
        ctx.size = x.shape
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (places,) = ctx.saved_tensors
        x = grad.new_empty(1).expand(ctx.size)  # its shape alone is looked at
        backward = torch.ops.aten.max_pool2d_with_indices_backward
        return backward(grad, x, [2, 2], [2, 2], [0, 0], [1, 1], False, places.long())
