"""What evaluation does for a CPU's sake; it changes scores by rounding alone.

All of it is off in a process with ``VGG_MM_CPU=plain`` in its environment.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vgg_mm.models.head import FC
from vgg_mm.models.vgg import VGG

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's malloc.h

_B = torch.tensor(
    [
        [4.0, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
_G = torch.tensor(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ]
)
_A = torch.tensor(
    [[1.0, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]
)
BB, GG, AA = (torch.kron(m, m) for m in (_B, _G, _A))  # (36, 36), (36, 9), (16, 36)

CHANNELS = 384  # with fewer, in and out, transforming tiles takes longer than it saves
POSITIONS = 1024  # with fewer on all maps, transforming the weights does
BLOCK = 32768  # pixels of tiles that run at once: 64 MiB of 512 channels


def _is_plain() -> bool:
    return os.environ.get("VGG_MM_CPU") == "plain"


def speed_up(net: nn.Module) -> None:
    """Has a net's convs and FC layers take :class:`Conv2d`'s and :class:`OneDNNFC`'s faster ways.

    They are those of a :class:`vgg_mm.VGG` and of the heads here. They remain what they are to all
    who look at their weights, and wherever else they run.
    """
    for part in () if _is_plain() else net.modules():
        if type(part) is FC:
            part.__class__ = OneDNNFC
        for layer in part.modules() if isinstance(part, VGG) else ():
            if type(layer) is nn.Conv2d:
                layer.__class__ = Conv2d


def laid_out(net: nn.Module, x: Tensor) -> Tensor:
    """Images in the memory order in which ``net`` computes fastest: a VGG on a CPU in NHWC.

    The other nets' grouped or concatenated convs (RegNet, DenseNet) are slower so.
    """
    if x.device.type != "cpu" or _is_plain() or not isinstance(net.backbone, VGG):
        return x
    return x.contiguous(memory_format=torch.channels_last)


@contextmanager
def memory_reused() -> Iterator[None]:
    """Keeps the memory of freed maps for the next ones.

    Else every map of more than 32 MB is new to the process, and Linux clears its pages first.
    """
    mallopt = getattr(ctypes.pythonapi, "mallopt", None)  # glibc's
    if mallopt is None or _is_plain():
        yield
        return
    mallopt(M_TRIM_THRESHOLD, -1)  # never, so that the next image finds it too
    mallopt(M_MMAP_MAX, 0)
    try:
        yield
    finally:
        mallopt(M_MMAP_MAX, 65536)  # glibc's default


def _infers(x: Tensor) -> bool:
    """Whether it is in float32 on a CPU, without gradients and without a graph being made."""
    return (
        not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.jit.is_tracing()
        and not torch.compiler.is_compiling()
        and x.device.type == "cpu"
        and x.dtype == torch.float32
    )


class OneDNNFC(FC):
    """An FC layer by oneDNN's matrix product; torch takes MKL's, which is slower on AMD's CPUs.

    That is in float32 on a CPU without gradients.
    """

    def multiply(self, x: Tensor, weight: Tensor) -> Tensor:
        """(..., in), (out, in) -> (..., out)."""
        if not (_infers(x) and weight.dtype == x.dtype and torch.backends.mkldnn.is_available()):
            return super().multiply(x, weight)
        return F.linear(x.to_mkldnn(), weight, self.bias).to_dense()


class Conv2d(nn.Conv2d):
    """torch's, which takes 3x3 convs by :func:`winograd` where that is the faster.

    That is in float32 on a CPU without gradients, for maps in NHWC order that have ``POSITIONS``
    positions in a batch, and ``CHANNELS`` channels before and after together.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, O, H', W')."""
        if self._wide(x) and self.bias is not None:
            return winograd(x, self.weight, self.bias)
        return super().forward(x)

    def _wide(self, x: Tensor) -> bool:
        return (  # tracers go before they see a size
            _infers(x)
            and self.in_channels + self.out_channels >= CHANNELS
            and x.dim() == 4
            and x.numel() // x.shape[1] >= POSITIONS
            and self.kernel_size == (3, 3)
            and self.stride == self.padding == self.dilation == (1, 1)
            and self.groups == 1
            and self.padding_mode == "zeros"
            and x.dtype == self.weight.dtype
            and x.is_contiguous(memory_format=torch.channels_last)
        )


def winograd(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Computes ``conv2d(x, weight, bias, padding=1)`` for 3x3 kernels, exact to rounding.

    Winograd's F(4x4, 3x3) takes 36 multiplications in place of 144, as Lavin and Gray give it
    (arXiv:1509.09308, Sec. 4.1): of a tile d of 6x6 pixels and a kernel g, the 4x4 outputs are
    A'[(G g G') * (B' d B)]A, where * is element by element and sums over channels. With
    M d M' = (M x M) d for d written as a vector, x being Kronecker's product, all of it is four
    matrix products. Rounding is about four times that of torch's own sums.

    Args:
        x: Maps (N, C, H, W), best in NHWC order.
        weight: Kernels (O, C, 3, 3).
        bias: (O,).

    Returns:
        Maps (N, O, H, W) in NHWC order.
    """
    n, c, h, w = x.shape
    rows, columns = -(-h // 4), -(-w // 4)  # of tiles
    padded = x.new_zeros(n, 4 * rows + 2, 4 * columns + 2, c)
    padded[:, 1 : h + 1, 1 : w + 1] = x.permute(0, 2, 3, 1)
    tiles = padded.unfold(1, 6, 4).unfold(2, 6, 4)  # (N, rows, columns, C, 6, 6), overlapping
    tiles = tiles.permute(4, 5, 0, 1, 2, 3)  # (6, 6, N, rows, columns, C)
    kernels = (GG @ weight.permute(2, 3, 0, 1).reshape(9, -1)).view(36, -1, c).mT  # (36, C, O)
    y = x.new_empty(n, rows, 4, columns, 4, len(bias))

    images = max(1, BLOCK // (36 * rows * columns))
    step = max(1, BLOCK // (36 * columns))
    for i in range(0, n, images):
        for j in range(0, rows, step):
            block = tiles[:, :, i : i + images, j : j + step]
            size = block.shape[2:5]  # images, rows, columns
            d = BB @ block.reshape(36, -1)
            m = torch.bmm(d.view(36, -1, c), kernels)  # (36, tiles, O)
            out = (AA @ m.view(36, -1)).view(4, 4, *size, -1).permute(2, 3, 0, 4, 1, 5)
            torch.add(out, bias, out=y[i : i + images, j : j + step])
    y = y.view(n, 4 * rows, 4 * columns, -1)[:, :h, :w]
    return y.contiguous().permute(0, 3, 1, 2)
