"""Perceptual and style losses: two images compared by what a frozen net sees in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from mmengine.model import PretrainedInit
from torch import Tensor, nn

from vgg_mm.errors import UserError, suggest
from vgg_mm.inputs import INPUTS
from vgg_mm.models.frozen import freeze
from vgg_mm.models.vgg import VGG
from vgg_mm.paper import convs
from vgg_mm.registry import MODELS

ARCHS = ("A", "B", "C", "D", "E")
CRITERIA = {"l1": Tensor.abs, "mse": Tensor.square}


class Losses(NamedTuple):
    """What :class:`PerceptualLoss` returns: scalars, None where the weight is 0."""

    perceptual: Tensor | None
    style: Tensor | None


class Seen(NamedTuple):
    """What a net sees in N images: maps (N, C, h, w) and Gram matrices (N, C, C) by layers."""

    maps: dict[str, Tensor]
    grams: dict[str, Tensor]


@MODELS.register_module()
class PerceptualLoss(nn.Module):
    """How much images differ in a frozen net's maps and, for style, in the maps' Gram matrices.

    The loss is ``perceptual_weight`` times the sum over the layers of weight times criterion, the
    mean over a map's values, and that of style likewise, both in float32 under AMP. Arguments that
    mmagic's ``PerceptualLoss`` has too mean the same, and so does the pair that it returns. Other
    than there, a layer is a name and no number, ``value_range`` stands for ``norm_img``, ``arch``
    for ``vgg_type``, and the net always gets the input that its weights want.

    Nothing is computed past the last layer. The net is no submodule: it moves with the loss, but no
    checkpoint, optimiser, initialiser or average of weights ever has it.

    Args:
        layer_weights: Convs by their names, such as ``{'conv1_2': 0.1, 'conv5_4': 1}``, and the
            weights of their maps.
        value_range: What black and white are in the images: ``(0, 1)``, ``(-1, 1)``, ``(0, 255)``.
        order: Of the images' colours, ``'RGB'`` or ``'BGR'``.
        layer_weights_style: The same for Gram matrices; by default ``layer_weights``.
        perceptual_weight: Of the maps; 0 leaves them out.
        style_weight: Of the Gram matrices; 0 leaves them out.
        before_relu: Whether maps are taken before the ReLU (and after the norm, if there is one).
        criterion: ``'l1'`` or ``'mse'``.
        arch: The net: A, B, C, D (VGG-16) or E (VGG-19).
        width: As :class:`VGG` takes it.
        norm_cfg: Likewise.
        pretrained: Its weights, as ``init_cfg=dict(type='Pretrained', checkpoint=...)`` takes them;
            None leaves them random.
        prefix: What stands before the net's names in a file that holds several.
        input: What the weights want, where their file does not tell: ``'torchvision'``,
            ``'caffe'`` or ``'vgg_mm'``.

    Raises:
        UserError: If a value is impossible, or the weights do not fit or do not tell their input.
    """

    def __init__(
        self,
        layer_weights: Mapping[str, float],
        value_range: Sequence[float],
        order: str = "RGB",
        layer_weights_style: Mapping[str, float] | None = None,
        perceptual_weight: float = 1.0,
        style_weight: float = 1.0,
        before_relu: bool = False,
        criterion: str = "l1",
        arch: str = "E",
        width: int = 64,
        norm_cfg: dict | None = None,
        pretrained: str | None = "torchvision://vgg19",
        prefix: str | None = None,
        input: str | None = None,
    ) -> None:
        super().__init__()
        style = layer_weights if layer_weights_style is None else layer_weights_style
        self.layer_weights = dict(layer_weights) if perceptual_weight else {}
        self.layer_weights_style = dict(style) if style_weight else {}
        self.perceptual_weight, self.style_weight = perceptual_weight, style_weight
        layers = [*{**self.layer_weights, **self.layer_weights_style}]
        names = [conv.name for conv in convs(arch)] if arch in ARCHS else []
        low, high = value_range
        for key, value, known in (
            ("arch", arch, ARCHS),
            ("criterion", criterion, CRITERIA),
            ("order", order, ("RGB", "BGR")),
            ("input", input or "vgg_mm", INPUTS),
            *(("a layer", layer, names) for layer in layers or [""]),
        ):
            if value not in known:
                hint = suggest(str(value), [*known])
                raise UserError(f"PerceptualLoss: {key} {value!r}; use {', '.join(known)}.{hint}")
        if not low < high:
            raise UserError(f"PerceptualLoss: value_range={value_range!r}; use (0, 1) or the like.")
        self.criterion = CRITERIA[criterion]
        self.net = VGG(arch, width, norm_cfg, out_indices=layers)
        wanted = INPUTS[input or "vgg_mm"]
        if pretrained is not None:
            PretrainedInit(pretrained, prefix)(self.net)
            told = self.net.__dict__.pop("trained_on").input
            if not (told or input):
                known = " or ".join(map(repr, INPUTS))
                raise UserError(
                    f"{pretrained} does not tell what its net wants: say input={known}."
                )
            wanted = told or wanted
        freeze(self.net)
        if before_relu:
            self._put_relus_off(layers, names)
        self.__dict__["net"] = self._modules.pop("net")
        self.flips = wanted.order != order
        mean, scale = (torch.tensor(rgb) for rgb in (wanted.mean_rgb, wanted.scale_rgb))
        span = 255 / (high - low)
        affine = torch.stack([scale * span, -scale * (mean + low * span)])
        affine = affine if wanted.order == "RGB" else affine.flip(1)
        self.affine = affine.float()[:, :, None, None]  # (2, 3, 1, 1); half() would round a buffer

    def _put_relus_off(self, layers: list[str], names: list[str]) -> None:
        """Moves the ReLUs of ``layers`` before the next convs, with which pools change places."""
        for name, following in zip(names, [*names[1:], ""], strict=True):
            if name in layers:
                setattr(self.net, name.replace("conv", "relu"), nn.Identity())
                if conv := getattr(self.net, following, None):
                    setattr(self.net, following, nn.Sequential(nn.ReLU(), conv))

    def _apply(self, fn: Callable, recurse: bool = True) -> PerceptualLoss:
        self.net._apply(fn, recurse)
        self.affine = self.affine.to(self.net.conv1_1.weight.device)
        return super()._apply(fn, recurse)

    def see(self, images: Tensor) -> Seen:
        """What the net sees in images (N, 3, H, W) of at least 16 x 16 pixels."""
        if images.ndim != 4:
            raise UserError(f"PerceptualLoss: images are {tuple(images.shape)}, not (N, 3, H, W).")
        scale, shift = self.affine
        x = (images.flip(1) if self.flips else images) * scale + shift
        out = self.net(x.to(self.net.conv1_1.weight.dtype))
        maps = dict(zip(self.net.out_indices, out, strict=True))
        return Seen(
            {layer: maps[layer] for layer in self.layer_weights},
            {layer: gram(maps[layer]) for layer in self.layer_weights_style},
        )

    def forward(self, x: Tensor, gt: Tensor) -> Losses:
        """Compares images with what they should be, which gets no gradient.

        Args:
            x: (N, 3, H, W), of at least 16 x 16 pixels.
            gt: Likewise; where only the style counts, of any size.
        """
        with torch.no_grad():
            wanted = self.see(gt)
        return self.compare(self.see(x), wanted)

    def compare(self, seen: Seen, wanted: Seen) -> Losses:
        """The losses of what :meth:`see` returned; ``maps`` and ``grams`` may be of two images.

        Raises:
            UserError: If images that are compared position by position differ in size.
        """
        for name, maps in seen.maps.items():
            if maps.shape[2:] != (other := wanted.maps[name]).shape[2:]:
                sizes = " and ".join("x".join(map(str, each.shape[2:])) for each in (maps, other))
                raise UserError(f"PerceptualLoss: images of two sizes: {name} is {sizes}.")
        return Losses(
            self._sum(seen.maps, wanted.maps, self.layer_weights, self.perceptual_weight),
            self._sum(seen.grams, wanted.grams, self.layer_weights_style, self.style_weight),
        )

    def _sum(
        self,
        seen: Mapping[str, Tensor],
        wanted: Mapping[str, Tensor],
        weights: Mapping[str, float],
        weight: float,
    ) -> Tensor | None:
        each = [
            w * self.criterion(_full(seen[n]) - _full(wanted[n])).mean() for n, w in weights.items()
        ]
        return weight * torch.stack(each).sum() if each else None


def gram(maps: Tensor) -> Tensor:
    """Gram matrices of maps (N, C, h, w): (N, C, C), divided by C h w, in float32 at least."""
    with torch.autocast(maps.device.type, enabled=False):
        rows = _full(maps).flatten(2)  # (N, C, h w)
        return rows @ rows.mT / rows[0].numel()


def _full(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
