"""A training starts from another's weights: all of them, or net A's layers (Sec. 3.1)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import MappingProxyType

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from vgg_mm.data.classes import metainfo, positions, shortened
from vgg_mm.errors import UserError
from vgg_mm.models import VGG, BoxHead
from vgg_mm.registry import HOOKS
from vgg_mm.weights.pretrained import warn_of_input
from vgg_mm.weights.source import Fit, Source, fit, open_source

FCS = ("fc6", "fc7", "fc8")
FROM_A = ("conv1_1", "conv2_1", "conv3_1", "conv3_2", *FCS)


@HOOKS.register_module()
class StartFrom(Hook):
    """Starts a training with a file's weights, of any kind that ``Pretrained`` takes.

    FC layers of another shape start new, and so does fc8 where the file's classes are others, by
    their names, than the training set's; the log names them. Of the same classes in another order,
    fc8's rows go by name. A :class:`vgg_mm.BoxHead`'s fc8 always starts new. The convs and norms
    must fit. A resumed run does not come here.

    Args:
        checkpoint: A path or an address, see :func:`vgg_mm.weights.source.open_source`.
        prefix: What stands before the net's names in a file that holds several.
    """

    def __init__(self, checkpoint: str, prefix: str = "") -> None:
        self.checkpoint = checkpoint
        self.prefix = prefix

    def before_train(self, runner: Runner) -> None:
        """Loads the weights.

        Raises:
            UserError: If the file is damaged, unsafe or no VGG, or does not fit the net.
        """
        if runner._resume:
            return
        runner.message_hub.update_info("started_from", f"the weights of {self.checkpoint}")
        model = _model(runner)
        if not any(isinstance(module, VGG) for module in model.modules()):
            runner.load_checkpoint(self.checkpoint)
            return
        source = open_source(self.checkpoint, self.prefix)
        meta = metainfo(runner.train_dataloader.dataset)
        _log(runner, source, start_from(model, source, meta))


def start_from(model: nn.Module, source: Source, meta: Mapping = MappingProxyType({})) -> Fit:
    """Gives ``model`` the weights of an opened file, as :class:`StartFrom` says.

    Args:
        model: The net.
        source: The opened file.
        meta: The training set's ``metainfo``, whose classes are the net's.
    """
    found = fit(model, source, may_be_new=FCS)
    fc8 = [name for name in found.weights if name.rpartition(".")[0].endswith("fc8")]
    if heads := [name for name, part in model.named_modules() if isinstance(part, BoxHead)]:
        for name in fc8:
            del found.weights[name]
        if heads[0] not in found.new:
            found.new[f"{heads[0]}.fc8"] = "it predicts boxes, no classes"
    elif fc8 and source.meta.get("classes") and meta.get("classes"):
        rows = positions(source.meta, meta)
        for name in fc8:
            weight = found.weights.pop(name)
            if rows is not None:
                found.weights[name] = weight[rows]
        if rows is None:
            names = shortened(source.meta["classes"])
            found.new[fc8[0].rpartition(".")[0]] = f"the file's classes are others: {names}"
    model.load_state_dict(found.weights, strict=False)
    return found


@HOOKS.register_module()
class InitFromA(Hook):
    """Copies net A's first four convs and its three FC layers; the other layers are random.

    Random are weights from N(0, 0.01^2) and zero biases. All layers then learn at the same rate. A
    resumed run does not come here.

    Args:
        checkpoint: Net A's weights, of the same width and classes, as for :class:`StartFrom`.
        std: The random weights' standard deviation; None leaves these layers as the config
            initialises them, for in nets much narrower than the paper's 0.01 lets no signal pass.
        prefix: As for :class:`StartFrom`.
    """

    def __init__(self, checkpoint: str, std: float | None = 0.01, prefix: str = "") -> None:
        self.checkpoint = checkpoint
        self.std = std
        self.prefix = prefix

    def before_train(self, runner: Runner) -> None:
        """Initialises the model, on every process with the same random numbers.

        Raises:
            UserError: If the file lacks a layer, or has it in another shape.
        """
        if runner._resume:
            return
        source = open_source(self.checkpoint, self.prefix)
        found = init_from_a(_model(runner), source, runner.seed, self.std)
        others = "the config's initialisation" if self.std is None else f"N(0, {self.std:g}^2)"
        runner.message_hub.update_info(
            "started_from", f"net A's {', '.join(FROM_A)} in {self.checkpoint}, {others} else"
        )
        _log(runner, source, found)


@torch.no_grad()
def init_from_a(model: nn.Module, source: Source, seed: int, std: float | None = 0.01) -> Fit:
    """Initialises ``model`` as :class:`InitFromA` describes."""
    found = fit(model, source, only=FROM_A, arch="A")
    taken = {name.rpartition(".")[0] for name in found.weights}
    if {name.rpartition(".")[2] for name in taken} != {*FROM_A}:
        raise UserError("Only a vgg_mm.VGG with a vgg_mm.VGGHead starts from net A.")
    generator = torch.Generator().manual_seed(seed)
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d) and name not in taken and std is not None:
            layer.weight.copy_(torch.empty(layer.weight.shape).normal_(0, std, generator=generator))
            layer.bias.zero_()
    model.load_state_dict(found.weights, strict=False)
    return found


def _model(runner: Runner) -> nn.Module:
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


def _log(runner: Runner, source: Source, found: Fit) -> None:
    level = logging.WARNING if found.new else logging.INFO
    runner.logger.log(level, f"{source.path} ({source.kind}): {found}.")
    warn_of_input(getattr(_model(runner), "data_preprocessor", None), source)
