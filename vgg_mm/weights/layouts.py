"""The names of a VGG's layers in other people's files, and which of them are a net's."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from vgg_mm.errors import UserError
from vgg_mm.paper import convs, stages

FCS = {
    "vgg_mm": ("fc6", "fc7", "fc8"),
    "torchvision": ("classifier.0", "classifier.3", "classifier.6"),
    "mmpretrain": ("classifier.0", "classifier.3", "classifier.6"),
    "timm": ("pre_logits.fc1", "pre_logits.fc2", "head.fc"),
    "keras": ("fc1", "fc2", "predictions"),
}
AFFINE = ("weight", "bias")
NORM = (*AFFINE, "running_mean", "running_var", "num_batches_tracked")
# Layouts' first convs. A "sequence" is torchvision's without features., as SSD's VGG has it.
FIRST = {
    "vgg_mm": "conv1_1",
    "mmpretrain": "features.0.conv",
    "torchvision": "features.0",
    "keras": "block1_conv1",
}
ROOTS = {"sequence": "", "vgg_mm": "", "keras": ""}  # the others': features.
# A conv or a norm of the five stages, in the names of Caffe's users, of Keras and ours.
AMONG = re.compile(
    r"((bn|scale|batch_?norm)_)?(conv|bn|scale|block|(batch)?_?norm_?)[1-5]_(conv)?\d+"
    r"([/_.-](bn|scale|batch_?norm))?",
    re.I,
)


class Ambiguous(UserError):
    """Two layers of one file that could be the same one of a net."""

    def __init__(self, layers: Iterable[str]) -> None:
        each = " and ".join(f"{layer}.weight" for layer in [*layers][:4])
        super().__init__(
            f"it is ambiguous: it holds {each}; --prefix (in init_cfg, prefix=) says which."
        )


@dataclass
class Match:
    """What of a file is a VGG's.

    Attributes:
        kind: The layout of its names.
        before: What stands before the convs' names; None if there are none.
        names: Our names, mapped to the file's or, for what it lacks, to what should be there.
        fcs: Whether the file has FC layers.
        norm: Whether it has batch norms.
        strays: Its layers among those of the five stages of which the net has none.
        fc_strays: Likewise of the classifier.
    """

    kind: str
    before: str | None
    names: dict[str, str]
    fcs: bool
    norm: bool
    strays: list[str]
    fc_strays: list[str]


def layers(keys: Iterable[str]) -> list[str]:
    """The layers of the weights' names, each once: ``conv1_1`` of ``conv1_1.weight``."""
    return list(dict.fromkeys(key.rpartition(".")[0] or key for key in keys))


def conv_names(layout: str, arch: str, norm: bool = False) -> dict[str, str]:
    """Maps our names to the layout's: ``conv1_1.weight`` to ``features.0.weight``.

    Args:
        layout: A key of :data:`FIRST`, timm or sequence.
        arch: The net of Table 1.
        norm: Whether a batch norm follows every conv.
    """
    names: dict[str, str] = {}
    i, root = 0, ROOTS.get(layout, "features.")
    for stage in stages(arch):
        for layer in stage:
            if not layer.kernel:
                continue
            if layout == "vgg_mm":
                theirs = layer.name, layer.bn
            elif layout == "keras":
                theirs = layer.name.replace("conv", "block").replace("_", "_conv"), layer.bn
            elif layout == "mmpretrain":
                theirs = f"{root}{i}.conv", f"{root}{i}.bn"
                i += 1
            else:
                theirs = f"{root}{i}", f"{root}{i + 1}"
                i += 3 if norm else 2
            names.update(_leaves(layer.name, theirs[0], AFFINE))
            if norm:
                names.update(_leaves(layer.bn, theirs[1], NORM))
        i += 1  # the pool
    return names


def fc_names(layout: str) -> dict[str, str]:
    """Maps our names of the three FC layers to the layout's."""
    return _fc_names(FCS[layout])


def _fc_names(theirs: Iterable[str]) -> dict[str, str]:
    pairs = zip(FCS["vgg_mm"], theirs, strict=False)
    return dict(item for pair in pairs for item in _leaves(*pair, AFFINE).items())


def _leaves(ours: str, theirs: str, leaves: tuple[str, ...]) -> dict[str, str]:
    return {f"{ours}.{leaf}": f"{theirs}.{leaf}" for leaf in leaves}


def match(tensors: dict[str, Tensor], arch: str) -> Match:
    """Recognises a VGG by the names of its layers, whatever stands before them.

    Args:
        tensors: Of the file; those of a whole detector may surround the VGG's.
        arch: The net to look for.

    Raises:
        UserError: If there is no VGG.
        Ambiguous: If there is more than one.
    """
    found = layers(tensors)
    kind, before = _find(found, FIRST)
    if not kind:
        images = [key for key, value in tensors.items() if value.shape[1:2] == (3,)]
        kind, before = _find(layers(images), {"sequence": "0"})
    names, norm, strays, end = {}, False, [], 0
    if kind:
        root = before + ROOTS.get(kind, "features.")
        marks = {"vgg_mm": "bn1_1", "mmpretrain": "0.bn", "keras": "bn1_1"}
        norm = f"{root}{marks.get(kind, '1')}.running_mean" in tensors
        names = {a: before + b for a, b in conv_names(kind, arch, norm).items()}
        numbers = [int(n[1]) for b in names.values() if (n := re.match(r"(\d+)\.", b[len(root) :]))]
        end = max(numbers, default=0) + (2 if kind == "mmpretrain" else 3)
        ours = set(layers(names.values()))
        for layer in found:
            if not layer.startswith(root) or layer in ours:
                continue
            number = re.match(r"\d+(?=\.|$)", layer[len(root) :])
            if (
                (number and int(number[0]) < end)
                if numbers
                else AMONG.fullmatch(layer[len(root) :])
            ):
                strays.append(layer)
    fc_kind, theirs, fc_strays = _fcs(found, tensors)
    root = (before or "") + ROOTS.get(kind, "features.")
    if not fc_kind and kind in ("torchvision", "sequence") and f"{root}{end}" in found:
        fc_kind, theirs = kind, (f"{root}{end}", f"{root}{end + 2}")
    if not kind and not fc_kind:
        raise UserError(
            "its names are not a VGG's: it has neither conv1_1 nor features.0 (torchvision, timm, "
            "mmpretrain) nor block1_conv1."
        )
    if not fc_kind:
        theirs = ((before or "") + name for name in FCS.get(kind, FCS["torchvision"]))
    names |= _fc_names(theirs)
    kind = fc_kind if fc_kind == "timm" or not kind else kind
    return Match(kind, before, names, bool(fc_kind), norm, strays, fc_strays)


def _find(found: list[str], firsts: dict[str, str]) -> tuple[str, str | None]:
    """Which of the layouts' first layers is there, and what stands before it."""
    hits = [
        (layout, layer.removesuffix(first))
        for layout, first in firsts.items()
        for layer in found
        if layer == first or layer.endswith(f".{first}")
    ]
    if len(hits) > 1:
        raise Ambiguous(before + firsts[layout] for layout, before in hits)
    return hits[0] if hits else ("", None)


def _fcs(found: list[str], tensors: dict[str, Tensor]) -> tuple[str, tuple[str, ...], list[str]]:
    """The layout of the FC layers, their names in the file, and what else is in the classifier."""
    named = [_named(found, fc) for fc in FCS["vgg_mm"]]
    if any(named):
        # Whoever fine-tunes in Caffe calls the new layer fc8a, fc8-1, fc8_flickr.
        return "vgg_mm", tuple(" or ".join(n) or f"fc{i}" for i, n in enumerate(named, 6)), []
    for layout in ("timm", "keras"):
        kind, before = _find(found, {layout: FCS[layout][0]})
        if kind:
            return kind, tuple(before + name for name in FCS[layout]), []
    parts = [re.fullmatch(r"((?:.*\.)?classifier\.)\d+(\.\d+)*", layer) for layer in found]
    before = list(dict.fromkeys(part[1] for part in parts if part))
    if not before:
        return "", (), []
    if len(before) > 1:
        raise Ambiguous(f"{name}0" for name in before)
    inside = [part[0] for part in parts if part]
    inside.sort(key=lambda name: [int(n) for n in re.findall(r"\d+", name[len(before[0]) :])])
    linear = [n for n in inside if f"{n}.weight" in tensors and tensors[f"{n}.weight"].ndim > 1]
    usual = tuple(before[0].removesuffix("classifier.") + name for name in FCS["torchvision"])
    theirs = tuple(linear) if len(linear) == 3 else usual
    return "torchvision", theirs, [name for name in inside if name not in theirs]


def _named(found: list[str], fc: str) -> list[str]:
    """The layers called ``fc``, or if there is none, those called nearly so."""
    last = {layer: layer.rpartition(".")[2] for layer in found}
    exact = [layer for layer in found if last[layer] == fc]
    if len(exact) > 1:
        raise Ambiguous(exact)
    return exact or [layer for layer in found if re.search(rf"{fc}(?!\d)", last[layer])]


def match_in_order(tensors: dict[str, Tensor], arch: str, kind: str) -> Match:
    """Takes a file's layers in its order: the net's convs, then the FC layers."""
    ours = convs(arch)
    found = layers(tensors)
    norms = [layer for layer in found if f"{layer}.running_mean" in tensors]
    rest = [layer for layer in found if layer not in norms]
    flat = [n for n in rest if n.startswith("dense") or tensors[f"{n}.weight"].ndim == 2]
    first = rest[: len(ours)]
    first = [n for n in first if n not in flat]
    fcs = rest[len(first) :]
    names: dict[str, str] = {}
    for i, conv in enumerate(ours):
        names |= _leaves(conv.name, first[i] if i < len(first) else "a further conv", AFFINE)
        if len(norms) >= len(ours):
            names |= _leaves(conv.bn, norms[i], NORM[:4])
    strays = norms if 0 < len(norms) < len(ours) else norms[len(ours) :]
    strays += [n for n in fcs if n.startswith("conv2d")] if kind == "keras" else []
    missing = ["a further dense layer"] * 3
    names |= _fc_names([*(fcs if len(fcs) == 3 else fcs[:0]), *missing])
    return Match(kind, "" if first else None, names, len(fcs) == 3, bool(norms), strays, [])
