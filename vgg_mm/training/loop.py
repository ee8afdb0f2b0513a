"""The training loop: goes on in the middle of an epoch, and stops where the schedule ends."""

from __future__ import annotations

from mmengine.runner import EpochBasedTrainLoop
from torch import nn

from vgg_mm.errors import UserError
from vgg_mm.registry import LOOPS
from vgg_mm.upstream import shorten_history


@LOOPS.register_module()
class TrainLoop(EpochBasedTrainLoop):
    """Trains by epochs, validates between them.

    Where a run stands follows from its two counters: of ``iter`` steps in all, what is beyond
    ``epoch`` whole epochs belongs to the epoch under way. A resumed run takes the sampler on by so
    many batches and reads no picture of theirs; an epoch that lacks only its validation gets it.

    The run stops at ``max_epochs``, or when a scheduler says that it has ``ended``
    (:class:`vgg_mm.PlateauLR`).

    Args:
        kwargs: mmengine's: ``max_epochs``, ``val_begin``, ``val_interval``, ``dynamic_intervals``.
    """

    def run(self) -> nn.Module:
        """Trains to the end."""
        self.runner.call_hook("before_train")
        while self.epoch < self.max_epochs and not self._ended():
            self.run_epoch()
            self._decide_current_val_interval()
            if self._validates():
                self.runner.val_loop.run()
        self.runner.call_hook("after_train")
        return self.runner.model

    def run_epoch(self) -> None:
        """Trains the batches that the epoch under way still lacks."""
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        done = self.iter - self.epoch * len(self.dataloader)
        if done:
            self._skip(done)
        for i, batch in enumerate(self.dataloader, done):
            self.run_iter(i, batch)
        self.runner.call_hook("after_train_epoch")
        self._epoch += 1
        shorten_history(self.runner.message_hub)

    def _skip(self, batches: int) -> None:
        sampler = self.dataloader.sampler
        if not hasattr(sampler, "skip"):
            raise UserError(
                f"the checkpoint is from the middle of an epoch, where {type(sampler).__name__} "
                "cannot start: train with sampler=dict(type='vgg_mm.EpochSampler')."
            )
        sampler.skip(batches * self.dataloader.batch_size)

    def _ended(self) -> bool:
        return any(getattr(scheduler, "ended", False) for scheduler in self._schedulers())

    def _schedulers(self) -> list:
        schedulers = self.runner.param_schedulers or []
        return sum(schedulers.values(), []) if isinstance(schedulers, dict) else schedulers

    def _validates(self) -> bool:
        return self.runner.val_loop is not None and (
            self.epoch >= self.val_begin
            and (self.epoch % self.val_interval == 0 or self.epoch == self.max_epochs)
        )
