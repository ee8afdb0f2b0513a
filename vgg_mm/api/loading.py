"""Nets from anywhere, with the input that their weights were trained on."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain.models import ImageClassifier
from mmpretrain.registry import MODELS

from vgg_mm import demo
from vgg_mm.api.net import PIPELINE, PROTOCOL, Net, is_multi_scale
from vgg_mm.cli.configs import get_config, join_preprocessor
from vgg_mm.data.classes import of_config
from vgg_mm.errors import UserError
from vgg_mm.inputs import INPUTS, Input
from vgg_mm.paper import TABLE_1
from vgg_mm.testing.evaluation import finds_boxes, multi_scale
from vgg_mm.testing.localisation import Localizer
from vgg_mm.weights.checkpoint import check_fit
from vgg_mm.weights.files import format_of, hub_folder, local, read_tensors
from vgg_mm.weights.folder import TIMMS, WEIGHTS, plain_model, read_config, read_folder
from vgg_mm.weights.source import Source, fit, is_net, open_source, settings


def load(
    what: str | os.PathLike | Config,
    weights: str | os.PathLike | None = None,
    *,
    input: Input | str | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    prefix: str = "",
) -> Net:
    """A net with its weights, its input and its classes' names.

    Nothing that is in a file is run.

    Args:
        what: A net of Table 1 (``"D"``); a config, its path or its name (``"vgg16_d_jitter"``);
            without ``weights`` ``"demo"``, the package's own small net (:mod:`vgg_mm.demo`); a
            folder that :meth:`Net.save`, timm or transformers wrote, here or on the Hub
            (``"hf://org/name"``, ``"hf://org/name@revision"``); or a file of weights: a run's
            checkpoint, which knows its config, or another, whose net is told by its layers.
        weights: A file or an address for an arch or a config, of any kind that ``Pretrained`` takes
            (:func:`vgg_mm.weights.files.local`). Without it the weights are random.
        input: What the weights were trained on, where neither their file tells nor a config:
            ``"torchvision"``, ``"caffe"``, ``"vgg_mm"`` or an :class:`vgg_mm.inputs.Input`.
        device: Where to put the net; by default the CPU.
        dtype: Its type; bfloat16 rather than float16, whose range the activations may leave.
        prefix: Which of several nets in the file it is, by what stands before its layers' names
            (``"model_ema"``, ``"teacher.backbone"``).

    Returns:
        The net, in eval mode. The input is the file's where it tells, else the config's. The
        classes' names are the file's, else those of the config's data, else ImageNet's where there
        are 1000, else numbers.

    Raises:
        UserError: If there is no such thing, or the weights do not fit.
    """
    net = _load(what, weights, named_input(input), prefix)
    return net.to(*[each for each in (device, dtype) if each is not None])


def _load(
    what: str | os.PathLike | Config,
    file: str | os.PathLike | None,
    given: Input | None,
    prefix: str,
) -> Net:
    weights = open_source(file, prefix) if file is not None and prefix else file
    if isinstance(what, Config):
        return _of_config(what, weights, given)
    name = os.path.expanduser(os.fspath(what))
    if name in TABLE_1:
        return _of_arch(name, weights, given)
    if file is None:
        name = demo.named(name)
    folder = hub_folder(name) if file is None and name.startswith("hf://") else name
    if file is None and os.path.isdir(folder):
        said, file = read_folder(folder), os.path.join(folder, WEIGHTS)
        given = given or said["input"]
        if "arch" in said:
            return _of_arch(said["arch"], file, given, said["classes"])
        return _ours(said, file, given)
    if (arch := TIMMS.get(name)) and not os.path.exists(name):
        raise UserError(f"{name} is the paper's net {arch}: say load({arch!r}, ...).")
    if "://" not in name and (name.endswith(".py") or not os.path.isfile(name)):
        return _of_config(get_config(name), weights, given)
    if file is not None:
        raise UserError(f"{name} has weights of its own, and {file} others: name one.")
    path = local(name)
    meta = read_tensors(path)[1] if format_of(path) == "torch" else {}
    said = read_config(text) if isinstance(text := meta.get("cfg"), str) else {}
    if said:
        above = dict(data_preprocessor=said.get("data_preprocessor"))  # the toolbox's place too
        model = plain_model(above | (said.get("model") or {}), path)
        scales = [step["scales"] for step in said.get("tta_pipeline") or () if step.get("scales")]
        told = dict(model=model, protocol=said.get("tta_model"), scales=scales and scales[0])
        return _ours(told, open_source(path, prefix) if prefix else path, given)
    source = open_source(path, prefix)
    nets = [meta["arch"]] if meta.get("arch") in TABLE_1 else []
    nets = nets or [arch for arch in TABLE_1 if is_net(source, arch)]
    if len(nets) != 1:
        raise UserError(
            f"{path} fits {'nets ' + ' and '.join(nets) if nets else 'no net of Table 1'}: say "
            f"which, load(ARCH, weights={name!r})."
        )
    return _of_arch(nets[0], source, given)


def _of_arch(
    arch: str,
    weights: str | os.PathLike | Source | None,
    given: Input | None,
    classes: Sequence[str] | None = None,
) -> Net:
    """A net of Table 1, in the sizes of its file."""
    source, backbone, head = None, dict(arch=arch), dict[str, Any]()
    if weights is not None:
        source = weights if isinstance(weights, Source) else open_source(weights)
        only = not source.match(source.tensors, arch).fcs
        backbone, head = settings(source, arch, features_only=only)
        given = given or source.input
        if given is None:
            raise UserError(
                f"{source.path} does not say what its input is: input='torchvision' (RGB from 0 to "
                "1, mean and deviation), 'caffe' (BGR from 0 to 255, mean) or 'vgg_mm' (RGB, 0 to "
                "255, mean)."
            )
    model = dict(
        type="ImageClassifier",
        backbone=dict(type="vgg_mm.VGG", **backbone),
        head=dict(type="vgg_mm.VGGHead", **head) if head or source is None else None,
        data_preprocessor=(given or INPUTS["vgg_mm"]).preprocessor(),
    )
    return _ours(dict(model=model, classes=classes), source, given)


def _of_config(cfg: Config, weights: str | os.PathLike | Source | None, given: Input | None) -> Net:
    """A config's net, of any kind, and its protocol."""
    multi_scale(cfg)
    cfg = deepcopy(cfg)
    join_preprocessor(cfg)
    model = cfg.model.to_dict()
    with DefaultScope.overwrite_default_scope(cfg.get("default_scope", "mmpretrain")):
        net, config, names = _filled(model, weights, given)
        protocol, pipeline = cfg.tta_model.to_dict(), [each.to_dict() for each in cfg.tta_pipeline]
        found = Net(net, config, names or of_config(cfg), protocol, pipeline)
        if finds_boxes(cfg) and protocol.get("classifier"):
            protocol["scores"] = None  # they are of other images
            localizer: Localizer = MODELS.build({**protocol, "module": net}).eval()
            localizer.check_files()
            localizer.load(found.classes if found.named else ())
            found.localizer = localizer
        return found


def _filled(
    model: dict[str, Any], weights: str | os.PathLike | Source | None, given: Input | None
) -> tuple[ImageClassifier, dict[str, Any], Sequence[str]]:
    """A config's net with weights, or random ones; its config with the input; the file's classes.

    The input is the given one, else the file's, else the config's.
    """
    config, names = deepcopy(model), ()
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        net = MODELS.build(model)
    if weights is None:
        disabled = logging.root.manager.disable
        logging.disable(max(disabled, logging.INFO))  # a line for each of its weights
        try:
            net.init_weights()
        finally:
            logging.disable(disabled)
    else:
        meta, told = _give(net, weights)
        given, names = given or told, (meta.get("dataset_meta") or {}).get("classes") or ()
    if given and not given.same_as(Input.of_config(config)):
        config["data_preprocessor"] = given.preprocessor()
        net.data_preprocessor = MODELS.build(given.preprocessor())
    return net, config, names


def _ours(
    said: Mapping[str, Any], weights: str | os.PathLike | Source | None, given: Input | None
) -> Net:
    """A net of vgg_mm's own parts, by what is ``said``, or else the paper's protocol.

    Besides ``model`` that may be ``protocol``, ``scales`` and ``classes``.
    """
    net, config, told = _filled(said["model"], weights, given)
    crop = 224 if net.head is None else net.head.fc6.kernel_size[0] * net.backbone.stride
    how = dict(views="dense", flip=True, grid=5, crop_size=crop)
    how |= {key: v for key, v in (said.get("protocol") or {}).items() if key in PROTOCOL}
    scales = said.get("scales") or [round(crop * 8 / 7)]  # S = 256, and its like
    pipeline = [{**step, "scales": scales} if is_multi_scale(step) else step for step in PIPELINE]
    found = Net(net, config, told or said.get("classes") or (), how, pipeline)
    found.measured = said.get("measured") or ""
    return found


def _give(
    net: ImageClassifier, weights: str | os.PathLike | Source
) -> tuple[Mapping[str, Any], Input | None]:
    """Gives a net its weights; returns their file's meta, and the input that it tells."""
    if not isinstance(weights, Source):
        path = local(weights)
        if format_of(path) in ("torch", "safetensors"):
            groups, meta = read_tensors(path)
            state = groups.get("state_dict") or groups.get("") or {}
            if not net.state_dict().keys().isdisjoint(state):
                check_fit(net, state, str(path))
                net.load_state_dict(state)
                return meta, Input.of(meta["input"], path) if "input" in meta else None
        weights = open_source(path)
    found = fit(net, weights)
    if found.new:
        raise UserError(f"{weights.path} is incomplete: {found}.")
    net.load_state_dict(found.weights, strict=False)
    return dict(dataset_meta=weights.meta), weights.input


def named_input(given: Input | str | None) -> Input | None:
    """An input by its name among INPUTS."""
    if isinstance(given, str) and given not in INPUTS:
        raise UserError(f"input={given!r}: use one of {', '.join(INPUTS)}, or an Input.")
    return INPUTS[given] if isinstance(given, str) else given
