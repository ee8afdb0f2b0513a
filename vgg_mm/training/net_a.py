"""Deeper nets start from net A (Sec. 3.1)."""

from __future__ import annotations

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from vgg_mm.errors import UserError
from vgg_mm.registry import HOOKS
from vgg_mm.training.checkpoints import read_checkpoint

FROM_A = ("conv1_1", "conv2_1", "conv3_1", "conv3_2", "fc6", "fc7", "fc8")


@HOOKS.register_module()
class InitFromA(Hook):
    """Copies net A's first four convs and its three FC layers; the other layers are random.

    Random are weights from N(0, 0.01^2) and zero biases. All layers then learn at the same rate. A
    resumed run does not come here.

    Args:
        checkpoint: A checkpoint of net A, of the same width and classes.
        std: The random weights' standard deviation; None leaves these layers as the config
            initialises them, for in nets much narrower than the paper's 0.01 lets no signal pass.
    """

    def __init__(self, checkpoint: str, std: float | None = 0.01) -> None:
        self.checkpoint = checkpoint
        self.std = std

    def before_train(self, runner: Runner) -> None:
        """Initialises the model, on every process with the same random numbers.

        Raises:
            UserError: If the checkpoint lacks a layer, or has it in another shape.
        """
        if runner._resume:
            return
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        init_from_a(model, self.checkpoint, runner.seed, self.std)
        others = "the config's initialisation" if self.std is None else f"N(0, {self.std:g}^2)"
        runner.message_hub.update_info(
            "started_from", f"net A's {', '.join(FROM_A)} in {self.checkpoint}, {others} else"
        )


@torch.no_grad()
def init_from_a(model: nn.Module, checkpoint: str, seed: int, std: float | None = 0.01) -> None:
    """Does what :class:`InitFromA` says to ``model``."""
    weights = read_checkpoint(checkpoint)
    weights = weights.get("state_dict", weights)
    generator = torch.Generator().manual_seed(seed)
    for name, layer in model.named_modules():
        if not isinstance(layer, nn.Conv2d):
            continue
        if name.rpartition(".")[2] not in FROM_A:
            if std is not None:
                layer.weight.copy_(
                    torch.empty(layer.weight.shape).normal_(0, std, generator=generator)
                )
                layer.bias.zero_()
            continue
        for key, value in layer.named_parameters(name):
            if key not in weights or weights[key].shape != value.shape:
                theirs = tuple(weights[key].shape) if key in weights else "not there"
                raise UserError(
                    f"{checkpoint}: {key} is {theirs}, and the net wants {tuple(value.shape)}: give"
                    " a checkpoint of net A with the same width, classes and crop."
                )
            value.copy_(weights[key])
