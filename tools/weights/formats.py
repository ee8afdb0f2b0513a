"""A trained net in other people's formats: torchvision, timm, mmpretrain, ONNX, torch.export."""

from __future__ import annotations

import contextlib
import io
import json
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from torch import Tensor, nn
from torch.export import Dim
from torch.fx.experimental import _config

from tools.weights.convert import refold
from vgg_mm.errors import UserError, library
from vgg_mm.inputs import INPUTS, Input, check_input
from vgg_mm.models import VGG, VGGHead
from vgg_mm.weights.layouts import FCS, layer_names, layers
from vgg_mm.weights.onnx import INPUT_KEY
from vgg_mm.weights.source import fit, open_source
from vgg_mm.writing import replacing

TOLERANCE = 1e-4
ENDINGS = {"onnx": ".onnx", "pt2": ".pt2"}  # of programs; the others write tensors


def export(
    cfg: Config, checkpoint: str | os.PathLike, path: str | os.PathLike, to: str
) -> tuple[Input, str]:
    """Writes a classifier's weights, and without ``model.head`` a backbone's.

    Args:
        cfg: The config that it was trained with.
        checkpoint: The file of its weights.
        path: What to write: ``.onnx``, ``.pt2``, ``.safetensors``, or a PyTorch file under another
            ending.
        to: ``torchvision``, ``timm``, ``mmpretrain``, ``onnx`` or ``pt2``.

    Returns:
        The input that the written net expects, and a line on what was checked.

    Raises:
        UserError: If the checkpoint does not fit the config, the net has no such form, a library
            is missing, or the written file does not give the same scores.
    """
    suffix = Path(path).suffix
    if ENDINGS.get(to) != (suffix if suffix in ENDINGS.values() else None):
        raise UserError(
            f"{path}: --to onnx writes an .onnx, pt2 a .pt2, the others .safetensors or .pth."
        )
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
    if to in ENDINGS:
        write = _write_onnx if to == "onnx" else _write_pt2
        return trained_on, _export_program(backbone, head, trained_on, Path(path), write)
    state, given = _to_layout(backbone, head, trained_on, to)
    save(state, path)
    return given, f"{len(state)} tensors"


def _to_layout(
    backbone: VGG, head: VGGHead | None, trained_on: Input, to: str
) -> tuple[dict[str, Tensor], Input]:
    """The state dict of another library's net, and the input that it expects."""
    if backbone.arch not in ("A", "B", "D", "E"):
        raise UserError(f"{to} has no net {backbone.arch}: use --to onnx or pt2.")
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
            "use --to onnx or pt2."
        )
    weights = backbone.state_dict()
    for name, norm in backbone.named_modules():
        if isinstance(norm, nn.BatchNorm2d | nn.SyncBatchNorm):  # theirs have torch's own eps
            weights[f"{name}.running_var"] = norm.running_var + (norm.eps - 1e-5)
    names = layer_names(to, backbone.arch, backbone.with_norm)
    if lacks := names.keys() - {*layers(weights), *FCS}:
        raise UserError(
            f"the config's backbone lacks {', '.join(sorted(lacks))}: set out_indices=(4,)."
        )
    usual = INPUTS["torchvision"]
    weights["conv1_1.weight"] = refold(weights["conv1_1.weight"], trained_on, usual)
    if head:
        weights |= head.state_dict()
        for layer in ("fc8",) if to == "timm" else FCS:
            weights[f"{layer}.weight"] = weights[f"{layer}.weight"].flatten(1)
    state: dict[str, Tensor] = {}
    for ours, value in weights.items():
        layer, _, leaf = ours.rpartition(".")
        theirs = f"backbone.{names[layer]}" if to == "mmpretrain" else names[layer]
        state[f"{theirs}.{leaf}"] = value.clone(memory_format=torch.contiguous_format)
    return state, Input("RGB", 255, tuple(trained_on.mean_rgb), usual.std)


def _export_program(
    backbone: VGG, head: VGGHead | None, trained_on: Input, path: Path, write: Write
) -> str:
    """Writes the graph, for any batch, height and width, and compares its scores with the net's."""
    net = nn.Sequential(backbone, head) if head else backbone
    step = backbone.stride
    side = step * (head.fc6.kernel_size[0] if head else 2)
    sizes = [(2, side + step, side + 2 * step), (1, side, side), (3, side + step // 2, side + step)]
    images = [
        torch.randn(n, 3, h, w, generator=torch.Generator().manual_seed(n)) * 60
        for n, h, w in sizes
    ]
    errors: list[Tensor] = []
    with replacing(path) as file:
        by, run = write(net, images[0], json.dumps(asdict(trained_on)), file)
        for x in images:
            with torch.no_grad():
                wanted = net(x)
            for want, have in zip(
                wanted if isinstance(wanted, tuple) else [wanted], run(x), strict=True
            ):
                errors.append((want - have).abs().max() / want.abs().max())
        worst = torch.stack(errors).max().item()
        if not worst <= TOLERANCE:
            raise UserError(
                f"{path} was not written: {by}'s scores differ by {worst:.1e} of the largest from "
                f"the net's, more than {TOLERANCE}."
            )
    return f"{by}'s scores are the net's within {worst:.0e} of the largest, at 3 sizes"


# Of a net, an image, the JSON of its input and an open file: who runs what was written, and how.
Run = Callable[[Tensor], Sequence[Tensor]]
Write = Callable[[nn.Module, Tensor, str, BinaryIO], tuple[str, Run]]
ANY_SIZE = ({axis: Dim.DYNAMIC for axis in (0, 2, 3)},)


def _write_onnx(net: nn.Module, image: Tensor, given: str, file: BinaryIO) -> tuple[str, Run]:
    onnxruntime = library("onnxruntime", "the check of the written .onnx")
    library("onnxscript", "--to onnx")
    # Torch's exporter tells of its progress.
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            net,
            (image,),
            dynamo=True,
            verbose=False,
            input_names=["image"],
            dynamic_shapes=ANY_SIZE,
        )
    program.model.metadata_props[INPUT_KEY] = given
    program.save(file.name, external_data=False)
    session = onnxruntime.InferenceSession(file.name, providers=["CPUExecutionProvider"])

    def run(x: Tensor) -> list[Tensor]:
        return [torch.from_numpy(y) for y in session.run(None, {"image": x.numpy()})]

    return "onnxruntime", run


def _write_pt2(net: nn.Module, image: Tensor, given: str, file: BinaryIO) -> tuple[str, Run]:
    # As torch's exporter to ONNX does: a map with a side of 1 is no special case.
    name = "backed_size_oblivious"
    with _config.patch({name: True} if hasattr(_config, name) else {}):
        program = torch.export.export(net, (image,), dynamic_shapes=ANY_SIZE, strict=False)
    buffer = io.BytesIO()  # torch wants a file's own name to end in .pt2
    torch.export.save(program, buffer, extra_files={INPUT_KEY: given})
    file.write(buffer.getbuffer())
    buffer.seek(0)
    loaded = torch.export.load(buffer).module()

    @torch.no_grad()
    def run(x: Tensor) -> Sequence[Tensor]:
        scores = loaded(x)
        return scores if isinstance(scores, tuple) else [scores]

    return "torch.export", run


def save(saved: dict, path: str | os.PathLike) -> None:
    """Writes tensors by name as ``.safetensors``, or anything as a PyTorch file, whole or not.

    Raises:
        UserError: If the disk is full or refuses; what was there is as it was.
    """
    if Path(path).suffix == ".safetensors":
        data = library("safetensors.torch", ".safetensors").save(saved)
    else:
        buffer = io.BytesIO()  # writing to a file, torch calls a full disk a RuntimeError
        torch.save(saved, buffer)
        data = buffer.getbuffer()
    with replacing(path) as file:
        file.write(data)
