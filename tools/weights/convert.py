"""Weights from anywhere as a checkpoint of this project, for its input."""

from __future__ import annotations

import os
from dataclasses import asdict, replace

from torch import Tensor

from tools.printing import as_text
from vgg_mm.errors import UserError
from vgg_mm.inputs import INPUTS, Input
from vgg_mm.weights.source import build, fit, is_net, open_source


def convert(
    source: str | os.PathLike,
    arch: str,
    features_only: bool = False,
    trained_on: Input | None = None,
    prefix: str = "",
) -> dict:
    """A checkpoint for net ``arch``, whose input is RGB from 0 to 255 minus a mean.

    Args:
        source: As for :func:`open_source`.
        arch: The net of Table 1.
        features_only: Whether to leave the FC layers out.
        trained_on: The source's input, where it is not what its file or kind says.
        prefix: As for :func:`open_source`.

    Returns:
        ``state_dict`` for an ``ImageClassifier`` with ``vgg_mm.VGG`` and ``vgg_mm.VGGHead``, and
        ``meta``: ``arch``, ``input`` (:class:`Input`'s arguments) and ``source``, with the file,
        its kind and input, and where each layer came from.

    Raises:
        UserError: If the source does not fit, or its input is unknown.
    """
    opened = open_source(source, prefix, features_only)
    net = build(opened, arch, features_only)
    try:
        found = fit(net, opened)
        if found.new:
            raise UserError(
                f"{opened.path} is incomplete: it lacks fc6.weight and the other FC layers."
            )
    except UserError as error:
        only = not features_only and is_net(opened, arch)
        raise UserError(
            f"{error}{' Without the classifier: --features-only.' if only else ''}"
        ) from None
    weights = found.weights
    trained_on = trained_on or opened.input
    if trained_on is None:
        raise UserError(
            f"{opened.path} does not say what its input is: --input torchvision (RGB from 0 to 1, "
            "mean and deviation), caffe (BGR from 0 to 255, mean) or vgg_mm (RGB, 0 to 255, mean)."
        )
    ours = replace(INPUTS["vgg_mm"], mean=tuple(trained_on.mean_rgb))
    first = "backbone.conv1_1.weight"
    weights[first] = refold(weights[first], trained_on, ours)
    origin = dict(
        file=opened.path.name,
        kind=opened.kind,
        input=asdict(trained_on),
        layers={name.partition(".")[2]: theirs for name, theirs in found.names.items()},
        left=found.left,
    )
    state = {name: value.contiguous() for name, value in weights.items()}
    return dict(state_dict=state, meta=dict(arch=arch, input=asdict(ours), source=origin))


def report(checkpoint: dict) -> str:
    """Where each layer of :func:`convert`'s result came from, and what a config must say."""
    source = checkpoint["meta"]["source"]
    rows = [
        [name.split(".")[1], source["layers"][name.partition(".")[2]], str(list(value.shape))]
        for name, value in checkpoint["state_dict"].items()
        if name.endswith(".weight")
    ]
    have, ours = Input(**source["input"]), Input(**checkpoint["meta"]["input"])
    factors = ", ".join(f"{factor:.6g}" for factor in (have.scale_rgb / ours.scale_rgb).tolist())
    turned = "" if have.order == "RGB" else ", turned from BGR to RGB"
    lines = [
        f"{source['file']} ({source['kind']}):",
        as_text(rows, words=range(3)),
        *([f"Not taken: {', '.join(source['left'])}."] if source["left"] else []),
        f"conv1_1.weight times {factors} for R, G, B{turned}.",
        f"In the config: model = dict({_settings(checkpoint)})",
    ]
    return "\n".join(lines)


def _settings(checkpoint: dict) -> str:
    """The keys of a config's model that fit the checkpoint."""
    state, meta = checkpoint["state_dict"], checkpoint["meta"]
    norm = ', norm_cfg=dict(type="BN")' if "backbone.bn1_1.weight" in state else ""
    width = len(state["backbone.conv1_1.weight"])
    keys = [f'backbone=dict(arch="{meta["arch"]}", width={width}{norm})']
    if "head.fc6.weight" in state:
        hidden, channels, side, _ = state["head.fc6.weight"].shape
        keys.append(
            f"head=dict(num_classes={len(state['head.fc8.bias'])}, in_channels={channels}, "
            f"channels={hidden}, kernel_size={side})"
        )
    keys.append(f"data_preprocessor=dict(mean={list(meta['input']['mean'])}, std=[1, 1, 1])")
    return ", ".join(keys)


def refold(weight: Tensor, have: Input, want: Input) -> Tensor:
    """conv1_1's weight for another order and scale of its input; the means are left alone.

    Args:
        weight: (out, 3, k, k), for an input of ``have``.
        have: The input that it was trained on.
        want: The input that it will get, its mean the same in pixels.

    Returns:
        (out, 3, k, k), to the last bit the same numbers where the scales are equal.
    """
    rgb = (weight if have.order == "RGB" else weight.flip(1)).double()
    factor = rgb.new_tensor(have.scale_rgb / want.scale_rgb)[:, None, None]
    rgb = (rgb * factor).to(weight.dtype)
    return rgb if want.order == "RGB" else rgb.flip(1)
