"""The names of a VGG's layers in other people's files, and which of them are a net's."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from vgg_mm.errors import UserError
from vgg_mm.paper import convs


class Layout(NamedTuple):
    """The names of convs and of their norms, and of the three FC layers.

    ``i`` is a conv's place in a sequence of convs, norms, ReLUs and pools, ``n`` the next one.
    """

    conv: str
    norm: str
    fcs: tuple[str, str, str]


FCS = ("fc6", "fc7", "fc8")
CLASSIFIER = ("classifier.0", "classifier.3", "classifier.6")
LAYOUTS = {
    "vgg_mm": Layout("conv{stage}_{conv}", "bn{stage}_{conv}", FCS),
    "mmpretrain": Layout("features.{i}.conv", "features.{i}.bn", CLASSIFIER),
    "torchvision": Layout("features.{i}", "features.{n}", CLASSIFIER),
    "keras": Layout("block{stage}_conv{conv}", "", ("fc1", "fc2", "predictions")),
    "timm": Layout("features.{i}", "features.{n}", ("pre_logits.fc1", "pre_logits.fc2", "head.fc")),
    "sequence": Layout("{i}", "{n}", CLASSIFIER),  # torchvision's features alone, as in SSD's VGG
}
FIRST = {
    "vgg_mm": "conv1_1",
    "mmpretrain": "features.0.conv",
    "torchvision": "features.0",
    "keras": "block1_conv1",
}
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
        kind: The layout of its names, a key of :data:`LAYOUTS`.
        before: What stands before the convs' names; None if there are none.
        names: Our layers, mapped to the file's or, for what it lacks, to what should be there.
        fcs: Whether the file has FC layers.
        norm: Whether it has batch norms.
        strays: Its layers among those of the five stages of which the net has none.
        fc_strays: Likewise of the classifier.
    """

    kind: str
    before: str | None
    names: dict[str, str]
    fcs: bool
    norm: bool = False
    strays: list[str] = field(default_factory=list)
    fc_strays: list[str] = field(default_factory=list)

    def theirs(self, ours: str) -> str:
        """The file's name of a weight of ours, such as ``conv1_1.weight``."""
        layer, _, leaf = ours.rpartition(".")
        return f"{self.names.get(layer, layer)}.{leaf}"


def layers(keys: Iterable[str]) -> list[str]:
    """The layers of the weights' names, each once: ``conv1_1`` of ``conv1_1.weight``."""
    return list(dict.fromkeys(key.rpartition(".")[0] or key for key in keys))


def some(names: Collection[str]) -> str:
    """The first of the names, and how many more there are."""
    more = [f"and {len(names) - 4} more"] if len(names) > 4 else []
    return ", ".join([*names][:4] + more)


def layer_names(layout: str, arch: str, norm: bool = False) -> dict[str, str]:
    """Maps net ``arch``'s layers to those of :data:`LAYOUTS`: ``conv1_1`` to ``features.0``.

    With ``norm``, a batch norm follows every conv.
    """
    theirs, names = LAYOUTS[layout], {}
    for index, layer in enumerate(convs(arch)):
        stage, conv = layer.name.removeprefix("conv").split("_")
        i = _step(layout, norm) * index + int(stage) - 1  # a pool after each stage before
        place = dict(stage=stage, conv=conv, i=i, n=i + 1)
        names[layer.name] = theirs.conv.format(**place)
        if norm:
            names[layer.bn] = theirs.norm.format(**place)
    return names | dict(zip(FCS, theirs.fcs, strict=True))


def _step(layout: str, norm: bool) -> int:
    """How many places of a sequence a conv takes with its norm and ReLU; 0 if none are counted."""
    return {"vgg_mm": 0, "keras": 0, "mmpretrain": 1}.get(layout, 2 + norm)


def match(tensors: Mapping[str, Tensor], arch: str) -> Match:
    """Recognises net ``arch`` by its layers' names, whatever stands before them and beside them.

    Raises:
        UserError: If there is no VGG.
        Ambiguous: If there is more than one.
    """
    found = layers(tensors)
    kind, before = _find(found, FIRST)
    if not kind:
        images = [key for key, value in tensors.items() if value.shape[1:2] == (3,)]
        kind, before = _find(layers(images), {"sequence": "0"})
    fc_kind, fcs, fc_strays = _fcs(found, tensors)
    if not kind:
        if not fc_kind:
            raise UserError(
                "its names are not a VGG's: it has neither conv1_1 nor features.0 (torchvision, "
                "timm, mmpretrain) nor block1_conv1."
            )
        return Match(fc_kind, None, fcs, True, fc_strays=fc_strays)
    mark = before + layer_names(kind, arch, norm=True)["bn1_1"]
    norm = f"{mark}.running_mean" in tensors
    names = {a: before + b for a, b in layer_names(kind, arch, norm).items()} | fcs
    root = before + ("features." if "features." in FIRST.get(kind, "") else "")
    step = _step(kind, norm)
    end = step and step * len(convs(arch)) + 5  # the place after the last pool
    if not fc_kind and step > 1 and f"{root}{end}" in found:  # fc6 and fc7 as further convs
        names |= {"fc6": f"{root}{end}", "fc7": f"{root}{end + 2}"}
        fc_kind = kind

    def among(name: str) -> bool:
        """Whether it stands before the last pool, or is called like a layer of the stages."""
        place = re.match(r"(\d+)(\.|$)", name)
        return bool(place and int(place[1]) < end if end else AMONG.fullmatch(name))

    others = [n for n in found if n.startswith(root) and n not in names.values()]
    strays = [layer for layer in others if among(layer.removeprefix(root))]
    kind = fc_kind if fc_kind == "timm" else kind
    return Match(kind, before, names, bool(fc_kind), norm, strays, fc_strays)


def _find(found: list[str], firsts: Mapping[str, str]) -> tuple[str, str]:
    """Which of the layouts' first layers is there, and what stands before it."""
    hits = [
        (layout, layer.removesuffix(first))
        for layout, first in firsts.items()
        for layer in found
        if f".{layer}".endswith(f".{first}")
    ]
    if len(hits) > 1:
        raise Ambiguous(before + firsts[layout] for layout, before in hits)
    return hits[0] if hits else ("", "")


def _fcs(found: list[str], tensors: Mapping[str, Tensor]) -> tuple[str, dict[str, str], list[str]]:
    """The layout of the FC layers, their names in the file, and what else is in the classifier."""
    named = {fc: _named(found, fc) for fc in FCS}
    if any(named.values()):
        # Whoever fine-tunes in Caffe calls the new layer fc8a, fc8-1, fc8_flickr.
        return "vgg_mm", {fc: " or ".join(names) or fc for fc, names in named.items()}, []
    for layout in ("timm", "keras"):
        theirs = LAYOUTS[layout].fcs
        kind, before = _find(found, {layout: theirs[0]})
        if kind:
            return kind, {fc: before + name for fc, name in zip(FCS, theirs, strict=True)}, []
    parts = [re.fullmatch(r"((?:.*\.)?)classifier\.(\d+(?:\.\d+)*)", layer) for layer in found]
    inside = [part for part in parts if part]
    roots = list(dict.fromkeys(part[1] for part in inside))
    if not roots:
        return "", {}, []
    if len(roots) > 1:
        raise Ambiguous(f"{root}classifier.0" for root in roots)
    inside.sort(key=lambda part: [int(number) for number in part[2].split(".")])
    names = [part[0] for part in inside]
    linear = [n for n in names if f"{n}.weight" in tensors and tensors[f"{n}.weight"].ndim > 1]
    fcs = linear if len(linear) == 3 else [roots[0] + name for name in CLASSIFIER]
    strays = [name for name in names if name not in fcs]
    return "torchvision", dict(zip(FCS, fcs, strict=True)), strays


def _named(found: list[str], fc: str) -> list[str]:
    """The layers called ``fc``, or if there is none, those called nearly so."""
    last = {layer: layer.rpartition(".")[2] for layer in found}
    exact = [layer for layer in found if last[layer] == fc]
    if len(exact) > 1:
        raise Ambiguous(exact)
    return exact or [layer for layer in found if re.search(rf"{fc}(?!\d)", last[layer])]


def match_in_order(tensors: Mapping[str, Tensor], arch: str) -> Match:
    """Takes a file's layers in its order: the net's convs and norms, then the FC layers."""
    ours = convs(arch)
    found = layers(tensors)
    norms = [layer for layer in found if f"{layer}.running_mean" in tensors]
    rest = [layer for layer in found if layer not in norms]
    flat = [n for n in rest if n.startswith("dense") or tensors[f"{n}.weight"].ndim == 2]
    first = [layer for layer in rest[: len(ours)] if layer not in flat]
    fcs = rest[len(first) :]
    names = dict.fromkeys([conv.name for conv in ours], "a further conv")
    names |= dict(zip(names, first, strict=False))
    strays = [layer for layer in fcs if layer.startswith("conv2d")]
    if len(norms) < len(ours):
        strays += norms
    else:
        names |= dict(zip([conv.bn for conv in ours], norms, strict=False))
        strays += norms[len(ours) :]
    whole = len(fcs) == 3
    names |= dict(zip(FCS, fcs if whole else ["a further dense layer"] * 3, strict=True))
    return Match("", "" if first else None, names, whole, bool(norms), strays)
