"""Checkpoints that any torch loads safely, and that only fit the net they came from."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import BaseLoop, Runner
from torch import Tensor, nn

from vgg_mm.errors import UserError
from vgg_mm.registry import HOOKS


def read_checkpoint(path: str | os.PathLike) -> dict:
    """Loads a checkpoint's tensors and plain values to the CPU; nothing in it can run.

    Raises:
        UserError: If it is missing, damaged, or holds more than that.
    """
    if not os.path.isfile(path):
        raise UserError(f"no checkpoint {path}.")
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError):
        saved = None
    if not isinstance(saved, dict):
        raise UserError(
            f"{path} is not a checkpoint that loads safely: it is damaged, something else, or "
            "holds more than tensors and plain values."
        )
    return saved


def _plain(value: object) -> object:
    """``value`` made of tensors and builtins alone."""
    if isinstance(value, HistoryBuffer):
        log, count = map(torch.as_tensor, value.data)
        return {"log": log, "count": count, "max_length": value.max_length}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(item) for item in value)
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return value


def _history(saved: dict) -> HistoryBuffer:
    return HistoryBuffer(saved["log"].tolist(), saved["count"].tolist(), saved["max_length"])


@HOOKS.register_module()
class CheckpointFormatHook(Hook):
    """Keeps checkpoints loadable with ``weights_only=True``, and checks what is loaded.

    mmengine 0.10 pickles the log's history as objects, which torch >= 2.6 refuses to load
    (mmengine#1655); here it is saved as tensors. A checkpoint of another net or class count is an
    error in testing and in resuming; in starting a training from it (``load_from``), layers that do
    not fit start new, and the log names them.
    """

    priority = "VERY_LOW"

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Turns everything but weights and optimiser state into tensors and builtins."""
        for key in checkpoint.keys() - {"state_dict", "optimizer"}:
            checkpoint[key] = _plain(checkpoint[key])

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Restores the log's history and compares the weights with the model's.

        Raises:
            UserError: If they differ, in testing or resuming.
        """
        if "message_hub" in checkpoint:
            scalars = checkpoint["message_hub"]["log_scalars"]
            for name, saved in scalars.items():
                scalars[name] = _history(saved) if isinstance(saved, dict) else saved
        weights = checkpoint.get("state_dict", checkpoint)
        starting = isinstance(runner._train_loop, BaseLoop) and not runner._resume
        _compare(runner, weights, starting)


def _compare(runner: Runner, weights: dict[str, Tensor], starting: bool) -> None:
    model = runner.model
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    if not starting:
        check_fit(model, weights, runner._load_from or "the checkpoint")
    layers = "; ".join(_differences(model, weights))
    if not layers:
        return
    for name, value in model.state_dict().items():
        if name in weights and weights[name].shape != value.shape:
            del weights[name]
    runner.logger.warning(f"Starts new, for the checkpoint's does not fit: {layers}.")


def check_fit(model: nn.Module, weights: dict[str, Tensor], name: str) -> None:
    """Compares a checkpoint's weights with a model's.

    Args:
        model: The net, without wrappers.
        weights: The checkpoint's ``state_dict``.
        name: What to call the checkpoint.

    Raises:
        UserError: If one has layers that the other lacks, or in another shape.
    """
    if layers := "; ".join(_differences(model, weights)):
        raise UserError(
            f"{name} does not fit the config's net: {layers}. Use the config that it was trained "
            "with, or --start-from to train from it."
        )


def _differences(model: nn.Module, weights: dict[str, Tensor]) -> list[str]:
    """One line for every layer that the model and the checkpoint do not share."""
    ours = model.state_dict()
    lines: dict[str, str] = {}
    for name in [*ours, *(name for name in weights if name not in ours)]:
        layer = name.rpartition(".")[0]
        if name not in weights:
            lines.setdefault(layer, f"{layer} is not in the checkpoint")
        elif name not in ours:
            lines.setdefault(layer, f"{layer} is in the checkpoint only")
        elif weights[name].shape != ours[name].shape:
            theirs, mine = tuple(weights[name].shape), tuple(ours[name].shape)
            lines.setdefault(layer, f"{layer} is {theirs} in the checkpoint, {mine} in the net")
    return list(lines.values())
