"""The names of a VGG's layers in a state dict: torchvision's, timm's, mmpretrain's and ours."""

from __future__ import annotations

from collections.abc import Iterable

from vgg_mm.errors import UserError
from vgg_mm.paper import stages

FCS = {
    "vgg_mm": ("fc6", "fc7", "fc8"),
    "torchvision": ("classifier.0", "classifier.3", "classifier.6"),
    "mmpretrain": ("classifier.0", "classifier.3", "classifier.6"),
    "timm": ("pre_logits.fc1", "pre_logits.fc2", "head.fc"),
}
AFFINE = ("weight", "bias")
NORM = (*AFFINE, "running_mean", "running_var", "num_batches_tracked")


def conv_names(layout: str, arch: str, norm: bool = False) -> dict[str, str]:
    """Maps our names to the layout's: ``conv1_1.weight`` to ``features.0.weight``.

    Args:
        layout: torchvision, timm, mmpretrain or vgg_mm.
        arch: The net of Table 1.
        norm: Whether a batch norm follows every conv.
    """
    names: dict[str, str] = {}
    i = 0
    for stage in stages(arch):
        for layer in stage:
            if not layer.kernel:
                continue
            if layout == "vgg_mm":
                theirs = layer.name, layer.bn
            elif layout == "mmpretrain":
                theirs = f"features.{i}.conv", f"features.{i}.bn"
                i += 1
            else:
                theirs = f"features.{i}", f"features.{i + 1}"
                i += 3 if norm else 2
            names.update(_leaves(layer.name, theirs[0], AFFINE))
            if norm:
                names.update(_leaves(layer.bn, theirs[1], NORM))
        i += 1  # the pool
    return names


def fc_names(layout: str) -> dict[str, str]:
    """Maps our names of the three FC layers to the layout's."""
    pairs = zip(FCS["vgg_mm"], FCS[layout], strict=True)
    return dict(item for ours, theirs in pairs for item in _leaves(ours, theirs, AFFINE).items())


def _leaves(ours: str, theirs: str, leaves: tuple[str, ...]) -> dict[str, str]:
    return {f"{ours}.{leaf}": f"{theirs}.{leaf}" for leaf in leaves}


def find_names(keys: Iterable[str], arch: str) -> tuple[str, dict[str, str], set[str]]:
    """Recognises the layout of a state dict by its names.

    Args:
        keys: Its names; those of a whole detector may surround the VGG's.
        arch: The net to look for.

    Returns:
        The layout; our names, mapped to names of ``keys`` or to what should be there; and those of
        ``keys`` that belong to the VGG's part.

    Raises:
        UserError: If there is no VGG, or more than one.
    """
    keys = set(keys)
    convs, before = _find(
        keys,
        {
            "vgg_mm": "conv1_1.weight",
            "mmpretrain": "features.0.conv.weight",
            "torchvision": "features.0.weight",
        },
    )
    fcs, before_fcs = _find(
        keys,
        {
            "vgg_mm": "fc6.weight",
            "torchvision": "classifier.0.weight",
            "timm": "pre_logits.fc1.weight",
        },
    )
    if not convs and not fcs:
        raise UserError(
            "its names are not a VGG's: it has neither conv1_1 nor features.0 (torchvision, timm, "
            "mmpretrain)."
        )
    convs = convs or fcs
    layout = fcs if fcs == "timm" else convs
    marks = {"vgg_mm": "bn1_1", "mmpretrain": "features.0.bn"}
    norm = f"{before}{marks.get(convs, 'features.1')}.running_mean" in keys
    names = {ours: before + theirs for ours, theirs in conv_names(convs, arch, norm).items()}
    fc_layout = fcs or layout
    before_fcs = before_fcs if fcs else before
    names |= {ours: before_fcs + theirs for ours, theirs in fc_names(fc_layout).items()}
    stems = ["conv", "bn"] if convs == "vgg_mm" else ["features."]
    part = {key for key in keys if any(key.startswith(before + stem) for stem in stems)}
    stems = [name.split(".")[0] for name in FCS[fc_layout]]
    part |= {key for key in keys if fcs and key.startswith(tuple(before_fcs + s for s in stems))}
    return layout, names, part


def _find(keys: set[str], marks: dict[str, str]) -> tuple[str | None, str]:
    """Which of the marks, layouts' first names, is there, and what stands before it."""
    found = [
        (layout, key.removesuffix(mark))
        for layout, mark in marks.items()
        for key in sorted(keys)
        if key == mark or key.endswith(f".{mark}")
    ]
    if len(found) > 1:
        each = " and ".join(before + marks[layout] for layout, before in found[:4])
        raise UserError(f"it is ambiguous: it holds {each}.")
    return found[0] if found else (None, "")
