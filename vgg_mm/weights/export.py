"""A trained net in other people's formats: torchvision, timm, mmpretrain, ONNX."""

from __future__ import annotations

import contextlib
import io
import json
import os
import warnings
from dataclasses import asdict
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from torch import Tensor, nn
from torch.export import Dim

from vgg_mm.errors import UserError, library
from vgg_mm.inputs import INPUTS, Input, check_input, refold
from vgg_mm.models import VGG, VGGHead
from vgg_mm.weights.files import save
from vgg_mm.weights.layouts import conv_names, fc_names
from vgg_mm.weights.onnx import INPUT_KEY
from vgg_mm.weights.source import fit, open_source
from vgg_mm.writing import replacing

LAYOUTS = ("torchvision", "timm", "mmpretrain")
TOLERANCE = 1e-4


def export(
    cfg: Config, checkpoint: str | os.PathLike, path: str | os.PathLike, to: str
) -> tuple[Input, str]:
    """Writes a classifier's weights, and without ``model.head`` a backbone's.

    Args:
        cfg: The config that it was trained with.
        checkpoint: The file of its weights.
        path: What to write: ``.onnx``, ``.safetensors``, or a PyTorch file under another ending.
        to: ``torchvision``, ``timm``, ``mmpretrain`` or ``onnx``.

    Returns:
        The input that the written net expects, and a line on what was checked.

    Raises:
        UserError: If the checkpoint does not fit the config, the net has no such form, a library
            is missing, or the written file does not give the same scores.
    """
    if (to == "onnx") != (Path(path).suffix == ".onnx"):
        raise UserError(f"{path}: --to onnx writes an .onnx, the others .safetensors or .pth.")
    init_default_scope(cfg.get("default_scope", "mmpretrain"))
    model = MODELS.build(cfg.model).eval()
    backbone, head = model.backbone, model.head if model.with_head else None
    if not isinstance(backbone, VGG) or not isinstance(head, VGGHead | None):
        raise UserError(f"{cfg.filename}: only vgg_mm.VGG with vgg_mm.VGGHead can be exported.")
    source = open_source(checkpoint)
    found = fit(model, source)
    if found.new:
        raise UserError(f"{checkpoint} does not fit the config's net: {found}.")
    check_input(source.input and dict(input=asdict(source.input)), cfg.model, str(checkpoint))
    model.load_state_dict(found.weights)
    trained_on = Input.of_config(cfg.model)
    if to == "onnx":
        return trained_on, _export_onnx(backbone, head, trained_on, Path(path))
    state, given = _to_layout(backbone, head, trained_on, to)
    save(state, path)
    return given, f"{len(state)} tensors"


def _to_layout(
    backbone: VGG, head: VGGHead | None, trained_on: Input, to: str
) -> tuple[dict[str, Tensor], Input]:
    """The state dict of another library's net, and the input that it expects."""
    if backbone.arch not in ("A", "B", "D", "E"):
        raise UserError(f"{to} has no net {backbone.arch}: use --to onnx.")
    if (
        backbone.ceil_mode
        or set(backbone.pool_strides) != {2}
        or any(
            conv.dilation != (1, 1) for conv in backbone.modules() if isinstance(conv, nn.Conv2d)
        )
        or (head and head.fc6.padding == "same")
    ):
        raise UserError(
            f"{to}'s nets have no dilations, no ceil_mode and five pools of stride 2: "
            "use --to onnx."
        )
    weights = backbone.state_dict()
    names = conv_names(to, backbone.arch, backbone.with_norm)
    if lacks := names.keys() - weights.keys():
        raise UserError(
            f"the config's backbone lacks {', '.join(sorted(lacks))}: set out_indices=(4,)."
        )
    usual = INPUTS["torchvision"]
    weights["conv1_1.weight"] = refold(weights["conv1_1.weight"], trained_on, usual)
    if head:
        names |= fc_names(to)
        weights |= head.state_dict()
        flat = ("fc8",) if to == "timm" else ("fc6", "fc7", "fc8")
        for layer in flat:
            weights[f"{layer}.weight"] = weights[f"{layer}.weight"].flatten(1)
    if to == "mmpretrain":
        names = {ours: f"backbone.{theirs}" for ours, theirs in names.items()}
    state = {
        theirs: weights[ours].clone(memory_format=torch.contiguous_format)
        for ours, theirs in names.items()
    }
    return state, Input("RGB", 255, tuple(trained_on.mean_rgb), usual.std)


def _export_onnx(backbone: VGG, head: VGGHead | None, trained_on: Input, path: Path) -> str:
    """Writes the graph, for any batch, height and width, and compares its scores with the net's."""
    onnxruntime = library("onnxruntime", "the check of the written .onnx")
    library("onnxscript", "--to onnx")
    net = nn.Sequential(backbone, head) if head else backbone
    side = 32 * (head.fc6.kernel_size[0] if head else 2)
    sizes = [(2, side + 32, side + 64), (1, side, side), (3, side + 16, side + 48)]
    images = [
        torch.randn(n, 3, h, w, generator=torch.Generator().manual_seed(n)) * 60
        for n, h, w in sizes
    ]
    dynamic = {axis: Dim.DYNAMIC for axis in (0, 2, 3)}
    # Torch's exporter tells of its progress.
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            net,
            (images[0],),
            dynamo=True,
            verbose=False,
            input_names=["image"],
            dynamic_shapes=(dynamic,),
        )
    program.model.metadata_props[INPUT_KEY] = json.dumps(asdict(trained_on))
    errors: list[Tensor] = []
    with replacing(path) as file:
        program.save(file.name, external_data=False)
        session = onnxruntime.InferenceSession(file.name, providers=["CPUExecutionProvider"])
        for x in images:
            with torch.no_grad():
                wanted = net(x)
            for want, have in zip(
                wanted if isinstance(wanted, tuple) else [wanted],
                session.run(None, {"image": x.numpy()}),
                strict=True,
            ):
                errors.append((want - torch.from_numpy(have)).abs().max() / want.abs().max())
        worst = torch.stack(errors).max().item()
        if not worst <= TOLERANCE:
            raise UserError(
                f"{path} was not written: onnxruntime's scores differ by {worst:.1e} of the "
                f"largest from torch's, more than {TOLERANCE}."
            )
    return f"onnxruntime's scores are torch's within {worst:.0e} of the largest, at 3 sizes"
