"""What ends a run before it can save or praise it: numbers that are none."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import Tensor

SKIPS = 20  # a scale falls from its start to a sixteenth in these


class Faults:
    """Looks at a run's losses, gradient norms and weights.

    Under a loss scale (fp16), steps whose gradients overflow are skipped, and the scale is halved:
    that is no fault until ``SKIPS`` steps in a row were, or the scale is below 1.
    """

    def __init__(self) -> None:
        self.scale = 0.0
        self.skipped = 0

    def of_step(self, runner: Runner) -> str:
        """What is wrong with the step that was just taken, in words, or an empty string.

        mmengine has fetched the loss from the GPU for its log, so this does not wait for it again.
        """
        scalars = runner.message_hub.log_scalars
        values = {
            words: scalars[f"train/{key}"].current()
            for words, key in (("loss", "loss"), ("gradient's norm", "grad_norm"))
            if f"train/{key}" in scalars
        }
        what = [
            f"the {key} is {value}" for key, value in values.items() if not math.isfinite(value)
        ]
        scaler = getattr(runner.optim_wrapper, "loss_scaler", None)
        if scaler is None or not scaler.is_enabled():
            return ", ".join(what)
        if not runner.optim_wrapper.should_update():
            return ""
        before, self.scale = self.scale, scaler.get_scale()
        self.skipped = self.skipped + 1 if what or self.scale < before else 0
        if self.scale >= 1 and self.skipped < SKIPS:
            return ""
        what += [f"{self.skipped} steps in a row were skipped", f"the loss scale is {self.scale:g}"]
        return ", ".join(what)


def fault_of_state(runner: Runner) -> str:
    """What in the weights, the batch norms or the optimiser is no number, or an empty string."""
    for name, value in _state(runner):
        if not value.isfinite().all():
            return f"{name} holds values that are no numbers"
    return ""


def _state(runner: Runner) -> Iterator[tuple[str, Tensor]]:
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    names = {param: name for name, param in model.named_parameters()}
    yield from ((name, param.detach()) for param, name in names.items())
    yield from (item for item in model.named_buffers() if "running_" in item[0])
    optimizer = getattr(runner.optim_wrapper, "optimizer", None)
    for param, state in optimizer.state.items() if optimizer else ():
        for key, value in state.items():
            if torch.is_tensor(value) and value.is_floating_point():
                yield f"{names.get(param, 'a parameter')}'s {key}", value
