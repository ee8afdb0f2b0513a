"""The training loop: goes on in the middle of an epoch, and stops where the schedule ends."""

from __future__ import annotations

from contextlib import nullcontext

from mmengine.runner import EpochBasedTrainLoop
from torch import nn

from vgg_mm.errors import UserError
from vgg_mm.registry import LOOPS
from vgg_mm.signals import Noted, handled, outlive
from vgg_mm.training.distributed import unwrapped
from vgg_mm.training.shards import Shards
from vgg_mm.upstream import shorten_history


@LOOPS.register_module()
class TrainLoop(EpochBasedTrainLoop):
    """Trains by epochs, validates between them.

    Where a run stands follows from its two counters: of ``iter`` steps in all, what is beyond
    ``epoch`` whole epochs belongs to the epoch under way. A resumed run takes the sampler on by so
    many batches and reads no picture of theirs; an epoch that lacks only its validation gets it.

    SIGTERM and SIGUSR1 are noted in ``stop``, for :class:`vgg_mm.CheckpointHook` to save and end
    the run where it can go on. Where gradients are accumulated (``accumulative_counts``), the last
    batches of an epoch make a step of their own, so that nothing is left over at its end.

    The run stops at ``max_epochs``, or when a scheduler says that it has ``ended``
    (:class:`vgg_mm.PlateauLR`), or a hook that it should (mmengine's ``EarlyStoppingHook``).

    Args:
        kwargs: mmengine's: ``max_epochs``, ``val_begin``, ``val_interval``, ``dynamic_intervals``.
    """

    def run(self) -> nn.Module:
        """Trains to the end."""
        self._compile()
        if getattr(self.runner.model, "shard_fc", False):
            self.runner.model.shards = Shards(self.runner)
        hub, sampler = self.runner.message_hub, self.dataloader.sampler
        if hasattr(sampler, "seed"):  # the checkpoint's, whatever the config
            sampler.seed = hub.get_info("sampler_seed", sampler.seed)
            hub.update_info("sampler_seed", sampler.seed)
        self.stop = Noted()
        with handled(self.stop):
            for loop in filter(None, (self, self.runner.val_loop)):
                outlive(loop.dataloader)
            self.runner.call_hook("before_train")
            self._check_batches()
            self._validate()  # what a run lacks that was stopped in a validation
            while self.epoch < self.max_epochs and not (self._ended() or self.stop_training):
                self.run_epoch()
                self._decide_current_val_interval()
                self.runner.message_hub.update_info("awaits_validation", self._validates())
                self._validate()
            self.runner.call_hook("after_train")
        return self.runner.model

    def _check_batches(self) -> None:
        """Looks whether there is a step to take; an incomplete batch may be left out."""
        loader, processes = self.dataloader, self.runner.world_size
        if not len(loader):
            raise UserError(
                f"{len(loader.dataset)} training images make no batch of {loader.batch_size}"
                f"{f' for each of {processes} processes' if processes > 1 else ''}: lower "
                "train_dataloader.batch_size, or set train_dataloader.drop_last=False."
            )

    def _compile(self) -> None:
        """Compiles the net's parts where mmengine would compile the whole step (``compile=True``).

        A step counts itself and holds the rate, which would be compiled anew at each.
        """
        if vars(self.runner.model).pop("train_step", None) is None:
            return
        options = self.runner.cfg.compile
        for name, part in unwrapped(self.runner.model).named_children():
            if name != "data_preprocessor":
                part.compile(**(options if isinstance(options, dict) else {}))

    def run_epoch(self) -> None:
        """Trains the batches that the epoch under way still lacks."""
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        done = self.iter - self.epoch * len(self.dataloader)
        if done:
            self._skip(done)
        self._count(done)
        shards = getattr(self.runner.model, "shards", None)
        with shards.split() if shards else nullcontext():
            for i, batch in enumerate(self.dataloader, done):
                self.run_iter(i, batch)
        self.runner.call_hook("after_train_epoch")
        self._epoch += 1
        shorten_history(self.runner.message_hub)

    def _count(self, done: int) -> None:
        """Lets the optimiser's wrapper count an epoch's batches; mmengine counts the run's."""
        wrapper = self.runner.optim_wrapper
        wrapper._inner_count, wrapper._max_counts = done, len(self.dataloader)
        wrapper._remainder_counts = len(self.dataloader) % wrapper._accumulative_counts

    def _validate(self) -> None:
        hub = self.runner.message_hub
        if hub.get_info("awaits_validation", False):
            if self.runner.val_loop:
                self.runner.val_loop.run()
            hub.update_info("awaits_validation", False)

    def _skip(self, batches: int) -> None:
        sampler = self.dataloader.sampler
        if not hasattr(sampler, "skip"):
            raise UserError(
                f"the checkpoint is from the middle of an epoch, where {type(sampler).__name__} "
                "cannot start: train with sampler=dict(type='vgg_mm.EpochSampler')."
            )
        sampler.skip(batches * self.dataloader.batch_size)

    def _ended(self) -> bool:
        return any(getattr(each, "ended", False) for each in self.runner.param_schedulers or [])

    def _validates(self) -> bool:
        return self.runner.val_loop is not None and (
            self.epoch >= self.val_begin
            and (self.epoch % self.val_interval == 0 or self.epoch == self.max_epochs)
        )
