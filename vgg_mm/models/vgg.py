"""The convolutional part of nets A to E (Sec. 2.1, Table 1)."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from vgg_mm.errors import UserError, suggest
from vgg_mm.paper import SHALLOW, TABLE_1, Layer, stages
from vgg_mm.registry import MODELS


@MODELS.register_module()
class VGG(BaseModule):
    """The backbone of a net of Table 1: an image in, feature maps out.

    Layers carry Caffe's names: ``conv1_1`` ... ``conv5_4``, ``relu1_1`` ..., ``pool1`` ...,
    ``norm1_1`` (net A-LRN's normalisation) and, with a ``norm_cfg``, ``bn1_1`` ... between each
    conv and its ReLU. Each is a module, so a hook on it sees its own input and output. Nothing is
    built past the deepest output that ``out_indices`` asks for.

    Args:
        arch: The paper's name of the net: A, A-LRN, B, C, D (VGG-16) or E (VGG-19); or B-5x5, which
            is Sec. 4.1's shallow net.
        width: Channels of the first stage; the others keep the paper's ratios to it.
        norm_cfg: A normalisation after every conv, such as ``dict(type='BN')``. The paper has none.
        out_indices: What to return, in this order: a stage's number, counted from 0, for its output
            after the pool (stride 2, 4, 8, 16, 32), or a layer's name, such as ``'conv4_3'``, for
            its output after the ReLU and before the pool.
        frozen_stages: How many of the first stages keep their weights.
        dilations: Of each stage's convs.
        pool_strides: Of each stage's pool: 2, over windows of 2x2; 1, over padded ones of 3x3,
            which keep the map's size (SSD's pool5, DeepLab's pool4 and pool5); or None: no pool.
            ``(2, 2, None, None, None)`` gives crops of 28 pixels the 7x7 map that fc6 takes.
        ceil_mode: Whether pools of stride 2 round a map's size up, as Caffe does, not down.
        norm_eval: Whether batch normalisation keeps its running statistics in training.
        with_cp: Whether to recompute each stage in the backward pass, to save memory. Batch norms
            then count every batch twice in their running statistics.
        channels_last: Whether to compute in NHWC memory order (give it to the head too). A seed's
            initial weights then differ, for they are drawn in memory order.
        init_cfg: Initialisation (Sec. 3.1). The default is Glorot's;
            ``dict(type='Normal', layer='Conv2d', std=0.01)`` is the paper's first one.

    Raises:
        UserError: If ``arch``, ``width``, ``out_indices``, ``frozen_stages``, ``dilations`` or
            ``pool_strides`` is impossible.
    """

    def __init__(
        self,
        arch: str,
        width: int = 64,
        norm_cfg: dict | None = None,
        out_indices: Sequence[int | str] = (4,),
        frozen_stages: int = 0,
        dilations: Sequence[int] = (1, 1, 1, 1, 1),
        pool_strides: Sequence[int | None] = (2, 2, 2, 2, 2),
        ceil_mode: bool = False,
        norm_eval: bool = False,
        with_cp: bool = False,
        channels_last: bool = False,
        init_cfg: dict | list[dict] | None = dict(type="vgg_mm.Glorot"),  # noqa: B006
    ) -> None:
        super().__init__(init_cfg)
        if arch not in TABLE_1 | SHALLOW:
            raise UserError(
                f"VGG: arch={arch!r} is not a net of Table 1; use one of {', '.join(TABLE_1)}"
                " (VGG-11, -13, -16, -19 are A, B, D, E)."
            )
        if not (isinstance(width, int) and width >= 1):
            raise UserError(f"VGG: width={width!r} is not a number of channels; the paper's is 64.")
        if not isinstance(frozen_stages, int) or frozen_stages not in range(-1, 6):
            raise UserError(
                f"VGG: frozen_stages={frozen_stages!r}; a net has 5 stages, so use 0 (none) to 5."
            )
        if not isinstance(out_indices, list | tuple) or not out_indices:
            raise UserError(
                f"VGG: out_indices={out_indices!r} must be a list; use (4,) for the last stage's "
                "output."
            )
        if len(dilations) != 5 or not all(isinstance(d, int) and d >= 1 for d in dilations):
            raise UserError(
                f"VGG: dilations={dilations!r} must be 5 numbers, one a stage; the paper's are 1."
            )
        if len(pool_strides) != 5 or not {*pool_strides} <= {1, 2, None}:
            raise UserError(
                f"VGG: pool_strides={pool_strides!r} must be 5 times 1 or 2, or None for no pool; "
                "the paper's are 2."
            )
        self.arch = arch
        self.out_indices = tuple(out_indices)
        self.frozen_stages = frozen_stages
        self.pool_strides = tuple(pool_strides)
        self.ceil_mode = ceil_mode
        self.norm_eval = norm_eval
        self.with_cp = with_cp
        self.stages = _up_to_deepest(stages(arch, width), self.out_indices, arch)

        channels = 3
        for i, (stage, dilation) in enumerate(zip(self.stages, dilations, strict=False)):
            for layer in stage:
                if layer.kernel:
                    padding = dilation * (layer.kernel // 2)
                    conv = nn.Conv2d(
                        channels, layer.channels, layer.kernel, padding=padding, dilation=dilation
                    )
                    self.add_module(layer.name, conv)
                    channels = layer.channels
                    if norm_cfg:
                        self.add_module(layer.bn, build_norm_layer(norm_cfg, channels)[1])
                    self.add_module(layer.relu, nn.ReLU())
                else:
                    # torch divides alpha by the window's size; the paper's 1e-4 is on the sum.
                    lrn = nn.LocalResponseNorm(5, alpha=5 * 1e-4, beta=0.75, k=2)
                    self.add_module(layer.name, lrn)
            if self._pooled(i):
                same = pool_strides[i] == 1
                pool = nn.MaxPool2d(3, 1, 1) if same else nn.MaxPool2d(2, 2, ceil_mode=ceil_mode)
                self.add_module(f"pool{i + 1}", pool)
        self.with_norm = bool(norm_cfg)
        for module in self._frozen_modules():
            module.requires_grad_(False)
        if channels_last:
            self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps images (N, 3, H, W) to the feature maps that ``out_indices`` names.

        Stage i gives (N, channels, H / 2^(i+1), W / 2^(i+1)), fractions dropped, unless
        ``pool_strides`` or ``ceil_mode`` say otherwise.
        """
        traced = isinstance(x, fx.Proxy) or torch.jit.is_tracing() or torch.compiler.is_compiling()
        if not traced and not self.ceil_mode and min(x.shape[2:]) < self.stride:
            h, w = x.shape[2:]
            raise UserError(
                f"an image of {h}x{w} leaves the pools nothing: its shortest side must be at least "
                f"{self.stride} pixels, or the backbone's ceil_mode=True."
            )
        outputs: dict[int | str, Tensor] = {}
        for i in range(len(self.stages)):
            if self.with_cp and torch.is_grad_enabled():
                x, taps = checkpoint(self._stage, i, x, use_reentrant=False)
            else:
                x, taps = self._stage(i, x)
            outputs.update(taps)
        return tuple(outputs[index] for index in self.out_indices)

    def _stage(self, i: int, x: Tensor) -> tuple[Tensor, dict[int | str, Tensor]]:
        taps: dict[int | str, Tensor] = {}
        for layer in self.stages[i]:
            x = self.get_submodule(layer.name)(x)
            if layer.kernel:
                if self.with_norm:
                    x = self.get_submodule(layer.bn)(x)
                x = self.get_submodule(layer.relu)(x)
            if layer.name in self.out_indices:
                taps[layer.name] = x
        if self._pooled(i):
            x = self.get_submodule(f"pool{i + 1}")(x)
        if i in self.out_indices:
            taps[i] = x
        return x, taps

    @property
    def stride(self) -> int:
        """Pixels between neighbouring positions of the last map: 32 for a whole net."""
        return prod(self.pool_strides[i] or 1 for i in range(len(self.stages)) if self._pooled(i))

    def _pooled(self, i: int) -> bool:
        used = i in self.out_indices or i + 1 < len(self.stages)
        return used and self.pool_strides[i] is not None

    def train(self, mode: bool = True) -> VGG:
        """Sets the mode; frozen stages, and with ``norm_eval`` all batch norms, stay in eval."""
        super().train(mode)
        if mode:
            for module in self.modules() if self.norm_eval else self._frozen_modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def _frozen_modules(self) -> list[nn.Module]:
        frozen = sum(self.stages[: max(self.frozen_stages, 0)], [])
        names = {name for layer in frozen for name in (layer.name, layer.bn)}
        return [module for name, module in self.named_children() if name in names]


def _up_to_deepest(
    table: list[list[Layer]], out_indices: tuple[int | str, ...], arch: str
) -> list[list[Layer]]:
    """The part of ``table`` that the deepest of ``out_indices`` needs."""
    depth: dict[int | str, int] = {}
    for i, stage in enumerate(table):
        for layer in [*stage, None]:
            depth[layer.name if layer else i] = len(depth)
    for index in out_indices:
        if index not in depth or isinstance(index, bool):
            names = [name for name in depth if isinstance(name, str)]
            raise UserError(
                f"VGG: out_indices has {index!r}, which net {arch} lacks; use stages 0 to 4 or "
                f"layers {', '.join(names)}.{suggest(str(index), names)}"
            )
    deepest = max(depth[index] for index in out_indices)
    cut = [[layer for layer in stage if depth[layer.name] <= deepest] for stage in table]
    return [stage for stage in cut if stage]
