"""The learning rate (Sec. 3.1)."""

from __future__ import annotations

import math

from mmengine.logging import print_log
from mmengine.optim import OptimWrapper, ReduceOnPlateauLR
from torch.optim import Optimizer

from vgg_mm.errors import UserError
from vgg_mm.registry import PARAM_SCHEDULERS
from vgg_mm.training.faults import measured

IDLE = ("begin", "cooldown", "eps", "min_value", "rule", "threshold_rule")  # of mmengine's


@PARAM_SCHEDULERS.register_module()
class PlateauLR(ReduceOnPlateauLR):
    """Divides the learning rate by 10 when the validation accuracy stops improving (Sec. 3.1).

    The rate falls ``drops`` times; the plateau after the last drop ends the training
    (:attr:`ended`, which :class:`vgg_mm.TrainLoop` obeys). The paper had three drops in 74 epochs.

    A checkpoint holds what was counted and none of the arguments: those are the config's, so that
    a run may go on with others.

    Args:
        patience: A plateau is when more validations than these, in a row, do not improve.
        threshold: What counts as an improvement over the best accuracy, in points.
        drops: How often the rate falls.
        factor: What the rate is multiplied with at a drop.
        monitor: The validation metric, the greater the better.
        kwargs: What mmengine adds.

    Raises:
        UserError: If an argument of mmengine's schedule is given that this one has no use for.
    """

    best: float

    def __init__(
        self,
        optimizer: Optimizer | OptimWrapper,
        patience: int = 5,
        threshold: float = 0.1,
        drops: int = 3,
        factor: float = 0.1,
        monitor: str = "accuracy/top1",
        **kwargs,
    ) -> None:
        if idle := [key for key in IDLE if kwargs.pop(key, None)]:
            raise UserError(
                f"PlateauLR has no {', '.join(idle)}: the rate falls 'drops' times by "
                "'factor', each time after 'patience' validations. Leave it out."
            )
        super().__init__(
            optimizer,
            **kwargs,
            patience=patience,
            threshold=threshold,
            threshold_rule="abs",
            factor=factor,
            monitor=monitor,
            rule="greater",
        )
        self.drops = drops
        self.dropped = 0

    @property
    def ended(self) -> bool:
        """Whether the last plateau is over."""
        return self.dropped >= self.drops and self.num_bad_epochs > self.patience

    def step(self, metrics: dict[str, float] | None = None) -> None:
        """Counts a validation; a call without metrics, at an epoch's end, changes nothing."""
        if metrics is None:
            return
        value = measured(metrics, self.monitor, "param_scheduler.monitor")
        if not math.isfinite(value):
            raise UserError(
                f"the validation's {self.monitor} is {value}: the training ends, and nothing is "
                "saved of it. Its last checkpoint is whole; begin anew at a lower rate "
                "(optim_wrapper.optimizer.lr), or look at the data."
            )
        if self._is_better(value, self.best):
            self.best, self.num_bad_epochs = value, 0
            return
        self.num_bad_epochs += 1
        if self.num_bad_epochs <= self.patience:
            return
        reason = f"{self.monitor} has not passed {self.best:.2f} in {self.num_bad_epochs} tests"
        if self.dropped >= self.drops:
            print_log(f"The training ends: {reason}, after {self.drops} drops.", "current")
            return
        for group in self.optimizer.param_groups:
            group[self.param_name] *= self.factor
        self.dropped += 1
        self.num_bad_epochs = 0
        rate = self.optimizer.param_groups[0][self.param_name]
        print_log(f"Drop {self.dropped} of {self.drops}, to {rate:.2g}: {reason}.", "current")

    def state_dict(self) -> dict:
        """What was counted; the rate itself is in the optimiser's state."""
        return {"best": self.best, "num_bad_epochs": self.num_bad_epochs, "dropped": self.dropped}
