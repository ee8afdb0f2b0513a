"""What ends a run before it can save or praise it: numbers that are none."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from mmengine.dist import all_gather_object, get_world_size
from mmengine.runner import Runner

from vgg_mm.errors import Diverged, UserError
from vgg_mm.training.distributed import together, unwrapped

SKIPS = 20  # a scale falls from its start to a sixteenth in these


class Faults:
    """Looks at a run's losses and gradient norms.

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
        scalars, what = runner.message_hub.log_scalars, []
        for words, key in (("loss", "train/loss"), ("gradient's norm", "train/grad_norm")):
            if key in scalars and not math.isfinite(value := scalars[key].current()):
                what.append(f"the {words} is {value}")
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


@torch.no_grad()
def fault_of_state(runner: Runner) -> str:
    """What in the weights, the batch norms or the optimiser is no number, or an empty string."""
    model = unwrapped(runner.model)
    params = dict(model.named_parameters())
    values = params | {name: b for name, b in model.named_buffers() if "running_" in name}
    if optimizer := getattr(runner.optim_wrapper, "optimizer", None):
        for name, param in params.items():
            state = optimizer.state.get(param, {})
            values |= {f"{name}'s {key}": value for key, value in state.items()}
    for name, value in values.items():
        # A sum is quick, and finite only if all are; of very large numbers it may not be.
        if torch.is_tensor(value) and not value.sum().isfinite() and not value.isfinite().all():
            return f"{name} holds values that are no numbers"
    return ""


def measured(metrics: Mapping[str, float], name: str, setting: str) -> float:
    """The validation's metric ``name``, which ``setting`` in the config chooses."""
    if name not in metrics:
        raise UserError(
            f"the validation gives no '{name}', only {', '.join(metrics)}: set {setting} to one of "
            "these."
        )
    return float(metrics[name])


def end_if(fault: str, runner: Runner, steps: int) -> None:
    """Ends the run in all processes if there is a ``fault`` in one.

    Raises:
        Diverged: The same in all, with what is wrong in the first where something is.
    """
    if not together(bool(fault))[0]:
        return
    found = [(i, text) for i, text in enumerate(all_gather_object(fault)) if text]
    where = f" in process {found[0][0]}" if len(found) < get_world_size() else ""
    last = Path(runner.work_dir, "last_checkpoint")
    if last.exists():
        begin = f"Its last whole checkpoint is {last.read_text().strip()}: go on (--resume)"
    else:
        begin = "Nothing was saved yet: begin anew"
    rate = next(iter(runner.optim_wrapper.get_lr().values()))[0]
    raise Diverged(
        f"{found[0][1]}{where} at step {steps}, in epoch "
        f"{math.ceil(steps / len(runner.train_dataloader))}, with the rate {rate:g}: the "
        f"training ends. {begin} with --cfg-options optim_wrapper.clip_grad.max_norm=10, or "
        "begin at a lower rate (optim_wrapper.optimizer.lr)."
    )
