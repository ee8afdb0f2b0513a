"""A file of a VGG's weights, of any kind, and what of it is which layer's of a net."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from math import isqrt
from pathlib import Path

import torch
from torch import Tensor, nn

from vgg_mm.errors import UserError
from vgg_mm.inputs import INPUTS, Input
from vgg_mm.models import VGG, VGGFC, VGGHead
from vgg_mm.paper import TABLE_1, convs
from vgg_mm.weights import caffe, hdf5
from vgg_mm.weights.files import format_of, local, read_tensors
from vgg_mm.weights.layouts import Ambiguous, Match, layers, match, match_in_order
from vgg_mm.weights.onnx import Graph


class Misfit(UserError):
    """A layer that a file lacks, or has in another shape."""


@dataclass
class Source:
    """An opened file of weights.

    Attributes:
        path: The file.
        kind: torchvision, timm, mmpretrain, vgg_mm, sequence, caffe, keras or onnx.
        tensors: The weights by the file's names.
        match: Finds a net's layers among them.
        input: What the net was trained on, as far as the file or its kind tells.
        meta: The ``metainfo`` of the data that it was trained on, if the file tells: fc8's classes.
        judge: Compares a net that has the file's weights with what the file computes, if it tells.
    """

    path: Path
    kind: str
    tensors: dict[str, Tensor]
    match: Callable[[dict[str, Tensor], str], Match] = match
    input: Input | None = None
    meta: dict = field(default_factory=dict)
    judge: Callable[[nn.Module], None] | None = None


def open_source(source: str | os.PathLike, prefix: str = "", features_only: bool = False) -> Source:
    """Reads a file of weights, by its content.

    Args:
        source: A path or an address, see :func:`vgg_mm.weights.files.local`, of a PyTorch,
            ``.safetensors``, Caffe, Keras or ONNX file.
        prefix: What stands before the VGG's names in a file that holds more than one, such as
            ``ema_model`` or ``teacher.backbone``; where nothing has it, it is none.
        features_only: Whether the FC layers are of no interest.

    Raises:
        UserError: If it is missing, damaged, unsafe, ambiguous or no VGG.
    """
    path = local(source)
    kind = format_of(path)
    if kind == "caffe":
        return Source(path, kind, caffe.read(path), input=INPUTS["caffe"])
    if kind in ("hdf5", "keras"):
        kind, tensors = hdf5.read(path)
        counted = any(name.startswith("conv2d") for name in tensors)
        return Source(path, kind, tensors, _in_order(kind) if counted else match, INPUTS["caffe"])
    if kind == "onnx":
        graph = Graph(path, features_only)
        return Source(path, kind, graph.tensors, _in_order(kind), graph.input, judge=graph.judge)
    groups, meta = read_tensors(path)
    tensors, found = _choose(path, groups, prefix)
    known = None
    if "input" in meta:
        known = Input.of(meta["input"], path)
    elif found and found.kind != "vgg_mm":
        known = _usual_input(path, found)
    kind = found.kind if found else "several"
    return Source(path, kind, tensors, match, known, meta.get("dataset_meta") or {})


def _in_order(kind: str) -> Callable[[dict[str, Tensor], str], Match]:
    return lambda tensors, arch: match_in_order(tensors, arch, kind)


def _usual_input(path: Path, found: Match) -> Input:
    """What torchvision's names are trained on, if they do not hold Caffe's weights.

    Those are OpenMMLab's vgg16_caffe and SSD's, which have fc6 and fc7 as further convs, and the
    one that torchvision has of SSD's author.
    """
    if "amdegroot" in path.name:
        return Input("RGB", 255, (122.99925, 116.9991, 103.9992), (1, 1, 1))
    further = found.fcs and "classifier" not in found.names["fc6.bias"] and found.kind != "timm"
    return INPUTS["caffe" if further or "caffe" in path.name.lower() else "torchvision"]


def _choose(
    path: Path, groups: dict[str, dict[str, Tensor]], prefix: str
) -> tuple[dict[str, Tensor], Match | None]:
    """The one of a file's dicts of tensors that holds a VGG, as much of it as has the prefix."""
    errors: list[str] = []
    for before in dict.fromkeys([prefix.rstrip("."), ""]):
        fits: dict[str, tuple[dict[str, Tensor], Match | None]] = {}
        for place, tensors in (groups or {"": {}}).items():
            inside = {
                key: value
                for key, value in tensors.items()
                if f"{key}.".startswith(before and f"{before}.")
                or f"{place}.{key}.".startswith(f"{before}.")
            }
            try:
                fits[place] = inside, match(inside, "D")
            except Ambiguous:  # unless the net has both
                fits[place] = inside, None
            except UserError as error:
                errors.append(str(error))
        if len(fits) == 1:
            return fits.popitem()[1]
        if fits:
            each = " and ".join(place or "the file itself" for place in fits)
            raise UserError(
                f"{path} is ambiguous: a VGG is in {each}; --prefix (in init_cfg, prefix=) says "
                "which."
            )
    raise UserError(f"{path} will not do: {errors[0]}")


def take(source: Source, names: dict[str, str], channels: int) -> dict[str, Tensor]:
    """Weights of a source, under our names and as convs' kernels.

    Args:
        source: The opened file.
        names: Ours, mapped to the file's.
        channels: Of the map that fc6 sees.

    Returns:
        Float32 on the CPU, as stored; ``fc6.weight`` is (out, channels, k, k).

    Raises:
        Misfit: If one is missing, or fc6's inputs make no square map.
        UserError: If one is not of finite floats.
    """
    usual = {n: t for n, t in names.items() if not n.endswith("num_batches_tracked")}
    if lacks := [ours for ours, theirs in usual.items() if theirs not in source.tensors]:
        each = [f"{ours} ({names[ours]})" for ours in lacks]
        raise Misfit(f"{source.path} is incomplete: it lacks {some(each)}.")
    size = source.path.stat().st_size
    given = {theirs for theirs in names.values() if theirs in source.tensors}
    if source.kind != "onnx" and sum(source.tensors[name].nbytes for name in given) > size:
        raise UserError(f"{source.path} is damaged: its tensors claim more bytes than it has.")
    weights: dict[str, Tensor] = {}
    for ours, theirs in names.items():
        value = source.tensors.get(theirs, torch.tensor(0))
        if ours == "fc6.weight" and value.ndim == 2:
            side = isqrt(value.shape[1] // channels)
            if side * side * channels != value.shape[1]:
                raise Misfit(
                    f"{source.path}: {theirs} has {value.shape[1]} inputs, which are no square map "
                    f"of {channels} channels."
                )
            value = value.unflatten(1, (channels, side, side))
        elif ours in ("fc7.weight", "fc8.weight") and value.ndim == 2:
            value = value[:, :, None, None]
        if ours in usual:
            if not value.is_floating_point():
                raise UserError(f"{source.path}: {theirs} ({ours}) is {value.dtype}, no floats.")
            value = value.float()
            if not value.isfinite().all():
                raise UserError(f"{source.path}: {theirs} ({ours}) holds NaN or infinity.")
        weights[ours] = value
    return weights


def some(names: Collection[str]) -> str:
    """The first of the names, and how many more there are."""
    more = [f"and {len(names) - 4} more"] if len(names) > 4 else []
    return ", ".join([*names][:4] + more)


@dataclass
class Fit:
    """What a file gives to a net.

    Attributes:
        weights: By the net's names.
        names: The net's names, mapped to the file's.
        new: The net's layers that the file does not give, and why.
        left: The file's layers that the net has not.
    """

    weights: dict[str, Tensor] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    new: dict[str, str] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        new = "; ".join(f"{layer} starts new, for {why}" for layer, why in self.new.items())
        left = f"; of the file are left {some(self.left)}" if self.left else ""
        return f"{len(layers(self.weights))} layers taken{left}{new and '; '}{new}"


def fit(
    net: nn.Module,
    source: Source,
    may_be_new: Collection[str] = (),
    only: Collection[str] = (),
    arch: str | None = None,
) -> Fit:
    """Finds each of a net's layers in a file.

    The convs and norms of the net and of the file must be the same, up to the net's last one.

    Args:
        net: A VGG, its FC layers, or a net that holds them.
        source: The opened file.
        may_be_new: FC layers that may start new where the file lacks them or has another shape.
        only: Layers to look at; all, by default.
        arch: The file's net, by default the net's own.

    Raises:
        UserError: If a layer is missing, left over where it would change the function, of another
            shape, or not finite; other nets of Table 1 that the file fits are named.
    """
    parts = {n: m for n, m in net.named_modules() if isinstance(m, VGG | VGGFC)}
    arch = arch or next((part.arch for part in parts.values() if isinstance(part, VGG)), "D")
    found, outer = Fit(), ""
    for name, part in parts.items():
        matched = _match(source, name, part, arch)
        if isinstance(part, VGG):
            outer = (matched.before or "").removesuffix(f"{name}.") if name else ""
        elif name and not matched.fcs and not only:
            found.new[name] = "the file has no FC layers"
            continue
        try:
            _check_layers(part, source, matched, arch)
            _fit_part(part, source, matched, may_be_new, only, name and f"{name}.", found)
        except Misfit as error:
            others = [other for other in TABLE_1 if other != arch and is_net(source, other)]
            hint = others and not is_net(source, arch)
            raise UserError(f"{error}{f' It fits net {some(others)}.' if hint else ''}") from None
    if source.judge:
        whole = build(source, arch, not any(isinstance(part, VGGFC) for part in parts.values()))
        judged = Fit()
        for name, part in whole.named_children():
            _fit_part(part, source, _match(source, "", part, arch), (), (), f"{name}.", judged)
        whole.load_state_dict(judged.weights, assign=True)
        source.judge(whole)
    if not only:
        _fit_others(net, source, outer, tuple(n and f"{n}." for n in parts), found)
    used = set(layers(found.names.values()))
    found.left = [layer for layer in layers(source.tensors) if layer not in used]
    return found


def is_net(source: Source, arch: str) -> bool:
    """Whether the file's convs are those of net ``arch``."""
    try:
        net = build(source, arch, features_only=True)
        matched = _match(source, "", net.backbone, arch)
        _check_layers(net.backbone, source, matched, arch)
        _fit_part(net.backbone, source, matched, (), (), "", Fit())
    except UserError:
        return False
    return True


def build(source: Source, arch: str, features_only: bool) -> nn.Module:
    """Net ``arch`` in the file's sizes, without memory (``meta``), as ``backbone`` and ``head``.

    Raises:
        UserError: If the file holds no VGG, or more than one.
    """

    def shape(name: str, length: int) -> tuple[int, ...]:
        """Of a weight, or a stand-in for one that will not fit."""
        found = source.tensors.get(matched.names.get(name, name))
        usable = found is not None and found.ndim >= length and found.numel()
        return tuple(found.shape) if usable else (1,) * length

    matched = _match(source, "", None, arch)
    width = shape("conv1_1.weight", 1)[0]
    norm = dict(type="BN") if matched.norm else None
    net = nn.Module()
    with torch.device("meta"):
        net.backbone = VGG(arch, width, norm)
        if not features_only:
            channels = convs(arch, width)[-1].channels
            fc6 = shape("fc6.weight", 2)
            side = fc6[-1] if len(fc6) == 4 else isqrt(fc6[1] // channels) or 1
            classes, hidden = (shape(f"{fc}.bias", 1)[0] for fc in ("fc8", "fc6"))
            net.head = VGGHead(
                classes, in_channels=channels, channels=hidden, kernel_size=max(side, 1)
            )
    return net


def _match(source: Source, name: str, part: nn.Module | None, arch: str) -> Match:
    """Looks for a part of a net under its own name in the file, then anywhere."""
    if name:
        own = {k: v for k, v in source.tensors.items() if k.startswith(f"{name}.")}
        try:
            matched = source.match(own, arch)
            if matched.before is not None if isinstance(part, VGG) else matched.fcs:
                return matched
        except UserError:
            pass
    try:
        return source.match(source.tensors, arch)
    except UserError as error:
        raise UserError(f"{source.path} will not do: {error}") from None


def _check_layers(part: nn.Module, source: Source, matched: Match, arch: str) -> None:
    """Refuses the file's layers that would change the function and that the net has not."""
    if isinstance(part, VGG):
        strays, hint = list(matched.strays), ""
        if matched.norm and not part.with_norm:
            strays += layers(theirs for n, theirs in matched.names.items() if n.startswith("bn"))
            hint = ' Batch norms want norm_cfg=dict(type="BN").'
    else:
        strays, hint = matched.fc_strays if "fc8.bias" in part.state_dict() else [], ""
    keys = [key for key in source.tensors if key.rpartition(".")[0] in strays]
    if keys:
        raise Misfit(f"{source.path} is not net {arch}: it also holds {some(keys)}.{hint}")


def _fit_part(
    part: nn.Module,
    source: Source,
    matched: Match,
    may_be_new: Collection[str],
    only: Collection[str],
    prefix: str,
    found: Fit,
) -> None:
    own = part.state_dict()
    channels = part.fc6.in_channels if isinstance(part, VGGFC) else 0
    wanted = {n: matched.names.get(n, n) for n in own if not only or n.split(".")[0] in only}
    fixed = {n: theirs for n, theirs in wanted.items() if n.split(".")[0] not in may_be_new}
    loose = [{n: t for n, t in wanted.items() if n.startswith(f"{fc}.")} for fc in may_be_new]
    for names in (fixed, *loose):
        try:
            weights = take(source, names, channels)
            for ours, value in weights.items():
                if value.shape != own[ours].shape:
                    raise Misfit(
                        f"{source.path} does not fit: {names[ours]} ({ours}) is "
                        f"{list(value.shape)}, not {list(own[ours].shape)}."
                    )
        except Misfit as error:
            if names is fixed:
                raise
            layer = next(iter(names)).split(".")[0]
            found.new[prefix + layer] = (
                str(error)[len(str(source.path)) :].partition(": ")[2].rstrip(".")
            )
            continue
        found.weights |= {prefix + ours: value for ours, value in weights.items()}
        found.names |= {prefix + ours: theirs for ours, theirs in names.items()}


def _fit_others(
    net: nn.Module, source: Source, outer: str, parts: tuple[str, ...], found: Fit
) -> None:
    """Takes the layers of a net that are no VGG's by their own names."""
    own = {n: value for n, value in net.state_dict().items() if not n.startswith(parts)}
    for name, value in own.items():
        theirs = source.tensors.get(outer + name)
        if theirs is not None and theirs.shape == value.shape:
            found.weights[name], found.names[name] = theirs, outer + name
    for layer in layers(own):
        child = layer.split(".")[0]
        same = f"{layer}." if any(n.startswith(f"{child}.") for n in found.weights) else f"{child}."
        if not any(n.startswith(same) for n in found.weights):
            found.new[same.rstrip(".")] = "the file has nothing that fits"
