"""A file of a VGG's weights, of any kind, and what of it is which layer's of a net."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vgg_mm.errors import UserError
from vgg_mm.inputs import INPUTS, Input
from vgg_mm.models import VGG, VGGFC, VGGHead
from vgg_mm.paper import TABLE_1, convs
from vgg_mm.weights import caffe, hdf5
from vgg_mm.weights.files import format_of, local, read_tensors
from vgg_mm.weights.folder import read_config
from vgg_mm.weights.layouts import FCS, Ambiguous, Match, layers, match, match_in_order, some
from vgg_mm.weights.onnx import Graph


class Misfit(UserError):
    """A layer that a file lacks, has beside the net's, or has in another shape."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(f"{what}: {why}.")
        self.why = why


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
        geometry: The VGG's settings that no weight tells, if the file does: of its pools,
            dilations and norms.
    """

    path: Path
    kind: str
    tensors: Mapping[str, Tensor]
    match: Callable[[Mapping[str, Tensor], str], Match] = match
    input: Input | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    judge: Callable[[VGG, VGGHead | None], None] | None = None
    geometry: Mapping[str, Any] = field(default_factory=dict)


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
        return Source(path, kind, tensors, match_in_order if counted else match, INPUTS["caffe"])
    if kind == "onnx":
        graph = Graph(path, features_only)
        return Source(path, kind, graph.tensors, match_in_order, graph.input, judge=graph.judge)
    groups, meta = read_tensors(path)
    if "amdegroot" in path.name:  # torchvision's, whose FC layers are NaN: it is for detectors
        groups = {
            at: {k: v for k, v in some.items() if "classifier" not in k}
            for at, some in groups.items()
        }
    tensors, found = _choose(path, groups, prefix)
    known = None
    if "input" in meta:
        known = Input.of(meta["input"], path)
    elif found and found.kind != "vgg_mm":
        known = _usual_input(path, found)
    kind, classes = found.kind if found else "several", meta.get("dataset_meta") or {}
    return Source(path, kind, tensors, match, known, classes, geometry=_geometry(meta))


def _geometry(meta: Mapping[str, Any]) -> dict[str, Any]:
    """What the config in a checkpoint's or a folder's meta says of our VGG besides its sizes."""
    model, text = meta.get("model"), meta.get("cfg")
    if not isinstance(model, Mapping) and isinstance(text, str):
        model = read_config(text).get("model")
    backbone = model.get("backbone") if isinstance(model, Mapping) else None
    if not isinstance(backbone, Mapping) or backbone.get("type") != "vgg_mm.VGG":
        return {}
    keys = ("pool_strides", "dilations", "ceil_mode")
    norm = backbone.get("norm_cfg") or {}
    eps = {"norm_cfg": dict(type="BN", eps=norm["eps"])} if "eps" in norm else {}
    return eps | {key: backbone[key] for key in keys if key in backbone}


def _usual_input(path: Path, found: Match) -> Input:
    """What torchvision's names are trained on, if they do not hold Caffe's weights.

    Those are OpenMMLab's vgg16_caffe and SSD's, which have fc6 and fc7 as further convs, the one
    that torchvision has of SSD's author, and what has Keras's names.
    """
    if "amdegroot" in path.name:
        return Input("RGB", 255, (122.99925, 116.9991, 103.9992), (1, 1, 1))
    further = found.fcs and "classifier" not in found.names["fc6"] and found.kind != "timm"
    further |= found.kind == "keras"
    return INPUTS["caffe" if further or "caffe" in path.name.lower() else "torchvision"]


def _choose(
    path: Path, groups: dict[str, dict[str, Tensor]], prefix: str
) -> tuple[dict[str, Tensor], Match | None]:
    """The one of a file's dicts of tensors that holds a VGG, as much of it as has the prefix."""
    errors: list[str] = []
    for start in dict.fromkeys([prefix and f"{prefix.rstrip('.')}.", ""]):
        fits: dict[str, tuple[dict[str, Tensor], Match | None]] = {}
        for place, tensors in (groups or {"": {}}).items():
            inside = {
                key: value
                for key, value in tensors.items()
                if f"{key}.".startswith(start) or f"{place}.{key}.".startswith(start)
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


def take(source: Source, names: Mapping[str, str], channels: int) -> dict[str, Tensor]:
    """Weights of a source, whose ``names`` map ours to the file's, as float32 on the CPU.

    The FC layers' are convs' kernels; fc6's is (out, channels, k, k).

    Raises:
        Misfit: If one is missing, or fc6's inputs make no square map.
        UserError: If one is not of finite floats.
    """
    floats = {n: theirs for n, theirs in names.items() if not n.endswith("num_batches_tracked")}
    lacks = [f"{n} ({theirs})" for n, theirs in floats.items() if theirs not in source.tensors]
    if lacks:
        raise Misfit(f"{source.path} is incomplete", f"it lacks {some(lacks)}")
    weights = {n: source.tensors.get(theirs, torch.tensor(0)) for n, theirs in names.items()}
    for ours, theirs in floats.items():
        value, name = weights[ours], f"{source.path}: {theirs} ({ours})"
        if value.nbytes > value.untyped_storage().nbytes():
            raise UserError(f"{source.path} is damaged: its tensors claim more bytes than it has.")
        if not value.is_floating_point():
            raise UserError(f"{name} is {value.dtype}, no floats.")
        value = value.float()
        if not value.isfinite().all():
            raise UserError(f"{name} holds NaN or infinity.")
        if ours == "fc6.weight" and value.ndim == 2:
            inputs = value.shape[1]
            side = isqrt(inputs // channels)
            if side * side * channels != inputs:
                why = (
                    f"{theirs} has {inputs} inputs, which are no square map of {channels} channels"
                )
                raise Misfit(str(source.path), why)
            value = value.unflatten(1, (channels, side, side))
        elif ours in ("fc7.weight", "fc8.weight") and value.ndim == 2:
            value = value[:, :, None, None]
        weights[ours] = value
    return weights


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
    arch = arch or next((part.arch for part in net.modules() if isinstance(part, VGG)), "D")
    try:
        found = _fit(net, source, arch, may_be_new, only)
    except Misfit as error:
        others = [other for other in TABLE_1 if other != arch and is_net(source, other)]
        hint = others and not is_net(source, arch)
        raise UserError(f"{error}{f' It fits net {some(others)}.' if hint else ''}") from None
    if source.judge:
        fcs = any(layer.endswith(FCS) for layer in layers(found.weights))
        whole = build(source, arch, features_only=not fcs)
        whole.load_state_dict(_fit(whole, source, arch).weights, assign=True)
        source.judge(whole.backbone, whole.head)
    return found


def is_net(source: Source, arch: str) -> bool:
    """Whether the file's convs are those of net ``arch``."""
    try:
        _fit(build(source, arch, features_only=True), source, arch)
    except UserError:
        return False
    return True


def build(source: Source, arch: str, features_only: bool) -> Any:
    """``backbone`` and ``head`` (None without FC layers) in the file's sizes, without memory."""
    backbone, head = settings(source, arch, features_only)
    with torch.device("meta"):
        parts: Any = dict(backbone=VGG(**backbone), head=VGGHead(**head) if head else None)
        return nn.ModuleDict(parts)


def settings(source: Source, arch: str, features_only: bool = False) -> tuple[dict, dict]:
    """The arguments of net ``arch``'s VGG and VGGHead in the file's sizes.

    The head's are empty with ``features_only``.

    Raises:
        UserError: If the file holds no VGG, or more than one.
    """
    matched = _match(source, arch)

    def sizes(name: str) -> tuple[int, int]:
        """Outputs of a layer, and inputs of each; 1 where the file has no such weight."""
        value = source.tensors.get(matched.theirs(name), torch.empty(0))
        return (len(value), value[0].numel()) if value.ndim and value.numel() else (1, 1)

    width, _ = sizes("conv1_1.weight")
    norm = dict(type="BN") if matched.norm else None
    backbone: dict[str, Any] = dict(arch=arch, width=width, norm_cfg=norm)
    backbone |= source.geometry
    if features_only:
        return backbone, {}
    channels = convs(arch, width)[-1].channels
    side = max(isqrt(sizes("fc6.weight")[1] // channels), 1)
    classes, hidden = sizes("fc8.bias")[0], sizes("fc6.bias")[0]
    return backbone, dict(
        num_classes=classes, in_channels=channels, channels=hidden, kernel_size=side
    )


def _match(source: Source, arch: str, name: str = "", fcs: bool = False) -> Match:
    """Looks for a part of a net under its own name in the file, then anywhere."""
    if name:
        own = {k: v for k, v in source.tensors.items() if k.startswith(f"{name}.")}
        try:
            matched = source.match(own, arch)
            if matched.fcs if fcs else matched.before is not None:
                return matched
        except UserError:
            pass
    try:
        return source.match(source.tensors, arch)
    except UserError as error:
        raise UserError(f"{source.path} will not do: {error}") from None


def _fit(
    net: nn.Module,
    source: Source,
    arch: str,
    may_be_new: Collection[str] = (),
    only: Collection[str] = (),
) -> Fit:
    """As :func:`fit`; it neither names other nets nor asks the file's judge."""
    found, outer = Fit(), ""
    parts = {n: m for n, m in net.named_modules() if isinstance(m, VGG | VGGFC)}
    for name, part in parts.items():
        prefix = name and f"{name}."
        matched = _match(source, arch, name, fcs=isinstance(part, VGGFC))
        if isinstance(part, VGG):
            outer = (matched.before or "").removesuffix(prefix)
        elif name and not matched.fcs and not only:
            found.new[name] = "the file has no FC layers"
            continue
        _check_layers(part, source, matched, arch)
        names = {n: matched.theirs(n) for n in part.state_dict()}
        names = {n: theirs for n, theirs in names.items() if not only or n.split(".")[0] in only}
        fixed = {n: theirs for n, theirs in names.items() if n.split(".")[0] not in may_be_new}
        _take_part(part, source, fixed, prefix, found)
        for fc in may_be_new:
            loose = {n: theirs for n, theirs in names.items() if n.startswith(f"{fc}.")}
            try:
                _take_part(part, source, loose, prefix, found)
            except Misfit as error:
                found.new[prefix + fc] = error.why
    if not only:
        _take_others(net, source, outer, tuple(n and f"{n}." for n in parts), found)
    used = set(layers(found.names.values()))
    found.left = [layer for layer in layers(source.tensors) if layer not in used]
    return found


def _check_layers(part: VGG | VGGFC, source: Source, matched: Match, arch: str) -> None:
    """Refuses the file's layers that would change the function and that the net has not."""
    strays, hint = [*matched.strays], ""
    if isinstance(part, VGGFC):
        strays = matched.fc_strays if "fc8.bias" in part.state_dict() else []
    elif matched.norm and not part.with_norm:
        strays += [theirs for ours, theirs in matched.names.items() if ours.startswith("bn")]
        hint = '. Batch norms want norm_cfg=dict(type="BN")'
    if keys := [key for key in source.tensors if key.rpartition(".")[0] in strays]:
        raise Misfit(f"{source.path} is not net {arch}", f"it also holds {some(keys)}{hint}")


def _take_part(
    part: VGG | VGGFC, source: Source, names: Mapping[str, str], prefix: str, found: Fit
) -> None:
    """Takes a part's weights, all or none."""
    own = part.state_dict()
    weights = take(source, names, part.fc6.in_channels if isinstance(part, VGGFC) else 0)
    for ours, value in weights.items():
        if value.shape != own[ours].shape:
            shapes = f"{list(value.shape)}, not {list(own[ours].shape)}"
            raise Misfit(f"{source.path} does not fit", f"{names[ours]} ({ours}) is {shapes}")
    found.weights |= {prefix + ours: value for ours, value in weights.items()}
    found.names |= {prefix + ours: theirs for ours, theirs in names.items()}


def _take_others(
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
